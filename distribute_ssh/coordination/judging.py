"""What is told by the nodes, judged: what becomes of attempts, builds and their jobs by it."""

from __future__ import annotations

from dataclasses import replace

from distribute_ssh.coordination import leases, orphans, owners
from distribute_ssh.coordination.books import Books
from distribute_ssh.coordination.evidence import (
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
    Swept,
    Watched,
)
from distribute_ssh.model.job import OUTCOMES, Attempt, AttemptState, Build, BuildState, Job, State
from distribute_ssh.plan import reconcile
from distribute_ssh.plan.reconcile import Sighting, Verdict

HOLDOFF = 60.0  # seconds a node gets no job of a batch after it could not take its inputs


class Judging:
    """Takes evidence into the books of one tick."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.queue, self.change, self.now = books.queue, books.change, books.now
        self.attempts, self.builds = books.attempts, books.builds
        self.jobs, self.batches = books.jobs, books.batches
        self.live, self.memory = books.live, books.memory

    def take(self, item: Evidence) -> None:
        """Take notice of one thing that happened."""
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
                owners.heed(self.books, item)
                leases.take(self.change, self.queue.nodes().get(item.node), item)
            case Swept():
                orphans.take(self.books, item)
            case Watched():
                owners.take(self.books, item)
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
                    self.books.move_attempt(attempt, AttemptState.WIPED)
                    if attempt.state is AttemptState.PUBLISHED:
                        self._room_was_made(item.node)
            case Cleared():
                if build := self.builds.get(item.token):
                    self.books.move_build(build, BuildState.WIPED)
                    if build.log_kept:
                        self._room_was_made(item.node)

    def _connected(self, item: Connected) -> None:
        if item.node not in self.live:
            return  # gone again already; the next connection looks anew
        before = self.queue.nodes().get(item.node)
        if before is not None and before.boot_id != item.boot_id:
            self.change.node(item.node, lease=None)  # a restart ended it: nobody did
        self.change.node(
            item.node, facts=item.facts.to_json(), boot_id=item.boot_id, last_seen=self.now,
            unreachable_since=None, unreachable_reason=None,
        )  # fmt: skip
        self.memory.seen_at[item.node] = self.now
        self.memory.silent.discard(item.node)
        orphans.find(self.books, item)
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
                if self.books.move_attempt(attempt, AttemptState.RUNNING, boot_id=boot_id) and job:
                    self.books.move_job(job, State.RUNNING, started_at=self.now)
            case Verdict.ENDED:
                assert found.exit is not None
                self._ended(attempt, job, found.exit, said)
            case Verdict.LOST:
                self._lost(attempt, job, found.reason or "it was lost")
            case Verdict.DROPPED:
                self.books.move_attempt(attempt, AttemptState.WIPED)
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
                self.books.move_job(job, State.PAUSED, reason=leases.why_paused(row.lease if row else None))
            return
        if sighting.paused_seconds != attempt.paused_seconds:
            self.change.attempt_paused(attempt.id, sighting.paused_seconds)
            self.attempts[token] = replace(attempt, paused_seconds=sighting.paused_seconds)
        if job.state is State.PAUSED:
            self.books.move_job(job, State.RUNNING)

    def _ended(self, attempt: Attempt, job: Job | None, code: str, said: str | None) -> None:
        if job is None:  # dropped from its batch meanwhile
            self.books.move_attempt(attempt, AttemptState.STALE)
            return
        seconds = max(0.0, self.now - (attempt.started_at or self.now) - attempt.paused_seconds)
        self.change.add_usage(self.batches[attempt.batch_id].submitter, seconds, self.now)
        started = {} if attempt.started_at else {"started_at": self.now}
        ended = self.books.move_attempt(attempt, AttemptState.ENDED, exit=code, **started)
        if not ended:
            return
        if code == "lost" and ended.ending is None:
            self._lost(ended, job, "its wrapper was killed")
            return
        then = reconcile.after_end(job, ended, code, said, self.now)
        if code == "stage" and then.state not in OUTCOMES:
            self.memory.holdoff[attempt.node, attempt.batch_id] = (self.now + HOLDOFF, then.reason or "")
            self.books.again(ended, job, then)
        else:
            self.books.move_job(job, State.ARCHIVING, started_at=job.started_at or ended.started_at)

    def _lost(self, attempt: Attempt, job: Job | None, why: str) -> None:
        """The attempt cannot come to an end of its own any more."""
        if job is None:
            self.books.move_attempt(attempt, AttemptState.STALE)
        else:
            self.books.again(attempt, job, reconcile.after_loss(job, why, self.now))

    def _not_staged(self, item: NotStaged) -> None:
        until = self.now + HOLDOFF
        if attempt := self.attempts.get(item.token):
            self.memory.holdoff[item.node, attempt.batch_id] = (until, item.reason)
            if attempt.state is AttemptState.PLACED:
                self.books.withdraw(attempt, item.reason)
        elif build := self.builds.get(item.token):
            self.memory.holdoff[item.node, build.batch_id] = (until, item.reason)
            self.books.move_build(build, BuildState.STALE, reason=item.reason)
            self.books.withdraw_placed(build, item.reason)

    def _published(self, item: Published) -> None:
        if build := self.builds.get(item.token):
            failed = build.state is BuildState.FAILED and item.last_line is not None
            reason = f"exit {build.exit}: {item.last_line}" if failed else None
            self.change.build_logged(build.id, reason)
            self.builds[build.token] = replace(build, log_kept=True, reason=reason or build.reason)
            return
        attempt = self.attempts.get(item.token)
        if attempt is None or not self.books.move_attempt(attempt, AttemptState.PUBLISHED):
            return
        if job := self.jobs.get(attempt.job_id):
            then = reconcile.after_end(job, attempt, attempt.exit or "lost", item.last_line, self.now)
            code = int(attempt.exit) if attempt.exit and attempt.exit.isdigit() else None
            fields = {"exit_code": code} if then.state in OUTCOMES else {}
            tries, losses = job.tries + then.count_try, job.losses + then.count_loss
            ended = {"finished_at": attempt.ended_at} if then.state in OUTCOMES else {"not_before": then.not_before}
            self.books.move_job(job, then.state, reason=then.reason, tries=tries, losses=losses, **fields, **ended)

    def _killed(self, item: Killed) -> None:
        attempt = self.attempts.get(item.token)
        if item.left:
            if attempt:
                self.change.note(attempt.job_id, f"{item.left} of its processes on {item.node} would not end")
        elif attempt and attempt.state is AttemptState.STALE:
            self.memory.ended.add(item.token)

    def _room_was_made(self, node: str) -> None:
        """Results left the node: what could not take its inputs there, most likely for want of room, need not wait."""
        self.memory.holdoff = {key: value for key, value in self.memory.holdoff.items() if key[0] != node}

    # --- builds ---

    def _obey_build(self, build: Build, found: reconcile.Judgement, boot_id: str, said: str | None) -> None:
        match found.verdict:
            case Verdict.STARTED:
                self.books.move_build(build, BuildState.RUNNING, boot_id=boot_id)
            case Verdict.ENDED if build.state in (BuildState.STARTING, BuildState.RUNNING):
                assert found.exit is not None
                if found.exit in ("stage", "lost"):
                    reason = f"its inputs could not be put in place: {said}" if found.exit == "stage" else "it was lost"
                    self._not_staged(NotStaged(build.node, build.token, reason))
                    return
                ended = self.books.move_build(build, BuildState.ENDED, exit=found.exit)
                if ended is None:
                    return
                if found.exit == "0":
                    self.books.move_build(ended, BuildState.BUILT)
                    self.change.node(build.node, failures=[], probation_until=None)
                else:
                    self._build_failed(ended, f"exit {found.exit}")
            case Verdict.LOST if build.state is not BuildState.STALE:
                self.books.move_build(build, BuildState.STALE)
                self.books.withdraw_placed(build, found.reason)
            case Verdict.DROPPED if build.state is BuildState.STALE:
                self.books.move_build(build, BuildState.WIPED)
            case Verdict.DROPPED if build.state is BuildState.FAILED and not build.log_kept:
                self.change.build_logged(build.id, None)  # somebody tidied up: there is no log to wait for
                self.builds[build.token] = replace(build, log_kept=True)
            case _:
                pass

    def _build_failed(self, build: Build, reason: str) -> None:
        self.books.move_build(build, BuildState.FAILED, reason=reason)
        self.books.withdraw_placed(build, None)
        row = self.queue.nodes().get(build.node)
        failures = [*(row.failures if row else ()), build.batch_id][-10:]
        elsewhere = (b for b in self.builds.values() if b.node != build.node)
        built = {b.batch_id for b in elsewhere if b.state is BuildState.BUILT}
        until = reconcile.probation(failures, built, self.now)
        self.change.node(build.node, failures=failures, probation_until=until)
