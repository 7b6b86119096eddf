"""Looking at one batch in the queue again and again, until it is over or can never be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from distribute_ssh.coordination.coordinator import Coordinator
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.model.job import OUTCOMES, Batch
from distribute_ssh.plan.eligible import Code, never_reason
from distribute_ssh.plan.schedule import explain
from distribute_ssh.store.rows import HistoryRow
from distribute_ssh.views import progress
from distribute_ssh.views.batches import eta, pause_reason
from distribute_ssh.views.progress import Moving, Passage, Picture
from distribute_ssh.workplace import Workplace

HISTORY = 256  # lines of history asked for at first; more where that many happened between two looks
SHOWN_NODES = 3  # that say why they take nothing; `explain` shows all


class Watch:
    """Looks at one batch again and again; each look costs by what changed, not by the size of the batch."""

    def __init__(self, place: Workplace, batch: Batch) -> None:
        self.batch = batch
        self.hopeless: str | None = None  # why no node can ever run it
        self._place = place
        self._queue = place.queue
        self._version = -1
        self._last: HistoryRow | None = next(iter(self._queue.history(batch.id, limit=1)), None)
        self._picture: Picture | None = None
        self._began = time.time()

    def is_over(self, coordinator: Coordinator | None) -> bool:
        """Whether the batch has ended and its record is in storage; also True once it turns out to be hopeless."""
        now = self._queue.batch_by_id(self.batch.id)
        assert now is not None, "batches stay in the queue"
        self.batch = now
        if now.finished_at is None:
            return self.hopeless is not None
        if coordinator:
            return coordinator.is_settled(now.id)
        # Where nobody drives, what a killed coordinator left on nodes (a build's log, the wipe) is for us to do.
        return now.recorded_at is not None and (self._place.is_driven or not self._is_held(now.id))

    def _is_held(self, batch_id: int) -> bool:
        held = {attempt.batch_id for attempt in self._queue.live_attempts()}
        return batch_id in held | {build.batch_id for build in self._queue.live_builds()}

    def look(self, coordinator: Coordinator | None) -> Picture:
        """How far the batch is now, with what happened since the last look."""
        version, now = self._queue.data_version(), time.time()
        moving = _moving(coordinator)
        if version == self._version and self._picture is not None:
            return self._again(self._picture, now, moving)
        self._version = version
        counts, listed = self._counts()
        mine = [job for job in self._queue.active_jobs() if job.batch_id == self.batch.id]
        pauses = self._place.pauses(now)
        mine = [
            replace(job, reason=pause_reason(job.state, job.node, pauses, now) or self._shown(job.reason))
            for job in mine
        ]
        active = progress.active_of(mine, self._place.silent_nodes())
        waits = self._why_waiting(now) if progress.is_waiting_only(counts) else None
        elapsed = [now - job.since if job.since else 0.0 for job in active]
        self._picture = Picture(
            name=self.batch.name,
            now=now,
            began=self._began,
            counts=counts,
            active=active,
            moving=moving,
            eta=eta(listed, elapsed) if active else None,
            waits=self._shown(waits) or (coordinator.storage_trouble if coordinator else None),
            passages=self._passages(),
        )
        return self._picture

    def _again(self, picture: Picture, now: float, moving: list[Moving]) -> Picture:
        return Picture(
            picture.name, now, picture.began, picture.counts, picture.active, moving, picture.eta, picture.waits
        )

    def _counts(self) -> tuple[Mapping[str, int], Mapping[str, object]]:
        for listed in self._queue.status()["batches"]:
            if (listed["namespace"], listed["batch"]) == (self.batch.namespace, self.batch.batch):
                return listed["counts"], listed
        return {}, {"counts": {}}

    def _why_waiting(self, now: float) -> str | None:
        seen = snapshot(self._queue, self._place.nodes, now)
        work = next((work for work in seen.work if work.batch_id == self.batch.id), None)
        if work and (never := never_reason(seen.nodes, work.capabilities, self.batch.id, work.resources)):
            # A build that failed everywhere ends the jobs by itself; what nobody has would be waited for in vain.
            self.hopeless = never.text if never.code is Code.NO_NODE else None
        reasons = explain(seen, self.batch.id, now)
        if not reasons:
            return None
        nodes = [f"{reason.node} {reason.text}" for reason in reasons if reason.node is not None][:SHOWN_NODES]
        return "; ".join([reasons[0].text, *nodes])

    def _passages(self) -> list[Passage]:
        rows = [row for row in self._new_rows() if row.after is not None and row.job_id is not None]
        latest = {row.job_id: row for row in rows}  # a job that came far between two looks is one line, its last
        jobs = {job.id: job for job in self._queue.jobs_by_id([key for key in latest if key is not None])}
        found = []
        for row in latest.values():
            job = jobs.get(row.job_id or 0)
            took = None
            if row.after in OUTCOMES and job and job.started_at and job.finished_at:
                took = job.finished_at - job.started_at
            assert row.after is not None
            reason = self._shown(row.reason)
            found.append(Passage(row.at, row.job or "", row.after, job.node if job else None, reason, took))
        return found

    def _shown(self, reason: str | None) -> str | None:
        return self._place.shown(self.batch, reason)

    def _new_rows(self) -> list[HistoryRow]:
        limit = HISTORY
        while True:
            rows = self._queue.history(self.batch.id, limit=limit)
            if self._last in rows:
                fresh = rows[len(rows) - rows[::-1].index(self._last) :]
            elif len(rows) == limit:
                limit *= 4
                continue
            else:
                fresh = rows
            self._last = rows[-1] if rows else None
            return fresh


def _moving(coordinator: Coordinator | None) -> list[Moving]:
    if coordinator is None:
        return []
    return [Moving(t.node, t.what, t.done, t.total, t.rate) for t in list(coordinator.transfers.values())]
