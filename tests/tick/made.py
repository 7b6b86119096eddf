"""A queue, an inventory and a clock: ticks are made by hand, and told what nodes would say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from distribute_ssh.coordination.books import Live, Memory
from distribute_ssh.coordination.departed import remember
from distribute_ssh.coordination.evidence import Connected, Evidence, Seen
from distribute_ssh.coordination.tick import Tick, Ticked
from distribute_ssh.model.inventory import Inventory, NodeEntry
from distribute_ssh.model.job import Attempt, Job, State
from distribute_ssh.model.lease import Lease
from distribute_ssh.node.probe import Facts
from distribute_ssh.plan.reconcile import Sighting
from distribute_ssh.store.queue import Queue
from tests.store.makes import NOW

BOOT = "boot-1"


def entry(name: str, slots: int = 1) -> NodeEntry:
    """A node that can run every batch of `makes`."""
    return NodeEntry(name, slots=slots, capabilities=("gcc", "python3"))


class Ticks:
    """What a coordinator would do, without machines."""

    def __init__(self, path: Path, *entries: NodeEntry) -> None:
        self.queue = Queue.open(path / "queue.db")
        self.inventory = Inventory(entries, storage="/nowhere")
        self.memory = Memory()
        self.live: dict[str, Live] = {}
        self.now = NOW
        with self.queue.transaction() as change:
            remember(change, self.queue.nodes(), self.inventory)

    def tick(self, *evidence: Evidence) -> Ticked:
        """One tick, in which this is told."""
        with self.queue.transaction() as change:
            return Tick(self.queue, change, self.inventory, self.live, self.memory, self.now).run(evidence)

    def connect(self, *names: str, **sightings: Sighting) -> Ticked:
        """Nodes answer, and these attempts are on them."""
        for name in names:
            self.live[name] = Live(BOOT, frozenset())
        there = {sighting.token: sighting for sighting in sightings.values()}
        return self.tick(*(Connected(name, BOOT, Facts(), there) for name in names))

    def restart(self, name: str, *there: Sighting) -> Ticked:
        """A node answers after a restart, with these attempts on it."""
        boot_id = f"{self.live[name].boot_id}, restarted"
        self.live[name] = Live(boot_id, frozenset())
        return self.tick(Connected(name, boot_id, Facts(), {sighting.token: sighting for sighting in there}))

    def see(self, node: str, token: str, state: str, exit_code: str | None = None, **fields: object) -> Ticked:
        """A node is looked at."""
        sighting = Sighting(token, state, exit_code, **fields)  # type: ignore[arg-type]  # as the test says
        return self.tick(Seen(node, {token: sighting}, {}))

    def run(self, job: str, batch: str = "lab/study") -> Attempt:
        """Bring a job that is placed to where it runs."""
        attempt = self.attempt(job, batch)
        for build in self.queue.live_builds(attempt.node):
            if build.batch_id == attempt.batch_id and build.state == "starting":
                self.see(attempt.node, build.token, "ended", "0")
        self.live[attempt.node] = replace(self.live[attempt.node], staged=frozenset({attempt.token}))
        self.tick()
        self.see(attempt.node, attempt.token, "running")
        assert self.job(job, batch).state is State.RUNNING
        return self.attempt(job, batch)

    def job(self, name: str, batch: str = "lab/study") -> Job:
        """A job of the queue."""
        found = self.queue.batch(batch)
        assert found is not None
        job = self.queue.job(found.id, name)
        assert job is not None
        return job

    def attempt(self, job: str, batch: str = "lab/study") -> Attempt:
        """The last attempt of a job."""
        return self.queue.attempts(self.job(job, batch).id)[-1]

    def lease(self, seconds: float = 600, **fields: object) -> Lease:
        """One that a node tells of."""
        return Lease("queue1-lease1", self.now + seconds, self.now, "ana", "visitors", **fields)  # type: ignore[arg-type]
