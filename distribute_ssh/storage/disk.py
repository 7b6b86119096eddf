"""Storage in a folder of this machine: every act in a thread, and through folder descriptors only."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from distribute_ssh.errors import StorageError
from distribute_ssh.node.files import Entry, entry_of
from distribute_ssh.storage.folder import SITE_LEVELS, UNSEEN, Failures, Small, Stamp, split, trouble

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe put there must not hold us up
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_WINDOW = 16 << 20  # bytes of a big file that may wait for the disk; twice that, to be exact
_MOST_OPEN = 200  # folder descriptors held during one batch; the usual limit for a process is 1,024
_T = TypeVar("_T")
_R = TypeVar("_R")


class _Folders:
    """Folders opened on the way down, each from its parent: nobody can put a link in between."""

    def __init__(self, root: Path, site_levels: int) -> None:
        self._site_levels = site_levels
        self._fds = {b"": os.open(root, _FOLDER)}

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def at(self, folder: bytes) -> int:
        """Its descriptor, good until the next call."""
        fd = self._fds.get(folder)
        if fd is None:
            if len(self._fds) >= _MOST_OPEN:
                root = self._fds.pop(b"")
                self.close()
                self._fds = {b"": root}
            above, name = split(folder)
            guard = os.O_NOFOLLOW if folder.count(b"/") >= self._site_levels else 0
            fd = self._fds[folder] = os.open(name, _FOLDER | guard, dir_fd=self.at(above))
        return fd

    def of(self, path: bytes) -> tuple[bytes, int]:
        """The name of a path, and the descriptor of the folder it is in."""
        folder, name = split(path)
        return name, self.at(folder)


class LocalStorage:
    """See `folder.Storage`.

    `site_levels`: how many folders from the top may be links. `paced`: big files are brought to the disk as they come.
    """

    def __init__(self, root: Path, *, site_levels: int = SITE_LEVELS, paced: bool = True) -> None:
        self.root = root
        self._paced = paced
        self._site_levels = site_levels
        self.name = str(root)
        if not root.is_dir():
            raise StorageError(
                f"storage is not there: {root} is no folder", hint=f"mount it, or make it: mkdir -p {root}"
            )

    async def stat(self, paths: Sequence[bytes]) -> dict[bytes, Entry]:
        """What is there."""
        found, failures = await self._each(dict.fromkeys(paths), _stat)
        for path, error in failures.items():
            if not isinstance(error, UNSEEN):
                raise trouble(self.name, path, error)
        return found

    async def scan(self, path: bytes) -> list[Entry]:
        """What lies in a folder."""
        return await self._in_thread(lambda folders: list(_scan(folders.at(path))))

    async def tree(self, path: bytes) -> dict[bytes, Entry]:
        """Everything below a folder."""
        return await self._whole(path, _tree)

    async def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Bytes of a file."""
        return await self._in_thread(lambda folders: _read(folders, path, offset, size))

    async def read_each(self, parts: Mapping[bytes, tuple[int, int]]) -> tuple[dict[bytes, bytes], Failures]:
        """Bytes of many files."""
        return await self._each(parts, lambda folders, path, part: _read(folders, path, *part))

    async def readlinks(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        """Where links point; what is no link is left out."""
        return (await self._each(dict.fromkeys(paths), _readlink))[0]

    async def make_folders(self, paths: Sequence[bytes], mode: int = 0o700) -> Failures:
        """Make folders."""
        return (await self._each(dict.fromkeys(paths, mode), _make_folder))[1]

    async def put(self, files: Sequence[Small]) -> Failures:
        """Write new files."""
        return (await self._each({file.path: file for file in files}, _put))[1]

    async def make_links(self, links: Mapping[bytes, bytes]) -> Failures:
        """Make symbolic links."""
        return (await self._each(links, _make_link))[1]

    async def open(self, path: bytes, *, fresh: bool) -> _Writer:
        """Open a file for writing."""

        def get(folders: _Folders) -> _Writer:
            name, fd = folders.of(path)
            return _Writer(os.open(name, _WRITE | (os.O_EXCL if fresh else 0), 0o600, dir_fd=fd), self._paced)

        return await self._in_thread(get)

    async def stamp(self, stamps: Sequence[Stamp]) -> Failures:
        """Set modes and times."""
        return (await self._each({stamp.path: stamp for stamp in stamps}, _stamp))[1]

    async def remove(self, paths: Sequence[bytes]) -> Failures:
        """Remove files, links and empty folders."""
        return (await self._each(dict.fromkeys(paths), _remove))[1]

    async def rename(self, pairs: Sequence[tuple[bytes, bytes]]) -> Failures:
        """Rename."""
        return (await self._each(dict(pairs), _rename))[1]

    async def sync(self, paths: Sequence[bytes]) -> None:
        """Make everything written durable: one call for a file system, however many files there are."""

        def flush(folders: _Folders, _: bytes) -> None:
            done = set()
            for path in paths:
                device = os.fstat(folders.at(path)).st_dev
                if device not in done:
                    _syncfs(folders.at(path))
                    done.add(device)

        await self._whole(paths[0], flush)

    async def sync_names(self, folders: Sequence[bytes]) -> None:
        """Make what was renamed durable."""

        def flush(opened: _Folders, _: bytes) -> None:
            for folder in folders:
                os.fsync(opened.at(folder))

        await self._whole(folders[0], flush)

    async def free(self, path: bytes) -> int:
        """Bytes we may still write."""

        def look(folders: _Folders, path: bytes) -> int:
            found = os.fstatvfs(folders.at(path))
            return found.f_bavail * found.f_frsize

        return await self._whole(path, look)

    async def _in_thread(self, act: Callable[[_Folders], _T]) -> _T:
        """Run `act` off the event loop: a network file system may take its time over anything."""

        def run() -> _T:
            try:
                folders = _Folders(self.root, self._site_levels)
            except OSError as error:
                raise StorageError(f"storage cannot be opened: {self.root}: {error.strerror}") from error
            try:
                return act(folders)
            finally:
                folders.close()

        return await asyncio.to_thread(run)

    async def _whole(self, path: bytes, act: Callable[[_Folders, bytes], _T]) -> _T:
        try:
            return await self._in_thread(lambda folders: act(folders, path))
        except OSError as error:
            raise trouble(self.name, path, error) from error

    async def _each(
        self, items: Mapping[bytes, _T], act: Callable[[_Folders, bytes, _T], _R]
    ) -> tuple[dict[bytes, _R], Failures]:
        def run(folders: _Folders) -> tuple[dict[bytes, _R], Failures]:
            results, failures = {}, {}
            for path, item in items.items():
                try:
                    results[path] = act(folders, path, item)
                except OSError as error:
                    failures[path] = error
            return results, failures

        return await self._in_thread(run)


class _Writer:
    """A big file being written, and where `paced` brought to the disk at the pace it comes.

    Left to itself the kernel would hold gigabytes of it, and every small result would wait for them in `sync`.
    """

    def __init__(self, fd: int, paced: bool) -> None:
        self._fd = fd
        self._paced = paced
        self._sent = self._waited = 0  # up to here: on its way to the disk; there

    async def write(self, offset: int, data: bytes) -> None:
        """Put bytes at `offset`."""
        await asyncio.to_thread(self._write, offset, data)

    def _write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:  # a nearly full disk takes a part of it first
            done = os.pwrite(self._fd, view, offset)
            offset += done
            view = view[done:]
        if self._paced and offset - self._sent >= _WINDOW:
            _write_back(self._fd, self._sent, offset - self._sent, wait=False)
            _write_back(self._fd, self._waited, self._sent - self._waited, wait=True)
            self._sent, self._waited = offset, self._sent

    async def close(self) -> None:
        """Close it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            await asyncio.to_thread(os.close, fd)


def _stat(folders: _Folders, path: bytes, _: None) -> Entry:
    name, fd = folders.of(path)
    return entry_of(name, os.lstat(name, dir_fd=fd))


def _tree(folders: _Folders, path: bytes) -> dict[bytes, Entry]:
    found: dict[bytes, Entry] = {}
    waiting = [b""]
    while waiting:
        below = waiting.pop()
        for entry in _scan(folders.at(path + below)):
            here = below + b"/" + entry.name
            found[here[1:]] = entry
            if entry.kind == "d":
                waiting.append(here)
    return found


def _scan(folder: int) -> Iterator[Entry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)  # str where a descriptor is scanned
            yield entry_of(name, entry.stat(follow_symlinks=False))


def _read(folders: _Folders, path: bytes, offset: int, size: int) -> bytes:
    name, folder = folders.of(path)
    fd = os.open(name, _LOOK, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = b""
        while len(data) < size and (piece := os.pread(fd, size - len(data), offset + len(data))):
            data += piece
        return data
    finally:
        os.close(fd)


def _readlink(folders: _Folders, path: bytes, _: None) -> bytes:
    name, fd = folders.of(path)
    return os.readlink(name, dir_fd=fd)


def _make_folder(folders: _Folders, path: bytes, mode: int) -> None:
    name, fd = folders.of(path)
    try:
        os.mkdir(name, mode, dir_fd=fd)
    except FileExistsError:
        folders.at(path)  # says so where it is no folder


def _put(folders: _Folders, path: bytes, file: Small) -> None:
    name, folder = folders.of(path)
    fd = os.open(name, _WRITE | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        view = memoryview(file.data)
        while view:  # a nearly full disk takes a part of it first
            view = view[os.write(fd, view) :]
        _set(fd, file.mode, file.mtime_ns)
    finally:
        os.close(fd)


def _make_link(folders: _Folders, path: bytes, target: bytes) -> None:
    name, fd = folders.of(path)
    os.symlink(target, name, dir_fd=fd)


def _stamp(folders: _Folders, path: bytes, stamp: Stamp) -> None:
    name, folder = folders.of(path)
    fd = os.open(name, _LOOK, dir_fd=folder)
    try:
        _set(fd, stamp.mode, stamp.mtime_ns)
    finally:
        os.close(fd)


def _set(fd: int, mode: int, mtime_ns: int | None) -> None:
    os.fchmod(fd, mode)
    if mtime_ns is not None:
        os.utime(fd, ns=(mtime_ns, mtime_ns))


def _remove(folders: _Folders, path: bytes, _: None) -> None:
    name, fd = folders.of(path)
    try:
        if stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
            os.rmdir(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return  # as wanted


def _rename(folders: _Folders, old: bytes, new: bytes) -> None:
    name, fd = folders.of(old)
    source = os.dup(fd)
    try:
        new_name, target = folders.of(new)
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
    finally:
        os.close(source)


# Two calls of Linux's own that Python offers no way to; elsewhere there is a slower one, and none.
_LIBRARY = ctypes.CDLL(None, use_errno=True)


def _syncfs(fd: int) -> None:
    if not hasattr(_LIBRARY, "syncfs"):
        os.sync()
    elif _LIBRARY.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _write_back(fd: int, offset: int, size: int, *, wait: bool) -> None:
    if size and hasattr(_LIBRARY, "sync_file_range"):
        # Of its flags 2 begins the writing, 1 and 4 wait for it. A file system that knows no such thing refuses; that
        # is no loss, and what goes wrong on the disk is told by `sync`.
        flags = 7 if wait else 2
        _LIBRARY.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size), flags)
