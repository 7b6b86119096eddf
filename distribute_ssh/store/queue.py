"""The queue: what was asked and how far it is, in one SQLite file that several processes share.

Reading is here, each answer consistent in itself; writing goes through `Queue.transaction` and its `Change`. A queue
is used from one thread at a time (the coordinator gives it a worker thread of its own), and nobody forks while it is
open: the child would share SQLite's locks.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distribute_ssh.errors import BusyError, StoreError
from distribute_ssh.model.actor import Actor
from distribute_ssh.model.job import ACTIVE, WAITING, Attempt, Batch, Build, Job
from distribute_ssh.model.resources import Resources
from distribute_ssh.store import ledger, outbox, reports, schema
from distribute_ssh.store.ballast import Ballast
from distribute_ssh.store.change import Change, decayed
from distribute_ssh.store.definition import define
from distribute_ssh.store.rows import (
    DEFINITION,
    HistoryRow,
    NodeRow,
    Reader,
    attempt_row,
    batch_row,
    build_row,
    history_row,
    job_row,
    node_row,
    one_of,
    resources_row,
    resources_text,
)

Noun = TypeVar("Noun")


@dataclass(frozen=True, slots=True)
class WorkRow:
    """The waiting jobs of one batch that ask for the same, counted."""

    batch: Batch
    resources: Resources | None  # None: a whole slot
    ready: int  # queued, and may start now
    later: int  # queued, and to be tried again after a pause
    next_at: float | None  # when the first of `later` may start
    held: int
    active: int  # that have an attempt on a node


@dataclass(frozen=True, slots=True)
class Move:
    """A batch whose folder in storage still has an old name, because `--fresh` gave that name to a new one."""

    batch_id: int
    namespace: str
    old: str
    new: str


class Queue:
    """An open queue. Every method raises StoreError where the database cannot be used."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._epoch: int | None = None
        self._ballast = Ballast(path)
        self._light = False  # the ballast is not there and is to be loaded when there is room
        self.actor: Actor | None = None  # for whom changes are made, where that is not the owner of the queue
        with self._reading() as select:
            self.id: str = select("SELECT queue FROM coordinator").fetchone()[0]

    @classmethod
    def open(cls, path: Path, *, check: bool = False) -> Queue:
        """Open the queue at `path`; made if missing, migrated if old. `check` looks for damage first (coordinator)."""
        connection = schema.open_database(path, check=check)
        try:
            return cls(connection, path)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Let go of the database; an open transaction is rolled back."""
        self._connection.close()

    def new_token(self) -> str:
        """A name nobody had before, for a batch, an attempt or a build on a node: `<queue>-<random>`."""
        return f"{self.id}-{os.urandom(8).hex()}"

    def data_version(self) -> int:
        """A number that is another one after another process wrote."""
        with self._reading() as select:
            return int(select("PRAGMA data_version").fetchone()[0])

    # --- writing ---

    def take_epoch(self, host: str, boot_id: str, pid: int, starttime: int, now: float) -> None:
        """Become the one that drives this queue: whoever did before gets BusyError at its next transaction."""
        self._epoch = None
        with self.transaction():
            (epoch,) = self._connection.execute(
                "UPDATE coordinator SET epoch = epoch + 1, host = ?, boot_id = ?, pid = ?, starttime = ?, since = ?"
                " RETURNING epoch",
                (host, boot_id, pid, starttime, now),
            ).fetchone()
        self._epoch = epoch
        self._light = not self._ballast.load()

    @contextmanager
    def transaction(self) -> Iterator[Change]:
        """All of the block's changes, durable once the block is left; or, after any error, none of them.

        Raises BusyError if another coordinator took over since `take_epoch`; a queue that never took an epoch (that of
        a command) is not asked. Reading inside sees the block's own changes. Never wait inside for anything remote.
        """
        try:
            with schema.plain_errors(self._path):
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    self._check_epoch()
                    yield Change(self._connection, self.actor)
                    self._connection.execute("COMMIT")
                except BaseException:
                    self._roll_back()
                    raise
        except StoreError as error:
            # Only whoever drives the queue may spend the ballast: one big submission would eat it up at once.
            if self._epoch is not None and schema.is_full(error):
                self._ballast.drop()
                self._light = True
            raise
        if self._light:
            self._light = not self._ballast.load()

    def _check_epoch(self) -> None:
        if self._epoch is None:
            return
        epoch, host, pid = self._connection.execute("SELECT epoch, host, pid FROM coordinator").fetchone()
        if epoch != self._epoch:
            raise BusyError(f"another coordinator drives this queue now: process {pid} on {host}")

    # --- reading: batches and jobs ---

    def batch(self, name: str) -> Batch | None:
        """The batch called `NAMESPACE/BATCH`, without regard to case."""
        namespace, _, batch = name.partition("/")
        return self._one(batch_row, "FROM batches WHERE namespace = ? AND batch = ?", namespace, batch)

    def batch_by_id(self, batch_id: int) -> Batch | None:
        """The batch with this number."""
        return self._one(batch_row, "FROM batches WHERE id = ?", batch_id)

    def batches(self, live_only: bool = False) -> list[Batch]:
        """All batches, oldest first; or those that are not finished, or whose record in storage is due."""
        where = "WHERE finished_at IS NULL OR recorded_at IS NULL" if live_only else ""
        return self._all(batch_row, f"FROM batches {where} ORDER BY submitted_at, id")

    def source(self, batch_id: int) -> str:
        """The jobs file of a batch, as it was submitted."""
        with self._reading() as select:
            return str(select("SELECT source FROM batches WHERE id = ?", (batch_id,)).fetchone()[0])

    def moves(self) -> list[Move]:
        """Folders in storage that wait for their new name. To be done in this order, before anything is published."""
        with self._reading() as select:
            rows = select(
                "SELECT id, namespace, moved_from, batch FROM batches WHERE moved_from IS NOT NULL ORDER BY id"
            )
            return [Move(*row) for row in rows]

    def job(self, batch_id: int, name: str) -> Job | None:
        """The job of that name, without regard to case."""
        return self._one(job_row, "FROM jobs WHERE batch_id = ? AND name = ?", batch_id, name)

    def job_by_id(self, job_id: int) -> Job | None:
        """The job with this number; None also when it was dropped from its batch."""
        return self._one(job_row, "FROM jobs WHERE id = ?", job_id)

    def jobs_by_id(self, ids: Iterable[int]) -> list[Job]:
        """The jobs with these numbers, by number; those that are no more are left out."""
        return self._all(
            job_row, "FROM jobs WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id", json.dumps(list(ids))
        )

    def jobs(self, batch_id: int) -> list[Job]:
        """All jobs of a batch, in file order."""
        return self._all(job_row, "FROM jobs WHERE batch_id = ? ORDER BY position, id", batch_id)

    def ready_jobs(self, batch_id: int, resources: Resources | None, limit: int, now: float) -> list[Job]:
        """The first `limit` jobs of a batch that ask for this and may start now, in file order; costs by `limit`."""
        return self._all(
            job_row,
            "FROM jobs WHERE batch_id = ? AND resources IS ? AND state = 'queued' AND request IS NULL"
            " AND not_before <= ? ORDER BY position LIMIT ?",
            batch_id,
            resources_text(resources),
            now,
            limit,
        )

    def work(self, now: float) -> list[WorkRow]:
        """Waiting jobs by batch and by what they ask for, oldest batch first; costs by their number, not by jobs."""
        later = (
            "FROM jobs WHERE batch_id = asked.id AND resources IS asked.resources AND state = 'queued'"
            " AND not_before > 0 AND not_before > ?"
        )
        with self._reading() as select:
            rows = select(
                f"SELECT {batch_row.columns}, resources, queued, held, active, (SELECT count(*) {later}),"
                f" (SELECT min(not_before) {later}) FROM (SELECT batches.*, nullif(tally.resources, '') AS resources,"
                " sum(count * (state = 'queued')) AS queued, sum(count * (state = 'held')) AS held,"
                f" sum(count * ({one_of(ACTIVE)})) AS active FROM batches JOIN tally ON batch_id = batches.id"
                f" AND {one_of(WAITING | ACTIVE)} AND count > 0 WHERE finished_at IS NULL"
                " GROUP BY batches.id, tally.resources) AS asked"
                " WHERE queued + held > 0 ORDER BY submitted_at, id, resources",
                (now, now),
            ).fetchall()
        return [
            WorkRow(batch_row(row[:-6]), resources_row(resources), queued - later, later, next_at, held, active)
            for row in rows
            for resources, queued, held, active, later, next_at in [row[-6:]]
        ]

    def shared_batches(self) -> frozenset[int]:
        """Batches of which some job ever asked for resources, and so may share a node."""
        with self._reading() as select:
            return frozenset(
                number for (number,) in select("SELECT DISTINCT batch_id FROM tally WHERE resources <> ''")
            )

    def gpu_batches(self) -> frozenset[int]:
        """Batches that ask for `gpu` and have something on a node."""
        with self._reading() as select:
            rows = select(
                "SELECT id FROM batches WHERE capabilities LIKE '%\"gpu\"%'"
                " AND id IN (SELECT batch_id FROM attempts WHERE state <> 'wiped')"
            )
            return frozenset(number for (number,) in rows)

    def needed_of(self, submitter: str) -> dict[str, int]:
        """Hashes and sizes of the inputs of a submitter's batches of which not every job is done."""
        batches = (
            "SELECT id FROM batches WHERE submitter = ? AND id IN"
            " (SELECT batch_id FROM tally WHERE state <> 'done' AND count > 0)"
        )
        with self._reading() as select:
            rows = select(
                "SELECT DISTINCT json_extract(one.value, '$[1]'), json_extract(one.value, '$[2]') FROM ("
                f" SELECT script AS listed FROM batches WHERE id IN ({batches})"
                f" UNION ALL SELECT init FROM batches WHERE id IN ({batches})"
                f" UNION SELECT script FROM jobs WHERE batch_id IN ({batches})"
                f" UNION ALL SELECT inputs FROM jobs WHERE batch_id IN ({batches})"
                ") AS texts, json_each(texts.listed) AS one",
                (submitter,) * 4,
            )
            return {str(sha256): int(size) for sha256, size in rows}

    def served(self) -> dict[tuple[int, Resources | None], float]:
        """When a job of a batch that asked for this last got a place, of those that wait; never: left out."""
        with self._reading() as select:
            rows = select(
                "SELECT id, resources, (SELECT placed_at FROM attempts WHERE batch_id = asked.id"
                " AND resources IS asked.resources ORDER BY id DESC LIMIT 1) FROM (SELECT DISTINCT batches.id,"
                " nullif(tally.resources, '') AS resources FROM batches JOIN tally ON batch_id = batches.id"
                f" AND {one_of(WAITING)} AND count > 0 WHERE finished_at IS NULL) AS asked"
            ).fetchall()
        return {(batch_id, resources_row(asked)): at for batch_id, asked, at in rows if at is not None}

    def needed_contents(self) -> set[str]:
        """Hashes of all inputs that some job may still need: those of batches of which not every job is done."""
        batches = "SELECT batch_id FROM tally WHERE state <> 'done' AND count > 0"
        script, inputs = (f"'$[{DEFINITION.index(column)}]'" for column in ("script", "inputs"))
        with self._reading() as select:
            rows = select(
                "SELECT DISTINCT json_extract(one.value, '$[1]') FROM ("
                f" SELECT script AS listed FROM batches WHERE id IN ({batches})"
                f" UNION ALL SELECT init FROM batches WHERE id IN ({batches})"
                f" UNION SELECT script FROM jobs WHERE batch_id IN ({batches})"
                f" UNION ALL SELECT inputs FROM jobs WHERE batch_id IN ({batches})"
                # What waits for an attempt to be killed was sent already, and will not be sent again.
                f" UNION ALL SELECT json_extract(successor, {script}) FROM jobs WHERE successor IS NOT NULL"
                f" UNION ALL SELECT json_extract(successor, {inputs}) FROM jobs WHERE successor IS NOT NULL"
                ") AS texts, json_each(texts.listed) AS one"
            )
            return {sha256 for (sha256,) in rows}

    def active_jobs(self) -> list[Job]:
        """Jobs that have an attempt on a node."""
        # Ordered as its index is, here and below: asked for the order of ids, SQLite walks the whole table instead.
        return self._all(job_row, f"FROM jobs WHERE {one_of(ACTIVE)} ORDER BY batch_id, id")

    # --- reading: attempts, builds, nodes ---

    def attempts(self, job_id: int) -> list[Attempt]:
        """All attempts of a job, in order; also of one that was dropped from its batch."""
        return self._all(attempt_row, "FROM attempts WHERE job_id = ? ORDER BY number", job_id)

    def was_known(self, token: str) -> bool:
        """Whether there ever was an attempt or a build of that name."""
        query = "SELECT 1 FROM attempts WHERE token = ? UNION ALL SELECT 1 FROM builds WHERE token = ?"
        return self._connection.execute(query, (token, token)).fetchone() is not None

    def live_attempts(self, node: str | None = None) -> list[Attempt]:
        """Attempts of which a node may still hold something; their job may be gone from its batch."""
        where = "state <> 'wiped'" + ("" if node is None else " AND node = ?")
        return self._all(
            attempt_row, f"FROM attempts WHERE {where} ORDER BY node, id", *([] if node is None else [node])
        )

    def builds(self, batch_id: int) -> list[Build]:
        """All builds of a batch, oldest first."""
        return self._all(build_row, "FROM builds WHERE batch_id = ? ORDER BY id", batch_id)

    def live_builds(self, node: str | None = None) -> list[Build]:
        """Builds of which a node may still hold something."""
        where = "state <> 'wiped'" + ("" if node is None else " AND node = ?")
        return self._all(build_row, f"FROM builds WHERE {where} ORDER BY node, id", *([] if node is None else [node]))

    def nodes(self) -> dict[str, NodeRow]:
        """What is known of every node that was ever written down, by name."""
        return {row.name: row for row in self._all(node_row, "FROM nodes ORDER BY name")}

    # --- reading: reports ---

    def usage(self, now: float) -> dict[str, float]:
        """Node-seconds each submitter had lately, halved every seven days."""
        with self._reading() as select:
            rows = select("SELECT submitter, seconds, at FROM usage").fetchall()
        return {submitter: decayed(seconds, at, now) for submitter, seconds, at in rows}

    def history(self, batch_id: int | None = None, job_id: int | None = None, limit: int = 100) -> list[HistoryRow]:
        """The last `limit` things that happened, to one batch or job if said; oldest of them first."""
        wanted = {"batch_id": batch_id, "job_id": job_id}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = f"WHERE {' AND '.join(f'{column} = ?' for column in given)}" if given else ""
        rows = self._all(history_row, f"FROM history {where} ORDER BY id DESC LIMIT ?", *given.values(), limit)
        return rows[::-1]

    def events(self, scope: ledger.Scope, limit: int) -> list[ledger.Event]:
        """The last `limit` things that happened in a scope, oldest of them first."""
        with self._reading() as select:
            return ledger.events(select, scope, limit)

    def totals(self, scope: ledger.Scope, now: float) -> tuple[list[ledger.Share], list[ledger.Share]]:
        """What each person had in a scope, and what each node gave."""
        with self._reading() as select:
            return ledger.people(select, scope, now), ledger.nodes(select, scope, now)

    def messages(self, limit: int) -> list[outbox.Message]:
        """The last `limit` messages about batches that ended, oldest of them first."""
        with self._reading() as select:
            return outbox.latest(select, limit)

    def due_messages(self, now: float) -> list[outbox.Message]:
        """Messages that may be tried now, oldest first."""
        with self._reading() as select:
            return outbox.due(select, now)

    def given_up(self, since: float) -> int:
        """How many messages were given up since then."""
        with self._reading() as select:
            return outbox.given_up(select, since)

    def status(self, name: str | None = None) -> dict[str, Any]:
        """All batches folded, or the one called `NAMESPACE/BATCH` with its jobs: the document of `status --json`.

        Raises NoMatchError if there is no batch of that name.
        """
        with self._reading() as select:
            return reports.status(select, name)

    def record(self, batch: Batch) -> tuple[dict[str, Any], str, dict[str, Any]]:
        """What storage is to tell of a batch, as of one moment: its entry in `status`, jobs file and definition."""
        with self._reading() as select:
            return reports.status(select, batch.name)["batches"][0], self.source(batch.id), define(select, batch.id)

    @contextmanager
    def _reading(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """`execute`, with all answers from one state of the database; inside a transaction, from its own."""
        with schema.plain_errors(self._path):
            if self._connection.in_transaction:
                yield self._connection.execute
                return
            self._connection.execute("BEGIN")
            try:
                yield self._connection.execute
            finally:
                self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # a full disk or a disk error may have done it already
            self._connection.execute("ROLLBACK")

    def _all(self, reader: Reader[Noun], rest: str, *values: object) -> list[Noun]:
        with self._reading() as select:
            return [reader(row) for row in select(f"SELECT {reader.columns} {rest}", values)]

    def _one(self, reader: Reader[Noun], rest: str, *values: object) -> Noun | None:
        found = self._all(reader, rest, *values)
        return found[0] if found else None
