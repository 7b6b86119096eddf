"""What one tick knows of the live attempts, builds and jobs, and the guarded changes that keep both true.

Every change is one guarded update of the queue; our copy of the row follows only where that update found its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distribute_ssh.model.inventory import Inventory
from distribute_ssh.model.job import Attempt, AttemptState, Build, BuildState, Job, State
from distribute_ssh.plan.reconcile import Next
from distribute_ssh.store.change import Change
from distribute_ssh.store.queue import Queue


@dataclass(frozen=True, slots=True)
class Live:
    """What the coordinator knows of a node beyond the queue."""

    boot_id: str
    staged: frozenset[str]


@dataclass(slots=True)
class Memory:
    """What one coordinator remembers from tick to tick, and may forget without harm."""

    holdoff: dict[tuple[str, int], tuple[float, str]] = field(default_factory=dict)  # (node, batch) -> until, why
    ended: set[str] = field(default_factory=set)  # stale attempts that were ended
    seen_at: dict[str, float] = field(default_factory=dict)  # node -> when that was last written down
    silent: set[str] = field(default_factory=set)  # nodes that were asked in vain since they last answered
    orphans: dict[str, dict[str, bool]] = field(default_factory=dict)  # node -> token -> whether it may hold a result
    # (node, batch or "GPU 1") -> when the last pause for want of something there ended, or ends, and its length
    pauses: dict[tuple[str, int | str], tuple[float, float]] = field(default_factory=dict)
    looks: dict[str, tuple[str, float]] = field(default_factory=dict)  # token -> what its folder says, since when


class Books:
    """The rows of one tick. `live`: the nodes that are connected now."""

    def __init__(
        self, queue: Queue, change: Change, inventory: Inventory, live: Mapping[str, Live], memory: Memory, now: float
    ) -> None:
        self.queue = queue
        self.change = change
        self.inventory = inventory
        self.live = live
        self.memory = memory
        self.now = now
        self.attempts = {attempt.token: attempt for attempt in self.queue.live_attempts()}
        self.builds = {build.token: build for build in self.queue.live_builds()}
        self.jobs = {job.id: job for job in self.queue.jobs_by_id({a.job_id for a in self.attempts.values()})}
        self.batches = {batch.id: batch for batch in self.queue.batches(live_only=True)}
        used = {a.batch_id for a in self.attempts.values()} | {b.batch_id for b in self.builds.values()}
        for batch_id in used - set(self.batches):
            if batch := self.queue.batch_by_id(batch_id):
                self.batches[batch_id] = batch

    @property
    def open_nodes(self) -> frozenset[str]:
        """The connected nodes that may begin something.

        Where results of nobody's attempt are still to be brought in, a new build would empty the folder they lie in.
        """
        return frozenset(name for name in self.live if not any(self.memory.orphans.get(name, {}).values()))

    def move_attempt(self, attempt: Attempt, to: AttemptState, **fields: Any) -> Attempt | None:
        """Change the state of an attempt; the row as it is then, None where it was not in the state we knew."""
        if not self.change.attempt(attempt.id, attempt.state, to, self.now, **fields):
            return None
        if to is AttemptState.ENDED:
            fields.setdefault("ended_at", self.now)
        elif to is AttemptState.RUNNING:
            fields.setdefault("started_at", self.now)
        if to is AttemptState.WIPED:
            return self.attempts.pop(attempt.token)
        moved = replace(attempt, state=to, **fields)
        self.attempts[attempt.token] = moved
        return moved

    def move_build(self, build: Build, to: BuildState, **fields: Any) -> Build | None:
        """Change the state of a build, likewise."""
        if not self.change.build(build.id, build.state, to, self.now, **fields):
            return None
        if to is BuildState.WIPED:
            return self.builds.pop(build.token)
        moved = replace(build, state=to, **fields)
        self.builds[build.token] = moved
        return moved

    def move_job(self, job: Job, to: State, *, reason: str | None = None, **fields: Any) -> None:
        """Change the state of a job, where it is still what we knew."""
        if self.change.job(job.id, job.state, to, self.now, reason=reason, **fields):
            fresh = self.queue.job_by_id(job.id)
            if fresh is None:
                self.jobs.pop(job.id, None)
            else:
                self.jobs[job.id] = fresh

    def withdraw(self, attempt: Attempt, reason: str | None) -> None:
        """Take back an attempt of which nothing can be on its node; its job waits again."""
        if self.change.withdraw(attempt, self.now, reason=reason):
            self.attempts.pop(attempt.token, None)
            self.jobs.pop(attempt.job_id, None)

    def attempt_of(self, job: Job) -> Attempt | None:
        """The attempt of a job that counts, if there is one."""
        mine = (a for a in self.attempts.values() if a.job_id == job.id and a.number == job.attempt)
        return next((a for a in mine if a.state is not AttemptState.STALE), None)

    def set_ending(self, attempt: Attempt, ending: State) -> None:
        """Write down why we end an attempt, once."""
        if self.change.attempt_ending(attempt.id, ending):
            self.attempts[attempt.token] = replace(attempt, ending=ending)

    def again(self, attempt: Attempt, job: Job, then: Next) -> None:
        """The attempt's files are dropped unseen; its job goes on as decided."""
        self.move_attempt(attempt, AttemptState.STALE)
        tries, losses = job.tries + then.count_try, job.losses + then.count_loss
        self.move_job(job, then.state, reason=then.reason, tries=tries, losses=losses, not_before=then.not_before)

    def withdraw_placed(self, build: Build, reason: str | None) -> None:
        """Take back what waits for a build that will not come."""
        for attempt in list(self.attempts.values()):
            here = attempt.node == build.node and attempt.batch_token == build.batch_token
            if here and attempt.state is AttemptState.PLACED:
                self.withdraw(attempt, reason)
