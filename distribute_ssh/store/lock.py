"""The lock that makes one coordinator of many starters: whoever holds it drives the queue of this machine.

The kernel gives it back however its holder dies. It serves one machine; against a second head that somehow reached
the same queue there is the epoch in the database (`Queue.take_epoch`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Holder:
    """Who took the lock last."""

    host: str
    pid: int
    since: float  # seconds since the epoch


class CoordinatorLock:
    """A lock on a file of its own. A child that the process forks lets go of it: somebody's program may do that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take the lock at once or not at all; True when it is ours. Raises OSError if the file cannot be made."""
        if self._fd is not None:
            return True
        # Never unlinked, by nobody: a second file of the same name would be a second lock.
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        _held.add(self)
        text = json.dumps({"host": os.uname().nodename, "pid": os.getpid(), "since": time.time()}) + "\n"
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same, the text is a courtesy
            os.ftruncate(fd, 0)
            os.pwrite(fd, text.encode(), 0)
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not ours."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            _held.discard(self)

    def holder(self) -> Holder | None:
        """Who took it last; worth asking after `acquire` said no. None when the file tells nothing.

        Asking the kernel instead would need the lock itself for a moment, in which a starter would find it taken.
        """
        try:
            told = json.loads(self._path.read_text(encoding="utf-8"))
            return Holder(host=str(told["host"]), pid=int(told["pid"]), since=float(told["since"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


_held: set[CoordinatorLock] = set()


def _let_go() -> None:
    for lock in list(_held):
        lock.release()  # of the child's descriptor: the parent still holds the lock


os.register_at_fork(after_in_child=_let_go)
