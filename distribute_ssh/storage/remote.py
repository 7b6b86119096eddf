"""Storage on another machine, over SFTP: many requests under way at once, nothing through our own disk."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TypeVar

from distribute_ssh.errors import DistributeError, StorageError, UnreachableError
from distribute_ssh.model.address import Address
from distribute_ssh.node.files import Entry, File, Files
from distribute_ssh.node.link import Link
from distribute_ssh.storage.folder import UNSEEN, Connect, Failures, Small, Stamp, split, trouble
from distribute_ssh.storage.listing import MOST_DEPTH, MOST_ENTRIES, SECOND, printable
from distribute_ssh.storage.together import each

AT_ONCE = 32  # acts under way: one round trip is paid for 32 files
_DEEPEST = MOST_DEPTH + 8  # folders in each other, ours and the site's included
BLOCK = 261_120  # bytes in one write; OpenSSH's server ends the session on 256 KiB, its limit counts the header
_T = TypeVar("_T")
_R = TypeVar("_R")

# `sync` without -f flushes every disk of the machine, and an old one takes -f for a file to sync: look first.
_CAN_SYNC = "case $(sync --help 2>&1) in *-f*) echo yes ;; esac"
_SYNC = 'while IFS= read -r path; do sync -f -- "$path" || exit 1; done'


@contextmanager
def reached(name: str) -> Iterator[None]:
    """A line lost to storage is storage's trouble, not the node's."""
    try:
        yield
    except UnreachableError as error:
        raise StorageError(f"storage cannot be reached: {name}: {error.message}") from error


class SftpStorage:
    """See `folder.Storage`.

    `flush`: makes the file systems of paths durable by one command there. None: the account has no shell, and each
    file is synced by itself, which costs a round trip and a disk write for each. `link`: runs commands there.
    """

    def __init__(
        self,
        files: Files,
        root: bytes,
        name: str,
        flush: Callable[[Sequence[bytes]], Awaitable[None]] | None = None,
        link: Link | None = None,
    ) -> None:
        self.name = name
        self.root = root
        self.link = link
        self._files = files
        self._flush = flush

    def _at(self, path: bytes) -> bytes:
        if path:
            split(path)
        return self.root + b"/" + path if path else self.root

    async def stat(self, paths: Sequence[bytes]) -> dict[bytes, Entry]:
        """What is there."""
        found, failures = await self._each(dict.fromkeys(paths), lambda path, _: self._files.stat(self._at(path)))
        for path, error in failures.items():
            if not isinstance(error, UNSEEN):
                raise trouble(self.name, path, error)
        return found

    async def scan(self, path: bytes) -> list[Entry]:
        """What lies in a folder."""
        with reached(self.name):
            return await self._files.scan(self._at(path))

    async def tree(self, path: bytes) -> dict[bytes, Entry]:
        """Everything below a folder."""
        found: dict[bytes, Entry] = {}
        waiting = [path]
        while waiting:
            scanned, failures = await self._each(dict.fromkeys(waiting), lambda at, _: self._files.scan(self._at(at)))
            for where, error in failures.items():
                raise trouble(self.name, where, error)
            waiting = []
            for folder, entries in scanned.items():
                for entry in entries:
                    here = folder + b"/" + entry.name
                    if entry.name in (b"", b".", b"..") or b"/" in entry.name or here.count(b"/") > _DEEPEST:
                        raise StorageError(f"storage: {self.name} lists what no folder holds: {printable(here[:200])}")
                    found[here[len(path) + 1 :]] = entry
                    if entry.kind == "d":
                        waiting.append(here)
            if len(found) > MOST_ENTRIES:
                raise StorageError(f"storage: {self.name}/{printable(path)} holds more than {MOST_ENTRIES:,} files")
        return found

    async def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Bytes of a file."""
        with reached(self.name):
            file = await self._files.open_read(self._at(path))
            try:
                return await file.read(offset, size)
            finally:
                await file.close()

    async def read_each(self, parts: Mapping[bytes, tuple[int, int]]) -> tuple[dict[bytes, bytes], Failures]:
        """Bytes of many files."""
        return await self._each(parts, lambda path, part: self.read(path, *part))

    async def readlinks(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        """Where links point; what is no link is left out."""
        return (await self._each(dict.fromkeys(paths), lambda path, _: self._files.readlink(self._at(path))))[0]

    async def make_folders(self, paths: Sequence[bytes], mode: int = 0o700) -> Failures:
        """Make folders, one level after the other."""

        async def make(path: bytes, _: None) -> None:
            try:
                await self._files.mkdir(self._at(path), mode)
            except OSError:
                if (await self._files.stat(self._at(path))).kind != "d":
                    raise

        failures: dict[bytes, OSError] = {}
        levels: dict[int, dict[bytes, None]] = {}
        for path in paths:
            levels.setdefault(path.count(b"/"), {})[path] = None
        for level in sorted(levels):
            failures |= (await self._each(levels[level], make))[1]
        return failures

    async def put(self, files: Sequence[Small]) -> Failures:
        """Write new files."""
        return (await self._each({file.path: file for file in files}, self._put))[1]

    async def _put(self, path: bytes, small: Small) -> None:
        writer = await self.open(path, fresh=True)
        try:
            if small.data:
                await writer.write(0, small.data)
        finally:
            await writer.close()
        await self._stamp(path, Stamp(path, small.mode, small.mtime_ns))

    async def make_links(self, links: Mapping[bytes, bytes]) -> Failures:
        """Make symbolic links."""
        return (await self._each(links, lambda path, target: self._files.symlink(target, self._at(path))))[1]

    async def open(self, path: bytes, *, fresh: bool) -> _Writer:
        """Open a file for writing."""
        with reached(self.name):
            return _Writer(await self._files.open_write(self._at(path), fresh=fresh), self.name, self._flush is None)

    async def stamp(self, stamps: Sequence[Stamp]) -> Failures:
        """Set modes and times. In any order: to set one thing's time changes no other's."""
        return (await self._each({stamp.path: stamp for stamp in stamps}, self._stamp))[1]

    async def _stamp(self, path: bytes, stamp: Stamp) -> None:
        now = (await self._files.stat(self._at(path))).mtime if stamp.mtime_ns is None else 0
        mtime = now if stamp.mtime_ns is None else stamp.mtime_ns // SECOND
        await self._files.set_times(self._at(path), stamp.mode, mtime)

    async def remove(self, paths: Sequence[bytes]) -> Failures:
        """Remove files, links and empty folders."""

        async def remove(path: bytes, _: None) -> None:
            try:
                if (await self._files.stat(self._at(path))).kind == "d":
                    await self._files.rmdir(self._at(path))
                else:
                    await self._files.remove(self._at(path))
            except FileNotFoundError:
                return  # as wanted

        failures: dict[bytes, OSError] = {}
        levels: dict[int, dict[bytes, None]] = {}
        for path in paths:
            levels.setdefault(-path.count(b"/"), {})[path] = None
        for level in sorted(levels):
            failures |= (await self._each(levels[level], remove))[1]
        return failures

    async def rename(self, pairs: Sequence[tuple[bytes, bytes]]) -> Failures:
        """Rename."""
        return (await self._each(dict(pairs), lambda old, new: self._files.rename(self._at(old), self._at(new))))[1]

    async def sync(self, paths: Sequence[bytes]) -> None:
        """Make everything written durable."""
        if self._flush is not None:
            await self._flush([self._at(path) for path in paths])

    async def sync_names(self, folders: Sequence[bytes]) -> None:
        """Make what was renamed durable; SFTP alone knows no way to, and leaves it to the server's own writing back."""
        await self.sync(folders)

    async def free(self, path: bytes) -> int:
        """Bytes we may still write, as far as the server can tell; one that cannot says so when it is full."""
        try:
            with reached(self.name):
                return await self._files.free(self._at(path))
        except OSError:
            return sys.maxsize

    async def _each(
        self, items: Mapping[bytes, _T], act: Callable[[bytes, _T], Awaitable[_R]]
    ) -> tuple[dict[bytes, _R], Failures]:
        results: dict[bytes, _R] = {}
        failures: dict[bytes, OSError] = {}

        async def attempt(path: bytes) -> None:
            try:
                results[path] = await act(path, items[path])
            except OSError as error:
                failures[path] = error

        with reached(self.name):
            await each(items, attempt, AT_ONCE)
        return results, failures


class _Writer:
    """A big file on its way: several blocks under way at once."""

    def __init__(self, file: File, storage: str, sync: bool) -> None:
        self._file = file
        self._storage = storage
        self._sync = sync

    async def write(self, offset: int, data: bytes) -> None:
        """Put bytes at `offset`."""

        async def put(start: int) -> None:
            await self._file.write(offset + start, data[start : start + BLOCK])

        with reached(self._storage):
            await each(range(0, len(data), BLOCK), put, AT_ONCE)

    async def close(self) -> None:
        """Close it."""
        with reached(self._storage):
            try:
                if self._sync:
                    await self._file.sync()
            finally:
                await self._file.close()


@asynccontextmanager
async def open_remote(place: str, address: Address, root: bytes, connect: Connect) -> AsyncIterator[SftpStorage]:
    """Connect to the machine, and see that the folder is there. Raises StorageError."""
    with reached(place):
        link = await connect(address.host, user=address.user, port=address.port)
    async with AsyncExitStack() as opened:
        opened.push_async_callback(link.close)
        with reached(place):
            files = await opened.enter_async_context(link.files())
            try:
                kind = (await files.stat(root + b"/.")).kind  # a link to the folder will do
            except OSError:
                kind = "?"
            if kind != "d":
                raise StorageError(
                    f"storage is not there: {place} is no folder",
                    hint=f"mount it, or make it: ssh {address.host} mkdir -p {os.fsdecode(root)}",
                )
            flush = await _flusher(link, place)
        yield SftpStorage(files, root, place, flush, link if flush else None)


async def _flusher(link: Link, place: str) -> Callable[[Sequence[bytes]], Awaitable[None]] | None:
    """How to make a whole file system there durable; None where there is no shell, or none that can."""
    try:
        if (await link.run(_CAN_SYNC)).stdout.strip() != b"yes":
            return None
    except DistributeError:
        return None  # an account for SFTP only refuses every command

    async def flush(paths: Sequence[bytes]) -> None:
        with reached(place):
            done = await link.run(_SYNC, stdin=b"".join(path + b"\n" for path in dict.fromkeys(paths)), limit=600)
        if not done.ok:
            raise StorageError(
                f"storage: what was written to {place} could not be made durable: {done.stderr[-200:]!r}"
            )

    return flush
