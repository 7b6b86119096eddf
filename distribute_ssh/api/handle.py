"""The API that blocks: submit a batch, wait for it, bring its results. `aio` has the same names to be awaited."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from queue import SimpleQueue

from distribute_ssh.api import core, engine
from distribute_ssh.api.core import Named, Source
from distribute_ssh.api.outcome import JobStatus, Outcome, Pulled


class Handle(Named):
    """A batch that was submitted, here or to a head."""

    def status(self) -> Outcome:
        """Every job as it is now."""
        return engine.wait(self._submitted.status())

    def wait(self, timeout: float | None = None) -> Outcome:
        """Return when the batch is over and its results are in storage; drives the queue if nobody else does.

        Raises TimeoutError after `timeout` seconds (the batch goes on), NoNodeError where no node can ever run it.
        """
        return engine.wait(self._submitted.wait(timeout))

    def as_completed(self, timeout: float | None = None) -> Iterator[JobStatus]:
        """Yield each job once, when it has ended, well or not; those that ended before come first. Raises as `wait`."""
        told: SimpleQueue[Sequence[JobStatus] | None] = SimpleQueue()
        watching = engine.begin(self._submitted.watch(told.put, timeout))
        watching.add_done_callback(lambda _: told.put(None))
        try:
            while (jobs := told.get()) is not None:
                yield from jobs
            watching.result()
        finally:
            watching.cancel()

    def pull(
        self,
        into: str | os.PathLike[str] = ".",
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        jobs: Iterable[str | JobStatus] = (),
    ) -> Pulled:
        """Bring results into a folder of the batch's name below `into`: all, or what expressions and jobs choose.

        What is here and unchanged is left, every file is compared with its record. Raises StorageError for what did not
        come, NoMatchError where there is nothing yet.
        """
        return engine.wait(self._submitted.pull(into, include, exclude, jobs))

    def kill(self, *jobs: str | JobStatus) -> None:
        """Ask for the end of jobs, or of all; what they saved is kept. `wait` returns when they have ended."""
        engine.wait(self._submitted.kill(jobs))


def submit(
    batch: Source,
    *,
    head: str | None = None,
    inventory: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    replace: bool = False,
) -> Handle:
    """Put a batch, or a jobs file, into the queue: durable when this returns. What is done and unchanged stays done.

    `head`: `USER@HOST`, or `none` for this machine; else as for the command line: $DISTRIBUTE_HEAD, the config file.
    `fresh`: run all anew. `replace`: also while the batch works. Raises FileError with all that is wrong in the batch,
    UsageError, NoNodeError, StoreError; for a head also HeadError and UnreachableError.
    """
    return Handle(engine.wait(core.submit(batch, head, inventory, fresh=fresh, replace=replace)))


def find(batch: Source, *, head: str | None = None, inventory: str | os.PathLike[str] | None = None) -> Handle:
    """Return to a batch that was submitted before: `NAMESPACE/BATCH`, or its jobs file. Raises NoMatchError."""
    return Handle(engine.wait(core.find(batch, head, inventory)))
