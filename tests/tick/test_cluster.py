"""What a tick makes of a node that has a queue of its own, Slurm's; and of what overflows to a node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh.coordination.evidence import NotStaged, Published
from distribute_ssh.model.job import Attempt, AttemptState, BuildState, State
from distribute_ssh.plan.reconcile import Sighting
from tests.store.makes import submitted
from tests.tick.made import Ticks, entry


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    """One node that answers."""
    made = Ticks(tmp_path, entry("n1"))
    made.connect("n1")
    yield made
    made.queue.close()


def placed(ticks: Ticks) -> Attempt:
    """A job that is asked for, and has not begun."""
    submitted(ticks.queue, "a")
    ticks.tick()
    for build in ticks.queue.live_builds():
        ticks.see("n1", build.token, "ended", "0")
    ticks.live["n1"] = replace(ticks.live["n1"], staged=frozenset({ticks.attempt("a").token}))
    ticks.tick()
    assert ticks.attempt("a").state is AttemptState.STARTING
    return ticks.attempt("a")


def test_why_a_job_waits_there_is_its_reason_until_it_runs(ticks: Ticks) -> None:
    token = placed(ticks).token
    ticks.see("n1", token, "unstarted", note="waits in Slurm: Priority")
    assert ticks.job("a").reason == "waits in Slurm: Priority"
    ticks.see("n1", token, "running")
    assert (ticks.job("a").state, ticks.job("a").reason) == (State.RUNNING, None)


def test_what_somebody_cancelled_there_is_ended_by_us_too_and_killed(ticks: Ticks) -> None:
    token = placed(ticks).token
    ticked = ticks.see("n1", token, "unstarted", ending=State.KILLED, note="Slurm ended it: CANCELLED")
    assert token in ticked.work["n1"].kill, "what it saved is put aside, its claim is taken"
    ticks.see("n1", token, "ended", "lost")
    ticks.tick(Published("n1", token, None))
    assert (ticks.job("a").state, ticks.job("a").reason) == (
        State.KILLED,
        "cancelled in Slurm, by somebody else than us",
    )


def test_a_time_limit_that_was_slurms_is_one(ticks: Ticks) -> None:
    submitted(ticks.queue, "a")
    ticks.tick()
    token = ticks.run("a").token
    ticks.see("n1", token, "ended", "143", ending=State.TIMEOUT)
    ticks.tick(Published("n1", token, "half of it"))
    assert ticks.job("a").state is State.TIMEOUT


def test_a_build_that_is_refused_says_why_and_the_batch_does_not_come_again(ticks: Ticks) -> None:
    submitted(ticks.queue, "a")
    ticks.tick()
    (build,) = ticks.queue.live_builds()
    ticks.see("n1", build.token, "ended", "refused")
    ticks.tick(Published("n1", build.token, "Invalid partition name specified"))
    assert ticks.job("a").state is State.FAILED
    assert "Slurm refused it: Invalid partition name specified" in (ticks.job("a").reason or "")


def test_a_build_that_was_ended_there_without_a_record_has_failed(ticks: Ticks) -> None:
    submitted(ticks.queue, "a")
    ticks.tick()
    (build,) = ticks.queue.live_builds()
    ticks.see("n1", build.token, "running", ending=State.TIMEOUT, note="Slurm ended it: TIMEOUT on node2")
    (build,) = ticks.queue.live_builds()
    assert (build.state, build.reason) == (BuildState.FAILED, "Slurm ended it: TIMEOUT on node2")


def test_a_build_that_cannot_begin_there_is_not_tried_again_at_once(ticks: Ticks) -> None:
    submitted(ticks.queue, "a")
    ticks.tick()
    (build,) = ticks.queue.live_builds()
    why = "node2 did not find it: is `scratch` a folder they share?"
    ticks.see("n1", build.token, "gone", note=why)
    ticks.tick()
    assert ticks.job("a").state is State.QUEUED
    assert ticks.memory.holdoff["n1", build.batch_id][1] == why


def test_a_start_that_is_not_taken_says_why(ticks: Ticks) -> None:
    token = placed(ticks).token
    ticks.tick(NotStaged("n1", token, "n1: Slurm takes no jobs now: it does not answer"))
    assert ticks.job("a").reason == "n1: Slurm takes no jobs now: it does not answer"
    assert ticks.attempt("a").state is AttemptState.STARTING, "it is asked for again"


def test_what_has_waited_long_enough_overflows_at_that_very_moment(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("desk"), entry("cluster", slots=5))
    ticks.inventory = replace(ticks.inventory, overflow={"cluster": 1800.0})
    ticks.connect("desk", "cluster")
    submitted(ticks.queue, "a", "b")
    began = ticks.now
    ticked = ticks.tick()
    assert [ticks.job(name).node for name in ("a", "b")] == ["desk", None]
    assert ticked.next_at == began + 1800
    ticks.now = began + 1799
    ticks.tick()
    assert ticks.job("b").node is None
    ticks.now = began + 1800
    ticks.tick()
    assert ticks.job("b").node == "cluster"
    ticks.queue.close()


def test_a_sighting_of_a_node_without_such_a_queue_has_nothing_to_say(ticks: Ticks) -> None:
    token = placed(ticks).token
    ticks.connect("n1", a=Sighting(token, "unstarted"))
    assert ticks.job("a").reason is None
