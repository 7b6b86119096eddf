"""Whether a node has, at the very moment, what it promised to a job: memory, scratch, quiet processors, its GPUs.

The sums that `place` keeps know only what we gave away. Here others count, as they are seen just before a start:

* *Memory*, where the job states some: what others use, what our jobs were promised and what it asks for have to fit.
  A tenth may be missing: no machine has all of its memory to give.
* *Scratch*, where it states some: free has to be that, what running jobs were promised, and a reserve.
* *Processors*, where it shares the node: others may not use so much that fewer than half of its cores are left. Some
  use is no use: a core, or an eighth of them. And a desktop where something always runs would hold it up for ever, so
  after half an hour it starts all the same.
* *GPUs*: one that a process of somebody else holds is taken. A job that gets all of them because its batch asks for
  `gpu` leaves those out, and waits only where others hold every one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from distribute_ssh.model.resources import Share
from distribute_ssh.model.units import format_size

RESERVE_MB = 512  # of scratch, beyond what was promised
PATIENCE = 1800.0  # seconds for which others' use of the processors holds a job up
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0  # seconds until the node is tried again; doubled each time
GPU_PAUSE = 60.0  # the first one of a GPU that others hold: they keep it for longer than a moment


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a node. None, or nothing, where it could not be told."""

    memory_mb: int | None = None
    available_mb: int | None = None
    ours_mb: int = 0  # of memory, used by our jobs
    scratch_mb: int | None = None  # free
    others: float | None = None  # processors that others keep busy
    used: Mapping[int, str] = field(default_factory=dict)  # GPUs that others hold, and who
    gone: Mapping[int, str] = field(default_factory=dict)  # GPUs that do not answer while others do, and what they are
    silent: Mapping[int, str] = field(default_factory=dict)  # GPUs whose tool does not answer, and what it said


@dataclass(frozen=True, slots=True)
class Promised:
    """What of a node was promised to those of our jobs that run there or are about to."""

    cores: int = 0
    memory_mb: int = 0
    disk_mb: int = 0

    def and_also(self, share: Share) -> Promised:
        """The same and one more."""
        return Promised(self.cores + share.cores, self.memory_mb + share.memory_mb, self.disk_mb + share.disk_mb)


def trouble(seen: Seen, share: Share | None, gpus: Collection[int], promised: Promised) -> str | None:
    """Why a job cannot start now, in words that follow the node's name; None: it can. `gpus`: those it would get."""
    if gpus and (no := _gpus(seen, gpus, needs_all=share is not None)):
        return no
    return None if share is None else _memory(seen, share, promised) or _scratch(seen, share, promised)


def noise(seen: Seen, share: Share, cores: int, promised: Promised) -> str | None:
    """Why a job should not start now on a node with so many cores, until it has been held up by it for too long."""
    if seen.others is None:
        return None
    by_others = max(0.0, seen.others - max(1.0, cores / 8))
    if by_others == 0 or cores - promised.cores - by_others >= share.cores / 2:
        return None
    asked = "1 core is" if share.cores == 1 else f"{share.cores} cores are"
    return f"has others at work on {seen.others:.1f} of its {cores} cores, and {asked} asked for"


def pause(last: tuple[float, float] | None, now: float, first: float = FIRST_PAUSE) -> float:
    """How long to wait where something was not ready; `last`: when the pause before this one ended, and its length."""
    if last is None or now - last[0] > 2 * last[1]:
        return first
    return min(2 * last[1], LONGEST_PAUSE)


def _gpus(seen: Seen, gpus: Collection[int], *, needs_all: bool) -> str | None:
    why = {index: f"does not answer: {text}" for index, text in seen.silent.items()}
    why |= {index: f"does not answer any more ({text})" for index, text in seen.gone.items()}
    why |= {index: f"is used by {who}" for index, who in seen.used.items()}
    bad = sorted(why.keys() & set(gpus))
    if not bad or (not needs_all and len(bad) < len(set(gpus))):
        return None
    return ", ".join(f"GPU {index} {why[index]}" for index in bad)


def _memory(seen: Seen, share: Share, promised: Promised) -> str | None:
    if not share.memory_mb or seen.memory_mb is None or seen.available_mb is None:
        return None
    by_others = max(0, seen.memory_mb - seen.available_mb - seen.ours_mb)
    free = max(0, seen.memory_mb - by_others - max(promised.memory_mb, seen.ours_mb))
    if free >= 0.9 * share.memory_mb:
        return None
    return f"has {_size(free)} of memory free now, and {_size(share.memory_mb)} are asked for"


def _scratch(seen: Seen, share: Share, promised: Promised) -> str | None:
    if not share.disk_mb or seen.scratch_mb is None:
        return None
    free = max(0, seen.scratch_mb - promised.disk_mb - RESERVE_MB)
    if free >= share.disk_mb:
        return None
    return f"has {_size(free)} of scratch free now, and {_size(share.disk_mb)} are asked for"


def _size(megabytes: int) -> str:
    return format_size(megabytes << 20)
