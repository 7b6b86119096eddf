"""One tick on the queue: what was told is judged, what is wanted is decided, and all of it is recorded at once.

Runs in the store's thread, in one transaction, with no remote act in it. Its result, a `Work` for every node, is what
the supervisors then make true. A tick that is lost (kill -9) is made again from the queue and from what nodes say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from distribute_ssh.coordination import leases, owners
from distribute_ssh.coordination.books import Books, Live, Memory
from distribute_ssh.coordination.evidence import Evidence
from distribute_ssh.coordination.judging import Judging
from distribute_ssh.coordination.snapshot import TAKEN, needs, snapshot
from distribute_ssh.coordination.work import Ready, Work
from distribute_ssh.model.inventory import Inventory
from distribute_ssh.model.job import (
    OUTCOMES,
    WAITING,
    Attempt,
    AttemptState,
    Batch,
    Build,
    BuildState,
    Job,
    Request,
    State,
)
from distribute_ssh.model.resources import Resources, Share
from distribute_ssh.model.units import format_duration
from distribute_ssh.node import probe
from distribute_ssh.plan import reconcile
from distribute_ssh.plan.eligible import never_reason
from distribute_ssh.plan.schedule import Placement, place
from distribute_ssh.store.change import Change
from distribute_ssh.store.queue import Queue

LIVE_BUILDS = (BuildState.STARTING, BuildState.RUNNING, BuildState.ENDED, BuildState.BUILT, BuildState.FAILED)
SEEN_EVERY = 30.0  # seconds between notes that a node is still there


@dataclass(frozen=True, slots=True)
class Ticked:
    """What a tick leaves to do."""

    work: Mapping[str, Work]
    to_record: Sequence[Batch]  # their record in storage is due
    next_at: float | None  # when time alone changes something


class Tick:
    """One tick. `live`: the nodes that are connected now."""

    def __init__(
        self, queue: Queue, change: Change, inventory: Inventory, live: Mapping[str, Live], memory: Memory, now: float
    ) -> None:
        self.books = Books(queue, change, inventory, live, memory, now)
        self.inventory = inventory
        self.queue, self.change, self.now = queue, change, now
        self.attempts, self.builds = self.books.attempts, self.books.builds
        self.jobs, self.batches = self.books.jobs, self.books.batches
        self.live, self.memory = live, memory

    def run(self, evidence: Sequence[Evidence]) -> Ticked:
        """All steps, in the order in which one may follow from the other."""
        judging = Judging(self.books)
        for item in evidence:
            judging.take(item)
        leases.expire(self.change, self.queue.nodes(), self.now)
        leases.refuse(self.change, self.queue.nodes(), self.inventory, {a.node for a in self.attempts.values()})
        owners.ask(self.books)
        self.paused = leases.paused(self.queue.nodes(), self.now)
        self._note_seen()
        self._drop_superseded()
        self._obey_requests()
        self._give_up_on_silence()
        self._advance()
        self._fail_hopeless()
        self._place()
        owners.move(self.books)
        self._advance()
        self._finish()
        return self._result()

    def _note_seen(self) -> None:
        for node in self.live:
            if self.now - self.memory.seen_at.get(node, 0.0) > SEEN_EVERY:
                self.memory.seen_at[node] = self.now
                self.change.node(node, last_seen=self.now)

    # --- what people and time ask for ---

    def _drop_superseded(self) -> None:
        """Attempts whose job is gone, or has another attempt by now, are nobody's any more."""
        for attempt in list(self.attempts.values()):
            job = self.jobs.get(attempt.job_id)
            if job is not None and (job.attempt == attempt.number and job.state not in OUTCOMES | WAITING):
                continue
            if attempt.state is AttemptState.PLACED:
                self.books.move_attempt(attempt, AttemptState.WIPED)
            elif attempt.state in (AttemptState.STARTING, AttemptState.RUNNING, AttemptState.ENDED):
                self.books.move_attempt(attempt, AttemptState.STALE)

    def _obey_requests(self) -> None:
        for job in list(self.jobs.values()):
            attempt = self.books.attempt_of(job)
            if attempt is None:
                continue
            if job.request is Request.KILL:
                if attempt.state is AttemptState.PLACED:
                    self.change.attempt(attempt.id, AttemptState.PLACED, AttemptState.WIPED, self.now)
                    del self.attempts[attempt.token]
                    self.books.move_job(job, State.KILLED, reason=f"killed by {job.requested_by}")
                elif attempt.ending is None and attempt.state in (AttemptState.STARTING, AttemptState.RUNNING):
                    self.books.set_ending(attempt, State.KILLED)
            elif attempt.ending is None and (end := self._end_time(attempt, job)) is not None and self.now >= end:
                self.books.set_ending(attempt, State.TIMEOUT)

    def _end_time(self, attempt: Attempt, job: Job) -> float | None:
        """When the time limit of an attempt is over, where that can be said.

        Not of a node that is silent: it may have been paused from its desk.
        """
        if attempt.state is not AttemptState.RUNNING or job.state is not State.RUNNING or job.time_limit is None:
            return None
        if attempt.started_at is None or attempt.node in self.paused or attempt.node not in self.live:
            return None
        return attempt.started_at + job.time_limit + attempt.paused_seconds

    def _give_up_on_silence(self) -> None:
        nodes = self.queue.nodes()
        asked = {entry.name for entry in self.inventory.nodes}  # with jobs on it, also one that gets no more
        for attempt in list(self.attempts.values()):
            if attempt.node in self.live:
                continue
            if attempt.state is AttemptState.PLACED:
                self.books.withdraw(attempt, None)
                continue
            job, row = self.jobs.get(attempt.job_id), nodes.get(attempt.node)
            if job is None or attempt.state not in (AttemptState.STARTING, AttemptState.RUNNING, AttemptState.ENDED):
                continue
            if attempt.node in asked - self.memory.silent:
                continue  # nobody listened while there was no coordinator: it is to be asked first
            since = (row and (row.unreachable_since or row.last_seen)) or attempt.placed_at
            if reconcile.is_given_up(job.on_node_loss, since, self.inventory.lost_after, self.now):
                why = f"no answer for {format_duration(self.inventory.lost_after)}"
                self.books.again(attempt, job, reconcile.after_loss(job, why, self.now))

    # --- going on ---

    def _advance(self) -> None:
        """Placed attempts whose build is there and whose inputs are staged start; missing builds are begun."""
        live = {(b.batch_id, b.node): b for b in self.builds.values() if b.state in LIVE_BUILDS}
        open_nodes = self.books.open_nodes
        # A build that was given up still has its folder, perhaps under the very name a new one would take.
        going = {(b.batch_token, b.node) for b in self.builds.values() if b.state is BuildState.STALE}
        for attempt in list(self.attempts.values()):
            node = self.live.get(attempt.node)
            if attempt.state is not AttemptState.PLACED or node is None:
                continue
            job, batch = self.jobs.get(attempt.job_id), self.batches[attempt.batch_id]
            build = live.get((attempt.batch_id, attempt.node))
            given_up = attempt.batch_token != batch.token or (build and build.state is BuildState.FAILED)
            if job is None or given_up or attempt.node in self.paused or attempt.node not in open_nodes:
                self.books.withdraw(attempt, None)
            elif build is None or build.batch_token != batch.token:
                if build is not None:  # of the batch as it was submitted before
                    self.books.move_build(build, BuildState.STALE)
                if (batch.token, attempt.node) in going:
                    continue
                token = self.queue.new_token()
                begun = self.change.build_start(batch.id, attempt.node, token, batch.build_hash, self.now)
                if begun is not None:
                    live[begun.batch_id, begun.node] = self.builds[begun.token] = begun
            elif build.state is not BuildState.BUILT:
                if job.state is State.STAGING and build.state is BuildState.RUNNING:
                    self.books.move_job(job, State.BUILDING)
            elif attempt.token in node.staged:
                # Written down before it is asked for: from here on it may exist on the node.
                self.books.move_attempt(attempt, AttemptState.STARTING, boot_id=node.boot_id)

    def _place(self) -> None:
        open_nodes = self.books.open_nodes
        if not (self._is_room(open_nodes) and self.queue.work(self.now)):
            return  # which is most ticks of a full lab, and of an idle one
        seen = snapshot(
            self.queue,
            self.inventory,
            self.now,
            connected=open_nodes,
            holdoff=self.memory.holdoff,
        )
        wanted: dict[tuple[int, Resources | None], list[Placement]] = defaultdict(list)
        for placement in place(seen, self.now):
            wanted[placement.batch_id, placement.resources].append(placement)
        for (batch_id, resources), places in wanted.items():
            jobs = self.queue.ready_jobs(batch_id, resources, len(places), self.now)
            for job, at in zip(jobs, places, strict=False):
                placed = self.change.place(job.id, self.queue.new_token(), at.node, at.slot, self.now, at.share)
                if placed is not None:
                    self.attempts[placed.token] = placed
                    self.jobs[job.id] = replace(job, state=State.STAGING, attempt=placed.number, node=at.node)

    def _is_room(self, open_nodes: Collection[str]) -> bool:
        """Whether some node may be able to take another job."""
        given = defaultdict[str, list[Share | None]](list)
        for attempt in self.attempts.values():
            if attempt.state in TAKEN:
                given[attempt.node].append(attempt.share)
        rows = self.queue.nodes()
        for entry in self.inventory.nodes:
            if entry.name in open_nodes:
                row = rows.get(entry.name)
                shares, cores = given[entry.name], probe.cores(entry, row.facts if row else {})
                whole = shares.count(None)
                free = cores - whole * probe.slot_cores(cores, entry.slots) - sum(s.cores for s in shares if s)
                if free > 0 or whole == len(shares) < entry.slots:
                    return True
        return False

    def _fail_hopeless(self) -> None:
        """Jobs whose batch no node can run any more end, with the reason."""
        if not any(build.state is BuildState.FAILED for build in self.builds.values()):
            return
        work = self.queue.work(self.now)
        seen = snapshot(self.queue, self.inventory, self.now)
        failed_now = (b for b in self.builds.values() if b.state is BuildState.FAILED and b.node in self.live)
        coming = {build.batch_id for build in failed_now if not build.log_kept}
        for row in work:
            if row.batch.id in coming:
                continue  # the log says why, and is on its way
            failed = [node for node in seen.nodes if row.batch.id in node.failed]
            if not failed:
                continue  # a capability that nobody has may come with another inventory: it waits, and explain says so
            if reason := never_reason(seen.nodes, needs(row), row.batch.id, row.resources):
                self.change.fail_queued(row.batch.id, row.resources, reason.text, self.now)

    def _finish(self) -> None:
        for batch in list(self.batches.values()):
            if batch.finished_at is None and self.change.finish_batch_if_ended(batch.id, self.now):
                self.batches[batch.id] = replace(batch, finished_at=self.now, recorded_at=None)
        # Stale before its folder goes: a batch submitted again in this moment must not be given a build that leaves.
        for build in list(self.builds.values()):
            if self._is_done_with(build, self.batches[build.batch_id]):
                self.books.move_build(build, BuildState.STALE)

    # --- result ---

    def _result(self) -> Ticked:
        by_node: dict[str, Work] = {}
        rows = self.queue.nodes()
        needed = frozenset(self._needed())
        shared = self.queue.shared_batches()
        # What is only placed needs no folder yet: it may be waiting for that of a lost build to go.
        busy = {(a.node, a.batch_token) for a in self.attempts.values() if a.state is not AttemptState.PLACED}
        for node in {entry.name for entry in self.inventory.nodes} | set(self.live):
            attempts = [
                Ready(attempt, self.jobs.get(attempt.job_id), self.batches[attempt.batch_id])
                for attempt in self.attempts.values()
                if attempt.node == node
            ]
            builds = [(b, self.batches[b.batch_id]) for b in self.builds.values() if b.node == node]
            clear = [b for b, _ in builds if b.state is BuildState.STALE and (node, b.batch_token) not in busy]
            kill = {a.attempt.token for a in attempts if self._is_to_kill(a.attempt)}
            request = rows[node].request if node in rows else None
            ended = frozenset(self.memory.ended)
            warn = dict(each for ready in attempts for each in self._warning(ready))
            orphans = dict(self.memory.orphans.get(node, {}))
            by_node[node] = Work(
                attempts, builds, clear, frozenset(kill), ended, needed, orphans, shared, request, warn
            )  # fmt: skip
        due = [batch for batch in self.batches.values() if batch.recorded_at is None]
        self.memory.ended &= set(self.attempts)
        known = self.attempts.keys() | self.builds.keys()
        self.memory.looks = {token: look for token, look in self.memory.looks.items() if token in known}
        return Ticked(by_node, due, self._next_at())

    def _warning(self, ready: Ready) -> Iterator[tuple[str, str]]:
        """The attempt and the signal it wants, where its time limit is near."""
        attempt, job = ready.attempt, ready.job
        if job is not None and job.warn_signal and attempt.ending is None:
            end = self._end_time(attempt, job)
            if end is not None and self.now >= end - job.warn_before:
                yield attempt.token, job.warn_signal

    def _is_to_kill(self, attempt: Attempt) -> bool:
        if attempt.state is AttemptState.STALE:
            return attempt.token not in self.memory.ended
        return attempt.ending is not None and attempt.state in (AttemptState.STARTING, AttemptState.RUNNING)

    def _is_done_with(self, build: Build, batch: Batch) -> bool:
        ended = build.state in (BuildState.BUILT, BuildState.FAILED) and build.log_kept
        return ended and (batch.finished_at is not None or build.batch_token != batch.token)

    def _needed(self) -> set[str]:
        needed: set[str] = set()
        for batch in self.batches.values():
            needed.update(item.sha256 for item in (*batch.init, batch.script))
        for attempt in self.attempts.values():
            if job := self.jobs.get(attempt.job_id):
                needed.update(item.sha256 for item in job.inputs)
                if job.script:
                    needed.add(job.script.sha256)
        return needed

    def _next_at(self) -> float | None:
        times = [until for until, _ in self.memory.holdoff.values()]
        times += [row.next_at for row in self.queue.work(self.now) if row.next_at is not None]
        waiting = [row.batch.submitted_at for row in self.queue.work(self.now)] if self.inventory.overflow else []
        times += [since + after for since in waiting for after in self.inventory.overflow.values()]
        times += leases.ends(self.queue.nodes())
        times += owners.changes(self.books)
        for attempt in self.attempts.values():
            job = self.jobs.get(attempt.job_id)
            if job and (end := self._end_time(attempt, job)) is not None:
                times += [end, end - job.warn_before]
        return min((at for at in times if at > self.now), default=None)
