"""Waiting until something is true of the queue: as its coordinator where it has none, else beside the one it has."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import closing

from distribute_ssh.coordination.coordinator import Coordinator
from distribute_ssh.store.lock import CoordinatorLock
from distribute_ssh.store.queue import Queue
from distribute_ssh.workplace import Workplace

LOOK = 0.2  # seconds between two looks at the queue; a look that finds nothing new costs some microseconds
RETAKE = 1.0  # seconds between tries to become the coordinator: the other one may be gone

Until = Callable[[Coordinator | None], bool]
"""Whether it is true now; asked with the coordinator if that is us."""

Look = Callable[[Coordinator | None], None]
"""Called again and again meanwhile, with the coordinator if that is us."""


class Stopped(Exception):  # noqa: N818  # no error: somebody asked for it
    """A signal asked us to stop; what runs on the nodes keeps running."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Stop:
    """What the signals said: 0, or the number of the first one."""

    def __init__(self) -> None:
        self.number = 0
        self.call: Callable[[], None] | None = None

    def take(self, number: int) -> None:
        """Note a signal, and tell who has to know."""
        if self.number:  # asked twice: at once
            raise KeyboardInterrupt
        self.number = number
        if self.call:
            self.call()


async def drive(place: Workplace, until: Until, look: Look, stop: Stop) -> None:
    """Return when `until` is true; the queue is driven meanwhile, by us if nobody else does. Raises Stopped."""
    lock = CoordinatorLock(place.places.lock)
    while not stop.number and not until(None):
        if lock.acquire():
            try:
                await _coordinate(place, until, look, stop)
                look(None)
                break
            finally:
                lock.release()
        await _stand_by(until, look, stop)
    if stop.number and not until(None):
        raise Stopped(stop.number)


async def _coordinate(place: Workplace, until: Until, look: Look, stop: Stop) -> None:
    # A connection of its own: the coordinator works in another thread, and must not wait for who only looks.
    with closing(Queue.open(place.places.database, check=True)) as queue:
        coordinator = Coordinator(queue, place.nodes, place.places)
        stop.call = coordinator.stop

        async def looking() -> None:
            while True:
                look(coordinator)
                await asyncio.sleep(LOOK)

        # In a group: an error while looking must not be one that nobody hears of.
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(looking(), name="look")
            await coordinator.run(until=lambda: until(coordinator))
            watching.cancel()
        stop.call = None


async def _stand_by(until: Until, look: Look, stop: Stop) -> None:
    """Look on while another coordinator works, until it is worth trying to take its place."""
    for _ in range(round(RETAKE / LOOK)):
        look(None)
        if stop.number or until(None):
            return
        await asyncio.sleep(LOOK)
