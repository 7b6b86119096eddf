"""A process, named so that no other can be meant, and its certain end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Process:
    """Numbers are used again; a number and a start time (ticks since the computer started) are not."""

    pid: int
    started: int

    @classmethod
    def written(cls, path: Path) -> Process | None:
        """The process that put its own /proc/self/stat into a file, or None where there is no such file."""
        try:
            return _parse(path.read_text())[0]
        except FileNotFoundError:
            return None

    @property
    def is_alive(self) -> bool:
        """Whether it is there; one that only waits for its parent to notice its end is not."""
        try:
            found, state = _parse(Path(f"/proc/{self.pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return False
        return found == self and state not in "ZX"

    def end(self, limit: float = 20.0) -> None:
        """Kill it, and return when it is gone; with the first of a PID namespace, everything in there is."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.is_alive:
                return
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            assert poll.poll(limit * 1000), f"process {self.pid} did not end within {limit:.0f} s of its SIGKILL"
        except ProcessLookupError:
            return  # it ended, and was noticed, in between
        finally:
            os.close(handle)


def _parse(stat: str) -> tuple[Process, str]:
    # The name in parentheses may hold anything, so: from its end. Field 3 is the state, field 22 the start time.
    fields = stat.rpartition(") ")[2].split()
    return Process(int(stat.split(" ", 1)[0]), int(fields[19])), fields[0]


def detach(argv: Sequence[str | Path], log: Path | None = None, cwd: Path | None = None) -> None:
    """Start a program that outlives us: in a session of its own, no child of ours, with a bare environment."""
    with open(log or os.devnull, "ab") as output:
        subprocess.run(
            ["setsid", "--fork", *map(str, argv)],
            check=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd or "/", env={"PATH": PATH},
        )  # fmt: skip


def run(*argv: str | Path, text: str = "") -> str:
    """Run a program to its end, `text` being its input; what it printed. Raises AssertionError with its complaint."""
    ended = subprocess.run(list(map(str, argv)), check=False, input=text, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, f"{' '.join(map(str, argv))}: exit {ended.returncode}: {ended.stderr.strip()}\n{text}"
    return ended.stdout
