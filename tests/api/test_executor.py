"""Python functions on a node: what comes back is what they return or raise, and calls made together are one batch."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import distribute_ssh as d
from distribute_ssh.api import parcel
from distribute_ssh.api.core import Submitted
from distribute_ssh.errors import NoNodeError, StorageError, UsageError

LIMIT = 60.0

# Functions of a module are sent by name, and no node has this module: so it goes along whole.
OURS = [sys.modules[__name__]]


class NoConvergenceError(Exception):
    """An error of the user's own."""


def square(x: float) -> float:
    return x * x


def where(text: str, *, big: bytes = b"") -> tuple[str, int, str]:
    with open("distribute_save/note.txt", "w") as file:
        file.write(text)
    return text, len(big), os.environ["DISTRIBUTE_NODE"]


def diverge(x: float) -> None:
    raise NoConvergenceError(f"diverged at {x}")


@pytest.fixture
def executor(home: Path) -> Iterator[d.Executor]:
    with d.Executor("lab/calls", modules=OURS) as made:
        yield made


def batches(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "storage" / "lab").iterdir())


def test_calls_return_what_they_return_and_a_map_is_one_batch(executor: d.Executor, home: Path) -> None:
    assert list(executor.map(square, range(4), timeout=LIMIT)) == [0, 1, 4, 9]
    (batch,) = batches(home)
    assert batch.startswith("calls-")
    (home / "storage" / "lab" / batch / "square-1" / "job.json").stat()
    assert list(executor.map(pow, range(5), [2] * 5, timeout=LIMIT, chunksize=2)) == [0, 1, 4, 9, 16]
    assert len(list((home / "storage" / "lab" / batches(home)[1]).glob("pow-*"))) == 3


def test_a_map_of_very_many_calls_is_several_batches(
    executor: d.Executor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distribute_ssh.api.executor.MOST", 2)
    assert list(executor.map(square, range(3), timeout=LIMIT)) == [0, 1, 4]
    assert len(batches(home)) == 2


def test_a_map_over_what_a_map_returns_does_not_wait_for_itself(executor: d.Executor) -> None:
    assert list(executor.map(square, executor.map(square, range(3), timeout=LIMIT), timeout=LIMIT)) == [0, 1, 16]


def test_what_a_call_saves_stays_in_storage_and_a_big_argument_travels_once(executor: d.Executor, home: Path) -> None:
    big = os.urandom(100_000)
    futures = [executor.submit(where, text, big=big) for text in ("a", "b")]
    assert [future.result(LIMIT) for future in futures] == [("a", 100_000, "here"), ("b", 100_000, "here")]
    (batch,) = batches(home)
    assert (home / "storage" / "lab" / batch / "where-1" / "note.txt").read_text() == "a"
    spool = [path for path in (home / "state" / "spool").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size >= 100_000 for path in spool) == 1


def test_an_error_is_raised_here_with_the_traceback_it_had_there(executor: d.Executor) -> None:
    with pytest.raises(NoConvergenceError, match=r"diverged at 2\.5") as caught:
        executor.submit(diverge, 2.5).result(LIMIT)
    assert isinstance(caught.value.__cause__, parcel.RemoteTraceback)
    assert "in the job diverge-1" in str(caught.value.__cause__)
    assert "in diverge" in str(caught.value.__cause__)


def test_every_other_end_is_an_error_too(executor: d.Executor) -> None:
    def unpicklable() -> threading.Lock:
        return threading.Lock()

    def missing() -> None:
        import no_such_package  # noqa: F401

    futures = [executor.submit(os._exit, 4), executor.submit(sys.exit, "done"), executor.submit(unpicklable)]
    futures.append(executor.submit(missing))
    died, left, kept, lacking = (future.exception(LIMIT) for future in futures)
    assert isinstance(died, d.JobError)
    assert "_exit-1" not in str(died), "a job's name begins with no underscore"
    assert "exit-1 is failed: exit 4" in str(died)
    assert isinstance(left, SystemExit)
    assert isinstance(kept, TypeError)
    assert "cannot pickle" in str(kept)
    assert isinstance(lacking, ModuleNotFoundError)


def test_a_function_may_do_to_its_process_what_it_likes(executor: d.Executor) -> None:
    def elsewhere() -> str:
        os.chdir("/")
        return os.getcwd()

    def forks() -> str:
        child = os.fork()
        if child:
            return "parent"
        import time

        time.sleep(0.5)
        return "child"

    class Leaves:
        def __reduce__(self) -> Any:
            return sys.exit, (5,)

    moved, forked, leaves = (executor.submit(each) for each in (elsewhere, forks, Leaves))
    assert moved.result(LIMIT) == "/"
    assert forked.result(LIMIT) == "parent"
    assert isinstance(leaves.exception(LIMIT), SystemExit), "what ends a process when it is read ends nothing here"
    assert executor.submit(square, 3).result(LIMIT) == 9


def test_files_of_an_executor_are_those_of_where_it_was_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "table.txt").write_text("42")
    with d.Executor("lab/files", required_files=["table.txt"]) as executor:
        monkeypatch.chdir("/")
        assert executor.submit(lambda: int(Path("initial_files/table.txt").read_text())).result(LIMIT) == 42
    with pytest.raises(TypeError, match="did you mean 'resources'"):
        d.Executor("lab/files", resorces=d.Resources(cores=1))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="must be a list"):
        d.Executor("lab/files", required_files="table.txt")


def test_what_cannot_be_sent_is_told_at_once(executor: d.Executor) -> None:
    with pytest.raises(TypeError, match=r"argument 2 \(a lock\) cannot be sent to a node"):
        executor.submit(print, 1, threading.Lock())
    with pytest.raises(TypeError, match=r"argument 'file' .*cannot be sent to a node"):
        executor.submit(print, 1, file=threading.Lock())


def test_a_call_that_is_cancelled_ends_its_job(executor: d.Executor, home: Path) -> None:
    import time

    slow, quick = executor.submit(time.sleep, 600), executor.submit(square, 2)
    assert quick.result(LIMIT) == 4
    assert slow.cancel()
    assert slow.cancel(), "again is the same"
    assert slow.cancelled()
    assert not quick.cancel(), "it has ended"
    executor.shutdown()  # does not return before the job has ended
    (batch,) = batches(home)
    assert d.find(f"lab/{batch}").status()["sleep-1"].state == "killed"


def test_after_an_error_in_the_block_what_waits_is_ended(home: Path) -> None:
    import time

    executor = d.Executor("lab/calls")
    with contextlib.suppress(KeyboardInterrupt), executor:
        futures = [executor.submit(time.sleep, 600) for _ in range(3)]
        raise KeyboardInterrupt
    assert all(future.cancelled() for future in futures)
    done, _ = concurrent.futures.wait(futures, timeout=LIMIT)
    assert len(done) == 3
    with pytest.raises(RuntimeError, match="cannot submit after shutdown"):
        executor.submit(square, 1)


def test_a_batch_that_cannot_be_is_the_error_of_each_call(home: Path) -> None:
    with d.Executor("lab/calls", required_files=["no-such-file"]) as executor:
        error = executor.submit(square, 1).exception(LIMIT)
    assert isinstance(error, d.FileError)
    assert "there is no file" in str(error)


def test_calls_that_can_run_nowhere_do_not_stay_in_the_queue(home: Path) -> None:
    with d.Executor("lab/nowhere", resources=d.Resources(cores=1, gpus=1)) as executor:
        caught = executor.submit(square, 2).exception(LIMIT)
    assert isinstance(caught, NoNodeError)
    name = str(caught).split()[0]
    assert d.find(name).status()["square-1"].state == "killed"


def test_storage_that_fails_for_a_moment_delays_a_result_and_loses_none(
    executor: d.Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, troubles = Submitted.pull, [StorageError("away"), StorageError("away")]

    async def pull(self: Submitted, *arguments: Any) -> d.Pulled:
        if troubles:
            raise troubles.pop()
        return await real(self, *arguments)

    monkeypatch.setattr(Submitted, "pull", pull)
    monkeypatch.setattr("distribute_ssh.api.executor.PATIENCE", (0.0, 0.0))
    assert executor.submit(square, 5).result(LIMIT) == 25
    assert troubles == []


def test_another_python_on_the_node_is_an_error_that_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    with d.Executor("lab/calls") as executor:
        error = executor.submit(len, "abc").exception(LIMIT)
    assert isinstance(error, d.JobError)
    assert "on this node, and the functions come from Python 3.99" in str(error)


@pytest.mark.parametrize("name", ["scratchpad", "lab/a b", "lab/"])
def test_a_name_that_cannot_be_is_refused(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="an Executor is named as its batches are: NAMESPACE/BATCH"):
        d.Executor(name)


def test_without_cloudpickle_it_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(UsageError, match=r"distribute-ssh\[executor\]"):
        d.Executor("lab/calls")


def test_modules_are_sent_whole_only_while_something_is_packed(tmp_path: Path) -> None:
    """How somebody else pickles things in this process is none of our business."""
    import cloudpickle

    module = types.ModuleType("of_mine")
    exec("def twice(x): return 2 * x", module.__dict__)
    sys.modules["of_mine"] = module
    try:
        twice: Callable[[int], int] = module.__dict__["twice"]
        packed = parcel.Packer(tmp_path, [module]).function(twice)
        assert b"of_mine" not in cloudpickle.list_registry_pickle_by_value()
        assert cloudpickle.list_registry_pickle_by_value() == set()
        assert len(packed.read_bytes()) > len(cloudpickle.dumps(twice)), "it is there with its code"
    finally:
        del sys.modules["of_mine"]
