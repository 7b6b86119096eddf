"""Who runs next and where, and why something waits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.place import big_lab, measure
from distribute_ssh.errors import NoMatchError
from distribute_ssh.model.job import NodeState
from distribute_ssh.plan.deal import AFFINITY, DAY, TURN, doublings
from distribute_ssh.plan.schedule import (
    Code,
    can_ever_run,
    explain,
    explain_node,
    never_reason,
    place,
)
from distribute_ssh.plan.snapshot import NodeView, WorkView
from tests.support.labs import NOW, batch, lab, node, placed, texts

# --- the rules of order, one by one ---


def test_a_job_goes_only_where_all_it_needs_is_there() -> None:
    assert placed([node("lab1", "gcc"), node("lab2", "gcc gpu")], [batch(1, "gcc gpu", ready=5)]) == [(1, "lab2")]


@pytest.mark.parametrize(
    "closed",
    [
        {"state": NodeState.UNREACHABLE},
        {"state": NodeState.DRAINED},
        {"state": NodeState.PAUSED},
        {"state": NodeState.PROBATION},
        {"probed": False},
        {"free_slots": ()},
        {"failed": {1: "exit 2"}},
        {"holdoff": {1: "no room"}},
        {"trial": True, "slots": 2},
    ],
    ids=lambda fields: next(iter(fields)) + str(next(iter(fields.values()))),
)
def test_nothing_is_placed_where_a_node_is_closed_to_it(closed: dict[str, object]) -> None:
    snapshot = lab([node("lab1", **closed)], [batch(1)])  # type: ignore[arg-type]
    assert place(snapshot, NOW) == []
    assert [reason.node for reason in explain(snapshot, 1, NOW)] == [None, "lab1"]


def test_a_batch_that_failed_to_build_on_one_node_runs_on_the_others() -> None:
    nodes = [node("lab1", failed={1: "exit 2"}), node("lab2"), node("lab3", failed={1: "exit 2"})]
    assert placed(nodes, [batch(1, ready=3)]) == [(1, "lab2")]


def test_a_node_on_trial_gets_one_job_at_a_time() -> None:
    assert placed([node("lab1", free=3, trial=True)], [batch(1, ready=5)]) == [(1, "lab1")]


def test_what_few_nodes_can_run_goes_first_however_young_it_is_and_whoever_asks() -> None:
    nodes = [node("lab1", "gpu"), node("lab2", free=0), node("lab3", free=0)]
    work = [batch(1, age=9_000), batch(2, "gpu", who="ben", age=1)]
    assert placed(nodes, work, {"ben": 1e6}) == [(2, "lab1")]


def test_scarcity_is_counted_for_all_needs_together_and_has_no_favourites() -> None:
    others = [node("lab2", "gpu", free=0), node("lab3", "matlab", free=0), node("lab4", free=0)]
    work = [batch(1, "gpu", age=9_000), batch(2, "matlab", age=8_000), batch(3, "gpu matlab", age=1)]
    assert placed([node("lab1", "gpu matlab"), *others], work) == [(3, "lab1")]


def test_what_most_nodes_have_gives_nobody_precedence() -> None:
    nodes = [node("lab1", "gcc"), *(node(f"lab{n}", "gcc", free=0) for n in (2, 3, 4)), node("lab5", free=0)]
    assert placed(nodes, [batch(1, age=90), batch(2, "gcc", age=10)]) == [(1, "lab1")]


def test_whoever_had_least_lately_goes_first() -> None:
    work = [batch(1, who="ana", age=9_000), batch(2, who="ben", age=1)]
    assert placed([node("lab1")], work, {"ana": 7_200.0, "ben": 0.0}) == [(2, "lab1")]


def test_many_free_slots_are_shared_between_submitters_in_one_go() -> None:
    nodes = [node(f"lab{n}") for n in range(9)]
    work = [batch(n, who="ana", age=100 - n, ready=50) for n in range(4)] + [batch(9, who="ben", age=1, ready=50)]
    submitters = Counter("ben" if batch_id == 9 else "ana" for batch_id, _ in placed(nodes, work))
    assert sorted(submitters.values()) == [4, 5]


def test_somebody_far_behind_gets_slots_until_the_others_are_caught_up_with() -> None:
    nodes = [node(f"lab{n}") for n in range(12)]
    work = [batch(1, who="ana", ready=50), batch(2, who="ben", ready=50)]
    given = Counter(batch_id for batch_id, _ in placed(nodes, work, {"ana": 4 * TURN}))
    assert given == {1: 4, 2: 8}


def test_a_batch_that_is_built_on_a_node_goes_before_an_older_one_there() -> None:
    work = [batch(1, age=500, running=1), batch(2, age=100)]
    assert placed([node("lab1", built=frozenset({2}))], work) == [(2, "lab1")]


def test_being_built_never_holds_up_for_long_a_batch_that_has_no_slot() -> None:
    older = batch(1, age=AFFINITY + 1)
    assert placed([node("lab1", built=frozenset({2}))], [older, batch(2)]) == [(1, "lab1")]
    has_slots = replace(older, running=1)
    assert placed([node("lab1", built=frozenset({2}))], [has_slots, batch(2)]) == [(2, "lab1")]
    just_queued_again = replace(older, ready_since=NOW - 5)
    assert placed([node("lab1", built=frozenset({2}))], [just_queued_again, batch(2)]) == [(2, "lab1")]


def test_one_slot_ends_the_privilege_of_having_had_none() -> None:
    nodes = [node("lab1", built=frozenset({2})), node("lab2", built=frozenset({2}))]
    given = placed(nodes, [batch(1, age=AFFINITY + 1, ready=5), batch(2, ready=5)])
    assert sorted(batch_id for batch_id, _ in given) == [1, 2]


def test_among_equals_the_oldest_batch_goes_first_and_to_its_end() -> None:
    nodes = [node(f"lab{n}") for n in range(4)]
    given = placed(nodes, [batch(1, age=10, ready=9), batch(2, age=20, ready=3)])
    assert [batch_id for batch_id, _ in given] == [2, 2, 2, 1]


def test_a_plain_job_takes_the_node_with_least_to_waste() -> None:
    nodes = [node("a", "gpu matlab", cores=64), node("b", "gpu", cores=64), node("c"), node("d"), node("e"), node("f")]
    assert [name for _, name in placed(nodes, [batch(1, ready=6)])] == ["c", "d", "e", "f", "b", "a"]


def test_a_gpu_job_leaves_a_node_that_has_more_than_a_gpu_to_others() -> None:
    nodes = [node("a", "gpu matlab"), node("b", "gpu"), *(node(f"x{n}", free=0) for n in range(4))]
    assert placed(nodes, [batch(1, "gpu")]) == [(1, "b")]


def test_of_equal_nodes_the_emptiest_is_taken_then_the_one_with_most_cores() -> None:
    nodes = [
        node("a", free=1, slots=2, cores=64),
        node("b", free=2, cores=8),
        node("c", free=2, cores=16),
    ]
    assert [name for _, name in placed(nodes, [batch(1, ready=5)])] == ["c", "b", "a", "c", "b"]


def test_a_job_goes_where_its_batch_is_built_rather_than_where_there_are_more_cores() -> None:
    nodes = [node("a", cores=64), node("b", cores=4, built=frozenset({1}))]
    assert placed(nodes, [batch(1)]) == [(1, "b")]


def test_a_job_does_not_waste_a_scarce_node_because_it_is_built_there() -> None:
    nodes = [node("a", "gpu", built=frozenset({1})), node("b"), node("c", free=0)]
    assert placed(nodes, [batch(1)]) == [(1, "b")]


def test_needs_of_which_nothing_ran_for_a_day_get_one_slot_before_all_scarcity() -> None:
    nodes = [node("lab1", "gpu"), node("lab2", "gpu"), *(node(f"x{n}", state=NodeState.DRAINED) for n in range(5))]
    starved = batch(1, age=2 * DAY, ready=9)
    work = [starved, batch(2, "gpu", ready=9)]
    assert sorted(batch_id for batch_id, _ in placed(nodes, work)) == [1, 2]
    served_lately = batch(3, age=3 * DAY, served_at=NOW - 3_600)
    assert [batch_id for batch_id, _ in placed(nodes, [*work, served_lately])] == [2, 2]


def test_a_day_without_a_slot_makes_up_for_one_doubling_of_what_the_submitter_had() -> None:
    ahead = batch(1, who="ana", age=0.5 * DAY, served_at=NOW - 60, ready=1)
    usage = {"ana": TURN * 0.5, "ben": TURN * 8}
    assert doublings(usage["ben"]) == 3
    nodes = [node("lab1", built=frozenset({1, 2}))]
    assert placed(nodes, [ahead, batch(2, who="ben", age=3.5 * DAY)], usage) == [(1, "lab1")]
    assert placed(nodes, [ahead, batch(2, who="ben", age=4.5 * DAY)], usage) == [(2, "lab1")]


def test_the_first_three_days_of_a_batch_count_like_that_though_it_is_served() -> None:
    nodes = [node("lab1", built=frozenset({1, 2}))]
    old = batch(1, who="ana", age=9 * DAY, served_at=NOW - 60)
    assert placed(nodes, [old, batch(2, who="ben")], {"ana": TURN * 6}) == [(1, "lab1")]
    assert placed(nodes, [old, batch(2, who="ben")], {"ana": TURN * 15}) == [(2, "lab1")]
    assert texts(lab(nodes, [old, batch(2, who="ben")], {"ana": TURN * 6, "ben": TURN}), 2)[1] == (
        "lab1: ns/b1 goes first: it waits for 3d"
    )


# --- what explain says ---


def test_explain_names_for_every_node_what_keeps_the_batch_from_it() -> None:
    snapshot = lab(
        [
            node("lab1", "gcc"),
            node("lab2", "gcc gpu", state=NodeState.PAUSED, reason="ana, until 18:00"),
            node("lab3", "gcc gpu", state=NodeState.UNREACHABLE, reason="no answer since 14:02"),
            node("lab4", "gcc gpu", failed={1: "exit 2: no nvcc"}),
            node("lab5", "gcc gpu", free=0, slots=2),
            node("lab6", "gcc gpu", state=NodeState.DRAINED),
            node("lab7", "gcc gpu", state=NodeState.PROBATION),
            node("lab8", "gcc gpu", free=1, slots=2, trial=True),
            node("lab9", probed=False, state=NodeState.UNREACHABLE),
            node("lab10", "gcc gpu", holdoff={1: "no room on /scratch"}),
        ],
        [batch(1, "gcc gpu", ready=3)],
    )
    reasons = explain(snapshot, 1, NOW)
    assert [(reason.node, reason.code.value, reason.text) for reason in reasons] == [
        (None, "node-busy", "2 of the nodes that can run it are busy, and 6 more away"),
        ("lab1", "no-capability", "has no gpu"),
        ("lab2", "paused-node", "is paused: ana, until 18:00"),
        ("lab3", "unreachable-node", "is unreachable: no answer since 14:02"),
        ("lab4", "build-failed", "could not build it: exit 2: no nvcc"),
        ("lab5", "node-busy", "is busy: 2 of 2 slots taken"),
        ("lab6", "drained-node", "is drained"),
        ("lab7", "probation-node", "is on probation"),
        ("lab8", "probation-node", "is on trial after its probation: one job at a time"),
        ("lab9", "unreachable-node", "was never reached, so nobody knows what it has"),
        ("lab10", "holdoff", "is tried again in a while: no room on /scratch"),
    ]


BUSY = [node(f"x{n}", "gcc", free=0) for n in range(5)]


@pytest.mark.parametrize(
    ("first", "second", "usage", "why"),
    [
        (batch(1, "gpu"), batch(2), {}, "only 1 of 6 nodes have gpu"),
        (batch(1), batch(2, who="ben", age=90), {"ben": 7_200}, "ana had less lately (0s on a node, ben 2h)"),
        (batch(1), batch(2, who="ben", age=90), {"ana": 1, "ben": 9}, "ana had less lately (1s on a node, ben 9s)"),
        (batch(1, age=90), batch(2), {}, "it is older"),
        (batch(7), batch(2, age=90), {}, "it is built there already"),
        (batch(1, age=2 * DAY, ready=1), batch(2, "gpu"), {}, "no job with its needs got a slot for a day"),
        (batch(1, age=3 * DAY), batch(2, served_at=NOW - 5), {}, "it got no slot for 3d"),
        (batch(1), batch(2, age=60), {}, "slots are given out in turn"),
    ],
)  # fmt: skip
def test_explain_says_why_another_batch_goes_first(
    first: WorkView, second: WorkView, usage: dict[str, float], why: str
) -> None:
    snapshot = lab([node("lab1", "gpu gcc", built=frozenset({7})), *BUSY], [first, second], usage)
    assert placed(list(snapshot.nodes), [first, second], usage) == [(first.batch_id, "lab1")]
    overall, *_ = explain(snapshot, second.batch_id, NOW)
    assert (overall.code, overall.text) == (Code.BEHIND, f"on lab1 {first.name} goes first: {why}")


def test_explain_says_that_slots_go_round_where_a_batch_was_ahead_but_was_served_already() -> None:
    snapshot = lab([node("lab1", free=2)], [batch(1, age=90, ready=5), batch(2, who="ben", ready=5)])
    nodes = [node("lab1"), node("lab2")]
    assert texts(snapshot, 1)[0] == "1 job of 5 can start now"
    assert texts(replace(snapshot, nodes=tuple(nodes)), 1)[1:] == [
        "lab1: has a slot for it: it starts now",
        "lab2: ns/b2 goes first: slots are given out in turn",
    ]


def test_explain_says_when_nothing_of_a_batch_is_ready() -> None:
    waiting = batch(1, ready=0, later=2, next_at=NOW + 90, held=1)
    assert texts(lab([node("lab1")], [waiting]), 1) == [
        "2 jobs will be tried again, the first in 1m30s",
        "1 job held back until somebody says `release`",
    ]


def test_explain_has_nothing_to_say_about_a_batch_of_which_nothing_waits() -> None:
    assert explain(lab([node("lab1")], []), 1, NOW) == []


def test_explain_names_the_only_node_that_can_run_it() -> None:
    nodes = [node("lab1", "gpu", state=NodeState.PAUSED, reason="ana"), node("lab2")]
    first = explain(lab(nodes, [batch(1, "gpu")]), 1, NOW)[0]
    assert (first.code, first.text) == (Code.PAUSED, "lab1, the only node that can run it, is paused: ana")


def test_explain_says_when_all_nodes_that_can_run_it_are_away() -> None:
    nodes = [node("lab1", state=NodeState.PAUSED), node("lab2", state=NodeState.UNREACHABLE)]
    first = explain(lab(nodes, [batch(1)]), 1, NOW)[0]
    assert (first.code, first.text) == (Code.AWAY, "all 2 nodes that can run it are away")


@pytest.mark.parametrize(
    ("nodes", "needs", "code", "text"),
    [
        ([], "", "no-node", "the inventory has no nodes"),
        ([node("lab1", "gcc")], "gcc gpu mpi", "no-node", "no node of the inventory has gpu or mpi"),
        (
            [node("lab1", "gcc"), node("lab2", "gpu mpi")], "gcc gpu mpi",
            "no-node", "no node of the inventory has all of gcc, gpu, mpi: the nearest, lab2, has no gcc",
        ),
        (
            [node("lab1", failed={1: "exit 2"}), node("lab2", failed={1: "exit 3"})], "",
            "build-failed", "its build failed on every node that can run it: lab1: exit 2; lab2: exit 3",
        ),
    ],
)  # fmt: skip
def test_a_batch_that_can_never_run_says_so(nodes: list[NodeView], needs: str, code: str, text: str) -> None:
    reason = never_reason(nodes, frozenset(needs.split()), 1)
    assert reason is not None
    assert (reason.code, reason.text, reason.node) == (code, text, None)
    assert not can_ever_run(nodes, frozenset(needs.split()), 1)
    assert explain(lab(nodes, [batch(1, needs)]), 1, NOW)[0] == reason


def test_a_batch_may_run_one_day_where_a_node_is_only_away_or_was_never_reached() -> None:
    assert can_ever_run([node("lab1", "gpu", state=NodeState.DRAINED, free=0)], frozenset({"gpu"}))
    assert can_ever_run([node("lab1", probed=False)], frozenset({"gpu"}))
    assert can_ever_run([node("lab1", failed={1: "exit 2"})], frozenset())
    assert can_ever_run([node("lab1", failed={1: "exit 2"}), node("lab2")], frozenset(), 1)


def test_explain_node_says_why_it_starts_nothing() -> None:
    nodes = [node("lab1"), node("lab2"), node("lab3", free=0), node("lab4", state=NodeState.DRAINED)]
    work = [batch(1), batch(2, "gpu"), batch(3, ready=0, held=2)]
    snapshot = lab(nodes, work)

    def said(name: str) -> list[tuple[str, str]]:
        return [(reason.code.value, reason.text) for reason in explain_node(snapshot, name, NOW)]

    assert said("lab1") == [("next", "starts ns/b1 now")]
    assert said("lab2") == [
        ("idle", "ns/b1: could run here, but its jobs start elsewhere"),
        ("no-capability", "ns/b2: has no gpu"),
        ("held", "ns/b3: 2 jobs held back until somebody says `release`"),
    ]
    assert said("lab3") == [("node-busy", "is busy: 1 of 1 slots taken")]
    assert said("lab4") == [("drained-node", "is drained")]
    assert [one.code for one in explain_node(lab(nodes, []), "lab1", NOW)] == [Code.IDLE]


def test_an_unknown_node_is_answered_with_the_known_ones() -> None:
    with pytest.raises(NoMatchError, match=r"lab9.*\n.*lab1, lab2"):
        explain_node(lab([node("lab1"), node("lab2")], []), "lab9", NOW)


# --- time ---


@pytest.mark.parametrize(
    ("slots", "kinds", "shapes"), [(1, 10, 0), (1, 200, 0), (4, 200, 0), (1, 10, 12), (1, 200, 300)]
)
def test_a_hundred_thousand_jobs_cost_what_their_batches_cost(slots: int, kinds: int, shapes: int) -> None:
    snapshot = big_lab(slots=slots, kinds=kinds, shapes=shapes)
    assert sum(work.ready for work in snapshot.work) == 100_000
    seconds, given = measure(snapshot, rounds=5)
    assert given >= 1_000 * slots
    assert seconds < 0.5  # ten times what it may take on a machine with nothing else to do
