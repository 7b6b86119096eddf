"""What every change of the queue is made of: updates that say from which state, and the history that goes with them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from distribute_ssh.errors import DeniedError
from distribute_ssh.model.actor import Actor
from distribute_ssh.model.job import AttemptState, BuildState, State
from distribute_ssh.store.rows import DEFINITION, printable

AWAY: Mapping[str, Any] = {"node": None, "exit_code": None, "started_at": None, "finished_at": None}
"""A queued job is on no node and has not ended."""

ANEW: Mapping[str, Any] = {
    **AWAY,
    "request": None,
    "requested_by": None,
    "reason": None,
    "tries": 0,
    "losses": 0,
    "not_before": 0.0,
}
"""What a person queues again starts with a clean slate; only the attempts go on counting."""

_S = TypeVar("_S", State, AttemptState, BuildState)


class Which(NamedTuple):
    """Jobs, as a condition in SQL and its values."""

    where: str
    values: tuple[Any, ...]

    def also(self, condition: str) -> Which:
        """Those of them that fit this as well."""
        return Which(f"{self.where} AND {condition}", self.values)


def numbered(ids: Iterable[int]) -> Which:
    """The jobs with these numbers."""
    return Which("id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),))


class Guarded:
    """One open transaction, as the other modules of the store see it."""

    def __init__(self, connection: sqlite3.Connection, actor: Actor | None = None) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self._actor = actor

    def permit(self, batch_id: int) -> None:
        """Raise DeniedError where whoever acts may not change this batch: asked here, in the transaction that would."""
        if self._actor is None:
            return
        (submitter,) = self.execute("SELECT submitter FROM batches WHERE id = ?", (batch_id,)).fetchone()
        if why := self._actor.why_not_change(submitter):
            raise DeniedError(why)

    def permit_node(self, name: str, fields: Iterable[str]) -> None:
        """Raise DeniedError where whoever acts may not change this of a node."""
        if self._actor and (why := self._actor.why_not_node(name, only_pause=set(fields) == {"request"})):
            raise DeniedError(why)

    def move(self, jobs: Which, to: State, now: float, who: str, reason: str | None, /, **fields: Any) -> int:
        """Bring jobs to a state, each with its line of history; how many. They say `reason` unless `fields` does."""
        self.tell(jobs, to, now, who, reason)
        fields = {"state": to, "reason": printable(reason)} | fields
        return self.count(f"UPDATE jobs SET {_sets(fields)} WHERE {jobs.where}", *fields.values(), *jobs.values)

    def tell(self, jobs: Which, to: State | None, now: float, who: str, reason: str | None) -> None:
        """Write a line of history for each of these jobs, about what is done to them next."""
        self.execute(
            'INSERT INTO history (at, who, batch_id, job_id, job, attempt, "from", "to", reason)'
            f" SELECT ?, ?, batch_id, id, name, attempt, state, ?, ? FROM jobs WHERE {jobs.where}",
            (now, who, to, printable(reason), *jobs.values),
        )

    def tell_batch(self, batch_id: int, now: float, who: str, reason: str) -> None:
        """Write a line of history for a batch as a whole."""
        self.execute(
            "INSERT INTO history (at, who, batch_id, reason) VALUES (?, ?, ?, ?)", (now, who, batch_id, reason)
        )

    def tell_act(
        self, now: float, who: str, what: str, *, node: str | None = None, batch_id: int | None = None
    ) -> None:
        """Write a line of history about what was done to no job and, mostly, to no batch: to a node, to a user."""
        self.execute(
            "INSERT INTO history (at, who, batch_id, node, reason) VALUES (?, ?, ?, ?, ?)",
            (now, who, batch_id, node, printable(what)),
        )

    def define(self, jobs: Iterable[tuple[int, Iterable[Any]]], **fields: Any) -> None:
        """Give jobs, by number, another definition; a successor they had is settled by it."""
        columns = (*DEFINITION, *fields)
        self.executemany(
            f"UPDATE jobs SET {_sets(columns)}, successor = NULL WHERE id = ?",
            ((*definition, *fields.values(), job_id) for job_id, definition in jobs),
        )

    def drop(self, ids: Iterable[int], now: float, who: str) -> None:
        """Take jobs out of their batch; history keeps them, and so do attempts a node still holds something of."""
        jobs = numbered(ids)
        self.tell(jobs, None, now, who, "no longer in the jobs file")
        self.execute(f"DELETE FROM jobs WHERE {jobs.where}", jobs.values)

    def update(self, table: str, row_id: int, states: Collection[str], to: str, fields: Mapping[str, Any]) -> bool:
        """Bring one attempt or build from one of these states to another; False: it is in none of them."""
        values = {"state": to, **{column: printable(value) for column, value in fields.items()}}
        guard = ", ".join("?" * len(states))
        statement = f"UPDATE {table} SET {_sets(values)} WHERE id = ? AND state IN ({guard})"
        return self.count(statement, *values.values(), row_id, *states) == 1

    def count(self, statement: str, *values: Any) -> int:
        """Run a statement; how many rows it changed."""
        return self.execute(statement, values).rowcount


def legal(table: Mapping[_S, frozenset[_S]], frm: _S | Collection[_S], to: _S) -> frozenset[_S]:
    """The states `frm` stands for; AssertionError unless each of them may be followed by `to`."""
    states = frozenset([frm]) if isinstance(frm, str) else frozenset(frm)
    illegal = sorted(state for state in states if to not in table[state])
    if illegal or not states:
        raise AssertionError(f"no {type(to).__name__} goes from {', '.join(illegal) or 'nothing'} to {to}")
    return states


def known(fields: Iterable[str], columns: frozenset[str]) -> None:
    """AssertionError if a field is none of these."""
    if unknown := sorted(set(fields) - columns):
        raise AssertionError(f"not to be set here: {', '.join(unknown)}")


def _sets(columns: Iterable[str]) -> str:
    return ", ".join(f"{column} = ?" for column in columns)
