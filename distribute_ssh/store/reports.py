"""What `status` says of the queue, made from the tally: a batch of a hundred thousand jobs is a few rows."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from distribute_ssh.errors import NoMatchError
from distribute_ssh.model.job import ACTIVE, OUTCOMES, WAITING, State
from distribute_ssh.model.units import iso
from distribute_ssh.store.rows import one_of

Select = Callable[..., sqlite3.Cursor]


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else iso(seconds)


def batch_state(counts: Mapping[str, int]) -> str:
    """What a batch is, from how many of its jobs are in which state: working beats waiting beats failed."""
    there = {State(state) for state, count in counts.items() if count}
    if there & ACTIVE:
        return "running"
    if there & WAITING:
        return "waiting"
    return "failed" if there & (OUTCOMES - {State.DONE}) else "done"


def status(select: Select, name: str | None) -> dict[str, Any]:
    """The document of `status --json`: all batches, oldest first, or one of them with its jobs."""
    where, values = "", ()  # type: tuple[str, tuple[Any, ...]]
    if name is not None:
        namespace, _, batch = name.partition("/")
        where, values = "WHERE namespace = ? AND batch = ?", (namespace, batch)
    rows = select(
        f"SELECT id, namespace, batch, submitter, submitted_at, finished_at FROM batches {where}"
        " ORDER BY submitted_at, id",
        values,
    ).fetchall()
    if name is not None and not rows:
        raise NoMatchError(f"there is no batch called {name}", hint="distribute status  lists them all.")
    counts, runtimes, nodes = _counts(select), _runtimes(select), _nodes(select)
    return {
        "schema": 1,
        "batches": [
            {
                "namespace": namespace,
                "batch": batch,
                "submitter": submitter,
                "state": batch_state(counts[batch_id]),
                "submitted_at": _iso(submitted_at),
                "finished_at": _iso(finished_at),
                "counts": counts[batch_id],
                "runtime": runtimes.get(batch_id),
                "nodes": nodes[batch_id],
            }
            | ({} if name is None else {"jobs": _jobs(select, batch_id)})
            for batch_id, namespace, batch, submitter, submitted_at, finished_at in rows
        ],
    }


def _counts(select: Select) -> defaultdict[int, dict[str, int]]:
    counts: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for batch_id, state, count in select(
        "SELECT batch_id, state, sum(count) FROM tally WHERE count > 0 GROUP BY batch_id, state"
    ):
        counts[batch_id][state] = count
    return counts


def _runtimes(select: Select) -> dict[int, dict[str, float]]:
    """Seconds from start to end of the jobs that are done, by batch: what an ETA is made of."""
    rows = select(
        "SELECT batch_id, sum(count), sum(seconds), sum(squares) FROM tally WHERE state = 'done' AND count > 0"
        " GROUP BY batch_id"
    )
    return {
        batch_id: {
            "mean": round(seconds / count, 3),
            # Sums kept up by adding and taking away may end a hair below what is possible.
            "stdev": round(math.sqrt(max(0.0, squares / count - (seconds / count) ** 2)), 3),
        }
        for batch_id, count, seconds, squares in rows
    }


def _nodes(select: Select) -> defaultdict[int, list[str]]:
    """Nodes that work for a batch now."""
    nodes: defaultdict[int, list[str]] = defaultdict(list)
    rows = select(
        f"SELECT DISTINCT batch_id, node FROM jobs WHERE {one_of(ACTIVE)} AND node IS NOT NULL ORDER BY batch_id, node"
    )
    for batch_id, node in rows:
        nodes[batch_id].append(node)
    return nodes


def _jobs(select: Select, batch_id: int) -> list[dict[str, Any]]:
    rows = select(
        "SELECT name, state, node, attempt, exit_code, reason, request, started_at, finished_at"
        " FROM jobs WHERE batch_id = ? ORDER BY position, id",
        (batch_id,),
    )
    return [
        {
            "name": name,
            "state": state,
            "node": node,
            "attempt": attempt,
            "exit_code": exit_code,
            "reason": reason,
            "request": request,
            "started_at": _iso(started_at),
            "finished_at": _iso(finished_at),
        }
        for name, state, node, attempt, exit_code, reason, request, started_at, finished_at in rows
    ]
