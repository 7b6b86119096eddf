"""What is left on a node, and what a job takes of it.

A job takes what its `resources` say, or else a whole slot: the node's cores and memory divided by `slots`, and if it
needs `gpu` all the GPUs. So on a node of one slot such a job is alone. The sum never exceeds the node; what nobody
knows (memory, disk, the memory of a GPU) refuses nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, NamedTuple

from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.plan.snapshot import GpuView, NodeView, WorkView

AS_SOLD = 0.92  # of its memory is what a GPU shows at least: a T4 of 16 GB has 15.0 GiB, an A10 of 24 GB 22.5
GPU = "gpu"  # the capability that stands for all GPUs of a node where no number of them is asked for

Lack = Literal["trial", "slots", "cores", "memory", "gpus", "disk"]


class Needs(NamedTuple):
    """What a job must find on a node; jobs with the same needs are alike to it."""

    capabilities: frozenset[str]
    resources: Resources | None = None  # None: a whole slot

    @classmethod
    def of(cls, work: WorkView) -> Needs:
        """Those of waiting jobs."""
        return cls(work.capabilities, work.resources)


class Size(NamedTuple):
    """How large a node is, whatever runs on it."""

    cores: int
    memory_mb: int
    gpus: tuple[int, ...]  # the memory of each

    @classmethod
    def of(cls, node: NodeView) -> Size:
        """That of a node."""
        return cls(node.cores, node.memory_mb, tuple(sorted(gpu.memory_mb for gpu in node.gpus)))

    def lacks(self, asked: Resources | None) -> Lack | None:
        """What it could never give; the disk comes and goes."""
        if asked is None:
            return None
        if asked.cores > self.cores:
            return "cores"
        if self.memory_mb and asked.memory_mb > self.memory_mb:
            return "memory"
        if asked.gpus and asked.gpus > sum(_has(memory_mb, asked) for memory_mb in self.gpus):
            return "gpus"
        return None


class Room:
    """What is left on a node. It only shrinks."""

    __slots__ = (
        *("_are_gpus_given", "_free", "_gpus_shared", "_numbers"),
        *("cores", "disk_mb", "gpus", "is_shared", "memory_mb", "node", "taken"),
    )

    def __init__(self, node: NodeView) -> None:
        self.node = node
        self._free = list(node.free_slots)  # slots for jobs that take a whole one
        self._numbers = {*node.running, *range(node.slots)}.difference(self._free)  # of slots that are taken
        self._are_gpus_given = False  # some of them, to jobs that asked for a number
        self._gpus_shared = node.gpus_shared  # all of them are taken by jobs that need `gpu` and have a whole slot
        self.cores = node.cores
        self.memory_mb = node.memory_mb or math.inf
        self.disk_mb = math.inf if node.disk_mb is None else node.disk_mb
        self.gpus = _best_first(gpu for gpu in node.gpus if gpu.used_by is None) if node.gpus else []
        self.is_shared = False  # with jobs that were given a part of it
        self.taken = 0  # how many times something was
        if self._numbers:
            self._count(share for share in node.running.values() if share is not None)

    def _count(self, shares: Iterable[Share]) -> None:
        """Take off what was given."""
        wholes, given = len(self._numbers), set[int]()
        for share in shares:
            wholes -= 1
            self.is_shared = True
            self.cores -= share.cores
            self.memory_mb -= share.memory_mb
            self.disk_mb -= share.disk_mb  # what it wrote already is counted twice: better than a disk that is full
            given.update(share.gpus)
        self._are_gpus_given = bool(given)
        self.gpus = [gpu for gpu in self.gpus if gpu.index not in given]
        self._take_slots(wholes)
        self.disk_mb = max(0, self.disk_mb)

    def _take_slots(self, count: int) -> None:
        self.cores = max(0, self.cores - count * self.slot_cores)
        self.memory_mb = max(0, self.memory_mb - count * (self.node.memory_mb // self.node.slots))

    @property
    def slot_cores(self) -> int:
        """What a whole slot counts as."""
        return max(1, self.node.cores // self.node.slots)

    @property
    def slots(self) -> int:
        """How many slots are free for jobs that take a whole one."""
        return len(self._free)

    def emptied(self) -> Room:
        """What there is when all that runs here has ended."""
        free = tuple(range(self.node.slots))
        return Room(replace(self.node, running={}, free_slots=free, gpus_shared=False))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return not self._numbers

    def lacks(self, needs: Needs) -> Lack | None:
        """What it has not enough of, now, for another job with these needs."""
        if self._numbers and self.node.trial:
            return "trial"  # the first job shows whether it builds again; a second would only be a second victim
        asked = needs.resources
        if asked is None:
            return self._lacks_slot(needs)
        if asked.cores > self.cores:
            return "cores"
        if asked.memory_mb > self.memory_mb:
            return "memory"
        if asked.gpus and asked.gpus > self.suitable(asked):
            return "gpus"
        if asked.disk_mb > self.disk_mb:
            return "disk"
        return None

    def _lacks_slot(self, needs: Needs) -> Lack | None:
        node = self.node
        if self.is_shared:  # without such company slots alone decide, as their owner may want more of them than cores
            if node.slots == 1 or self.cores < self.slot_cores:
                return "cores"
            if node.memory_mb and self.memory_mb < node.memory_mb // node.slots:
                return "memory"
        if not self._free:
            return "slots"
        if node.gpus and GPU in needs.capabilities and (self._are_gpus_given or not self.gpus):
            return "gpus"
        return None

    def take(self, needs: Needs) -> tuple[int, Share | None]:
        """Give what is needed, which is there: the number of the slot, and the share; None: a whole slot."""
        asked, node = needs.resources, self.node
        self.taken += 1
        if asked is None:
            slot = self._free.pop(0)
            self._numbers.add(slot)
            self._take_slots(1)
            self._gpus_shared |= GPU in needs.capabilities
            return slot, None
        # Where there are several slots, their numbers are kept for jobs that take a whole one.
        slot = 0 if node.slots == 1 else node.slots
        while slot in self._numbers:
            slot += 1
        self._numbers.add(slot)
        if slot in self._free:
            self._free.remove(slot)
        return slot, Share(asked.cores, asked.memory_mb, self._reduce(asked), asked.disk_mb)

    def keep(self, needs: Needs) -> None:
        """Set aside what there is of what is needed, for a job that waits for the rest."""
        self.taken += 1
        if needs.resources is None:
            self._reduce(Resources(self.slot_cores, self.node.memory_mb // self.node.slots))
            if GPU in needs.capabilities:
                self._gpus_shared = True
        else:
            self._reduce(needs.resources)

    def shortfall(self, needs: Needs) -> float:
        """Which part of what is needed is not there, of what there is least of: from 0 to 1."""
        asked, node = needs.resources, self.node
        if asked is None:
            asked = Resources(self.slot_cores, node.memory_mb // node.slots)
        missing = max(0.0, 1 - self.cores / asked.cores)
        if asked.memory_mb:
            missing = max(missing, 1 - self.memory_mb / asked.memory_mb)
        if asked.disk_mb:
            missing = max(missing, 1 - self.disk_mb / asked.disk_mb)
        if asked.gpus:
            missing = max(missing, 1 - self.suitable(asked) / asked.gpus)
        elif needs.resources is None and node.gpus and GPU in needs.capabilities:
            missing = max(missing, 1 - len(self.gpus) / len(node.gpus))
        return missing

    def _reduce(self, asked: Resources) -> tuple[int, ...]:
        """Take this, or what there is of it; the GPUs that were taken."""
        self.is_shared = True
        self.cores = max(0, self.cores - asked.cores)
        self.memory_mb = max(0, self.memory_mb - asked.memory_mb)
        self.disk_mb = max(0, self.disk_mb - asked.disk_mb)
        if not asked.gpus:
            return ()
        taken = [gpu for gpu in self.gpus if _has(gpu.memory_mb, asked)][: asked.gpus]
        if taken:
            self._are_gpus_given = True
            self.gpus = [gpu for gpu in self.gpus if gpu not in taken]
        return tuple(sorted(gpu.index for gpu in taken))

    def suitable(self, asked: Resources | None) -> int:
        """How many of the GPUs that are left are such as are asked for."""
        if asked is None or self._gpus_shared:
            return 0 if self._gpus_shared else len(self.gpus)
        return sum(_has(gpu.memory_mb, asked) for gpu in self.gpus)


def portion(share: Share | None, cores: int, memory_mb: int, gpus: int) -> float:
    """Which part of a node somebody has who was given this: of what he was given most of. A whole slot counts as 1."""
    if share is None:
        return 1.0
    part = share.cores / cores
    if memory_mb:
        part = max(part, share.memory_mb / memory_mb)
    if gpus:
        part = max(part, len(share.gpus) / gpus)
    return min(1.0, part)


def _has(memory_mb: int, asked: Resources) -> bool:
    return not memory_mb or memory_mb >= AS_SOLD * asked.gpu_memory_mb


def _best_first(gpus: Iterable[GpuView]) -> list[GpuView]:
    """The smallest first, so that a large one is left for who needs it; unknown ones last."""
    return sorted(gpus, key=lambda gpu: (not gpu.memory_mb, gpu.memory_mb, gpu.index))
