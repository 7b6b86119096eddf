"""Files on their way here: counted, hashed, compared with what was promised, and put in their places."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distribute_ssh.errors import StorageError
from distribute_ssh.storage.folder import Writer
from distribute_ssh.storage.listing import Item
from distribute_ssh.storage.results import SMALL, Piece, Want
from distribute_ssh.storage.target import BESIDE, Target

if TYPE_CHECKING:
    from hashlib import _Hash


@dataclass(frozen=True, slots=True)
class Came:
    """How far it is: files and bytes that came, and that have to come in all."""

    files: int
    bytes: int
    all_files: int
    all_bytes: int


Progress = Callable[[Came], None]


@dataclass(slots=True, eq=False)
class Arriving:
    """One file on its way. `offset`: bytes of it that have been hashed; `part`: where what came of it is kept."""

    path: bytes
    item: Item
    sha256: str | None  # what its job.json says; None: it stands in none
    part: bytes | None
    offset: int = 0
    hash: _Hash | None = None
    begun: int = 0  # bytes that were here before
    held: list[bytes] = field(default_factory=list)  # of a small one
    writer: Writer | None = None  # of a big one

    def __post_init__(self) -> None:
        self.begun = self.offset
        if self.hash is None:
            self.hash = hashlib.sha256()

    @property
    def small(self) -> bool:
        """Whether it is held until it is whole."""
        return self.item.size <= SMALL

    @property
    def complete(self) -> bool:
        """Whether all of it came."""
        return self.offset == self.item.size


class Arrivals:
    """Takes the files of one stream, in the order of `wanted`."""

    def __init__(self, room: Target, source: str, coming: Sequence[Arriving], progress: Progress) -> None:
        self._room = room
        self._source = source
        self._coming = list(coming)
        self._progress = progress
        self._at = 0  # the file that comes now
        self._all_bytes = sum(each.item.size - each.offset for each in coming)
        self.files = self.bytes = self.unverified = 0
        self.placed: list[bytes] = []
        self.problems: dict[bytes, str] = {}
        self.may_help = False  # whether another round may bring what did not come

    @property
    def wanted(self) -> list[Want]:
        """What to ask for."""
        return [Want(each.path, each.item.size, each.offset) for each in self._coming]

    async def take(self, pieces: Sequence[Piece]) -> None:
        """Take the next pieces. Raises StorageError for what was not asked for, DistributeError for a full disk."""
        blocks, ready = await asyncio.to_thread(self._digest, pieces)
        for each, offset, data in blocks:
            await self._write(each, offset, data)
        await self._finish(ready)

    async def end(self) -> None:
        """All came that comes."""
        ready = self._go_on_to(len(self._coming))
        await self._finish(ready)
        self._tell()

    async def close(self) -> None:
        """Close what is open; what came of a big file stays to be gone on from."""
        for each in self._coming:
            with suppress(OSError):  # what brought us here tells more
                await self._close(each)

    def _digest(self, pieces: Sequence[Piece]) -> tuple[list[tuple[Arriving, int, bytes]], list[Arriving]]:
        """Count and hash; off the event loop. Returns the blocks of big files, and the files that are complete."""
        blocks: list[tuple[Arriving, int, bytes]] = []
        ready: list[Arriving] = []
        for piece in pieces:
            if not self._at <= piece.number < len(self._coming):
                raise StorageError(f"{self._source}: sends what was not asked for")
            ready += self._go_on_to(piece.number)
            each = self._coming[piece.number]
            if piece.problem:
                self._lost(each, piece.problem)
                continue
            if each.offset + len(piece.data) > each.item.size:
                raise StorageError(f"{self._source}: sends more of a file than there is")
            assert each.hash is not None
            data = bytes(piece.data)
            each.hash.update(data)
            if each.small:
                each.held.append(data)
            elif data:
                blocks.append((each, each.offset, data))
            each.offset += len(data)
            self.bytes += len(data)
        # The last one is over as soon as all of it is here; there may be nothing behind it for a while.
        if self._at < len(self._coming) and self._coming[self._at].complete:
            ready += self._go_on_to(self._at + 1)
        return blocks, ready

    def _go_on_to(self, number: int) -> list[Arriving]:
        """Leave the files before `number` behind; returns those of them that are complete."""
        ready = []
        while self._at < number:
            each = self._coming[self._at]
            self._at += 1
            if each.path in self.problems:
                continue
            if each.complete:
                ready.append(each)
            else:
                self._lost(each, "went away or changed while it was read")
        return ready

    def _lost(self, each: Arriving, why: str) -> None:
        self.problems.setdefault(each.path, why)
        self.may_help = True

    async def _write(self, each: Arriving, offset: int, data: bytes) -> None:
        if each.path in self.problems:
            return
        try:
            if each.writer is None:
                if each.part is None:
                    each.part = BESIDE + b"/%d.new" % id(each)
                each.writer = await self._room.open(each.part, fresh=each.begun == 0)
            await each.writer.write(offset, data)
        except OSError as error:
            self._failed({each.path: error})
        self._tell()

    async def _close(self, each: Arriving) -> None:
        if each.writer is not None:
            writer, each.writer = each.writer, None
            await writer.close()

    async def _finish(self, ready: Sequence[Arriving]) -> None:
        good = [each for each in ready if each.path not in self.problems]
        for each in good:
            assert each.hash is not None
            if each.sha256 is not None and each.hash.hexdigest() != each.sha256:
                await self._is_wrong(each)
        good = [each for each in good if each.path not in self.problems]
        if small := {each.path: (each.item, b"".join(each.held)) for each in good if each.small}:
            self._failed(await self._room.put(small))
        for each in good:
            each.held = []
            if not each.small:
                await self._keep(each)
        for each in good:
            if each.path not in self.problems:
                self.placed.append(each.path)
                self.files += 1
                self.unverified += each.sha256 is None
        if good:
            self._tell()

    async def _keep(self, each: Arriving) -> None:
        try:
            await self._close(each)
        except OSError as error:
            self._failed({each.path: error})
        if each.path not in self.problems and each.part is not None:
            self._failed(await self._room.keep(each.part, each.path, each.item))

    async def _is_wrong(self, each: Arriving) -> None:
        with suppress(OSError):  # it is thrown away
            await self._close(each)
        if each.part is not None:
            await self._room.forget([each.part])
        each.held = []
        self.problems[each.path] = "is not what its job.json says; `distribute verify` looks at all of the batch"
        # What was gone on from may have been of a machine that lost its power.
        self.may_help |= each.begun > 0

    def _failed(self, failures: Mapping[bytes, OSError]) -> None:
        self.problems |= {path: f"cannot be written: {e.strerror or e}" for path, e in failures.items()}

    def _tell(self) -> None:
        self._progress(Came(self.files, self.bytes, len(self._coming), self._all_bytes))
