"""Who had how much, and what happened: sums over attempts and jobs, and events chosen from history."""

from __future__ import annotations

import pytest

from distribute_ssh.model.job import AttemptState, State
from distribute_ssh.store.ledger import Scope, Share
from distribute_ssh.store.queue import Queue
from tests.store.makes import NOW, submitted, the_job


def ran(
    queue: Queue,
    batch_id: int,
    name: str,
    node: str,
    start: float,
    seconds: float | None,
    end: State = State.DONE,
    paused: float = 0.0,
) -> None:
    """Have a job run on a node for so many seconds; None: it still runs."""
    job = the_job(queue, batch_id, name)
    with queue.transaction() as change:
        attempt = change.place(job.id, queue.new_token(), node, 0, start)
        assert attempt is not None
        assert change.attempt(attempt.id, AttemptState.PLACED, AttemptState.STARTING, start)
        assert change.attempt(attempt.id, AttemptState.STARTING, AttemptState.RUNNING, start)
        change.attempt_paused(attempt.id, paused)
        assert change.job(job.id, State.STAGING, State.RUNNING, start, started_at=start)
        if seconds is None:
            return
        over = start + seconds
        assert change.attempt(attempt.id, AttemptState.RUNNING, AttemptState.ENDED, over)
        assert change.job(job.id, State.RUNNING, State.ARCHIVING, over)
        assert change.job(job.id, State.ARCHIVING, end, over)


@pytest.fixture
def used(queue: Queue) -> Queue:
    """Two people's work on two nodes."""
    ann = submitted(queue, "a1", "a2", "a3", batch="one", who="ann", now=NOW).batch_id
    bob = submitted(queue, "b1", batch="two", who="bob", now=NOW).batch_id
    ran(queue, ann, "a1", "n1", NOW, 100)
    ran(queue, ann, "a2", "n2", NOW, 50, State.FAILED, paused=20)
    ran(queue, bob, "b1", "n1", NOW + 200, 300)
    ran(queue, ann, "a3", "n2", NOW + 500, None)
    return queue


def test_each_person_and_each_node_is_told_what_it_had(used: Queue) -> None:
    people, nodes = used.totals(Scope(), NOW + 600)
    assert people == [
        Share("ann", 100 + 30 + 100, 3, {"done": 1, "failed": 1}),
        Share("bob", 300, 1, {"done": 1}),
    ]
    assert nodes == [Share("n1", 400, 2, {"done": 2}), Share("n2", 130, 2, {"failed": 1})]


def test_of_what_began_before_only_the_rest_counts(used: Queue) -> None:
    people, _ = used.totals(Scope(since=NOW + 350), NOW + 600)
    assert people == [Share("ann", 100, 1), Share("bob", 150, 1, {"done": 1})]


def test_totals_can_be_of_one_batch_person_or_node(used: Queue) -> None:
    first = used.batch("lab/one")
    assert first is not None
    assert [share.name for share in used.totals(Scope(batch_id=first.id), NOW + 600)[0]] == ["ann"]
    assert used.totals(Scope(user="bob"), NOW + 600)[1] == [Share("n1", 300, 1, {"done": 1})]
    people, nodes = used.totals(Scope(node="N2"), NOW + 600)
    assert people == [Share("ann", 130, 2, {"failed": 1})]
    assert nodes == [Share("n2", 130, 2, {"failed": 1})]


def test_an_attempt_that_was_given_up_counts_without_time(used: Queue) -> None:
    first = used.batch("lab/one")
    assert first is not None
    (attempt,) = used.attempts(the_job(used, first.id, "a3").id)
    with used.transaction() as change:
        assert change.attempt(attempt.id, AttemptState.RUNNING, AttemptState.STALE, NOW + 550)
    (share,) = used.totals(Scope(batch_id=first.id), NOW + 600)[0]
    assert (share.attempts, share.node_seconds) == (3, 130)


def test_a_queue_in_which_nothing_ran_has_no_totals(queue: Queue) -> None:
    submitted(queue, "a")
    assert queue.totals(Scope(), NOW) == ([], [])


def test_events_are_chosen_by_person_node_time_and_number(used: Queue) -> None:
    with used.transaction() as change:
        first = used.batch("lab/one")
        assert first is not None
        change.request_kill(first.id, None, "eve", NOW + 560)
    everything = used.events(Scope(), 1000)
    assert [event.at for event in everything] == [event.at for event in used.history(limit=1000)]
    assert {event.batch for event in used.events(Scope(user="bob"), 1000)} == {"lab/two"}
    (kill,) = used.events(Scope(user="eve"), 1000)
    assert (kill.job, kill.batch, kill.who) == ("a3", "lab/one", "eve")
    on = used.events(Scope(node="n1"), 1000)
    assert {(event.job, event.node) for event in on} == {("a1", "n1"), ("b1", "n1")}
    assert {event.job for event in used.events(Scope(since=NOW + 450), 1000)} == {"a3", "b1"}
    assert used.events(Scope(), 3) == everything[-3:]
