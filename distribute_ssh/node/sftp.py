"""A machine's files over SFTP, with errors that say what happened: SFTP calls a full disk and a taken name alike."""

from __future__ import annotations

import errno
import os
import stat as statmode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from distribute_ssh.errors import UnreachableError
from distribute_ssh.node.files import Entry
from distribute_ssh.node.library import SFTPAttrs, SFTPClientFile, asyncssh

# OpenSSH's server ends the whole session on a write of 256 KiB: its packet limit counts the header.
BLOCK = 261_120


def _entry(name: bytes, attrs: SFTPAttrs) -> Entry:
    mode = attrs.permissions or 0
    kind = "f" if statmode.S_ISREG(mode) else "d" if statmode.S_ISDIR(mode) else "l" if statmode.S_ISLNK(mode) else "?"
    return Entry(name, kind, attrs.size or 0, int(attrs.mtime or 0), statmode.S_IMODE(mode))


class SftpFile:
    """An open file on the node."""

    def __init__(self, file: SFTPClientFile, owner: SftpFiles, path: bytes) -> None:
        self._file = file
        self._owner = owner
        self._path = path

    async def read(self, offset: int, size: int) -> bytes:
        """Bytes at `offset`."""
        async with self._owner.translated(self._path):
            return bytes(await self._file.read(size, offset))  # type: ignore[arg-type]  # opened with encoding=None

    async def write(self, offset: int, data: bytes) -> None:
        """Put bytes at `offset`."""
        async with self._owner.translated(self._path):
            for start in range(0, len(data), BLOCK):
                await self._file.write(data[start : start + BLOCK], offset + start)

    async def sync(self) -> None:
        """Make what was written durable, where the server can."""
        async with self._owner.translated(self._path):
            try:
                await self._file.fsync()
            except asyncssh.SFTPOpUnsupported:
                return  # a server without the extension: its own writing back has to do

    async def close(self) -> None:
        """Close it."""
        async with self._owner.translated(self._path):
            await self._file.close()


class SftpFiles:
    """The node's files; see `files.Files`."""

    def __init__(self, client: asyncssh.SFTPClient, node: str) -> None:
        self._client = client
        self._node = node

    @asynccontextmanager
    async def translated(self, path: bytes, *, taken: int = 0) -> AsyncIterator[None]:
        """Turn SFTP's errors into OSErrors with a true errno; `taken`: the one that fits if something is at `path`."""
        shown = os.fsdecode(path)
        try:
            yield
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown) from error
        except (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect) as error:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), shown) from error
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
            raise UnreachableError(f"{self._node}: the connection was lost") from error
        except asyncssh.SFTPFailure as error:
            code = await self._why(path, taken)
            raise OSError(code, os.strerror(code), shown) from error
        except asyncssh.SFTPError as error:
            raise OSError(errno.EIO, error.reason or str(error), shown) from error
        except (asyncssh.Error, ConnectionError) as error:
            raise UnreachableError(f"{self._node}: the connection was lost") from error

    async def _why(self, path: bytes, taken: int) -> int:
        """What `Failure` meant: look at what is there and at the room."""
        try:
            if taken and await self._client.lexists(path):
                return taken
            found = await self._client.statvfs(os.path.dirname(path) or b".")
        except asyncssh.SFTPError:
            return errno.EIO
        # btrfs and some others count no inodes: 0 of 0 are free.
        return errno.ENOSPC if found.bavail == 0 or (found.files and found.favail == 0) else errno.EIO

    async def stat(self, path: bytes) -> Entry:
        """What is there, links not followed."""
        async with self.translated(path):
            return _entry(os.path.basename(path), await self._client.lstat(path))

    async def scan(self, path: bytes) -> list[Entry]:
        """Everything in a folder but `.` and `..`."""
        found = []
        async with self.translated(path):
            async for name in self._client.scandir(path):
                assert isinstance(name.filename, bytes)
                if name.filename not in (b".", b".."):
                    found.append(_entry(name.filename, name.attrs))
        return found

    async def readlink(self, path: bytes) -> bytes:
        """Where a link points."""
        async with self.translated(path):
            target = await self._client.readlink(path)
            assert isinstance(target, bytes)
            return target

    async def open_read(self, path: bytes) -> SftpFile:
        """Open a regular file; looks first, because opening a pipe would silence the whole SFTP session."""
        if (await self.stat(path)).kind != "f":
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        async with self.translated(path):
            return SftpFile(await self._client.open(path, asyncssh.FXF_READ, encoding=None), self, path)

    async def open_write(self, path: bytes, *, fresh: bool) -> SftpFile:
        """Open for writing."""
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | (asyncssh.FXF_EXCL if fresh else 0)
        attrs = asyncssh.SFTPAttrs(permissions=0o600)
        async with self.translated(path, taken=errno.EEXIST if fresh else 0):
            return SftpFile(await self._client.open(path, flags, attrs, encoding=None), self, path)

    async def mkdir(self, path: bytes, mode: int = 0o700) -> None:
        """Make a folder."""
        async with self.translated(path, taken=errno.EEXIST):
            await self._client.mkdir(path, asyncssh.SFTPAttrs(permissions=mode))

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a link that says `target`."""
        async with self.translated(path, taken=errno.EEXIST):
            await self._client.symlink(target, path)

    async def rename(self, old: bytes, new: bytes) -> None:
        """Rename; replaces a file atomically."""
        async with self.translated(new, taken=errno.ENOTEMPTY):
            await self._client.posix_rename(old, new)

    async def remove(self, path: bytes) -> None:
        """Remove a file or link."""
        async with self.translated(path):
            await self._client.unlink(path)

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty folder."""
        async with self.translated(path, taken=errno.ENOTEMPTY):
            await self._client.rmdir(path)

    async def set_times(self, path: bytes, mode: int | None, mtime: int) -> None:
        """Set permission bits and modification time, not through links."""
        async with self.translated(path):
            attrs = asyncssh.SFTPAttrs(permissions=mode, atime=mtime, mtime=mtime)
            await self._client.setstat(path, attrs, follow_symlinks=False)

    async def free(self, path: bytes) -> int:
        """Bytes an ordinary user may still write."""
        async with self.translated(path):
            found = await self._client.statvfs(path)
            return int(found.bavail * found.frsize)
