"""What a batch that was submitted can be asked, once: `handle` asks it and blocks, `aio` asks it and awaits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from distribute_ssh.api.batch import JOBS_FILE, Batch
from distribute_ssh.api.outcome import JobStatus, Outcome, Pulled, Value, no_job, status_of
from distribute_ssh.api.side import Side, side_of
from distribute_ssh.errors import FileError, HeadError, StorageError, UnreachableError
from distribute_ssh.model import jobsfile
from distribute_ssh.model.jobsfile import BatchSpec
from distribute_ssh.storage.pull import Fate
from distribute_ssh.storage.pull import pull as fetch
from distribute_ssh.storage.selection import Selection, text_of, wrong_name

log = logging.getLogger("distribute_ssh")

LOOK_AGAIN = 20.0  # seconds after which the jobs are asked for without a sign that anything changed
BREATH = 4.0  # a pause after a look, in times of what that took: big batches are slow to list, heads to answer

Source = Batch | str | os.PathLike[str]
"""A batch, or the path of a jobs file."""

Tell = Callable[[Sequence[JobStatus]], object]
"""Called with jobs that have ended."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A batch in a queue."""

    name: str  # NAMESPACE/BATCH
    side: Side
    sweeps: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)

    async def status(self) -> Outcome:
        """Its jobs, now."""
        told = await self.side.status(self.name)
        try:
            return status_of(told, self.sweeps)
        except (KeyError, ValueError, TypeError) as error:
            raise HeadError(f"{self.name}: the head tells what is no status") from error

    async def wait(self, limit: float | None) -> Outcome:
        """Wait until it is over. Raises TimeoutError after `limit` seconds."""
        async with self._within(limit):
            await self.side.follow(self.name, lambda: None)
        return await self.status()

    async def watch(self, tell: Tell, limit: float | None) -> None:
        """Tell of each job once, when it has ended; return when the batch is over. Raises TimeoutError."""
        told: set[str] = set()
        changed = asyncio.Event()

        async def look() -> None:
            ended = [job for job in (await self.status()).values() if job.has_ended and job.name not in told]
            if ended:
                told.update(job.name for job in ended)
                tell(ended)

        async def looking() -> None:
            while True:
                changed.clear()
                began = time.monotonic()
                with contextlib.suppress(UnreachableError):  # how long a lost line is waited for, `follow` knows
                    await look()
                await asyncio.sleep(BREATH * (time.monotonic() - began))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN):
                        await changed.wait()

        async with self._within(limit):
            watching = asyncio.create_task(looking(), name="look at the jobs")
            following = asyncio.create_task(self.side.follow(self.name, changed.set), name="follow the batch")
            try:
                await asyncio.wait({watching, following}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    await watching  # it never ends but by an error
                await following
            finally:
                watching.cancel()
                following.cancel()
                await asyncio.gather(watching, following, return_exceptions=True)
        await look()

    @asynccontextmanager
    async def _within(self, limit: float | None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit) as clock:
                yield
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise TimeoutError(f"{self.name} is not over after {limit:g} s; it goes on") from error

    async def kill(self, jobs: Iterable[str | JobStatus]) -> None:
        """Ask for the end of jobs; of all, where none is named."""
        await self.side.kill(self.name, [_name(job) for job in jobs])

    async def pull(
        self,
        into: str | os.PathLike[str],
        include: Iterable[str],
        exclude: Iterable[str],
        jobs: Iterable[str | JobStatus],
    ) -> Pulled:
        """Bring results here. Raises StorageError where something did not come; what did is here."""
        named = [_name(job) for job in jobs]
        selection = Selection(_several(include, "include"), _several(exclude, "exclude"), named)
        async with self.side.results(self.name) as offered:
            namespace, _, batch = offered.batch.partition("/")
            if wrong := wrong_name(namespace, batch):
                raise HeadError(f"the head tells of a batch that cannot be: {wrong}")
            folder = Path(into, batch)
            pulled = await fetch(offered.results, folder, selection)
        unfinished = tuple(job["job"] for job in offered.unfinished)
        there = {text_of(row.path.partition(b"/")[0]) for row in pulled.rows} | set(unfinished)
        if missing := [name for name in named if name not in there]:
            known = await self.status()  # a job that was ended before it ran has nothing in storage
            if unknown := [name for name in missing if name not in known]:
                raise no_job(self.name, unknown[0])
        if pulled.problems:
            told = [f"{text_of(path)}: {why}" for path, why in sorted(pulled.problems.items())]
            raise StorageError("\n".join(told[:20]), hint="what came is kept; pull again")
        here = [row.path for fate in (Fate.COMES, Fate.HERE) for row in pulled.of(fate)]
        files = tuple(sorted(folder / os.fsdecode(path) for path in here))
        return Pulled(offered.batch, folder, files, unfinished)


class Named:
    """What a handle has in both forms."""

    def __init__(self, submitted: Submitted) -> None:
        self._submitted = submitted

    @property
    def name(self) -> str:
        """`NAMESPACE/BATCH`, as commands know it."""
        return self._submitted.name

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} {self.name}>"


async def submit(
    source: Source, head: str | None, inventory: str | os.PathLike[str] | None, *, fresh: bool, replace: bool
) -> Submitted:
    """Put a batch into the queue somebody means."""
    return await submit_to(side_of(head, _path(inventory)), source, fresh=fresh, replace=replace)


async def submit_to(side: Side, source: Source, *, fresh: bool = False, replace: bool = False) -> Submitted:
    """Put a batch into a queue."""
    spec, path = await asyncio.to_thread(_checked, source)
    for warning in spec.warnings:
        log.warning(warning)
    await side.submit(spec, path, fresh=fresh, replace=replace)
    return Submitted(spec.name, side, _sweeps(spec))


async def find(source: Source, head: str | None, inventory: str | os.PathLike[str] | None) -> Submitted:
    """A batch that was submitted before. Raises NoMatchError."""
    name, sweeps = await asyncio.to_thread(_meant, source)
    side = side_of(head, _path(inventory))
    found = await Submitted(name, side, sweeps).status()
    return Submitted(found.batch, side, sweeps)


def _meant(source: Source) -> tuple[str, Mapping[str, Mapping[str, Value]]]:
    """The name of a batch that is submitted already, and the values of its jobs where they can be known."""
    if isinstance(source, Batch):
        spec = source.check(files=False)
        return spec.name, _sweeps(spec)
    if not str(source).endswith((".yaml", ".yml")):
        return str(source), {}
    path = Path(source).absolute()
    name = "/".join(jobsfile.reference(path))
    try:
        return name, _sweeps(jobsfile.parse(path.read_bytes(), path, check_files=False))
    except FileError:  # it only stands for its batch, and may be wrong otherwise
        return name, {}


def _checked(source: Source) -> tuple[BatchSpec, Path]:
    if isinstance(source, Batch):
        return source.check(), source.folder / JOBS_FILE
    path = Path(source).absolute()
    return jobsfile.read(path), path


def _sweeps(spec: BatchSpec) -> dict[str, Mapping[str, Value]]:
    return {job.name: job.sweep for job in spec.jobs if job.sweep}


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def _name(job: str | JobStatus) -> str:
    return job if isinstance(job, str) else job.name


def _several(expressions: Iterable[str], what: str) -> list[str]:
    if isinstance(expressions, str):
        raise TypeError(f"{what} must be a list of expressions, as in [{expressions!r}]")
    return list(expressions)
