"""The verbs that change the queue: each one guarded update, with its line of history in the same transaction.

A method that returns False (or None) changed nothing because somebody was first; that is an answer, not an error. A
passage that the tables of `model.job` do not know is a bug of the caller and raises AssertionError, whoever was first.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from distribute_ssh.errors import NoMatchError
from distribute_ssh.model.job import (
    ACTIVE,
    ATTEMPT_TRANSITIONS,
    BUILD_TRANSITIONS,
    OUTCOMES,
    TRANSITIONS,
    WAITING,
    Attempt,
    AttemptState,
    Batch,
    Build,
    BuildState,
    Request,
    State,
)
from distribute_ssh.model.layout import is_token
from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.plan.recovery import BROUGHT_BACK
from distribute_ssh.store import outbox
from distribute_ssh.store.guarded import ANEW, AWAY, Guarded, Which, known, legal
from distribute_ssh.store.rows import attempt_row, build_row, node_cell, one_of, printable, resources_text, share_text

HALF_LIFE = 7 * 86_400.0
"""Seconds after which what a submitter had counts half."""

JOB_FIELDS = frozenset({"exit_code", "finished_at", "losses", "node", "not_before", "started_at", "tries"})
ATTEMPT_FIELDS = frozenset({"boot_id", "ended_at", "ending", "exit", "started_at"})
BUILD_FIELDS = frozenset({"boot_id", "ended_at", "exit", "reason", "started_at"})
NODE_FIELDS = frozenset(
    {
        "activity", "boot_id", "drained", "drained_until", "entry", "facts", "failures", "last_seen", "lease",
        "probation_until", "request", "unreachable_reason", "unreachable_since",
    }
)  # fmt: skip


def decayed(seconds: float, at: float, now: float) -> float:
    """What is left `now` of node-seconds that were written down at `at`."""
    return float(seconds * 0.5 ** (max(0.0, now - at) / HALF_LIFE))


class Change(Guarded):
    """The verbs of one open transaction. `now` is in seconds since the epoch, `who` a person or `distribute`."""

    # --- jobs ---

    def job(
        self,
        job_id: int,
        frm: State | Collection[State],
        to: State,
        now: float,
        *,
        who: str = "distribute",
        reason: str | None = None,
        **fields: Any,
    ) -> bool:
        """Move a job from one state (or any of several) to another; `reason` replaces what was said before.

        An outcome sets `finished_at` to `now` unless said; going back to the queue forgets node, times and exit code.
        What waited for the end of its attempt happens with it: a kill that was asked for ends a job that came back to
        the queue, and what was submitted in its place (`submit(replace=True)`) is queued instead.
        """
        states = legal(TRANSITIONS, frm, to)
        known(fields, JOB_FIELDS)
        if to in OUTCOMES:
            fields = {"finished_at": now, "request": None, **fields}
        elif to is State.QUEUED:
            fields = {**AWAY, **fields}
        if not self.move(_job(job_id).also(one_of(states)), to, now, who, reason, **fields):
            return False
        if to in OUTCOMES or to is State.QUEUED:
            self._settle(job_id, to, now)
        return True

    def note(self, job_id: int, reason: str | None) -> bool:
        """Say why a job waits where it is; False if that was said already."""
        reason = printable(reason)
        return self.count("UPDATE jobs SET reason = ? WHERE id = ? AND reason IS NOT ?", reason, job_id, reason) == 1

    def request_kill(
        self, batch_id: int, names: Collection[str] | None, who: str, now: float
    ) -> list[tuple[str, State]]:
        """Ask for the end of these jobs of a batch (None: of all); waiting ones end at once.

        Returns the jobs it concerns, in file order, with their state until now; those that have ended are left out.
        Raises NoMatchError if a name is none of the batch.
        """
        jobs = self._named(batch_id, names).also(f"NOT {one_of(OUTCOMES)}")
        rows = self._select("name, state", jobs)
        waiting, active = jobs.also(one_of(WAITING)), jobs.also(one_of(ACTIVE))
        self.move(waiting, State.KILLED, now, who, f"killed by {who}", finished_at=now, requested_by=who)
        self.tell(active, None, now, who, "kill requested")
        # What was submitted in its place is not wanted either; one that shall be dropped still is.
        self.execute(
            "UPDATE jobs SET request = ?, requested_by = ?, successor = CASE WHEN successor = 'null' THEN successor END"
            f" WHERE {active.where}",
            (Request.KILL, who, *active.values),
        )
        return [(name, State(state)) for name, state in rows]

    def hold(self, batch_id: int, names: Collection[str] | None, who: str, now: float) -> list[str]:
        """Hold back these jobs of a batch (None: all) that wait in the queue; returns them in file order.

        Raises NoMatchError if a name is none of the batch.
        """
        return self._move_waiting(batch_id, names, State.QUEUED, State.HELD, who, now)

    def release(self, batch_id: int, names: Collection[str] | None, who: str, now: float) -> list[str]:
        """Let these jobs of a batch (None: all) wait in the queue again that were held; returns them in file order.

        Raises NoMatchError if a name is none of the batch.
        """
        return self._move_waiting(batch_id, names, State.HELD, State.QUEUED, who, now)

    def _move_waiting(
        self, batch_id: int, names: Collection[str] | None, frm: State, to: State, who: str, now: float
    ) -> list[str]:
        jobs = self._named(batch_id, names).also(one_of(legal(TRANSITIONS, frm, to)))
        rows = self._select("name", jobs)
        self.move(jobs, to, now, who, f"held by {who}" if to is State.HELD else None)
        return [name for (name,) in rows]

    def retry(self, batch_id: int, names: Collection[str] | None, who: str, now: float) -> list[str]:
        """Queue these jobs of a batch (None: all) again that ended and are not done; returns them in file order.

        Nodes on which the build failed are tried again too. Raises NoMatchError if a name is none of the batch.
        """
        jobs = self._named(batch_id, names).also(one_of(OUTCOMES - {State.DONE}))
        rows = self._select("name", jobs)
        if rows:
            self.move(jobs, State.QUEUED, now, who, f"queued again by {who}", **ANEW)
            self.reopen(batch_id)
        return [name for (name,) in rows]

    def _named(self, batch_id: int, names: Collection[str] | None) -> Which:
        self.permit(batch_id)  # whoever names jobs means to change them
        if names is None:
            return Which("batch_id = ?", (batch_id,))
        wanted = json.dumps(list(names))
        unknown = self.execute(
            "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE batch_id = ? AND name = value)",
            (wanted, batch_id),
        ).fetchall()
        if unknown:
            raise NoMatchError("the batch has no job called " + ", ".join(name for (name,) in unknown))
        return Which("batch_id = ? AND name IN (SELECT value FROM json_each(?))", (batch_id, wanted))

    def _select(self, columns: str, jobs: Which) -> list[tuple[Any, ...]]:
        return self.execute(f"SELECT {columns} FROM jobs WHERE {jobs.where} ORDER BY position", jobs.values).fetchall()

    def _settle(self, job_id: int, state: State, now: float) -> None:
        """Do what waited for the job's attempt to be over."""
        request, who, successor = self.execute(
            "SELECT request, coalesce(requested_by, 'distribute'), successor FROM jobs WHERE id = ?", (job_id,)
        ).fetchone()
        if successor is None:
            if request == Request.KILL and state is State.QUEUED:
                ended = {"finished_at": now, "request": None}
                self.move(_job(job_id), State.KILLED, now, who, f"killed by {who}", **ended)
        elif (definition := json.loads(successor)) is None:
            self.drop([job_id], now, who)
        else:
            if state is not State.QUEUED:
                self.move(_job(job_id), State.QUEUED, now, who, "submitted again")
            self.define([(job_id, definition)], **ANEW)

    # --- attempts ---

    def place(
        self,
        job_id: int,
        token: str,
        node: str,
        slot: int,
        now: float,
        share: Share | None = None,
        *,
        number: int | None = None,
    ) -> Attempt | None:
        """Give a queued job a slot of a node, or a share. None: the job is not queued any more, or the slot is taken.

        `number`: of the attempt, where it was begun already; left out, it is the job's next.
        Read the job and its batch again inside this transaction before acting on them: since they were read for the
        decision, the batch may have been submitted with other inputs.
        """
        assert is_token(token), token
        placed = self.count(
            "UPDATE jobs SET attempt = coalesce(?, attempt + 1)"
            " WHERE id = ? AND state = 'queued' AND request IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM attempts WHERE node = ? AND slot = ? AND state IN ('placed', 'starting', 'running'))",
            number,
            job_id,
            node,
            slot,
        )
        if not placed:
            return None
        self.move(_job(job_id), State.STAGING, now, "distribute", None, node=node)
        row = self.execute(
            "INSERT INTO attempts"
            " (token, job_id, batch_id, batch_token, number, node, slot, state, placed_at, share, resources)"
            " SELECT ?, jobs.id, batches.id, batches.token, jobs.attempt, ?, ?, ?, ?, ?, jobs.resources"
            " FROM jobs JOIN batches ON batches.id = jobs.batch_id WHERE jobs.id = ?"
            f" RETURNING {attempt_row.columns}",
            (token, node, slot, AttemptState.PLACED, now, share_text(share), job_id),
        ).fetchone()
        return attempt_row(row)

    def attempt(
        self,
        attempt_id: int,
        frm: AttemptState | Collection[AttemptState],
        to: AttemptState,
        now: float,
        **fields: Any,
    ) -> bool:
        """Move an attempt; `started_at` and `ended_at` are `now` unless said."""
        states = legal(ATTEMPT_TRANSITIONS, frm, to)
        known(fields, ATTEMPT_FIELDS)
        if to is AttemptState.RUNNING:
            fields = {"started_at": now, **fields}
        elif to is AttemptState.ENDED:
            fields = {"ended_at": now, **fields}
        return self.update("attempts", attempt_id, states, to, fields)

    def free_brought_back(self) -> int:
        """Let jobs start that waited for nodes to say what they are still at; how many there were."""
        return self.count(
            "UPDATE jobs SET not_before = 0, reason = NULL WHERE state = 'queued' AND not_before > 0 AND reason = ?",
            BROUGHT_BACK,
        )

    def attempt_paused(self, attempt_id: int, seconds: float) -> None:
        """Write down for how long a running attempt was paused in all."""
        self.execute("UPDATE attempts SET paused_seconds = ? WHERE id = ? AND state = 'running'", (seconds, attempt_id))

    def attempt_ending(self, attempt_id: int, ending: State) -> bool:
        """Write down why we end an attempt, before we do; the first reason stays."""
        return self.count("UPDATE attempts SET ending = ? WHERE id = ? AND ending IS NULL", ending, attempt_id) == 1

    def withdraw(self, attempt: Attempt, now: float, *, reason: str | None) -> bool:
        """Undo a placement that is proven not to exist on its node; its job is queued again as if never placed.

        False if the attempt has gone further than `starting`. A job that is elsewhere by now stays as it is.
        """
        if not self.count("DELETE FROM attempts WHERE id = ? AND state IN ('placed', 'starting')", attempt.id):
            return False
        placed = Which("id = ? AND attempt = ?", (attempt.job_id, attempt.number))
        placed = placed.also(one_of({State.STAGING, State.BUILDING}))
        was_placed = self.move(placed, State.QUEUED, now, "distribute", reason, **AWAY)
        # Also of a job that was asked for anew meanwhile: the next attempt takes the number that was never used.
        self.execute(
            "UPDATE jobs SET attempt = attempt - 1 WHERE id = ? AND attempt = ?", (attempt.job_id, attempt.number)
        )
        if was_placed:
            self._settle(attempt.job_id, State.QUEUED, now)
        return True

    # --- builds ---

    def build_start(self, batch_id: int, node: str, token: str, build_hash: str, now: float) -> Build | None:
        """Write down that a batch is about to be built on a node. None: it is, or was, already; failed counts too."""
        assert is_token(token), token
        row = self.execute(
            "INSERT INTO builds (token, batch_id, batch_token, node, build_hash, state, started_at)"
            " SELECT ?, id, token, ?, ?, ?, ? FROM batches WHERE id = ?"
            " ON CONFLICT (node, batch_id) WHERE state NOT IN ('stale', 'wiped') DO NOTHING"
            f" RETURNING {build_row.columns}",
            (token, node, build_hash, BuildState.STARTING, now, batch_id),
        ).fetchone()
        return None if row is None else build_row(row)

    def build(
        self,
        build_id: int,
        frm: BuildState | Collection[BuildState],
        to: BuildState,
        now: float,
        **fields: Any,
    ) -> bool:
        """Move a build; `started_at` and `ended_at` are `now` unless said."""
        states = legal(BUILD_TRANSITIONS, frm, to)
        known(fields, BUILD_FIELDS)
        if to is BuildState.RUNNING:
            fields = {"started_at": now, **fields}
        elif to is BuildState.ENDED:
            fields = {"ended_at": now, **fields}
        return self.update("builds", build_id, states, to, fields)

    def build_logged(self, build_id: int, reason: str | None) -> None:
        """Write down that a build's log is in storage; `reason`: why it failed, where that is better known now."""
        self.execute(
            "UPDATE builds SET log_kept = 1, reason = coalesce(?, reason) WHERE id = ?", (printable(reason), build_id)
        )

    # --- nodes, usage, batches ---

    def node(self, name: str, **fields: Any) -> None:
        """Write down what is known of a node; what is not said stays."""
        known(fields, NODE_FIELDS)
        self.permit_node(name, fields)
        values = {column: node_cell(column, value) for column, value in fields.items()}
        columns = ["name", *values]
        new = ", ".join(f"{column} = excluded.{column}" for column in columns)
        self.execute(
            f"INSERT INTO nodes ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            f" ON CONFLICT (name) DO UPDATE SET {new}",
            (name, *values.values()),
        )

    def add_usage(self, submitter: str, seconds: float, now: float) -> None:
        """Count node-seconds a submitter had."""
        row = self.execute("SELECT seconds, at FROM usage WHERE submitter = ?", (submitter,)).fetchone()
        left = 0.0 if row is None else decayed(row[0], row[1], now)
        self.execute("INSERT OR REPLACE INTO usage VALUES (?, ?, ?)", (submitter, left + seconds, now))

    def finish_batch_if_ended(self, batch_id: int, now: float) -> bool:
        """Close a batch that has no waiting and no active job left; True for whoever does it, once.

        What is to be told of its end goes into the outbox with it: once for each end, whoever is killed when.
        """
        finished = self.count(
            "UPDATE batches SET finished_at = ?, recorded_at = NULL WHERE id = ? AND finished_at IS NULL AND NOT EXISTS"
            f" (SELECT 1 FROM tally WHERE batch_id = batches.id AND count > 0 AND NOT {one_of(OUTCOMES)})",
            now,
            batch_id,
        )
        if finished:
            outbox.put(self, batch_id, now)
        return finished == 1

    def reopen(self, batch_id: int, *, rebuild: bool = False) -> None:
        """Let a batch work again: builds that failed are given up, and with `rebuild` all of them."""
        self.execute("UPDATE batches SET finished_at = NULL, recorded_at = NULL WHERE id = ?", (batch_id,))
        for state, following in BUILD_TRANSITIONS.items():
            if following and state is not BuildState.STALE and (rebuild or state is BuildState.FAILED):
                # Stale: its node is still to be rid of it. Where no such passage is known, nothing is left there.
                to = BuildState.STALE if BuildState.STALE in following else BuildState.WIPED
                self.execute("UPDATE builds SET state = ? WHERE batch_id = ? AND state = ?", (to, batch_id, state))

    def fail_queued(self, batch_id: int, resources: Resources | None, reason: str, now: float) -> int:
        """End the queued jobs of a batch that ask for this as failed: no node can run them any more; how many."""
        queued = Which("batch_id = ? AND resources IS ? AND state = 'queued'", (batch_id, resources_text(resources)))
        return self.move(queued, State.FAILED, now, "distribute", reason, finished_at=now, request=None)

    def recorded(self, batch: Batch, now: float) -> bool:
        """Write down that the record in storage says what `batch` says; False if the batch went on meanwhile."""
        written = self.count(
            "UPDATE batches SET recorded_at = ?"
            # Not set aside since, nor submitted again, either.
            " WHERE id = ? AND recorded_at IS NULL AND finished_at IS ? AND batch = ? AND submitted_at = ?",
            now,
            batch.id,
            batch.finished_at,
            batch.batch,
            batch.submitted_at,
        )
        return written == 1

    def remove_results(self, batch_id: int, who: str, now: float) -> bool:
        """Write down that the results of a batch are about to be removed: submitted again, all of it runs anew.

        False, with nothing written, if something of it still works or is on its way to storage.
        """
        self.permit(batch_id)
        # No input has an empty hash: nothing that is submitted can be the same as what was.
        still = self.count(
            "UPDATE jobs SET input_hash = '' WHERE batch_id = ?1 AND EXISTS (SELECT 1 FROM batches WHERE id = ?1"
            " AND finished_at IS NOT NULL AND recorded_at IS NOT NULL AND moved_from IS NULL) AND NOT EXISTS"
            " (SELECT 1 FROM builds WHERE batch_id = ?1 AND NOT log_kept AND state NOT IN ('stale', 'wiped'))",
            batch_id,
        )
        if still:
            self.tell_batch(batch_id, now, who, "results removed from storage")
        return still > 0

    def moved(self, batch_id: int) -> None:
        """Write down that the batch's folder in storage has its new name."""
        self.execute("UPDATE batches SET moved_from = NULL WHERE id = ?", (batch_id,))


def _job(job_id: int) -> Which:
    return Which("id = ?", (job_id,))
