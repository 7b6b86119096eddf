"""What a tick makes of pauses: requests that were answered, failed or are over, and leases that nodes tell of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from distribute_ssh.coordination.evidence import Leased
from distribute_ssh.model.inventory import Inventory
from distribute_ssh.model.lease import Lease, in_force
from distribute_ssh.store.change import Change
from distribute_ssh.store.rows import NodeRow

AT_THE_DESK = "fromdesk-"
"""How the tokens of leases begin that people at a node asked for there."""


def take(change: Change, row: NodeRow | None, item: Leased) -> None:
    """Write down the lease a node tells of; a request that it answers is done, whatever came of it."""
    lease = item.lease
    is_known = lease is not None and row is not None and row.lease is not None and row.lease.token == lease.token
    if lease is not None and not is_known and lease.token.startswith(AT_THE_DESK):
        change.tell_act(lease.since, lease.who, "paused at its desk", node=item.node)
    answered = row is not None and row.request is not None and row.request.token == item.answers
    change.node(item.node, lease=item.lease, **({"request": None} if answered else {}))


def fail(change: Change, row: NodeRow | None, reason: str) -> None:
    """Write down why what is asked of a node could not be done so far; whoever waits for it waits no longer."""
    if row is not None and row.request is not None:
        change.node(row.name, request=replace(row.request, trouble=reason))


def expire(change: Change, rows: Mapping[str, NodeRow], now: float) -> None:
    """Give up pauses whose time passed before their node was reached."""
    for row in rows.values():
        if row.request is not None and row.request.is_over(now):
            change.node(row.name, request=None)


def refuse(change: Change, rows: Mapping[str, NodeRow], inventory: Inventory, holding: Collection[str]) -> None:
    """Whoever asks something of a node that nobody connects to shall not wait for an answer."""
    driven = {entry.name for entry in inventory.nodes if entry.enabled or entry.name in holding}
    for row in rows.values():
        if row.request is not None and row.request.trouble is None and row.name not in driven:
            fail(change, row, "the coordinator at work does not connect to it: not in its inventory, or not enabled")


def paused(rows: Mapping[str, NodeRow], now: float) -> frozenset[str]:
    """The nodes that may begin nothing."""
    return frozenset(name for name, row in rows.items() if in_force(row.request, row.lease, now))


def ends(rows: Mapping[str, NodeRow]) -> list[float]:
    """When pauses end."""
    pauses = (pause for row in rows.values() for pause in (row.request, row.lease))
    return [pause.until for pause in pauses if pause is not None and pause.until is not None]


def why_paused(lease: Lease | None) -> str | None:
    """What a job of a paused node says of it; until when may change, and is told by the node."""
    if lease is None:
        return None
    return f"its node was paused by {lease.who}" + (f": {lease.reason}" if lease.reason else "")
