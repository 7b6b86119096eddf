"""`explain`: why jobs wait, why they failed, what they do."""

from __future__ import annotations

import time

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.drive import is_driven
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, find_batch, find_jobs
from distribute_ssh.plan.schedule import explain as why
from distribute_ssh.snapshot import snapshot
from distribute_ssh.views.document import document
from distribute_ssh.views.explanation import batch_data, batch_text, job_data, job_text


@click.command(cls=Verb)
@click.argument("batch", shell_complete=complete_batch)
@click.argument("job", required=False)
@click.pass_obj
def explain(app: App, batch: str, job: str | None) -> None:
    """Say why a batch or a job waits, why it failed, or what it does.

    What a coordinator has not seen yet is not known: a node may answer again, or no longer.
    """
    found, now = find_batch(app, batch), time.time()
    reasons = why(snapshot(app.queue, app.nodes, now), found.id, now)
    silent = {row.name: row.unreachable_since for row in app.queue.nodes().values() if row.unreachable_since}
    driven = is_driven(app)
    if job is None:
        content = batch_data(found, app.queue.jobs(found.id), reasons, driven=driven)
        app.answer(
            document(**content), lambda: batch_text(content, app.width), [job["name"] for job in content["jobs"]]
        )
        return
    (name,) = find_jobs(
        [job] if app.queue.job(found.id, job) else [j.name for j in app.queue.jobs(found.id)], [job], found.name
    )
    one = app.queue.job(found.id, name)
    assert one is not None
    content = job_data(found, one, app.queue.attempts(one.id), reasons, silent, driven=driven)
    app.answer(document(**content), lambda: job_text(content, now), [one.name])
