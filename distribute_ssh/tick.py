"""One tick on the queue: what was told is judged, what is wanted is decided, and all of it is recorded at once.

Runs in the store's thread, in one transaction, with no remote act in it. Its result, a `Work` for every node, is what
the supervisors then make true. A tick that is lost (kill -9) is made again from the queue and from what nodes say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distribute_ssh import leases
from distribute_ssh.evidence import (
    Cleared,
    Connected,
    Dropped,
    Evidence,
    Killed,
    Leased,
    Lost,
    NotObeyed,
    NotPublished,
    NotStaged,
    Published,
    Seen,
    Staged,
)
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
from distribute_ssh.model.units import format_duration
from distribute_ssh.plan import reconcile
from distribute_ssh.plan.eligible import never_reason
from distribute_ssh.plan.reconcile import Next, Sighting, Verdict
from distribute_ssh.plan.schedule import place
from distribute_ssh.snapshot import TAKEN, snapshot
from distribute_ssh.store.change import Change
from distribute_ssh.store.queue import Queue
from distribute_ssh.supervisor import Ready, Work

LIVE_BUILDS = (BuildState.STARTING, BuildState.RUNNING, BuildState.ENDED, BuildState.BUILT, BuildState.FAILED)
HOLDOFF = 60.0  # seconds a node gets no job of a batch after it could not take its inputs
SEEN_EVERY = 30.0  # seconds between notes that a node is still there


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
    left: dict[str, int] = field(default_factory=dict)  # token -> processes that would not go
    seen_at: dict[str, float] = field(default_factory=dict)  # node -> when that was last written down
    silent: set[str] = field(default_factory=set)  # nodes that were asked in vain since they last answered
    looks: dict[str, tuple[str, float]] = field(default_factory=dict)  # token -> what its folder says, since when


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
        self.queue = queue
        self.change = change
        self.inventory = inventory
        self.live = live
        self.memory = memory
        self.now = now
        self._load()

    def _load(self) -> None:
        self.attempts = {attempt.token: attempt for attempt in self.queue.live_attempts()}
        self.builds = {build.token: build for build in self.queue.live_builds()}
        self.jobs = {job.id: job for job in self.queue.jobs_by_id({a.job_id for a in self.attempts.values()})}
        self.batches = {batch.id: batch for batch in self.queue.batches(live_only=True)}
        live = {a.batch_id for a in self.attempts.values()} | {b.batch_id for b in self.builds.values()}
        for batch_id in live - set(self.batches):
            if batch := self.queue.batch_by_id(batch_id):
                self.batches[batch_id] = batch

    def run(self, evidence: Sequence[Evidence]) -> Ticked:
        """All steps, in the order in which one may follow from the other."""
        for item in evidence:
            self._take(item)
        leases.expire(self.change, self.queue.nodes(), self.now)
        leases.refuse(self.change, self.queue.nodes(), self.inventory, {a.node for a in self.attempts.values()})
        self.paused = leases.paused(self.queue.nodes(), self.now)
        self._note_seen()
        self._drop_superseded()
        self._obey_requests()
        self._give_up_on_silence()
        self._advance()
        self._fail_hopeless()
        self._place()
        self._advance()
        self._finish()
        return self._result()

    # --- evidence ---

    def _take(self, item: Evidence) -> None:
        match item:
            case Connected():
                self._connected(item)
            case Lost():
                row = self.queue.nodes().get(item.node)
                since = row.unreachable_since if row and row.unreachable_since else self.now
                self.change.node(item.node, unreachable_since=since, unreachable_reason=item.reason)
                leases.fail(self.change, row, item.reason)
                self.memory.silent.add(item.node)
            case Leased():
                leases.take(self.change, self.queue.nodes().get(item.node), item)
            case NotObeyed():
                leases.fail(self.change, self.queue.nodes().get(item.node), item.reason)
            case Seen():
                for token, sighting in item.sightings.items():
                    self._judge(token, sighting, item.node, item.said.get(token))
            case Staged():
                pass  # the supervisor knows; `_advance` asks it
            case NotStaged():
                self._not_staged(item)
            case Published():
                self._published(item)
            case NotPublished():
                if attempt := self.attempts.get(item.token):
                    self.change.note(attempt.job_id, item.reason)
            case Killed():
                self._killed(item)
            case Dropped():
                if attempt := self.attempts.get(item.token):
                    self._move_attempt(attempt, AttemptState.WIPED)
                    if attempt.state is AttemptState.PUBLISHED:
                        self._room_was_made(item.node)
            case Cleared():
                if build := self.builds.get(item.token):
                    self._move_build(build, BuildState.WIPED)
                    if build.log_kept:
                        self._room_was_made(item.node)

    def _connected(self, item: Connected) -> None:
        if item.node not in self.live:
            return  # gone again already; the next connection looks anew
        self.change.node(
            item.node, facts=item.facts.to_json(), boot_id=item.boot_id, last_seen=self.now,
            unreachable_since=None, unreachable_reason=None,
        )  # fmt: skip
        self.memory.seen_at[item.node] = self.now
        self.memory.silent.discard(item.node)
        for token in [t for t, a in self.attempts.items() if a.node == item.node]:
            self._judge(token, item.sightings.get(token), item.node, None)
        for token in [t for t, b in self.builds.items() if b.node == item.node]:
            self._judge(token, item.sightings.get(token), item.node, None)

    def _judge(self, token: str, sighting: Sighting | None, node: str, said: str | None) -> None:
        if node not in self.live:
            return  # what was seen before a line broke is seen again after it
        boot_id = self.live[node].boot_id
        if attempt := self.attempts.get(token):
            found = self._found(token, attempt.state, attempt.boot_id, sighting, boot_id)
            self._obey_attempt(attempt, found, boot_id, said)
            self._follow_lease(token, sighting)
        elif build := self.builds.get(token):
            found = self._found(token, build.state, build.boot_id, sighting, boot_id)
            self._obey_build(build, found, boot_id, said)

    def _found(
        self, token: str, state: AttemptState | BuildState, then: str | None, sighting: Sighting | None, boot_id: str
    ) -> reconcile.Judgement:
        looks = sighting.state if sighting else "absent"
        if self.memory.looks.get(token, ("", 0.0))[0] != looks:
            self.memory.looks[token] = (looks, self.now)
        since = self.memory.looks[token][1]
        return reconcile.judge(state, then, sighting, node_boot_id=boot_id, since=since, now=self.now)

    def _obey_attempt(self, attempt: Attempt, found: reconcile.Judgement, boot_id: str, said: str | None) -> None:
        job = self.jobs.get(attempt.job_id)
        match found.verdict:
            case Verdict.STARTED:
                if self._move_attempt(attempt, AttemptState.RUNNING, boot_id=boot_id) and job:
                    self._move_job(job, State.RUNNING, started_at=self.now)
            case Verdict.ENDED:
                assert found.exit is not None
                self._ended(attempt, job, found.exit, said)
            case Verdict.LOST:
                self._lost(attempt, job, found.reason or "it was lost")
            case Verdict.DROPPED:
                self._move_attempt(attempt, AttemptState.WIPED)
            case Verdict.KEEP | Verdict.START | Verdict.STOP:
                pass  # the supervisor starts what is starting and ends what is stale on every new connection

    def _follow_lease(self, token: str, sighting: Sighting | None) -> None:
        """A job is paused while its attempt is; for how long it was, its time limit does not count."""
        attempt = self.attempts.get(token)
        job = self.jobs.get(attempt.job_id) if attempt else None
        if attempt is None or job is None or job.attempt != attempt.number:
            return
        if attempt.state is not AttemptState.RUNNING or sighting is None or sighting.state != "running":
            return
        if sighting.paused:
            if job.state is State.RUNNING:
                row = self.queue.nodes().get(attempt.node)
                self._move_job(job, State.PAUSED, reason=leases.why_paused(row.lease if row else None))
            return
        if sighting.paused_seconds != attempt.paused_seconds:
            self.change.attempt_paused(attempt.id, sighting.paused_seconds)
            self.attempts[token] = replace(attempt, paused_seconds=sighting.paused_seconds)
        if job.state is State.PAUSED:
            self._move_job(job, State.RUNNING)

    def _ended(self, attempt: Attempt, job: Job | None, code: str, said: str | None) -> None:
        if job is None:  # dropped from its batch meanwhile
            self._move_attempt(attempt, AttemptState.STALE)
            return
        seconds = max(0.0, self.now - (attempt.started_at or self.now) - attempt.paused_seconds)
        self.change.add_usage(self.batches[attempt.batch_id].submitter, seconds, self.now)
        started = {} if attempt.started_at else {"started_at": self.now}
        ended = self._move_attempt(attempt, AttemptState.ENDED, exit=code, **started)
        if not ended:
            return
        if code == "lost" and ended.ending is None:
            self._lost(ended, job, "its wrapper was killed")
            return
        then = reconcile.after_end(job, ended, code, said, self.now)
        if code == "stage" and then.state not in OUTCOMES:
            self.memory.holdoff[attempt.node, attempt.batch_id] = (self.now + HOLDOFF, then.reason or "")
            self._again(ended, job, then)
        else:
            self._move_job(job, State.ARCHIVING, started_at=job.started_at or ended.started_at)

    def _lost(self, attempt: Attempt, job: Job | None, why: str) -> None:
        """The attempt cannot come to an end of its own any more."""
        if job is None:
            self._move_attempt(attempt, AttemptState.STALE)
        else:
            self._again(attempt, job, reconcile.after_loss(job, why, self.now))

    def _again(self, attempt: Attempt, job: Job, then: Next) -> None:
        """The attempt's files are dropped unseen; its job goes on as decided."""
        self._move_attempt(attempt, AttemptState.STALE)
        tries, losses = job.tries + then.count_try, job.losses + then.count_loss
        self._move_job(job, then.state, reason=then.reason, tries=tries, losses=losses, not_before=then.not_before)

    def _not_staged(self, item: NotStaged) -> None:
        until = self.now + HOLDOFF
        if attempt := self.attempts.get(item.token):
            self.memory.holdoff[item.node, attempt.batch_id] = (until, item.reason)
            if attempt.state is AttemptState.PLACED:
                self._withdraw(attempt, item.reason)
        elif build := self.builds.get(item.token):
            self.memory.holdoff[item.node, build.batch_id] = (until, item.reason)
            self._move_build(build, BuildState.STALE, reason=item.reason)
            self._withdraw_placed(build, item.reason)

    def _published(self, item: Published) -> None:
        if build := self.builds.get(item.token):
            failed = build.state is BuildState.FAILED and item.last_line is not None
            reason = f"exit {build.exit}: {item.last_line}" if failed else None
            self.change.build_logged(build.id, reason)
            self.builds[build.token] = replace(build, log_kept=True, reason=reason or build.reason)
            return
        attempt = self.attempts.get(item.token)
        if attempt is None or not self._move_attempt(attempt, AttemptState.PUBLISHED):
            return
        if job := self.jobs.get(attempt.job_id):
            then = reconcile.after_end(job, attempt, attempt.exit or "lost", item.last_line, self.now)
            code = int(attempt.exit) if attempt.exit and attempt.exit.isdigit() else None
            fields = {"exit_code": code} if then.state in OUTCOMES else {}
            tries, losses = job.tries + then.count_try, job.losses + then.count_loss
            ended = {"finished_at": attempt.ended_at} if then.state in OUTCOMES else {"not_before": then.not_before}
            self._move_job(job, then.state, reason=then.reason, tries=tries, losses=losses, **fields, **ended)

    def _killed(self, item: Killed) -> None:
        attempt = self.attempts.get(item.token)
        if item.left:
            self.memory.left[item.token] = item.left
            if attempt:
                self.change.note(attempt.job_id, f"{item.left} of its processes on {item.node} would not end")
        elif attempt and attempt.state is AttemptState.STALE:
            self.memory.ended.add(item.token)

    def _note_seen(self) -> None:
        for node in self.live:
            if self.now - self.memory.seen_at.get(node, 0.0) > SEEN_EVERY:
                self.memory.seen_at[node] = self.now
                self.change.node(node, last_seen=self.now)

    def _room_was_made(self, node: str) -> None:
        """Results left the node: what could not take its inputs there, most likely for want of room, need not wait."""
        self.memory.holdoff = {key: value for key, value in self.memory.holdoff.items() if key[0] != node}

    # --- builds ---

    def _obey_build(self, build: Build, found: reconcile.Judgement, boot_id: str, said: str | None) -> None:
        match found.verdict:
            case Verdict.STARTED:
                self._move_build(build, BuildState.RUNNING, boot_id=boot_id)
            case Verdict.ENDED if build.state in (BuildState.STARTING, BuildState.RUNNING):
                assert found.exit is not None
                if found.exit in ("stage", "lost"):
                    reason = f"its inputs could not be put in place: {said}" if found.exit == "stage" else "it was lost"
                    self._not_staged(NotStaged(build.node, build.token, reason))
                    return
                ended = self._move_build(build, BuildState.ENDED, exit=found.exit)
                if ended is None:
                    return
                if found.exit == "0":
                    self._move_build(ended, BuildState.BUILT)
                    self.change.node(build.node, failures=[], probation_until=None)
                else:
                    self._build_failed(ended, f"exit {found.exit}")
            case Verdict.LOST if build.state is not BuildState.STALE:
                self._move_build(build, BuildState.STALE)
                self._withdraw_placed(build, found.reason)
            case Verdict.DROPPED if build.state is BuildState.STALE:
                self._move_build(build, BuildState.WIPED)
            case Verdict.DROPPED if build.state is BuildState.FAILED and not build.log_kept:
                self.change.build_logged(build.id, None)  # somebody tidied up: there is no log to wait for
                self.builds[build.token] = replace(build, log_kept=True)
            case _:
                pass

    def _build_failed(self, build: Build, reason: str) -> None:
        self._move_build(build, BuildState.FAILED, reason=reason)
        self._withdraw_placed(build, None)
        row = self.queue.nodes().get(build.node)
        failures = [*(row.failures if row else ()), build.batch_id][-10:]
        elsewhere = (b for b in self.builds.values() if b.node != build.node)
        built = {b.batch_id for b in elsewhere if b.state is BuildState.BUILT}
        until = reconcile.probation(failures, built, self.now)
        self.change.node(build.node, failures=failures, probation_until=until)

    def _withdraw_placed(self, build: Build, reason: str | None) -> None:
        for attempt in list(self.attempts.values()):
            here = attempt.node == build.node and attempt.batch_token == build.batch_token
            if here and attempt.state is AttemptState.PLACED:
                self._withdraw(attempt, reason)

    # --- what people and time ask for ---

    def _drop_superseded(self) -> None:
        """Attempts whose job is gone, or has another attempt by now, are nobody's any more."""
        for attempt in list(self.attempts.values()):
            job = self.jobs.get(attempt.job_id)
            if job is not None and (job.attempt == attempt.number and job.state not in OUTCOMES | WAITING):
                continue
            if attempt.state is AttemptState.PLACED:
                self._move_attempt(attempt, AttemptState.WIPED)
            elif attempt.state in (AttemptState.STARTING, AttemptState.RUNNING, AttemptState.ENDED):
                self._move_attempt(attempt, AttemptState.STALE)

    def _obey_requests(self) -> None:
        for job in list(self.jobs.values()):
            attempt = self._attempt_of(job)
            if attempt is None:
                continue
            if job.request is Request.KILL:
                if attempt.state is AttemptState.PLACED:
                    self.change.attempt(attempt.id, AttemptState.PLACED, AttemptState.WIPED, self.now)
                    del self.attempts[attempt.token]
                    self._move_job(job, State.KILLED, reason=f"killed by {job.requested_by}")
                elif attempt.ending is None and attempt.state in (AttemptState.STARTING, AttemptState.RUNNING):
                    self._set_ending(attempt, State.KILLED)
            elif attempt.ending is None and (end := self._end_time(attempt, job)) is not None and self.now >= end:
                self._set_ending(attempt, State.TIMEOUT)

    def _end_time(self, attempt: Attempt, job: Job) -> float | None:
        """When the time limit of an attempt is over, where that can be said.

        Not of a node that is silent: it may have been paused from its desk.
        """
        if attempt.state is not AttemptState.RUNNING or job.state is not State.RUNNING or job.time_limit is None:
            return None
        if attempt.started_at is None or attempt.node in self.paused or attempt.node not in self.live:
            return None
        return attempt.started_at + job.time_limit + attempt.paused_seconds

    def _set_ending(self, attempt: Attempt, ending: State) -> None:
        if self.change.attempt_ending(attempt.id, ending):
            self.attempts[attempt.token] = replace(attempt, ending=ending)

    def _give_up_on_silence(self) -> None:
        nodes = self.queue.nodes()
        asked = {entry.name for entry in self.inventory.nodes}  # with jobs on it, also one that gets no more
        for attempt in list(self.attempts.values()):
            if attempt.node in self.live:
                continue
            if attempt.state is AttemptState.PLACED:
                self._withdraw(attempt, None)
                continue
            job, row = self.jobs.get(attempt.job_id), nodes.get(attempt.node)
            if job is None or attempt.state not in (AttemptState.STARTING, AttemptState.RUNNING, AttemptState.ENDED):
                continue
            if attempt.node in asked - self.memory.silent:
                continue  # nobody listened while there was no coordinator: it is to be asked first
            since = (row and (row.unreachable_since or row.last_seen)) or attempt.placed_at
            if reconcile.is_given_up(job.on_node_loss, since, self.inventory.lost_after, self.now):
                why = f"no answer for {format_duration(self.inventory.lost_after)}"
                self._again(attempt, job, reconcile.after_loss(job, why, self.now))

    # --- going on ---

    def _advance(self) -> None:
        """Placed attempts whose build is there and whose inputs are staged start; missing builds are begun."""
        live = {(b.batch_id, b.node): b for b in self.builds.values() if b.state in LIVE_BUILDS}
        # A build that was given up still has its folder, perhaps under the very name a new one would take.
        going = {(b.batch_token, b.node) for b in self.builds.values() if b.state is BuildState.STALE}
        for attempt in list(self.attempts.values()):
            node = self.live.get(attempt.node)
            if attempt.state is not AttemptState.PLACED or node is None:
                continue
            job, batch = self.jobs.get(attempt.job_id), self.batches[attempt.batch_id]
            build = live.get((attempt.batch_id, attempt.node))
            given_up = attempt.batch_token != batch.token or (build and build.state is BuildState.FAILED)
            if job is None or given_up or attempt.node in self.paused:
                self._withdraw(attempt, None)
            elif build is None or build.batch_token != batch.token:
                if build is not None:  # of the batch as it was submitted before
                    self._move_build(build, BuildState.STALE)
                if (batch.token, attempt.node) in going:
                    continue
                token = self.queue.new_token()
                begun = self.change.build_start(batch.id, attempt.node, token, batch.build_hash, self.now)
                if begun is not None:
                    live[begun.batch_id, begun.node] = self.builds[begun.token] = begun
            elif build.state is not BuildState.BUILT:
                if job.state is State.STAGING and build.state is BuildState.RUNNING:
                    self._move_job(job, State.BUILDING)
            elif attempt.token in node.staged:
                # Written down before it is asked for: from here on it may exist on the node.
                self._move_attempt(attempt, AttemptState.STARTING, boot_id=node.boot_id)

    def _place(self) -> None:
        taken = Counter(attempt.node for attempt in self.attempts.values() if attempt.state in TAKEN)
        is_room = any(taken[entry.name] < entry.slots for entry in self.inventory.nodes if entry.name in self.live)
        if not (is_room and self.queue.work(self.now)):
            return  # which is most ticks of a full lab, and of an idle one
        seen = snapshot(
            self.queue, self.inventory, self.now, connected=frozenset(self.live), holdoff=self.memory.holdoff
        )
        wanted: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for placement in place(seen, self.now):
            wanted[placement.batch_id].append((placement.node, placement.slot))
        for batch_id, slots in wanted.items():
            jobs = self.queue.ready_jobs(batch_id, len(slots), self.now)
            for job, (node, slot) in zip(jobs, slots, strict=False):
                placed = self.change.place(job.id, self.queue.new_token(), node, slot, self.now)
                if placed is not None:
                    self.attempts[placed.token] = placed
                    self.jobs[job.id] = replace(job, state=State.STAGING, attempt=placed.number, node=node)

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
            if reason := never_reason(seen.nodes, row.batch.capabilities, row.batch.id):
                self.change.fail_queued(row.batch.id, reason.text, self.now)

    def _finish(self) -> None:
        for batch in list(self.batches.values()):
            if batch.finished_at is None and self.change.finish_batch_if_ended(batch.id, self.now):
                self.batches[batch.id] = replace(batch, finished_at=self.now, recorded_at=None)
        # Stale before its folder goes: a batch submitted again in this moment must not be given a build that leaves.
        for build in list(self.builds.values()):
            if self._is_done_with(build, self.batches[build.batch_id]):
                self._move_build(build, BuildState.STALE)

    # --- result ---

    def _result(self) -> Ticked:
        by_node: dict[str, Work] = {}
        rows = self.queue.nodes()
        needed = frozenset(self._needed())
        busy = {a.batch_token for a in self.attempts.values() if a.state is not AttemptState.WIPED}
        for node in {entry.name for entry in self.inventory.nodes} | set(self.live):
            attempts = [
                Ready(attempt, self.jobs.get(attempt.job_id), self.batches[attempt.batch_id])
                for attempt in self.attempts.values()
                if attempt.node == node
            ]
            builds = [(b, self.batches[b.batch_id]) for b in self.builds.values() if b.node == node]
            clear = [b for b, _ in builds if b.state is BuildState.STALE and b.batch_token not in busy]
            kill = {a.attempt.token for a in attempts if self._is_to_kill(a.attempt)}
            request = rows[node].request if node in rows else None
            ended = frozenset(self.memory.ended)
            by_node[node] = Work(attempts, builds, clear, frozenset(kill), ended, needed, request)
        due = [batch for batch in self.batches.values() if batch.recorded_at is None]
        self.memory.ended &= set(self.attempts)
        return Ticked(by_node, due, self._next_at())

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
        times += leases.ends(self.queue.nodes())
        for attempt in self.attempts.values():
            job = self.jobs.get(attempt.job_id)
            if job and (end := self._end_time(attempt, job)) is not None:
                times.append(end)
        return min((at for at in times if at > self.now), default=None)

    # --- guarded changes, and our copy of the row ---

    def _move_attempt(self, attempt: Attempt, to: AttemptState, **fields: Any) -> Attempt | None:
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

    def _move_build(self, build: Build, to: BuildState, **fields: Any) -> Build | None:
        if not self.change.build(build.id, build.state, to, self.now, **fields):
            return None
        if to is BuildState.WIPED:
            return self.builds.pop(build.token)
        moved = replace(build, state=to, **fields)
        self.builds[build.token] = moved
        return moved

    def _move_job(self, job: Job, to: State, *, reason: str | None = None, **fields: Any) -> None:
        if self.change.job(job.id, job.state, to, self.now, reason=reason, **fields):
            fresh = self.queue.job_by_id(job.id)
            if fresh is None:
                self.jobs.pop(job.id, None)
            else:
                self.jobs[job.id] = fresh

    def _withdraw(self, attempt: Attempt, reason: str | None) -> None:
        if self.change.withdraw(attempt, self.now, reason=reason):
            self.attempts.pop(attempt.token, None)
            self.jobs.pop(attempt.job_id, None)

    def _attempt_of(self, job: Job) -> Attempt | None:
        mine = (a for a in self.attempts.values() if a.job_id == job.id and a.number == job.attempt)
        return next((a for a in mine if a.state is not AttemptState.STALE), None)
