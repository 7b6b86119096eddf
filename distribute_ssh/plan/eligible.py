"""Which node can run which batch at all, whoever else waits, and the words for it when it cannot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from distribute_ssh.model.job import NodeState
from distribute_ssh.plan.snapshot import NodeView, WorkView


class Code(StrEnum):
    """Why something waits, for programs."""

    NO_NODE = "no-node"  # no node of the inventory has what it needs
    BUILD_FAILED = "build-failed"
    NO_CAPABILITY = "no-capability"
    HOLDOFF = "holdoff"  # its inputs could not be put there a moment ago
    UNREACHABLE = "unreachable-node"
    DRAINED = "drained-node"
    PAUSED = "paused-node"
    PROBATION = "probation-node"
    AWAY = "nodes-away"  # every node that can run it is one of the four above
    BUSY = "node-busy"
    BEHIND = "behind"  # there is a slot, but another batch goes first
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
    """Whether the node takes jobs, if it has a slot for them."""
    return node.probed and node.state is NodeState.UP


def room(node: NodeView) -> tuple[int, ...]:
    """The slots that may be given away."""
    if node.trial:  # the first job shows whether it builds again; a second one would only be a second victim
        return node.free_slots[:1] if len(node.free_slots) == node.slots else ()
    return node.free_slots


def refusal(node: NodeView, work: WorkView) -> Reason | None:
    """Why the node can take no job of the batch now, whoever else waits; of several reasons the most lasting."""

    def no(code: Code, text: str) -> Reason:
        return Reason(code, text, node.name)

    if not node.probed:
        why = f" ({node.reason})" if node.reason else ""
        return no(Code.UNREACHABLE, f"was never reached{why}, so nobody knows what it has")
    if not work.capabilities <= node.capabilities:
        return no(Code.NO_CAPABILITY, f"has no {either(work.capabilities - node.capabilities)}")
    if work.batch_id in node.failed:
        return no(Code.BUILD_FAILED, f"could not build it: {node.failed[work.batch_id]}")
    if no_room := closure(node):
        return no_room
    if work.batch_id in node.holdoff:
        return no(Code.HOLDOFF, f"is tried again in a while: {node.holdoff[work.batch_id]}")
    return None


def closure(node: NodeView) -> Reason | None:
    """Why the node takes no job at all now."""
    if not node.probed:
        return Reason(Code.UNREACHABLE, f"was never reached{f': {node.reason}' if node.reason else ''}", node.name)
    if node.state is not NodeState.UP:
        state = "on probation" if node.state is NodeState.PROBATION else node.state.value
        return Reason(_CLOSED[node.state], f"is {state}{f': {node.reason}' if node.reason else ''}", node.name)
    if room(node):
        return None
    if node.free_slots:
        return Reason(Code.PROBATION, "is on trial after its probation: one job at a time", node.name)
    return Reason(Code.BUSY, f"is busy: {node.slots} of {node.slots} slots taken", node.name)


def never_reason(nodes: Sequence[NodeView], capabilities: frozenset[str], batch_id: int | None = None) -> Reason | None:
    """Why no node can ever run this: none has what it needs, or its build (of `batch_id`) failed on all that have.

    A node that was never reached may have anything, so as long as there is one the answer is None.
    """
    if not all(node.probed for node in nodes):
        return None
    capable = [node for node in nodes if capabilities <= node.capabilities]
    if not capable:
        return Reason(Code.NO_NODE, _nobody_has(nodes, capabilities))
    if batch_id is None or not all(batch_id in node.failed for node in capable):
        return None
    failures = (f"{node.name}: {node.failed[batch_id]}" for node in capable)
    return Reason(Code.BUILD_FAILED, f"its build failed on every node that can run it: {'; '.join(failures)}")


def can_ever_run(nodes: Sequence[NodeView], capabilities: frozenset[str], batch_id: int | None = None) -> bool:
    """Whether some node could run this once it is up and free; see `never_reason`."""
    return never_reason(nodes, capabilities, batch_id) is None


def _nobody_has(nodes: Sequence[NodeView], needs: frozenset[str]) -> str:
    if not nodes:
        return "the inventory has no nodes"
    nowhere = needs.difference(*(node.capabilities for node in nodes))
    if nowhere:
        return f"no node of the inventory has {either(nowhere)}"
    nearest = min(nodes, key=lambda node: (len(needs - node.capabilities), node.name))
    wanted, missing = ", ".join(sorted(needs)), either(needs - nearest.capabilities)
    return f"no node of the inventory has all of {wanted}: the nearest, {nearest.name}, has no {missing}"


def either(names: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *most, last = sorted(names)
    return f"{', '.join(most)} or {last}" if most else last
