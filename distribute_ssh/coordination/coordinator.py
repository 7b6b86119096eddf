"""The coordinator: load, decide, record, act, until there is nothing to do or somebody stops it. At most one a queue.

It holds nothing that matters. `kill -9` at any instant is a normal stop: jobs run on, and whoever comes next finds the
queue as it was written and the attempts as their folders say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from distribute_ssh.coordination.books import Live, Memory
from distribute_ssh.coordination.departed import holding, remember, with_departed
from distribute_ssh.coordination.evidence import Evidence
from distribute_ssh.coordination.spreading import Spreading
from distribute_ssh.coordination.supervisor import Supervisor
from distribute_ssh.coordination.tick import Tick, Ticked
from distribute_ssh.coordination.work import Transfer, Work
from distribute_ssh.errors import DistributeError, NodeError, ScratchError, StorageError, StoreError
from distribute_ssh.model.inventory import Inventory, NodeEntry
from distribute_ssh.model.job import Batch
from distribute_ssh.model.settings import Places
from distribute_ssh.node import probe
from distribute_ssh.node.connection import Connector, KnownHosts
from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink
from distribute_ssh.notices.notify import Notifier
from distribute_ssh.storage.batches import rename_batch, write_batch_files
from distribute_ssh.storage.folder import Storage, open_storage
from distribute_ssh.storage.record import batch_record
from distribute_ssh.store import schema
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.rows import NodeRow
from distribute_ssh.store.spool import Spool

log = logging.getLogger(__name__)

CONNECTING = 8  # nodes that connect at once: sshd and jump hosts drop bursts
ASK_QUEUE = 0.05  # seconds between looks whether another process wrote to the queue
AT_LEAST = 5.0  # seconds between ticks when nothing happens
PROBE_AGAIN = 12 * 3600.0  # seconds after which a node that was not restarted is probed anew
TIDY_EVERY = 3600.0  # seconds between two looks for inputs that nobody needs
CONNECT_LIMIT = 30.0  # seconds one pass waits for nodes that do not answer

_T = TypeVar("_T")


class Coordinator:
    """Drives one queue. The caller holds the queue's lock."""

    def __init__(self, queue: Queue, inventory: Inventory, places: Places) -> None:
        self.queue = queue
        self.queue_id = queue.id
        self.inventory = inventory
        self.places = places
        self.transfers: dict[str, Transfer] = {}
        self.spreading = Spreading(queue.id)
        self.nodes: dict[str, Supervisor] = {}
        self._spool = Spool(places.spool)
        self._known_hosts = KnownHosts(places.known_hosts)
        self._connector = Connector(self._known_hosts, inventory.ssh_config)
        self._memory = Memory()
        self._told: list[Evidence] = []
        self._changed = asyncio.Event()
        self._stopping = False
        self._rooms: dict[str, str] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="queue")
        self._rows: Mapping[str, NodeRow] = {}
        self._holding: frozenset[str] = frozenset()  # nodes with which we go on though they get no more jobs
        self._storage: contextlib.AsyncExitStack | None = None
        self._storage_open: Storage | None = None
        self._storage_lock = asyncio.Lock()
        self._storage_failed = False
        self._last: Ticked | None = None
        self.storage_trouble: str | None = None
        self._notifier = Notifier(queue, places, self._in_thread)

    # --- running ---

    async def run(self, *, until: Callable[[], bool] | None = None) -> None:
        """Drive the queue until `stop`, or until `until()` holds after a tick."""
        async with self._driving():
            while not self._stopping:
                ticked = await self._tick()
                if until is not None and until():
                    await self._notifier.last_words()
                    return
                await self._pause(ticked)

    async def run_once(self) -> None:
        """Do all that can be done now, without waiting for jobs to end; then leave."""
        async with self._driving():
            await self._tick()  # no node is asked before it is known what it should hold
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_LIMIT):
                    for node in self.nodes.values():
                        await node.tried.wait()
            while not self._stopping:
                ticked = await self._tick()
                if self._is_quiet(ticked):
                    await self._notifier.last_words()
                    return
                await self._pause(ticked)

    def stop(self) -> None:
        """Leave soon; what runs on the nodes goes on."""
        self._stopping = True
        self._changed.set()

    def is_settled(self, batch_id: int) -> bool:
        """Whether a batch has ended, its record is in storage, and no node that answers holds anything of it."""
        if self._last is None or any(batch.id == batch_id for batch in self._last.to_record):
            return False
        answering = {name for name, node in self.nodes.items() if node.is_connected or not node.tried.is_set()}
        return not any(
            any(ready.attempt.batch_id == batch_id for ready in work.attempts)
            or any(build.batch_id == batch_id for build, _ in work.builds)
            for node, work in self._last.work.items()
            if node in answering
        )

    @contextlib.asynccontextmanager
    async def _driving(self) -> AsyncIterator[None]:
        await self._in_thread(self._take_over)
        connecting = asyncio.Semaphore(CONNECTING)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._record_batches(), name="batch records"),
                    group.create_task(self._tidy_spool(), name="spool"),
                    group.create_task(self._notifier.run(), name="outbox"),
                    group.create_task(self._watch_storage(), name="free space"),
                ]
                for entry in self.inventory.nodes:
                    if entry.enabled or entry.name in self._holding:
                        node = self.nodes[entry.name] = Supervisor(entry, self, connecting)
                        tasks.append(group.create_task(node.run(), name=f"supervisor of {entry.name}"))
                try:
                    yield
                finally:
                    for task in tasks:
                        task.cancel()
        except* DistributeError as errors:
            raise errors.exceptions[0] from None
        finally:
            self.nodes.clear()
            if self._storage is not None:
                await self._storage.aclose()
            await self._connector.close()
            self._thread.shutdown()

    def _take_over(self) -> None:
        stat = Path("/proc/self/stat").read_text()
        started = int(stat.rpartition(")")[2].split()[19])
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self.queue.take_epoch(platform.node(), boot_id, os.getpid(), started, time.time())
        with self.queue.transaction() as change:
            remember(change, self.queue.nodes(), self.inventory)
        self._holding = holding(self.queue)
        self.inventory = with_departed(self.queue, self.inventory)

    async def _tick(self) -> Ticked:
        self._changed.clear()
        told, self._told = self._told, []
        live = {
            name: Live(node.boot_id, frozenset(node.staged)) for name, node in self.nodes.items() if node.is_connected
        }
        connections = {name: self.nodes[name].connection for name in live}
        try:
            ticked = await self._in_thread(self._tick_in_thread, told, live)
        except StoreError as error:
            if not _is_passing(error):
                raise
            # A full disk or a long foreign transaction: nothing was written, so nothing of this tick is lost.
            log.warning("%s", error)
            self._told = told + self._told
            await asyncio.sleep(1.0)
            return self._last or Ticked({}, (), None)
        self._last = ticked
        for name, node in self.nodes.items():
            node.give(ticked.work.get(name, Work()), connections.get(name))
        return ticked

    def _tick_in_thread(self, told: list[Evidence], live: Mapping[str, Live]) -> Ticked:
        with self.queue.transaction() as change:
            ticked = Tick(self.queue, change, self.inventory, live, self._memory, time.time()).run(told)
        self._rows = self.queue.nodes()
        return ticked

    async def _pause(self, ticked: Ticked) -> None:
        """Wait until something happened, another process wrote to the queue, or time itself changes something."""
        until = time.time() + AT_LEAST
        if ticked.next_at is not None:
            until = min(until, ticked.next_at)
        version = await self._in_thread(self.queue.data_version)
        while time.time() < until and not self._changed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(ASK_QUEUE, max(until - time.time(), 0.001))):
                    await self._changed.wait()
            if await self._in_thread(self.queue.data_version) != version:
                return

    def _is_quiet(self, ticked: Ticked) -> bool:
        return not self._told and not ticked.to_record and all(node.is_idle for node in self.nodes.values())

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    # --- what the supervisors ask of us (`work.Hub`) ---

    def tell(self, evidence: Evidence) -> None:
        """Take notice of something that happened."""
        self._told.append(evidence)
        self._changed.set()

    def spool_path(self, sha256: str) -> Path:
        """Where an input lies here."""
        return self._spool.path_of(sha256)

    async def facts(self, entry: NodeEntry, link: Link, boot_id: str) -> probe.Facts:
        """What the node is and has: asked anew after a restart, another inventory, or half a day."""
        return await current_facts(entry, link, boot_id, self.inventory, self._rows.get(entry.name))

    async def link(self, entry: NodeEntry) -> Link:
        """Connect to a node."""
        return await open_link(entry, self._connector)

    def claim(self, node: str, room: str) -> None:
        """Take a folder for a node: on one disk, under one name, two nodes would build and run in the same place."""
        other = self._rooms.setdefault(room, node)
        if other != node:
            raise ScratchError(
                f"{node}: its scratch folder is that of {other}: one machine under two names, or a disk both mount",
                hint=f"take one of them out of the inventory, or give {node} a `scratch:` of its own",
            )

    async def trust_changed(self) -> None:
        """Wait until the host keys we trust were changed."""
        path = self.places.known_hosts
        before = stamp(path)
        while stamp(path) == before:  # noqa: ASYNC110  # another process changes it
            await asyncio.sleep(0.5)

    async def storage(self) -> Storage:
        """Storage, opened, and with all folders renamed that `--fresh` left to rename."""
        async with self._storage_lock:
            if self._storage_failed and self._storage is not None and "://" in self.inventory.storage:
                await self._storage.aclose()
                self._storage = self._storage_open = None
            self._storage_failed = False
            if self._storage_open is None:
                stack = contextlib.AsyncExitStack()
                place = self.inventory.storage
                if "://" not in place:
                    # Ours is made with all above it. Of a site's the last step only: more would fill the mount point
                    # of a disk that is not there.
                    ours = place == str(self.places.storage)
                    with contextlib.suppress(OSError):  # storage says itself what is wrong with it
                        await asyncio.to_thread(Path(place).mkdir, mode=0o700, parents=ours, exist_ok=True)
                self._storage_open = await stack.enter_async_context(open_storage(place, self._connect_storage))
                self._storage = stack
            for move in await self._in_thread(self.queue.moves):
                await rename_batch(self._storage_open, move.namespace, move.old, move.new)
                await self._in_thread(self._moved, move.batch_id)
            return self._storage_open

    def storage_failed(self) -> None:
        """Take notice that something could not be stored: the line is opened anew before the next try."""
        self._storage_failed = True

    async def _connect_storage(self, host: str, *, user: str | None, port: int | None) -> Link:
        return await self._connector.open("storage", host, user=user, port=port)

    def _moved(self, batch_id: int) -> None:
        with self.queue.transaction() as change:
            change.moved(batch_id)

    async def _watch_storage(self) -> None:
        async def free() -> int:
            return await (await self.storage()).free(b"")

        while True:
            await self._notifier.watch_storage(self.inventory.storage, free)
            await asyncio.sleep(TIDY_EVERY)

    async def _tidy_spool(self) -> None:
        """Remove inputs that no batch needs any more; a batch of which a job failed keeps its own for `retry`."""
        while True:
            # A queue without any batch may stand where one was lost, whose files are still wanted: `recover`.
            if await self._in_thread(self.queue.batches):
                keep = await self._in_thread(self.queue.needed_contents)
                freed = await asyncio.to_thread(self._spool.remove_unused, keep)
                log.debug("%d bytes of inputs removed from the spool", freed)
            await asyncio.sleep(TIDY_EVERY)

    # --- records of batches ---

    async def _record_batches(self) -> None:
        """Write `batch.yaml` and `batch.json` where they are due; storage that is away delays nothing else."""
        pause = 1.0
        while True:
            due = list(self._last.to_record) if self._last else []
            try:
                for batch in due:
                    await self._record(batch)
                pause = 1.0
                self.storage_trouble = None
            except (StorageError, OSError) as error:
                self.storage_failed()
                self.storage_trouble = str(error)
                log.warning("%s", error)
                pause = min(pause * 2, 60.0)
            await asyncio.sleep(pause if self.storage_trouble else 0.05)

    async def _record(self, batch: Batch) -> None:
        storage = await self.storage()
        document, source, definition = await self._in_thread(self.queue.record, batch)
        record = batch_record(batch, document, definition)
        await write_batch_files(storage, batch.namespace, batch.batch, source, record)
        if await self._in_thread(self._recorded, batch):
            self._changed.set()

    def _recorded(self, batch: Batch) -> bool:
        with self.queue.transaction() as change:
            return change.recorded(batch, time.time())


def _is_passing(error: StoreError) -> bool:
    return schema.is_full(error) or schema.is_busy(error)


def stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written or replaced; zeros while it is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


async def open_link(entry: NodeEntry, connector: Connector) -> Link:
    """Connect to a node as its inventory entry says."""
    if entry.connection == "local":
        return LocalLink(entry.name)
    return await connector.open(
        entry.name,
        entry.host,
        user=entry.user,
        port=entry.port,
        identity=Path(entry.identity) if entry.identity else None,
    )


async def current_facts(
    entry: NodeEntry, link: Link, boot_id: str, inventory: Inventory, row: NodeRow | None
) -> probe.Facts:
    """What a node is and has, from the queue where that still holds, else asked."""
    script = probe.script(entry, inventory.probes)
    if row and row.facts:
        known = probe.Facts.from_json(row.facts)
        fresh = known.clock is not None and abs(time.time() - known.clock) < PROBE_AGAIN
        if fresh and known.boot_id == boot_id and known.asked == probe.fingerprint(script):
            return known
    return await ask(entry, link, script)


async def ask(entry: NodeEntry, link: Link, script: str) -> probe.Facts:
    """Probe a node. Raises UnreachableError, NodeError where its answer makes no sense."""
    ended = await link.run(script, limit=probe.TIME_LIMIT)
    try:
        return replace(probe.parse(ended.stdout), asked=probe.fingerprint(script))
    except ValueError as error:
        raise NodeError(f"{entry.name}: {error}", hint=f"distribute nodes doctor {entry.name}") from error


async def probe_nodes(queue: Queue, inventory: Inventory, places: Places, names: list[str]) -> dict[str, str | None]:
    """Ask nodes anew what they are, and write it down; for each None, or what went wrong."""
    connector = Connector(KnownHosts(places.known_hosts), inventory.ssh_config)
    limit = asyncio.Semaphore(CONNECTING)

    async def one(name: str) -> str | None:
        entry = inventory.node(name)
        script = probe.script(entry, inventory.probes)
        try:
            async with limit:
                link = await open_link(entry, connector)
                try:
                    facts = await ask(entry, link, script)
                finally:
                    await link.close()
        except DistributeError as error:
            with queue.transaction() as change:
                change.node(entry.name, unreachable_since=time.time(), unreachable_reason=error.message)
            return str(error)
        with queue.transaction() as change:
            change.node(
                entry.name, facts=facts.to_json(), boot_id=facts.boot_id, last_seen=time.time(),
                unreachable_since=None, unreachable_reason=None,
            )  # fmt: skip
        return None

    try:
        answers = await asyncio.gather(*(one(name) for name in names))
    finally:
        await connector.close()
    return dict(zip(names, answers, strict=True))
