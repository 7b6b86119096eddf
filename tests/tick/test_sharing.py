"""What a tick makes of jobs that say what they need, and of nodes that have it no more when it counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh.coordination.books import Live
from distribute_ssh.coordination.evidence import Connected, NotReady
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.model.job import State
from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.node.probe import Facts, Gpu
from distribute_ssh.plan.readiness import FIRST_PAUSE, GPU_PAUSE
from tests.store.makes import new_job, submitted
from tests.tick.made import BOOT, Ticks, entry

GPUS = tuple(Gpu(number, "nvidia", "NVIDIA A100", 40960, f"GPU-{number}") for number in range(2))
ONE = Resources(cores=1, gpus=1)


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    """One node with eight cores and two GPUs."""
    made = Ticks(tmp_path, replace(entry("n1"), cores=8))
    made.live["n1"] = Live(BOOT, frozenset())
    made.tick(Connected("n1", BOOT, Facts(gpus=GPUS), {}))
    yield made
    made.queue.close()


def shares(ticks: Ticks) -> dict[str, Share | None]:
    """What was given to jobs that are placed."""
    jobs = {job.id: job.name for job in ticks.queue.active_jobs()}
    return {jobs[attempt.job_id]: attempt.share for attempt in ticks.queue.live_attempts()}


def refuse(ticks: Ticks, job: str, reason: str, **found: dict[int, str]) -> None:
    ticks.tick(NotReady("n1", ticks.attempt(job).token, reason, found.get("used", {}), found.get("gone", {})))


def test_jobs_that_share_a_node_are_given_what_they_asked_for(ticks: Ticks) -> None:
    jobs = [new_job("small", resources=Resources(cores=1)), *(new_job(f"gpu{n}", resources=ONE) for n in range(3))]
    submitted(ticks.queue, *jobs)
    work = ticks.tick().work["n1"]
    assert sorted(shares(ticks)) == ["gpu0", "gpu1", "small"]
    assert {share.gpus for share in shares(ticks).values() if share} == {(), (0,), (1,)}
    assert len({attempt.attempt.slot for attempt in work.attempts}) == 3
    assert work.shared == {ticks.job("small").batch_id}


def test_a_gpu_that_others_hold_is_given_to_nobody_for_a_while_and_everybody_can_see_why(ticks: Ticks) -> None:
    submitted(ticks.queue, new_job("a", resources=ONE), new_job("b", resources=ONE), new_job("c", resources=ONE))
    ticks.tick()
    (held,) = [name for name, share in shares(ticks).items() if share and share.gpus == (0,)]
    refuse(ticks, held, "GPU 0 is used by bob (python3)", used={0: "bob (python3)"})
    assert (ticks.job(held).state, ticks.job(held).reason) == (State.QUEUED, "n1: GPU 0 is used by bob (python3)")
    assert {share.gpus for share in shares(ticks).values() if share} == {(1,)}
    # Any process may ask: it is written down with what was found on the node.
    (view,) = snapshot(ticks.queue, ticks.inventory, ticks.now).nodes
    assert [gpu.used_by for gpu in view.gpus] == ["bob (python3)", None]
    ticks.now += GPU_PAUSE + 1
    ticks.tick()
    assert {share.gpus for share in shares(ticks).values() if share} == {(0,), (1,)}


def test_a_gpu_that_died_is_taken_out_until_the_node_is_probed_anew(ticks: Ticks) -> None:
    submitted(ticks.queue, new_job("a", resources=Resources(gpus=2)), new_job("b", resources=ONE))
    ticks.tick()
    placed = next(iter(shares(ticks)))
    refuse(ticks, placed, "GPU 0 does not answer any more (NVIDIA A100)", gone={0: "NVIDIA A100"})
    facts = Facts.from_json(ticks.queue.nodes()["n1"].facts)
    assert [gpu.index for gpu in facts.gpus] == [1]
    assert facts.broken == {"GPU 0": "does not answer any more (NVIDIA A100)"}
    assert {share.gpus for share in shares(ticks).values() if share} <= {(1,)}
    ticks.tick(Connected("n1", BOOT, Facts(gpus=GPUS), {}))
    (view,) = snapshot(ticks.queue, ticks.inventory, ticks.now).nodes
    assert len(view.gpus) == 2


def test_a_node_without_enough_left_gets_nothing_of_the_batch_at_growing_pauses(ticks: Ticks) -> None:
    submitted(ticks.queue, new_job("a", resources=Resources(cores=1, memory_mb=0)))
    length = FIRST_PAUSE
    for _ in range(3):
        ticks.tick()
        assert ticks.job("a").state is State.STAGING
        refuse(ticks, "a", "has 1 GiB of memory free now, and 8 GiB are asked for")
        assert ticks.job("a").state is State.QUEUED
        assert ticks.job("a").attempt == 0, "nothing was begun"
        ticks.now += length - 1
        ticks.tick()
        assert ticks.job("a").state is State.QUEUED
        ticks.now += 2
        length *= 2


def test_what_comes_too_late_changes_nothing(ticks: Ticks) -> None:
    submitted(ticks.queue, new_job("a", resources=ONE))
    ticks.tick()
    ticks.run("a")
    refuse(ticks, "a", "too late", used={0: "bob"})
    assert ticks.job("a").state is State.RUNNING


def test_a_small_part_of_a_node_costs_its_submitter_a_small_part(ticks: Ticks) -> None:
    submitted(ticks.queue, new_job("a", resources=Resources(cores=2)))
    ticks.tick()
    attempt = ticks.run("a")
    ticks.now += 400
    ticks.see("n1", attempt.token, "ended", "0")
    assert ticks.queue.usage(ticks.now)["ann"] == pytest.approx(100)
