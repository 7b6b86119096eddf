"""Submitting, waiting and pulling from a Python program, with this machine as the only node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import distribute_ssh as d
from distribute_ssh.store.lock import CoordinatorLock
from tests.support.wait import wait_for

LIMIT = 60.0
GATED = """\
import os, time
open(os.environ["GATES"] + "/begun", "w").close()
while not os.path.exists(os.environ["GATES"] + "/open"):
    time.sleep(0.02)
"""


def squares(name: str, *values: int) -> d.PythonBatch:
    batch = d.python_batch("lab", name, build="build.py")
    batch.job("x_{x}", "run.py", sweep={"x": values})
    return batch


def gated(home: Path, name: str) -> d.PythonBatch:
    """A batch of one job that waits until the test lets it go."""
    (home / "gated.py").write_text(GATED)
    (home / "gates").mkdir(exist_ok=True)
    batch = d.python_batch("lab", name, build="build.py", env={"GATES": str(home / "gates")})
    batch.job("waits", "gated.py")
    return batch


@contextlib.contextmanager
def lock_of(home: Path) -> Iterator[bool]:
    """Whether the queue's lock was free, and it is ours meanwhile."""
    lock = CoordinatorLock(home / "state" / "lock")
    try:
        yield lock.acquire()
    finally:
        lock.release()


def test_a_sweep_from_submit_to_the_results_and_what_failed(home: Path) -> None:
    handle = d.submit(squares("sweep", 2, 3, 4))
    assert handle.name == "lab/sweep"
    assert {job.state for job in handle.status().values()} == {"queued"}
    ended = list(handle.as_completed(timeout=LIMIT))
    assert sorted((job.sweep["x"], job.state) for job in ended) == [(2, "done"), (3, "failed"), (4, "done")]
    outcome = handle.wait(timeout=LIMIT)
    assert not outcome.is_done
    (failed,) = outcome.failed
    assert (failed.name, failed.exit_code, failed.node) == ("x_3", 1, "here")
    assert failed.reason == "exit 1: ValueError: no convergence"
    assert failed.started_at is not None
    pulled = handle.pull("results", include=[r"square\.txt$"])
    assert {job: (folder / "square.txt").read_text() for job, folder in pulled.items()} == {"x_2": "4", "x_4": "16"}
    assert pulled.files == tuple(Path("results/sweep") / job / "square.txt" for job in ("x_2", "x_4"))
    with pytest.raises(KeyError):
        _ = pulled["x_9"]
    with lock_of(home) as was_free:
        assert was_free, "nobody drives the queue when nobody waits"


def test_only_some_jobs_can_be_pulled_and_a_second_pull_tells_the_same(home: Path) -> None:
    handle = d.submit(squares("some", 1, 2))
    done = next(job for job in handle.as_completed(timeout=LIMIT) if job.name == "x_2")
    first = handle.pull(home, jobs=[done])
    assert list(first) == ["x_2"]
    assert {path.name for path in first.files} == {"square.txt", "x_2_output.txt", "job.json"}
    assert handle.pull(home, jobs=["x_2"]) == first
    with pytest.raises(d.DistributeError, match="there is no job named 'x_7'"):
        handle.pull(home, jobs=["x_7"])


def test_a_jobs_file_can_be_submitted_and_a_batch_be_found_again(home: Path) -> None:
    path = d.write(squares("file", 1), home / "jobs.yaml")
    assert d.submit(path).wait(timeout=LIMIT).is_done
    for source in (path, "lab/file", squares("file", 1)):
        assert d.find(source).wait(timeout=LIMIT).is_done
    assert d.find(path).status()["x_1"].sweep == {"x": 1}
    path.write_text(path.read_text().replace("run.py", "no-such-file.py") + "nonsense: 1\n")
    assert d.find(path).name == "lab/file", "it stands for its batch, whatever else is in it"
    with pytest.raises(d.DistributeError, match="lab/other"):
        d.find("lab/other")


def test_what_is_wrong_with_a_batch_is_told_before_anything_is_submitted(home: Path) -> None:
    batch = squares("wrong", 1)
    batch.job("x_1", "run.py")
    with pytest.raises(d.FileError, match=r"test_local\.py"):
        d.submit(batch)
    nowhere = d.python_batch("lab", "nowhere", build="build.py", capabilities=["no-such-tool"])
    nowhere.job("a", "run.py")
    handle = d.submit(nowhere)  # nobody has asked the node yet what it has
    with pytest.raises(d.DistributeError, match="lab/nowhere can run nowhere"):
        handle.wait(timeout=LIMIT)


def test_who_waits_no_longer_leaves_the_batch_as_it_is_and_can_come_back(home: Path) -> None:
    handle = d.submit(gated(home, "slow"))
    with pytest.raises(TimeoutError, match=r"lab/slow is not over after 0\.2 s; it goes on"):
        handle.wait(timeout=0.2)
    jobs = handle.as_completed(timeout=LIMIT)
    (home / "gates" / "open").touch()
    assert [job.state for job in jobs] == ["done"]


def test_a_killed_batch_ends(home: Path) -> None:
    handle = d.submit(gated(home, "killed"))
    with pytest.raises(d.DistributeError, match="there is no job named 'nobody'"):
        handle.kill("nobody")
    handle.kill("waits")
    assert handle.wait(timeout=LIMIT)["waits"].state == "killed"


async def test_batches_that_are_awaited_side_by_side_share_one_coordinator(home: Path) -> None:
    slow, quick = await d.aio.submit(gated(home, "slow")), await d.aio.submit(squares("quick", 1, 2))
    waiting = asyncio.create_task(slow.wait(LIMIT))
    names = [job.name async for job in quick.as_completed(LIMIT)]
    assert sorted(names) == ["x_1", "x_2"]
    await asyncio.to_thread(wait_for, (home / "gates" / "begun").exists, "the other job has begun")
    assert not waiting.done()
    pulled = await quick.pull("results")
    assert sorted(pulled) == ["x_1", "x_2"]
    (home / "gates" / "open").touch()
    assert (await waiting).is_done
    assert (await d.aio.find("lab/slow")).name == "lab/slow"


async def test_the_form_that_blocks_works_inside_a_running_loop(home: Path) -> None:
    """As in Jupyter, whose cells run in one."""
    assert d.submit(squares("cell", 5)).wait(timeout=LIMIT).is_done


async def test_who_is_cancelled_lets_go_of_the_queue(home: Path) -> None:
    handle = await d.aio.submit(gated(home, "slow"))
    waiting = asyncio.create_task(handle.wait())
    await asyncio.to_thread(wait_for, (home / "gates" / "begun").exists, "the job has begun")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    def is_free() -> bool:
        with lock_of(home) as was_free:
            return was_free

    await asyncio.to_thread(wait_for, is_free, "the lock is free")
    (home / "gates" / "open").touch()
    assert (await handle.wait(LIMIT)).is_done


def test_a_loop_that_is_left_early_ends_nothing(home: Path) -> None:
    handle = d.submit(squares("early", 1, 2, 4))
    for _ in handle.as_completed(timeout=LIMIT):
        break
    assert handle.wait(timeout=LIMIT).is_done
