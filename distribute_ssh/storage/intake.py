"""Files on their way from a node into `.part-` folders: counted, hashed, written, and noted down once they are safe."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from distribute_ssh.errors import NodeError, StorageError
from distribute_ssh.model.units import format_size
from distribute_ssh.node.files import File, Files
from distribute_ssh.storage.folder import Failures, Small, Stamp, Storage, Writer, trouble
from distribute_ssh.storage.gathering import TAIL, Gathering
from distribute_ssh.storage.listing import Item, printable
from distribute_ssh.storage.manifest import journal_line
from distribute_ssh.storage.tarstream import Member, TarReader
from distribute_ssh.storage.together import each

if TYPE_CHECKING:
    from hashlib import _Hash

SMALL = 1 << 20  # bytes up to which a file is held and written in one go
READ = 1 << 20
READS = 4  # of that size, under way at once, for one big file where there is no tar
FILES_AT_ONCE = 16  # small ones, where there is no tar
CHECKPOINT_BYTES = 256 << 20
CHECKPOINT_FILES = 5_000
TELL_EVERY = 0.1  # seconds
LEAST = 4096  # bytes that a file takes in storage, however small
TAR_OVERHEAD = 8192  # bytes a name may add to a tar stream: headers, a long name, padding


Progress = Callable[[int, int], None]
"""Is told bytes that came, and bytes that came or have to come, in this call."""


class Meter:
    """Tells of progress, but not too often."""

    def __init__(self, tell: Progress) -> None:
        self._tell = tell
        self._told = 0.0
        self._came = self._total = 0

    def expect(self, size: int) -> None:
        """Note what has to come, beyond what came."""
        self._total = self._came + size

    def count(self, size: int) -> None:
        """Note what came."""
        self._came += size
        if (now := time.monotonic()) - self._told >= TELL_EVERY:
            self._told = now
            self.tell()

    def tell(self) -> None:
        """Tell now."""
        self._tell(self._came, self._total)


@dataclass(slots=True, eq=False)
class Coming:
    """One file on its way. `offset`: bytes of it that have been hashed."""

    gathering: Gathering
    path: bytes
    item: Item
    source: bytes
    offset: int = 0
    hash: _Hash | None = None  # of the bytes before `offset`
    held: list[bytes] = field(default_factory=list)  # of a small one
    writer: Writer | None = None  # of a big one
    tail: bytes | None = None  # the last bytes of what a job printed; None where its beginning came in an earlier call

    @property
    def small(self) -> bool:
        """Whether it is held until it is whole."""
        return self.item.size <= SMALL

    @property
    def complete(self) -> bool:
        """Whether all of it came."""
        return self.offset == self.item.size

    def take(self, data: bytes) -> None:
        """Count and hash the next bytes."""
        if self.hash is None:
            self.hash = hashlib.sha256()
            self.tail = b""
        self.hash.update(data)
        self.offset += len(data)
        if self.small:
            self.held.append(data)
        if self.tail is not None and self.path == self.gathering.output_name:
            self.tail = (self.tail + data[-TAIL:])[-TAIL:]

    def done(self) -> None:
        """Hand over to the gathering, and hold nothing more: thousands of us wait for the end of a round."""
        assert self.hash is not None
        self.gathering.got(self.path, self.item, self.hash.hexdigest())
        if self.tail and self.path == self.gathering.output_name:
            self.gathering.tail = self.tail
        self.hash, self.tail, self.held = None, None, []


@dataclass(slots=True)
class _Digested:
    """What became of some pieces of a tar stream."""

    blocks: list[tuple[Coming, int, bytes]] = field(default_factory=list)  # of big files, with their offsets
    ready: list[Coming] = field(default_factory=list)
    rest: bytes | None = None  # what follows the stream, where it has ended


class _TarStream:
    """Sorts a tar stream into the files that were asked for."""

    def __init__(self, expected: Sequence[Coming]) -> None:
        self._by_name = {coming.source: coming for coming in expected}
        # Files may have grown since they were listed, but nobody sends twice as much in good faith.
        size = 2 * sum(coming.item.size for coming in expected) + len(expected) * TAR_OVERHEAD + (1 << 20)
        self._reader = TarReader(size)
        self._last: Coming | None = None
        self._views: list[memoryview] = []  # of it, not yet taken

    def digest(self, pieces: Sequence[bytes]) -> _Digested:
        """Take the next pieces; for a thread. Raises TarError."""
        digested = _Digested()
        for number, piece in enumerate(pieces, 1):
            for event in self._reader.feed(piece):
                if isinstance(event, Member):
                    self._settle(digested)
                    self._last = self._by_name.pop(event.name, None)
                    if self._last is not None and self._last.item.size != event.size:
                        self._last = None
                elif self._last is not None:
                    self._views.append(event)
            if self._reader.ended:
                self._settle(digested)
                digested.rest = self._reader.rest + b"".join(pieces[number:])
                break
        self._take(digested)
        return digested

    def _take(self, digested: _Digested) -> None:
        """Hash what came of a file, in one go: each call gives the interpreter away, and getting it back takes time."""
        if self._last is not None and self._views:
            data = b"".join(self._views)
            if not self._last.small:
                digested.blocks.append((self._last, self._last.offset, data))
            self._last.take(data)
        self._views.clear()

    def _settle(self, digested: _Digested) -> None:
        # A tar that was killed in the middle of a file leaves others' bytes behind it: what seems complete is believed
        # only when something sensible follows.
        self._take(digested)
        if self._last is not None and self._last.complete:
            digested.ready.append(self._last)


class Intake:
    """Writes what either lane brings. `reserve`: bytes that storage keeps free for others."""

    def __init__(self, storage: Storage, meter: Meter, reserve: int) -> None:
        self._storage = storage
        self._meter = meter
        self._reserve = reserve
        self._unsaved: list[tuple[Gathering, bytes]] = []
        self._unsaved_bytes = 0
        self._saving: asyncio.Task[None] | None = None
        self._writing: set[Coming] = set()

    # --- both lanes ---

    async def admit(self, coming: Sequence[Coming]) -> list[Coming]:
        """Those that storage has room for, all of an attempt or nothing of it; the other attempts fail."""
        needs: dict[Gathering, int] = {}
        for one in coming:
            needs[one.gathering] = needs.get(one.gathering, 0) + max(one.item.size - one.offset, LEAST)
        free = {base: await self._storage.free(base) for base in {gathering.base for gathering in needs}}
        for gathering, needed in needs.items():
            if needed > free[gathering.base] - self._reserve:
                gathering.fail(full(self._storage, free[gathering.base], self._reserve, needed))
            else:
                free[gathering.base] -= needed
        admitted = [one for one in coming if one.gathering.error is None]
        self._meter.expect(sum(one.item.size - one.offset for one in admitted))
        return admitted

    async def write(self, coming: Coming, offset: int, data: bytes) -> None:
        """Write a block of a big file."""
        if coming.gathering.error is not None:
            return
        path = coming.gathering.at(coming.path)
        try:
            if coming.writer is None:
                coming.writer = await self._storage.open(path, fresh=offset == 0)
                self._writing.add(coming)
            await coming.writer.write(offset, data)
            # Not believed, but there: the next round removes it or goes on from here.
            coming.gathering.have[coming.path] = replace(coming.item, size=offset + len(data), mtime_ns=-1)
        except OSError as error:
            coming.gathering.fail(trouble(self._storage.name, path, error))
        self._meter.count(len(data))

    async def finish(self, ready: Sequence[Coming]) -> None:
        """Store small files and close big ones: all of each came."""
        ready = [coming for coming in ready if coming.gathering.error is None]
        small = [coming for coming in ready if coming.small]
        big = [coming for coming in ready if not coming.small]
        failures: dict[bytes, OSError] = {}
        if small:
            files = [Small(c.gathering.at(c.path), b"".join(c.held), c.item.mode, c.item.mtime_ns) for c in small]
            failures |= await self._storage.put(files)
        for coming in big:
            try:
                await self._close(coming)
            except OSError as error:
                failures[coming.gathering.at(coming.path)] = error
        if big:
            stamps = [Stamp(c.gathering.at(c.path), c.item.mode, c.item.mtime_ns) for c in big]
            failures = {**await self._storage.stamp(stamps), **failures}
        for coming in ready:
            self._note(coming, failures)
        await self._save_if_due()

    def _note(self, coming: Coming, failures: Failures) -> None:
        path = coming.gathering.at(coming.path)
        if path in failures:
            coming.gathering.fail(trouble(self._storage.name, path, failures[path]))
            return
        coming.done()
        self._unsaved.append((coming.gathering, coming.path))
        self._unsaved_bytes += coming.item.size
        self._meter.count(coming.item.size if coming.small else 0)

    async def _close(self, coming: Coming) -> None:
        self._writing.discard(coming)
        if coming.writer is not None:
            writer, coming.writer = coming.writer, None
            await writer.close()

    async def close(self) -> None:
        """Close what is still open; what was written of it stays and may be continued."""
        with suppress(StorageError):  # of what brought us here we know already
            await self.settle()
        for coming in list(self._writing):
            try:
                await self._close(coming)
            except (OSError, StorageError):
                continue  # the reason that brought us here tells more

    # --- the tar lane ---

    def tar(self, expected: Sequence[Coming]) -> Callable[[Sequence[bytes]], Awaitable[bytes | None]]:
        """What takes a tar stream of these files; see `source.Feed`. Raises TarError."""
        stream = _TarStream(expected)

        async def feed(pieces: Sequence[bytes]) -> bytes | None:
            digested = await asyncio.to_thread(stream.digest, pieces)
            for block in digested.blocks:
                await self.write(*block)
            await self.finish(digested.ready)
            return digested.rest

        return feed

    # --- the lane of single files: where there is no tar, for what tar did not bring, and to continue a big one ---

    async def fetch(self, files: Files, node: str, folder: bytes, expected: Sequence[Coming]) -> None:
        """Fetch files one by one through the node's `files`; what vanished or changed is left for the next round."""

        async def get(coming: Coming) -> None:
            await self._fetch(files, node, folder, coming)

        await each([coming for coming in expected if coming.small], get, FILES_AT_ONCE)
        await each([coming for coming in expected if not coming.small], get, 1)

    async def _fetch(self, files: Files, node: str, folder: bytes, coming: Coming) -> None:
        if coming.gathering.error is not None:
            return
        path = folder + b"/" + coming.source
        try:
            file = await files.open_read(path)
            try:
                await self._read(file, coming)
            finally:
                await file.close()
        except FileNotFoundError:
            return
        except OSError as error:
            coming.gathering.fail(
                NodeError(
                    f"{node}: {printable(path)} cannot be read: {error.strerror or error}",
                    hint="give its owner the right to read it; it then goes on by itself",
                )
            )
            return
        if coming.complete:
            await self.finish([coming])

    async def _read(self, file: File, coming: Coming) -> None:
        """Read all that is left, several pieces ahead, and one byte more: a file that has grown is another one."""
        starts = iter(range(coming.offset, coming.item.size + 1, READ))
        reads: list[asyncio.Task[bytes]] = []
        try:
            while True:
                while len(reads) < READS and (start := next(starts, None)) is not None:
                    reads.append(asyncio.create_task(file.read(start, min(READ, coming.item.size + 1 - start))))
                if not reads:
                    return
                data = await reads.pop(0)
                offset = coming.offset
                if coming.small:
                    coming.take(data)
                else:
                    await asyncio.to_thread(coming.take, data)
                    if data:
                        await self.write(coming, offset, data)
                if len(data) < READ:
                    return
        finally:
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)

    # --- the journal ---

    async def settle(self) -> None:
        """Wait for what is being noted down. Raises StorageError."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            await saving

    async def _save_if_due(self) -> None:
        if self._saving is not None and self._saving.done():
            await self.settle()
        due = self._unsaved_bytes >= CHECKPOINT_BYTES or len(self._unsaved) >= CHECKPOINT_FILES
        if due and self._saving is None:
            self._saving = asyncio.create_task(self.save(), name="journal")

    async def save(self) -> None:
        """Make what came durable and note it in the journals, so that a second call need not fetch it again."""
        unsaved, self._unsaved, self._unsaved_bytes = self._unsaved, [], 0
        lines: dict[Gathering, list[bytes]] = {}
        for gathering, path in unsaved:
            if gathering.published is None and path in gathering.sums:
                line = journal_line(path, gathering.have[path], gathering.sums[path])
                lines.setdefault(gathering, []).append(line)
        if not lines:
            return
        await self._storage.sync([gathering.part for gathering in lines])
        for gathering, added in lines.items():
            data = b"".join(added)
            try:
                writer = await self._storage.open(gathering.journal, fresh=False)
                try:
                    await writer.write(gathering.journal_size, data)
                finally:
                    await writer.close()
            except OSError:
                continue  # full: without its lines these files are only fetched again
            gathering.has_journal = True
            gathering.journal_size += len(data)
        free = await self._storage.free(next(iter(lines)).part)
        if free < self._reserve:
            raise full(self._storage, free, self._reserve, 0)


def full(storage: Storage, free: int, reserve: int, needed: int) -> StorageError:
    """The sentence for a storage that has no room."""
    kept = f", of which {format_size(reserve)} are kept for others" if reserve else ""
    wants = f"; this needs {format_size(needed)}" if needed else ""
    return StorageError(
        f"storage is full: {storage.name} has {format_size(max(free, 0))} left{kept}{wants}",
        hint="free some space there; it then goes on by itself",
    )
