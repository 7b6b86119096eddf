from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import pytest

from distribute_ssh.errors import BusyError, NoMatchError
from distribute_ssh.model.job import AttemptState, Batch, BuildState, Input, OnNodeLoss, Request, State
from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.store.queue import Queue
from tests.store.makes import NOW, blob, brought, new_job, placed, submission, submitted, the_job

DAY = 86_400.0


def batch_by_name(queue: Queue, name: str) -> Batch:
    batch = queue.batch(f"lab/{name}")
    assert batch is not None
    return batch


def test_a_batch_and_its_jobs_come_back_as_they_were_submitted(queue: Queue) -> None:
    odd = Input(alias="caf\udce9 'x'\n.dat", sha256="0" * 64, size=8 << 30, kind="tree", executable=True)
    job = new_job(
        "a",
        env={"B": "2", "A": "é"},
        time_limit=60,
        max_attempts=3,
        on_node_loss=OnNodeLoss.WAIT,
    )
    result = submitted(queue, job, new_job("b"), init=(odd,), mounts=("/data:ro",), matrix="@ann:lab", source="x: é\n")
    batch = queue.batch("LAB/Study")
    assert batch is not None
    assert batch == queue.batch_by_id(result.batch_id)
    asked = submission(init=(odd,), mounts=("/data:ro",), matrix="@ann:lab")
    for field in ("namespace", "batch", "kind", "capabilities", "matrix", "script", "init", "mounts", "build_hash"):
        assert getattr(batch, field) == getattr(asked, field)
    assert (batch.submitter, batch.submitted_at, batch.finished_at) == ("ann", NOW, None)
    assert queue.source(batch.id) == "x: é\n"
    first, second = queue.jobs(batch.id)
    assert (first.position, first.name, first.state) == (0, "a", State.QUEUED)
    assert (first.script, first.inputs, first.env) == (blob("run"), (blob("a1"),), {"A": "é", "B": "2"})
    assert (first.time_limit, first.max_attempts, first.on_node_loss) == (60.0, 3, OnNodeLoss.WAIT)
    assert (second.position, second.name, second.on_node_loss) == (1, "b", OnNodeLoss.RESCHEDULE)
    assert queue.job(batch.id, "B") == second
    assert queue.jobs_by_id([second.id, 999]) == [second]
    assert queue.batch("lab/none") is None
    assert queue.job(batch.id, "none") is None
    assert queue.job_by_id(999) is None


def test_ready_jobs_come_in_file_order_and_leave_out_what_cannot_start_now(queue: Queue) -> None:
    batch_id = submitted(queue, "z", "y", "x", "w", "v").batch_id
    _, y, x, w, _ = queue.jobs(batch_id)
    with queue.transaction() as change:
        assert change.job(y.id, State.QUEUED, State.HELD, NOW)
        assert change.job(x.id, State.QUEUED, State.STAGING, NOW)
        assert change.job(x.id, State.STAGING, State.QUEUED, NOW, not_before=NOW + 60)
        assert change.job(w.id, State.QUEUED, State.KILLED, NOW)
    assert [job.name for job in queue.ready_jobs(batch_id, None, 10, NOW)] == ["z", "v"]
    assert [job.name for job in queue.ready_jobs(batch_id, None, 1, NOW)] == ["z"]
    assert [job.name for job in queue.ready_jobs(batch_id, None, 10, NOW + 60)] == ["z", "x", "v"]
    [work] = queue.work(NOW)
    assert (work.batch.name, work.ready, work.later, work.next_at, work.held) == ("lab/study", 2, 1, NOW + 60, 1)
    [work] = queue.work(NOW + 60)
    assert (work.ready, work.later, work.next_at, work.held) == (3, 0, None, 1)


def test_batches_without_waiting_jobs_are_no_work(queue: Queue) -> None:
    for name in ("one", "two", "three"):
        submitted(queue, "a", batch=name)
    one, two, _ = queue.batches()
    brought(queue, queue.jobs(one.id)[0].id, State.RUNNING)
    brought(queue, queue.jobs(two.id)[0].id, State.DONE)
    assert [work.batch.batch for work in queue.work(NOW)] == ["three"]
    with queue.transaction() as change:
        assert not change.finish_batch_if_ended(one.id, NOW)
        assert change.finish_batch_if_ended(two.id, NOW + 1)
        assert not change.finish_batch_if_ended(two.id, NOW + 2)
        assert change.recorded(batch_by_name(queue, "two"), NOW + 2)
    assert [batch.batch for batch in queue.batches(live_only=True)] == ["one", "three"]
    assert [batch.finished_at for batch in queue.batches()] == [None, NOW + 1, None]


def test_a_placement_takes_the_job_and_the_slot(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b").batch_id
    a, b = queue.jobs(batch_id)
    attempt = placed(queue, a.id, "n1", 0)
    assert (attempt.job_id, attempt.batch_id, attempt.number, attempt.state) == (a.id, batch_id, 1, AttemptState.PLACED)
    job = the_job(queue, batch_id, "a")
    assert (job.state, job.node, job.attempt) == (State.STAGING, "n1", 1)
    with queue.transaction() as change:
        assert change.place(a.id, queue.new_token(), "n1", 1, NOW) is None
        assert change.place(b.id, queue.new_token(), "n1", 0, NOW) is None
        assert change.place(999, queue.new_token(), "n2", 0, NOW) is None
        with pytest.raises(AssertionError):
            change.place(b.id, "../../etc", "n1", 1, NOW)
    assert the_job(queue, batch_id, "b") == b
    for frm, to in [(AttemptState.PLACED, AttemptState.STARTING), (AttemptState.STARTING, AttemptState.ENDED)]:
        with queue.transaction() as change:
            assert change.attempt(attempt.id, frm, to, NOW)
    # What has ended on the node waits for its archive elsewhere; the slot is free.
    assert placed(queue, b.id, "n1", 0).number == 1
    assert [each.job_id for each in queue.live_attempts("n1")] == [a.id, b.id]
    assert queue.live_attempts("n2") == []
    assert [job.name for job in queue.active_jobs()] == ["a", "b"]


@pytest.mark.parametrize("state", [AttemptState.PLACED, AttemptState.STARTING])
def test_a_placement_that_was_withdrawn_leaves_no_trace_but_history(queue: Queue, state: AttemptState) -> None:
    job = the_job(queue, submitted(queue, "a").batch_id, "a")
    attempt = placed(queue, job.id)
    with queue.transaction() as change:
        if state is AttemptState.STARTING:
            assert change.attempt(attempt.id, AttemptState.PLACED, AttemptState.STARTING, NOW)
        assert change.withdraw(attempt, NOW, reason="n1 is full")
        assert not change.withdraw(attempt, NOW, reason="n1 is full")
    back = queue.job_by_id(job.id)
    assert back is not None
    assert (back.state, back.attempt, back.node, back.reason) == (State.QUEUED, 0, None, "n1 is full")
    assert queue.attempts(job.id) == []
    assert [(row.before, row.after, row.attempt) for row in queue.history(job_id=job.id)] == [
        (State.QUEUED, State.STAGING, 1),
        (State.STAGING, State.QUEUED, 1),
    ]
    assert placed(queue, job.id).number == 1


def test_an_attempt_that_runs_cannot_be_withdrawn(queue: Queue) -> None:
    job = the_job(queue, submitted(queue, "a").batch_id, "a")
    attempt = placed(queue, job.id)
    with queue.transaction() as change:
        assert change.attempt(attempt.id, AttemptState.PLACED, AttemptState.STARTING, NOW)
        assert change.attempt(attempt.id, AttemptState.STARTING, AttemptState.RUNNING, NOW + 2, boot_id="b1")
        assert not change.withdraw(attempt, NOW, reason=None)
    [running] = queue.attempts(job.id)
    assert (running.state, running.started_at, running.boot_id) == (AttemptState.RUNNING, NOW + 2, "b1")
    assert the_job(queue, job.batch_id, "a").state is State.STAGING


def test_a_reason_is_written_only_when_it_is_another_one(queue: Queue) -> None:
    job = the_job(queue, submitted(queue, "a").batch_id, "a")
    with queue.transaction() as change:
        assert change.note(job.id, "storage is full")
        assert not change.note(job.id, "storage is full")
        assert change.note(job.id, "cannot read caf\udce9")
    assert the_job(queue, job.batch_id, "a").reason == "cannot read caf\\udce9"
    with queue.transaction() as change:
        assert change.note(job.id, None)
        assert not change.note(job.id, None)


def test_the_record_of_a_batch_is_due_from_its_submission_and_again_from_its_end(queue: Queue) -> None:
    batch_id = submitted(queue, "a").batch_id
    brought(queue, queue.jobs(batch_id)[0].id, State.DONE)
    running = batch_by_name(queue, "study")
    with queue.transaction() as change:
        assert change.recorded(running, NOW)
        assert not change.recorded(running, NOW)
        assert change.finish_batch_if_ended(batch_id, NOW)
        assert not change.recorded(running, NOW)  # what was written tells of a batch that still ran
    ended = batch_by_name(queue, "study")
    assert queue.batches(live_only=True) == [ended]
    submitted(queue, "a", fresh=True, now=NOW + 9)
    with queue.transaction() as change:
        assert not change.recorded(ended, NOW)  # it has another name by now
        aside, _ = queue.batches()
        assert change.recorded(aside, NOW)
    assert [batch.batch for batch in queue.batches(live_only=True)] == ["study"]


def test_a_batch_that_nothing_can_run_any_more_fails_its_queued_jobs(queue: Queue) -> None:
    batch_id = submitted(queue, "queued", "held", "runs").batch_id
    _, held, runs = queue.jobs(batch_id)
    brought(queue, held.id, State.HELD)
    brought(queue, runs.id, State.RUNNING)
    with queue.transaction() as change:
        assert change.fail_queued(batch_id, None, "the build failed on n1", NOW + 1) == 1
        assert change.fail_queued(batch_id, None, "the build failed on n1", NOW + 1) == 0
    assert [job.state for job in queue.jobs(batch_id)] == [State.FAILED, State.HELD, State.RUNNING]
    failed = the_job(queue, batch_id, "queued")
    assert (failed.reason, failed.finished_at) == ("the build failed on n1", NOW + 1)
    assert queue.history(job_id=failed.id)[-1].after is State.FAILED


def test_why_we_end_an_attempt_is_written_down_once(queue: Queue) -> None:
    attempt = placed(queue, the_job(queue, submitted(queue, "a").batch_id, "a").id)
    with queue.transaction() as change:
        assert change.attempt_ending(attempt.id, State.TIMEOUT)
        assert not change.attempt_ending(attempt.id, State.KILLED)
    assert [each.ending for each in queue.live_attempts()] == [State.TIMEOUT]


# --- kill and retry ---


def test_a_kill_ends_what_waits_and_asks_what_is_active(queue: Queue) -> None:
    batch_id = submitted(queue, "waits", "held", "runs", "done").batch_id
    waits, held, runs, done = queue.jobs(batch_id)
    brought(queue, held.id, State.HELD)
    brought(queue, runs.id, State.RUNNING)
    brought(queue, done.id, State.DONE)
    with queue.transaction() as change:
        told = change.request_kill(batch_id, None, "bob", NOW + 5)
    assert told == [("waits", State.QUEUED), ("held", State.HELD), ("runs", State.RUNNING)]
    assert [job.state for job in queue.jobs(batch_id)] == [State.KILLED, State.KILLED, State.RUNNING, State.DONE]
    [asked] = [job for job in queue.jobs(batch_id) if job.request]
    assert asked.name == "runs"
    assert (asked.request, asked.requested_by) == (Request.KILL, "bob")
    killed = the_job(queue, batch_id, "waits")
    assert (killed.reason, killed.finished_at, killed.request) == ("killed by bob", NOW + 5, None)
    row = queue.history(job_id=waits.id)[-1]
    assert (row.who, row.before, row.after) == ("bob", State.QUEUED, State.KILLED)
    row = queue.history(job_id=runs.id)[-1]
    assert (row.who, row.before, row.after, row.reason) == ("bob", State.RUNNING, None, "kill requested")


def test_a_kill_by_name_concerns_these_jobs_only_and_an_unknown_name_nobody(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b", "c").batch_id
    with queue.transaction() as change:
        with pytest.raises(NoMatchError, match=r"called x, y$"):
            change.request_kill(batch_id, ["a", "x", "y"], "bob", NOW)
        assert change.request_kill(batch_id, [], "bob", NOW) == []
        assert change.request_kill(batch_id, ["B"], "bob", NOW) == [("b", State.QUEUED)]
    assert [job.state for job in queue.jobs(batch_id)] == [State.QUEUED, State.KILLED, State.QUEUED]


def test_a_job_whose_kill_was_asked_for_ends_instead_of_being_queued_again(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b").batch_id
    a, b = queue.jobs(batch_id)
    attempt = placed(queue, a.id)
    brought(queue, b.id, State.RUNNING)
    with queue.transaction() as change:
        change.request_kill(batch_id, None, "bob", NOW)
        assert change.withdraw(attempt, NOW + 1, reason="never started")
        assert change.job(b.id, State.RUNNING, State.QUEUED, NOW + 1, reason="the node was lost")
    for job in queue.jobs(batch_id):
        assert (job.state, job.reason, job.request) == (State.KILLED, "killed by bob", None)
        assert [row.after for row in queue.history(job_id=job.id)][-2:] == [State.QUEUED, State.KILLED]
    assert queue.ready_jobs(batch_id, None, 9, NOW + 9) == []


def test_retry_queues_what_ended_badly_with_a_clean_slate(queue: Queue) -> None:
    states = (State.DONE, State.FAILED, State.TIMEOUT, State.KILLED, State.SKIPPED, State.LOST, State.RUNNING)
    batch_id = submitted(queue, *states).batch_id
    for state in states:
        brought(queue, the_job(queue, batch_id, state).id, state)
    with queue.transaction() as change:
        assert change.retry(batch_id, None, "bob", NOW + 3) == [str(state) for state in states[1:-1]]
        assert change.retry(batch_id, None, "bob", NOW + 3) == []
    again = the_job(queue, batch_id, "failed")
    assert (again.state, again.tries, again.losses, again.attempt) == (State.QUEUED, 0, 0, 1)
    assert (again.node, again.exit_code, again.started_at, again.finished_at, again.reason) == (None,) * 5
    assert queue.history(job_id=again.id)[-1].who == "bob"
    assert placed(queue, again.id, "n9").number == 2


def test_retry_opens_a_finished_batch_and_tries_nodes_again_that_could_not_build(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b").batch_id
    a, b = queue.jobs(batch_id)
    brought(queue, a.id, State.DONE)
    with queue.transaction() as change:
        bad = change.build_start(batch_id, "n1", queue.new_token(), "build-1", NOW)
        good = change.build_start(batch_id, "n2", queue.new_token(), "build-1", NOW)
        assert bad is not None
        assert good is not None
        for build, end in ((bad, BuildState.FAILED), (good, BuildState.BUILT)):
            assert change.build(build.id, BuildState.STARTING, BuildState.ENDED, NOW, exit="1")
            assert change.build(build.id, BuildState.ENDED, end, NOW, reason="no compiler")
        assert change.job(b.id, State.QUEUED, State.FAILED, NOW, reason="no node can build it")
        assert change.finish_batch_if_ended(batch_id, NOW)
        assert change.recorded(batch_by_name(queue, "study"), NOW)
        assert change.retry(batch_id, ["a"], "bob", NOW) == []
    assert queue.batches(live_only=True) == []
    with queue.transaction() as change:
        assert change.retry(batch_id, ["b"], "bob", NOW) == ["b"]
        assert change.build_start(batch_id, "n1", queue.new_token(), "build-1", NOW) is not None
        assert change.build_start(batch_id, "n2", queue.new_token(), "build-1", NOW) is None
    assert [batch.id for batch in queue.batches(live_only=True)] == [batch_id]


# --- builds, nodes, usage ---


def test_a_batch_has_at_most_one_build_on_a_node_and_a_failed_one_counts(queue: Queue) -> None:
    one, two = (submitted(queue, "a", batch=name).batch_id for name in ("one", "two"))
    with queue.transaction() as change:
        first = change.build_start(one, "n1", queue.new_token(), "build-1", NOW)
        assert first is not None
        assert (first.batch_id, first.node, first.build_hash, first.state) == (
            one,
            "n1",
            "build-1",
            BuildState.STARTING,
        )
        assert change.build_start(one, "n1", queue.new_token(), "build-1", NOW) is None
        assert change.build_start(one, "n2", queue.new_token(), "build-1", NOW) is not None
        assert change.build_start(two, "n1", queue.new_token(), "build-1", NOW) is not None
        assert change.build(first.id, BuildState.STARTING, BuildState.RUNNING, NOW + 1, boot_id="b")
        assert change.build(first.id, BuildState.RUNNING, BuildState.ENDED, NOW + 2, exit="1")
        assert change.build(first.id, BuildState.ENDED, BuildState.FAILED, NOW + 3, reason="cc: not found")
        assert change.build_start(one, "n1", queue.new_token(), "build-1", NOW) is None
        assert change.build(first.id, BuildState.FAILED, BuildState.WIPED, NOW)
        assert change.build_start(one, "n1", queue.new_token(), "build-1", NOW) is not None
        change.build_logged(first.id, None)
    [old, *_] = queue.builds(one)
    assert old.log_kept
    with queue.transaction() as change:
        change.build_logged(first.id, "exit 1: cc: not found")
    [old, *_] = queue.builds(one)
    assert (old.started_at, old.ended_at, old.exit, old.reason) == (NOW + 1, NOW + 2, "1", "exit 1: cc: not found")
    assert [(build.batch_id, build.node) for build in queue.live_builds("n1")] == [(two, "n1"), (one, "n1")]
    assert len(queue.live_builds()) == 3


def test_what_is_known_of_a_node_is_kept_field_by_field(queue: Queue) -> None:
    with queue.transaction() as change:
        change.node("n1", facts={"cores": 8, "tools": ["gcc"]}, last_seen=NOW, boot_id="b1")
        change.node("n1", unreachable_since=NOW + 1, unreachable_reason="no route to caf\udce9", failures=[3, 4])
        change.node("n2", drained="new disk")
        change.node("n2")
    nodes = queue.nodes()
    assert list(nodes) == ["n1", "n2"]
    one, two = nodes.values()
    assert (one.facts, one.last_seen, one.boot_id) == ({"cores": 8, "tools": ["gcc"]}, NOW, "b1")
    assert (one.unreachable_since, one.unreachable_reason) == (NOW + 1, "no route to caf\\udce9")
    assert (one.failures, one.drained, one.probation_until) == ((3, 4), None, None)
    assert (two.facts, two.failures, two.drained, two.last_seen) == ({}, (), "new disk", None)
    with queue.transaction() as change:
        change.node("n1", unreachable_since=None, unreachable_reason=None)
    assert queue.nodes()["n1"].unreachable_since is None


def test_what_a_submitter_had_counts_half_after_seven_days(queue: Queue) -> None:
    with queue.transaction() as change:
        change.add_usage("ann", 100.0, NOW)
        change.add_usage("bob", 10.0, NOW)
        change.add_usage("ann", 20.0, NOW + 7 * DAY)
    assert queue.usage(NOW + 7 * DAY) == pytest.approx({"ann": 70.0, "bob": 5.0})
    assert queue.usage(NOW + 14 * DAY) == pytest.approx({"ann": 35.0, "bob": 2.5})
    # A clock that was set back makes nobody's share grow.
    assert queue.usage(NOW) == pytest.approx({"ann": 70.0, "bob": 10.0})


# --- transactions ---


def test_an_error_in_a_transaction_undoes_all_of_it(queue: Queue) -> None:
    job = the_job(queue, submitted(queue, "a").batch_id, "a")
    before = queue.history()

    def fails() -> None:
        with queue.transaction() as change:
            assert change.job(job.id, State.QUEUED, State.HELD, NOW)
            assert the_job(queue, job.batch_id, "a").state is State.HELD  # reading inside sees it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert the_job(queue, job.batch_id, "a") == job
    assert queue.history() == before
    with queue.transaction() as change:
        assert change.job(job.id, State.QUEUED, State.HELD, NOW)


def test_a_coordinator_that_was_superseded_writes_nothing_more(opened: Callable[[], Queue]) -> None:
    command, first, second = opened(), opened(), opened()
    job = the_job(command, submitted(command, "a").batch_id, "a")
    first.take_epoch("head1", "boot1", 11, 111, NOW)
    with first.transaction() as change:
        assert change.job(job.id, State.QUEUED, State.HELD, NOW)
    second.take_epoch("head2", "boot2", 22, 222, NOW)
    with pytest.raises(BusyError, match="process 22 on head2"), first.transaction() as change:
        change.job(job.id, State.HELD, State.QUEUED, NOW)
    assert the_job(first, job.batch_id, "a").state is State.HELD
    for queue, to in ((second, State.QUEUED), (command, State.HELD)):
        with queue.transaction() as change:
            assert change.job(job.id, {State.HELD, State.QUEUED} - {to}, to, NOW)
    first.take_epoch("head1", "boot1", 11, 111, NOW)
    with pytest.raises(BusyError, match="process 11 on head1"), second.transaction():
        pass


def test_the_data_version_tells_what_others_wrote_and_not_what_we_did(opened: Callable[[], Queue]) -> None:
    mine, other = opened(), opened()
    before = mine.data_version()
    submitted(mine, "a")
    assert mine.data_version() == before
    submitted(other, "a", batch="more")
    assert mine.data_version() != before
    assert mine.data_version() == mine.data_version()


def test_a_queue_may_be_handed_to_another_thread(queue: Queue) -> None:
    names: list[str] = []
    thread = Thread(target=lambda: names.append(submitted(queue, "a").name))
    thread.start()
    thread.join()
    assert names == ["lab/study"]
    assert queue.batch("lab/study") is not None


def test_the_contents_that_are_needed_are_those_of_batches_that_are_not_done(queue: Queue) -> None:
    def hashes(*names: str) -> set[str]:
        return {blob(name).sha256 for name in names}

    assert queue.needed_contents() == set()
    batch_id = submitted(queue, "a", "b").batch_id
    over = submitted(queue, "x", batch="over", script=blob("other build")).batch_id
    brought(queue, queue.jobs(over)[0].id, State.DONE)
    a, b = queue.jobs(batch_id)
    brought(queue, a.id, State.DONE)
    brought(queue, b.id, State.ARCHIVING)
    assert queue.needed_contents() == hashes("build", "mesh", "run", "a1", "b1")
    # What shall run once an attempt has been killed is needed as well as what runs now.
    submitted(queue, new_job("b", "2"), replace=True)
    assert queue.needed_contents() == hashes("build", "mesh", "run", "b1", "b2")
    with queue.transaction() as change:
        assert change.job(b.id, State.ARCHIVING, State.FAILED, NOW)
        for attempt in queue.attempts(b.id):
            assert change.attempt(attempt.id, AttemptState.PLACED, AttemptState.WIPED, NOW)
    assert queue.needed_contents() == hashes("build", "mesh", "run", "b2")
    brought(queue, b.id, State.DONE)
    assert queue.needed_contents() == set()


def test_a_batch_was_served_when_its_last_job_was_placed(queue: Queue) -> None:
    one = submitted(queue, "a", "b", "waits", batch="one").batch_id
    submitted(queue, "a", batch="two")
    for slot, job in enumerate(queue.jobs(one)[:2]):
        placed(queue, job.id, slot=slot, now=NOW + slot)
    assert queue.served() == {(one, None): NOW + 1}
    first, second = queue.work(NOW)
    assert (first.batch.batch, first.ready, first.active) == ("one", 1, 2)
    assert (second.batch.batch, second.ready, second.active) == ("two", 1, 0)


SMALL, BIG = Resources(cores=1), Resources(cores=8, memory_mb=16384, gpus=2, gpu_memory_mb=8192, disk_mb=100)


def test_jobs_of_a_batch_are_counted_found_served_and_failed_by_what_they_ask_for(queue: Queue) -> None:
    jobs = [new_job("a", resources=BIG), new_job("b"), new_job("c", resources=SMALL), new_job("d", resources=BIG)]
    batch_id = submitted(queue, *jobs).batch_id
    assert [job.resources for job in queue.jobs(batch_id)] == [BIG, None, SMALL, BIG]
    assert {work.resources: work.ready for work in queue.work(NOW)} == {None: 1, SMALL: 1, BIG: 2}
    assert [job.name for job in queue.ready_jobs(batch_id, BIG, 9, NOW)] == ["a", "d"]
    with queue.transaction() as change:
        a = the_job(queue, batch_id, "a")
        share = Share(8, 16384, (0, 3))
        attempt = change.place(a.id, queue.new_token(), "n1", 0, NOW + 5, share)
    assert attempt is not None
    assert (attempt.share, queue.live_attempts()[0].share) == (share, share)
    assert queue.served() == {(batch_id, BIG): NOW + 5}
    assert {(work.resources, work.ready, work.active) for work in queue.work(NOW)} == {
        (None, 1, 0), (SMALL, 1, 0), (BIG, 1, 1),
    }  # fmt: skip
    with queue.transaction() as change:
        assert change.fail_queued(batch_id, BIG, "no such node", NOW) == 1
    assert {work.resources for work in queue.work(NOW)} == {None, SMALL}
    assert queue.status()["batches"][0]["counts"] == {"failed": 1, "queued": 2, "staging": 1}


def test_history_is_the_last_lines_in_the_order_they_happened(queue: Queue) -> None:
    one, two = (submitted(queue, "a", "b", batch=name).batch_id for name in ("one", "two"))
    for job in (*queue.jobs(one), *queue.jobs(two)):
        brought(queue, job.id, State.RUNNING)
    first = queue.jobs(one)[0]
    assert [row.after for row in queue.history(job_id=first.id)] == [State.STAGING, State.RUNNING]
    assert {row.batch_id for row in queue.history(one)} == {one}
    assert [(row.job, row.after) for row in queue.history(limit=2)] == [("b", State.STAGING), ("b", State.RUNNING)]
    [row, *_] = queue.history(two)
    assert (row.who, row.job_id, row.job, row.before, row.after, row.reason) == (
        "ann",
        *[None] * 4,
        "submitted: 2 jobs",
    )
