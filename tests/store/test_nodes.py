"""What the queue remembers of nodes, and jobs that are held back."""

from __future__ import annotations

import pytest

from distribute_ssh.errors import NoMatchError
from distribute_ssh.model.job import AttemptState, State
from distribute_ssh.model.lease import Lease, NodeRequest
from distribute_ssh.store.queue import Queue
from tests.store.makes import NOW, brought, placed, submitted, the_job


def test_a_request_and_a_lease_come_back_as_they_were(queue: Queue) -> None:
    request = NodeRequest("q-request1", NOW, "ana", NOW + 60, "Besuch \udce9 \n", "no answer")
    lease = Lease("q-lease1", NOW + 60, NOW, "ana", None, ("77 vmd", "78 \udcff"))
    with queue.transaction() as change:
        change.node("n1", request=request, lease=lease)
    row = queue.nodes()["n1"]
    assert (row.request, row.lease) == (request, lease)
    with queue.transaction() as change:
        change.node("n1", request=None)
    row = queue.nodes()["n1"]
    assert (row.request, row.lease) == (None, lease)


def test_how_long_an_attempt_was_paused_is_kept_while_it_runs_and_not_changed_later(queue: Queue) -> None:
    job = the_job(queue, submitted(queue, "a").batch_id, "a")
    attempt = placed(queue, job.id)
    with queue.transaction() as change:
        change.attempt_paused(attempt.id, 5.0)
        change.attempt(attempt.id, AttemptState.PLACED, AttemptState.STARTING, NOW)
        change.attempt(attempt.id, AttemptState.STARTING, AttemptState.RUNNING, NOW)
    assert queue.attempts(job.id)[0].paused_seconds == 0.0
    with queue.transaction() as change:
        change.attempt_paused(attempt.id, 7.0)
        change.attempt(attempt.id, AttemptState.RUNNING, AttemptState.ENDED, NOW)
        change.attempt_paused(attempt.id, 9.0)
    assert queue.attempts(job.id)[0].paused_seconds == 7.0


def test_only_what_waits_in_the_queue_is_held_and_only_what_is_held_is_released(queue: Queue) -> None:
    batch = submitted(queue, *State).batch_id
    for state in State:
        brought(queue, the_job(queue, batch, state).id, state)
    with queue.transaction() as change:
        assert change.hold(batch, None, "ana", NOW + 1) == [State.QUEUED]
    assert the_job(queue, batch, State.QUEUED).state is State.HELD
    assert the_job(queue, batch, State.QUEUED).reason == "held by ana"
    with queue.transaction() as change:
        assert change.release(batch, None, "ben", NOW + 2) == [State.QUEUED, State.HELD]
    assert the_job(queue, batch, State.HELD).state is State.QUEUED
    assert the_job(queue, batch, State.HELD).reason is None
    others = set(State) - {State.QUEUED, State.HELD}
    assert {the_job(queue, batch, state).state for state in others} == others


def test_jobs_can_be_held_by_name_and_it_is_told(queue: Queue) -> None:
    batch = submitted(queue, "a", "b", "c").batch_id
    with queue.transaction() as change:
        assert change.hold(batch, ["c", "A"], "ana", NOW + 1) == ["a", "c"]
        assert change.hold(batch, ["c"], "ana", NOW + 2) == []
        with pytest.raises(NoMatchError, match="no job called x"):
            change.hold(batch, ["x"], "ana", NOW + 3)
    assert [job.name for job in queue.ready_jobs(batch, None, 9, NOW + 4)] == ["b"]
    rows = queue.history(batch, the_job(queue, batch, "a").id)
    assert (rows[-1].before, rows[-1].after, rows[-1].who, rows[-1].at) == (State.QUEUED, State.HELD, "ana", NOW + 1)


def test_a_batch_that_is_held_is_not_finished(queue: Queue) -> None:
    batch = submitted(queue, "a").batch_id
    with queue.transaction() as change:
        change.hold(batch, None, "ana", NOW)
        assert not change.finish_batch_if_ended(batch, NOW)
