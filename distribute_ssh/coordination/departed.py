"""Nodes that left the inventory, or were switched off in it, while they still hold something of ours.

They are drained: their jobs run to their end, on a connection made as the inventory said last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from distribute_ssh.model import cluster
from distribute_ssh.model.inventory import Inventory, NodeEntry
from distribute_ssh.model.job import AttemptState
from distribute_ssh.model.names import key
from distribute_ssh.store.change import Change
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.rows import NodeRow

WORKING = frozenset({AttemptState.STARTING, AttemptState.RUNNING, AttemptState.ENDED})
"""Attempts whose results are still to come."""

GONE = "no longer in the inventory"


def remember(change: Change, rows: Mapping[str, NodeRow], inventory: Inventory) -> None:
    """Write down what the inventory says of its nodes."""
    for entry in inventory.nodes:
        row = rows.get(entry.name)
        if row is None or entry_of(row) != entry:
            change.node(entry.name, entry=asdict(entry))


def entry_of(row: NodeRow) -> NodeEntry | None:
    """What the inventory said last of a node; None where that was never written down."""
    if row.entry is None:
        return None
    known = {field.name for field in fields(NodeEntry)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.entry.items() if name in known
    }
    if values.get("cluster") is not None:
        values["cluster"] = cluster.recorded(values["cluster"])
    return NodeEntry(**values)


def holding(queue: Queue) -> frozenset[str]:
    """The nodes that still hold something; of those that do not answer only where results are to come.

    A machine that was scrapped with the last traces of a batch on it is not waited for.
    """
    attempts = queue.live_attempts()
    silent = {row.name for row in queue.nodes().values() if row.unreachable_since is not None}
    traces = {attempt.node for attempt in attempts} | {build.node for build in queue.live_builds()}
    return frozenset({attempt.node for attempt in attempts if attempt.state in WORKING} | (traces - silent))


def with_departed(queue: Queue, inventory: Inventory) -> Inventory:
    """The inventory, and the nodes that left it while they hold something; they get no jobs."""
    there, rows = {key(entry.name) for entry in inventory.nodes}, queue.nodes()
    left = [entry_of(rows[name]) for name in sorted(holding(queue)) if key(name) not in there and name in rows]
    departed = (replace(entry, enabled=False, reason=GONE) for entry in left if entry is not None)
    return replace(inventory, nodes=(*inventory.nodes, *departed))
