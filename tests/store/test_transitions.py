"""Every pair of states: what the tables allow happens, everything else is refused as a bug."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import pytest

from distribute_ssh.model.job import (
    ACTIVE,
    ATTEMPT_TRANSITIONS,
    BUILD_TRANSITIONS,
    OUTCOMES,
    TRANSITIONS,
    AttemptState,
    BuildState,
    State,
)
from distribute_ssh.store.queue import Queue
from tests.store.makes import NOW, brought, placed, submitted, the_job

PAIRS = list(product(State, State))


def test_the_passages_of_jobs_are_exactly_those_of_the_table(queue: Queue) -> None:
    batch_id = submitted(queue, *[f"{frm}-{to}" for frm, to in PAIRS]).batch_id
    for frm, to in PAIRS:
        job = the_job(queue, batch_id, f"{frm}-{to}")
        brought(queue, job.id, frm)
        legal = to in TRANSITIONS[frm]
        if legal:
            with queue.transaction() as change:
                assert change.job(job.id, frm, to, NOW + 1, who="bob", reason="because")
            last = queue.history(job_id=job.id, limit=1)[0]
            assert (last.before, last.after, last.at, last.who, last.reason) == (frm, to, NOW + 1, "bob", "because")
        else:
            with pytest.raises(AssertionError, match=f"from {frm} to {to}"), queue.transaction() as change:
                change.job(job.id, frm, to, NOW + 1)
        assert the_job(queue, batch_id, job.name).state is (to if legal else frm)


def test_a_passage_from_a_state_the_job_is_not_in_changes_nothing_and_says_so(queue: Queue) -> None:
    batch_id = submitted(queue, *[f"{frm}-{to}" for frm, to in PAIRS]).batch_id
    for actual, frm in PAIRS:
        job = the_job(queue, batch_id, f"{actual}-{frm}")
        brought(queue, job.id, actual)
        before = queue.job_by_id(job.id), queue.history(job_id=job.id)
        for to in TRANSITIONS[frm] if actual is not frm else ():
            with queue.transaction() as change:
                assert not change.job(job.id, frm, to, NOW + 1, reason="no")
        assert (queue.job_by_id(job.id), queue.history(job_id=job.id)) == before


def test_one_illegal_state_among_several_is_refused_whatever_the_job_is_in(queue: Queue) -> None:
    job = the_job(queue, submitted(queue, "a").batch_id, "a")
    with queue.transaction() as change:
        for illegal in ({State.QUEUED, State.DONE}, [State.RUNNING], []):
            with pytest.raises(AssertionError):
                change.job(job.id, illegal, State.KILLED, NOW)
        assert change.job(job.id, {State.QUEUED, State.HELD}, State.KILLED, NOW)


def test_fields_that_are_not_the_callers_to_set_are_refused(queue: Queue) -> None:
    job = the_job(queue, submitted(queue, "a").batch_id, "a")
    with queue.transaction() as change:
        for field in ("state", "input_hash", "id", "name; DROP TABLE jobs"):
            with pytest.raises(AssertionError, match="not to be set here"):
                change.job(job.id, State.QUEUED, State.HELD, NOW, **{field: cast(Any, 1)})
        with pytest.raises(AssertionError, match="not to be set here: color"):
            change.node("n1", color="red")


@pytest.mark.parametrize("state", sorted(OUTCOMES))
def test_an_outcome_notes_when_and_leaves_no_request(queue: Queue, state: State) -> None:
    job = the_job(queue, submitted(queue, "a").batch_id, "a")
    brought(queue, job.id, state, now=NOW + 7)
    ended = queue.job_by_id(job.id)
    assert ended is not None
    assert (ended.state, ended.finished_at, ended.request) == (state, NOW + 7, None)


@pytest.mark.parametrize("state", sorted(state for state in ACTIVE if State.QUEUED in TRANSITIONS[state]))
def test_a_job_that_comes_back_to_the_queue_is_on_no_node_and_keeps_its_number(queue: Queue, state: State) -> None:
    job = the_job(queue, submitted(queue, "a").batch_id, "a")
    brought(queue, job.id, state)
    with queue.transaction() as change:
        assert change.job(job.id, state, State.QUEUED, NOW, losses=1, not_before=NOW + 9, reason="the node was lost")
    back = queue.job_by_id(job.id)
    assert back is not None
    assert (back.node, back.started_at, back.finished_at, back.exit_code) == (None, None, None, None)
    assert (back.attempt, back.losses, back.not_before, back.reason) == (1, 1, NOW + 9, "the node was lost")


ATTEMPT_ROADS: dict[AttemptState, tuple[AttemptState, ...]] = {
    AttemptState.PLACED: (),
    AttemptState.STARTING: (AttemptState.STARTING,),
    AttemptState.RUNNING: (AttemptState.STARTING, AttemptState.RUNNING),
    AttemptState.ENDED: (AttemptState.STARTING, AttemptState.ENDED),
    AttemptState.PUBLISHED: (AttemptState.STARTING, AttemptState.ENDED, AttemptState.PUBLISHED),
    AttemptState.STALE: (AttemptState.STARTING, AttemptState.STALE),
    AttemptState.WIPED: (AttemptState.WIPED,),
}


@pytest.mark.parametrize("frm", AttemptState)
def test_the_passages_of_attempts_are_exactly_those_of_the_table(queue: Queue, frm: AttemptState) -> None:
    batch_id = submitted(queue, *AttemptState).batch_id
    for slot, to in enumerate(AttemptState):
        attempt = placed(queue, the_job(queue, batch_id, to).id, slot=slot)
        at = AttemptState.PLACED
        for step in ATTEMPT_ROADS[frm]:
            with queue.transaction() as change:
                assert change.attempt(attempt.id, at, step, NOW)
            at = step
        legal = to in ATTEMPT_TRANSITIONS[frm]
        if legal:
            with queue.transaction() as change:
                assert change.attempt(attempt.id, frm, to, NOW, exit="0", boot_id="b")
                assert not change.attempt(attempt.id, frm, to, NOW)
        else:
            with pytest.raises(AssertionError, match=f"from {frm} to {to}"), queue.transaction() as change:
                change.attempt(attempt.id, frm, to, NOW)
        [found] = queue.attempts(attempt.job_id)
        assert found.state is (to if legal else frm)


BUILD_ROADS: dict[BuildState, tuple[BuildState, ...]] = {
    BuildState.STARTING: (),
    BuildState.RUNNING: (BuildState.RUNNING,),
    BuildState.ENDED: (BuildState.RUNNING, BuildState.ENDED),
    BuildState.BUILT: (BuildState.ENDED, BuildState.BUILT),
    BuildState.FAILED: (BuildState.ENDED, BuildState.FAILED),
    BuildState.STALE: (BuildState.STALE,),
    BuildState.WIPED: (BuildState.WIPED,),
}


@pytest.mark.parametrize("frm", BuildState)
def test_the_passages_of_builds_are_exactly_those_of_the_table(queue: Queue, frm: BuildState) -> None:
    batch_id = submitted(queue, "a").batch_id
    for to in BuildState:
        with queue.transaction() as change:
            build = change.build_start(batch_id, f"n-{to}", queue.new_token(), "build-1", NOW)
            assert build is not None
            at = BuildState.STARTING
            for step in BUILD_ROADS[frm]:
                assert change.build(build.id, at, step, NOW)
                at = step
        legal = to in BUILD_TRANSITIONS[frm]
        if legal:
            with queue.transaction() as change:
                assert change.build(build.id, frm, to, NOW, exit="0", reason="so")
                assert not change.build(build.id, frm, to, NOW)
        else:
            with pytest.raises(AssertionError, match=f"from {frm} to {to}"), queue.transaction() as change:
                change.build(build.id, frm, to, NOW)
        assert {each.node: each.state for each in queue.builds(batch_id)}[build.node] is (to if legal else frm)
