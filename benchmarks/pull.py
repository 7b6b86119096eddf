"""Pulling from a head beside `rsync -a -e ssh`, and submitting to it, on a line of 20 ms each way.

    sudo .venv/bin/python benchmarks/pull.py [--rounds 3] [--delay 20] [--only small|big|submit]

The head is a machine of its own (network namespace, sshd, forced command), and every packet to it and from it is held
back. Whole processes are timed, interleaved; the medians go into the table. Ours hashes what comes and compares it with
each job's record, which rsync does without. "Again": with nothing new. `rsync` is to be installed (apt-get install
rsync); root is needed for the line.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))

from tests.lab.installed import CHECKOUT, PROGRAM, install
from tests.lab.lab import Lab
from tests.storage.batches import job
from tests.support.sshd import make_key, public

HEAD = "node1"
STORAGE = "/var/tmp/storage"
GOAL = 3.0  # seconds for the submission


class Site:
    """A head with results, and this computer as somebody's laptop."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.folder = folder
        machine = lab.machines[HEAD]
        self.storage = machine.scratch / "storage"
        self.storage.mkdir(mode=0o755)
        install(machine)
        key = make_key(folder / "id_ana")
        nobody = {"name": "desk", "host": "192.0.2.1"}  # a node that never answers: nothing is to run
        inventory = json.dumps({"storage": STORAGE, "nodes": [nobody]})
        add = "cat > /home/distribute/ana.pub; mkdir -p ~/.config/distribute; "
        add += f"echo '{inventory}' > ~/.config/distribute/inventory.yaml; {PROGRAM} users add ana ~/ana.pub"
        machine.exec(["sh", "-c", add], "distribute", text=public(key) + "\n")
        machine.exec(["chown", "distribute", STORAGE])
        config = folder / "ssh_config"
        block = f"HostName {machine.address}\nUser distribute\nIdentitiesOnly yes\n"
        block += f"UserKnownHostsFile {lab.access.known_hosts}\n"
        config.write_text(f"Host head\n{block}IdentityFile {key}\nHost peer\n{block}IdentityFile {lab.access.key}\n")
        self.ssh = f"ssh -F {config}"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(CHECKOUT),
            "DISTRIBUTE_HEAD": "head",
            "DISTRIBUTE_SSH_CONFIG": str(config),
        }

    def distribute(self, *arguments: str | Path) -> float:
        """How long one of our commands takes."""
        return _timed([sys.executable, "-m", "distribute_ssh", *map(str, arguments)], self.env)

    def ours(self, batch: str, target: Path) -> float:
        return self.distribute("pull", f"ns/{batch}", "--save-dir", target)

    def rsync(self, batch: str, target: Path) -> float:
        target.mkdir(exist_ok=True)
        source = f"peer:{STORAGE}/ns/{batch}/"
        return _timed(["rsync", "-a", "-e", self.ssh, source, f"{target}/"], self.env)

    def fill(self, batch: str, files: Iterator[tuple[bytes, bytes]]) -> None:
        """Put a batch of one job into storage."""
        job(self.folder / "made", "job", dict(files))
        (self.storage / "ns").mkdir(exist_ok=True)
        shutil.move(self.folder / "made" / "ns" / "batch", self.storage / "ns" / batch)


def _timed(argv: Sequence[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    ended = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    took = time.perf_counter() - began
    if ended.returncode:
        raise SystemExit(f"{argv}: exit {ended.returncode}: {ended.stderr.decode()}")
    return took


def small_files() -> Iterator[tuple[bytes, bytes]]:
    return ((b"%04d.dat" % number, os.urandom(4096)) for number in range(2000))


def big_file() -> Iterator[tuple[bytes, bytes]]:
    return iter([(b"field.bin", os.urandom(512 << 20))])


def pulls(site: Site, batch: str, rounds: int) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Both, into empty folders; then both again."""
    first, again = [], []
    for number in range(rounds):
        ours, peer = site.folder / f"{batch}-ours-{number}", site.folder / f"{batch}-peer-{number}"
        ours.mkdir()
        os.sync()  # what earlier runs left to write is not this one's
        first.append((site.ours(batch, ours), site.rsync(batch, peer)))
    yield "", first
    for _ in range(2 * rounds):
        again.append((site.ours(batch, ours), site.rsync(batch, peer)))
    yield ", again", again


def submissions(site: Site, rounds: int) -> list[float]:
    """200 jobs with an input each, none of which the head has."""
    took = []
    for number in range(rounds):
        folder = site.folder / f"submit-{number}"
        folder.mkdir()
        jobs = []
        for each in range(200):
            (folder / f"in{each}.dat").write_bytes(os.urandom(1024))
            jobs.append({"name": f"job{each}", "file": "run.py", "required_files": [f"in{each}.dat"]})
        (folder / "run.py").write_text("print('hello')\n")
        (folder / "build.py").write_text("")
        document = {
            "meta": {"batch_name": f"submit{number}", "namespace": "ns", "capabilities": []},
            "python": {"initialize": {"build_file": "build.py", "required_files": []}, "jobs": jobs},
        }
        (folder / "jobs.yaml").write_text(json.dumps(document))
        took.append(site.distribute("add", folder / "jobs.yaml"))
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds, each way")
    parser.add_argument("--only", choices=["small", "big", "submit"])
    asked = parser.parse_args()
    if os.geteuid() or not shutil.which("rsync"):
        raise SystemExit("a slow line needs root, and the peer `apt-get install rsync`")
    compileall.compile_dir(CHECKOUT / "distribute_ssh", quiet=1)  # as pip does when it installs
    with tempfile.TemporaryDirectory(prefix="distribute-bench-") as folder, Lab.up(1, scratch="1g") as lab:
        site = Site(lab, Path(folder))
        lab.slow(HEAD, asked.delay)
        print(f"medians of {asked.rounds} and more, seconds {'':8} distribute    rsync  ratio", flush=True)
        cases: dict[str, tuple[str, Callable[[], Iterator[tuple[bytes, bytes]]]]] = {
            "small": ("2,000 files of 4 KiB", small_files),
            "big": ("one file of 512 MiB", big_file),
        }
        for batch, (name, files) in cases.items():
            if asked.only not in (None, batch):
                continue
            site.fill(batch, files())
            for which, took in pulls(site, batch, asked.rounds):
                ours, peer = map(statistics.median, zip(*took, strict=True))
                print(f"{name + which:36} {ours:10.3f} {peer:8.3f} {ours / peer:6.2f}", flush=True)
        if asked.only in (None, "submit"):
            median = statistics.median(submissions(site, asked.rounds))
            print(f"{'200 jobs with 200 inputs, submitted':36} {median:10.3f}   (goal {GOAL:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
