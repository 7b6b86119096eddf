"""What the queue does not know: taken up again where its job waits, or nobody's, and told once it is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh.coordination.books import Live
from distribute_ssh.coordination.evidence import Claim, Connected, Swept
from distribute_ssh.model.job import State
from distribute_ssh.model.resources import Share
from distribute_ssh.node.probe import Facts
from distribute_ssh.plan.reconcile import Sighting
from distribute_ssh.plan.recovery import BROUGHT_BACK
from tests.store.makes import submitted
from tests.tick.made import BOOT, Ticks, entry

UNKNOWN, BUILD = "anyqueue-unknown00", "anyqueue-build0000"


def connect(ticks: Ticks, *sightings: Sighting, strays: frozenset[str] = frozenset()) -> dict[str, bool]:
    there = {sighting.token: sighting for sighting in sightings}
    ticked = ticks.tick(Connected("n1", BOOT, Facts(), there, strays))
    return dict(ticked.work["n1"].orphans)


def test_what_the_queue_never_knew_may_hold_a_result_unless_it_never_began(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    ticks.connect("n1")
    assert connect(ticks, Sighting(UNKNOWN, "running")) == {UNKNOWN: True}
    assert connect(ticks, Sighting(UNKNOWN, "ended", "0")) == {UNKNOWN: True}
    assert connect(ticks, Sighting(UNKNOWN, "unstarted")) == {UNKNOWN: False}
    assert connect(ticks, strays=frozenset({UNKNOWN})) == {UNKNOWN: False}
    assert connect(ticks) == {}


def test_a_late_start_of_what_was_given_up_holds_no_result(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    submitted(ticks.queue, "job")
    ticks.connect("n1")
    token = ticks.run("job").token
    assert connect(ticks, Sighting(token, "running")) == {}
    connect(ticks)  # lost
    connect(ticks)  # and wiped
    assert connect(ticks, Sighting(token, "running")) == {token: False}


def test_what_was_swept_is_told_and_forgotten(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    ticks.connect("n1")
    connect(ticks, Sighting(UNKNOWN, "running"))
    assert ticks.tick(Swept("n1", UNKNOWN, "it was ended", None)).work["n1"].orphans == {}
    (line,) = ticks.queue._connection.execute("SELECT batch_id, who, reason FROM history")
    assert line == (None, "distribute", "it was ended")


def claim(ticks: Ticks, job: str = "job", **fields: object) -> Claim:
    """What the node's script says of an attempt of this job, begun by a queue that was lost."""
    found = ticks.queue.batch("lab/study")
    assert found is not None
    told = Claim("lab", "study", job, 3, found.token, 0, ticks.job(job).input_hash)
    return replace(told, **fields)  # type: ignore[arg-type]  # as the test says


def found(ticks: Ticks, sighting: Sighting, told: Claim, *, built: str = "ended") -> dict[str, bool]:
    """The node connects with it, and with the build it runs in; what of them is nobody's."""
    there = {sighting.token: sighting, BUILD: Sighting(BUILD, built, "0" if built == "ended" else None)}
    claims = {sighting.token: told, BUILD: replace(told, job=None)}
    return dict(ticks.tick(Connected("n1", BOOT, Facts(), there, claims=claims)).work["n1"].orphans)


@pytest.mark.parametrize(("looks", "state"), [("running", State.RUNNING), ("ended", State.ARCHIVING)])
def test_what_a_waiting_job_was_begun_as_is_taken_up_again(tmp_path: Path, looks: str, state: State) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    submitted(ticks.queue, "job", "other")
    ticks.live["n1"] = Live(BOOT, frozenset())
    sighting = Sighting(UNKNOWN, looks, "0" if looks == "ended" else None)
    assert found(ticks, sighting, claim(ticks)) == {}
    attempt = ticks.attempt("job")
    assert (ticks.job("job").state, attempt.token, attempt.number) == (state, UNKNOWN, 3)
    (build,) = ticks.queue.live_builds("n1")
    assert (build.token, build.state) == (BUILD, "built"), "what it runs in is not made anew under it"


@pytest.mark.parametrize(
    "other", [{"input_hash": "others"}, {"batch_token": "anyqueue-another00"}, {"number": 0}, {"job": "gone"}]
)
def test_what_was_begun_as_something_else_is_nobodys(tmp_path: Path, other: dict[str, object]) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    submitted(ticks.queue, "job")
    ticks.live["n1"] = Live(BOOT, frozenset())
    told = replace(claim(ticks), **other)  # type: ignore[arg-type]  # as the test says
    assert found(ticks, Sighting(UNKNOWN, "running"), told)[UNKNOWN]
    assert ticks.queue.attempts(ticks.job("job").id) == []


def test_what_runs_in_a_build_that_is_not_there_is_nobodys(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    submitted(ticks.queue, "job")
    ticks.live["n1"] = Live(BOOT, frozenset())
    assert found(ticks, Sighting(UNKNOWN, "running"), claim(ticks), built="unstarted")[UNKNOWN]


def test_a_job_that_has_another_attempt_by_now_does_not_get_a_second_one(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n2"), entry("n1"))
    submitted(ticks.queue, "job")
    ticks.connect("n2")
    running = ticks.run("job")
    ticks.live["n1"] = Live(BOOT, frozenset())
    assert found(ticks, Sighting(UNKNOWN, "running"), claim(ticks)) == {UNKNOWN: True}, "the build is of use"
    assert ticks.attempt("job").token == running.token


def test_of_two_nodes_that_hold_a_job_one_goes_on_and_what_the_other_has_is_nobodys(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"), entry("n2"))
    submitted(ticks.queue, "job")
    ticks.live["n1"] = ticks.live["n2"] = Live(BOOT, frozenset())
    assert found(ticks, Sighting(UNKNOWN, "running"), claim(ticks)) == {}
    later, build = "anyqueue-later0000", "anyqueue-build0001"
    there = {later: Sighting(later, "running"), build: Sighting(build, "ended", "0")}
    claims = {later: claim(ticks, number=4), build: replace(claim(ticks), job=None)}
    assert ticks.tick(Connected("n2", BOOT, Facts(), there, claims=claims)).work["n2"].orphans == {later: True}
    assert ticks.attempt("job").token == UNKNOWN


def test_jobs_that_share_a_node_are_taken_up_again_with_what_they_asked_for(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1", slots=2))
    submitted(ticks.queue, "one", "two", "three")
    with ticks.queue.transaction() as change:
        change.execute("""UPDATE jobs SET resources = '{"cores":1,"memory_mb":100}'""")
    ticks.live["n1"] = Live(BOOT, frozenset())
    tokens = {name: f"anyqueue-{name:0>8}" for name in ("one", "two", "three")}
    there = {BUILD: Sighting(BUILD, "ended", "0")} | {each: Sighting(each, "running") for each in tokens.values()}
    slots = {"one": 2, "two": 3, "three": 3}  # two cannot be in one slot, whatever is told
    claims = {token: claim(ticks, name, slot=slots[name]) for name, token in tokens.items()}
    told = Connected("n1", BOOT, Facts(), there, claims=claims | {BUILD: replace(claim(ticks, "one"), job=None)})
    (nobodys,) = ticks.tick(told).work["n1"].orphans
    assert nobodys in (tokens["two"], tokens["three"])
    live = [ticks.attempt(name) for name, token in tokens.items() if token != nobodys]
    assert sorted(attempt.slot for attempt in live) == [2, 3]
    assert {attempt.share for attempt in live} == {Share(cores=1, memory_mb=100)}


def test_jobs_brought_back_wait_until_every_node_has_told_what_it_holds(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"), entry("n2"))
    submitted(ticks.queue, "job")
    with ticks.queue.transaction() as change:
        change.execute("UPDATE jobs SET not_before = ?, reason = ?", (ticks.now + 900, BROUGHT_BACK))
    ticks.connect("n1")
    assert ticks.job("job").state is State.QUEUED
    ticks.connect("n2")
    assert ticks.job("job").state is State.STAGING
    assert ticks.job("job").reason is None


def test_a_node_that_stays_silent_holds_them_up_for_a_while_only(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"), entry("n2"))
    submitted(ticks.queue, "job")
    with ticks.queue.transaction() as change:
        change.execute("UPDATE jobs SET not_before = ?, reason = ?", (ticks.now + 900, BROUGHT_BACK))
    ticks.connect("n1")
    ticks.now += 901
    ticks.tick()
    assert ticks.job("job").state is State.STAGING
