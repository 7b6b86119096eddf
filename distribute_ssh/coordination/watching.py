"""One node's owner, watched where the inventory says so: asked for on each connection, and told to the tick."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from distribute_ssh.coordination.evidence import Evidence, Watched
from distribute_ssh.errors import UnreachableError
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.owner import Reading
from distribute_ssh.node import wire
from distribute_ssh.node.activity import read
from distribute_ssh.node.channel import Channel

EVERY = 15.0  # seconds between two looks; less where the quiet time is short
WINDOW = 1  # seconds over which the use of the processors is counted
GPU_EVERY = 4  # looks: nvidia-smi may keep a processor busy for a tenth of a second
LIMIT = 45.0  # seconds: a bus that hangs is given up after ten, and asked twice


class Watching:
    """Of one node; `tell` takes notice of what is read."""

    def __init__(self, entry: NodeEntry, tell: Callable[[Evidence], None]) -> None:
        self._entry = entry
        self._tell = tell
        self._gpu: list[Reading] = []  # what was said of GPUs last
        self._looks = 0

    async def look(self, channel: Channel, *, at_once: bool = False) -> None:
        """Ask once; `at_once`: without what takes a second to count. Raises UnreachableError where the line is gone."""
        if self._entry.pause_when_active == 0:
            return
        window, asks_gpu = (0, False) if at_once else (WINDOW, self._looks % GPU_EVERY == 0)
        files = [wire.word(path, 400) for path in self._entry.watch]
        try:
            rows, _ = await channel.request("activity", str(window), str(int(asks_gpu)), *files, limit=LIMIT)
        except UnreachableError:
            if channel.closed.is_set():
                raise
            rows = []  # a node that is too busy to say who is there; the tick is in doubt then
        readings = read(rows)
        if asks_gpu:
            self._gpu = [reading for reading in readings if reading.kind == "gpu"]
        elif not at_once:
            readings += self._gpu
        self._looks += not at_once
        self._tell(Watched(self._entry.name, tuple(readings)))

    async def run(self, channel: Channel) -> None:
        """Ask for ever."""
        quiet = self._entry.pause_when_active
        while quiet > 0:
            await self.look(channel)
            await asyncio.sleep(min(EVERY, quiet / 4))
