"""Storage as the archive sees it: a folder, here or on another machine, whose acts come in batches.

A batch, because a thread switch (this machine) or a round trip (SFTP) costs more than the act itself. An act that
fails on one path says so for that path and leaves the others alone: one job's odd name is no reason to hold up its
neighbours. Two implementations keep these promises: `disk.LocalStorage` and `remote.SftpStorage`.

Paths are bytes, relative to the storage folder. The first two levels (namespace, batch) belong to the site, which may
have put links there; what lies deeper comes from jobs, and no link in it is ever followed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from distribute_ssh.errors import StorageError, UsageError
from distribute_ssh.model.address import parse_address
from distribute_ssh.node.files import Entry
from distribute_ssh.storage.listing import printable

if TYPE_CHECKING:
    from distribute_ssh.node.link import Link

Failures = Mapping[bytes, OSError]
"""The paths on which an act failed, and why."""

SITE_LEVELS = 2


@dataclass(frozen=True, slots=True)
class Small:
    """A file that is written in one go."""

    path: bytes
    data: bytes
    mode: int = 0o644
    mtime_ns: int | None = None  # None: now


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file or folder gets when all of it is there."""

    path: bytes
    mode: int
    mtime_ns: int | None = None  # None: left as it is


UNSEEN = (FileNotFoundError, NotADirectoryError, PermissionError)
"""What `stat` passes over. Whoever may not look into a folder may not write there either, and hears of it then."""


class Writer(Protocol):
    """A big file being written."""

    async def write(self, offset: int, data: bytes) -> None:
        """Put bytes at `offset`. Raises OSError."""

    async def close(self) -> None:
        """Close it. Raises OSError where a file system says only now that it is full."""


class Storage(Protocol):
    """See the module. Everything raises StorageError where storage as a whole cannot be reached."""

    name: str
    """How a person would call it: the folder, or `sftp://...`."""

    async def stat(self, paths: Sequence[bytes]) -> dict[bytes, Entry]:
        """What is there, for those paths where something is to be seen."""

    async def scan(self, path: bytes) -> list[Entry]:
        """What lies in a folder; b"" is storage itself. Raises OSError."""

    async def tree(self, path: bytes) -> dict[bytes, Entry]:
        """Everything below a folder, by path from there, parents first."""

    async def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Bytes of a file, fewer only at its end. Raises OSError."""

    async def read_each(self, parts: Mapping[bytes, tuple[int, int]]) -> tuple[dict[bytes, bytes], Failures]:
        """Bytes of many files in one go: by path, (offset, size), as `read` would give them."""

    async def readlinks(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        """Where links point, for those that are links."""

    async def make_folders(self, paths: Sequence[bytes], mode: int = 0o700) -> Failures:
        """Make folders, parents first; one that exists stays as it is."""

    async def put(self, files: Sequence[Small]) -> Failures:
        """Write new files; nothing may be there yet."""

    async def make_links(self, links: Mapping[bytes, bytes]) -> Failures:
        """Make symbolic links: by path, what they say."""

    async def open(self, path: bytes, *, fresh: bool) -> Writer:
        """Open a file for writing; `fresh`: nothing may be there yet. Raises OSError."""

    async def stamp(self, stamps: Sequence[Stamp]) -> Failures:
        """Set modes and times, in this order; not through links."""

    async def remove(self, paths: Sequence[bytes]) -> Failures:
        """Remove files, links and empty folders, in this order."""

    async def rename(self, pairs: Sequence[tuple[bytes, bytes]]) -> Failures:
        """Rename (old, new), in this order; replaces a file, never a folder. Failures under the old path."""

    async def sync(self, paths: Sequence[bytes]) -> None:
        """Make everything written on the file systems of `paths` durable. Raises StorageError."""

    async def sync_names(self, folders: Sequence[bytes]) -> None:
        """Make what was renamed into `folders` durable. Raises StorageError."""

    async def free(self, path: bytes) -> int:
        """Bytes we may still write there."""


def split(path: bytes) -> tuple[bytes, bytes]:
    """The folder and the name of a path. Raises ValueError for one that would lead out of storage, our own mistake."""
    folder, _, name = path.rpartition(b"/")
    if name in (b"", b".", b"..") or path.startswith(b"/"):
        raise ValueError(f"not a path in storage: {path!r}")
    return folder, name


def trouble(storage: str, path: bytes, error: OSError) -> StorageError:
    """Say what an error in storage (its name) means and what to do about it."""
    where = f"{storage}/{printable(path)}"
    said = error.strerror or str(error)
    match error.errno:
        case errno.ENOSPC:
            return StorageError(
                f"storage is full: no room for {where}",
                hint=f"free some space (or inodes) in {storage}; it then goes on by itself",
            )
        case errno.EDQUOT:
            return StorageError(
                f"storage is full: your quota is used up, no room for {where}",
                hint=f"remove something from {storage} or ask for a larger quota; it then goes on by itself",
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return StorageError(
                f"storage cannot be written: {where}: {said}",
                hint=f"give the account that runs this the right to write in {storage}; it then goes on by itself",
            )
        case errno.ENAMETOOLONG | errno.EILSEQ | errno.EINVAL:
            return StorageError(
                f"storage cannot hold this name: {where}: {said}",
                hint="the file system there takes shorter or other names than the node's; rename the file on the node",
            )
        case _:
            return StorageError(f"storage: {where}: {said}")


# --- where it is ---


class Connect(Protocol):
    """How another machine is reached."""

    async def __call__(self, host: str, *, user: str | None, port: int | None) -> Link:
        """Connect. Raises UnreachableError, HostKeyError, LoginError."""


@asynccontextmanager
async def open_storage(place: str, connect: Connect | None = None) -> AsyncIterator[Storage]:
    """Open a folder of this machine, or `sftp://user@host:port/path`; it is closed when the block is left.

    The folder must be there: one that is missing is more often a disk that is not mounted than a wish.
    Raises StorageError, UsageError; for another machine HostKeyError, LoginError.
    """
    if not place.startswith("sftp://"):
        from distribute_ssh.storage.disk import LocalStorage

        yield LocalStorage(Path(place))
        return
    where, slash, path = place.removeprefix("sftp://").partition("/")
    try:
        address = parse_address(where)
    except ValueError as error:
        raise UsageError(f"storage: {error}") from error
    if connect is None or "\n" in path:
        raise UsageError(f"storage: {place} cannot be reached from here")
    from distribute_ssh.storage.remote import open_remote

    async with open_remote(place, address, os.fsencode(slash + path), connect) as storage:
        yield storage
