"""The last look before a start: what was promised to an attempt may be in somebody else's hands by now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from distribute_ssh.coordination.evidence import Evidence, NotReady, Staged
from distribute_ssh.coordination.work import Ready, Work
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import AttemptState, BuildState
from distribute_ssh.model.resources import Share
from distribute_ssh.node import probe, readiness
from distribute_ssh.node.process import Room
from distribute_ssh.plan.readiness import PATIENCE, Promised, Seen, noise, trouble

_THERE = (AttemptState.STARTING, AttemptState.RUNNING, AttemptState.STALE)


class Readying:
    """On one connection. What it lets pass may start."""

    def __init__(self, entry: NodeEntry, queue_id: str, room: Room, offer: probe.Offer) -> None:
        self._node = entry.name
        self._env = entry.env
        self._is_machine = entry.cluster is None  # of a cluster we see but the door; Slurm looks after the rest
        self._queue_id = queue_id
        self._room = room
        self._offer = offer
        self._arrived: set[str] = set()
        self._kept_back: dict[str, frozenset[int]] = {}  # of an attempt that gets every GPU: those it does not get
        self._busy_since: float | None = None  # others have been at work on the processors

    def needs_look(self, ready: Ready) -> bool:
        """Whether anything was promised to this attempt that others may have taken."""
        return self._is_machine and (ready.attempt.share is not None or bool(self._gpus(ready)))

    def arrived(self, token: str) -> None:
        """Its inputs are on the node."""
        self._arrived.add(token)

    def forget(self, live: Iterable[str]) -> None:
        """Take notice of which attempts there still are."""
        there = set(live)
        self._arrived &= there
        self._kept_back = {token: gpus for token, gpus in self._kept_back.items() if token in there}

    def due(self, work: Work) -> list[Ready]:
        """Attempts that wait for nothing else any more: just before a start is when it counts."""
        built = {build.batch_token for build, _ in work.builds if build.state is BuildState.BUILT}
        return [
            ready
            for ready in work.attempts
            if ready.attempt.token in self._arrived
            and ready.attempt.state is AttemptState.PLACED
            and ready.attempt.batch_token in built
        ]

    def kept_back(self, token: str) -> frozenset[int]:
        """The GPUs that an attempt is not to get though its batch asks for all."""
        return self._kept_back.get(token, frozenset())

    async def look(self, items: list[Ready], work: Work, passed: set[str]) -> list[Evidence]:
        """Look once for all of these; what came of each. `passed`: those that were let pass before.

        Raises UnreachableError when the line is lost.
        """
        wanted = {index: gpu for ready in items for index, gpu in self._gpus(ready).items()}
        share = any(ready.attempt.share for ready in items)
        root = self._room.channel.root
        text = readiness.script(self._queue_id, root, self._env, wanted.values(), processors=share)
        try:
            # A driver that hangs cannot be ended by `timeout` either: that is no trouble of the line, and no reason to
            # connect anew, which would disturb all that runs there.
            async with asyncio.timeout(readiness.TIME_LIMIT):
                ended = await self._room.link.run(text, limit=2 * readiness.TIME_LIMIT)
            seen = readiness.parse(ended.stdout.decode(errors="replace"), self._offer.gpus)
        except TimeoutError:
            why = f"did not say within {readiness.TIME_LIMIT:g} s what it has now"
            return [NotReady(self._node, ready.attempt.token, why, {}, {}) for ready in items]
        except ValueError as error:
            return [NotReady(self._node, ready.attempt.token, str(error), {}, {}) for ready in items]
        return self._judge(items, work, passed, seen, time.monotonic())

    def _judge(self, items: list[Ready], work: Work, passed: set[str], seen: Seen, now: float) -> list[Evidence]:
        promised = Promised()
        for other in work.attempts:
            if other.attempt.state in _THERE or other.attempt.token in passed:
                promised = self._also(promised, other)
        found: list[Evidence] = []
        for ready in items:
            token, share, gpus = ready.attempt.token, ready.attempt.share, self._gpus(ready)
            no = trouble(seen, share, gpus, promised)
            if no is None and share is not None:
                no = self._noise(seen, share, promised, now)
            if no is None:
                promised = self._also(promised, ready)
                self._kept_back[token] = frozenset(seen.used.keys() | seen.gone.keys())
                found.append(Staged(self._node, token))
            else:
                found.append(NotReady(self._node, token, no, seen.used, seen.gone))
        return found

    def _noise(self, seen: Seen, share: Share, promised: Promised, now: float) -> str | None:
        no = noise(seen, share, self._offer.cores, promised)
        if no is None:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        elif now - self._busy_since >= PATIENCE:
            return None
        return no

    def _also(self, promised: Promised, ready: Ready) -> Promised:
        share = ready.attempt.share
        if share is not None:
            return promised.and_also(share)
        return Promised(
            promised.cores + probe.slot_cores(self._offer.cores, self._offer.slots),
            promised.memory_mb,
            promised.disk_mb,
        )

    def _gpus(self, ready: Ready) -> dict[int, probe.Gpu]:
        """The GPUs that an attempt would get, by number."""
        share = ready.attempt.share
        if share is None:
            return {gpu.index: gpu for gpu in self._offer.gpus} if "gpu" in ready.batch.capabilities else {}
        return {gpu.index: gpu for gpu in self._offer.gpus if gpu.index in share.gpus}
