"""What happened in the queue, and how much each person and each node had of it: reports that look back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from distribute_ssh.model.job import OUTCOMES, State

Select = Callable[..., sqlite3.Cursor]
_ENDED = tuple(sorted(OUTCOMES))


@dataclass(frozen=True, slots=True)
class Scope:
    """What a look back is about; None: no limit. `user`: whose batch it is, or who did it. `since`: Unix time."""

    batch_id: int | None = None
    job_id: int | None = None
    user: str | None = None
    node: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: to a job, or, without one, to a batch."""

    at: float
    batch: str | None  # NAMESPACE/BATCH, as it is called now; None: it was of none that the queue knows
    job: str | None
    attempt: int | None
    node: str | None  # of that attempt; or what was done was done to it
    before: State | None
    after: State | None
    who: str
    reason: str | None


@dataclass(slots=True)
class Share:
    """What one person or one node had. `outcomes`: how many jobs ended so."""

    name: str
    node_seconds: float = 0.0  # of attempts that ran, pauses not counted; those that still run count until now
    attempts: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)


def events(select: Select, scope: Scope, limit: int) -> list[Event]:
    """The last `limit` things that happened, oldest of them first."""
    where, values = _where(
        ("history.batch_id = ?", scope.batch_id),
        ("history.job_id = ?", scope.job_id),
        ("(batches.submitter = ?1 OR history.who = ?1)", scope.user),
        ("coalesce(attempts.node, history.node) = ? COLLATE NOCASE", scope.node),
        ("history.at >= ?", scope.since),
    )
    rows = select(
        "SELECT history.at, namespace || '/' || batch, job, attempt,"
        ' coalesce(attempts.node, history.node), "from", "to", who, history.reason'
        " FROM history LEFT JOIN batches ON batches.id = history.batch_id"
        " LEFT JOIN attempts ON attempts.job_id = history.job_id AND attempts.number = history.attempt"
        f"{where} ORDER BY history.id DESC LIMIT {limit:d}",
        values,
    ).fetchall()
    return [
        Event(at, batch, job, attempt, node, before and State(before), after and State(after), who, reason)
        for at, batch, job, attempt, node, before, after, who, reason in reversed(rows)
    ]


def people(select: Select, scope: Scope, now: float) -> list[Share]:
    """What each submitter had, by name."""
    return _shares(select, "batches.submitter", "batches.submitter", scope, now)


def nodes(select: Select, scope: Scope, now: float) -> list[Share]:
    """What each node gave, by name. A job counts at the node it ended on."""
    return _shares(select, "attempts.node", "jobs.node", scope, now)


def _shares(select: Select, of_attempt: str, of_job: str, scope: Scope, now: float) -> list[Share]:
    found: dict[str, Share] = {}
    for name, count, seconds in _usage(select, of_attempt, scope, now):
        found.setdefault(name, Share(name)).attempts += count
        found[name].node_seconds += round(seconds or 0.0, 3)
    where, values = _where(
        ("batches.id = ?", scope.batch_id),
        ("jobs.id = ?", scope.job_id),
        ("batches.submitter = ?", scope.user),
        ("jobs.node = ? COLLATE NOCASE", scope.node),
        ("jobs.finished_at >= ?", scope.since),
    )
    ended = f"{where} {'AND' if where else 'WHERE'} jobs.state IN ({', '.join('?' * len(_ENDED))})"
    rows = select(
        f"SELECT {of_job}, jobs.state, count(*) FROM jobs JOIN batches ON batches.id = jobs.batch_id{ended}"
        f" AND {of_job} IS NOT NULL GROUP BY 1, 2",
        (*values, *_ENDED),
    )
    for name, state, count in rows:
        found.setdefault(name, Share(name)).outcomes[state] = count
    return [found[name] for name in sorted(found)]


def _usage(select: Select, of_attempt: str, scope: Scope, now: float) -> list[tuple[str, int, float | None]]:
    where, values = _where(
        ("attempts.batch_id = ?", scope.batch_id),
        ("attempts.job_id = ?", scope.job_id),
        ("batches.submitter = ?", scope.user),
        ("attempts.node = ? COLLATE NOCASE", scope.node),
    )
    since = 0.0 if scope.since is None else scope.since
    # Of an attempt that reaches over the limit, the part behind it counts, and as much of its pauses. One that was
    # given up has no end that anybody saw, and counts as an attempt only.
    rows = select(
        "SELECT name, count(*), sum(max(0.0, ended - max(started, ?1)) * (1 - min(1.0, paused / max(ended - started,"
        " 0.001)))) FROM (SELECT "
        f"{of_attempt} AS name, started_at AS started, paused_seconds AS paused,"
        " coalesce(ended_at, CASE WHEN attempts.state IN ('starting', 'running') THEN ?2 END) AS ended,"
        " coalesce(ended_at, ?2) AS last, batch_id, attempts.state AS state"
        f" FROM attempts JOIN batches ON batches.id = attempts.batch_id{_shifted(where)}) WHERE last >= ?1 GROUP BY 1",
        (since, now, *values),
    )
    return rows.fetchall()


def _where(*conditions: tuple[str, object | None]) -> tuple[str, list[object]]:
    """The conditions that have a value, numbered as SQLite wants them."""
    found: list[str] = []
    values: list[object] = []
    for text, value in conditions:
        if value is not None:
            values.append(value)
            found.append(text.replace("?1", "?").replace("?", f"?{len(values)}"))
    return (" WHERE " + " AND ".join(found) if found else ""), values


def _shifted(where: str) -> str:
    """The same conditions behind two values that come first."""
    for number in range(9, 0, -1):
        where = where.replace(f"?{number}", f"?{number + 2}")
    return where
