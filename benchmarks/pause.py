"""How soon a machine is quiet: from the start of `distribute pause` to the last time any process of a job ran.

    python benchmarks/pause.py [--processes 200] [--rounds 15]

One SSH node on loopback, one job of busy processes: most in its group, one in a group of its own, one in a session of
its own, one whose parent is gone. Each writes the time into a slot of its own in memory that all share, for ever: the
latest of these after the pause is when the last of them ran. So they are asked nothing, and nobody who watches needs a
turn among two hundred busy processes. The command's own start counts: that of Python, or from the chair of a shell.

Head and node have a processor each, as two machines would: whoever sits at the head is not slowed by what runs there.
"""

from __future__ import annotations

import argparse
import getpass
import mmap
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.endtoend.site import Command, Site
from tests.support import processes
from tests.support.lab import Lab
from tests.support.wait import wait_for

HEAD, *_, NODE = sorted(os.sched_getaffinity(0)) * 2  # processors
OURS = (sys.executable, "-m", "distribute_ssh", "-q")
SLOT = struct.Struct("dq")  # when it ran last, by the monotonic clock; its process number
JOB = """\
import ctypes, mmap, struct
slot = struct.Struct("dq")
memory = mmap.mmap(os.open({slots!r}, os.O_RDWR), {size})

def busy(number):
    slot.pack_into(memory, number * slot.size, 0.0, os.getpid())
    moment = ctypes.c_double.from_buffer(memory, number * slot.size)
    while True:
        moment.value = time.monotonic()  # in one piece: who is stopped within it has not written half of it

def child(number, before):
    if os.fork() == 0:
        before()
        busy(number)

def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)

child(1, os.setsid)
child(2, lambda: os.setpgid(0, 0))
child(3, daemon)
for number in range(4, {processes}):
    child(number, lambda: None)
busy(0)
"""


def on(processor: int) -> list[str]:
    """What to say before a command that is to run there."""
    return ["taskset", "--cpu-list", str(processor)]


class Busy:
    """A site whose node runs the job."""

    def __init__(self, folder: Path, public: Path, many: int) -> None:
        self.many = many
        slots = folder / "slots"
        slots.write_bytes(bytes(SLOT.size * many))
        with slots.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SLOT.size * many)
        self.lab = Lab(folder / "lab")
        self.site = Site(folder / "site", self.lab, public)
        self.site.node("lab1", within=on(NODE), owners=[getpass.getuser()])
        job = JOB.format(slots=str(slots), size=SLOT.size * many, processes=many)
        self.site.do("add", self.site.batch(["job"], build="", run=job))

    def slots(self) -> list[tuple[float, int]]:
        """When each process ran last, and its number."""
        return [SLOT.unpack_from(self._memory, number * SLOT.size) for number in range(self.many)]

    def wait_until_all_run(self) -> None:
        """Return when each has run since now."""
        now = time.monotonic()
        wait_for(lambda: all(at > now for at, _ in self.slots()), "all processes run", 120)

    def pause(self, *words: str) -> float:
        """Pause the node with what is typed; seconds until the last process ran."""
        self.wait_until_all_run()
        began = time.monotonic()
        self.type(*words)
        seconds = max(at for at, _ in self.slots()) - began
        moving = [pid for _, pid in self.slots() if (found := processes.look(pid)) is None or found.state != "T"]
        if moving:
            raise SystemExit(f"{len(moving)} processes are not stopped")
        self.type(*OURS, "resume", "lab1")
        return seconds

    def type(self, *words: str) -> None:
        """Run a command; not by way of files, as its end is waited for."""
        subprocess.run(words, check=True, env=self.site.env, cwd=self.site.folder, stdout=subprocess.DEVNULL)

    def chair(self) -> str:
        """Let people at the node pause it themselves; the program for that."""
        folder = self.site.folder / "bin"
        self.site.do("nodes", "alias", "lab1", "--path", folder)
        return str(folder / "distribute")

    def close(self) -> None:
        """End all of it."""
        self.site.close()
        self.lab.close()


def measured(act: Callable[[], float], rounds: int) -> list[float]:
    """What it takes, again and again; the first time is for warming up."""
    act()
    return [act() for _ in range(rounds)]


def show(name: str, seconds: Sequence[float], goal: float) -> None:
    """A row of the table."""
    p90 = statistics.quantiles(seconds, n=10, method="inclusive")[-1]
    print(f"{name:24} {statistics.median(seconds):8.3f} {p90:8.3f} {max(seconds):8.3f} {goal:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    os.sched_setaffinity(0, {HEAD})
    with (
        tempfile.TemporaryDirectory(prefix="distribute-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="distribute-site-") as public,
    ):
        busy = Busy(Path(folder), Path(public), options.processes)
        runner: Command = busy.site.start("runner")
        try:
            wait_for(lambda: all(pid for _, pid in busy.slots()), "the job has spread", 120)
            driven = measured(lambda: busy.pause(*OURS, "pause", "lab1"), options.rounds)
            runner.kill()
            alone = measured(lambda: busy.pause(*OURS, "pause", "lab1"), options.rounds)
            program = busy.chair()
            chair = measured(lambda: busy.pause(*on(NODE), program, "pause"), options.rounds)
        finally:
            busy.close()
    print(f"{'seconds':24} {'median':>8} {'p90':>8} {'worst':>8} {'goal':>8}")
    show("coordinator running", driven, 0.3)
    show("no coordinator", alone, 2.0)
    show("from the chair", chair, 1.0)


if __name__ == "__main__":
    main()
