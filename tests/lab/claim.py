"""Which number a lab has, and whose it is.

The maker holds a lock that the kernel gives back however the maker dies; whoever gets the lock of a lab that is still
there has found one without a maker, and takes it down. A lab that is `kept` does without a maker.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

ROOT = Path("/run/distribute-lab")
NUMBERS = range(1, 255)  # the third byte of the addresses


class Claim:
    """The right to make, or to take down, the lab of a number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.folder = ROOT / str(number)
        self._lock: int | None = None

    @classmethod
    def first(cls) -> Self:
        """Of a number that nobody uses, taken. Raises AssertionError where there is none."""
        # Not the lowest: one that was just given back is still looked at by those who want to see it gone.
        start = os.getpid() % len(NUMBERS)
        for number in (*NUMBERS[start:], *NUMBERS[:start]):
            claim = cls(number)
            if claim.take():
                if not claim.is_used:
                    return claim
                claim.release()
        raise AssertionError("there are as many labs as there can be: python -m tests.lab down")

    def take(self, *, wait: bool = False) -> bool:
        """Take it; False where another process has it and we do not wait."""
        ROOT.mkdir(mode=0o755, exist_ok=True)
        # Never unlinked: a second file of that name would be a second lock.
        lock = os.open(ROOT / f"{self.number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def release(self) -> None:
        """Give it back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def is_used(self) -> bool:
        """Whether there is a lab of that number."""
        return self.folder.exists()

    @property
    def is_kept(self) -> bool:
        """Whether its lab is to stay without its maker."""
        return (self.folder / "kept").exists()

    def keep(self) -> None:
        """Let it stay."""
        (self.folder / "kept").touch()


def used() -> Iterator[int]:
    """The numbers of all labs there are."""
    return (number for number in NUMBERS if Claim(number).is_used)
