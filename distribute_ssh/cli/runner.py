"""`runner`: the coordinator as a command of its own."""

from __future__ import annotations

import asyncio
from contextlib import closing

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.drive import signals
from distribute_ssh.cli.group import Verb
from distribute_ssh.coordinator import Coordinator
from distribute_ssh.errors import BusyError
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
    coordinator = Coordinator(queue, app.nodes, app.places)
    with signals() as stop:
        stop.call = coordinator.stop
        await (coordinator.run_once() if once else coordinator.run())
