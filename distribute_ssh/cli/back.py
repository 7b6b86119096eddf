"""`follow`: back to a batch that goes on, from wherever."""

from __future__ import annotations

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, find_batch


@click.command(cls=Verb)
@click.argument("batch", shell_complete=complete_batch)
@click.pass_obj
def follow(app: App, batch: str) -> int:
    """Follow a batch to its end, as `run` does, and submit nothing. A jobs file stands for its batch.

    Where nobody drives the queue, this command does. Ctrl-C leaves the batch running.
    """
    found = find_batch(app, batch)
    from distribute_ssh.cli import follow as following

    wide = max((len(job.name) for job in app.queue.jobs(found.id)), default=0)
    return following.follow(app, found, f"distribute follow {found.name}", wide)
