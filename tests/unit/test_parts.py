"""Jobs that take a part of a node, and what is kept for large ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from distribute_ssh.model.job import NodeState
from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.plan.deal import HOUR
from distribute_ssh.plan.schedule import (
    Code,
    Placement,
    Reason,
    can_ever_run,
    explain,
    explain_node,
    never_reason,
    place,
)
from distribute_ssh.plan.snapshot import GpuView, NodeView, WorkView
from tests.support.labs import NOW, batch, lab, node, texts


def asks(cores: int = 1, *, memory: int = 0, gpus: int = 0, gpu_memory: int = 0, disk: int = 0) -> Resources:
    return Resources(cores, memory * 1_024, gpus, gpu_memory * 1_024, disk * 1_024)


def takes(cores: int, *, memory: int = 0, gpus: tuple[int, ...] = (), disk: int = 0) -> Share:
    return Share(cores, memory * 1_024, gpus, disk * 1_024)


def full(nodes: list[NodeView], work: list[WorkView], usage: dict[str, float] | None = None) -> list[Placement]:
    return place(lab(nodes, work, usage), NOW)


GPUS = (GpuView(0, 8_192), GpuView(1, 24_576), GpuView(2, 16_384))


def test_jobs_that_say_what_they_take_share_a_node_up_to_what_it_has() -> None:
    given = full([node("lab1", cores=8, memory_mb=16_384)], [batch(1, ready=9, resources=asks(3, memory=4))])
    assert given == [
        Placement(1, "lab1", 0, asks(3, memory=4), takes(3, memory=4)),
        Placement(1, "lab1", 1, asks(3, memory=4), takes(3, memory=4)),
    ]


@pytest.mark.parametrize(
    ("resources", "fit"),
    [
        (asks(2), 2), (asks(1, memory=4), 3), (asks(1, disk=20), 2), (asks(1, gpus=1), 2), (asks(1, gpus=2), 1),
        (asks(1, gpus=1, gpu_memory=12), 1), (asks(1, gpus=2, gpu_memory=12), 0), (asks(8), 0), (asks(1), 5),
    ],
)  # fmt: skip
def test_what_runs_already_counts(resources: Resources, fit: int) -> None:
    shared = node(
        "lab1", "gpu", free=0, cores=8, running={0: takes(3, memory=4, gpus=(1,), disk=10)}, gpus=GPUS, disk_mb=51_200
    )
    assert len(full([shared], [batch(1, "gpu", ready=9, resources=resources)])) == fit


def test_a_job_that_does_not_say_what_it_takes_has_the_machine_for_itself() -> None:
    shared = node("lab1", free=0, running={0: takes(1)})
    assert full([shared], [batch(1)]) == []
    assert texts(lab([shared], [batch(1)]), 1)[1] == "lab1: has 7 of 8 cores free, and it takes them all"
    alone = node("lab1", free=0, running={0: None})
    assert full([alone], [batch(1, resources=asks(1))]) == []
    assert texts(lab([alone], [batch(1, resources=asks(1))]), 1)[1] == "lab1: is busy: 1 of 1 slots taken"


def test_on_a_node_with_slots_each_counts_as_its_part_and_the_rest_is_for_parts() -> None:
    shared = node("lab1", cores=10, slots=3, free_slots=(1, 2), running={0: None, 3: takes(2)})
    assert [one.slot for one in full([shared], [batch(1, ready=9)])] == [1]
    assert [one.slot for one in full([shared], [batch(1, ready=9, resources=asks(1))])] == [4, 5, 6, 7, 8]
    text = texts(lab([replace(shared, running={**shared.running, 4: takes(4)})], [batch(1)]), 1)[1]
    assert text == "lab1: has 1 of 10 cores free, and a slot has 3"


def test_more_slots_than_cores_is_for_the_owner_to_decide() -> None:
    assert len(full([node("lab1", cores=2, free=4)], [batch(1, ready=9)])) == 4


def test_a_gpu_is_given_once_the_smallest_that_will_do_and_then_the_first() -> None:
    nodes = [node("lab1", "gpu", gpus=(*GPUS, GpuView(3, 8_192)))]
    given = full(nodes, [batch(1, "gpu", ready=9, resources=asks(1, gpus=1))])
    assert [one.share and one.share.gpus for one in given] == [(0,), (3,), (2,), (1,)]
    (given,) = full(nodes, [batch(1, "gpu", resources=asks(1, gpus=2, gpu_memory=10))])
    assert given.share == takes(1, gpus=(1, 2))


def test_a_gpu_that_somebody_else_uses_is_not_given_and_explain_says_who_does() -> None:
    ann = GpuView(0, 8_192, used_by="ann (python3)")
    one, two = node("lab1", "gpu", gpus=(ann,)), node("lab1", "gpu", gpus=(ann, GpuView(1, 8_192)))
    for resources in (asks(1, gpus=1), None):
        snapshot = lab([one], [batch(1, "gpu", resources=resources)])
        assert place(snapshot, NOW) == []
        assert texts(snapshot, 1)[1] == "lab1: GPU 0 is used by ann (python3)"
        assert len(full([two], [batch(1, "gpu", resources=resources)])) == 1
    assert len(full([two], [batch(1, "gpu", ready=2, resources=asks(1, gpus=1))])) == 1
    assert texts(lab([two], [batch(1, "gpu", resources=asks(1, gpus=2))]), 1)[1] == (
        "lab1: has 1 of 2 GPUs free: GPU 0 is used by ann (python3)"
    )


def test_a_gpu_has_the_memory_it_is_sold_with_though_it_shows_a_little_less() -> None:
    for shown, asked, fits in ((15_360, 16, 1), (23_028, 24, 1), (16_376, 16, 1), (11_264, 12, 0), (16_384, 24, 0)):
        nodes = [node("lab1", "gpu", gpus=(GpuView(0, shown),))]
        assert len(full(nodes, [batch(1, "gpu", resources=asks(1, gpus=1, gpu_memory=asked))])) == fits


def test_who_wants_all_gpus_and_who_wants_one_do_not_meet() -> None:
    beside = node("lab1", "gpu", slots=2, free_slots=(1,), gpus=GPUS, gpus_shared=True, running={0: None})
    assert full([beside], [batch(1, "gpu", resources=asks(1, gpus=1))]) == []
    assert len(full([beside], [batch(1, "gpu")])) == 1
    one_given = node("lab1", "gpu", free=2, gpus=GPUS, running={2: takes(1, gpus=(2,))})
    assert full([one_given], [batch(1, "gpu")]) == []
    assert len(full([one_given], [batch(1)])) == 1


def test_what_nobody_knows_refuses_nobody() -> None:
    unknown = node("lab1", "gpu", memory_mb=0, gpus=(GpuView(0),))
    assert len(full([unknown], [batch(1, "gpu", resources=asks(1, memory=99, gpus=1, gpu_memory=99, disk=99))])) == 1


def test_parts_go_where_others_are_and_then_where_least_is_left() -> None:
    nodes = [node("a", cores=16), node("b", cores=8), node("c", free=0, cores=16, running={0: takes(14)})]
    given = full(nodes, [batch(1, ready=7, resources=asks(2))])
    assert [one.node for one in given] == ["c", "b", "b", "b", "b", "a", "a"]


def test_a_part_does_not_go_to_a_scarce_node_if_another_has_room() -> None:
    nodes = [node("a", "gpu", free=0, running={0: takes(2)}), node("b"), node("c", free=0)]
    assert [one.node for one in full(nodes, [batch(1, resources=asks(2))])] == ["b"]


def test_what_only_large_nodes_can_run_goes_first_there() -> None:
    nodes = [node("a", cores=32), *(node(f"x{n}", free=0) for n in range(3))]
    work = [batch(1, age=900, ready=99, resources=asks(1)), batch(2, resources=asks(20))]
    assert next(one.batch_id for one in full(nodes, work)) == 2


def test_a_small_part_counts_as_little_of_what_somebody_had() -> None:
    work = [batch(1, who="ana", age=90, ready=9, resources=asks(1)), batch(2, who="ben", ready=2, resources=asks(4))]
    given = Counter(one.batch_id for one in full([node("lab1", cores=8)], work))
    assert given == {1: 4, 2: 1}


def test_of_one_batch_the_jobs_that_ask_for_most_go_first() -> None:
    work = [batch(1, ready=2, resources=asks(1)), batch(1, ready=2, resources=asks(4))]
    assert [one.share.cores for one in full([node("lab1")], work) if one.share] == [4, 4]


SMALL = {0: takes(2), 1: takes(3)}


def test_what_falls_free_is_kept_for_a_large_job_that_waited_for_an_hour() -> None:
    nodes = [node("a", free=0, running={0: takes(6)}), node("b", free=0, running=SMALL)]
    small = batch(1, ready=9, resources=asks(1))
    patient = batch(2, age=HOUR, resources=asks(8))
    assert [one.batch_id for one in full(nodes, [small, patient])] == [1] * 5
    starving = batch(2, age=HOUR + 60, resources=asks(8))
    snapshot = lab(nodes, [small, starving])
    assert [one.node for one in place(snapshot, NOW)] == ["a", "a"]
    assert texts(snapshot, 1)[-1] == "b: is kept free for ns/b2, which has waited 1h1m"
    assert texts(snapshot, 2)[-1] == "b: has 3 of 8 cores free; what is free there is kept for it"
    assert [one.text for one in explain_node(snapshot, "b", NOW)] == [
        "ns/b1: is kept free for ns/b2, which has waited 1h1m",
        "ns/b2: has 3 of 8 cores free",
    ]
    empty = node("b")
    assert Placement(2, "b", 0, asks(8), takes(8)) in full([nodes[0], empty], [small, starving])


def test_a_whole_machine_is_kept_like_a_large_job() -> None:
    nodes = [node("a", free=0, running={0: takes(6)}), node("b", free=0, running=SMALL)]
    work = [batch(1, ready=9, resources=asks(1)), batch(2, age=HOUR + 60)]
    assert [one.node for one in full(nodes, work)] == ["a", "a"]
    assert [one.node for one in full([nodes[0], node("b")], work)] == ["b", "a", "a"]


def test_no_more_is_kept_than_is_waited_for() -> None:
    gpu = node("a", "gpu", free=0, cores=16, gpus=GPUS[:2], running={0: takes(4, gpus=(0,))})
    work = [batch(1, ready=99, resources=asks(1)), batch(2, "gpu", age=2 * HOUR, resources=asks(4, gpus=2))]
    assert len(full([gpu], work)) == 8


def test_only_one_node_of_a_small_lab_is_kept_at_a_time_for_who_waited_longest() -> None:
    nodes = [node("a", free=0, running={0: takes(6)}), node("b", free=0, running={0: takes(5)})]
    small = batch(1, ready=9, resources=asks(1))
    work = [small, batch(2, age=2 * HOUR, resources=asks(8)), batch(3, age=3 * HOUR, resources=asks(7))]
    snapshot = lab(nodes, work)
    assert [one.node for one in place(snapshot, NOW)] == ["a", "a"]
    assert "b: is kept free for ns/b3, which has waited 3h" in texts(snapshot, 1)


def test_nothing_is_kept_where_nobody_asks_for_less() -> None:
    nodes = [node("a", free=0, running={0: takes(6)})]
    work = [batch(1, ready=9, resources=asks(2)), batch(2, age=9 * HOUR, ready=9, resources=asks(2))]
    assert len(full(nodes, work)) == 1


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (asks(32), "has 16 cores, and 32 are asked for"),
        (asks(1, memory=99), "has 64 GiB of memory, and 99 GiB are asked for"),
        (asks(1, gpus=4), "has 3 GPUs, and 4 are asked for"),
        (asks(1, gpus=2, gpu_memory=20), "has 3 GPUs (8 GiB, 24 GiB, 16 GiB), and 2 of 20 GiB are asked for"),
    ],
)
def test_what_no_node_could_ever_give_is_told_at_once(resources: Resources, text: str) -> None:
    nodes = [node("lab1", "gpu", cores=16, memory_mb=65_536, gpus=GPUS, free=0), node("lab2")]
    small = [node("lab1", "gpu", cores=16, memory_mb=65_536, gpus=GPUS, free=0, state=NodeState.DRAINED)]
    reason = never_reason(nodes, frozenset({"gpu"}), 1, resources)
    assert reason is not None
    assert (reason.code, reason.text) == (Code.NO_NODE, f"no node of the inventory is large enough: lab1 {text}")
    snapshot = lab(small, [batch(1, "gpu", resources=resources)])
    assert explain(snapshot, 1, NOW)[1] == Reason(Code.TOO_SMALL, text, "lab1")
    assert can_ever_run(nodes, frozenset({"gpu"}), 1, asks(16, memory=64, gpus=3, disk=9_999))


def test_explain_says_what_of_a_node_is_free() -> None:
    shared = node(
        "lab1", "gpu", free=0, cores=16, gpus=GPUS, running={0: takes(13, memory=9, gpus=(0, 1))}, disk_mb=5_120
    )

    def says(resources: Resources) -> str:
        return texts(lab([shared], [batch(1, "gpu", resources=resources)]), 1)[1]

    assert says(asks(4)) == "lab1: has 3 of 16 cores free"
    assert says(asks(1, memory=8)) == "lab1: has 7 GiB of 16 GiB of memory free"
    assert says(asks(1, gpus=2)) == "lab1: has 1 of 3 GPUs free"
    assert says(asks(1, gpus=1, gpu_memory=20)) == "lab1: has 0 of 3 GPUs of 20 GiB free"
    assert says(asks(1, disk=9)) == "lab1: has 5 GiB of scratch free, and 9 GiB are asked for"


def test_a_batch_whose_jobs_ask_for_different_things_says_it_of_each() -> None:
    work = [batch(1, resources=asks(2)), batch(1, resources=asks(6)), batch(1, ready=0, later=1, next_at=NOW + 5)]
    shared = node("lab1", free=0, running={0: takes(5)})
    assert texts(lab([shared], work), 1) == [
        "6 cores: lab1, the only node that can run it, has 3 of 8 cores free",
        "2 cores: 1 job of 1 can start now",
        "1 job will be tried again, the first in 5s",
        "lab1: 6 cores: has 3 of 8 cores free",
        "lab1: 2 cores: has a slot for it: it starts now",
    ]


def test_what_overflows_waits_for_the_others_first() -> None:
    cluster = node("cluster", accepts_after=1_800.0)
    assert full([cluster], [batch(1, waited=60.0), batch(2, waited=60.0, resources=asks(1))]) == []
    assert [one.batch_id for one in full([cluster], [batch(1, waited=60.0), batch(2, waited=1_800.0)])] == [2]
