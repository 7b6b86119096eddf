"""One big input for many nodes: over the head's line once and from node to node, against a copy for each.

    python benchmarks/images.py [--nodes 4] [--mib 64] [--rate 100mbit] [--rounds 1]

The nodes are machines of a lab, the head's line to them is held to a rate, and what they send each other is not: a head
in an office, nodes on a switch. Ours is timed from the start of `distribute run` until the last node has all of it,
the peer is `scp` of the same file to each node, one after the other and all at once. Needs root.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.lab.lab import Lab
from tests.lab.site import LabSite
from tests.support.wait import wait_for

JOB = "gate('all')\n"


def narrow(lab: Lab, rate: str) -> None:
    """Hold what this computer sends into the lab to a rate; what machines send each other passes elsewhere."""
    rule = ["tbf", "rate", rate, "burst", "64kb", "latency", "200ms"]
    subprocess.run(["tc", "qdisc", "add", "dev", lab.bridge.name, "root", *rule], check=True)


def sent(lab: Lab) -> int:
    """Bytes that this computer sent into the lab."""
    return int(Path("/sys/class/net", lab.bridge.name, "statistics", "tx_bytes").read_text())


def passed_on(site: LabSite, size: int, number: int) -> float:
    """Seconds until every node has a new input of that size."""
    jobs = site.batch(
        [f"j{each}" for each in range(len(site.machines.machines))], name=f"b{number}", run=JOB, init=["image"]
    )
    (jobs.parent / "image").write_bytes(os.urandom(size))
    began = time.monotonic()
    command = site.start("run", jobs)
    scratch = [machine.scratch for machine in site.machines.machines.values()]

    def everywhere() -> bool:
        return all(
            sum(path.stat().st_size == size for path in each.glob("distribute-*/files/[0-9a-f]*")) > number
            for each in scratch
        )

    wait_for(everywhere, "every node has it", 600)
    took = time.monotonic() - began
    site.open("all")
    command.end()
    return took


def copies(lab: Lab, file: Path, *, at_once: bool) -> float:
    """Seconds that `scp` takes to every node."""
    began = time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    for name in lab.machines:
        target = f"distribute@{name}:/var/tmp/copy"
        argv = [
            "scp",
            "-q",
            "-F",
            str(lab.access.ssh_config),
            "-o",
            "Ciphers=aes128-gcm@openssh.com",
            str(file),
            target,
        ]
        running.append(subprocess.Popen(argv))
        if not at_once and running[-1].wait():
            raise SystemExit(f"scp to {name} failed")
    if any(each.wait() for each in running):
        raise SystemExit("scp failed")
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    if os.geteuid():
        raise SystemExit("a lab of machines needs root")
    size = asked.mib << 20
    scratch = f"{asked.mib * (3 * asked.rounds + 3)}m"  # two copies of each input while jobs run, and the peer's
    with tempfile.TemporaryDirectory(prefix="distribute-bench-") as folder, Lab.up(asked.nodes, scratch=scratch) as lab:
        site = LabSite(Path(folder) / "site", lab, share_inputs=f"{min(asked.mib, 64)}M")
        file = Path(folder) / "image"
        file.write_bytes(os.urandom(size))
        narrow(lab, asked.rate)
        rows: dict[str, list[float]] = {"ours": [], "one by one": [], "at once": []}
        through: list[float] = []
        for number in range(asked.rounds):
            before = sent(lab)
            rows["ours"].append(passed_on(site, size, number))
            through.append((sent(lab) - before) / size)
            rows["one by one"].append(copies(lab, file, at_once=False))
            rows["at once"].append(copies(lab, file, at_once=True))
        site.close()
    print(f"{asked.mib} MiB to {asked.nodes} nodes, the head's line at {asked.rate}; {asked.rounds} round(s), seconds")
    ours = statistics.median(rows["ours"])
    print(f"  distribute                {ours:8.2f}   {statistics.median(through):.2f} copies through the head")
    for name in ("one by one", "at once"):
        peer = statistics.median(rows[name])
        print(f"  scp, {name:20} {peer:8.2f}   ratio {ours / peer:.2f}")


if __name__ == "__main__":
    main()
