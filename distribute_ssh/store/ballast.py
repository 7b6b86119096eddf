"""Room put aside for bad days: on a full disk the coordinator drops this file and can go on writing states down.

Without it nothing could be recorded any more, not even by deleting rows: SQLite needs room for its journal to do so.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SIZE = 4 << 20
"""Bytes: some ten thousand changes of state."""

PLENTY = 16 * SIZE
"""Free bytes from which on room is put aside again; well above SIZE, so that it does not come and go."""


class Ballast:
    """The file beside the queue."""

    def __init__(self, queue: Path) -> None:
        self._path = queue.with_name(f"{queue.name}.ballast")

    def load(self) -> bool:
        """Put room aside if there is plenty; True when it is there."""
        if self._path.exists():
            return True
        with contextlib.suppress(OSError):  # no room, or quota: then there is none, which is no reason to stop
            space = os.statvfs(self._path.parent)
            if space.f_bavail * space.f_frsize < PLENTY:
                return False
            part = self._path.with_name(f"{self._path.name}.part")
            fd = os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, SIZE)
            except OSError:
                part.unlink()
                return False
            finally:
                os.close(fd)
            part.replace(self._path)
            return True
        return False

    def drop(self) -> bool:
        """Give the room to whoever needs it; True when there was some."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
