"""How long a command takes to start, and what a coordinator weighs, beside `python -c pass`.

    python benchmarks/start.py [--runs 15] [--seconds 10]

Commands are whole processes, run in turn; the medians go into the table, with their ratio to the bare interpreter's
start. The coordinator is `distribute runner` on 100,000 queued jobs that no node can run, with one node connected (this
machine): its peak memory (VmHWM) and its CPU time after so many seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from distribute_ssh.model.job import Input
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.submission import NewJob, Submission, submit

BARE = [sys.executable, "-c", "pass"]
DISTRIBUTE = [sys.executable, "-m", "distribute_ssh"]
FEW, MANY = 1_000, 100_000


class Home:
    """A place with a queue of so many jobs."""

    def __init__(self, folder: Path, jobs: int) -> None:
        folder.mkdir()
        (folder / "storage").mkdir()
        (folder / "inventory.yaml").write_text(
            f"storage: {folder}/storage\nnodes: [{{name: here, connection: local, scratch: {folder}}}]\n"
        )
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent),
            "DISTRIBUTE_HOME": str(folder / "state"),
            "DISTRIBUTE_INVENTORY": str(folder / "inventory.yaml"),
        }
        queue = Queue.open(folder / "state" / "queue.db")
        submit(queue, batch(jobs), who="bench", now=time.time())
        queue.close()
        found = subprocess.run(
            [*DISTRIBUTE, "where"], env=self.environment, check=True, capture_output=True, text=True
        ).stdout
        if str(folder / "state" / "queue.db") not in found:
            raise SystemExit(f"the queue is elsewhere:\n{found}")


def batch(jobs: int) -> Submission:
    """Jobs that need what no node has; each with a script and an input, as jobs have."""
    script = Input("run.py", "1" * 64, 1000)
    return Submission(
        namespace="bench", batch="many", kind="python", matrix=None,
        capabilities=frozenset({"python3", "none-has-this"}),
        script=Input("build.py", "2" * 64, 1000), init=(), mounts=(), build_hash="3" * 64, source="",
        jobs=[
            NewJob(f"job-{n}", script, (Input("case.json", f"{n:064x}", 100),), f"{n:064x}") for n in range(jobs)
        ],
    )  # fmt: skip


def medians(commands: Sequence[tuple[list[str], dict[str, str]]], runs: int) -> list[float]:
    """The median of each, in seconds; they are run in turn."""
    took: list[list[float]] = [[] for _ in commands]
    for _ in range(runs):
        for times, (command, environment) in zip(took, commands, strict=True):
            began = time.perf_counter()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
    return list(map(statistics.median, took))


def coordinator(home: Home, seconds: float) -> tuple[float, float]:
    """Peak memory in MB and CPU seconds of a coordinator after so many seconds."""
    runner = subprocess.Popen([*DISTRIBUTE, "-q", "runner"], env=home.environment)
    try:
        time.sleep(seconds)  # what it is asked: what it costs to wait for so long
        status = Path(f"/proc/{runner.pid}/status").read_text()
        (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        ticks = Path(f"/proc/{runner.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
        if runner.poll() is not None:
            raise SystemExit("the coordinator ended by itself")
        return peak / 1000, cpu
    finally:
        runner.terminate()
        runner.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="distribute-bench-") as folder:
        few, many = Home(Path(folder) / "few", FEW), Home(Path(folder) / "many", MANY)
        commands = {
            "python -c pass": (BARE, few.environment),
            "distribute --help": ([*DISTRIBUTE, "--help"], few.environment),
            f"distribute status, {FEW:,} jobs": ([*DISTRIBUTE, "status"], few.environment),
            f"distribute status, {MANY:,} jobs": ([*DISTRIBUTE, "status"], many.environment),
        }
        times = medians(list(commands.values()), asked.runs)
        print(f"{'':32} {'ms':>7} {'ratio':>6}   (medians of {asked.runs})")
        for name, seconds in zip(commands, times, strict=True):
            print(f"{name:32} {seconds * 1000:7.1f} {seconds / times[0]:6.2f}")
        peak, cpu = coordinator(many, asked.seconds)
        print(
            f"coordinator, {MANY:,} jobs queued: peak memory {peak:.0f} MB, {cpu:.1f} s of CPU in {asked.seconds:g} s"
        )


if __name__ == "__main__":
    main()
