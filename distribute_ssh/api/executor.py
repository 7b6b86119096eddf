"""Python functions on the lab, as a `concurrent.futures.Executor`: a call is a job, calls made together are a batch."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack

from distribute_ssh.api import core, engine
from distribute_ssh.api.batch import BatchOptions, File, python_batch
from distribute_ssh.api.core import Submitted
from distribute_ssh.api.outcome import JobStatus
from distribute_ssh.api.parcel import RESULT, SCRIPTS, Packer, cloudpickle, opened
from distribute_ssh.api.side import Side, side_of
from distribute_ssh.errors import DistributeError, JobError, NoMatchError, NoNodeError, UsageError
from distribute_ssh.model.names import check_name

GATHER = 0.1  # seconds without another call after which those so far become a batch
LONGEST = 20  # times that: a slow loop, or a map over what another map returns, must not wait for its own end
MOST = 5000  # calls in a batch: a jobs file has at most 8 MiB
PATIENCE = (1.0, 5.0, 30.0, 60.0)  # seconds between tries to bring results

log = logging.getLogger("distribute_ssh")

T = TypeVar("T")
P = ParamSpec("P")


class Call(concurrent.futures.Future[T]):
    """A call on its way. `cancel` ends its job too, also one that runs."""

    def __init__(self, executor: Executor, name: str, files: tuple[File, ...]) -> None:
        super().__init__()
        self._executor = executor
        self.name = name
        self.files = files
        self.window: _Window | None = None  # set when its batch is made

    def cancel(self) -> bool:
        """Cancel it, if it has not ended; False if it has."""
        with self._executor._lock:
            if self.cancelled():
                return True
            if not super().cancel():
                return False
            self.set_running_or_notify_cancel()
        self._executor._unwanted(self)
        return True


class _Window:
    """A batch of calls."""

    def __init__(self, calls: Sequence[Call[Any]]) -> None:
        self.calls = {call.name: call for call in calls}
        self.submitted: Submitted | None = None
        self.unwanted: list[str] = []


class Executor(concurrent.futures.Executor):
    """Runs functions as jobs, on this machine's nodes or on those of a head.

    `name` is `NAMESPACE/BATCH`; each batch adds a time and a number to it. `modules`: your own modules, sent along with
    the functions in them. The other options are those of a batch. Results are unpickled here, so the nodes are trusted.
    Raises UsageError for a name that cannot be, and where cloudpickle is missing.
    """

    def __init__(
        self,
        name: str,
        *,
        capabilities: Sequence[str] = ("python3",),
        head: str | None = None,
        inventory: str | os.PathLike[str] | None = None,
        modules: Sequence[ModuleType] = (),
        **options: Unpack[BatchOptions],
    ) -> None:
        namespace, slash, batch = name.partition("/")
        if wrong := ("has no `/`" if not slash else check_name(namespace) or check_name(batch)):
            raise UsageError(f"{name!r} {wrong}", hint="an Executor is named as its batches are: NAMESPACE/BATCH")
        self._name = f"{batch}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        self._head = head
        self._inventory = inventory
        # What is no option, and what relative paths mean, is known now; batches are made later, in another thread.
        build = SCRIPTS / "build.py"
        self._pattern = python_batch(namespace, self._name, build=build, capabilities=tuple(capabilities), **options)
        cloudpickle()  # or it is said now that it is missing
        self._room = TemporaryDirectory(prefix="distribute-executor-")
        self._packer = Packer(Path(self._room.name), modules)
        self._lock = threading.RLock()
        self._waiting: list[Call[Any]] = []
        self._holding = 0  # `map`s that are adding calls
        self._gathering = False
        self._closed = False
        self._numbers = count(1)
        self._batches = count(1)
        self._packed: tuple[Callable[..., Any], Path] | None = None
        self._windows: set[concurrent.futures.Future[None]] = set()
        self._calls: set[Call[Any]] = set()
        self._side: Side | None = None
        self._staying: asyncio.Task[None] | None = None

    # --- what callers do ---

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Have a function called on a node. Raises TypeError where it or an argument cannot be sent."""
        self._require_open()
        packed = self._packed
        function = packed[1] if packed and packed[0] is fn else self._packer.function(fn)
        files = self._packer.call(function, args, kwargs)
        with self._lock:
            self._require_open()
            call: Call[T] = Call(self, f"{_word(fn)}-{next(self._numbers)}", files)
            self._waiting.append(call)
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            if not self._gathering:
                self._gathering = True
                window = engine.begin(self._gather())
                self._windows.add(window)
                window.add_done_callback(self._windows.discard)
        return call

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """As the built-in `map`: results in order. `chunksize` calls are one job, which pays where they are short."""
        with self._together(fn):
            if chunksize <= 1:
                return super().map(fn, *iterables, timeout=timeout)

        def each(calls: Sequence[tuple[Any, ...]]) -> list[T]:  # inside: so it is sent whole, not by its name
            return [fn(*call) for call in calls]

        each.__name__ = _word(fn)
        with self._together(each):
            chunks = _chunks(zip(*iterables, strict=False), chunksize)
            return chain.from_iterable(super().map(each, chunks, timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Wait until those that are there have ended, or cancel them, which ends their jobs."""
        with self._lock:
            self._closed = True
            calls = list(self._calls) if cancel_futures else []
        for call in calls:
            call.cancel()
        ending = engine.begin(self._end(list(self._windows)))
        if wait:
            ending.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After an error (or Ctrl-C) nobody asks for the results any more.
        self.shutdown(cancel_futures=kind is not None)

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("cannot submit after shutdown")

    @contextmanager
    def _together(self, fn: Callable[..., Any]) -> Iterator[None]:
        """Make one batch of all calls inside, and write their function once."""
        self._require_open()
        packed = self._packer.function(fn)
        with self._lock:
            self._holding += 1
            self._packed = (fn, packed)
        try:
            yield
        finally:
            with self._lock:
                self._holding -= 1
                self._packed = None

    def _unwanted(self, call: Call[Any]) -> None:
        window = call.window
        if window is None:
            return  # nothing was sent of it, and nothing will be
        with self._lock:
            window.unwanted.append(call.name)
            is_first = len(window.unwanted) == 1
        if is_first:
            engine.begin(self._kill(window))

    # --- in the engine's loop ---

    async def _gather(self) -> None:
        """Make a batch of the calls that come within a short moment, and see it through."""
        before, rounds = -1, 0
        while rounds < LONGEST and (self._holding or len(self._waiting) != before):
            before, rounds = len(self._waiting), rounds + 1
            await asyncio.sleep(GATHER)
        with self._lock:
            calls, self._waiting, self._gathering = self._waiting, [], False
            wanted = iter([call for call in calls if not call.cancelled()])
            windows = [_Window(each) for each in _chunks(wanted, MOST)]
            for window in windows:
                for call in window.calls.values():
                    call.window = window
        await asyncio.gather(*map(self._see_through, windows))

    async def _see_through(self, window: _Window) -> None:
        end: Exception = JobError("its batch is over, and this call is no job of it any more")
        try:
            await self._run(window)
        except NoNodeError as error:
            end = error
            window.unwanted = [*window.calls]  # or they would run when there is such a node, for nobody
            await self._kill(window)
        except Exception as error:  # whoever waits for a call is to hear of it
            end = error
        for call in window.calls.values():
            if not call.done():
                await asyncio.to_thread(self._settle, call, None, end)

    async def _run(self, window: _Window) -> None:
        if self._side is None:
            self._side = side_of(self._head, None if self._inventory is None else Path(self._inventory))
            self._staying = asyncio.create_task(_stay(self._side), name="stay between two batches")
        options = self._pattern.options.copy()
        options["required_files"] = (*options.get("required_files", ()), *self._packer.common)
        batch = replace(self._pattern, name=f"{self._name}-{next(self._batches)}", options=options, entries=[])
        for call in window.calls.values():
            batch.job(call.name, SCRIPTS / "run.py", required_files=call.files)
        submitted = await core.submit_to(self._side, batch)
        with self._lock:
            window.submitted = submitted
        if window.unwanted:
            await self._kill(window)
        ended: asyncio.Queue[Sequence[JobStatus]] = asyncio.Queue()
        watching = asyncio.create_task(submitted.watch(ended.put_nowait, None), name="watch the calls")
        watching.add_done_callback(lambda _: ended.put_nowait(()))  # so that who gets hears of it
        try:
            while not (watching.done() and ended.empty()):
                jobs = list(await ended.get())
                while not ended.empty():
                    jobs += ended.get_nowait()
                await self._fetch(window, submitted, jobs)
            await watching
        finally:
            watching.cancel()

    async def _fetch(self, window: _Window, submitted: Submitted, jobs: Sequence[JobStatus]) -> None:
        """Bring the results of jobs that ended, and give them to who waits."""
        wanted = [job for job in jobs if not window.calls[job.name].cancelled()]
        if not wanted:
            return
        into = Path(self._room.name, "results")
        files = {path.parent.name: path for path in await self._pulled(submitted, into, wanted)}
        for job in wanted:
            call = window.calls[job.name]
            if job.name in files:
                value, error = await asyncio.to_thread(opened, files[job.name], job)
                files[job.name].unlink()
            else:
                why = job.reason or "it saved no result"
                value, error = None, JobError(f"{submitted.name}, {job.name} is {job.state}: {why}")
            # Callbacks are anybody's code, which must not hold up whoever drives the queue.
            await asyncio.to_thread(self._settle, call, value, error)

    async def _pulled(self, submitted: Submitted, into: Path, jobs: Sequence[JobStatus]) -> tuple[Path, ...]:
        for pause in (*PATIENCE, None):
            try:
                return (await submitted.pull(into, [rf"^[^/]+/{re.escape(RESULT)}$"], (), jobs)).files
            except NoMatchError:
                return ()  # nothing was saved by any: they were ended before they ran
            except DistributeError as error:
                if pause is None or not error.retryable:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _settle(self, call: Call[Any], value: Any, error: BaseException | None) -> None:
        with self._lock:
            if call.cancelled() or call.done() or not call.set_running_or_notify_cancel():
                return
        if error is not None:
            call.set_exception(error)
        else:
            call.set_result(value)

    async def _kill(self, window: _Window) -> None:
        await asyncio.sleep(GATHER)  # who cancels one call mostly cancels others as well
        with self._lock:
            submitted, names = window.submitted, list(window.unwanted)
            if submitted is None:
                return  # it is told when the batch is there
            window.unwanted.clear()
        if names:
            try:
                await submitted.kill(names)
            except DistributeError as error:  # nobody waits for these calls any more
                log.warning(f"{submitted.name}: cancelled calls may still run: {error}")

    async def _end(self, windows: Sequence[concurrent.futures.Future[None]]) -> None:
        await asyncio.gather(*map(asyncio.wrap_future, windows), return_exceptions=True)
        if self._staying is not None:
            self._staying.cancel()
            await asyncio.gather(self._staying, return_exceptions=True)
            self._staying = None
        await asyncio.to_thread(self._room.cleanup)


async def _stay(side: Side) -> None:
    """Keep what drives the queue ready for the next batch, until cancelled."""
    async with side.stay():
        await asyncio.Event().wait()


def _word(function: Callable[..., Any]) -> str:
    """What a job is called that calls it."""
    return re.sub(r"\W", "", getattr(function, "__name__", ""), flags=re.ASCII).lstrip("_")[:60] or "call"


def _chunks(calls: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(calls, size)):
        yield chunk
