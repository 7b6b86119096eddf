"""A month of a lab, replayed under three rules: ours, first come first served, and that of the original tool.

python benchmarks/simulate.py [--seeds N] [--days N]

Eight unequal machines, three of them with GPUs; six people with different habits; owners who pause; builds that cost
time on each machine. All rules get the same jobs, pauses and machines, and start as many jobs at once as they can:

* ours: the real `place`, at every event;
* FIFO: the oldest batch first, on the first machines of the inventory that have room for a job of it;
* the original: an idle machine asks every 10 s and gets of the batches that need `gpu` the oldest, else the batch it
  is built for, else the oldest; in a batch the last job first; one job on a machine, whatever it asks for.

Two labs: one where every job has a machine for itself, and one where most jobs say what part of a machine they need.

`wait` is from the submission of a job to its start, the build included. `GPU idle` is hours of GPUs, on machines that
are not paused, without a job that needs them while one waits. `fair`: how many times longer than alone in the lab the
batches of a person took, in the mean; of that Jain's index over people: 1 if all were held up alike.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from distribute_ssh.model.job import NodeState
from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.plan.room import Needs, Room, portion
from distribute_ssh.plan.schedule import place
from distribute_ssh.plan.snapshot import GpuView, NodeView, Snapshot, WorkView
from distribute_ssh.store.change import HALF_LIFE

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
POLL = 10.0  # seconds between two questions of an idle machine of the original
ANY, GPU = frozenset({"python3"}), frozenset({"python3", "gpu"})


@dataclass(frozen=True, eq=False)
class Machine:
    """A node; `pauses` are from when to when."""

    name: str
    cores: int
    speed: float
    gpus: tuple[int, ...]  # the memory of each
    pauses: tuple[tuple[float, float], ...]

    def is_paused(self, now: float) -> bool:
        return any(begin <= now < end for begin, end in self.pauses)

    def later(self, now: float, seconds: float) -> float:
        """When so much work is done that begins now; a paused machine does none."""
        end = now + seconds / self.speed
        for begin, until in self.pauses:
            if until > now and begin < end:
                end += until - max(begin, now)
        return end


@dataclass(frozen=True, eq=False)
class Batch:
    """What somebody submits: the jobs are seconds of work at speed 1."""

    number: int
    who: str
    at: float
    needs: Needs
    build: float
    jobs: tuple[float, ...]

    def runs_on(self, machine: Machine) -> int:
        """How many jobs of it the machine could run at once."""
        asked = self.needs.resources
        if "gpu" in self.needs.capabilities and not machine.gpus:
            return 0
        if asked is None:
            return 1
        gpus = sum(memory >= asked.gpu_memory_mb for memory in machine.gpus)
        return min(machine.cores // asked.cores, gpus // asked.gpus if asked.gpus else machine.cores)

    def alone(self, machines: Sequence[Machine]) -> float:
        """Seconds from submission to end in an empty lab, at best."""
        speeds = [machine.speed for machine in machines for _ in range(self.runs_on(machine))]
        return self.build / max(speeds) + max(max(self.jobs) / max(speeds), sum(self.jobs) / sum(speeds))


# --- the month ---


def lab(rng: random.Random, days: int) -> list[Machine]:
    """Eight machines. People sit at five of them, and need them now and then."""

    def pauses(*, has_owner: bool) -> Iterator[tuple[float, float]]:
        for day in range(days if has_owner else 0):
            if day % 7 < 5 and rng.random() < 0.6:
                begin = day * DAY + rng.uniform(9, 16) * HOUR
                yield begin, begin + rng.uniform(0.3, 3) * HOUR

    kinds = [
        ("desk1", 8, 0.9, (), True),
        ("desk2", 12, 1.0, (), True),
        ("desk3", 16, 1.0, (), True),
        ("desk4", 16, 1.2, (), True),
        ("big", 32, 1.2, (), False),
        ("gpu1", 16, 1.1, (24_576,), True),
        ("gpu2", 24, 1.4, (16_384, 16_384), False),
        ("gpu3", 12, 1.0, (8_192,), False),
    ]
    return [
        Machine(name, cores, speed, gpus, tuple(pauses(has_owner=owner))) for name, cores, speed, gpus, owner in kinds
    ]


class Habit(NamedTuple):
    """How somebody works: batches in a month, jobs in each, minutes of a job, what they need."""

    who: str
    batches: int
    jobs: tuple[int, int]
    minutes: tuple[float, float]
    needs: frozenset[str]
    asks: Resources | None  # where parts of a machine may be asked for
    longer: float = 1.0  # how many times longer a job takes on that part


HABITS = (
    Habit("ana", 10, (200, 500), (10, 40), ANY, Resources(4, 8_192), 4.0),  # floods the lab with sweeps
    Habit("ben", 20, (3, 6), (240, 960), GPU, Resources(8, 16_384, 1, 12_288)),  # few long jobs
    Habit("cem", 6, (200, 400), (15, 45), ANY, Resources(8, 16_384), 4.0),
    Habit("dan", 15, (20, 40), (60, 180), ANY, None),  # solvers that use all cores
    Habit("eve", 176, (1, 8), (3, 15), ANY, Resources(1, 2_048)),  # tries things, all day
    Habit("fay", 20, (5, 15), (20, 90), GPU, Resources(4, 8_192, 1)),
)


def month(rng: random.Random, days: int, *, parts: bool) -> list[Batch]:
    """What all people submit on weekdays from nine to six, in order of time."""
    found: list[Batch] = []
    for habit in HABITS:
        needs = Needs(habit.needs, habit.asks if parts else None)
        for _ in range(max(1, habit.batches * days // 30)):
            day = rng.choice([day for day in range(days) if day % 7 < 5])
            at = day * DAY + rng.uniform(9, 18) * HOUR
            typical = (
                rng.uniform(*habit.minutes) * MINUTE * (habit.longer if parts else 1.0)
            )  # those of a batch are alike
            jobs = tuple(typical * rng.uniform(0.7, 1.3) for _ in range(rng.randint(*habit.jobs)))
            found.append(Batch(len(found), habit.who, at, needs, rng.uniform(1, 10) * MINUTE, jobs))
    found.sort(key=lambda batch: batch.at)
    return [replace(batch, number=number) for number, batch in enumerate(found)]


# --- the lab at work ---


@dataclass
class Run:
    """A job on a machine."""

    batch: Batch
    share: Share | None
    began: float


@dataclass
class Lab:
    """What waits, what runs, and what was measured."""

    machines: Sequence[Machine]
    now: float = 0.0
    waiting: dict[Batch, deque[float]] = field(default_factory=dict)  # in the order of submission
    left: dict[Batch, int] = field(default_factory=dict)  # jobs that have not ended
    running: dict[Machine, dict[int, Run]] = field(default_factory=dict)
    built: dict[tuple[Machine, Batch], float] = field(default_factory=dict)  # when its build ends there
    served: dict[Batch, float] = field(default_factory=dict)
    usage: dict[str, tuple[float, float]] = field(default_factory=dict)  # seconds, and when they were so many
    events: list[tuple[float, int, tuple[Machine, int] | Batch | None]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    ended: dict[Batch, float] = field(default_factory=dict)
    gpu_idle: float = 0.0
    count: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.running = {machine: {} for machine in self.machines}

    def expect(self, at: float, what: tuple[Machine, int] | Batch | None = None) -> None:
        heapq.heappush(self.events, (at, next(self.count), what))

    def view(self, machine: Machine) -> NodeView:
        running = {slot: run.share for slot, run in self.running[machine].items()}
        return NodeView(
            name=machine.name,
            state=NodeState.PAUSED if machine.is_paused(self.now) else NodeState.UP,
            capabilities=GPU if machine.gpus else ANY,
            cores=machine.cores,
            memory_mb=machine.cores * 4_096,
            slots=1,
            free_slots=() if 0 in running else (0,),
            built=frozenset(batch.number for batch in self.left if (machine, batch) in self.built),
            gpus=tuple(GpuView(index, memory) for index, memory in enumerate(machine.gpus)),
            running=running,
        )

    def open_machines(self) -> list[Machine]:
        return [machine for machine in self.machines if not machine.is_paused(self.now)]

    def start(self, batch: Batch, machine: Machine, slot: int, share: Share | None, *, last: bool = False) -> None:
        """Start the next job of a batch, or its last."""
        jobs = self.waiting[batch]
        seconds = jobs.pop() if last else jobs.popleft()
        if not jobs:
            del self.waiting[batch]
        if (machine, batch) not in self.built:
            self.built[machine, batch] = machine.later(self.now, batch.build)
        began = max(self.now, self.built[machine, batch])
        self.waits.append(began - batch.at)
        self.running[machine][slot] = Run(batch, share, self.now)
        self.served[batch] = self.now
        self.expect(machine.later(began, seconds), (machine, slot))

    def end(self, machine: Machine, slot: int) -> None:
        run = self.running[machine].pop(slot)
        part = portion(run.share, machine.cores, machine.cores * 4_096, len(machine.gpus))
        had = self.had(run.batch.who) + (self.now - run.began) * part
        self.usage[run.batch.who] = had, self.now
        self.left[run.batch] -= 1
        if not self.left[run.batch]:
            del self.left[run.batch]
            self.ended[run.batch] = self.now

    def had(self, who: str) -> float:
        seconds, at = self.usage.get(who, (0.0, self.now))
        return float(seconds * 0.5 ** ((self.now - at) / HALF_LIFE))

    def look(self, until: float) -> None:
        """Count the GPUs that do nothing for those who wait, up to the next event."""
        if any("gpu" in batch.needs.capabilities for batch in self.waiting):
            for machine in self.open_machines():
                runs = [run for run in self.running[machine].values() if "gpu" in run.batch.needs.capabilities]
                used = sum(len(run.share.gpus) if run.share else len(machine.gpus) for run in runs)
                self.gpu_idle += (len(machine.gpus) - used) * (until - self.now)


class Rule(Protocol):
    """Starts what can be started."""

    def __call__(self, lab: Lab) -> None:
        """Do so now."""


def ours(lab: Lab) -> None:
    """The real decision."""
    active = defaultdict[Batch, int](int)
    for runs in lab.running.values():
        for run in runs.values():
            active[run.batch] += 1
    work = tuple(
        WorkView(
            batch_id=batch.number,
            name=f"{batch.who}/{batch.number}",
            submitter=batch.who,
            submitted_at=batch.at,
            capabilities=batch.needs.capabilities,
            ready=len(jobs),
            running=active[batch],
            served_at=lab.served.get(batch),
            resources=batch.needs.resources,
        )
        for batch, jobs in lab.waiting.items()
    )
    names = {machine.name: machine for machine in lab.machines}
    batches = {batch.number: batch for batch in lab.waiting}
    nodes = tuple(lab.view(machine) for machine in lab.machines)
    for placed in place(Snapshot(nodes, work, {who: lab.had(who) for who in lab.usage}), lab.now):
        lab.start(batches[placed.batch_id], names[placed.node], placed.slot, placed.share)


def fifo(lab: Lab) -> None:
    """First come, first served: the oldest job first, on the first machine that has room for it."""
    rooms = [(machine, Room(lab.view(machine))) for machine in lab.open_machines()]
    for batch in list(lab.waiting):
        needs = batch.needs
        for machine, room in rooms:
            while batch in lab.waiting and needs.capabilities <= room.node.capabilities and not room.lacks(needs):
                lab.start(batch, machine, *room.take(needs))


class Original:
    """The rule of the original tool."""

    def __init__(self) -> None:
        self._current: dict[Machine, Batch] = {}
        self._idle_since: dict[Machine, float] = {}

    def __call__(self, lab: Lab) -> None:
        """Answer the machines that ask now."""
        for machine in lab.open_machines():
            if lab.running[machine]:
                self._idle_since.pop(machine, None)
                continue
            asks_at = self._asks_at(machine, lab.now)
            if asks_at > lab.now + 1e-6:
                if lab.waiting:
                    lab.expect(asks_at)
                continue
            batch = self._choose(lab, machine)
            if batch is None:
                self._idle_since.setdefault(machine, lab.now)
                continue
            self._current[machine] = batch
            self._idle_since.pop(machine, None)
            lab.start(batch, machine, 0, None, last=True)

    def _asks_at(self, machine: Machine, now: float) -> float:
        """At once when a job has ended, and then every 10 s."""
        since = self._idle_since.get(machine, now)
        return since + POLL * -(-round(now - since, 3) // POLL)

    def _choose(self, lab: Lab, machine: Machine) -> Batch | None:
        able = [batch for batch in lab.waiting if batch.runs_on(machine)]
        gpu = [batch for batch in able if "gpu" in batch.needs.capabilities]
        if gpu:
            return gpu[0]
        current = self._current.get(machine)
        return current if current in lab.waiting else next(iter(able), None)


def replay(machines: Sequence[Machine], batches: Sequence[Batch], rule: Rule) -> Lab:
    """Let the month pass, and then what is left of the work."""
    lab = Lab(machines)
    for batch in batches:
        lab.expect(batch.at, batch)
    for machine in machines:
        for begin, end in machine.pauses:
            lab.expect(begin)
            lab.expect(end)
    while lab.events:
        lab.look(lab.events[0][0])
        lab.now = lab.events[0][0]
        while lab.events and lab.events[0][0] == lab.now:
            _, _, what = heapq.heappop(lab.events)
            if isinstance(what, Batch):
                lab.waiting[what] = deque(what.jobs)
                lab.left[what] = len(what.jobs)
            elif what is not None:
                lab.end(*what)
        if lab.waiting:
            rule(lab)
    return lab


# --- what came of it ---


class Figures(NamedTuple):
    """Of one replay: days, hours, hours, hours, and an index."""

    makespan: float
    median_wait: float
    wait_95: float
    gpu_idle: float
    fair: float


def figures(lab: Lab) -> Figures:
    """Measure a lab whose work is done."""
    waits = sorted(lab.waits)
    stretch = defaultdict[str, list[float]](list)
    for batch, end in lab.ended.items():
        stretch[batch.who].append((end - batch.at) / batch.alone(lab.machines))
    means = [statistics.mean(each) for each in stretch.values()]
    first = min(batch.at for batch in lab.ended)
    return Figures(
        makespan=(max(lab.ended.values()) - first) / DAY,
        median_wait=waits[len(waits) // 2] / HOUR,
        wait_95=waits[len(waits) * 95 // 100] / HOUR,
        gpu_idle=lab.gpu_idle / HOUR,
        fair=sum(means) ** 2 / (len(means) * sum(mean**2 for mean in means)),
    )


def compare(seeds: Sequence[int], days: int, *, parts: bool) -> dict[str, Figures]:
    """Replay months under every rule; the medians."""
    found = defaultdict[str, list[Figures]](list)
    for seed in seeds:
        rng = random.Random(seed)
        machines = lab(rng, days)
        batches = month(rng, days, parts=parts)
        rules: dict[str, Rule] = {"ours": ours, "FIFO": fifo, "the original": Original()}
        for name, rule in rules.items():
            found[name].append(figures(replay(machines, batches, rule)))
    return {name: Figures(*map(statistics.median, zip(*each, strict=True))) for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--days", type=int, default=30)
    asked = parser.parse_args()
    for parts, title in ((False, "A MACHINE FOR EACH JOB"), (True, "PARTS OF MACHINES")):
        columns = ("MAKESPAN d", "MEDIAN WAIT h", "95 % WAIT h", "GPU IDLE h", "FAIR")
        print(f"{title:<24}" + "".join(f"{column:>15}" for column in columns))
        for name, each in compare(range(1, asked.seeds + 1), asked.days, parts=parts).items():
            print(f"{name:<24}" + "".join(f"{value:>15.2f}" for value in each))
        print()


if __name__ == "__main__":
    main()
