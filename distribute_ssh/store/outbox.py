"""The outbox: what is told of batches that ended, and of storage, until it is sent or given up.

A batch's end is put into it by the transaction that ends it.

A message begins without a recipient: whom it concerns besides, the head's config file says, which the queue does not
read. `address` makes one message of it for each recipient, in one transaction. Every try is written down before it is
made, so that pauses grow also where whoever tries is killed each time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distribute_ssh.model.job import State
from distribute_ssh.model.units import iso
from distribute_ssh.store.guarded import Guarded
from distribute_ssh.store.rows import Reader, one_of, printable

Select = Callable[..., sqlite3.Cursor]

SHOWN = 5
"""Failed jobs, and builds, that a message tells of by name."""

GIVE_UP = 86_400.0
"""Seconds after the first try behind which a try is the last one."""

WARN_AGAIN = 86_400.0
"""Seconds after which it is told again that storage runs low."""

KEPT = 30 * 86_400.0
"""Seconds for which it is remembered what was sent, and what was given up."""

_BROKEN = (State.FAILED, State.TIMEOUT, State.LOST)


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one recipient; None: it is not addressed yet."""

    id: int
    key: str  # random: names it to who takes it
    at: float  # when the batch ended
    notice: Mapping[str, Any]  # what is to be told; `views.notice` has the words
    recipient: str | None  # a Matrix user id, or the name of a channel
    state: str  # waiting, sent, or given up
    tries: int
    since: float | None  # of the first try
    next_at: float
    trouble: str | None  # what came of the last try
    ended_at: float | None  # when it was sent or given up


_message = Reader(Message, {"notice": json.loads}, {})


def put(change: Guarded, batch_id: int, now: float) -> None:
    """Write down that a batch has ended, and how; to be called in the transaction that ends it."""
    notice = json.dumps(_notice(change.execute, batch_id, now))
    change.execute("INSERT INTO outbox (at, notice, next_at) VALUES (?, ?, ?)", (now, notice, now))


def warn_of_storage(change: Guarded, place: str, free: int, below: int, recipients: Iterable[str], now: float) -> None:
    """Write down that storage runs low, for each recipient; at most once a day."""
    told = change.execute("SELECT max(at) FROM outbox WHERE notice ->> 'storage' IS NOT NULL").fetchone()[0]
    if told is not None and now - told < WARN_AGAIN:
        return
    notice = json.dumps({"batch": "(storage)", "storage": place, "free": free, "below": below})
    for recipient in recipients:
        change.execute(
            "INSERT INTO outbox (at, notice, recipient, next_at) VALUES (?, ?, ?, ?)", (now, notice, recipient, now)
        )


def _notice(select: Select, batch_id: int, now: float) -> dict[str, Any]:
    namespace, batch, submitter, submitted_at, matrix, notify = select(
        "SELECT namespace, batch, submitter, submitted_at, matrix, notify FROM batches WHERE id = ?", (batch_id,)
    ).fetchone()
    rows = select("SELECT state, sum(count) FROM tally WHERE batch_id = ? AND count > 0 GROUP BY state", (batch_id,))
    counts: dict[str, int] = dict(rows.fetchall())
    failed: list[tuple[Any, ...]] = []
    unbuilt: list[tuple[Any, ...]] = []
    killers: list[tuple[Any, ...]] = []
    # Asked of the tally first: a hundred thousand jobs that are all done are not looked through for others.
    if counts.keys() & set(_BROKEN):
        failed = select(
            f"SELECT name, state, node, reason FROM jobs WHERE batch_id = ? AND {one_of(_BROKEN)} AND node IS NOT NULL"
            " ORDER BY position LIMIT ?",
            (batch_id, SHOWN),
        ).fetchall()
        # What failed without a node could not be built anywhere: the builds say more than a line for each job would.
        unbuilt = select(
            "SELECT node, reason FROM builds WHERE batch_id = ?1 AND state = 'failed' AND EXISTS (SELECT 1 FROM jobs"
            f" WHERE batch_id = ?1 AND {one_of((State.FAILED,))} AND node IS NULL) ORDER BY id LIMIT ?2",
            (batch_id, SHOWN),
        ).fetchall()
    if State.KILLED in counts:
        killers = select(
            f"SELECT DISTINCT requested_by FROM jobs WHERE batch_id = ? AND {one_of((State.KILLED,))}"
            " AND requested_by IS NOT NULL ORDER BY 1",
            (batch_id,),
        ).fetchall()
    return {
        "batch": f"{namespace}/{batch}",
        "submitter": submitter,
        # Of a queue that was brought back, this came from a file in storage.
        "to": [each for each in (matrix, *json.loads(notify)) if each and isinstance(each, str)],
        "submitted_at": iso(submitted_at),
        "finished_at": iso(now),
        "counts": counts,
        "failed": [dict(zip(("name", "state", "node", "reason"), row, strict=True)) for row in failed],
        "unbuilt": [dict(zip(("node", "reason"), row, strict=True)) for row in unbuilt],
        "killed_by": [who for (who,) in killers],
    }


def address(change: Guarded, message: Message, recipients: Iterable[str], now: float) -> None:
    """Make one message for each recipient of one that has none; what is old is forgotten by the way."""
    if change.count("DELETE FROM outbox WHERE id = ? AND recipient IS NULL", message.id):
        notice = json.dumps(dict(message.notice))
        change.executemany(
            "INSERT INTO outbox (at, notice, recipient, next_at) VALUES (?, ?, ?, ?)",
            ((message.at, notice, recipient, now) for recipient in dict.fromkeys(recipients)),
        )
    change.execute("DELETE FROM outbox WHERE ended_at < ?", (now - KEPT,))


def begin(change: Guarded, message: Message, now: float, next_at: float) -> None:
    """Write down a try that is about to be made; long after the first one, it is the last."""
    last = message.since is not None and now - message.since >= GIVE_UP
    change.execute(
        "UPDATE outbox SET tries = tries + 1, since = coalesce(since, ?1), next_at = ?2, trouble = ?3,"
        " state = CASE WHEN ?4 THEN 'given up' ELSE state END, ended_at = CASE WHEN ?4 THEN ?1 END WHERE id = ?5",
        (now, next_at, "no answer came while we waited", last, message.id),
    )


def sent(change: Guarded, message_id: int, now: float) -> None:
    """Write down that a message was taken."""
    change.execute("UPDATE outbox SET state = 'sent', trouble = NULL, ended_at = ? WHERE id = ?", (now, message_id))


def failed(change: Guarded, message: Message, trouble: str, now: float, next_at: float) -> None:
    """Write down what came of a try. What else waits for the same recipient would meet the same, and waits as long."""
    change.execute("UPDATE outbox SET trouble = ? WHERE id = ?", (printable(trouble), message.id))
    change.execute(
        "UPDATE outbox SET next_at = max(next_at, ?), since = coalesce(since, ?), trouble = ?"
        " WHERE state = 'waiting' AND recipient IS ?",
        (next_at, now, printable(trouble), message.recipient),
    )


def due(select: Select, now: float) -> list[Message]:
    """Messages that may be tried now, oldest first."""
    return _read(select, "WHERE state = 'waiting' AND next_at <= ? ORDER BY id", now)


def latest(select: Select, limit: int) -> list[Message]:
    """The last `limit` messages, oldest of them first."""
    return _read(select, "ORDER BY id DESC LIMIT ?", limit)[::-1]


def given_up(select: Select, since: float) -> int:
    """How many messages were given up since then."""
    rows = select("SELECT count(*) FROM outbox WHERE state = 'given up' AND ended_at >= ?", (since,))
    return int(rows.fetchone()[0])


def _read(select: Select, rest: str, *values: object) -> list[Message]:
    return [_message(row) for row in select(f"SELECT {_message.columns} FROM outbox {rest}", values)]
