"""What a tick makes of a node's owner: pauses nobody typed, hours, and jobs that stood still for too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from distribute_ssh.coordination.evidence import Connected, Leased, Watched
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import AttemptState, NodeState, OnNodeLoss, State
from distribute_ssh.model.lease import Lease, NodeRequest
from distribute_ssh.model.owner import Activity, Reading
from distribute_ssh.node.probe import Facts
from tests.store.makes import new_job, submitted
from tests.tick.made import Ticks, entry

QUIET = 600.0
NOBODY = Reading("tty", "nobody has a terminal")
TYPED = Reading("tty", "ana at pts/3", 0.0)
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()  # a Monday

Make = Callable[..., Ticks]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A queue whose node n1 has these settings; further nodes have none. It is Monday noon, in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    made: list[Ticks] = []

    def ticks(*others: str, **fields: object) -> Ticks:
        first: NodeEntry = replace(entry("n1"), **fields)  # type: ignore[arg-type]  # as the test says
        made.append(Ticks(tmp_path, first, *map(entry, others)))
        made[0].now = NOON
        made[0].connect("n1", *others)
        return made[0]

    yield ticks
    made[0].queue.close()
    monkeypatch.undo()
    time.tzset()


def request(ticks: Ticks) -> NodeRequest | None:
    return ticks.queue.nodes()["n1"].request


def obey(ticks: Ticks) -> Lease:
    """The node does what it is asked."""
    asked = request(ticks)
    assert asked is not None
    assert asked.until is not None
    before = ticks.queue.nodes()["n1"].lease
    since = before.since if before is not None and before.token == asked.token else ticks.now
    lease = Lease(asked.token, asked.until, since, asked.who, asked.reason)
    ticks.tick(Leased("n1", lease, asked.token))
    return lease


def state(ticks: Ticks) -> tuple[NodeState, str | None]:
    view = snapshot(ticks.queue, ticks.inventory, ticks.now, connected=frozenset(ticks.live)).nodes[0]
    return view.state, view.reason


# --- activity ---


def test_a_node_whose_owner_is_there_is_asked_to_pause_and_gets_no_job(make: Make) -> None:
    ticks = make("n2", pause_when_active=QUIET)
    submitted(ticks.queue, "a", "b")
    work = ticks.tick(Watched("n1", (TYPED,))).work["n1"]
    assert work.request == request(ticks)
    assert work.request is not None
    assert (work.request.until, work.request.yields) == (NOON + QUIET, True)
    assert {ticks.job(job).node for job in "ab"} == {"n2", None}
    obey(ticks)
    assert request(ticks) is None
    assert state(ticks) == (NodeState.PAUSED, "until 12:10 by its owner's activity: ana at pts/3")


def test_a_node_that_nobody_uses_is_left_alone(make: Make) -> None:
    ticks = make(pause_when_active=QUIET)
    ticks.tick(Watched("n1", (NOBODY,)))
    assert request(ticks) is None
    assert state(ticks)[0] is NodeState.UP


def test_without_the_setting_what_is_read_changes_nothing(make: Make) -> None:
    ticks = make()
    ticks.tick(Watched("n1", (TYPED,)))
    assert request(ticks) is None


def test_as_long_as_the_owner_types_it_is_one_pause_that_is_extended(make: Make) -> None:
    ticks = make(pause_when_active=QUIET)
    ticks.tick(Watched("n1", (TYPED,)))
    first = obey(ticks)
    ticks.now += 100
    ticks.tick(Watched("n1", (TYPED,)))
    assert request(ticks) is None, "most of it is left"
    ticks.now += 100
    ticks.tick(Watched("n1", (TYPED,)))
    second = obey(ticks)
    assert (second.token, second.until) == (first.token, ticks.now + QUIET)
    # And then nobody comes any more.
    ticks.now = second.until
    ticks.tick(Leased("n1", None), Watched("n1", (NOBODY,)))
    assert request(ticks) is None
    assert state(ticks)[0] is NodeState.UP


def test_another_coordinator_knows_whose_pause_it_is_and_what_was_seen(make: Make) -> None:
    ticks = make(pause_when_active=QUIET)
    ticks.tick(Watched("n1", (TYPED,)))
    lease = obey(ticks)
    ticks.memory = type(ticks.memory)()
    ticks.now += 400
    ticks.tick(Watched("n1", (TYPED,)))
    asked = request(ticks)
    assert asked is not None
    assert asked.token == lease.token


def test_a_pause_or_a_wish_of_a_person_is_never_touched(make: Make) -> None:
    ticks = make(pause_when_active=QUIET)
    ticks.tick(Leased("n1", ticks.lease(60)), Watched("n1", (TYPED,)))
    assert request(ticks) is None
    theirs = NodeRequest("queue1-request1", ticks.now, "ana", None)
    with ticks.queue.transaction() as change:
        change.node("n1", request=theirs)
    ticks.tick(Watched("n1", (TYPED,)))
    assert request(ticks) == theirs


@pytest.mark.parametrize("by", ["the command", "the desk"])
def test_whoever_says_resume_is_not_overruled_for_a_while(make: Make, by: str) -> None:
    ticks = make(pause_when_active=QUIET)
    ticks.tick(Watched("n1", (TYPED,)))
    obey(ticks)
    ticks.now += 60
    if by == "the command":
        with ticks.queue.transaction() as change:
            change.node("n1", request=NodeRequest("queue1-request1", ticks.now, "ana"))
        ticks.tick(Leased("n1", None, "queue1-request1"))
    else:
        ticks.tick(Leased("n1", None))
    for _ in range(39):
        ticks.tick(Watched("n1", (TYPED,)))
        assert request(ticks) is None
        ticks.now += 15
    ticks.now += 16
    ticks.tick(Watched("n1", (TYPED,)))
    assert request(ticks) is not None, "they are there still, and it was said long ago"


def test_a_resume_that_was_said_while_it_was_to_be_extended_wins(make: Make) -> None:
    ticks = make(pause_when_active=QUIET)
    ticks.tick(Watched("n1", (TYPED,)))
    obey(ticks)
    ticks.now += 400
    ticks.tick(Watched("n1", (TYPED,)))
    asked = request(ticks)
    assert asked is not None
    assert asked.extends
    ticks.tick(Leased("n1", None, asked.token), Watched("n1", (TYPED,)))
    assert request(ticks) is None
    assert state(ticks)[0] is NodeState.UP


def test_a_pause_that_a_restart_ended_was_ended_by_nobody(make: Make) -> None:
    ticks = make(pause_when_active=QUIET)
    ticks.tick(Watched("n1", (TYPED,)))
    obey(ticks)
    ticks.live["n1"] = replace(ticks.live["n1"], boot_id="boot-2")
    ticks.tick(Watched("n1", (TYPED,)), Connected("n1", "boot-2", Facts(), {}), Leased("n1", None))
    assert request(ticks) is not None


def test_a_node_that_does_not_answer_is_not_asked(make: Make) -> None:
    ticks = make(pause_when_active=QUIET)
    ticks.live.clear()
    ticks.tick(Watched("n1", (TYPED,)))
    assert request(ticks) is None


def test_what_was_read_last_is_there_to_be_shown(make: Make) -> None:
    ticks = make(pause_when_active=QUIET)
    ticks.tick(Watched("n1", (NOBODY,)))
    assert ticks.queue.nodes()["n1"].activity == Activity(NOON, (NOBODY,))


# --- hours ---


def test_outside_its_hours_a_node_takes_no_job_and_what_runs_is_paused_piece_by_piece(make: Make) -> None:
    ticks = make(hours="not 13:00-23:00", max_pause=4 * 3600.0)
    submitted(ticks.queue, "a", "b")
    assert ticks.tick().next_at == NOON + 3600
    ticks.run("a")
    ticks.now = NOON + 3600
    ticks.tick()
    lease = obey(ticks)
    assert (lease.who, lease.reason, lease.until) == ("its hours", "not 13:00-23:00", ticks.now + 4 * 3600)
    for clock in (15, 17, 19):
        ticks.now = NOON + (clock - 12) * 3600
        ticks.tick()
        piece = obey(ticks)
        assert (piece.token, piece.until) == (lease.token, ticks.now + 4 * 3600)
    ticks.now += 2 * 3600
    ticks.tick()
    assert request(ticks) is None, "it lasts until they begin again, and no longer"
    ticks.see("n1", ticks.attempt("a").token, "running", paused=True)
    assert ticks.job("a").reason == "its node was paused by its hours: not 13:00-23:00"
    assert ticks.job("b").state is State.QUEUED
    ticks.now = NOON + 11 * 3600
    ticks.tick(Leased("n1", None))
    assert request(ticks) is None
    assert state(ticks) == (NodeState.UP, None)


def test_whoever_ends_such_a_pause_lets_go_on_what_runs_and_nothing_begins(make: Make) -> None:
    ticks = make(hours="not 13:00-23:00")
    ticks.now = NOON + 3600
    ticks.tick()
    obey(ticks)
    ticks.now += 60
    ticks.tick(Leased("n1", None))
    assert request(ticks) is None
    assert state(ticks) == (NodeState.PAUSED, "until 23:00 by its hours: not 13:00-23:00")
    submitted(ticks.queue, "a")
    ticks.tick()
    assert ticks.job("a").state is State.QUEUED
    ticks.now += 24 * 3600
    ticks.tick()
    assert request(ticks) is not None, "the hours began and ended again"


def test_of_hours_and_activity_what_lasts_longer_counts(make: Make) -> None:
    ticks = make(hours="not 11:00-13:00", pause_when_active=QUIET)
    ticks.tick(Watched("n1", (TYPED,)))
    assert obey(ticks).who == "its hours"
    ticks.now = NOON + 3600 - 60
    ticks.tick(Watched("n1", (TYPED,)))
    asked = request(ticks)
    assert asked is not None
    assert asked.who == "its owner's activity", "the hours begin in a minute, and somebody is there"


# --- moving ---


@pytest.fixture
def stuck(make: Make) -> Ticks:
    """A job runs on n1, which is paused, for a minute; n2 has its hands full."""
    ticks = make("n2", move_after=7200.0)
    with ticks.queue.transaction() as change:
        change.node("n2", drained="later")
    submitted(ticks.queue, "a")
    ticks.tick()
    ticks.run("a")
    ticks.now += 60
    ticks.tick(Leased("n1", ticks.lease(8 * 3600)))
    ticks.see("n1", ticks.attempt("a").token, "running", paused=True)
    return ticks


def free(ticks: Ticks) -> None:
    with ticks.queue.transaction() as change:
        change.node("n2", drained=None)


def test_a_job_that_stood_still_for_long_is_attempted_elsewhere_and_stopped_here(stuck: Ticks) -> None:
    first = stuck.attempt("a")
    free(stuck)
    stuck.now += 7199
    stuck.tick()
    assert stuck.job("a").state is State.PAUSED
    stuck.now += 1
    assert stuck.tick().work["n1"].kill == {first.token}
    stuck.tick()
    assert stuck.job("a").node == "n2"
    assert stuck.attempt("a").number == 2
    assert [attempt.state for attempt in stuck.queue.attempts(stuck.job("a").id)] == [
        AttemptState.STALE,
        AttemptState.PLACED,
    ]
    assert (stuck.job("a").tries, stuck.job("a").losses) == (0, 0), "nothing is held against it"
    reasons = [row.reason for row in stuck.queue.history(job_id=stuck.job("a").id)]
    assert "it stood still on n1 for 2h: attempted elsewhere" in reasons


def test_it_waits_until_a_slot_is_free_that_nobody_else_could_use(stuck: Ticks) -> None:
    stuck.now += 3 * 3600
    stuck.tick()
    assert stuck.job("a").state is State.PAUSED
    submitted(stuck.queue, "other", batch="more")
    free(stuck)
    stuck.tick()
    assert stuck.job("a").state is State.PAUSED
    assert stuck.job("other", "lab/more").node == "n2"


def test_a_batch_that_says_wait_is_not_moved(make: Make) -> None:
    ticks = make("n2", move_after=7200.0)
    with ticks.queue.transaction() as change:
        change.node("n2", drained="later")
    submitted(ticks.queue, new_job("a", on_node_loss=OnNodeLoss.WAIT))
    ticks.tick()
    ticks.run("a")
    ticks.tick(Leased("n1", ticks.lease(8 * 3600)))
    ticks.see("n1", ticks.attempt("a").token, "running", paused=True)
    free(ticks)
    ticks.now += 3 * 3600
    ticks.tick()
    assert ticks.job("a").state is State.PAUSED


def test_a_job_that_is_to_be_killed_is_not_moved(stuck: Ticks) -> None:
    batch = stuck.queue.batch("lab/study")
    assert batch is not None
    with stuck.queue.transaction() as change:
        change.request_kill(batch.id, None, "ben", stuck.now)
    free(stuck)
    stuck.now += 3 * 3600
    stuck.tick()
    assert stuck.attempt("a").ending is State.KILLED


def test_what_it_had_worked_counts_against_moving_it(stuck: Ticks) -> None:
    # A pause of before does not count as work.
    stuck.see("n1", stuck.attempt("a").token, "running", paused_seconds=0.0)
    stuck.now += 4 * 3600
    stuck.tick(Leased("n1", None), Leased("n1", stuck.lease(8 * 3600)))
    stuck.see("n1", stuck.attempt("a").token, "running", paused=True)
    free(stuck)
    stuck.now += 3 * 3600
    stuck.tick()
    assert stuck.job("a").state is State.PAUSED
    stuck.now += 3600 + 60
    stuck.tick()
    assert stuck.job("a").state is State.QUEUED


def test_nothing_is_moved_from_a_node_that_does_not_ask_for_it(make: Make) -> None:
    ticks = make("n2")
    submitted(ticks.queue, "a")
    ticks.tick()
    node = ticks.job("a").node
    assert node is not None
    ticks.run("a")
    ticks.tick(Leased(node, ticks.lease(8 * 3600)))
    ticks.see(node, ticks.attempt("a").token, "running", paused=True)
    ticks.now += 7 * 3600
    ticks.tick()
    assert ticks.job("a").state is State.PAUSED
