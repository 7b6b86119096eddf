"""What `explain` says: one sentence for the whole, then one for every node or attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from distribute_ssh.model.job import ACTIVE, OUTCOMES, WAITING, Attempt, Batch, Job, State
from distribute_ssh.model.resources import Share
from distribute_ssh.model.units import format_duration, iso
from distribute_ssh.views.text import Column, count, safe, table
from distribute_ssh.views.times import seconds, when

_JOB_KEYS = ("name", "state", "node", "attempt", "exit_code", "reason", "request")
SHOWN = 10  # jobs that failed

_NOBODY = "nothing drives the queue now: `distribute runner`, or `distribute run` with its file; it would be so:"


def batch_data(batch: Mapping[str, Any], reasons: Sequence[Mapping[str, Any]], *, driven: bool) -> dict[str, Any]:
    """Why jobs of a batch (of a status document) wait, and how those ended that are not done.

    `reasons`: code, text and node of each.
    """
    return {
        "batch": f"{batch['namespace']}/{batch['batch']}",
        "driven": driven,
        "counts": batch["counts"],
        "reasons": list(reasons),
        "jobs": [
            {key: job[key] for key in _JOB_KEYS}
            for job in batch["jobs"]
            if job["state"] != State.DONE and (job["reason"] or job["state"] in OUTCOMES)
        ],
    }


def job_data(
    batch: Batch,
    job: Job,
    attempts: Sequence[Attempt],
    reasons: Sequence[Mapping[str, Any]],
    silent: Mapping[str, float],
    *,
    driven: bool,
) -> dict[str, Any]:
    """Why one job waits or failed, with its attempts. `silent`: since when nodes do not answer."""
    since = silent.get(job.node or "")
    return {
        "batch": batch.name,
        "driven": driven,
        "job": {key: getattr(job, key) for key in _JOB_KEYS},
        "unreachable_since": None if since is None or job.state not in ACTIVE else iso(since),
        "reasons": list(reasons) if job.state in WAITING else [],
        "attempts": [
            {
                "number": attempt.number,
                "node": attempt.node,
                "state": attempt.state,
                "exit": attempt.exit,
                "given": asdict(attempt.share) if attempt.share else None,
                "started_at": None if attempt.started_at is None else iso(attempt.started_at),
                "ended_at": None if attempt.ended_at is None else iso(attempt.ended_at),
            }
            for attempt in attempts
        ],
    }


def batch_text(found: Mapping[str, Any], width: int | None = None) -> str:
    """The explanation of a batch, for people."""
    lines = []
    waiting = sum(found["counts"].get(state, 0) for state in WAITING)
    active = sum(found["counts"].get(state, 0) for state in ACTIVE)
    if waiting:
        lines.append(f"{found['batch']}: {count(waiting, 'job')} waiting")
        lines += _waiting(found, width)
    if active:
        lines.append(f"{found['batch']}: {count(active, 'job')} on nodes: distribute status {found['batch']}")
    # Jobs on a node that have a reason wait there: for storage that is full, for processes that would not go. Of those
    # that wait in the queue it is why they did not start on the last node, or what ended their last attempt.
    for states in (WAITING, ACTIVE, OUTCOMES):
        jobs = [job for job in found["jobs"] if job["state"] in states]
        lines += [_line(job) for job in jobs[:SHOWN]]
        if len(jobs) > SHOWN:
            lines.append(f"... and {len(jobs) - SHOWN:,} more: distribute status {found['batch']}")
    return "\n".join(lines or [f"{found['batch']}: all jobs are done"]) + "\n"


def job_text(found: Mapping[str, Any], now: float) -> str:
    """The explanation of a job, for people."""
    job = found["job"]
    lines = [_line(job)]
    if job["request"]:
        lines.append(f"  {job['request']} requested")
    if found["unreachable_since"]:
        since = when(seconds(found["unreachable_since"]), now)
        lines.append(f"  {job['node']} does not answer since {since}; the job may well go on there")
    if job["state"] in WAITING:
        lines += _waiting(found, None)
    for attempt in found["attempts"]:
        lines.append(f"  attempt {attempt['number']} on {attempt['node']}: {_attempt(attempt)}")
    if job["state"] in OUTCOMES and found["attempts"]:
        lines.append(f"  what it printed: distribute logs {found['batch']} {safe(job['name'])}")
    return "\n".join(lines) + "\n"


def _waiting(found: Mapping[str, Any], width: int | None) -> list[str]:
    lines = [] if found["driven"] else [f"  {_NOBODY}"]
    lines += [f"  {safe(reason['text'])}" for reason in found["reasons"] if reason["node"] is None]
    nodes = [[reason["node"], reason["text"]] for reason in found["reasons"] if reason["node"] is not None]
    if nodes:
        text = table([Column("NODE", gives=True), Column("REASON")], nodes, width=width)
        lines += [f"  {line}" for line in text.splitlines()]
    return lines


def _line(job: Mapping[str, Any]) -> str:
    reason = f": {safe(job['reason'])}" if job["reason"] else ""
    return f"{safe(job['name'])}  {job['state']}{_where(job)}{reason}"


def _where(job: Mapping[str, Any]) -> str:
    return f" on {job['node']}" if job["node"] else ""


def _attempt(attempt: Mapping[str, Any]) -> str:
    start, end = seconds(attempt["started_at"]), seconds(attempt["ended_at"])
    words = [attempt["state"] if attempt["exit"] is None else f"exit {attempt['exit']}"]
    if start is not None and end is not None:
        words.append(f"after {format_duration(max(end - start, 0.0))}")
    if given := attempt["given"]:
        words.append(f"with {Share(**given).words}")
    return " ".join(words)
