"""The results of one batch as somebody who pulls sees them: a listing, then the bytes of the files chosen from it.

That is all of the seam, so that it can be had from storage (a folder, or over SFTP) and over any two byte streams
(`wire`): a listing is one answer, and however many small files are chosen, they are one stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from distribute_ssh.errors import NoMatchError, StorageError, UsageError
from distribute_ssh.node.files import Entry
from distribute_ssh.node.link import Link
from distribute_ssh.storage.folder import UNSEEN, Storage
from distribute_ssh.storage.listing import Collector, FindReader, Item, ListingError
from distribute_ssh.storage.remote import SftpStorage, reached
from distribute_ssh.storage.selection import wrong_name
from distribute_ssh.storage.source import TAR_ONLY, request, transfer
from distribute_ssh.storage.tarstream import Member, TarError, TarReader

SMALL = 1 << 20  # bytes up to which files are read many at a time
GROUP_BYTES = 4 << 20  # of small files read in one go
GROUP_FILES = 512
PIECE = 4 << 20  # bytes of a big file read in one go
TAR_OVERHEAD = 8192  # bytes a name may add to a tar stream: headers, a long name, padding
ROOM = "pull"  # stands where listings of nodes have an attempt's token


@dataclass(frozen=True, slots=True)
class Want:
    """A file to be fetched: `size` as it was listed, `offset` where to go on."""

    path: bytes
    size: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bytes of the wanted file `number`; with `problem`, why no more of it comes."""

    number: int
    data: bytes | memoryview = b""
    problem: str = ""


Take = Callable[[Sequence[Piece]], Awaitable[None]]
"""Takes the next pieces: files in the order in which they were asked for, each from its offset on."""


class Results(Protocol):
    """The results of one batch."""

    name: str
    """Where they are, for a person."""

    async def listing(self) -> Sequence[tuple[bytes, Item]]:
        """Everything there, by path below the batch, parents first. Not to be believed before `checked`.

        Raises NoMatchError where the batch has none, StorageError.
        """

    async def fetch(self, wanted: Sequence[Want], take: Take) -> None:
        """Have `take` given the bytes of these files; one that is gone, or shorter, gets a piece that says so.

        Raises StorageError.
        """


def checked(name: str, listing: Sequence[tuple[bytes, Item]]) -> tuple[dict[bytes, Item], dict[bytes, str]]:
    """What may be believed of a listing, by the same rules as for one of a node: plain names, each below what the same
    listing calls a folder; and the reasons for what is no file, folder or link. Names with a dot before them beside
    the jobs' folders are left out: they are unfinished business of the archive. Raises ListingError.
    """
    collector = Collector(name, [ROOM])
    room = ROOM.encode()
    collector.add(room, Item("d"))
    collector.add(room + b"/save", Item("d"))
    for path, item in listing:
        collector.add(room + b"/save/" + path, item)
    saved = collector.saved[ROOM]
    if saved.trouble is not None:
        raise ListingError(f"{name}: {saved.trouble}")
    tree = {path: item for path, item in (saved.tree or {}).items() if not path.startswith(b".")}
    return tree, {path: why for path, why in saved.skipped.items() if not path.startswith(b".")}


def item_of(entry: Entry, target: bytes = b"") -> Item:
    """An entry of a folder as listings have it."""
    return Item(entry.kind, entry.size, entry.mtime_ns, entry.mode, target)


class StoredResults:
    """Those that lie in storage.

    Only what was listed as a file can be fetched: a job may have saved a link to `/etc`, and whoever asks for a name
    below it may be anybody. `missing`: what to say where there are none; `coming`: some are to be, so that none is no
    mistake.
    """

    def __init__(
        self,
        storage: Storage,
        namespace: str,
        batch: str,
        missing: NoMatchError | None = None,
        *,
        coming: bool = False,
    ) -> None:
        if wrong := wrong_name(namespace, batch):
            raise UsageError(f"{namespace}/{batch} can name no batch: {wrong}")
        self.name = f"{storage.name}/{namespace}/{batch}"
        self._storage = storage
        self._batch = f"{namespace}/{batch}".encode()
        self._files: set[bytes] | None = None
        self._coming = coming
        self._no_results = missing or NoMatchError(
            f"{namespace}/{batch} has no results in {storage.name}", hint="`distribute archive list` shows what has"
        )

    async def listing(self) -> Sequence[tuple[bytes, Item]]:
        """Everything there."""
        try:
            listing = await self._list()
        except NoMatchError:
            if not self._coming:
                raise
            listing = []
        self._files = _files(self.name, listing)
        return listing

    async def _list(self) -> Sequence[tuple[bytes, Item]]:
        storage = self._storage
        if self._batch not in await storage.stat([self._batch]):
            raise self._no_results
        if isinstance(storage, SftpStorage) and storage.link:
            found = await _find(storage, storage.link, self._batch)
            if found is not None:
                return found
        tree = await storage.tree(self._batch)
        links = {self._at(path): path for path, entry in tree.items() if entry.kind == "l"}
        targets = {links[path]: to for path, to in (await storage.readlinks(list(links))).items()} if links else {}
        return [(path, item_of(entry, targets.get(path, b""))) for path, entry in tree.items()]

    def _at(self, path: bytes) -> bytes:
        return self._batch + b"/" + path

    async def fetch(self, wanted: Sequence[Want], take: Take) -> None:
        """Have `take` given the bytes of these files."""
        storage = self._storage
        if (files := self._files) is None:
            files = self._files = _files(self.name, await self._list())
        if any(want.path not in files for want in wanted):
            raise StorageError(f"{self.name}: somebody asks for what is no file there")
        left = range(len(wanted))
        if isinstance(storage, SftpStorage) and storage.link:
            left = range(await _tar(storage, storage.link, self._batch, wanted, take), len(wanted))
        async with aclosing(self._pieces(wanted, left)) as pieces:
            await _ahead(pieces, take)

    async def _pieces(self, wanted: Sequence[Want], numbers: range) -> AsyncGenerator[list[Piece], None]:
        group: list[int] = []
        size = 0
        for number in numbers:
            want = wanted[number]
            left = want.size - want.offset
            if group and (left > SMALL or size + left > GROUP_BYTES or len(group) >= GROUP_FILES):
                yield await self._group(wanted, group)
                group, size = [], 0
            if left <= SMALL:
                group.append(number)
                size += left
                continue
            offset = want.offset
            while offset < want.size:
                piece = await self._piece(number, want, offset)
                yield [piece]
                if piece.problem:
                    break
                offset += len(piece.data)
        if group:
            yield await self._group(wanted, group)

    async def _group(self, wanted: Sequence[Want], numbers: Sequence[int]) -> list[Piece]:
        parts = {self._at(wanted[n].path): (wanted[n].offset, wanted[n].size - wanted[n].offset) for n in numbers}
        came, failures = await self._storage.read_each(parts)
        pieces = []
        for number in numbers:
            path = self._at(wanted[number].path)
            data = came.get(path, b"")
            problem = "" if len(data) == parts[path][1] else _why(failures.get(path))
            pieces.append(Piece(number, data, problem))
        return pieces

    async def _piece(self, number: int, want: Want, offset: int) -> Piece:
        try:
            data = await self._storage.read(self._at(want.path), offset, min(PIECE, want.size - offset))
        except OSError as error:
            return Piece(number, problem=_why(error))
        return Piece(number, data, "" if data else _why(None))


def _files(name: str, listing: Sequence[tuple[bytes, Item]]) -> set[bytes]:
    return {path for path, item in checked(name, listing)[0].items() if item.kind == "f"}


def _why(error: OSError | None) -> str:
    if error is None or isinstance(error, UNSEEN[:2]):
        return "went away or changed while it was read"
    return f"cannot be read: {error.strerror or error}"


async def _ahead(batches: AsyncGenerator[list[Piece], None], take: Take) -> None:
    """Read on while what came before is being taken."""
    taking: asyncio.Future[None] | None = None
    try:
        async for pieces in batches:
            if taking is not None:
                await taking
            taking = asyncio.ensure_future(take(pieces))
        if taking is not None:
            await taking
    finally:
        if taking is not None:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)


# --- storage with a shell: one command for the listing, one stream for all files ---

_LIST = r"""
LC_ALL=C; export LC_ALL
IFS= read -r folder; cd "$folder" || exit 70
find . -mindepth 1 -printf 'ROOM' && printf '=\0\0'
""".replace("ROOM", rf"%y %s %T@ %m {ROOM}/save/%P\0%l\0")


async def _find(storage: SftpStorage, link: Link, batch: bytes) -> list[tuple[bytes, Item]] | None:
    """The listing by one `find` there; None where that does not work: it is walked through then."""
    collector = Collector(storage.name, [ROOM])
    collector.add(ROOM.encode(), Item("d"))
    collector.add(ROOM.encode() + b"/save", Item("d"))
    reader = FindReader(collector)
    with reached(storage.name):
        async with link.process(_LIST) as process:
            await process.write(storage.root + b"/" + batch + b"\n")
            process.write_eof()
            while not reader.ended and (data := await process.read(1 << 20)):
                await asyncio.to_thread(reader.feed, data)
    if not reader.ended:
        return None
    saved = collector.saved[ROOM]
    if saved.trouble is not None:
        raise StorageError(f"{storage.name}: {saved.trouble}")
    odd = [(path, Item("?")) for path in saved.skipped]
    return [*(saved.tree or {}).items(), *odd]


async def _tar(storage: SftpStorage, link: Link, batch: bytes, wanted: Sequence[Want], take: Take) -> int:
    """Have the files before the first that goes on in its middle sent as one tar stream; returns how many are dealt
    with. The others, and all where there is no tar, come one by one.
    """
    count = next((n for n, want in enumerate(wanted) if want.offset), len(wanted))
    if count < 2:
        return 0
    stream = _Stream(wanted[:count])

    async def feed(pieces: Sequence[bytes]) -> bytes | None:
        await take(await asyncio.to_thread(stream.digest, pieces))
        return stream.rest

    try:
        with reached(storage.name):
            async with link.process(TAR_ONLY) as process:
                await process.write(request(storage.root + b"/" + batch, ()))
                await transfer(process, storage.name, [want.path for want in wanted[:count]], feed)
    except TarError:
        # What was begun is over for whoever takes it in order; it is told so, and asks again.
        return stream.number + 1
    return count


class _Stream:
    """Sorts a tar stream into the files that were asked for."""

    def __init__(self, wanted: Sequence[Want]) -> None:
        self.number = -1  # the file that came last
        self.rest: bytes | None = None  # what follows the stream, where it has ended
        self._numbers = {want.path: number for number, want in enumerate(wanted)}
        self._wanted = wanted
        self._left = 0  # bytes of it still to come
        self._reader = TarReader(sum(want.size + TAR_OVERHEAD for want in wanted) * 2 + (1 << 20))

    def digest(self, pieces: Sequence[bytes]) -> list[Piece]:
        """Take the next bytes. Raises TarError."""
        found: list[Piece] = []
        for data in pieces:
            for event in self._reader.feed(data):
                if isinstance(event, Member):
                    number = self._numbers.get(event.name, -1)
                    if number <= self.number:
                        raise TarError(f"sends what was not asked for: {event.name!r}")
                    self.number, self._left = number, self._wanted[number].size
                    if event.size != self._left:
                        found.append(Piece(number, problem=_why(None)))
                        self._left = 0
                elif self._left:
                    self._left -= len(event)
                    found.append(Piece(self.number, event))
        if self._reader.ended:
            self.rest = self._reader.rest
        return found
