"""The API for asyncio: the names and arguments of the one that blocks, to be awaited in any loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence

from distribute_ssh.api import core, engine
from distribute_ssh.api.core import Named, Source
from distribute_ssh.api.outcome import JobStatus, Outcome, Pulled


class Handle(Named):
    """A batch that was submitted; see `distribute_ssh.Handle`."""

    async def status(self) -> Outcome:
        """Every job as it is now."""
        return await engine.wait_async(self._submitted.status())

    async def wait(self, timeout: float | None = None) -> Outcome:
        """Return when the batch is over. Raises TimeoutError, NoNodeError."""
        return await engine.wait_async(self._submitted.wait(timeout))

    async def as_completed(self, timeout: float | None = None) -> AsyncIterator[JobStatus]:
        """Yield each job once, when it has ended. Raises as `wait`."""
        told: asyncio.Queue[Sequence[JobStatus] | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(jobs: Sequence[JobStatus] | None) -> None:
            loop.call_soon_threadsafe(told.put_nowait, jobs)

        watching = engine.begin(self._submitted.watch(tell, timeout))
        watching.add_done_callback(lambda _: tell(None))
        try:
            while (jobs := await told.get()) is not None:
                for job in jobs:
                    yield job
            watching.result()
        finally:
            watching.cancel()

    async def pull(
        self,
        into: str | os.PathLike[str] = ".",
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        jobs: Iterable[str | JobStatus] = (),
    ) -> Pulled:
        """Bring results here."""
        return await engine.wait_async(self._submitted.pull(into, include, exclude, jobs))

    async def kill(self, *jobs: str | JobStatus) -> None:
        """Ask for the end of jobs, or of all."""
        await engine.wait_async(self._submitted.kill(jobs))


async def submit(
    batch: Source,
    *,
    head: str | None = None,
    inventory: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    replace: bool = False,
) -> Handle:
    """Put a batch, or a jobs file, into the queue; see `distribute_ssh.submit`."""
    return Handle(await engine.wait_async(core.submit(batch, head, inventory, fresh=fresh, replace=replace)))


async def find(batch: Source, *, head: str | None = None, inventory: str | os.PathLike[str] | None = None) -> Handle:
    """Return to a batch that was submitted before; see `distribute_ssh.find`."""
    return Handle(await engine.wait_async(core.find(batch, head, inventory)))
