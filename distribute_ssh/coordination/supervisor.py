"""One node's supervisor: keeps the node connected, and its lanes supplied with what the queue holds for it.

Trouble with a machine stays in here: it ends the connection, and the next one starts from the queue and from what the
node's own folders say. Any other exception is a bug and stops the coordinator.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from distribute_ssh.coordination.evidence import Connected, Lost
from distribute_ssh.coordination.lanes import Lanes
from distribute_ssh.coordination.orphans import claims, clear_unknown
from distribute_ssh.coordination.pausing import Pausing
from distribute_ssh.coordination.watching import Watching
from distribute_ssh.coordination.work import Hub, Work
from distribute_ssh.errors import NodeError, ScratchError, UnreachableError
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.node import wire
from distribute_ssh.node.channel import open_channel
from distribute_ssh.node.desk import open_desk
from distribute_ssh.node.link import Link
from distribute_ssh.node.slurm import SHARED, open_room

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds between tries to connect; doubled each time, with jitter


class Supervisor:
    """Drives one node."""

    def __init__(self, entry: NodeEntry, hub: Hub, connecting: asyncio.Semaphore) -> None:
        self.entry = entry
        self.name = entry.name
        self.tried = asyncio.Event()  # connected, or failed to, at least once
        self.boot_id = ""
        self.connection = 0  # the number of connections made so far
        self._hub = hub
        self._connecting = connecting
        self._work = Work()
        self._given = asyncio.Event()  # without it every batch folder on the node would look like nobody's
        self._lanes: Lanes | None = None
        self._is_known = False  # what there is on it was told, so that it can be worked with
        self._pausing = Pausing(self.name, hub.tell)
        self._watching = Watching(entry, hub.tell)
        self._asked = asyncio.Event()  # somebody asked something of the node

    @property
    def is_connected(self) -> bool:
        """Whether the node can be worked with now."""
        return self._is_known

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way here, or due, that could change anything."""
        return self._lanes is None or not self._is_known or self._lanes.is_idle

    @property
    def staged(self) -> frozenset[str]:
        """The attempts and builds whose inputs are on the node."""
        return frozenset(self._lanes.staged) if self._lanes else frozenset()

    def give(self, work: Work, connection: int | None = None) -> None:
        """Take notice of what the queue holds now; `connection`: the last one whose listing was judged for it.

        What an older listing led to is not done on a newer connection: what has ended or was lost meanwhile would be
        started or ended again, in a folder that nobody knows of any more.
        """
        asked = work.request is not None and work.request != self._pausing.request
        if asked and work.request and work.request.trouble is None:
            self._asked.set()
        self._work = work
        self._pausing.request = work.request
        self._given.set()
        if self._lanes and connection == self.connection:
            self._lanes.give(work)

    # --- connection ---

    async def run(self) -> None:
        """Keep the node connected for ever, with growing, jittered pauses."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            error = await self._session()
            self.tried.set()
            self._hub.tell(Lost(self.name, error.message))
            log.info("%s", error)
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            with contextlib.suppress(TimeoutError):
                # A refused key or host key does not mend itself, and knocking again and again gets us banned.
                async with asyncio.timeout(pause * random.uniform(0.7, 1.3) if error.retryable else None):
                    await self._something_to_try()
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _something_to_try(self) -> None:
        """Wait until the host keys we trust were changed, or somebody asked something of the node and waits for it."""
        tasks = [asyncio.create_task(self._hub.trust_changed()), asyncio.create_task(self._asked.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _session(self) -> NodeError:
        """Work with the node until something breaks; what broke is the result."""
        broke: NodeError | None = None
        link: Link | None = None
        try:
            await self._given.wait()
            self._asked.clear()
            async with self._connecting:
                link = await self._hub.link(self.entry)
            async with self._opened(link) as (watch, lanes), asyncio.TaskGroup() as group:
                group.create_task(watch(), name=f"watch {self.name}")
                group.create_task(lanes.run(), name=f"lanes of {self.name}")
                group.create_task(self._watching.run(lanes.room.channel), name=f"owner of {self.name}")
        except* NodeError as errors:
            broke = _first(errors)
        except* OSError as errors:  # this machine's own trouble: no more processes, no more open files
            broke = UnreachableError(f"{self.name}: {_first(errors)}")
        finally:
            self._lanes, self._is_known = None, False
            for what in ("inputs", "results"):
                self._hub.transfers.pop(f"{self.name} {what}", None)
            if link is not None:
                await link.close()
        assert broke is not None, "a session ends by an error only"
        return broke

    @contextlib.asynccontextmanager
    async def _opened(self, link: Link) -> AsyncIterator[tuple[Callable[[], Coroutine[None, None, None]], Lanes]]:
        self._pausing.connected()
        async with open_channel(link, self.entry.scratch, self._heard) as channel:
            # What runs on a cluster outlives its login machine.
            self.boot_id = channel.hello.boot_id if self.entry.cluster is None else SHARED
            self._hub.claim(self.name, channel.hello.room)  # before we take what is another node's from it
            for request in self._pausing.due():  # before all else: a person waits for it
                await self._pausing.carry_out(channel, request)
            facts = await self._hub.facts(self.entry, link, self.boot_id)
            room = open_room(self.entry, link, channel, self._hub.queue_id, facts)
            lanes = self._lanes = Lanes(self.entry, self._hub, room, facts, self._pausing)
            self.connection += 1
            there = await room.list()
            unknown = await claims(room, there.sightings.keys() - self._work.tokens)
            await clear_unknown(room, there, self._work)
            if there.has_desk:  # what the inventory says of it may have changed
                try:
                    await open_desk(channel, self.name, self.entry.max_pause, self.entry.owners)
                except ScratchError as error:  # a full disk: its results have to come home all the same
                    log.warning("%s", error)
            await self._watching.look(channel, at_once=True)  # nothing shall begin where somebody sits
            self._hub.tell(Connected(self.name, self.boot_id, facts, there.sightings, there.strays, unknown))
            self._pausing.heard(there.lease, anew=True)
            self._is_known = True
            self.tried.set()

            async def watch() -> None:
                await channel.closed.wait()
                raise UnreachableError(f"{self.name}: {channel.why}")

            yield watch, lanes

    def _heard(self, event: wire.Event) -> None:
        if self._lanes:
            self._lanes.heard(event)


def _first(errors: BaseExceptionGroup[Any]) -> Any:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
