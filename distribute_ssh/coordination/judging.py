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
    NotReady,
    NotStaged,
    Published,
    Seen,
    Staged,
    Swept,
    Watched,
)
from distribute_ssh.model.job import OUTCOMES, Attempt, AttemptState, Build, BuildState, Job, State
from distribute_ssh.node import probe
from distribute_ssh.plan import reconcile
from distribute_ssh.plan.readiness import FIRST_PAUSE, GPU_PAUSE, pause
from distribute_ssh.plan.reconcile import Sighting, Verdict
from distribute_ssh.plan.room import portion

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
            case NotReady():
                self._not_ready(item)
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
        for token in orphans.claimed(item):
            if orphans.adopt(self.books, item, token):
                self._judge(token, item.sightings[token], item.node, None)
        orphans.find(self.books, item)
        if all(entry.name in self.memory.seen_at for entry in self.books.inventory.nodes if entry.enabled):
            self.change.free_brought_back()  # no node is at any of them that was not taken up again
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
            self._heed_queue(attempt, sighting)
            attempt = self.attempts.get(token, attempt)
            self._obey_attempt(attempt, found, boot_id, said)
            self._follow_lease(token, sighting)
        elif build := self.builds.get(token):
            found = self._found(token, build.state, build.boot_id, sighting, boot_id)
            if sighting is None or sighting.note is None or not self._heed_queue_of_build(build, sighting, found):
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

    def _heed_queue(self, attempt: Attempt, sighting: Sighting | None) -> None:
        """A node may have a queue of its own, Slurm's: why an attempt waits in it, and that somebody ended it there."""
        job = self.jobs.get(attempt.job_id)
        if sighting is None or job is None or job.attempt != attempt.number:
            return
        if attempt.state not in (AttemptState.STARTING, AttemptState.RUNNING):
            return
        if sighting.ending is not None and attempt.ending is None:
            self.books.set_ending(attempt, sighting.ending)
        if sighting.note is not None and job.reason != sighting.note:
            self.change.note(job.id, sighting.note)

    def _heed_queue_of_build(self, build: Build, sighting: Sighting, found: reconcile.Judgement) -> bool:
        """Likewise of a build, of which there is no record; whether that is all there is to say of it."""
        if build.state not in (BuildState.STARTING, BuildState.RUNNING):
            return False
        if sighting.ending is not None:
            if ended := self.books.move_build(build, BuildState.ENDED, exit=reconcile.GONE):
                self._build_failed(ended, sighting.note or "it was ended")
        elif found.verdict is Verdict.LOST:  # not at once again: what is wrong there may be so for long
            self._not_staged(NotStaged(build.node, build.token, found.reason or "it was lost"))
        else:
            return False
        return True

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
        self.change.add_usage(self.batches[attempt.batch_id].submitter, seconds * self._portion(attempt), self.now)
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

    def _portion(self, attempt: Attempt) -> float:
        """Which part of its node an attempt had."""
        entry = next((entry for entry in self.books.inventory.nodes if entry.name == attempt.node), None)
        row = self.queue.nodes().get(attempt.node)
        if attempt.share is None or entry is None or row is None:
            return 1.0
        offer = probe.merge(entry, probe.Facts.from_json(row.facts))
        return portion(attempt.share, offer.cores, offer.memory_mb or 0, len(offer.gpus))

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
            else:  # its start is asked for again
                self.change.note(attempt.job_id, item.reason)
        elif build := self.builds.get(item.token):
            self.memory.holdoff[item.node, build.batch_id] = (until, item.reason)
            self.books.move_build(build, BuildState.STALE, reason=item.reason)
            self.books.withdraw_placed(build, item.reason)

    def _not_ready(self, item: NotReady) -> None:
        """What was promised is not there: others have it, or it broke. The job waits again, or goes elsewhere."""
        if item.used or item.gone:
            self._note_gpus(item)
        attempt = self.attempts.get(item.token)
        if attempt is None:
            return
        if attempt.share is None or (item.used.keys() | item.gone.keys()).isdisjoint(attempt.share.gpus):
            # A GPU that is taken is given to nobody for a while; anything else keeps the whole batch away.
            until = self.now + self._pause(item.node, attempt.batch_id, FIRST_PAUSE)
            self.memory.holdoff[item.node, attempt.batch_id] = (until, item.reason)
        if attempt.state is AttemptState.PLACED:
            self.books.withdraw(attempt, f"{item.node}: {item.reason}")

    def _note_gpus(self, item: NotReady) -> None:
        """Write down, with what was found on the node, which of its GPUs others hold and which are gone."""
        row = self.queue.nodes().get(item.node)
        if row is None or not row.facts:
            return
        facts = probe.Facts.from_json(row.facts)
        broken = {f"GPU {index}": f"does not answer any more ({what})" for index, what in item.gone.items()}
        gpus = []
        for gpu in facts.gpus:
            who = item.used.get(gpu.index)
            if who is not None and gpu.used_until <= self.now:
                until = self.now + self._pause(item.node, f"GPU {gpu.index}", GPU_PAUSE)
                gpus.append(replace(gpu, used_by=who, used_until=until))
            elif gpu.index not in item.gone:
                gpus.append(gpu)
        facts = replace(facts, gpus=tuple(gpus), broken={**facts.broken, **broken})
        self.change.node(item.node, facts=facts.to_json())

    def _pause(self, node: str, what: int | str, first: float) -> float:
        length = pause(self.memory.pauses.get((node, what)), self.now, first)
        self.memory.pauses[node, what] = (self.now + length, length)
        return length

    def _published(self, item: Published) -> None:
        if build := self.builds.get(item.token):
            failed = build.state is BuildState.FAILED and item.last_line is not None
            reason = f"{build.reason or f'exit {build.exit}'}: {item.last_line}" if failed else None
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
                    how = "Slurm refused it" if found.exit == reconcile.REFUSED else f"exit {found.exit}"
                    self._build_failed(ended, how)
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
