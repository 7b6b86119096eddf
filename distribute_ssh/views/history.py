"""What happened, and who had how much: tables for people, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distribute_ssh.model.job import OUTCOMES, State
from distribute_ssh.model.units import format_duration
from distribute_ssh.views.text import Column, safe, table
from distribute_ssh.views.times import clock, seconds

EVENT = ("at", "batch", "job", "attempt", "node", "from", "to", "who", "reason")
ENDS = (State.DONE, *sorted(OUTCOMES - {State.DONE}))
SHARE = ("of", "name", "node_seconds", "attempts", *map(str, ENDS))


def events_table(events: Sequence[Mapping[str, Any]], *, batches: bool, width: int | None = None) -> str:
    """What happened, oldest first; `batches`: to several of them."""
    columns = [
        Column("WHEN"),
        *([Column("BATCH", gives=True)] if batches else []),
        Column("JOB", gives=True),
        Column("TO"),
        Column("NODE", gives=True),
        Column("WHO", gives=True),
        Column("REASON", gives=True),
    ]
    rows = [
        [
            clock(seconds(event["at"])),
            *([event["batch"] or ""] if batches else []),
            event["job"] or "",
            event["to"] or "",
            event["node"] or "",
            event["who"],
            event["reason"] or "",
        ]
        for event in events
    ]
    return table(columns, rows, width=width)


def shares_table(title: str, shares: Sequence[Mapping[str, Any]], *, width: int | None = None) -> str:
    """What each person, or each node, had; `title`: PERSON or NODE."""
    ends = [state for state in ENDS if state is State.DONE or any(share["jobs"].get(state) for share in shares)]
    columns = [
        Column(title, gives=True),
        Column("NODE TIME", right=True),
        Column("ATTEMPTS", right=True),
        *(Column(state.upper(), right=True) for state in ends),
    ]
    rows = [
        [
            share["name"],
            format_duration(share["node_seconds"]),
            f"{share['attempts']:,}",
            *(f"{share['jobs'].get(state, 0):,}" for state in ends),
        ]
        for share in shares
    ]
    return table(columns, rows, width=width)


def events_csv(events: Iterable[Mapping[str, Any]]) -> str:
    """Events, one a line, under a head."""
    return _csv(EVENT, ([event[key] for key in EVENT] for event in events))


def shares_csv(people: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]]) -> str:
    """Shares, one a line, under a head."""
    named = [*(("person", share) for share in people), *(("node", share) for share in nodes)]
    rows = (
        [of, share["name"], share["node_seconds"], share["attempts"], *(share["jobs"].get(state, 0) for state in ENDS)]
        for of, share in named
    )
    return _csv(SHARE, rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([safe(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return out.getvalue()
