"""Labs and queues as the decisions see them, in few words."""

from __future__ import annotations

from distribute_ssh.model.job import NodeState
from distribute_ssh.plan.schedule import explain, place
from distribute_ssh.plan.snapshot import NodeView, Snapshot, WorkView

NOW = 1_700_000_000.0


def node(name: str, has: str = "", *, free: int = 1, slots: int | None = None, **fields: object) -> NodeView:
    defaults: dict[str, object] = {
        "state": NodeState.UP,
        "capabilities": frozenset(has.split()),
        "cores": 8,
        "memory_mb": 16_384,
        "slots": max(1, free) if slots is None else slots,
        "free_slots": tuple(range(free)),
    }
    return NodeView(name=name, **{**defaults, **fields})  # type: ignore[arg-type]


def batch(
    batch_id: int, needs: str = "", *, who: str = "ana", age: float = 60.0, ready: int = 1, **fields: object
) -> WorkView:
    defaults: dict[str, object] = {
        "name": f"ns/b{batch_id}",
        "submitter": who,
        "submitted_at": NOW - age,
        "capabilities": frozenset(needs.split()),
        "ready": ready,
    }
    return WorkView(batch_id=batch_id, **{**defaults, **fields})  # type: ignore[arg-type]


def lab(nodes: list[NodeView], work: list[WorkView], usage: dict[str, float] | None = None) -> Snapshot:
    return Snapshot(tuple(nodes), tuple(work), usage or {})


def placed(nodes: list[NodeView], work: list[WorkView], usage: dict[str, float] | None = None) -> list[tuple[int, str]]:
    return [(one.batch_id, one.node) for one in place(lab(nodes, work, usage), NOW)]


def texts(snapshot: Snapshot, batch_id: int) -> list[str]:
    return [f"{one.node}: {one.text}" if one.node else one.text for one in explain(snapshot, batch_id, NOW)]
