"""Which paused jobs are attempted elsewhere, and which go on waiting."""

from __future__ import annotations

from dataclasses import replace

from distribute_ssh.model.job import NodeState
from distribute_ssh.plan.moving import Paused, moves
from distribute_ssh.plan.snapshot import NodeView, Snapshot, WorkView

HOUR = 3600.0


def node(name: str, *, free: int = 1, **fields: object) -> NodeView:
    known = {"state": NodeState.UP, "capabilities": frozenset({"gcc"}), "cores": 8, "memory_mb": 0, "slots": 4}
    return NodeView(name=name, free_slots=tuple(range(free)), **{**known, **fields})  # type: ignore[arg-type]


def paused(token: str = "t1", hours: float = 3, *, worked: float = 0.0, needs: str = "gcc", on: str = "desk") -> Paused:
    work = WorkView(1, "ns/b", "ana", 0.0, frozenset(needs.split()), 1)
    return Paused(token, on, work, hours * HOUR, worked * HOUR, move_after=2 * HOUR)


def going(nodes: list[NodeView], *jobs: Paused) -> list[str]:
    return moves(Snapshot(tuple(nodes), ()), jobs)


DESK = node("desk", free=0, state=NodeState.PAUSED)


def test_a_job_that_stood_still_for_long_goes_where_a_slot_is_free() -> None:
    assert going([DESK, node("lab1")], paused()) == ["t1"]


def test_it_waits_as_long_as_its_node_asks() -> None:
    assert going([DESK, node("lab1")], paused(hours=1.9)) == []
    assert going([DESK, node("lab1")], paused(hours=2)) == ["t1"]


def test_it_stays_where_nobody_else_could_take_it_now() -> None:
    for other in (
        node("lab1", free=0),
        node("lab1", state=NodeState.PAUSED),
        node("lab1", state=NodeState.DRAINED),
        node("lab1", state=NodeState.UNREACHABLE),
        node("lab1", capabilities=frozenset()),
        node("lab1", failed={1: "exit 1"}),
        node("lab1", holdoff={1: "its disk is full"}),
        node("lab1", probed=False),
    ):
        assert going([DESK, other], paused()) == []
    assert going([replace(DESK, state=NodeState.UP, free_slots=(0,))], paused()) == [], "not to where it is"


def test_what_it_had_worked_is_not_thrown_away_for_a_shorter_wait() -> None:
    assert going([DESK, node("lab1")], paused(hours=3, worked=3.1)) == []
    assert going([DESK, node("lab1")], paused(hours=3, worked=3)) == ["t1"]


def test_a_slot_is_promised_to_one_job_and_who_waits_longest_goes_first() -> None:
    jobs = paused("t1", 3), paused("t2", 5), paused("t3", 4)
    assert going([DESK, node("lab1")], *jobs) == ["t2"]
    assert going([DESK, node("lab1"), node("lab2")], *jobs) == ["t2", "t3"]
    assert going([DESK, node("lab1", free=2), node("gpu", capabilities=frozenset({"gpu", "gcc"}))], *jobs) == [
        "t2", "t3", "t1",
    ]  # fmt: skip


def test_a_job_that_nobody_can_take_keeps_no_other_from_going() -> None:
    assert going([DESK, node("lab1")], paused("t1", 9, needs="gpu"), paused("t2")) == ["t2"]
