"""Big inputs for many nodes at once: who gets what from whom now, and that the head sends what comes no other way."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.node.connection import SshLink
from distribute_ssh.node.fetching import Content, Door, NotFetchedError, door, fetch
from distribute_ssh.node.process import Room
from distribute_ssh.plan.spread import Failures, Giver, choose

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that takes part, while it is connected."""

    room: Room
    link: SshLink
    door: Door
    least: int  # bytes from which on an input is shared
    is_at_rest: Callable[[], bool]  # somebody paused it: it is not to work for others now


class Spreading:
    """Of one coordinator. What it remembers may be lost without harm."""

    def __init__(self, queue_id: str) -> None:
        self._queue_id = queue_id
        self._peers: dict[str, Peer] = {}
        self._getting: dict[tuple[str, str], Giver] = {}  # (node, sha256)
        self._failures = Failures()

    @contextlib.contextmanager
    def joined(self, entry: NodeEntry, room: Room, is_at_rest: Callable[[], bool]) -> Iterator[None]:
        """Let a node take part for the block, if it may and others can reach it."""
        # A login machine is everybody's, and no desk is reached from it.
        may = entry.share_inputs and entry.cluster is None and room.can_check
        at = door(room.link, room.channel.root) if may else None
        if at is not None and isinstance(room.link, SshLink):
            self._peers[entry.name] = Peer(room, room.link, at, entry.share_inputs, is_at_rest)
        try:
            yield
        finally:
            self._peers.pop(entry.name, None)

    async def bring(
        self, node: str, sha256: str, size: int, send: Callable[[], Awaitable[None]], advance: Callable[[int], None]
    ) -> None:
        """Bring an input to a node: from another one, or else by `send`, from the head.

        `advance` is told of bytes that came another way. Raises what `send` raises, and NodeError.
        """
        if node not in self._peers or size < self._peers[node].least:
            await send()
            return
        now = time.time()
        givers = list(self._givers(node, sha256, size))
        busy = [giver.source for giver in self._getting.values() if giver.source is not None]
        source = choose(node, givers, busy, self._failures, now)
        try:
            self._getting[node, sha256] = Giver(node, False, now, source)
            if source is not None and await self._fetched(node, source, Content(sha256, size), advance):
                return
            self._getting[node, sha256] = Giver(node, False, now)
            await send()
        finally:
            del self._getting[node, sha256]

    def _givers(self, taker: str, sha256: str, size: int) -> Iterator[Giver]:
        for name, peer in self._peers.items():
            if name == taker or size < peer.least or peer.is_at_rest():
                continue
            if peer.room.holds(sha256, size):
                yield Giver(name, is_whole=True)
            elif getting := self._getting.get((name, sha256)):
                yield getting

    async def _fetched(self, node: str, source: str, content: Content, advance: Callable[[int], None]) -> bool:
        giver, taker = self._peers[source], self._peers[node]
        told = 0

        def progress(there: int) -> None:
            nonlocal told
            advance(there - told)
            told = there

        began = time.monotonic()
        try:
            await fetch(
                giver.link, giver.room.channel.root, giver.door, taker.link, taker.room.channel.root, content,
                queue_id=self._queue_id, progress=progress,
            )  # fmt: skip
        except NotFetchedError as error:
            log.info("%s gets an input from the head, and not from %s: %s", node, source, error)
            self._failures.note(
                time.time(), giver=None if error.lame else source, taker=None if error.refused else node
            )
            progress(0)
            return False
        progress(content.size)
        log.info("%s got %d bytes from %s in %.1f s", node, content.size, source, time.monotonic() - began)
        return True
