"""The queue of this machine, as the API uses it: driven while anybody in this process waits for a batch."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distribute_ssh import driving, submitting
from distribute_ssh.api.outcome import no_job
from distribute_ssh.api.side import Changed
from distribute_ssh.coordination.coordinator import Coordinator
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.driving import Stop, Stopped
from distribute_ssh.errors import NoMatchError, NoNodeError
from distribute_ssh.following import Watch
from distribute_ssh.head.fetching import Offered
from distribute_ssh.model.job import OUTCOMES
from distribute_ssh.storage.opening import open_named
from distribute_ssh.storage.results import StoredResults
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.spool import Spool

if TYPE_CHECKING:
    from distribute_ssh.model.jobsfile import BatchSpec
    from distribute_ssh.workplace import Workplace


class _Follower:
    """Somebody who waits for a batch to be over."""

    def __init__(self, watch: Watch, changed: Changed) -> None:
        self.watch = watch
        self.changed = changed
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Local:
    """One queue and one inventory. All who wait share one driver: the lock is taken once, nodes are connected once."""

    _busy: dict[tuple[int, Path, Path | None], Local] = {}  # noqa: RUF012  # of this process; touched in the engine's loop

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._followers: set[_Follower] = set()
        self._staying = 0
        self._driver: asyncio.Task[None] | None = None
        self._stop = Stop()
        self._version = -1

    @classmethod
    def at(cls, place: Workplace) -> Local:
        """The one that works there already, or a new one, which sees the inventory as it is now."""
        return cls._busy.get(cls._key(place)) or cls(place)

    @staticmethod
    def _key(place: Workplace) -> tuple[int, Path, Path | None]:
        return os.getpid(), place.places.database, place.find_inventory()

    # --- what can be asked ---

    async def submit(self, spec: BatchSpec, path: Path, *, fresh: bool, replace: bool) -> None:  # noqa: ARG002  # for heads
        """Put a batch into the queue."""
        place = self._place
        nodes, who = place.nodes, place.user

        def enter() -> None:
            with closing(Queue.open(place.places.database)) as queue:
                seen = snapshot(queue, nodes, now := time.time()).nodes
                spool = Spool(place.places.spool)
                submitting.submit(queue, spool, spec, seen, who=who, now=now, fresh=fresh, replace=replace)

        await asyncio.to_thread(enter)

    async def status(self, name: str) -> dict[str, Any]:
        """The document of `status --json` for one batch."""

        def ask() -> dict[str, Any]:
            with closing(Queue.open(self._place.places.database)) as queue:
                return queue.status(name)

        return await asyncio.to_thread(ask)

    async def kill(self, name: str, jobs: Iterable[str]) -> None:
        """Ask for the end of jobs."""
        wanted, who = list(jobs), self._place.user

        def ask() -> None:
            with closing(Queue.open(self._place.places.database)) as queue:
                if (batch := queue.batch(name)) is None:
                    raise NoMatchError(f"there is no batch named {name!r}")
                known = {job.name: job for job in queue.jobs(batch.id)}
                for job in wanted:
                    if job not in known:
                        raise no_job(name, job)
                alive = [job for job in wanted or known if known[job].state not in OUTCOMES]
                with queue.transaction() as change:
                    change.request_kill(batch.id, alive, who, time.time())
                    change.finish_batch_if_ended(batch.id, time.time())

        await asyncio.to_thread(ask)

    @asynccontextmanager
    async def results(self, name: str) -> AsyncIterator[Offered]:
        """Open what storage has of a batch."""
        told = await self.status(name)
        jobs = told["batches"][0]["jobs"]
        unfinished = [{"job": job["name"], "state": job["state"]} for job in jobs if job["state"] not in OUTCOMES]
        namespace, _, batch = name.partition("/")
        async with open_named(self._place.nodes, self._place.places) as storage:
            yield Offered(StoredResults(storage, namespace, batch, None, coming=bool(unfinished)), name, unfinished)

    # --- driving ---

    async def follow(self, name: str, changed: Changed) -> None:
        """Return when the batch is over. Raises NoNodeError."""
        batch = self._place.queue.batch(name)
        if batch is None:
            raise NoMatchError(f"there is no batch named {name!r}")
        follower = _Follower(Watch(self._place, batch), changed)
        self._followers.add(follower)
        self._version = -1  # it has seen nothing yet
        try:
            self._begin()
            await follower.over
        finally:
            self._followers.discard(follower)
            await self._settle()
        if follower.watch.batch.finished_at is None:
            hint = "it stays in the queue until a node can; `kill` takes it out"
            raise NoNodeError(f"{name} can run nowhere: {follower.watch.hopeless}", hint=hint)

    @asynccontextmanager
    async def stay(self) -> AsyncIterator[None]:
        """Go on driving between two batches."""
        self._staying += 1
        try:
            self._begin()
            yield
        finally:
            self._staying -= 1
            await self._settle()

    @property
    def _is_wanted(self) -> bool:
        return bool(self._staying) or any(not follower.over.done() for follower in self._followers)

    def _begin(self) -> None:
        if self._driver is None:
            self._busy[self._key(self._place)] = self
            self._driver = asyncio.create_task(self._drive(), name="drive the queue")

    async def _settle(self) -> None:
        """Where nobody waits any more, return when the queue is let go of."""
        if self._driver is not None and not self._is_wanted:
            if not self._stop.number:
                self._stop.take(signal.SIGINT)
            await asyncio.shield(self._driver)

    async def _drive(self) -> None:
        try:
            while self._is_wanted:
                self._stop = Stop()
                try:
                    await driving.drive(self._place, self._until, self._look, self._stop)
                except Stopped:
                    continue
        except BaseException as error:  # whoever waits is to hear of it, and nobody else would
            for follower in self._followers:
                if not follower.over.done():
                    follower.over.set_exception(_cause(error))
        finally:
            self._driver = None
            self._busy.pop(self._key(self._place), None)
            self._place.close()

    def _until(self, coordinator: Coordinator | None) -> bool:
        for follower in self._followers:
            if not follower.over.done() and follower.watch.is_over(coordinator):
                follower.over.set_result(None)
        return not self._is_wanted

    def _look(self, coordinator: Coordinator | None) -> None:
        self._until(coordinator)  # who came for what is over already need not wait for the next tick
        version = self._place.queue.data_version()
        if version == self._version:
            return
        self._version = version
        for follower in self._followers:
            follower.watch.look(coordinator)  # it finds out whether any node could ever run it
            follower.changed()


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
