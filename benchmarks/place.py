"""How long `place` takes: 100,000 queued jobs in 300 batches of 20 people, 1,000 nodes; the median of 15 rounds.

python benchmarks/place.py
"""

from __future__ import annotations

import random
import statistics
import time

from distribute_ssh.model.job import NodeState
from distribute_ssh.plan.schedule import place
from distribute_ssh.plan.snapshot import NodeView, Snapshot, WorkView

CAPABILITIES = ("python3", "gcc", "gfortran", "make", "cmake", "mpi", "apptainer", "gpu", "openfoam", "matlab")
JOBS, BATCHES, NODES = 100_000, 300, 1_000
NOW = 1_700_000_000.0


def big_lab(*, slots: int, free: float, kinds: int) -> Snapshot:
    """A lab where a share `free` of the nodes has all its slots free; nodes and batches are of so many kinds."""
    rng = random.Random(1)
    some = [frozenset(rng.sample(CAPABILITIES, rng.randint(4, 9))) for _ in range(kinds)]
    needs = [frozenset(rng.sample(sorted(rng.choice(some)), rng.randint(0, 3))) for _ in range(kinds)]

    def node(number: int) -> NodeView:
        return NodeView(
            f"lab{number}",
            NodeState.UP,
            rng.choice(some),
            cores=rng.choice((8, 16, 64)),
            memory_mb=65_536,
            slots=slots,
            free_slots=tuple(range(slots)) if rng.random() < free else (),
            built=frozenset(rng.sample(range(BATCHES), 5)),
            failed={rng.randrange(BATCHES): "exit 1"} if rng.random() < 0.02 else {},
        )

    def work(number: int) -> WorkView:
        ready = JOBS // BATCHES + (number < JOBS % BATCHES)
        submitter, age = f"user{rng.randrange(20)}", rng.randrange(100_000)
        return WorkView(number, f"ns/batch{number}", submitter, NOW - age, rng.choice(needs), ready)

    return Snapshot(
        nodes=tuple(map(node, range(NODES))),
        work=tuple(map(work, range(BATCHES))),
        usage={f"user{number}": rng.uniform(0, 1e6) for number in range(20)},
    )


def measure(snapshot: Snapshot, rounds: int = 15) -> tuple[float, int]:
    """Return the median time in seconds, and how many slots were given away."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        given = place(snapshot, NOW)
        times.append(time.perf_counter() - start)
    return statistics.median(times), len(given)


def main() -> None:
    print(f"{'NODES THAT ARE FREE':<22}{'SLOTS EACH':>10}{'KINDS':>8}{'PLACED':>8}{'MS':>8}")
    for free, slots, kinds in ((0.02, 1, 10), (0.3, 1, 10), (1.0, 1, 10), (1.0, 1, 200), (1.0, 4, 10), (1.0, 4, 200)):
        seconds, placed = measure(big_lab(slots=slots, free=free, kinds=kinds))
        print(f"{free:<22.0%}{slots:>10}{kinds:>8}{placed:>8}{seconds * 1000:>8.1f}")


if __name__ == "__main__":
    main()
