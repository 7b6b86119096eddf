"""A lost queue made anew: what storage holds of its batches, and what is to become of each.

Storage has a batch's definition and how it went when that was last written down (`batch.json`), and a record of every
attempt that was brought there (`job.json`). What nodes hold beside that is found when they are next connected to: the
new queue has the id of the lost one, so it is the one to end it there (`orphans`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distribute_ssh.errors import NoMatchError, UsageError
from distribute_ssh.model.job import OUTCOMES, State
from distribute_ssh.model.layout import BATCH_FILE, JOB_RECORD, is_token
from distribute_ssh.model.units import parse_iso
from distribute_ssh.plan.recovery import Result, Standing, standing
from distribute_ssh.storage.batches import batch_names, read_record
from distribute_ssh.storage.folder import Storage
from distribute_ssh.storage.publish import read_all
from distribute_ssh.storage.together import each
from distribute_ssh.store.definition import needed, read
from distribute_ssh.store.restoring import Restored

_AT_ONCE = 4  # batches
_TOGETHER = 256  # records of jobs


@dataclass(frozen=True, slots=True)
class Found:
    """What storage holds of a batch. `records`: the `job.json` in each of its folders."""

    namespace: str
    batch: str
    record: Mapping[str, Any]
    source: str
    records: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`NAMESPACE/BATCH`."""
        return f"{self.namespace}/{self.batch}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a new queue would hold. `left`: batches that stay in storage alone, and why."""

    queue: str
    batches: Sequence[Restored]
    left: Mapping[str, str]

    def as_data(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {
            "queue": self.queue,
            "batches": [
                {"name": batch.name, "counts": dict(Counter(str(at.state) for at in batch.standings.values()))}
                for batch in self.batches
            ],
            "left": [{"name": name, "reason": why} for name, why in self.left.items()],
        }


# --- what is there ---


async def collect(storage: Storage) -> list[Found]:
    """Read all records in storage, by name of the batch. Raises StorageError."""
    found: list[Found] = []

    async def look(name: tuple[str, str]) -> None:
        namespace, batch = name
        base = f"{namespace}/{batch}".encode()
        try:
            source = (await read_all(storage, base + b"/" + BATCH_FILE.encode())).decode(errors="replace")
        except OSError:
            source = ""
        record = await read_record(storage, namespace, batch)
        found.append(Found(namespace, batch, record, source, await _records(storage, base)))

    await each(await batch_names(storage), look, _AT_ONCE)
    return sorted(found, key=lambda each: each.name)


async def _records(storage: Storage, base: bytes) -> dict[str, Any]:
    folders = [entry.name for entry in await storage.scan(base) if entry.kind == "d" and entry.name.isascii()]
    paths = {base + b"/" + name + b"/" + JOB_RECORD.encode(): name.decode() for name in folders if name[:1] != b"."}
    found = {}
    for start in range(0, len(paths), _TOGETHER):
        there = await storage.stat(list(paths)[start : start + _TOGETHER])
        parts = {path: (0, entry.size) for path, entry in there.items() if entry.kind == "f"}
        for path, data in (await storage.read_each(parts))[0].items():
            try:
                found[paths[path]] = json.loads(data)
            except (ValueError, RecursionError):
                continue  # none of ours, or cut short by whoever changed it
    return found


# --- what is to become of it ---


def plan(found: Sequence[Found], has: Callable[[str], bool], queue: str | None) -> Plan:
    """Say what a new queue would hold. `has`: whether the content of that hash is in the spool.

    `queue`: the id of the lost queue; None: storage tells. Raises NoMatchError where it tells of none, UsageError where
    it tells of several.
    """
    left: dict[str, str] = {}
    batches = []
    for one in found:
        try:
            batches.append(_restored(one, has))
        except ValueError as error:
            left[one.name] = str(error)
        except (KeyError, TypeError) as error:  # it lay where others may write
            left[one.name] = f"its record is not as we wrote it: {error!r}"
    queue = queue or _the_queue(batches)
    tokens: dict[str, str] = {}
    for batch in batches:
        first = tokens.setdefault(batch.definition.batch["token"], batch.name)
        if first != batch.name:
            left[batch.name] = f"it is a copy of {first}"
        elif batch.definition.queue != queue:
            left[batch.name] = f"it is of another queue, {batch.definition.queue}"
    return Plan(queue, [batch for batch in batches if batch.name not in left], left)


def _the_queue(batches: Sequence[Restored]) -> str:
    last = {batch.definition.queue: batch for batch in sorted(batches, key=lambda batch: batch.submitted_at)}
    if not last:
        raise NoMatchError(
            "storage has no record of a batch that could be brought back",
            hint="see that `storage:` in the inventory is that of the lost queue; or submit anew, a queue makes itself",
        )
    if len(last) > 1:
        told = ", ".join(f"{queue} (last: {batch.name})" for queue, batch in last.items())
        raise UsageError(f"storage has batches of several queues: {told}", hint="say which is lost: --queue ID")
    return next(iter(last))


def _restored(found: Found, has: Callable[[str], bool]) -> Restored:
    if not found.record:
        raise ValueError("it has no batch.json that can be read")
    if "definition" not in found.record:
        raise ValueError("its batch.json does not tell what was asked for")
    definition = read(found.record["definition"], found.source)
    told = {str(row.get("name")): _standing(row) for row in _rows(found.record.get("jobs"))}
    results = [result for folder, record in found.records.items() if (result := _result(folder, record))]
    of_job = defaultdict[str, list[Result]](list)
    for result in results:
        of_job[result.job].append(result)
    files = {sha256: has(sha256) for sha256 in needed(definition)}
    standings = {}
    for job in definition.jobs:
        name = job["name"]
        standings[name] = standing(
            told.get(name, Standing(State.QUEUED)),
            job["input_hash"],
            of_job[name],
            has_files=all(files[sha256] for sha256 in needed(definition, job)),
        )
    finished = _time(found.record.get("finished_at"))
    if any(at.state not in OUTCOMES for at in standings.values()):
        finished = None
    return Restored(
        namespace=found.namespace,
        batch=found.batch,
        submitted_at=_time(found.record.get("submitted_at")) or 0.0,
        finished_at=finished,
        definition=definition,
        standings=standings,
        results=results,
    )


def _rows(told: Any) -> list[Mapping[str, Any]]:
    return [row for row in told if isinstance(row, dict)] if isinstance(told, list) else []


def _result(folder: str, record: Any) -> Result | None:
    """An attempt from its `job.json`; None for what is none of ours, or never was an attempt the queue knew."""
    if not isinstance(record, dict) or not isinstance(record.get("attempt"), int):
        return None
    token, job, made_from = record.get("token"), record.get("job"), record.get("input_hash")
    if not (isinstance(token, str) and is_token(token) and isinstance(job, str)):
        return None
    try:
        at = _standing(record)
    except ValueError:
        return None
    return Result(token, job, at, folder == job, made_from if isinstance(made_from, str) else None)


def _standing(row: Mapping[str, Any]) -> Standing:
    """How far a job was, as `batch.json` and `job.json` say it. Raises ValueError."""
    attempt, exit_code = row.get("attempt"), row.get("exit_code")
    reason, node = row.get("reason"), row.get("node")
    return Standing(
        state=State(str(row.get("state"))),
        attempt=attempt if isinstance(attempt, int) else 0,
        reason=reason if isinstance(reason, str) else None,
        node=node if isinstance(node, str) else None,
        exit_code=exit_code if isinstance(exit_code, int) else None,
        started_at=_time(row.get("started_at")),
        finished_at=_time(row.get("finished_at")),
    )


def _time(told: Any) -> float | None:
    return parse_iso(told) if isinstance(told, str) else None
