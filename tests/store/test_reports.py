from __future__ import annotations

import json
import random
import statistics
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distribute_ssh.errors import NoMatchError, UsageError
from distribute_ssh.model.job import OUTCOMES, TRANSITIONS, State
from distribute_ssh.model.resources import Resources
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.reports import batch_state
from tests.store.makes import NOW, brought, new_job, submitted, the_job


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({}, "done"),
        ({"done": 3}, "done"),
        ({"done": 3, "failed": 0}, "done"),
        ({"done": 3, "skipped": 1}, "failed"),
        ({"queued": 1, "failed": 1}, "waiting"),
        ({"held": 1, "done": 1}, "waiting"),
        ({"archiving": 1, "queued": 5, "failed": 1}, "running"),
    ],
)
def test_the_state_of_a_batch_follows_from_its_jobs(counts: dict[str, int], state: str) -> None:
    assert batch_state(counts) == state


def test_status_of_an_empty_queue_is_a_document_too(queue: Queue) -> None:
    assert queue.status() == {"schema": 1, "batches": []}


def test_status_folds_every_batch_and_lists_the_jobs_of_the_one_that_is_named(queue: Queue) -> None:
    batch_id = submitted(queue, "a", "b", "c", now=1_795_000_000.7).batch_id
    submitted(queue, "x", batch="other", now=NOW + 60)
    a, b, _ = queue.jobs(batch_id)
    brought(queue, a.id, State.RUNNING, now=NOW)
    with queue.transaction() as change:
        assert change.job(a.id, State.RUNNING, State.ARCHIVING, NOW, exit_code=0)
        assert change.job(a.id, State.ARCHIVING, State.DONE, NOW + 90)
    brought(queue, b.id, State.RUNNING, now=NOW + 30)
    everything = queue.status()
    assert json.loads(json.dumps(everything)) == everything
    assert everything["schema"] == 1
    assert [batch["batch"] for batch in everything["batches"]] == ["study", "other"]
    assert all("jobs" not in batch for batch in everything["batches"])
    [one] = queue.status("LAB/study")["batches"]
    jobs = one.pop("jobs")
    assert one == everything["batches"][0]
    assert one == {
        "namespace": "lab",
        "batch": "study",
        "submitter": "ann",
        "state": "running",
        "submitted_at": "2026-11-18T11:06:40Z",
        "finished_at": None,
        "counts": {"done": 1, "queued": 1, "running": 1},
        "runtime": {"mean": 90.0, "stdev": 0.0},
        "nodes": [f"n{b.id}"],
    }
    assert jobs[0] == {
        "name": "a",
        "state": "done",
        "node": f"n{a.id}",
        "attempt": 1,
        "exit_code": 0,
        "reason": None,
        "request": None,
        "started_at": "2026-11-18T11:06:40Z",
        "finished_at": "2026-11-18T11:08:10Z",
    }
    assert [(job["name"], job["state"], job["started_at"]) for job in jobs[1:]] == [
        ("b", "running", "2026-11-18T11:07:10Z"),
        ("c", "queued", None),
    ]


def test_status_of_a_name_that_is_not_there_says_so(queue: Queue) -> None:
    for name in ("lab/none", "lab", "", "/"):
        with pytest.raises(NoMatchError):
            queue.status(name)


def test_run_times_are_those_of_the_jobs_that_are_done(queue: Queue) -> None:
    seconds = [3.0, 4.5, 60.0, 7.25]
    batch_id = submitted(queue, *[f"j{n}" for n in range(len(seconds))], "failed", "again").batch_id
    for job, took in zip(queue.jobs(batch_id), [*seconds, 500.0, 900.0], strict=True):
        brought(queue, job.id, State.ARCHIVING, now=NOW)
        with queue.transaction() as change:
            end = State.FAILED if job.name == "failed" else State.DONE
            assert change.job(job.id, State.ARCHIVING, end, NOW + took)
    submitted(queue, *[f"j{n}" for n in range(len(seconds))], "failed", new_job("again", "2"))
    [found] = queue.status("lab/study")["batches"]
    assert found["runtime"]["mean"] == pytest.approx(statistics.mean(seconds), abs=1e-3)
    assert found["runtime"]["stdev"] == pytest.approx(statistics.pstdev(seconds), abs=1e-2)


OPERATIONS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2**32)), max_size=25)


@settings(max_examples=40, deadline=None)
@given(OPERATIONS)
@example([(5, 255), (5, 0), (0, 2_975_175_155), (3, 389)])
def test_the_tally_is_the_count_whatever_happened(operations: list[tuple[int, int]]) -> None:
    with TemporaryDirectory() as folder, closing(Queue.open(Path(folder) / "home" / "queue.db")) as queue:
        batch_id = submitted(queue, "a", "b", "c").batch_id
        for kind, seed in operations:
            act(queue, batch_id, kind, random.Random(seed))
            counted: dict[int, Counter[str]] = {}
            for batch in queue.batches():
                counted[batch.id] = Counter(job.state.value for job in queue.jobs(batch.id))
            told = {
                batch.id: shown["counts"]
                for batch, shown in zip(queue.batches(), queue.status()["batches"], strict=True)
            }
            assert told == {each: dict(counts) for each, counts in counted.items()}
            batch_now = queue.batch("lab/study")
            assert batch_now is not None
            batch_id = batch_now.id
            for job in queue.jobs(batch_id):
                assert job.attempt == max([0, *(attempt.number for attempt in queue.attempts(job.id))])
            check_sums(queue)


def act(queue: Queue, batch_id: int, kind: int, dice: random.Random) -> None:
    now = NOW + dice.randrange(1000)
    jobs = queue.jobs(batch_id)
    job = dice.choice(jobs)
    if kind == 0:
        names = dice.sample("abcdefgh", dice.randint(1, 8))
        resources = [dice.choice([None, Resources(1), Resources(2)]) for _ in names]
        asked = [new_job(name, dice.choice("12"), resources=one) for name, one in zip(names, resources, strict=True)]
        try:
            submitted(
                queue,
                *asked,
                now=now,
                replace=dice.random() < 0.7,
                fresh=dice.random() < 0.2,
                build_hash=dice.choice(["build-1"] * 4 + ["build-2"]),
            )
        except UsageError:
            assert any(each.state not in OUTCOMES for each in jobs)
        return
    with queue.transaction() as change:
        if kind == 1:
            change.request_kill(batch_id, dice.choice([None, [job.name]]), "bob", now)
        elif kind == 2:
            change.retry(batch_id, dice.choice([None, [job.name]]), "bob", now)
        elif kind == 3:
            attempts = queue.attempts(job.id)
            if attempts:
                change.withdraw(attempts[-1], now, reason=None)
        elif kind == 4:
            change.finish_batch_if_ended(batch_id, now)
        else:
            to = dice.choice(sorted(TRANSITIONS[job.state]))
            started: dict[str, Any] = {"started_at": now - 5} if to is State.RUNNING else {}
            if to is State.STAGING:
                change.place(job.id, queue.new_token(), dice.choice(["n1", "n2"]), dice.randrange(3), now)
            elif job.state in OUTCOMES:
                change.retry(batch_id, [job.name], "bob", now)
            else:
                change.job(job.id, job.state, to, now, **started)


def check_sums(queue: Queue) -> None:
    """The sums are those of a plain pass over the jobs."""
    took = "coalesce(finished_at - started_at, 0)"
    rows = queue._connection.execute(
        f"SELECT batch_id, state, coalesce(resources, ''), count(*), sum({took}), sum({took} * {took})"
        " FROM jobs GROUP BY 1, 2, 3"
    )
    plain = {tuple(key): (count, seconds, squares) for *key, count, seconds, squares in rows}
    for *key, count, seconds, squares in queue._connection.execute("SELECT * FROM tally"):
        assert (count, seconds, squares) == pytest.approx(plain.get(tuple(key), (0, 0, 0)), abs=1e-3)


def test_no_two_jobs_of_a_batch_have_names_that_differ_in_case_only(queue: Queue) -> None:
    with pytest.raises(UsageError, match="same name"):
        submitted(queue, "Job", "job")
    assert queue.batches() == []
    assert the_job(queue, submitted(queue, "Job").batch_id, "JOB").name == "Job"
