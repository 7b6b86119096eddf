"""How soon things are known: the exit of a job on its node, and the request to start one.

    python benchmarks/latency.py [--jobs 100]

One SSH node on loopback, one job at a time, a coordinator of this process. Each job takes the time (CLOCK_REALTIME,
the same on both sides here) as its first and as its last act and prints it; the end of the interpreter after that is
counted, too. On our side two moments are taken:

* *known*: the tick that wrote the end of the attempt into the queue is durable. The queue's own `ended_at` is earlier,
  it is taken before the transaction is written to the disk.
* *start asked*: the request to start the attempt is handed to the connection, after the queue says so durably.

The peer is `ssh` over an open ControlMaster, the quickest way there is without us: from before it is started to the
job's first line, and from the job's last act to its return.
"""

from __future__ import annotations

import argparse
import asyncio
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

from dispatch import Bench

from distribute_ssh.coordination.coordinator import Coordinator
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.coordination.tick import Ticked
from distribute_ssh.model import inventory, jobsfile
from distribute_ssh.model.job import AttemptState
from distribute_ssh.model.settings import Places
from distribute_ssh.node.process import Room
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.spool import Spool
from distribute_ssh.submitting import submit

# The job rests in between, so that its start and its end are two occasions.
RUN = """\
import time

first = time.time()
time.sleep(0.1)  # the rest
with open("distribute_save/times", "w") as file:
    file.write(f"{first} {time.time()}")
"""


class Watched(Coordinator):
    """A coordinator that notes when it knew of each end."""

    known: dict[str, float]  # token of an attempt -> when its end was durable in the queue

    async def _tick(self) -> Ticked:
        ticked = await super()._tick()
        now = time.time()
        for work in ticked.work.values():
            for ready in work.attempts:
                if ready.attempt.state is AttemptState.ENDED:
                    self.known.setdefault(ready.attempt.token, now)
        return ticked


def ours(bench: Bench, jobs: int) -> tuple[list[float], list[float]]:
    """Seconds from request to first line, and from the last act to our knowing it, of every job."""
    bench.jobs = jobs
    here = bench.prepare_ours(1)
    (here / "run.py").write_text(RUN)
    os.environ["DISTRIBUTE_HOME"] = str(here / "state")
    places = Places.here()
    nodes = inventory.read(here / "inventory.yaml", places)
    queue = Queue.open(places.database)
    spec = jobsfile.read(here / "jobs.yaml")
    now = time.time()
    submitted = submit(queue, Spool(places.spool), spec, snapshot(queue, nodes, now).nodes, who="bench", now=now)
    coordinator = Watched(queue, nodes, places)
    coordinator.known = {}

    asked: dict[str, float] = {}
    start = Room.start

    async def watched_start(room: Room, token: str, script: str) -> None:
        asked[token] = time.time()
        await start(room, token, script)

    def is_over() -> bool:
        batch = queue.batch_by_id(submitted.batch_id)
        return batch is not None and batch.finished_at is not None and coordinator.is_settled(batch.id)

    Room.start = watched_start
    try:
        asyncio.run(coordinator.run(until=is_over))
    finally:
        Room.start = start
    starts, ends = [], []
    for job in queue.jobs(submitted.batch_id):
        if job.state != "done":
            raise SystemExit(f"{job.name} is {job.state}: {job.reason}")
        (attempt,) = queue.attempts(job.id)
        times = here / "storage" / "bench" / "dispatch" / job.name / "times"
        first, last = map(float, times.read_text().split())
        starts.append(first - asked[attempt.token])
        ends.append(coordinator.known[attempt.token] - last)
    queue.close()
    return starts, ends


def theirs(bench: Bench, jobs: int) -> tuple[list[float], list[float]]:
    """The same with `ssh` over an open master."""
    here = bench.write()
    (here / "run.py").write_text(RUN)
    starts, ends = [], []
    (here / "distribute_save").mkdir()
    command = [*bench.ssh.split(), bench.names[0], f"cd {here} && python3 run.py"]
    for _ in range(jobs):
        began = time.time()
        subprocess.run(command, check=True)
        known = time.time()
        first, last = map(float, (here / "distribute_save" / "times").read_text().split())
        starts.append(first - began)
        ends.append(known - last)
    return starts, ends


def show(name: str, seconds: Sequence[float], peer: Sequence[float]) -> None:
    """A row of the table, in milliseconds."""

    def both(values: Sequence[float]) -> str:
        return f"{statistics.median(values) * 1000:8.1f} {statistics.quantiles(values, n=10)[-1] * 1000:8.1f}"

    ratio = statistics.median(seconds) / statistics.median(peer)
    print(f"{name:32} {both(seconds)} {both(peer)} {ratio:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=100)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="distribute-bench-") as folder:
        bench = Bench(Path(folder), jobs, 1)
        try:
            bench.start()
            peer_starts, peer_ends = theirs(bench, jobs // 2)
            starts, ends = ours(bench, jobs)
            more_starts, more_ends = theirs(bench, jobs // 2)
        finally:
            bench.stop()
    print(f"{'':32} {'distribute':>17} {'ssh, open master':>17}")
    print(f"{'milliseconds':32} {'median':>8} {'p90':>8} {'median':>8} {'p90':>8} {'ratio':>6}")
    show("start asked to first line", starts, peer_starts + more_starts)
    show("last act to exit known", ends, peer_ends + more_ends)


if __name__ == "__main__":
    main()
