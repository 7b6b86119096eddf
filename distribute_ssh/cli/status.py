"""`status` and `history`: how far the work is, and what happened."""

from __future__ import annotations

import time
from typing import Any

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, find_batch
from distribute_ssh.views.batches import batches_table, jobs_table, with_unreachable
from distribute_ssh.views.document import document

WATCH = 1.0  # seconds between two looks


@click.command(cls=Verb)
@click.argument("batch", required=False, shell_complete=complete_batch)
@click.option("--watch", is_flag=True, help="Show it again whenever it changes, until Ctrl-C.")
@click.pass_obj
def status(app: App, batch: str | None, watch: bool) -> None:
    """Show all batches, a line each, or the jobs of one.

    A jobs file stands for its batch.
    """
    _show(app, batch)
    while watch:
        time.sleep(WATCH)
        if app.has_queue and not app.json and app.colour:
            click.clear()
        _show(app, batch)


def _show(app: App, name: str | None) -> None:
    found = _status(app, name)
    now = time.time()
    if name is None:
        names = [f"{batch['namespace']}/{batch['batch']}" for batch in found["batches"]]
        app.answer(found, lambda: batches_table(found, now, width=app.width, colour=app.colour), names)
        if not names:
            app.say("no batches yet; `distribute template python` writes a jobs file to start from")
        return
    (batch,) = found["batches"]
    text = lambda: jobs_table(batch, now, width=app.width, colour=app.colour)  # noqa: E731
    app.answer(found, text, [job["name"] for job in batch["jobs"]])


def _status(app: App, name: str | None) -> dict[str, Any]:
    if name is None and not app.has_queue:
        return document(batches=[])
    if name is not None:
        name = find_batch(app, name).name
    found = app.queue.status(name)
    silent = {row.name: row.unreachable_since for row in app.queue.nodes().values() if row.unreachable_since}
    return with_unreachable(found, silent)
