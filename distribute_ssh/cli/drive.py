"""Driving the queue from a command: until something is true, or a signal says to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from distribute_ssh import driving
from distribute_ssh.cli.app import App
from distribute_ssh.driving import Look, Stop, Stopped, Until

__all__ = ["Stopped", "drive", "signals"]


def drive(app: App, until: Until, look: Look | None = None) -> None:
    """Return when `until` is true; the queue is driven meanwhile, by us if nobody else does. Raises Stopped."""

    async def act() -> None:
        with signals() as stop:
            await driving.drive(app, until, look or (lambda _coordinator: None), stop)

    try:
        asyncio.run(act())
    except KeyboardInterrupt:  # before we took note of signals, or asked a second time
        raise Stopped(signal.SIGINT) from None


@contextmanager
def signals() -> Iterator[Stop]:
    """Take note of the signals that ask us to stop; the second one is obeyed at once."""
    loop, stop = asyncio.get_running_loop(), Stop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.take, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
