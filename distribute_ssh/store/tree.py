"""A folder as one tar archive: the same bytes for the same content, whoever owns it and wherever it lies."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from distribute_ssh.errors import UsageError

# One time for all files, so that equal trees are equal archives; 2000 because zip knows no year before 1980, and a
# build may well make a wheel of what we send.
_TIME = 946_684_800

_BLOCK = 512


class Sink(Protocol):
    """Where bytes flow to."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


def pack(root: bytes, sink: Sink) -> None:
    """Write everything below `root` as a GNU tar; names are bytes, modes become 755 or 644, links stay links.

    Raises UsageError for what cannot be read or changes meanwhile, for devices, pipes and sockets, and for links that
    lead out of the folder.
    """
    with tarfile.open(
        fileobj=cast(Any, sink), mode="w|", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for name, path, status in _walk(root):
            info = tarfile.TarInfo(_text(name))
            info.mtime = _TIME
            info.mode = 0o755 if stat.S_ISDIR(status.st_mode) or status.st_mode & 0o111 else 0o644
            if stat.S_ISDIR(status.st_mode):
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            elif stat.S_ISLNK(status.st_mode):
                if not _stays_inside(root, name):
                    hint = "put what it leads to in its place, or a relative link that stays inside"
                    raise UsageError(f"the link {shown(path)} leads out of {shown(root)}", hint=hint)
                info.type = tarfile.SYMTYPE
                info.mode = 0o777
                info.linkname = _text(os.readlink(path))
                archive.addfile(info)
            elif stat.S_ISREG(status.st_mode):
                _pack_file(archive, info, path)
            else:
                hint = "only files, folders and links can be sent; remove it from the folder"
                raise UsageError(f"{shown(path)} is a device, a pipe or a socket", hint=hint)


def packed_size(root: bytes) -> int:
    """Return about how many bytes `pack` writes. Raises UsageError for what cannot be looked at."""
    return sum(_BLOCK + -(-status.st_size // _BLOCK) * _BLOCK for _, _, status in _walk(root))


@contextmanager
def reading(path: bytes, *, follow: bool) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file to read; what goes wrong with it, now or in the block, becomes a UsageError."""
    # A pipe in the place of a file must not make us wait for ever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{shown(path)} is not a regular file")
        yield fd, status
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(fd)


def changed(path: bytes) -> UsageError:
    """The error for a file or folder that somebody still writes to."""
    return UsageError(f"{shown(path)} changed while it was read", hint="submit again when nothing writes to it")


def shown(path: bytes) -> str:
    """A path for a message, with nothing in it that could drive a terminal."""
    return repr(os.fsdecode(path))


def _unreadable(path: bytes, error: OSError) -> UsageError:
    return UsageError(f"{shown(path)} cannot be read: {error.strerror}")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _walk(root: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Yield all below `root` in one fixed order, folders before what they hold: name from `root` on, path, lstat."""
    waiting = [b""]
    while waiting:
        name = waiting.pop()
        path = os.path.join(root, name)  # with b"": root and a slash, which follows where root itself is a link
        try:
            status = os.lstat(path)
            if name:
                yield name, path, status
            if stat.S_ISDIR(status.st_mode):
                waiting.extend(os.path.join(name, child) for child in sorted(os.listdir(path), reverse=True))
        except OSError as error:
            raise _unreadable(path, error) from None


def _pack_file(archive: tarfile.TarFile, info: tarfile.TarInfo, path: bytes) -> None:
    with reading(path, follow=False) as (fd, status), open(fd, "rb", closefd=False) as file:
        info.size = status.st_size
        try:
            archive.addfile(info, file)
        except OSError as error:
            if error.errno is None:  # no system call failed: tarfile says that the file became shorter
                raise changed(path) from None
            raise


def _stays_inside(root: bytes, name: bytes) -> bool:
    """Follow a link step by step, as the kernel does, and say whether it never climbs out of `root`.

    Looking only at its end would not do: `../tree/file` comes back in, but on the node the folder has another name.
    """
    here: list[bytes] = []
    ahead = name.split(b"/")
    links = 0
    while ahead:
        step = ahead.pop(0)
        if step in (b"", b"."):
            continue
        if step == b"..":
            if not here:
                return False
            here.pop()
            continue
        here.append(step)
        try:
            target = os.readlink(b"/".join([root, *here]))
        except OSError:
            continue  # no link, or nothing there at all, which a link may well lead to
        links += 1
        if target.startswith(b"/"):
            return False
        if links > 40:
            return True  # a circle leads nowhere
        here.pop()
        ahead[:0] = target.split(b"/")
    return True
