"""Every path and file name: on the node, in storage, in the head's state folder. Nobody else spells one out."""

from __future__ import annotations

import re

TOKEN = re.compile(r"[a-z0-9]{6,32}-[a-z0-9]{6,32}", re.ASCII)
"""`<queue>-<random>`: names a batch or an attempt on a node; the first part tells two heads on one node apart."""

OUTPUT = "output"
SAVE = "save"


def is_token(text: str) -> bool:
    """Whether `text` is a name we could have given; what a node says is never used as a path without this."""
    return TOKEN.fullmatch(text) is not None


# --- on the node, below <scratch>/distribute-<uid>/ ---


def blob(sha256: str) -> str:
    """An input, by content."""
    return f"files/{sha256}"


def batch_folder(batch_token: str) -> str:
    """Everything of a batch that its jobs share."""
    return f"batches/{batch_token}"


def slot_folder(batch_token: str, slot: int) -> str:
    """Where a batch was built and its jobs run, one at a time."""
    return f"batches/{batch_token}/slot-{slot}"


def pristine_folder(batch_token: str) -> str:
    """What the build made, as no job has touched it: further slots are copies of it."""
    return f"batches/{batch_token}/pristine"


def attempt_folder(token: str) -> str:
    """The truth about one attempt or build: claim, pid, output, exit record, and what it saved."""
    return f"attempts/{token}"


# --- in storage, below <storage>/<namespace>/<batch>/ ---


def job_output(job: str) -> str:
    """What the job printed, beside what it saved."""
    return f"{job}_output.txt"


def build_output(batch: str, node: str) -> str:
    """What the build printed on one node, beside the job folders."""
    return f"{batch}_build_output-{node}.txt"


JOB_RECORD = "job.json"
BATCH_RECORD = "batch.json"
BATCH_FILE = "batch.yaml"


def part_folder(token: str) -> str:
    """Where an attempt's results gather until they are whole; its name is no legal job name, so it meets none."""
    return f".part-{token}"


def orphan(job: str, token: str) -> str:
    """Where the results of an attempt are kept that the queue did not know."""
    return f"{job}@orphan-{token.partition('-')[2][:12]}"


def aside(job: str, attempt: int) -> str:
    """Where the results of an attempt are kept that is not, or no longer, the job's result."""
    return f"{job}@attempt-{attempt}"
