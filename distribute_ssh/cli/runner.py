"""`runner`: the coordinator as a command of its own."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.drive import signals
from distribute_ssh.cli.group import Verb
from distribute_ssh.coordination.coordinator import Coordinator, stamp
from distribute_ssh.errors import BusyError, DistributeError, UsageError
from distribute_ssh.store.lock import CoordinatorLock
from distribute_ssh.store.queue import Queue


@click.command(cls=Verb)
@click.option("--once", is_flag=True, help="Do what can be done now, without waiting for jobs to end; then leave.")
@click.pass_obj
def runner(app: App, once: bool) -> int:
    """Drive the queue: for ever, or with --once for one pass, as from cron.

    Exits with 5 where another coordinator drives it; with --once with 0 and without a word, as cron would mail it.
    SIGTERM and Ctrl-C are a normal end: jobs go on, and the next coordinator finds them.
    """
    with closing(Queue.open(app.places.database, check=True)) as queue:
        lock = CoordinatorLock(app.places.lock)
        if not lock.acquire():
            if once:
                return 0  # somebody is at it already, which is what cron wants
            holder = lock.holder()
            who = f"process {holder.pid} on {holder.host}" if holder else "another process"
            raise BusyError(f"another coordinator drives this queue: {who}")
        try:
            if not once:
                app.say(f"driving {app.places.database}; Ctrl-C ends it, jobs go on")
            asyncio.run(_run(app, queue, once))
        finally:
            lock.release()
    return 0


async def _run(app: App, queue: Queue, once: bool) -> None:
    inventory, seen = app.nodes, _stamp(app)

    def is_another() -> bool:
        """Whether the inventory was changed, to one that can be read: one with mistakes changes nothing."""
        nonlocal inventory, seen
        if (now := _stamp(app)) in (seen, None):  # without a file this machine would be the only node
            return False
        seen = now
        try:
            inventory = app.read_nodes()
        except DistributeError as error:
            app.warn(f"the inventory was changed, and the one before goes on to hold:\n{error}")
            return False
        app.say("the inventory was changed: beginning anew with it; jobs go on")
        return True

    with signals() as stop:
        while not stop.number:
            # A coordinator is so little that another one takes less than to tell it what has changed.
            coordinator = Coordinator(queue, inventory, app.places)
            stop.call = coordinator.stop
            if once:
                await coordinator.run_once()
                return
            await coordinator.run(until=is_another)


def _stamp(app: App) -> tuple[Path, int, int] | None:
    """Which file the inventory is, and its state; None where there is none, or just now not."""
    try:
        path = app.find_inventory()
    except UsageError:  # the one that was named is away, or being replaced
        return None
    return (path, *stamp(path)) if path else None
