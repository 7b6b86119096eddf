"""A machine's files as both kinds of link and both kinds of storage offer them: bytes in, bytes out, names as bytes."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder. `kind`: "f" file, "d" folder, "l" link, "?" anything else (pipe, socket, device)."""

    name: bytes
    kind: str
    size: int
    mtime: int  # whole seconds: all that SFTP version 3 carries
    mode: int  # permission bits only
    fraction: int = 0  # nanoseconds beyond `mtime`, where they are known

    @property
    def mtime_ns(self) -> int:
        """The modification time as closely as it is known."""
        return self.mtime * 1_000_000_000 + self.fraction


class File(Protocol):
    """An open file."""

    async def read(self, offset: int, size: int) -> bytes:
        """Bytes at `offset`, fewer only at the end."""

    async def write(self, offset: int, data: bytes) -> None:
        """Put bytes at `offset`."""

    async def sync(self) -> None:
        """Make what was written durable."""

    async def close(self) -> None:
        """Close it."""


class Files(Protocol):
    """File operations at one place; paths are bytes, relative to the account's home where not absolute.

    Errors are OSError with a true errno wherever it can be known (FileNotFoundError, FileExistsError, ENOSPC, EACCES),
    UnreachableError when the line is lost.
    """

    async def stat(self, path: bytes) -> Entry:
        """What is there, links not followed."""

    async def scan(self, path: bytes) -> list[Entry]:
        """Everything in a folder but `.` and `..`."""

    async def readlink(self, path: bytes) -> bytes:
        """Where a link points."""

    async def open_read(self, path: bytes) -> File:
        """Open a regular file (never through a link)."""

    async def open_write(self, path: bytes, *, fresh: bool) -> File:
        """Open for writing, mode 0600; `fresh`: it must not exist; else it is kept and written further."""

    async def mkdir(self, path: bytes, mode: int = 0o700) -> None:
        """Make a folder; FileExistsError when something is there."""

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a link that says `target`."""

    async def rename(self, old: bytes, new: bytes) -> None:
        """Rename; replaces a file atomically, never a folder that holds something."""

    async def remove(self, path: bytes) -> None:
        """Remove a file or link."""

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty folder."""

    async def set_times(self, path: bytes, mode: int | None, mtime: int) -> None:
        """Set permission bits (None: leave) and modification time; not through links."""

    async def free(self, path: bytes) -> int:
        """Bytes an ordinary user may still write at `path`."""


class LocalFile:
    """A file of this machine."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    async def read(self, offset: int, size: int) -> bytes:
        """Bytes at `offset`, fewer only at the end."""
        return await asyncio.to_thread(os.pread, self.fd, size, offset)

    async def write(self, offset: int, data: bytes) -> None:
        """Put bytes at `offset`."""

        def put() -> None:
            view = memoryview(data)
            done = 0
            while done < len(view):  # a nearly full disk takes a part of it first and says so at the next call
                done += os.pwrite(self.fd, view[done:], offset + done)

        await asyncio.to_thread(put)

    async def sync(self) -> None:
        """Make what was written durable."""
        await asyncio.to_thread(os.fsync, self.fd)

    async def close(self) -> None:
        """Close it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def entry_of(name: bytes, status: os.stat_result) -> Entry:
    """Translate the operating system's answer."""
    mode = status.st_mode
    kind = "f" if stat.S_ISREG(mode) else "d" if stat.S_ISDIR(mode) else "l" if stat.S_ISLNK(mode) else "?"
    seconds, fraction = divmod(status.st_mtime_ns, 1_000_000_000)
    return Entry(name, kind, status.st_size, seconds, stat.S_IMODE(mode), fraction)


class LocalFiles:
    """This machine's files. Small calls run at once: a local disk answers faster than a thread switch."""

    async def stat(self, path: bytes) -> Entry:
        """What is there, links not followed."""
        return entry_of(os.path.basename(path), os.lstat(path))

    async def scan(self, path: bytes) -> list[Entry]:
        """Everything in a folder."""
        with os.scandir(path) as found:
            return [entry_of(entry.name, entry.stat(follow_symlinks=False)) for entry in found]

    async def readlink(self, path: bytes) -> bytes:
        """Where a link points."""
        return os.readlink(path)

    async def open_read(self, path: bytes) -> LocalFile:
        """Open a regular file."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # a pipe would block its reader for ever
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        return LocalFile(fd)

    async def open_write(self, path: bytes, *, fresh: bool) -> LocalFile:
        """Open for writing."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_EXCL if fresh else 0)
        return LocalFile(os.open(path, flags, 0o600))

    async def mkdir(self, path: bytes, mode: int = 0o700) -> None:
        """Make a folder."""
        os.mkdir(path, mode)

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a link that says `target`."""
        os.symlink(target, path)

    async def rename(self, old: bytes, new: bytes) -> None:
        """Rename; replaces a file."""
        os.rename(old, new)

    async def remove(self, path: bytes) -> None:
        """Remove a file or link."""
        os.unlink(path)

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    async def set_times(self, path: bytes, mode: int | None, mtime: int) -> None:
        """Set permission bits and modification time."""
        if mode is not None:
            os.chmod(path, mode)
        os.utime(path, (mtime, mtime), follow_symlinks=False)

    async def free(self, path: bytes) -> int:
        """Bytes an ordinary user may still write."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize
