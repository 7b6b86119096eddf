"""What is done on one node while it is connected, lane by lane: side by side, and within one lane in order.

A connection's lanes compare the `Work` they are given after every tick with what they did already. They are made anew
with every connection: what a lost line left half done is seen from the queue and from the node's own folders.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shlex
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from distribute_ssh.coordination.evidence import (
    Cleared,
    Dropped,
    Killed,
    NotPublished,
    NotStaged,
    Published,
    Seen,
    Staged,
)
from distribute_ssh.coordination.orphans import clear_unknown, sweep
from distribute_ssh.coordination.pausing import Pausing
from distribute_ssh.coordination.readying import Readying
from distribute_ssh.coordination.work import Hub, Ready, Transfer, Work
from distribute_ssh.errors import NodeError, StorageError, UnreachableError
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import AttemptState, Batch, Build, BuildState, Input
from distribute_ssh.model.layout import attempt_folder
from distribute_ssh.model.lease import NodeRequest
from distribute_ssh.node import probe, wire
from distribute_ssh.node.given import given
from distribute_ssh.node.process import Room
from distribute_ssh.node.script import Scripts
from distribute_ssh.plan.reconcile import REFUSED, STAGE, Sighting
from distribute_ssh.storage.archive import Parcel, archive
from distribute_ssh.storage.publish import discard
from distribute_ssh.storage.record import build_parcel, job_parcel

log = logging.getLogger(__name__)

POLL = 2.0  # seconds between looks at what runs: events wake us early, the poll makes it certain
POLL_IDLE = 10.0  # where nothing runs
POLL_ADOPTED = 0.25  # attempts of an earlier channel cannot push their end to this one
GROUP = 64  # attempts that share one listing and one stream
GATHER = 0.2  # seconds an ended attempt waits for others to go to storage with it, while more run on the node
STORAGE_RESERVE = 64 << 20  # bytes that stay free in storage
RETRY, LONGEST_RETRY = 2.0, 60.0  # seconds until storage that was full or away is tried again; doubled each time

Lane = tuple[Callable[[], list[Any]], Callable[[list[Any]], Awaitable[None]]]
"""What is due, and the verb that does it."""


class Lanes:
    """On one connection. `run` never returns: it raises NodeError when something breaks."""

    def __init__(self, entry: NodeEntry, hub: Hub, room: Room, facts: probe.Facts, pausing: Pausing) -> None:
        self.name = entry.name
        self.room = room
        self.staged: set[str] = set()
        self._entry = entry
        self._hub = hub
        self._facts = facts
        self._offer = probe.merge(entry, facts)
        self._scripts = Scripts(entry, facts, room.channel.root)
        self._readying = Readying(entry, hub.queue_id, room, self._offer)
        self._pausing = pausing
        self._work = Work()  # until what is there was judged
        self._begun: dict[tuple[str, str], float] = {}  # (verb, token) -> when it may be tried again
        self._retry = RETRY
        self._mine: set[str] = set()  # started on this channel: their events come here
        self._to_look: set[str] = set()
        self._started: set[str] = set()  # said to have started; to be looked at, but not at once
        self._wakers: list[asyncio.Event] = []
        self._busy = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way here, or due, that could change anything."""
        return self._busy == 0 and not any(due() for due, _ in self._lanes())

    def give(self, work: Work) -> None:
        """Take notice of what the queue holds now."""
        self._work = work
        live = work.tokens | work.orphans.keys()
        self._begun = {key: at for key, at in self._begun.items() if key[1] in live}
        self.staged &= live
        self._readying.forget(live)
        self._mine &= live
        self._wake()

    async def run(self) -> None:
        """Do what is due, and look at what runs, until something breaks."""
        with self._hub.spreading.joined(self._entry, self.room, lambda: self._pausing.is_paused):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._poll(), name=f"poll {self.name}")
                for due, act in self._lanes():
                    group.create_task(self._lane(due, act), name=f"{act.__name__} on {self.name}")

    def heard(self, event: wire.Event) -> None:
        """Take notice of an event: a hint, the record is looked at."""
        if event.kind == "resumed":
            self._pausing.heard(None)  # where that is not so, the look says so
            self._to_look |= self._running()
        elif event.kind == "started":
            self._started.add(event.token)  # the next poll sees it, unless it ended by then, which saves a look
            return
        else:
            self._to_look.add(event.token)
        self._wake()

    def _lanes(self) -> list[Lane]:
        return [
            (self._pausing.due, self._obey),
            (self._stage_due, self._stage),
            (self._ready_due, self._ready),
            (self._start_due, self._start),
            (self._look_due, self._look),
            (self._warn_due, self._warn),
            (self._kill_due, self._kill),
            (self._archive_due, self._archive),
            (self._drop_due, self._drop),
            (self._clear_due, self._clear),
            (self._sweep_due, self._sweep),
        ]

    async def _lane(self, due: Callable[[], list[Any]], act: Callable[[list[Any]], Awaitable[None]]) -> None:
        waker = asyncio.Event()
        self._wakers.append(waker)
        while True:
            if not (items := due()):
                waker.clear()
                await waker.wait()
                continue
            self._busy += 1
            try:
                await act(items)
            finally:
                self._busy -= 1

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()

    def _is_due(self, verb: str, token: str) -> bool:
        return self._begun.get((verb, token), 0.0) <= time.monotonic()

    def _begin(self, verb: str, tokens: Iterable[str]) -> None:
        for token in tokens:
            self._begun[verb, token] = float("inf")

    def _again(self, verb: str, tokens: Iterable[str]) -> None:
        """Let it be tried again after a while: full disks and broken storage are mended by people."""
        for token in tokens:
            self._begun[verb, token] = time.monotonic() + self._retry
        self._retry = min(self._retry * 2, LONGEST_RETRY)

    async def _poll(self) -> None:
        looked = asked = time.monotonic()
        while True:
            await asyncio.sleep(POLL_ADOPTED)
            running, now = self._running(), time.monotonic()
            soon = ((running - self._mine) | self._started) & running if self.room.pushes else set()
            self._started.clear()
            if running and now - looked > POLL:
                looked, soon = now, running
            if soon:
                asked = now
                self._to_look |= soon
                self._wake()
            elif now - asked > POLL_IDLE:  # somebody at its desk may have paused it
                asked = now
                self._pausing.heard((await self.room.look(()))[1])

    def _running(self) -> set[str]:
        attempts = (AttemptState.STARTING, AttemptState.RUNNING)
        builds = (BuildState.STARTING, BuildState.RUNNING)
        return {ready.attempt.token for ready in self._work.attempts if ready.attempt.state in attempts} | {
            build.token for build, _ in self._work.builds if build.state in builds
        }

    def _transfer(self, what: str) -> Callable[[int, int], None]:
        transfer = Transfer(self.name, what)

        def progress(done: int, total: int) -> None:
            transfer.done, transfer.total = done, total
            self._hub.transfers[f"{self.name} {what}"] = transfer

        return progress

    # pause, resume

    async def _obey(self, requests: list[NodeRequest]) -> None:
        for request in requests:
            await self._pausing.carry_out(self.room.channel, request)
        self._to_look |= self._running()
        self._wake()

    # stage

    def _stage_due(self) -> list[tuple[str, tuple[Input, ...]]]:
        due: list[tuple[str, tuple[Input, ...]]] = [
            (build.token, (*batch.init, batch.script))
            for build, batch in self._work.builds
            if build.state is BuildState.STARTING and self._is_due("stage", build.token)
        ]
        for ready in self._work.attempts:
            if ready.attempt.state is AttemptState.PLACED and self._is_due("stage", ready.attempt.token):
                job = ready.job
                due.append((ready.attempt.token, (*job.inputs, *((job.script,) if job.script else ())) if job else ()))
        return due

    async def _stage(self, items: list[tuple[str, tuple[Input, ...]]]) -> None:
        tokens = [token for token, _ in items]
        self._begin("stage", tokens)
        # All of them in one stream: a hundred jobs with a small input each cost one round trip.
        inputs = {item.sha256: item for _, each in items for item in each}
        try:
            await self.room.stage(
                inputs.values(),
                self._hub.spool_path,
                keep=self._work.needed,
                progress=self._transfer("inputs"),
                bring=functools.partial(self._hub.spreading.bring, self.name),
            )
        except UnreachableError:
            raise
        except NodeError as error:
            if len(items) > 1:  # one that has no room must not keep out those beside it, who may be of somebody else
                for item in items:
                    await self._stage([item])
                return
            for token in tokens:
                self._hub.tell(NotStaged(self.name, token, error.message))
            return
        finally:
            self._hub.transfers.pop(f"{self.name} inputs", None)
        # What somebody does at the login machine of a cluster takes nothing from jobs.
        attempts = self._work.attempts if self._entry.cluster is None else ()
        looked_at = {ready.attempt.token for ready in attempts if self._readying.needs_look(ready)}
        for token in tokens:
            if token in looked_at:
                self._readying.arrived(token)
            else:
                self._pass(Staged(self.name, token))
        self._wake()  # a build that is staged starts now

    def _pass(self, told: Staged) -> None:
        self.staged.add(told.token)
        self._hub.tell(told)

    # ready

    def _ready_due(self) -> list[Ready]:
        return [each for each in self._readying.due(self._work) if self._is_due("ready", each.attempt.token)]

    async def _ready(self, items: list[Ready]) -> None:
        self._begin("ready", (ready.attempt.token for ready in items))
        for told in await self._readying.look(items, self._work, self.staged):
            if isinstance(told, Staged):
                self._pass(told)
            else:
                self._hub.tell(told)

    # start

    def _start_due(self) -> list[tuple[str, Callable[[], str]]]:
        due: list[tuple[str, Callable[[], str]]] = [
            (build.token, functools.partial(self._build_script, build, batch))
            for build, batch in self._work.builds
            if build.state is BuildState.STARTING and build.token in self.staged and self._is_due("start", build.token)
        ]
        for ready in self._work.attempts:
            token = ready.attempt.token
            starting = ready.attempt.state is AttemptState.STARTING and token not in self._work.kill
            if starting and self._is_due("start", token):
                due.append((token, functools.partial(self._job_script, ready)))
        return due

    async def _start(self, items: list[tuple[str, Callable[[], str]]]) -> None:
        tokens = [token for token, _ in items]
        self._begin("start", tokens)
        self._mine.update(tokens)
        failed = await self.room.start_all({token: script() for token, script in items})
        for token, error in failed.items():
            self._hub.tell(NotStaged(self.name, token, error.message))
        if failed:
            self._again("start", failed)

    def _build_script(self, build: Build, batch: Batch) -> str:
        jobs = [ready.job for ready in self._work.attempts if ready.batch.id == batch.id and ready.job is not None]
        cores = self.room.build_cores(jobs, self._offer.cores)
        script = self._scripts.build(build, batch, cores=cores, shared=batch.id in self._work.shared)
        return self.room.dressed_build(script, jobs)

    def _job_script(self, ready: Ready) -> str:
        attempt, job, batch = ready.attempt, ready.job, ready.batch
        assert job is not None, "an attempt without its job is stale"
        has_gpu = "gpu" in batch.capabilities
        part = given(
            attempt.share, self._offer, found=len(self._facts.gpus), has_gpu=has_gpu,
            foreign=self._readying.kept_back(attempt.token),
        )  # fmt: skip
        part = self.room.part(job, part)
        return self.room.dressed(self._scripts.job(attempt, job, batch, part), job, part)

    # look

    def _look_due(self) -> list[str]:
        return sorted(self._to_look)

    async def _look(self, tokens: list[str]) -> None:
        self._to_look.difference_update(tokens)
        found: dict[str, Sighting | None] = {}
        for start in range(0, len(tokens), GROUP):
            looked, lease = await self.room.look(tokens[start : start + GROUP])
            found |= looked
            self._pausing.heard(lease)
        said = {}
        for token, sighting in found.items():
            if sighting is not None and sighting.exit in (STAGE, REFUSED):
                self.room.forget_blobs()
                said[token] = await self._last_line(token)
        self._hub.tell(Seen(self.name, found, said))

    async def _last_line(self, token: str) -> str:
        output = f"{shlex.quote(self.room.channel.root)}/{attempt_folder(token)}/output"
        lines = (await self.room.link.run(f"tail -c 400 {output}")).stdout.decode(errors="replace").strip().splitlines()
        return "".join(c for c in lines[-1] if c.isprintable())[:200] if lines else ""

    # warn

    def _warn_due(self) -> list[tuple[str, str]]:
        return [(token, signal) for token, signal in self._work.warn.items() if self._is_due("warn", token)]

    async def _warn(self, items: list[tuple[str, str]]) -> None:
        self._begin("warn", (token for token, _ in items))
        for token, signal in items:
            await self.room.warn(token, signal)

    # kill

    def _kill_due(self) -> list[str]:
        return [token for token in self._work.kill if self._is_due("kill", token)]

    async def _kill(self, tokens: list[str]) -> None:
        self._begin("kill", tokens)

        async def end(token: str) -> None:
            left = await self.room.kill(token)
            self._hub.tell(Killed(self.name, token, left))
            if left:
                self._again("kill", [token])
            self._to_look.add(token)
            self._wake()

        async with asyncio.TaskGroup() as group:
            for token in tokens:
                group.create_task(end(token), name=f"kill {token} on {self.name}")

    # archive

    def _archive_due(self) -> list[Callable[[], Parcel]]:
        due: list[Callable[[], Parcel]] = []
        for ready in self._work.attempts:
            ended = ready.attempt.state is AttemptState.ENDED
            if ended and ready.job and self._is_due("archive", ready.attempt.token):
                due.append(functools.partial(job_parcel, ready.attempt, ready.job, ready.batch, self._facts))
        for build, batch in self._work.builds:
            ended = build.state in (BuildState.BUILT, BuildState.FAILED) and not build.log_kept
            if ended and self._is_due("archive", build.token):
                due.append(functools.partial(build_parcel, build, batch))
        return due[:GROUP]

    async def _archive(self, items: list[Callable[[], Parcel]]) -> None:
        if len(items) < GROUP and self._running():
            # Short jobs end one by one: a moment later there are more of them for the same round trips.
            await asyncio.sleep(GATHER)
            items = self._archive_due()
        parcels = [make() for make in items]
        self._begin("archive", (parcel.token for parcel in parcels))
        # An owner gets the machine back when the job has ended, and nothing writes into what is being brought in.
        if left := await self.room.reap([parcel.token for parcel in parcels]):
            log.warning("%s: %d processes that ended jobs left running would not end", self.name, left)
        troubles: dict[str, str] = {}
        try:
            outcomes = await archive(
                self.room.link,
                self.room.channel.root.encode("utf-8", "surrogateescape"),
                parcels,
                await self._hub.storage(),
                facts=self._facts,
                reserve=STORAGE_RESERVE,
                progress=self._transfer("results"),
            )
        except StorageError as error:
            troubles = {parcel.token: error.message for parcel in parcels}
        else:
            for outcome in outcomes:
                if outcome.published:
                    self._hub.tell(Published(self.name, outcome.token, outcome.last_line))
                else:
                    troubles[outcome.token] = outcome.reason or "it was not published"
        finally:
            self._hub.transfers.pop(f"{self.name} results", None)
        for token, reason in troubles.items():
            self._hub.tell(NotPublished(self.name, token, reason))
        if troubles:
            self._hub.storage_failed()
            self._again("archive", troubles)
        else:
            self._retry = RETRY

    # drop, clear

    def _drop_due(self) -> list[str]:
        return [
            ready.attempt.token
            for ready in self._work.attempts
            if ready.attempt.state is AttemptState.PUBLISHED
            or (ready.attempt.state is AttemptState.STALE and ready.attempt.token in self._work.ended)
            if self._is_due("drop", ready.attempt.token)
        ][:GROUP]

    async def _drop(self, tokens: list[str]) -> None:
        self._begin("drop", tokens)
        await self._discard(tokens)
        kept = await self.room.drop(tokens)
        for token in set(tokens) - kept:
            self._hub.tell(Dropped(self.name, token))
        if kept:
            log.warning("%s: %s could not be removed", self.name, ", ".join(map(attempt_folder, kept)))
            self._again("drop", kept)

    async def _discard(self, tokens: list[str]) -> None:
        """Remove from storage what had come of attempts that were given up on their way there."""
        stale = [r for r in self._work.attempts if r.attempt.token in tokens and r.attempt.exit is not None]
        try:
            for ready in (r for r in stale if r.attempt.state is AttemptState.STALE):
                batch = ready.batch
                await discard(await self._hub.storage(), batch.namespace, batch.batch, ready.attempt.token)
        except StorageError as error:
            log.warning("%s", error)  # a hidden folder stays; no result is in it

    def _clear_due(self) -> list[Build]:
        return [build for build in self._work.clear if self._is_due("clear", build.token)]

    async def _clear(self, builds: list[Build]) -> None:
        self._begin("clear", (build.token for build in builds))
        for build in builds:
            if build.exit is None:
                await self.room.kill(build.token)
        kept = await self.room.clear([build.batch_token for build in builds])
        kept |= await self.room.drop([build.token for build in builds])
        for build in builds:
            if kept.isdisjoint((build.batch_token, build.token)):
                self._hub.tell(Cleared(self.name, build.token))
            else:
                log.warning("%s: the folder of a build could not be removed", self.name)
                self._again("clear", [build.token])

    # sweep

    def _sweep_due(self) -> list[tuple[str, bool]]:
        return [each for each in self._work.orphans.items() if self._is_due("sweep", each[0])]

    async def _sweep(self, items: list[tuple[str, bool]]) -> None:
        self._begin("sweep", (token for token, _ in items))
        for token, may_hold in items:
            try:
                swept = await sweep(self.room, self._hub.storage, self._facts, token, may_hold, STORAGE_RESERVE)
            except StorageError as error:
                log.warning("%s: nobody's attempt %s stays there: %s", self.name, token, error)
                self._hub.storage_failed()
                swept = None
            if swept is None:
                self._again("sweep", [token])
            else:
                log.warning("%s", swept.what)
                self._hub.tell(swept)
        if not self._work.orphans.keys() - {token for token, _ in items}:
            # In this order: a build that begins meanwhile is part of the work before its folder is there.
            there = await self.room.list()
            await clear_unknown(self.room, there, self._work)
