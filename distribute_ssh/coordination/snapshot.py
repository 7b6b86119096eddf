"""What `place` and `explain` look at, put together from the queue and the inventory: any process may ask it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from distribute_ssh.model import capability
from distribute_ssh.model.inventory import Inventory, NodeEntry
from distribute_ssh.model.job import AttemptState, Build, BuildState, NodeState
from distribute_ssh.model.lease import in_force
from distribute_ssh.model.resources import Share
from distribute_ssh.node import probe
from distribute_ssh.plan.activity import BY_HOURS, closure
from distribute_ssh.plan.snapshot import GpuView, NodeView, Snapshot, WorkView
from distribute_ssh.store.queue import Queue, WorkRow
from distribute_ssh.store.rows import NodeRow
from distribute_ssh.views.times import pause_words
from distribute_ssh.views.times import until as until_words

TAKEN = frozenset({AttemptState.PLACED, AttemptState.STARTING, AttemptState.RUNNING, AttemptState.STALE})
"""Attempts that hold their slot. One that ended does not: what it saved has been moved out of the slot."""


SCRATCH_HOLDS = 600.0  # seconds for which what a probe saw of free scratch is believed


@dataclass(slots=True)
class _OnNode:
    running: dict[int, Share | None] = field(default_factory=dict)  # by slot
    built: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    holdoff: dict[int, str] = field(default_factory=dict)
    gpus_shared: bool = False


def snapshot(
    queue: Queue,
    inventory: Inventory,
    now: float,
    *,
    connected: Collection[str] | None = None,
    holdoff: Mapping[tuple[str, int], tuple[float, str]] | None = None,
) -> Snapshot:
    """The nodes and the waiting work as they are now.

    `connected`: the nodes a coordinator holds a line to (None: believe the last it wrote down). `holdoff`: (node,
    batch) pairs that wait for a node's trouble to pass, with until when and why.
    """
    rows = queue.nodes()
    on: dict[str, _OnNode] = defaultdict(_OnNode)
    with_gpu = queue.gpu_batches()
    for attempt in queue.live_attempts():
        if attempt.state in TAKEN:
            on[attempt.node].running[attempt.slot] = attempt.share
            on[attempt.node].gpus_shared |= attempt.share is None and attempt.batch_id in with_gpu
    for build in queue.live_builds():
        if build.state is BuildState.FAILED:
            on[build.node].failed[build.batch_id] = _why(build)
        elif build.state is not BuildState.STALE:
            on[build.node].built.add(build.batch_id)
    for (node, batch_id), (until, reason) in (holdoff or {}).items():
        if until > now:
            on[node].holdoff[batch_id] = reason
    served = queue.served()
    work = tuple(
        WorkView(
            batch_id=row.batch.id,
            name=row.batch.name,
            submitter=row.batch.submitter,
            submitted_at=row.batch.submitted_at,
            capabilities=needs(row),
            ready=row.ready,
            later=row.later,
            next_at=row.next_at,
            held=row.held,
            running=row.active,
            served_at=served.get((row.batch.id, row.resources)),
            resources=row.resources,
            waited=max(0.0, now - row.batch.submitted_at),
        )
        for row in queue.work(now)
    )
    nodes = tuple(
        replace(
            node_view(entry, rows.get(entry.name), on[entry.name], now, connected),
            accepts_after=inventory.overflow.get(entry.name, 0.0),
        )
        for entry in inventory.nodes
    )
    return Snapshot(nodes, work, queue.usage(now))


def needs(row: WorkRow) -> frozenset[str]:
    """All that a node must have to run these jobs."""
    return frozenset(capability.needed(row.batch.kind, row.batch.capabilities, row.resources))


def _why(build: Build) -> str:
    return build.reason or f"exit {build.exit}"


def node_view(
    entry: NodeEntry, row: NodeRow | None, on: _OnNode, now: float, connected: Collection[str] | None
) -> NodeView:
    """One node: what its inventory entry says, what the last probe found, and what the queue has on it."""
    facts = probe.Facts.from_json(row.facts) if row and row.facts else None
    offer = probe.merge(entry, facts or probe.Facts())
    state, reason, trial = node_state(entry, row, now, connected)
    return NodeView(
        name=entry.name,
        state=state,
        capabilities=frozenset(offer.capabilities),
        cores=offer.cores,
        memory_mb=offer.memory_mb or 0,
        slots=entry.slots,
        free_slots=tuple(slot for slot in range(entry.slots) if slot not in on.running),
        reason=reason,
        built=frozenset(on.built),
        failed=on.failed,
        holdoff=on.holdoff,
        probed=facts is not None,
        gpus=tuple(
            GpuView(gpu.index, gpu.memory_mb or 0, gpu.used_by if gpu.used_until > now else None) for gpu in offer.gpus
        ),
        disk_mb=_scratch_free(facts, now),
        running=on.running,
        gpus_shared=on.gpus_shared,
        trial=trial,
    )


def _scratch_free(facts: probe.Facts | None, now: float) -> int | None:
    """MiB that are free on a node, where that was seen lately: it is looked at again before every start."""
    if facts is None or facts.scratch_free is None or facts.clock is None or abs(now - facts.clock) > SCRATCH_HOLDS:
        return None
    return facts.scratch_free >> 20


def node_state(
    entry: NodeEntry, row: NodeRow | None, now: float, connected: Collection[str] | None
) -> tuple[NodeState, str | None, bool]:
    """The state of a node, why it is not up, and whether it is on trial after a probation."""
    if not entry.enabled:
        return NodeState.DRAINED, entry.reason or "`enabled: false` in the inventory", False
    if row and row.drained is not None and not (row.drained_until and row.drained_until <= now):
        end = f" (until {until_words(row.drained_until, now)})" if row.drained_until else ""
        return NodeState.DRAINED, row.drained + end, False
    if row and row.unreachable_since is not None:
        return NodeState.UNREACHABLE, row.unreachable_reason, False
    if connected is not None and entry.name not in connected:
        return NodeState.UNREACHABLE, "connecting", False
    if row and (pause := in_force(row.request, row.lease, now)):
        return NodeState.PAUSED, pause_words(pause, now), False
    if entry.hours is not None and (again := closure(entry.hours, now)) is not None:
        return NodeState.PAUSED, f"until {until_words(again, now)} by {BY_HOURS}: {entry.hours}", False
    if row and row.probation_until is not None:
        if row.probation_until > now:
            return NodeState.PROBATION, "builds of several batches failed here in a row", False
        return NodeState.UP, None, True
    return NodeState.UP, None, False
