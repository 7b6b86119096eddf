"""What the decisions see: nodes, waiting work by batch, and who had how much lately."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from distribute_ssh.model.job import NodeState
from distribute_ssh.model.resources import Resources, Share


@dataclass(frozen=True, slots=True)
class GpuView:
    """One GPU of a node."""

    index: int
    memory_mb: int = 0  # 0: nobody knows
    used_by: str | None = None  # by somebody else's process, in words: it is not given away now


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as it is now."""

    name: str
    state: NodeState
    capabilities: frozenset[str]
    cores: int
    memory_mb: int
    slots: int
    free_slots: tuple[int, ...]  # slots without an attempt, lowest first
    reason: str | None = None  # why it is not up, for people
    built: frozenset[int] = frozenset()  # ids of batches that are built here, or being built
    failed: Mapping[int, str] = field(default_factory=dict)  # batch id -> why its build failed here
    holdoff: Mapping[int, str] = field(default_factory=dict)  # batch id -> why it gets nothing here for a while
    probed: bool = True  # False: never reached, its capabilities are only what the inventory says
    gpus: tuple[GpuView, ...] = ()
    disk_mb: int | None = None  # free in scratch when it was last looked at; None: nobody knows
    running: Mapping[int, Share | None] = field(default_factory=dict)  # slot -> what is given; None: a whole slot
    gpus_shared: bool = False  # a job that takes a whole slot and needs `gpu` runs here: it has all GPUs
    accepts_after: float = 0.0  # seconds that jobs wait before it takes them: what overflows from the others
    trial: bool = False  # its probation is over, but no build succeeded since: one job at a time


@dataclass(frozen=True, slots=True)
class WorkView:
    """The waiting jobs of one batch: they all need the same, so a batch costs as much to decide as a job."""

    batch_id: int
    name: str  # NAMESPACE/BATCH
    submitter: str
    submitted_at: float
    capabilities: frozenset[str]
    ready: int  # queued jobs that may start now
    later: int = 0  # queued jobs that wait for a pause to pass before they are tried again
    next_at: float | None = None  # when the first of `later` may start
    held: int = 0
    running: int = 0  # slots it has now
    served_at: float | None = None  # when a job of it last got a slot; None: never
    resources: Resources | None = None  # None: a whole slot
    ready_since: float | None = None  # when the oldest of `ready` became so; None: when the batch was submitted
    waited: float = 0.0  # seconds, the oldest of `ready`


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything `place` and `explain` look at."""

    nodes: tuple[NodeView, ...]
    work: tuple[WorkView, ...]
    usage: Mapping[str, float] = field(default_factory=dict)  # submitter -> decayed node-seconds
