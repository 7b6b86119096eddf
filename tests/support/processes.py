"""What runs on this machine, read from /proc: the tests judge by it, never by what the program says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Running:
    """A process that is no zombie."""

    pid: int
    parent: int
    state: str
    command: tuple[str, ...]


def look(pid: int) -> Running | None:
    """The process of that number, or None where there is none (a zombie is none)."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[:2]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return None
    return None if state in "ZX" else Running(pid, int(parent), state, tuple(command))


def everything() -> Iterator[Running]:
    """Every process there is."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := look(int(entry.name))):
            yield found


def children(pid: int) -> list[Running]:
    """The processes that `pid` started itself."""
    return [each for each in everything() if each.parent == pid]


def running(*command: str) -> list[int]:
    """The processes with exactly that command line."""
    return [each.pid for each in everything() if each.command == command]


def is_alive(pid: int) -> bool:
    """Whether it runs or is stopped."""
    return look(pid) is not None


def processor_time(pid: int) -> int | None:
    """Hundredths of a second that a process has had of the processors; None where there is none (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[11]) + int(fields[12])


def stand_still(times: Callable[[], dict[int, int]], seconds: float = 2) -> bool:
    """Whether none of these processes gets any of the processors for so long."""
    before = times()
    time.sleep(seconds)  # a promise about time
    return times() == before
