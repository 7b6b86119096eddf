"""The verbs pause and resume of a node, and what its answers say of the lease that stands there."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import replace

from distribute_ssh.errors import ScratchError
from distribute_ssh.model.lease import Lease, NodeRequest
from distribute_ssh.node import wire
from distribute_ssh.node.channel import Channel

LIMIT = 60.0  # seconds: on a machine that swaps, to stop everything takes its time
LONG_AGO = 10**9  # seconds: no machine is up for so long
WHO, WHY = 100, 280  # bytes: with the rest of its row they stay below wire.LONGEST

_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


async def carry_out(channel: Channel, request: NodeRequest) -> Lease | None:
    """Make so what was asked of the node; the lease that stands there then, which may be a later one.

    Raises UnreachableError, and ScratchError where the node has no room to write the lease down.
    """
    now = time.time()
    # What yields was asked for before anything else was said.
    age = str(LONG_AGO if request.yields else max(0, int(now - request.at)))
    if request.until is None:
        rows, end = await channel.request("resume", age, limit=LIMIT)
    else:
        seconds = str(max(1, round(request.until - now)))
        said = [wire.word(request.who, WHO) or "somebody", wire.word(request.reason or "", WHY)]
        verb = ["extend", request.token, seconds] if request.extends else ["pause", request.token, seconds, age]
        rows, end = await channel.request(*verb, *filter(None, said), limit=LIMIT)
    if not end.ok:
        raise ScratchError(f"{channel.node}: no room left in {channel.root}", hint="free some space there")
    return standing(rows, time.time())


def standing(rows: Iterable[wire.Row], now: float) -> Lease | None:
    """The lease of an answer that was given `now`; None where it names none, or no sensible one."""
    left: list[str] = []
    lease = None
    for row in rows:
        if row.kind == "moves":
            left.append(printable(" ".join(row.fields[1:])))
        elif row.kind == "lease" and len(row.fields) > 3 and all(map(_SECONDS.fullmatch, row.fields[1:3])):
            token, rest, ago, who, *why = row.fields
            reason = printable(wire.unword(why[0])) if why else ""
            lease = Lease(token, now + int(rest), now - int(ago), printable(wire.unword(who)), reason or None)
    return lease and replace(lease, left=tuple(left))


def printable(text: str) -> str:
    """What a node says, on one line."""
    return "".join(c if c.isprintable() else " " for c in text).strip()
