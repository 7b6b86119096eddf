"""What somebody sends to the gateway, by content, until a batch takes it: whole files, and those that were cut off.

Each person has a folder of their own below the spool, so that what was sent and never used counts for who sent it.
In it a whole and checked file is called `<sha256>`. One that is still to be completed is `<sha256>.<size>.<token>`, and
the token is of whoever writes it now: who comes to go on with it renames it, and the one before, perhaps a gateway
whose laptop went to sleep, finds its name gone and stops. Without that, two at one file could change it after it was
checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from distribute_ssh.errors import HeadError, LimitError, OvertakenError, StoreError, UsageError

_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PART = re.compile(r"([0-9a-f]{64})\.([0-9]{1,16})\.[0-9a-f]{16}", re.ASCII)
_COUNT_AGAIN = 1.0  # seconds: several conversations of one person share the room
RESERVE = 256 << 20  # bytes of the head's disk that nobody's files may take: the queue and what ends need them


class Incoming:
    """One person's folder; made when it is first needed. `most` bytes and files may lie here."""

    def __init__(self, spool: Path, user: str, *, most_bytes: int, most_files: int) -> None:
        self.folder = spool / "incoming" / user
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._counted = 0.0  # when, on the monotonic clock
        self._bytes = 0
        self._files = 0

    def whole(self, sha256: str) -> Path | None:
        """Where that content lies whole; None where it does not. Raises ValueError for what is no hash."""
        path = self._path(sha256)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # it is wanted: it stays for another while
            return path
        return None

    def cut(self) -> dict[str, tuple[int, int]]:
        """What was begun, by hash: the size it should have, and how many bytes of it are here."""
        found: dict[str, tuple[int, int]] = {}
        for entry in self._entries():
            if parts := _PART.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    size, here = int(parts[2]), entry.stat(follow_symlinks=False).st_size
                    if here >= found.get(parts[1], (0, 0))[1]:
                        found[parts[1]] = size, here
        return found

    def begin(self, sha256: str, size: int, offset: int) -> Upload:
        """Take a file in, from `offset` on; what was begun is gone on with, and taken from whoever was at it.

        Raises LimitError where it is more than this person may have here, StoreError where the disk has no room,
        HeadError where less than `offset` is here.
        """
        path = self._path(sha256)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = path.with_name(f"{sha256}.{size}.{secrets.token_hex(8)}")
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        if offset == 0:
            self._make_room(size)
            return Upload(os.open(mine, flags | os.O_CREAT | os.O_EXCL, 0o600), mine, path, size, 0)
        found = sorted(self.folder.glob(f"{sha256}.{size}.*"), key=_length)
        if not found:
            raise HeadError("what was begun of a file is not on the head any more", hint="submit again")
        old = found[-1]
        try:
            fd = os.open(old, flags)
        except FileNotFoundError:
            raise _taken() from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # held by the other one for a piece at a time
            if os.fstat(fd).st_size < offset:
                raise HeadError("less of a file is on the head than was said", hint="submit again")
            old.rename(mine)
            fcntl.flock(fd, fcntl.LOCK_UN)
            return Upload(fd, mine, path, size, offset)
        except FileNotFoundError:
            os.close(fd)
            raise _taken() from None
        except BaseException:
            os.close(fd)
            raise

    def forget(self, hashes: set[str]) -> None:
        """Remove what a batch has taken."""
        for sha256 in hashes:
            self._path(sha256).unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One submission of a person at a time, so that two cannot each be the last to fit."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _make_room(self, size: int) -> None:
        if size > 32 << 20 or time.monotonic() - self._counted > _COUNT_AGAIN:
            self._count()
        if self._files + 1 > self._most_files or self._bytes + size > self._most_bytes:
            raise LimitError(
                f"no more than {self._most_files:,} files and {self._most_bytes:,} bytes may wait on the head for "
                "a batch",
                hint="what no batch took goes after two days; the administrator of the head may allow more",
            )
        space = os.statvfs(self.folder)
        if size + RESERVE > space.f_bavail * space.f_frsize:
            raise StoreError(
                f"the head's disk has no room for {size:,} bytes more", hint="ask the administrator of the head"
            )
        self._files += 1
        self._bytes += size

    def _count(self) -> None:
        """A file that is to be completed counts whole: who asked for the room has it."""
        self._counted, self._bytes, self._files = time.monotonic(), 0, 0
        for entry in self._entries():
            with contextlib.suppress(FileNotFoundError):
                part = _PART.fullmatch(entry.name)
                self._bytes += int(part[2]) if part else entry.stat(follow_symlinks=False).st_size
                self._files += 1

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no sha256")
        return self.folder / sha256


class Upload:
    """One file that comes in."""

    def __init__(self, fd: int, mine: Path, place: Path, size: int, offset: int) -> None:
        self._fd = fd
        self._mine = mine
        self._place = place
        self._size = size
        self._at = offset
        self._hash = hashlib.sha256()
        for start in range(0, offset, _CHUNK):  # what is here already; from now on nobody else changes it
            self._hash.update(os.pread(fd, min(_CHUNK, offset - start), start))

    @property
    def is_complete(self) -> bool:
        """Whether as many bytes are here as there are to be."""
        return self._at >= self._size

    def write(self, data: bytes) -> None:
        """Take the next piece. Raises UsageError for more than was said, HeadError if somebody else took over."""
        if self._at + len(data) > self._size:
            raise UsageError("a file is longer than it was said to be", hint="did it change? submit again")
        with self._owned():
            try:
                left, at = memoryview(data), self._at
                while left:
                    done = os.pwrite(self._fd, left, at)
                    left, at = left[done:], at + done
            except OSError as error:
                raise StoreError(f"the head cannot keep the file: {error.strerror}") from error
        self._hash.update(data)
        self._at += len(data)

    def finish(self) -> None:
        """Check what came, and give it its name. Raises UsageError where it is not what it was said to be."""
        with self._owned():
            if self._hash.hexdigest() != self._place.name:
                self._mine.unlink()
                raise UsageError(
                    "a file came that is not what it was said to be: its sha256 is another one",
                    hint="it changed while it was read: submit again when nothing writes to it",
                )
            os.ftruncate(self._fd, self._size)
            os.fchmod(self._fd, 0o400)
            self._mine.rename(self._place)

    def close(self) -> None:
        """Let go of it; what came so far stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextlib.contextmanager
    def _owned(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if not self._mine.exists():
                raise _taken()
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


def _length(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return -1


def _taken() -> OvertakenError:
    return OvertakenError("the same file is being sent from somewhere else as well", hint="submit again in a moment")
