"""Which node can run which batch at all, whoever else waits, and the words for it when it cannot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from distribute_ssh.model.job import NodeState
from distribute_ssh.model.resources import Resources
from distribute_ssh.model.units import format_duration, format_size
from distribute_ssh.plan.room import Needs, Room, Size
from distribute_ssh.plan.snapshot import NodeView, WorkView


class Code(StrEnum):
    """Why something waits, for programs."""

    NO_NODE = "no-node"  # no node of the inventory has what it needs
    BUILD_FAILED = "build-failed"
    NO_CAPABILITY = "no-capability"
    TOO_SMALL = "too-small"  # it asks for more than the node has
    HOLDOFF = "holdoff"  # its inputs could not be put there a moment ago
    UNREACHABLE = "unreachable-node"
    DRAINED = "drained-node"
    PAUSED = "paused-node"
    PROBATION = "probation-node"
    AWAY = "nodes-away"  # every node that can run it is one of the four above
    BUSY = "node-busy"
    BEHIND = "behind"  # there is room, but another batch goes first
    KEPT = "kept"  # there is room, but it is kept for a job that waits for more
    OVERFLOW = "overflow"  # the node takes only what has waited for the others long enough
    LATER = "later"  # it is tried again after a pause
    HELD = "held"
    NEXT = "next"  # it does not wait: it starts now
    IDLE = "idle"  # nothing waits for this node


_CLOSED = {
    NodeState.UNREACHABLE: Code.UNREACHABLE,
    NodeState.DRAINED: Code.DRAINED,
    NodeState.PAUSED: Code.PAUSED,
    NodeState.PROBATION: Code.PROBATION,
}
AWAY = frozenset(_CLOSED.values())
"""A node that is away says nothing about whether it could run the batch."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something waits: a code for programs and a sentence for people, without full stop.

    With a `node`, the sentence is about that node and leaves its name out: `lab3  is drained: new disk`.
    """

    code: Code
    text: str
    node: str | None = None


def is_open(node: NodeView) -> bool:
    """Whether the node takes jobs, if it has room for them."""
    return node.probed and node.state is NodeState.UP


def refusal(node: NodeView, work: WorkView) -> Reason | None:
    """Why the node can take no job of the batch now, whoever else waits; of several reasons the most lasting."""

    def no(code: Code, text: str) -> Reason:
        return Reason(code, text, node.name)

    if not node.probed:
        why = f" ({node.reason})" if node.reason else ""
        return no(Code.UNREACHABLE, f"was never reached{why}, so nobody knows what it has")
    if not work.capabilities <= node.capabilities:
        return no(Code.NO_CAPABILITY, f"has no {either(work.capabilities - node.capabilities)}")
    if never := too_small(node, work.resources):
        return no(Code.TOO_SMALL, never)
    if work.batch_id in node.failed:
        return no(Code.BUILD_FAILED, f"could not build it: {node.failed[work.batch_id]}")
    if not is_open(node):
        return closure(node)
    if short := _shortage(node, Needs.of(work)):
        return short
    if work.batch_id in node.holdoff:
        return no(Code.HOLDOFF, f"is tried again in a while: {node.holdoff[work.batch_id]}")
    if work.waited < node.accepts_after:
        after, waited = format_duration(node.accepts_after), format_duration(work.waited)
        return no(Code.OVERFLOW, f"takes what has waited {after}; this has waited {waited}")
    return None


def closure(node: NodeView) -> Reason | None:
    """Why the node takes no job at all now."""
    if not node.probed:
        return Reason(Code.UNREACHABLE, f"was never reached{f': {node.reason}' if node.reason else ''}", node.name)
    if node.state is not NodeState.UP:
        state = "on probation" if node.state is NodeState.PROBATION else node.state.value
        return Reason(_CLOSED[node.state], f"is {state}{f': {node.reason}' if node.reason else ''}", node.name)
    # What is too much for one that asks for least is too much for all.
    return _shortage(node, _LEAST) and _shortage(node, _SLOT)


_LEAST = Needs(frozenset(), Resources())
_SLOT = Needs(frozenset())


def _shortage(node: NodeView, needs: Needs) -> Reason | None:
    """What there is not enough of on the node now."""
    room, asked = Room(node), needs.resources
    lack = room.lacks(needs)
    text = ""
    if lack is None:
        return None
    if lack == "trial":
        return Reason(Code.PROBATION, "is on trial after its probation: one job at a time", node.name)
    if lack == "slots" or (lack == "cores" and not room.cores and not room.is_shared):
        taken = node.slots - len(node.free_slots)
        text = f"is busy: {taken} of {node.slots} slots taken"
    elif lack == "cores":
        whole = "it takes them all" if node.slots == 1 else f"a slot has {room.slot_cores}"
        text = f"has {room.cores} of {_count(node.cores, 'core')} free" + ("" if asked else f", and {whole}")
    elif lack == "memory":
        text = f"has {_size(room.memory_mb)} of {_size(node.memory_mb)} of memory free"
    elif lack == "disk":
        assert asked is not None
        text = f"has {_size(room.disk_mb)} of scratch free, and {_size(asked.disk_mb)} are asked for"
    else:
        used = [f"GPU {gpu.index} is used by {gpu.used_by}" for gpu in node.gpus if gpu.used_by is not None]
        size = f" of {_size(asked.gpu_memory_mb)}" if asked and asked.gpu_memory_mb else ""
        text = f"has {room.suitable(asked)} of {_count(len(node.gpus), 'GPU')}{size} free"
        text = f"{text}: {', '.join(used)}" if len(used) < len(node.gpus) and used else ", ".join(used) or text
    return Reason(Code.BUSY, text, node.name)


def too_small(node: NodeView, resources: Resources | None) -> str | None:
    """Why the node could not run a job that asks for this even if it ran nothing else; None: it could."""
    lack = Size.of(node).lacks(resources)
    if resources is None or lack is None:
        return None
    if lack == "cores":
        has, asked = _count(node.cores, "core"), str(resources.cores)
    elif lack == "memory":
        has, asked = f"{_size(node.memory_mb)} of memory", _size(resources.memory_mb)
    else:
        has = ", ".join(_size(gpu.memory_mb) for gpu in node.gpus)
        has = _count(len(node.gpus), "GPU") + (f" ({has})" if resources.gpu_memory_mb and has else "")
        size = f" of {_size(resources.gpu_memory_mb)}" if resources.gpu_memory_mb else ""
        asked = f"{resources.gpus}{size}"
    return f"has {has}, and {asked} {'is' if asked == '1' else 'are'} asked for"


def never_reason(
    nodes: Sequence[NodeView],
    capabilities: frozenset[str],
    batch_id: int | None = None,
    resources: Resources | None = None,
) -> Reason | None:
    """Why no node can ever run this: none has what it needs, or its build (of `batch_id`) failed on all that have.

    A node that was never reached may have anything, so as long as there is one the answer is None.
    """
    if not all(node.probed for node in nodes):
        return None
    having = [node for node in nodes if capabilities <= node.capabilities]
    if not having:
        return Reason(Code.NO_NODE, _nobody_has(nodes, capabilities))
    capable = [node for node in having if too_small(node, resources) is None]
    if not capable:
        return Reason(Code.NO_NODE, _nobody_is(having, resources))
    if batch_id is None or not all(batch_id in node.failed for node in capable):
        return None
    failures = (f"{node.name}: {node.failed[batch_id]}" for node in capable)
    return Reason(Code.BUILD_FAILED, f"its build failed on every node that can run it: {'; '.join(failures)}")


def can_ever_run(
    nodes: Sequence[NodeView],
    capabilities: frozenset[str],
    batch_id: int | None = None,
    resources: Resources | None = None,
) -> bool:
    """Whether some node could run this once it is up and free; see `never_reason`."""
    return never_reason(nodes, capabilities, batch_id, resources) is None


def _nobody_has(nodes: Sequence[NodeView], needs: frozenset[str]) -> str:
    if not nodes:
        return "the inventory has no nodes"
    nowhere = needs.difference(*(node.capabilities for node in nodes))
    if nowhere:
        return f"no node of the inventory has {either(nowhere)}"
    nearest = min(nodes, key=lambda node: (len(needs - node.capabilities), node.name))
    wanted, missing = ", ".join(sorted(needs)), either(needs - nearest.capabilities)
    return f"no node of the inventory has all of {wanted}: the nearest, {nearest.name}, has no {missing}"


def _nobody_is(nodes: Sequence[NodeView], asked: Resources | None) -> str:
    """Of nodes that are all too small; the one is named that is nearest."""
    order = ("cores", "memory", "gpus")

    def nearness(node: NodeView) -> tuple[int, int, int, int]:
        size = Size.of(node)
        return order.index(size.lacks(asked) or order[0]), len(size.gpus), size.cores, size.memory_mb

    nearest = max(nodes, key=nearness)
    return f"no node of the inventory is large enough: {nearest.name} {too_small(nearest, asked)}"


def either(names: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *most, last = sorted(names)
    return f"{', '.join(most)} or {last}" if most else last


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _size(size_mb: float) -> str:
    return format_size(int(size_mb) << 20)
