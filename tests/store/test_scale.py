"""A hundred thousand jobs. The bounds are ten times what a machine needs: they find a wrong plan, not a busy day."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from distribute_ssh.model.job import State
from distribute_ssh.store.queue import Queue
from tests.store.makes import NOW, submitted, the_job

JOBS = 100_000
T = TypeVar("T")

MEMORY = """
import resource, sys
from pathlib import Path
from distribute_ssh.store.queue import Queue
queue = Queue.open(Path(sys.argv[1]), check=True)
queue.take_epoch("head", "boot", 1, 1, 1.0)
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = used()
for turn in range(50):
    [batch] = queue.batches(live_only=True)
    work = queue.work(1e9)
    with queue.transaction() as change:
        for slot, job in enumerate(queue.ready_jobs(batch.id, None, 20, 1e9)):
            attempt = change.place(job.id, queue.new_token(), f"n{turn}", slot, 1.0)
            assert attempt
    queue.active_jobs(), queue.live_attempts(), queue.status()
    with queue.transaction() as change:
        for attempt in queue.live_attempts():
            assert change.withdraw(attempt, 1.0, reason=None)
print(used() - before)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale") / "home" / "queue.db"


@pytest.fixture(scope="module")
def big(path: Path) -> Iterator[Queue]:
    with closing(Queue.open(path)) as queue:
        names = [f"job-{number:06}" for number in range(JOBS)]
        result = took(20.0, lambda: submitted(queue, *names))
        assert result.new == JOBS
        yield queue


def took(limit: float, act: Callable[[], T]) -> T:
    """The answer, which may take `limit` seconds of this process; what others do meanwhile does not count."""
    begun = time.process_time()
    answer = act()
    seconds = time.process_time() - begun
    assert seconds < limit, f"{seconds:.3f} s"
    return answer


def batch_id(queue: Queue) -> int:
    batch = queue.batch("lab/study")
    assert batch is not None
    return batch.id


def plans(queue: Queue, act: Callable[[], object]) -> list[str]:
    """How SQLite goes about everything that is asked meanwhile."""
    asked: list[str] = []
    queue._connection.set_trace_callback(asked.append)
    try:
        act()
    finally:
        queue._connection.set_trace_callback(None)
    found = []
    for statement in asked:
        if statement.startswith("SELECT"):
            found += [row[3] for row in queue._connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    return found


def test_the_first_ready_jobs_are_found_without_looking_at_the_rest(big: Queue) -> None:
    study = batch_id(big)
    jobs = took(0.05, lambda: big.ready_jobs(study, None, 50, NOW))
    assert [job.position for job in jobs] == list(range(50))
    assert plans(big, lambda: big.ready_jobs(study, None, 50, NOW)) == [
        "SEARCH jobs USING INDEX jobs_ready (batch_id=? AND resources=?)"
    ]


@pytest.mark.parametrize("ask", [Queue.active_jobs, Queue.live_attempts, Queue.live_builds])
def test_what_is_going_on_is_found_by_an_index_of_its_own(big: Queue, ask: Callable[[Queue], list[object]]) -> None:
    assert took(0.05, lambda: ask(big)) == []
    assert all("USING INDEX" in step for step in plans(big, lambda: ask(big)))


def test_folded_status_and_work_read_the_tally(big: Queue) -> None:
    document = took(0.05, big.status)
    assert document["batches"][0]["counts"] == {"queued": JOBS}
    [work] = took(0.05, lambda: big.work(NOW))
    assert (work.ready, work.later) == (JOBS, 0)
    for ask in (big.status, lambda: big.work(NOW)):
        steps = {step for step in plans(big, ask) if " jobs " in step}
        assert not [step for step in steps if "jobs_active" not in step and "jobs_later" not in step]


def test_status_with_all_jobs_takes_seconds_at_most(big: Queue) -> None:
    assert len(took(8.0, lambda: big.status("lab/study"))["batches"][0]["jobs"]) == JOBS


def test_one_change_costs_the_same_as_on_a_small_queue(big: Queue) -> None:
    job = the_job(big, batch_id(big), "job-050000")

    def hold_and_release() -> None:
        for _ in range(20):
            for frm, to in ((State.QUEUED, State.HELD), (State.HELD, State.QUEUED)):
                with big.transaction() as change:
                    assert change.job(job.id, frm, to, NOW)

    took(4.0, hold_and_release)


def test_the_same_submission_again_is_compared_in_seconds(big: Queue) -> None:
    again = took(30.0, lambda: submitted(big, *[f"job-{number:06}" for number in range(JOBS)]))
    assert (again.new, again.going) == (0, JOBS)


def test_a_coordinators_memory_does_not_grow_with_the_queue(big: Queue, path: Path) -> None:
    output = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    assert int(output) < 16  # MiB


def test_killing_and_retrying_all_of_it_takes_seconds(big: Queue) -> None:
    study = batch_id(big)

    def kill() -> int:
        with big.transaction() as change:
            return len(change.request_kill(study, None, "ann", NOW))

    def retry() -> int:
        with big.transaction() as change:
            return len(change.retry(study, None, "ann", NOW))

    assert took(30.0, kill) == JOBS
    assert took(30.0, retry) == JOBS
    assert big.status()["batches"][0]["counts"] == {"queued": JOBS}
