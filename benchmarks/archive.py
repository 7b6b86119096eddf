"""Archiving beside `rsync -a -e ssh`, through the same sshd on loopback: 2,000 small files, one big, and both again.

    python benchmarks/archive.py [--rounds 5]

Whole processes are timed, interleaved; the medians go into the table. Ours is a fresh Python that imports, connects,
archives one attempt (with hashes, record and sync to disk, which rsync does without) and publishes it. "Again": an
attempt that was brought in whole but not published is taken up anew. "The call": what a coordinator that is up and
connected spends on it.
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
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))

TOKEN = "bench0-attempt"
Seconds = tuple[float, float, float]


def child(config: str, known_hosts: str, node: str, store: str, ending: str) -> None:
    """Archive the one attempt there is; what a coordinator does, without its queue."""
    from distribute_ssh.node.connection import Connector, KnownHosts
    from distribute_ssh.node.probe import Facts
    from distribute_ssh.storage.archive import Parcel, archive
    from distribute_ssh.storage.disk import LocalStorage

    class Stopped(LocalStorage):
        """Storage that breaks in the moment of publishing."""

        async def rename(self, pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, OSError]:
            return {old: OSError(5, "stopped") for old, _ in pairs}

    async def run() -> None:
        connector = Connector(KnownHosts(Path(known_hosts)), config=Path(config))
        link = await connector.open("lab1", "lab1")
        stop = ending == "stopped"
        storage = Stopped(Path(store)) if stop else LocalStorage(Path(store))
        began = time.perf_counter()
        parcel = Parcel(TOKEN, "bench", "batch", "job", "job_output.txt", {"attempt": 1})
        facts = Facts(has_tar=True, find_printf=True)
        [outcome] = await archive(link, os.fsencode(node), [parcel], storage, facts=facts)
        print(time.perf_counter() - began)
        await link.close()
        if outcome.published == stop:
            raise SystemExit(f"not as expected: {outcome}")

    asyncio.run(run())


class Case:
    """One tree on the node, and both ways to bring it."""

    def __init__(self, folder: Path, lab_folder: Path, fill: Callable[[Path], None]) -> None:
        self.node = folder / "node"
        self.folder = folder
        self.store = self.copy = folder
        self.config = lab_folder / "ssh_config"
        self.known_hosts = lab_folder / "own_known_hosts"
        save = self.node / "attempts" / TOKEN / "save"
        save.mkdir(parents=True)
        (save.parent / "output").write_text("done\n")
        fill(save)

    def renew(self) -> None:
        """Take fresh folders. The old ones stay: for seconds after a removal, ext4 is slow to make new files."""
        number = len(list(self.folder.iterdir()))
        self.store, self.copy = self.folder / f"store-{number}", self.folder / f"copy-{number}"
        self.store.mkdir()
        self.copy.mkdir()
        os.sync()  # what earlier runs left to write is not this one's

    def ours(self, *, stop: bool = False) -> float:
        """Bring it in by us; returns the seconds of the call alone."""
        command = [sys.executable, str(HERE), "--child", str(self.config), str(self.known_hosts), str(self.node)]
        ended = subprocess.run(
            [*command, str(self.store), "stopped" if stop else "published"], check=True, capture_output=True
        )
        return float(ended.stdout)

    def rsync(self) -> None:
        source = f"lab1:{self.node}/attempts/{TOKEN}/save/"
        subprocess.run(["rsync", "-a", "-e", f"ssh -F {self.config}", source, f"{self.copy}/"], check=True)

    def unpublish(self, journal: bytes) -> None:
        """Back to the moment before publishing."""
        batch = self.store / "bench" / "batch"
        (batch / "job" / "job.json").unlink()
        (batch / "job").rename(batch / f".part-{TOKEN}")
        (batch / f".part-{TOKEN}.journal").write_bytes(journal)


def both(case: Case) -> Seconds:
    """How long ours took, its call alone, rsync."""
    began = time.perf_counter()
    call = case.ours()
    between = time.perf_counter()
    case.rsync()
    return between - began, call, time.perf_counter() - between


def measure(case: Case, rounds: int) -> tuple[list[Seconds], list[Seconds]]:
    """What `both` took, each time; and each time again."""
    first, again = [], []
    for _ in range(rounds):
        case.renew()
        first.append(both(case))
    case.renew()
    case.ours(stop=True)
    case.rsync()
    journal = (case.store / "bench" / "batch" / f".part-{TOKEN}.journal").read_bytes()
    for _ in range(rounds):
        again.append(both(case))
        case.unpublish(journal)
    return first, again


def small_files(save: Path) -> None:
    for number in range(2000):
        (save / f"{number:04}.dat").write_bytes(os.urandom(4096))


def big_file(save: Path) -> None:
    with (save / "field.bin").open("wb") as file:
        for _ in range(512):
            file.write(os.urandom(1 << 20))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    from tests.support.lab import Lab

    with tempfile.TemporaryDirectory(prefix="distribute-bench-") as folder:
        lab = Lab(Path(folder) / "lab")
        try:
            lab.add("lab1")
            print(f"medians of {rounds}, seconds {'':14} distribute  (the call)    rsync  ratio")
            for name, fill in (("2,000 files of 4 KiB", small_files), ("one file of 512 MiB", big_file)):
                case = Case(Path(folder) / name.replace(" ", "-"), lab.folder, fill)
                for row, took in zip((name, f"{name}, again"), measure(case, rounds), strict=True):
                    ours, call, rsync = map(statistics.median, zip(*took, strict=True))
                    print(f"{row:36} {ours:10.3f} {call:11.3f} {rsync:8.3f} {ours / rsync:6.2f}", flush=True)
        finally:
            lab.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:7])
    else:
        main()
