"""A queue made anew, under the id of the one that was lost."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distribute_ssh.errors import StoreError
from distribute_ssh.model.job import AttemptState, State
from distribute_ssh.plan.recovery import Result, Standing
from distribute_ssh.store.change import Change
from distribute_ssh.store.definition import Definition
from distribute_ssh.store.queue import Queue

_PARTS = ("-journal", "-wal", "-shm", "")


@dataclass(frozen=True, slots=True)
class Restored:
    """A batch as it is to be in the new queue."""

    namespace: str
    batch: str
    submitted_at: float
    finished_at: float | None
    definition: Definition
    standings: Mapping[str, Standing]  # by name of the job
    results: Sequence[Result]

    @property
    def name(self) -> str:
        """`NAMESPACE/BATCH`."""
        return f"{self.namespace}/{self.batch}"


def restore(
    path: Path,
    queue: str,
    batches: Sequence[Restored],
    *,
    who: str,
    now: float,
    patience: float,
    aside: Path | None = None,
) -> None:
    """Make the queue at `path` that has this id and these batches; it is there whole, or not at all.

    Its id is that of the lost one: so what runs on nodes under that name is taken up again where the queue waits for
    it, and else ended there, and what it holds is kept. `patience`: seconds that queued jobs wait for nodes to tell.
    `aside`: what the file is to be called that is there now. Raises StoreError.
    """
    fresh = path.with_name(f"{path.name}.recovering")
    _remove(fresh)
    try:
        with contextlib.closing(Queue.open(fresh)) as made, made.transaction() as change:
            change.execute("UPDATE coordinator SET queue = ?", (queue,))
            for batch in batches:
                try:
                    _check(made, _insert(change, batch, who, now, patience))
                except (sqlite3.DatabaseError, OverflowError, ValueError, TypeError) as error:
                    raise StoreError(
                        f"{batch.name} cannot be brought back: {error}",
                        hint="move its folder out of storage for the time being, and try again",
                    ) from error
        if aside is not None:
            for part in _PARTS:  # a journal of the old one beside the new one would be taken for its own
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + part).rename(aside.with_name(aside.name + part))
        fresh.replace(path)
    finally:
        _remove(fresh)


def _check(queue: Queue, batch_id: int) -> None:
    """Read the rows as the coordinator will: what makes no sense is to be found now."""
    queue.batch_by_id(batch_id)
    queue.jobs(batch_id)


def _insert(change: Change, batch: Restored, who: str, now: float, patience: float) -> int:
    values = {
        **batch.definition.batch,
        "namespace": batch.namespace,
        "batch": batch.batch,
        "submitted_at": batch.submitted_at,
        "finished_at": batch.finished_at,
        "recorded_at": now if batch.finished_at is not None else None,  # what goes on is written down anew
    }
    batch_id = _insert_row(change, "batches", values)
    numbers: dict[str, int] = {}
    for job in batch.definition.jobs:
        at = batch.standings[job["name"]]
        waits = {"not_before": now + patience} if at.state is State.QUEUED else {}
        numbers[job["name"]] = _insert_row(change, "jobs", {**job, **asdict(at), **waits, "batch_id": batch_id})
    # Known, and over: what a node still holds of them lies in storage already, and is wiped there unseen.
    for (name, number), result in {(one.job, one.standing.attempt): one for one in batch.results}.items():
        if name in numbers:
            its = result.standing
            attempt = {
                "token": result.token, "job_id": numbers[name], "batch_id": batch_id, "batch_token": values["token"],
                "number": number, "node": its.node or "", "slot": 0, "state": AttemptState.WIPED,
                "placed_at": its.started_at or now, "started_at": its.started_at, "ended_at": its.finished_at,
            }  # fmt: skip
            _insert_row(change, "attempts", attempt)
    counts = Counter(str(at.state) for at in batch.standings.values())
    said = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    change.tell_batch(batch_id, now, who, f"brought back from storage: {said}")
    return batch_id


def _insert_row(change: Change, table: str, values: Mapping[str, Any]) -> int:
    if alien := [column for column in values if not column.isidentifier()]:
        raise ValueError(f"a column that is none: {alien[0]!r}")
    marks = ", ".join("?" * len(values))
    statement = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks}) RETURNING id"
    return int(change.execute(statement, tuple(values.values())).fetchone()[0])


def _remove(path: Path) -> None:
    for part in _PARTS:
        path.with_name(path.name + part).unlink(missing_ok=True)
