"""Jobs a second: 500 jobs that each bring back 1 KiB from 4 SSH nodes, beside GNU parallel on the same nodes.

    python benchmarks/dispatch.py [--jobs 500] [--nodes 4] [--slots 4 1] [--runs 3]

Both are given as many jobs at once on a node (`slots:` here, `--jobs` there), the same sshd, the same `python3 run.py`
and one small input of its own for each job; both bring back one file a job and leave nothing on the nodes. Whole
processes are timed, interleaved; medians go into the table.

* Ours: `distribute run` on a fresh queue and a fresh storage. It takes in jobs file and inputs, connects, probes
  the nodes, builds on each, runs, records every end, archives each result with its record (hashes, syncs), wipes.
* GNU parallel: `--sshlogin --transferfile --return --cleanup`. Its ControlMasters are open before the clock starts and
  stay open from run to run, so it never pays for a connection. It keeps no queue, no record and no log.

`--keep FOLDER` leaves everything ready in FOLDER with the nodes running, and waits: for a profiler.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.support.lab import Lab

RESULT = 1024  # bytes
# Both call the very same script; parallel names its files, our jobs find theirs where they always are.
RUN = """\
import sys

source, target = sys.argv[1:] if len(sys.argv) == 3 else ("input/case", "distribute_save/result")
with open(source, "rb") as file:
    case = file.read()
with open(target, "wb") as file:
    file.write((case * 64)[:1024])
"""


@dataclass(frozen=True)
class Took:
    """What one run took."""

    seconds: float
    cpu: float  # seconds of this side: the program and all that it started here, without sshd and jobs


class Bench:
    """The nodes, and one folder in which everything happens."""

    def __init__(self, folder: Path, jobs: int, nodes: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self.lab = Lab(folder / "lab")
        self.names = [f"lab{number}" for number in range(1, nodes + 1)]
        self.far = folder / "far"  # where parallel works on the nodes
        self.ssh = f"ssh -F {folder}/masters"
        self.round = 0

    def start(self) -> None:
        """Start the nodes, and the masters that parallel uses."""
        for name in self.names:
            # Under sshd bash reads ~/.bashrc, and one with pyenv in it costs every command of parallel's 0.3 s; our
            # resident shell pays once. SHLVL makes bash leave it alone.
            self.lab.add(name, ["SetEnv SHLVL=2", "MaxSessions 100"])
        control = f"Host *\n    ControlMaster auto\n    ControlPath {self.folder}/m-%n\n    ControlPersist yes\n"
        (self.folder / "masters").write_text(self.lab.ssh_config.read_text() + control)
        for name in self.names:
            subprocess.run([*self.ssh.split(), "-fN", name], check=True)

    def stop(self) -> None:
        """Stop both."""
        for name in self.names:
            if (self.folder / f"m-{name}").exists():
                subprocess.run([*self.ssh.split(), "-q", "-O", "exit", name], check=False, stderr=subprocess.DEVNULL)
        self.lab.close()

    def write(self) -> Path:
        """A folder with the scripts and an input for every job that no node has seen yet."""
        self.round += 1
        here = self.folder / f"run-{self.round}"
        here.mkdir()
        (here / "build.py").write_text("")
        (here / "run.py").write_text(RUN)
        for number in range(self.jobs):
            (here / f"case-{number:04}").write_text(f"{os.urandom(8).hex()} {number:015}")
        return here

    def check(self, here: Path, results: Iterator[tuple[str, Path]]) -> None:
        """Every job's result is there, and is its own."""
        count = 0
        for case, result in results:
            wanted = ((here / case).read_bytes() * 64)[:RESULT]
            if result.read_bytes() != wanted:
                raise SystemExit(f"{result} is not the result of {case}")
            count += 1
        if count != self.jobs:
            raise SystemExit(f"{count} results of {self.jobs}")

    def prepare_ours(self, slots: int) -> Path:
        """A folder with jobs file and inventory."""
        here = self.write()
        jobs = "".join(
            f"    - {{name: job-{n:04}, file: run.py, required_files: [[case-{n:04}, case]]}}\n"
            for n in range(self.jobs)
        )
        (here / "jobs.yaml").write_text(
            f"meta: {{batch_name: dispatch, namespace: bench, capabilities: [python3]}}\n"
            f"python:\n  initialize: {{build_file: build.py}}\n  jobs:\n{jobs}"
        )
        (here / "storage").mkdir()
        (here / "inventory.yaml").write_text(self.lab.inventory(here / "storage", slots=slots))
        return here

    def ours(self, slots: int) -> Took:
        """Run it with `distribute run`."""
        here = self.prepare_ours(slots)
        with timed() as took:
            subprocess.run(command(here), check=True, env=environment(here), stdout=subprocess.DEVNULL)
        stored = here / "storage" / "bench" / "dispatch"
        folders = sorted(path.parent for path in stored.glob("*/job.json"))
        self.check(here, ((folder.name.replace("job", "case"), folder / "result") for folder in folders))
        for node in self.lab.nodes.values():
            left = [*(node.room / "attempts").iterdir(), *(node.room / "batches").iterdir()]
            if left:
                raise SystemExit(f"left on {node.name}: {left[0]}")
        shutil.rmtree(here)
        return took[0]

    def parallel(self, slots: int) -> Took:
        """Run it with GNU parallel."""
        here = self.write()
        logins = ",".join(f"{slots}/{name}" for name in self.names)
        cases = [f"case-{number:04}" for number in range(self.jobs)]
        with timed() as took:
            subprocess.run(
                ["parallel", "--plain", "--will-cite", "--ssh", self.ssh, "--sshlogin", logins, "--workdir", self.far,
                 "--basefile", "run.py", "--transferfile", "{}", "--return", "{}.result", "--cleanup",
                 "python3 run.py {} {}.result"],
                input="\n".join(cases), text=True, check=True, cwd=here,
            )  # fmt: skip
        self.check(here, ((path.stem, path) for path in sorted(here.glob("case-*.result"))))
        if left := list(self.far.glob("*")):  # the folder itself goes, too
            raise SystemExit(f"left on the nodes: {left[0]}")
        shutil.rmtree(here)
        return took[0]


def command(here: Path) -> list[str]:
    """What a person would type."""
    return [sys.executable, "-m", "distribute_ssh", "-q", "run", str(here / "jobs.yaml")]


def environment(here: Path) -> dict[str, str]:
    """A queue of its own."""
    return {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "DISTRIBUTE_HOME": str(here / "state"),
        "DISTRIBUTE_INVENTORY": str(here / "inventory.yaml"),
    }


@contextmanager
def timed() -> Iterator[list[Took]]:
    """Puts what the block took into the list."""
    os.sync()  # what the run before left to write is not this one's
    took: list[Took] = []
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    yield took
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    took.append(Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def show(name: str, jobs: int, runs: list[Took], ratio: float) -> None:
    """A row of the table."""
    rates = sorted(jobs / run.seconds for run in runs)
    cpu = statistics.median(run.cpu for run in runs) / jobs * 1000
    median = statistics.median(rates)
    print(f"{name:32} {median:8.1f} {rates[0]:7.1f} {rates[-1]:7.1f} {ratio:7.2f} {cpu:9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 1], help="jobs at once on a node")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    asked = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="distribute-bench-") as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        bench = Bench(folder, asked.jobs, asked.nodes)
        try:
            bench.start()
            if asked.keep:
                here = bench.prepare_ours(asked.slots[0])
                for name in ("DISTRIBUTE_HOME", "DISTRIBUTE_INVENTORY"):
                    print(f"export {name}={environment(here)[name]}")
                print(" ".join(command(here)), flush=True)
                input("Return ends it. ")
                return
            print(f"{asked.jobs} jobs, {asked.nodes} nodes; medians of {asked.runs}")
            print(f"{'':32} {'jobs/s':>8} {'lowest':>7} {'highest':>7} {'ratio':>7} {'CPU ms/job':>10}")
            for slots in asked.slots:
                ours, theirs = [], []
                for _ in range(asked.runs):
                    ours.append(bench.ours(slots))
                    theirs.append(bench.parallel(slots))
                ratio = statistics.median(t.seconds for t in theirs) / statistics.median(t.seconds for t in ours)
                show(f"distribute, {slots} at once a node", asked.jobs, ours, ratio)
                show(f"GNU parallel, {slots} at once a node", asked.jobs, theirs, 1.0)
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
