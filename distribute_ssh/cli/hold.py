"""`hold` and `release`: jobs that wait in the queue, and shall not start yet."""

from __future__ import annotations

import time

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, find_batch, find_jobs
from distribute_ssh.views.document import document
from distribute_ssh.views.text import count, listed

_BATCH = click.argument("batch", shell_complete=complete_batch)
_JOBS = click.argument("jobs", nargs=-1, metavar="[JOB]...")


@click.command(cls=Verb)
@_BATCH
@_JOBS
@click.pass_obj
def hold(app: App, batch: str, jobs: tuple[str, ...]) -> None:
    """Hold jobs back that wait in the queue: those named, or all of the batch that wait now.

    They start no sooner than they are released; what has anything on a node goes on.
    """
    found = find_batch(app, batch)
    names = find_jobs((job.name for job in app.queue.jobs(found.id)), jobs, found.name) if jobs else None
    with app.queue.transaction() as change:
        held = change.hold(found.id, names, app.user, time.time())
    app.say(f"held: {listed(held)}" if held else f"nothing to hold: no such job of {found.name} waits in the queue")
    app.answer(document(batch=found.name, held=held), lambda: f"{count(len(held), 'job')} held\n", held)


@click.command(cls=Verb)
@_BATCH
@_JOBS
@click.pass_obj
def release(app: App, batch: str, jobs: tuple[str, ...]) -> None:
    """Let jobs start again that were held back: those named, or all of the batch."""
    found = find_batch(app, batch)
    names = find_jobs((job.name for job in app.queue.jobs(found.id)), jobs, found.name) if jobs else None
    with app.queue.transaction() as change:
        released = change.release(found.id, names, app.user, time.time())
    then = "" if app.is_driven else "; nothing drives the queue now: distribute runner"
    app.say(f"released: {listed(released)}{then}" if released else f"no such job of {found.name} is held")
    app.answer(
        document(batch=found.name, released=released), lambda: f"{count(len(released), 'job')} queued\n", released
    )
