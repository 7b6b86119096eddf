"""The folder that results are pulled into. Nothing outside it is ever touched, whatever names or links there are.

Everything goes through folder descriptors, and no link in it is followed, not even one that its owner put there. What
comes is written beside, into a folder of our own, and renamed once it is whole and right. What came of a big file
stays there when we are stopped; its name tells which version of which file it is of.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distribute_ssh.errors import BusyError, DistributeError
from distribute_ssh.model.units import format_size
from distribute_ssh.node.files import Entry
from distribute_ssh.storage.disk import LocalStorage
from distribute_ssh.storage.folder import Failures, Small, Stamp, Writer
from distribute_ssh.storage.listing import Item

if TYPE_CHECKING:
    from hashlib import _Hash

BESIDE = b".distribute-pull"
_LOCK = "lock"
READ = 4 << 20


class Target:
    """An open target; see `opened`. Paths are those of the listing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Nothing is synced here: what is lost with the power has another size or time, and comes again.
        self._folder = LocalStorage(root, site_levels=0, paced=False)
        self._made = 0

    # --- what is here ---

    async def look(self, paths: Sequence[bytes]) -> dict[bytes, Entry]:
        """What is here of these paths."""
        return await self._folder.stat(paths)

    async def links(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        """What links of these say."""
        return await self._folder.readlinks(paths)

    async def free(self) -> int:
        """Bytes we may still write."""
        return await self._folder.free(b"")

    async def sha256(self, path: bytes) -> str | None:
        """The hash of a file; None where it cannot be read."""
        return None if (found := await self._hash(path, None)) is None else found.hexdigest()

    async def _hash(self, path: bytes, size: int | None) -> _Hash | None:
        digest, offset = hashlib.sha256(), 0
        try:
            while piece := await self._folder.read(path, offset, READ):
                await asyncio.to_thread(digest.update, piece)
                offset += len(piece)
        except OSError:
            return None
        return digest if size is None or offset == size else None

    # --- what came of a big file before ---

    @staticmethod
    def part(path: bytes, item: Item) -> bytes:
        """Where the bytes of this version of a file gather."""
        which = b"%d %d %s" % (item.size, item.mtime_ns, path)
        return BESIDE + b"/" + hashlib.sha256(which).hexdigest()[:32].encode() + b".part"

    async def begun(self, parts: Mapping[bytes, int]) -> dict[bytes, tuple[int, _Hash]]:
        """How many bytes are here already of those parts that may get so many, and their hash."""
        found: dict[bytes, tuple[int, _Hash]] = {}
        for part, entry in (await self.look(list(parts))).items():
            digest = await self._hash(part, entry.size) if entry.kind == "f" and 0 < entry.size <= parts[part] else None
            if digest is None:
                await self.forget([part])
            else:
                found[part] = (entry.size, digest)
        return found

    async def forget(self, parts: Sequence[bytes]) -> None:
        """Remove parts that are of no use."""
        _heed(self.root, await self._folder.remove(parts))

    async def open(self, part: bytes, *, fresh: bool) -> Writer:
        """Open a part for writing. Raises OSError."""
        return await self._folder.open(part, fresh=fresh)

    # --- what comes; each returns what failed, under the path of the listing ---

    async def make_folders(self, paths: Sequence[bytes]) -> Failures:
        """Make folders, parents first; they get their modes at the end."""
        return _heed(self.root, await self._folder.make_folders(paths))

    async def put(self, files: Mapping[bytes, tuple[Item, bytes]]) -> Failures:
        """Put small files in place."""
        beside = {self._new(): path for path in files}
        small = [
            Small(new, files[path][1], files[path][0].mode, files[path][0].mtime_ns) for new, path in beside.items()
        ]
        return await self._move(beside, await self._folder.put(small))

    async def link(self, links: Mapping[bytes, bytes]) -> Failures:
        """Put links in place."""
        beside = {self._new(): path for path in links}
        failures = await self._folder.make_links({new: links[path] for new, path in beside.items()})
        return await self._move(beside, failures)

    async def keep(self, part: bytes, path: bytes, item: Item) -> Failures:
        """Put a part in place that is whole."""
        return await self._move({part: path}, await self._folder.stamp([Stamp(part, item.mode, item.mtime_ns)]))

    async def stamp(self, items: Mapping[bytes, Item]) -> Failures:
        """Give files and folders their modes and times."""
        return await self._folder.stamp([Stamp(path, item.mode, item.mtime_ns) for path, item in items.items()])

    def _new(self) -> bytes:
        self._made += 1
        return BESIDE + b"/%d.new" % self._made

    async def _move(self, beside: Mapping[bytes, bytes], failures: Failures) -> Failures:
        ready = {new: path for new, path in beside.items() if new not in failures}
        failures = {**failures, **await self._folder.rename(list(ready.items()))}
        if failures:
            await self._folder.remove([new for new in failures if new.endswith(b".new")])
        return _heed(self.root, {beside[new]: error for new, error in failures.items()})

    async def sweep(self, parts: Collection[bytes]) -> None:
        """Remove what pulls left beside that were killed, but for these parts, which can be gone on from."""
        there = [BESIDE + b"/" + name for name in await self._folder.tree(BESIDE)]
        await self._folder.remove([path for path in there if path.endswith((b".new", b".part")) and path not in parts])


def no_room(root: Path, needed: int, free: int) -> DistributeError:
    """The sentence for a target that is too small."""
    return DistributeError(
        f"there is no room in {root}: {format_size(needed)} have to come, {format_size(max(free, 0))} are free",
        hint="free some space, choose less (--include, --job), or pull to another place (--save-dir)",
    )


def _heed(root: Path, failures: Failures) -> Failures:
    """Pass on what failed for one path alone. Raises DistributeError for a disk that is full: nothing else will fit."""
    for error in failures.values():
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DistributeError(
                f"there is no room left in {root}: {error.strerror}",
                hint="free some space there; the same command goes on where it stopped",
            )
    return failures


@contextmanager
def opened(root: Path) -> Iterator[Target]:
    """Open a target, made where it is missing, for one pull at a time. Raises BusyError, OSError."""
    root.mkdir(parents=True, exist_ok=True)
    lock = _lock(root)
    try:
        yield Target(root)
    finally:
        beside = root / os.fsdecode(BESIDE)
        # While we still hold the lock: whoever opened it meanwhile finds it gone, and begins anew.
        try:
            if os.listdir(beside) == [_LOCK]:
                (beside / _LOCK).unlink()
                beside.rmdir()
        finally:
            os.close(lock)


def _lock(root: Path) -> int:
    beside = root / os.fsdecode(BESIDE)
    while True:
        beside.mkdir(mode=0o700, exist_ok=True)
        try:
            folder = os.open(beside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # the pull before us has just tidied up
        try:
            fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        except FileNotFoundError:
            continue
        finally:
            os.close(folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = (beside / _LOCK).lstat()
            if (there.st_dev, there.st_ino) == (os.fstat(fd).st_dev, os.fstat(fd).st_ino):
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise BusyError(f"another pull is at work in {root}", hint="wait for it, or pull elsewhere") from error
        except FileNotFoundError:
            pass
        os.close(fd)
