"""Following a batch: what a look tells, and that it tells everything once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute_ssh.cli.app import App
from distribute_ssh.cli.follow import Lines
from distribute_ssh.following import HISTORY, Watch
from distribute_ssh.model.job import State
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.submission import Submitted
from distribute_ssh.views.progress import Passage, Picture
from tests.store.makes import submitted

FACTS = {"cores": 8, "memory_mb": 32000, "tools": {"python3": "3.11", "gcc": "12"}}


@pytest.fixture
def app(home: Path) -> Iterator[App]:
    app = App()
    yield app
    app.close()


def watch(app: App, done: Submitted) -> Watch:
    batch = app.queue.batch_by_id(done.batch_id)
    assert batch is not None
    return Watch(app, batch)


def place(queue: Queue, done: Submitted, name: str, slot: int, now: float) -> None:
    job = queue.job(done.batch_id, name)
    assert job is not None
    with queue.transaction() as change:
        assert change.place(job.id, queue.new_token(), "lab1", slot, now)


def move(queue: Queue, done: Submitted, name: str, to: State, now: float, **fields: object) -> None:
    job = queue.job(done.batch_id, name)
    assert job is not None
    with queue.transaction() as change:
        assert change.job(job.id, job.state, to, now, **fields)  # type: ignore[arg-type]


def test_every_passage_is_told_once_and_where_the_job_is(app: App, queue: Queue, now: float) -> None:
    done = submitted(queue, "a", "b", now=now)
    followed = watch(app, done)
    assert followed.look(None).passages == []
    place(queue, done, "a", 0, now)
    (passage,) = followed.look(None).passages
    assert (passage.job, passage.state, passage.node) == ("a", State.STAGING, "lab1")
    assert list(followed.look(None).passages) == []


def test_a_job_that_came_far_between_two_looks_is_told_by_its_last_state(app: App, queue: Queue, now: float) -> None:
    done = submitted(queue, "a", now=now)
    followed = watch(app, done)
    place(queue, done, "a", 0, now)
    move(queue, done, "a", State.RUNNING, now, started_at=now)
    move(queue, done, "a", State.ARCHIVING, now)
    move(queue, done, "a", State.FAILED, now + 5, reason="exit 3: no", exit_code=3)
    (passage,) = followed.look(None).passages
    assert passage == Passage(now + 5, "a", State.FAILED, "lab1", "exit 3: no", 5.0)


def test_nothing_is_missed_however_much_happened_between_two_looks(app: App, queue: Queue, now: float) -> None:
    names = [f"job{n}" for n in range(3 * HISTORY)]
    done = submitted(queue, *names, now=now)
    followed = watch(app, done)
    with queue.transaction() as change:
        change.request_kill(done.batch_id, None, "ann", now)
    assert {each.job for each in followed.look(None).passages} == set(names)


def test_what_is_on_a_node_is_shown_with_its_counts(app: App, queue: Queue, now: float) -> None:
    done = submitted(queue, "a", "b", "c", now=now)
    submitted(queue, "other", now=now, batch="other")
    followed = watch(app, done)
    place(queue, done, "b", 1, now)
    picture = followed.look(None)
    assert [(each.job, each.node) for each in picture.active] == [("b", "lab1")]
    assert picture.counts == {"queued": 2, "staging": 1}
    assert picture.progress == (0, 3)


def test_while_only_waiting_it_says_why(app: App, queue: Queue, now: float) -> None:
    done = submitted(queue, "a", now=now)
    with queue.transaction() as change:
        for name in ("lab1", "lab2", "here"):
            change.node(name, facts=FACTS, last_seen=now, drained="holidays")
    assert "lab1 is drained: holidays" in (watch(app, done).look(None).waits or "")


def test_what_no_node_has_is_hopeless_only_when_all_were_asked(app: App, queue: Queue, now: float) -> None:
    done = submitted(queue, "a", now=now, capabilities=frozenset({"python3", "flux"}))
    followed = watch(app, done)
    with queue.transaction() as change:
        change.node("lab1", facts=FACTS, last_seen=now)
        change.node("lab2", facts=FACTS, last_seen=now)
    followed.look(None)
    assert followed.hopeless is None
    assert not followed.is_over(None)
    with queue.transaction() as change:
        change.node("here", facts=FACTS, last_seen=now)
    followed.look(None)
    assert "flux" in (followed.hopeless or "")
    assert followed.is_over(None)


def test_a_batch_is_over_when_it_ended_and_its_record_is_in_storage(app: App, queue: Queue, now: float) -> None:
    done = submitted(queue, "a", now=now)
    followed = watch(app, done)
    with queue.transaction() as change:
        change.request_kill(done.batch_id, None, "ann", now)
        change.finish_batch_if_ended(done.batch_id, now)
    assert not followed.is_over(None)
    with queue.transaction() as change:
        assert change.recorded(followed.batch, now)
    assert followed.is_over(None)


def test_lines_are_as_wide_as_the_longest_name_but_no_wider_than_40(
    app: App, capfd: pytest.CaptureFixture[str]
) -> None:
    for wide, column in ((6, 6), (400, 40)):
        with Lines(app, wide) as view:
            view.show(Picture("d/s", 0.0, 0.0, {}, passages=[Passage(0.0, "a", State.RUNNING, "lab1")]))
        assert f"  {'a':{column}}  running  " in capfd.readouterr().err
