"""What a tick makes of pauses: no new work there, jobs that follow their node, time limits that do not count them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute_ssh.coordination.evidence import Leased, Lost, NotObeyed
from distribute_ssh.model.job import State
from distribute_ssh.model.lease import NodeRequest
from distribute_ssh.plan.reconcile import Sighting
from tests.store.makes import new_job, submitted
from tests.tick.made import Ticks, entry

TOKEN = "queue1-request1"


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Ticks]:
    """Two nodes that answer."""
    ticks = Ticks(tmp_path, entry("n1"), entry("n2"))
    ticks.connect("n1", "n2")
    yield ticks
    ticks.queue.close()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Ticks]:
    """One node that answers."""
    ticks = Ticks(tmp_path, entry("n1"))
    ticks.connect("n1")
    yield ticks
    ticks.queue.close()


def ask(ticks: Ticks, node: str, seconds: float | None = 600) -> NodeRequest:
    until = None if seconds is None else ticks.now + seconds
    request = NodeRequest(TOKEN, ticks.now, "ana", until, "visitors")
    with ticks.queue.transaction() as change:
        change.node(node, request=request)
    return request


def states(ticks: Ticks, *jobs: str) -> list[State]:
    return [ticks.job(job).state for job in jobs]


# --- requests ---


def test_what_is_asked_is_handed_to_its_node_until_it_answers(two: Ticks) -> None:
    request = ask(two, "n1")
    assert two.tick().work["n1"].request == request
    assert two.tick().work["n2"].request is None
    assert two.tick(Leased("n1", two.lease())).work["n1"].request == request, "a look is no answer"
    assert two.tick(Leased("n1", two.lease(), TOKEN)).work["n1"].request is None
    assert two.queue.nodes()["n1"].lease == two.lease()


def test_an_answer_to_another_request_leaves_this_one(two: Ticks) -> None:
    request = ask(two, "n1")
    assert two.tick(Leased("n1", None, "queue1-request0")).work["n1"].request == request


@pytest.mark.parametrize("trouble", [Lost("n1", "no answer"), NotObeyed("n1", TOKEN, "no answer")])
def test_a_request_that_failed_says_why_and_stays(two: Ticks, trouble: Lost | NotObeyed) -> None:
    ask(two, "n1")
    request = two.tick(trouble).work["n1"].request
    assert request is not None
    assert request.trouble == "no answer"


def test_a_pause_whose_time_passed_unheard_is_given_up_and_a_resume_never(two: Ticks) -> None:
    ask(two, "n1", 600)
    ask(two, "n2", None)
    two.now += 601
    two.tick()
    rows = two.queue.nodes()
    assert rows["n1"].request is None
    assert rows["n2"].request is not None


def test_who_asks_a_node_that_nobody_connects_to_is_told_so(two: Ticks) -> None:
    ask(two, "elsewhere")
    two.tick()
    request = two.queue.nodes()["elsewhere"].request
    assert request is not None
    assert "does not connect to it" in (request.trouble or "")


# --- work ---


def test_nothing_is_placed_on_a_node_that_is_asked_to_pause_or_does(two: Ticks) -> None:
    ask(two, "n1")
    submitted(two.queue, "a", "b")
    two.tick()
    assert two.job("a").node == "n2"
    assert two.job("b").state is State.QUEUED
    two.tick(Leased("n1", two.lease(), TOKEN))
    assert two.job("b").state is State.QUEUED
    two.now += 599
    two.tick()
    assert two.job("b").state is State.QUEUED
    # Its time is over: the node needs not say so.
    two.now += 1
    two.tick()
    assert two.job("b").node == "n1"


def test_when_a_pause_ends_is_when_the_next_tick_is_due(one: Ticks) -> None:
    lease = one.lease(3)
    assert one.tick(Leased("n1", lease)).next_at == lease.until


def test_what_was_only_placed_there_goes_elsewhere(two: Ticks) -> None:
    submitted(two.queue, "a")
    two.tick()
    first = two.job("a").node
    assert first is not None
    assert two.job("a").state is State.STAGING
    ask(two, first)
    two.tick()
    assert two.job("a").state is State.STAGING
    assert two.job("a").node not in (None, first)
    assert two.job("a").attempt == 1, "it was never there"


def test_a_job_follows_its_attempt_and_says_who_paused_it(one: Ticks) -> None:
    submitted(one.queue, "a")
    one.tick()
    attempt = one.run("a")
    one.tick(Leased("n1", one.lease(), TOKEN))
    assert one.job("a").state is State.RUNNING, "until it was seen"
    one.see("n1", attempt.token, "running", paused=True, paused_seconds=1.0)
    assert one.job("a").state is State.PAUSED
    assert one.job("a").reason == "its node was paused by ana: visitors"
    one.see("n1", attempt.token, "running", paused=True, paused_seconds=2.0)
    one.tick(Leased("n1", None))
    assert one.job("a").state is State.PAUSED
    started = one.job("a").started_at
    one.see("n1", attempt.token, "running", paused_seconds=3.0)
    assert one.job("a").state is State.RUNNING
    assert one.job("a").reason is None
    assert one.job("a").started_at == started
    assert one.attempt("a").paused_seconds == 3.0
    history = [row.after for row in one.queue.history(job_id=one.job("a").id)]
    assert history[-3:] == [State.RUNNING, State.PAUSED, State.RUNNING]


def test_a_job_that_ends_while_its_node_is_paused_ends(one: Ticks) -> None:
    submitted(one.queue, "a")
    one.tick()
    attempt = one.run("a")
    one.see("n1", attempt.token, "running", paused=True)
    one.see("n1", attempt.token, "ended", "0")
    assert one.job("a").state is State.ARCHIVING


def test_a_job_that_is_killed_while_paused_is_ended(one: Ticks) -> None:
    batch = submitted(one.queue, "a").batch_id
    one.tick()
    attempt = one.run("a")
    one.see("n1", attempt.token, "running", paused=True)
    with one.queue.transaction() as change:
        change.request_kill(batch, None, "ben", one.now)
    assert one.tick().work["n1"].kill == {attempt.token}


# --- time limits ---


@pytest.fixture
def limited(one: Ticks) -> Ticks:
    """A job runs that may do so for a minute."""
    submitted(one.queue, new_job("a", time_limit=60.0))
    one.tick()
    one.run("a")
    return one


def is_to_end(ticks: Ticks) -> bool:
    return ticks.attempt("a").ending is State.TIMEOUT


def test_without_a_pause_the_limit_is_the_limit(limited: Ticks) -> None:
    limited.now += 59
    limited.tick()
    assert not is_to_end(limited)
    limited.now += 1
    limited.tick()
    assert is_to_end(limited)


def test_time_that_was_paused_does_not_count(limited: Ticks) -> None:
    token = limited.attempt("a").token
    limited.now += 50
    limited.see("n1", token, "running", paused_seconds=30.0)
    limited.now += 39
    assert limited.tick().next_at == limited.now + 1
    assert not is_to_end(limited)
    limited.now += 1
    limited.tick()
    assert is_to_end(limited)


def test_nobody_is_ended_while_paused_or_before_it_was_seen_to_go_on(limited: Ticks) -> None:
    token = limited.attempt("a").token
    limited.see("n1", token, "running", paused=True)
    limited.now += 1000
    limited.tick(Leased("n1", limited.lease()))
    assert not is_to_end(limited)
    limited.tick(Leased("n1", None))
    assert not is_to_end(limited), "nobody knows yet how long it was paused"
    limited.see("n1", token, "running", paused_seconds=1000.0)
    assert not is_to_end(limited)
    limited.now += 60
    limited.tick()
    assert is_to_end(limited)


def test_nobody_is_ended_on_a_node_that_is_asked_to_pause(limited: Ticks) -> None:
    ask(limited, "n1")
    limited.now += 100
    limited.tick()
    assert not is_to_end(limited)


def test_nobody_is_ended_on_a_silent_node_which_may_have_been_paused_from_its_desk(limited: Ticks) -> None:
    token = limited.attempt("a").token
    limited.live.clear()
    limited.tick(Lost("n1", "no answer"))
    limited.now += 100
    limited.tick()
    assert not is_to_end(limited)
    limited.connect("n1", a=Sighting(token, "running", paused_seconds=90.0))
    assert not is_to_end(limited)
    limited.now += 60
    limited.tick()
    assert is_to_end(limited)


def test_paused_time_is_not_held_against_the_submitter(limited: Ticks) -> None:
    token = limited.attempt("a").token
    limited.now += 50
    limited.see("n1", token, "running", paused_seconds=30.0)
    limited.see("n1", token, "ended", "0")
    assert limited.queue.usage(limited.now) == {"ann": 20.0}
