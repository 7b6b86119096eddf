"""`status`: how far the work is."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from distribute_ssh.cli.app import App, write
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, find_batch
from distribute_ssh.views.batches import batches_table, jobs_table, with_pauses, with_unreachable
from distribute_ssh.views.document import document
from distribute_ssh.views.text import count

WATCH = 1.0  # seconds between two looks
UNDELIVERED = 3 * 86_400.0  # seconds for which it is said that a message was given up
_HOME = "\x1b[H\x1b[2J"


@click.command(cls=Verb)
@click.argument("batch", required=False, shell_complete=complete_batch)
@click.option("--watch", is_flag=True, help="Show it again when it changes, until Ctrl-C or the end of BATCH.")
@click.pass_obj
def status(app: App, batch: str | None, watch: bool) -> None:
    """Show all batches, a line each, or the jobs of one. A jobs file stands for its batch."""
    shown: dict[str, Any] | None = None
    while True:
        found = _status(app, batch)
        # Elapsed times go on by themselves; on a pipe, only what changed is worth a second table.
        if found != shown or app.width is not None:
            if watch and app.width is not None:
                write(sys.stdout, _HOME)
            _show(app, found, batch is not None)
            shown = found
        if not watch or (batch is not None and found["batches"][0]["finished_at"]):
            return
        time.sleep(WATCH)  # what is shown is asked anew at this pace; nobody announces changes to who looks on


def _status(app: App, name: str | None) -> dict[str, Any]:
    if not app.has_queue and name is None:
        return document(batches=[])
    found = app.queue.status() if name is None else app.status_of(find_batch(app, name))
    now = time.time()
    return with_pauses(with_unreachable(found, app.silent_nodes()), app.pauses(now), now)


def _show(app: App, found: dict[str, Any], with_jobs: bool) -> None:
    now = time.time()
    if with_jobs:
        (batch,) = found["batches"]
        names = [job["name"] for job in batch["jobs"]]
        app.answer(found, lambda: jobs_table(batch, now, width=app.width, colour=app.colour), names)
    else:
        names = [f"{batch['namespace']}/{batch['batch']}" for batch in found["batches"]]
        app.answer(found, lambda: batches_table(found, now, width=app.width, colour=app.colour), names)
        if not names:
            app.say("no batches yet; `distribute template python` writes a jobs file to start from")
    if any(not batch["finished_at"] for batch in found["batches"]) and not app.is_driven:
        app.say("nothing drives the queue now: `distribute runner`, or `distribute run` with a jobs file")
    if app.has_queue and (lost := app.queue.given_up(now - UNDELIVERED)):
        app.say(f"{count(lost, 'message')} about batches that ended could not be delivered: `distribute notify`")
