from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distribute_ssh.errors import UsageError
from distribute_ssh.model.job import ACTIVE, OUTCOMES, WAITING, AttemptState, Batch, BuildState, Request, State
from distribute_ssh.model.resources import Resources
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.submission import Submitted
from tests.store.makes import NOW, blob, brought, new_job, placed, submitted, the_job

LATER = NOW + 100


def the_batch(queue: Queue, name: str = "lab/study") -> Batch:
    batch = queue.batch(name)
    assert batch is not None
    return batch


def states(queue: Queue, batch_id: int) -> dict[str, State]:
    return {job.name: job.state for job in queue.jobs(batch_id)}


def finished(queue: Queue, **ends: State) -> int:
    """A batch whose jobs have all ended as said."""
    batch_id = submitted(queue, *ends).batch_id
    for name, state in ends.items():
        brought(queue, the_job(queue, batch_id, name).id, state)
    with queue.transaction() as change:
        assert change.finish_batch_if_ended(batch_id, NOW)
    return batch_id


def contents(queue: Queue) -> object:
    """Everything a submission could have changed."""
    batches = queue.batches()
    jobs = [job for batch in batches for job in queue.jobs(batch.id)]
    return batches, jobs, queue.history(limit=10**6), queue._connection.execute("SELECT successor FROM jobs").fetchall()


def test_what_was_submitted_is_seen_by_every_other_process(opened: Callable[[], Queue]) -> None:
    result = submitted(opened(), "a", "b")
    assert result == Submitted(result.batch_id, "lab/study", new=2)
    assert [job.name for job in opened().ready_jobs(result.batch_id, None, 9, NOW)] == ["a", "b"]


def test_the_same_again_changes_nothing_while_the_batch_works(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b", "c", "d").batch_id
    for name, state in (("a", State.DONE), ("b", State.FAILED), ("c", State.RUNNING)):
        brought(queue, the_job(queue, batch_id, name).id, state)
    before = contents(queue)
    result = submitted(queue, "a", "b", "c", "d", now=LATER, who="bob")
    assert result == Submitted(batch_id, "lab/study", kept=1, going=2)
    assert contents(queue) == before


def test_the_same_again_changes_nothing_when_all_is_done(queue: Queue) -> None:
    batch_id = finished(queue, a=State.DONE, b=State.DONE)
    before = contents(queue)
    assert submitted(queue, "a", "b", now=LATER) == Submitted(batch_id, "lab/study", kept=2)
    assert contents(queue) == before


def test_done_and_unchanged_is_kept_and_everything_else_runs(queue: Queue) -> None:
    batch_id = finished(
        queue, kept=State.DONE, changed=State.DONE, failed=State.FAILED, killed=State.KILLED, gone=State.DONE
    )
    before = {job.name: job for job in queue.jobs(batch_id)}
    result = submitted(
        queue, "new", "failed", "kept", new_job("changed", "2"), "killed", now=LATER, who="bob", source="second"
    )
    assert result == Submitted(batch_id, "lab/study", new=1, again=3, kept=1, dropped=1)
    jobs = {job.name: job for job in queue.jobs(batch_id)}
    assert list(jobs) == ["new", "failed", "kept", "changed", "killed"]
    assert {name: job.state for name, job in jobs.items() if name != "kept"} == dict.fromkeys(
        ("new", "failed", "changed", "killed"), State.QUEUED
    )
    kept = jobs["kept"]
    assert (kept.state, kept.node, kept.finished_at) == (State.DONE, before["kept"].node, before["kept"].finished_at)
    changed = jobs["changed"]
    assert (changed.id, changed.input_hash, changed.inputs) == (
        before["changed"].id,
        "changed-2",
        new_job("changed", "2").inputs,
    )
    assert (changed.node, changed.started_at, changed.finished_at, changed.exit_code, changed.reason) == (None,) * 5
    batch = the_batch(queue)
    assert (batch.submitter, batch.submitted_at, batch.finished_at) == ("bob", LATER, None)
    assert queue.source(batch_id) == "second"
    # Attempts go on counting.
    assert placed(queue, changed.id, "n7").number == 2
    assert [attempt.number for attempt in queue.attempts(changed.id)] == [1, 2]


def test_history_and_attempts_outlive_a_job_that_left_its_batch(queue: Queue) -> None:
    batch_id = finished(queue, a=State.DONE, gone=State.FAILED)
    gone = the_job(queue, batch_id, "gone")
    submitted(queue, "a", now=LATER, who="bob")
    assert queue.job(batch_id, "gone") is None
    assert queue.job_by_id(gone.id) is None
    last = queue.history(job_id=gone.id)[-1]
    assert (last.job, last.before, last.after, last.who, last.reason) == (
        "gone",
        State.FAILED,
        None,
        "bob",
        "no longer in the jobs file",
    )
    assert len(queue.attempts(gone.id)) == 1
    # A job that comes back under the name is another one.
    submitted(queue, "a", "gone", now=LATER)
    assert the_job(queue, batch_id, "gone").id > gone.id


def test_other_limits_alone_make_nothing_run_again(queue: Queue) -> None:
    batch_id = finished(queue, a=State.DONE)
    result = submitted(queue, new_job("a", time_limit=5, max_attempts=2), now=LATER)
    assert (result.kept, result.again) == (1, 0)
    job = the_job(queue, batch_id, "a")
    assert (job.state, job.time_limit, job.max_attempts) == (State.DONE, 5.0, 2)


def test_other_build_inputs_give_a_new_token_and_make_all_builds_stale(queue: Queue) -> None:
    batch_id = finished(queue, a=State.DONE, b=State.FAILED)
    old = the_batch(queue)
    roads = {
        BuildState.STARTING: (),
        BuildState.RUNNING: (BuildState.RUNNING,),
        BuildState.ENDED: (BuildState.ENDED,),
        BuildState.BUILT: (BuildState.ENDED, BuildState.BUILT),
    }
    for end, road in roads.items():
        with queue.transaction() as change:
            build = change.build_start(batch_id, f"n-{end}", queue.new_token(), old.build_hash, NOW)
            assert build is not None
            assert build.batch_token == old.token
            for frm, to in zip((BuildState.STARTING, *road), road, strict=False):
                assert change.build(build.id, frm, to, NOW)
    submitted(queue, "a", "b", now=LATER, build_hash="build-2", init=())
    new = the_batch(queue)
    assert (new.id, new.build_hash, new.init) == (batch_id, "build-2", ())
    assert new.token != old.token
    assert {build.state for build in queue.live_builds()} == {BuildState.STALE}
    assert {build.batch_token for build in queue.live_builds()} == {old.token}
    with queue.transaction() as change:
        fresh = change.build_start(batch_id, "n-built", queue.new_token(), "build-2", LATER)
    assert fresh is not None
    assert fresh.batch_token == new.token
    assert placed(queue, the_job(queue, batch_id, "b").id, "n8").batch_token == new.token


def test_the_same_build_inputs_keep_token_and_builds_but_those_that_failed(queue: Queue) -> None:
    batch_id = finished(queue, a=State.FAILED)
    old = the_batch(queue)
    with queue.transaction() as change:
        for node, end in (("good", BuildState.BUILT), ("bad", BuildState.FAILED)):
            build = change.build_start(batch_id, node, queue.new_token(), old.build_hash, NOW)
            assert build is not None
            assert change.build(build.id, BuildState.STARTING, BuildState.ENDED, NOW)
            assert change.build(build.id, BuildState.ENDED, end, NOW)
    submitted(queue, "a", now=LATER)
    assert the_batch(queue).token == old.token
    with queue.transaction() as change:
        assert change.build_start(batch_id, "good", queue.new_token(), old.build_hash, LATER) is None
        assert change.build_start(batch_id, "bad", queue.new_token(), old.build_hash, LATER) is not None


@pytest.mark.parametrize("state", sorted(WAITING | ACTIVE))
@pytest.mark.parametrize("what", ["job", "new", "gone", "limit", "build", "capability"])
def test_a_batch_that_works_is_not_touched_without_replace(queue: Queue, state: State, what: str) -> None:
    batch_id = submitted(queue, "a", "b").batch_id
    brought(queue, the_job(queue, batch_id, "a").id, state)
    brought(queue, the_job(queue, batch_id, "b").id, State.DONE)
    before = contents(queue)
    jobs = {
        "job": ("a", new_job("b", "2")),
        "new": ("a", "b", "c"),
        "gone": ("a",),
        "limit": ("a", new_job("b", time_limit=9)),
    }.get(what, ("a", "b"))
    other: dict[str, dict[str, Any]] = {
        "build": {"build_hash": "2"},
        "capability": {"capabilities": frozenset({"gpu"})},
    }
    with pytest.raises(UsageError, match=rf"(?s)lab/study is still working \(1 {state}\).*--replace"):
        submitted(queue, *jobs, now=LATER, **other.get(what, {}))
    assert contents(queue) == before


def test_names_that_differ_in_case_only_are_one_name_and_refused(queue: Queue) -> None:
    finished(queue, a=State.DONE)
    before = contents(queue)
    for fields in ({"batch": "Study"}, {"namespace": "LAB"}, {"namespace": "LAB", "batch": "other"}):
        with pytest.raises(UsageError, match="upper and lower case"):
            submitted(queue, "a", now=LATER, **fields)
    assert contents(queue) == before


def test_a_job_spelled_otherwise_runs_again_under_its_new_name(queue: Queue) -> None:
    batch_id = finished(queue, a=State.DONE)
    submitted(queue, new_job("A"), now=LATER)
    [job] = queue.jobs(batch_id)
    assert (job.name, job.state) == ("A", State.QUEUED)


# --- replace ---


def test_replace_lets_unchanged_jobs_go_on_and_changes_what_waits(queue: Queue) -> None:
    batch_id = submitted(queue, "runs", "waits", "other", "gone", "done").batch_id
    jobs = {job.name: job for job in queue.jobs(batch_id)}
    brought(queue, jobs["runs"].id, State.RUNNING)
    brought(queue, jobs["done"].id, State.DONE)
    result = submitted(
        queue,
        new_job("runs", time_limit=60),
        "waits",
        new_job("other", "2"),
        "done",
        "new",
        replace=True,
        now=LATER,
    )
    assert result == Submitted(batch_id, "lab/study", new=1, again=1, kept=1, going=2, dropped=1)
    runs = the_job(queue, batch_id, "runs")
    assert (runs.state, runs.request, runs.time_limit) == (State.RUNNING, None, 60.0)
    other = the_job(queue, batch_id, "other")
    assert (other.id, other.state, other.input_hash) == (jobs["other"].id, State.QUEUED, "other-2")
    assert list(states(queue, batch_id)) == ["runs", "waits", "other", "done", "new"]


@pytest.mark.parametrize("end", [State.KILLED, State.DONE, State.FAILED, State.TIMEOUT, State.LOST, State.QUEUED])
def test_an_active_job_with_other_inputs_is_killed_and_then_runs_with_them(queue: Queue, end: State) -> None:
    batch_id = submitted(queue, "a").batch_id
    job = the_job(queue, batch_id, "a")
    brought(queue, job.id, State.ARCHIVING)
    result = submitted(queue, new_job("a", "2", max_attempts=4), replace=True, now=LATER, who="bob")
    assert result == Submitted(batch_id, "lab/study", again=1, stopping=1)
    killing = the_job(queue, batch_id, "a")
    # Until its attempt is over, the row tells what runs.
    assert (killing.state, killing.request, killing.requested_by) == (State.ARCHIVING, Request.KILL, "bob")
    assert (killing.input_hash, killing.inputs, killing.max_attempts) == (job.input_hash, job.inputs, 1)
    with queue.transaction() as change:
        assert change.job(job.id, State.ARCHIVING, end, LATER, reason="stopped", tries=1, losses=1, not_before=9e9)
    again = the_job(queue, batch_id, "a")
    assert (again.state, again.request, again.input_hash, again.max_attempts) == (State.QUEUED, None, "a-2", 4)
    assert (again.tries, again.losses, again.not_before, again.reason, again.finished_at) == (0, 0, 0.0, None, None)
    afters = [row.after for row in queue.history(job_id=job.id)]
    assert afters[-1 if end is State.QUEUED else -2 :] == ([end] if end is State.QUEUED else [end, State.QUEUED])
    assert placed(queue, job.id, "n5").number == 2


def test_a_placement_that_is_withdrawn_gives_way_to_what_was_submitted_in_its_place(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "gone").batch_id
    attempts = [placed(queue, job.id, slot=slot) for slot, job in enumerate(queue.jobs(batch_id))]
    result = submitted(queue, new_job("a", "2"), replace=True, now=LATER)
    assert (result.again, result.dropped, result.stopping) == (1, 1, 2)
    with queue.transaction() as change:
        for attempt in attempts:
            assert change.withdraw(attempt, LATER, reason="never started")
    [job] = queue.jobs(batch_id)
    assert (job.name, job.state, job.input_hash, job.attempt, job.request) == ("a", State.QUEUED, "a-2", 0, None)


@pytest.mark.parametrize("end", [State.KILLED, State.DONE, State.QUEUED])
def test_an_active_job_that_left_the_file_is_killed_and_then_leaves_the_batch(queue: Queue, end: State) -> None:
    batch_id = submitted(queue, "a", "gone").batch_id
    gone = the_job(queue, batch_id, "gone")
    brought(queue, gone.id, State.ARCHIVING)
    attempt = queue.attempts(gone.id)[0]
    result = submitted(queue, "a", replace=True, now=LATER)
    assert result == Submitted(batch_id, "lab/study", going=1, dropped=1, stopping=1)
    assert the_job(queue, batch_id, "gone").request is Request.KILL
    with queue.transaction() as change:
        assert change.job(gone.id, State.ARCHIVING, end, LATER)
        assert queue.job_by_id(gone.id) is None
        # Its attempt is still there, for the node to be cleaned.
        assert change.attempt(attempt.id, AttemptState.PLACED, AttemptState.WIPED, LATER)
    assert states(queue, batch_id) == {"a": State.QUEUED}


def test_other_build_inputs_stop_every_active_job(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b").batch_id
    a = the_job(queue, batch_id, "a")
    brought(queue, a.id, State.RUNNING)
    old = the_batch(queue)
    result = submitted(queue, "a", "b", build_hash="build-2", replace=True, now=LATER)
    assert (result.again, result.stopping, result.going) == (1, 1, 1)
    [attempt] = queue.live_attempts()
    assert attempt.batch_token == old.token != the_batch(queue).token


def test_replace_twice_is_as_good_as_once(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "gone", "b").batch_id
    for name in ("a", "gone"):
        brought(queue, the_job(queue, batch_id, name).id, State.RUNNING)
    jobs = (new_job("a", "2"), "b", "new")
    first = submitted(queue, *jobs, replace=True, now=LATER)
    assert (first.new, first.again, first.going, first.dropped, first.stopping) == (1, 1, 1, 1, 2)
    rows = queue.jobs(batch_id)
    submitted(queue, *jobs, replace=True, now=LATER)
    assert queue.jobs(batch_id) == rows
    # Without the word, too: it is what the batch is already.
    assert submitted(queue, *jobs, now=LATER).going == 2
    assert queue.jobs(batch_id) == rows
    with queue.transaction() as change:
        for name in ("a", "gone"):
            job = the_job(queue, batch_id, name)
            assert change.job(job.id, State.RUNNING, State.ARCHIVING, LATER)
            assert change.job(job.id, State.ARCHIVING, State.KILLED, LATER)
    assert states(queue, batch_id) == dict.fromkeys(("a", "b", "new"), State.QUEUED)
    assert the_job(queue, batch_id, "a").input_hash == "a-2"


def test_the_last_replacement_wins_also_one_that_takes_back(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b").batch_id
    for job in queue.jobs(batch_id):
        brought(queue, job.id, State.ARCHIVING)
    submitted(queue, new_job("a", "2"), replace=True, now=LATER)
    submitted(queue, "a", "b", replace=True, now=LATER)
    with queue.transaction() as change:
        for job in queue.jobs(batch_id):
            # The kill may be under way already, so they are not taken for running on.
            assert job.request is Request.KILL
            assert change.job(job.id, State.ARCHIVING, State.KILLED, LATER)
    assert [(job.name, job.state, job.input_hash) for job in queue.jobs(batch_id)] == [
        ("a", State.QUEUED, "a-1"),
        ("b", State.QUEUED, "b-1"),
    ]


def test_a_kill_after_a_replacement_is_the_last_word(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "gone").batch_id
    for job in queue.jobs(batch_id):
        brought(queue, job.id, State.ARCHIVING)
    submitted(queue, new_job("a", "2"), replace=True, now=LATER)
    with queue.transaction() as change:
        assert len(change.request_kill(batch_id, None, "bob", LATER)) == 2
        for job in queue.jobs(batch_id):
            assert change.job(job.id, State.ARCHIVING, State.KILLED, LATER)
    assert [(job.name, job.state, job.input_hash) for job in queue.jobs(batch_id)] == [("a", State.KILLED, "a-1")]


# --- fresh ---


def test_fresh_sets_the_old_batch_aside_and_runs_everything(queue: Queue) -> None:
    old_id = finished(queue, a=State.DONE, b=State.FAILED)
    old = the_batch(queue)
    result = submitted(queue, "a", "b", fresh=True, now=1_795_001_234.0)
    assert result.moved_to == "lab/study@20261118T112714Z"
    assert (result.new, result.kept) == (2, 0)
    new = the_batch(queue)
    assert (new.id, new.namespace, new.batch) == (result.batch_id, "lab", "study")
    assert new.token != old.token
    assert states(queue, new.id) == {"a": State.QUEUED, "b": State.QUEUED}
    aside = the_batch(queue, result.moved_to)
    assert (aside.id, aside.token) == (old_id, old.token)
    assert states(queue, old_id) == {"a": State.DONE, "b": State.FAILED}
    [move] = queue.moves()
    assert (move.batch_id, move.namespace, move.old, move.new) == (old_id, "lab", "study", "study@20261118T112714Z")
    with queue.transaction() as change:
        change.moved(old_id)
    assert queue.moves() == []


def test_fresh_twice_within_a_second_makes_two_names_and_remembers_both_moves(queue: Queue) -> None:
    first = finished(queue, a=State.DONE)
    second = submitted(queue, "a", fresh=True, now=LATER).batch_id
    brought(queue, the_job(queue, second, "a").id, State.DONE)
    submitted(queue, "a", fresh=True, now=LATER)
    moves = queue.moves()
    assert [(move.batch_id, move.old) for move in moves] == [(first, "study"), (second, "study")]
    assert len({move.new for move in moves}) == 2
    assert len(queue.batches()) == 3


def test_a_batch_set_aside_twice_is_still_moved_from_its_first_name(queue: Queue) -> None:
    finished(queue, a=State.DONE)
    aside = submitted(queue, "a", fresh=True, now=LATER).moved_to
    assert aside is not None
    submitted(queue, "a", batch=aside.partition("/")[2], fresh=True, now=LATER)
    [move] = queue.moves()
    assert move.old == "study"
    assert move.new.startswith(aside.partition("/")[2] + "@")


def test_fresh_of_a_new_name_is_a_plain_submission(queue: Queue) -> None:
    result = submitted(queue, "a", fresh=True)
    assert result == Submitted(result.batch_id, "lab/study", new=1)


def test_fresh_does_not_touch_a_batch_that_works_even_for_the_same(queue: Queue) -> None:
    submitted(queue, "a")
    before = contents(queue)
    with pytest.raises(UsageError, match="still working"):
        submitted(queue, "a", fresh=True, now=LATER)
    assert contents(queue) == before


def test_fresh_with_replace_kills_the_old_batch_under_its_new_name(queue: Queue) -> None:
    old_id = submitted(queue, "waits", "runs").batch_id
    brought(queue, the_job(queue, old_id, "runs").id, State.ARCHIVING)
    result = submitted(queue, "waits", "runs", fresh=True, replace=True, now=LATER, who="bob")
    assert states(queue, result.batch_id) == {"waits": State.QUEUED, "runs": State.QUEUED}
    assert states(queue, old_id) == {"waits": State.KILLED, "runs": State.ARCHIVING}
    job = the_job(queue, old_id, "runs")
    assert job.request is Request.KILL
    with queue.transaction() as change:
        assert change.job(job.id, State.ARCHIVING, State.KILLED, LATER)
    assert states(queue, old_id) == {"waits": State.KILLED, "runs": State.KILLED}
    assert not any(state not in OUTCOMES for state in states(queue, old_id).values())


def test_inputs_of_the_batch_itself_follow_the_last_submission(queue: Queue) -> None:
    finished(queue, a=State.DONE)
    submitted(queue, "a", now=LATER, script=blob("build2"), mounts=("/x",), kind="apptainer", matrix="@bob:lab")
    batch = the_batch(queue)
    assert (batch.script, batch.mounts, batch.kind, batch.matrix) == (
        blob("build2"),
        ("/x",),
        "apptainer",
        "@bob:lab",
    )


def test_other_resources_are_taken_over_by_what_waits_and_make_nothing_run_again(queue: Queue) -> None:
    before, after = Resources(cores=1), Resources(cores=2, gpus=1)
    names = ("done", "waits", "runs")
    batch_id = submitted(queue, *(new_job(name, resources=before) for name in names)).batch_id
    for name, state in (("done", State.DONE), ("runs", State.RUNNING)):
        brought(queue, the_job(queue, batch_id, name).id, state)
    again = submitted(queue, *(new_job(name, resources=after) for name in names), replace=True, now=LATER)
    assert (again.kept, again.going, again.again, again.stopping) == (1, 2, 0, 0)
    assert states(queue, batch_id) == {"done": State.DONE, "waits": State.QUEUED, "runs": State.RUNNING}
    assert {job.resources for job in queue.jobs(batch_id)} == {after}
    assert [(work.resources, work.ready, work.active) for work in queue.work(LATER)] == [(after, 1, 1)]


def test_what_waits_for_an_attempt_to_be_killed_asks_for_what_was_submitted_last(queue: Queue) -> None:
    batch_id = submitted(queue, "a").batch_id
    a = the_job(queue, batch_id, "a")
    brought(queue, a.id, State.RUNNING)
    submitted(queue, new_job("a", "2", resources=Resources(3), slurm={"nodes": 1}), replace=True, now=LATER)
    assert the_job(queue, batch_id, "a").resources is None, "the row tells what runs now"
    with queue.transaction() as change:
        assert change.job(a.id, State.RUNNING, State.QUEUED, LATER)
    a = the_job(queue, batch_id, "a")
    assert (a.resources, a.slurm, a.input_hash) == (Resources(3), {"nodes": 1}, "a-2")
