"""Following one batch to its end: looking at it in the queue, and showing it, on a terminal or line by line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

from distribute_ssh.cli.app import App, columns, has_colour
from distribute_ssh.cli.drive import Stopped, drive
from distribute_ssh.coordination.coordinator import Coordinator
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.errors import NoNodeError
from distribute_ssh.model.job import OUTCOMES, Batch, State
from distribute_ssh.plan.eligible import Code, never_reason
from distribute_ssh.plan.schedule import explain
from distribute_ssh.store.rows import HistoryRow
from distribute_ssh.store.submission import Submitted
from distribute_ssh.views import progress
from distribute_ssh.views.batches import eta, pause_reason
from distribute_ssh.views.document import document, error_document
from distribute_ssh.views.progress import Moving, Passage, Picture

if TYPE_CHECKING:
    from rich.live import Live

HISTORY = 256  # lines of history asked for at first; more where that many happened between two looks
SHOWN_NODES = 3  # that say why they take nothing; `explain` shows all
WIDEST = 40  # one long name should not push the states of all others to the right
QUIET = 60.0  # seconds without a line after which a pipe is told how far things are


class Watch:
    """Looks at one batch again and again; each look costs by what changed, not by the size of the batch."""

    def __init__(self, app: App, batch: Batch) -> None:
        self.batch = batch
        self.hopeless: str | None = None  # why no node can ever run it
        self._app = app
        self._queue = app.queue
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
        return now.recorded_at is not None and (self._app.is_driven or not self._is_held(now.id))

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
        pauses = self._app.pauses(now)
        mine = [replace(job, reason=pause_reason(job.state, job.node, pauses, now) or job.reason) for job in mine]
        active = progress.active_of(mine, self._app.silent_nodes())
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
            waits=waits or (coordinator.storage_trouble if coordinator else None),
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
        seen = snapshot(self._queue, self._app.nodes, now)
        work = next((work for work in seen.work if work.batch_id == self.batch.id), None)
        if work is not None and (never := never_reason(seen.nodes, work.capabilities, self.batch.id)):
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
            found.append(Passage(row.at, row.job or "", row.after, job.node if job else None, row.reason, took))
        return found

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


class View(Protocol):
    """Where pictures go, inside a `with`."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End; a terminal is as it was."""

    def show(self, picture: Picture) -> None:
        """Show how far it is."""


def view_for(app: App, wide: int) -> View:
    """A view that moves for a terminal, lines for a pipe, nothing with `-q`; `wide`: the longest job's name."""
    if app.quiet:
        return Silent()
    moves = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not app.debug
    return Moves() if moves else Lines(app, wide)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, picture: Picture) -> None:
        """Nothing."""


class Lines:
    """A line for every job that came into another state, and now and then one for the whole."""

    def __init__(self, app: App, wide: int) -> None:
        self._app = app
        self._wide = min(wide, WIDEST)
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, picture: Picture) -> None:
        """Print what is new."""
        lines = [progress.passage_line(passage, self._wide) for passage in picture.passages]
        if not lines and time.monotonic() - self._said > QUIET:
            lines.append(f"{picture.name}: {progress.counts_line(picture.counts)}")
            lines += [f"waits: {picture.waits}"] if picture.waits else []
            lines += [str(each) for each in picture.moving]
        if lines:
            self._said = time.monotonic()
            self._app.say("\n".join(lines))


class Moves:
    """A view that moves, below the failures, which stay."""

    def __init__(self) -> None:
        from rich.console import Console

        colours = has_colour(sys.stderr, os.environ)
        self._console = Console(
            stderr=True, no_color=not colours, width=columns(sys.stderr), highlight=False, soft_wrap=False
        )
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, picture: Picture) -> None:
        """Draw it anew."""
        from distribute_ssh.views.live import failure, live

        assert self._live is not None
        for passage in picture.passages:
            if (told := failure(passage)) is not None:
                self._console.print(told)
        self._live.update(live(picture, self._console.width, self._console.height), refresh=True)


def follow(
    app: App,
    batch: Batch,
    again: str,
    wide: int,
    submitted: Submitted | None = None,
    then: Callable[[], dict[str, Any]] = dict,
) -> int:
    """Follow a batch to its end, driving the queue where nobody does; returns the exit code.

    `again`: the command that comes back to it; `wide`: its longest job's name; `then`: done at the end, what it returns
    is told with the rest. Raises NoNodeError.
    """
    watch = Watch(app, batch)
    try:
        with view_for(app, wide) as view:
            drive(app, watch.is_over, lambda coordinator: view.show(watch.look(coordinator)))
    except Stopped as stopped:
        return _stopped(app, watch, again, stopped)
    if watch.batch.finished_at is None:
        assert watch.hopeless is not None
        hint = f"it stays in the queue until a node can; `distribute kill {batch.name}` takes it out"
        raise NoNodeError(f"{batch.name} can run nowhere: {watch.hopeless}", hint=hint)
    (ended,) = app.queue.status(watch.batch.name)["batches"]
    results = f"{app.nodes.storage.rstrip('/')}/{watch.batch.name}"
    told = {} if submitted is None else {"submitted": asdict(submitted)}
    more = then()
    content = document(**told, batch=ended, results=results, **more)
    app.answer(content, lambda: progress.summary(ended, results), [watch.batch.name])
    is_short = bool(more.get("pull") and more["pull"]["problems"])
    return 0 if _is_all_done(ended) and not is_short else 1


def _is_all_done(batch: dict[str, Any]) -> bool:
    return all(state == State.DONE or not number for state, number in batch["counts"].items())


def _stopped(app: App, watch: Watch, again: str, stopped: Stopped) -> int:
    running = [job.job for job in watch.look(None).active]
    told = progress.left(watch.batch.name, running, again, driven=app.is_driven)
    app.warn(told)
    content = error_document("interrupted", f"{watch.batch.name} stays in the queue", again)
    if app.json:
        app.answer(content, str)
    return stopped.exit_code
