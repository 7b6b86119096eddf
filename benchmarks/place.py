"""How long `place` takes: 100,000 queued jobs in 300 batches of 20 people, 1,000 nodes; the median of 15 rounds, in
processor time: it does nothing but think.

In the rows with SHAPES jobs ask for parts of a node, in so many ways, and a third of the nodes' cores are taken.

python benchmarks/place.py
"""

from __future__ import annotations

import random
import statistics
import time

from distribute_ssh.model.job import NodeState
from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.plan.schedule import place
from distribute_ssh.plan.snapshot import GpuView, NodeView, Snapshot, WorkView

CAPABILITIES = ("python3", "gcc", "gfortran", "make", "cmake", "mpi", "apptainer", "gpu", "openfoam", "matlab")
JOBS, BATCHES, NODES = 100_000, 300, 1_000
NOW = 1_700_000_000.0


def big_lab(*, slots: int = 1, free: float = 1.0, kinds: int = 10, shapes: int = 0) -> Snapshot:
    """A lab where a share `free` of the nodes has all its slots free; nodes and batches are of so many kinds.

    With `shapes` nine batches in ten ask for parts of a node, in so many ways, and parts of the others are taken.
    """
    rng = random.Random(1)
    some = [frozenset(rng.sample(CAPABILITIES, rng.randint(4, 9))) for _ in range(kinds)]
    needs = [frozenset(rng.sample(sorted(rng.choice(some)), rng.randint(0, 3))) for _ in range(kinds)]

    asked = [_resources(rng) for _ in range(shapes)]

    def node(number: int) -> NodeView:
        cores, has, is_free = rng.choice((8, 16, 64)), rng.choice(some), rng.random() < free
        shared = {0: Share(rng.randint(1, cores - 1), 4_096)} if shapes and not is_free else {}
        return NodeView(
            f"lab{number}",
            NodeState.UP,
            has,
            cores=cores,
            memory_mb=65_536,
            slots=slots,
            free_slots=tuple(range(slots)) if is_free else (),
            running=shared,
            gpus=tuple(GpuView(index, rng.choice((8_192, 24_576))) for index in range(2)) if "gpu" in has else (),
            built=frozenset(rng.sample(range(BATCHES), 5)),
            failed={rng.randrange(BATCHES): "exit 1"} if rng.random() < 0.02 else {},
        )

    def work(number: int) -> WorkView:
        ready = JOBS // BATCHES + (number < JOBS % BATCHES)
        submitter, age = f"user{rng.randrange(20)}", rng.randrange(100_000)
        resources = rng.choice(asked) if asked and rng.random() < 0.9 else None
        wanted = rng.choice(needs) | ({"gpu"} if resources and resources.gpus else set())
        return WorkView(number, f"ns/batch{number}", submitter, NOW - age, wanted, ready, resources=resources)

    return Snapshot(
        nodes=tuple(map(node, range(NODES))),
        work=tuple(map(work, range(BATCHES))),
        usage={f"user{number}": rng.uniform(0, 1e6) for number in range(20)},
    )


def _resources(rng: random.Random) -> Resources:
    gpus = rng.choice((0, 0, 0, 1, 2))
    return Resources(
        cores=rng.choice((1, 2, 4, 8, 12, 32)),
        memory_mb=rng.choice((0, 1_024, 8_192, 30_000)),
        gpus=gpus,
        gpu_memory_mb=rng.choice((0, 16_384)) if gpus else 0,
    )


def measure(snapshot: Snapshot, rounds: int = 15) -> tuple[float, int]:
    """Return the median processor time in seconds, and how many slots were given away."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        given = place(snapshot, NOW)
        times.append(time.process_time() - start)
    return statistics.median(times), len(given)


def main() -> None:
    print(f"{'NODES THAT ARE FREE':<22}{'SLOTS EACH':>10}{'KINDS':>8}{'SHAPES':>8}{'PLACED':>8}{'MS':>8}")
    whole = ((0.02, 1, 10, 0), (0.3, 1, 10, 0), (1.0, 1, 10, 0), (1.0, 1, 200, 0), (1.0, 4, 10, 0), (1.0, 4, 200, 0))
    parts = ((0.02, 1, 10, 12), (0.3, 1, 10, 12), (1.0, 1, 10, 12), (1.0, 1, 200, 12), (0.02, 1, 200, 300))
    for free, slots, kinds, shapes in whole + parts:
        seconds, placed = measure(big_lab(slots=slots, free=free, kinds=kinds, shapes=shapes))
        print(f"{free:<22.0%}{slots:>10}{kinds:>8}{shapes:>8}{placed:>8}{seconds * 1000:>8.1f}")


if __name__ == "__main__":
    main()
