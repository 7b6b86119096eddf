"""The outbox: one message for each end of a batch, in the transaction that ends it, and what becomes of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from distribute_ssh.model.job import State
from distribute_ssh.store import outbox
from distribute_ssh.store.outbox import GIVE_UP, KEPT, Message
from distribute_ssh.store.queue import Queue
from tests.store.makes import NOW, brought, placed, submitted

ANN = "@ann:lab.test"


def ended(queue: Queue, *outcomes: State, now: float = NOW, **fields: object) -> int:
    """A batch that has ended so, job by job."""
    names = [f"job{number}" for number in range(len(outcomes))]
    batch_id = submitted(queue, *names, **{"matrix": ANN, "notify": ("mail",)} | fields).batch_id
    for job, outcome in zip(queue.jobs(batch_id), outcomes, strict=True):
        brought(queue, job.id, outcome)
    finish(queue, batch_id, now)
    return batch_id


def finish(queue: Queue, batch_id: int, now: float = NOW) -> bool:
    with queue.transaction() as change:
        return change.finish_batch_if_ended(batch_id, now)


def addressed(queue: Queue, *recipients: str, now: float = NOW) -> list[Message]:
    [message] = queue.due_messages(now)
    with queue.transaction() as change:
        outbox.address(change, message, recipients, now)
    return queue.due_messages(now)


def test_the_end_of_a_batch_puts_one_message_into_the_outbox_and_asking_again_none(queue: Queue) -> None:
    batch_id = ended(queue, State.DONE, State.FAILED)
    assert not finish(queue, batch_id, NOW + 1)
    [message] = queue.messages(10)
    assert (message.state, message.recipient, message.tries, message.at) == ("waiting", None, 0, NOW)
    assert message.notice["to"] == [ANN, "mail"]
    assert message.notice["counts"] == {"done": 1, "failed": 1}


def test_a_transaction_that_is_undone_ends_no_batch_and_tells_nobody(queue: Queue) -> None:
    batch_id = submitted(queue, "a").batch_id
    brought(queue, queue.jobs(batch_id)[0].id, State.DONE)
    with contextlib.suppress(ZeroDivisionError), queue.transaction() as change:
        assert change.finish_batch_if_ended(batch_id, NOW)
        raise ZeroDivisionError
    assert queue.messages(10) == []
    assert finish(queue, batch_id)
    assert len(queue.messages(10)) == 1


def test_a_batch_that_was_tried_again_and_ends_again_tells_again(queue: Queue) -> None:
    batch_id = ended(queue, State.KILLED)
    with queue.transaction() as change:
        assert change.retry(batch_id, None, "ann", NOW) == ["job0"]
    assert not finish(queue, batch_id)
    brought(queue, queue.jobs(batch_id)[0].id, State.DONE)
    assert finish(queue, batch_id, NOW + 5)
    assert [message.notice["counts"] for message in queue.messages(10)] == [{"killed": 1}, {"done": 1}]


def test_failed_jobs_are_told_in_file_order_with_node_and_reason_and_only_some_of_many(queue: Queue) -> None:
    batch_id = submitted(queue, *[f"j{number}" for number in range(9)]).batch_id
    for job in queue.jobs(batch_id)[:8]:
        attempt = placed(queue, job.id, node=f"n{job.id}")
        with queue.transaction() as change:
            for before, after in (("staging", "running"), ("running", "archiving"), ("archiving", "failed")):
                assert change.job(job.id, State(before), State(after), NOW, reason=f"exit 1: said by {attempt.node}")
    brought(queue, queue.jobs(batch_id)[8].id, State.DONE)
    assert finish(queue, batch_id)
    [message] = queue.messages(1)
    told = message.notice["failed"]
    assert [job["name"] for job in told] == ["j0", "j1", "j2", "j3", "j4"]
    assert told[0] == {"name": "j0", "state": "failed", "node": "n1", "reason": "exit 1: said by n1"}
    assert message.notice["unbuilt"] == []


def test_of_a_batch_that_no_node_could_build_the_builds_are_told(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b").batch_id
    with queue.transaction() as change:
        build = change.build_start(batch_id, "n1", queue.new_token(), "build-1", NOW)
        assert build is not None
        for before, after in (("starting", "running"), ("running", "ended"), ("ended", "failed")):
            assert change.build(build.id, before, after, NOW)  # type: ignore[arg-type]  # names of states
        change.build_logged(build.id, "exit 2: no compiler")
        assert change.fail_queued(batch_id, None, "the build failed on every node", NOW) == 2
        assert change.finish_batch_if_ended(batch_id, NOW)
    [message] = queue.messages(1)
    assert message.notice["unbuilt"] == [{"node": "n1", "reason": "exit 2: no compiler"}]
    assert message.notice["failed"] == []


def test_who_killed_a_batch_is_told(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b").batch_id
    with queue.transaction() as change:
        change.request_kill(batch_id, None, "bob", NOW)
        assert change.finish_batch_if_ended(batch_id, NOW)
    [message] = queue.messages(1)
    assert message.notice["killed_by"] == ["bob"]
    assert message.notice["counts"] == {"killed": 2}


def test_a_message_becomes_one_for_each_recipient_once(queue: Queue) -> None:
    ended(queue, State.DONE)
    [before] = queue.due_messages(NOW)
    assert [each.recipient for each in addressed(queue, ANN, "mail", ANN)] == [ANN, "mail"]
    with queue.transaction() as change:
        outbox.address(change, before, ["again"], NOW)
    assert [each.recipient for each in queue.messages(10)] == [ANN, "mail"]
    assert len({each.key for each in queue.messages(10)} | {before.key}) == 3, "each is a message of its own"


def test_a_message_for_nobody_is_gone(queue: Queue) -> None:
    ended(queue, State.DONE)
    assert addressed(queue) == []
    assert queue.messages(10) == []


def test_a_try_is_written_down_before_it_is_made_and_what_was_sent_is_never_due_again(queue: Queue) -> None:
    ended(queue, State.DONE)
    [message] = addressed(queue, ANN)
    with queue.transaction() as change:
        outbox.begin(change, message, NOW, NOW + 30)
    assert queue.due_messages(NOW + 29) == []
    [again] = queue.due_messages(NOW + 30)
    assert (again.tries, again.since, again.trouble) == (1, NOW, "no answer came while we waited")
    with queue.transaction() as change:
        outbox.sent(change, message.id, NOW + 1)
    assert queue.due_messages(NOW + 9e9) == []
    [there] = queue.messages(1)
    assert (there.state, there.trouble, there.ended_at) == ("sent", None, NOW + 1)


def test_trouble_of_a_recipient_holds_back_all_that_waits_for_it_and_nothing_else(queue: Queue) -> None:
    for name in ("one", "two"):
        ended(queue, State.DONE, batch=name)
        with queue.transaction() as change:
            [message] = [each for each in queue.due_messages(NOW) if each.recipient is None]
            outbox.address(change, message, [ANN, "mail"], NOW)
    first = queue.due_messages(NOW)[0]
    assert first.recipient == ANN
    with queue.transaction() as change:
        outbox.begin(change, first, NOW, NOW + 30)
        outbox.failed(change, first, "it is down \udcff", NOW, NOW + 60)
    assert [each.recipient for each in queue.due_messages(NOW + 59)] == ["mail", "mail"]
    assert [(each.tries, each.trouble) for each in queue.due_messages(NOW + 60) if each.recipient == ANN] == [
        (1, "it is down \\udcff"),
        (0, "it is down \\udcff"),
    ]


def test_the_try_after_a_day_is_the_last_one_and_counts_if_it_is_taken(queue: Queue) -> None:
    ended(queue, State.DONE)
    [message] = addressed(queue, ANN)
    with queue.transaction() as change:
        outbox.begin(change, message, NOW, NOW + 30)
    for later, state in ((GIVE_UP - 1, "waiting"), (GIVE_UP, "given up")):
        [message] = queue.due_messages(NOW + later)
        with queue.transaction() as change:
            outbox.begin(change, message, NOW + later, NOW + later)
        assert queue.messages(1)[0].state == state
    assert queue.due_messages(NOW + 9e9) == []
    assert (queue.given_up(NOW + GIVE_UP), queue.given_up(NOW + GIVE_UP + 1)) == (1, 0)
    with queue.transaction() as change:
        outbox.sent(change, message.id, NOW + GIVE_UP + 2)
    assert queue.messages(1)[0].state == "sent"
    assert queue.given_up(0) == 0


def test_a_month_later_what_was_sent_is_forgotten_and_what_waits_is_not(queue: Queue) -> None:
    ended(queue, State.DONE, batch="one")
    sent, waits = addressed(queue, ANN, "mail")
    with queue.transaction() as change:
        outbox.sent(change, sent.id, NOW)
    ended(queue, State.DONE, batch="two", now=NOW + KEPT + 1)
    [message] = [each for each in queue.due_messages(NOW + KEPT + 1) if each.recipient is None]
    with queue.transaction() as change:
        outbox.address(change, message, [], NOW + KEPT + 1)
    assert [each.id for each in queue.messages(10)] == [waits.id]


def test_whom_to_tell_is_kept_with_the_batch_and_changes_when_it_is_submitted_so(path: Path, queue: Queue) -> None:
    submitted(queue, "a", notify=("mail", "chat"))
    batch = queue.batch("lab/study")
    assert batch is not None
    assert batch.notify == ("mail", "chat")
    submitted(queue, "a", notify=(), replace=True)
    batch = queue.batch("lab/study")
    assert batch is not None
    assert batch.notify == ()


def test_whom_to_tell_may_be_nonsense_in_a_queue_that_was_brought_back_and_disturbs_nothing(queue: Queue) -> None:
    batch_id = submitted(queue, "a").batch_id
    brought(queue, queue.jobs(batch_id)[0].id, State.DONE)
    with queue.transaction() as change:
        change.execute("UPDATE batches SET notify = ?", ('[{"a": 1}, 5, null, "", "mail"]',))
        assert change.finish_batch_if_ended(batch_id, NOW)
    assert queue.messages(1)[0].notice["to"] == ["mail"]
