"""`explain`: why jobs wait, why they failed, what they do."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, find_batch, find_job
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.plan.schedule import explain as why
from distribute_ssh.views.batches import pause_reason, with_pauses
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
    reasons = [
        {**asdict(reason), "text": app.shown(found, reason.text)}
        for reason in why(snapshot(app.queue, app.nodes, now), found.id, now)
    ]
    if job is None:
        (status,) = with_pauses(app.status_of(found), app.pauses(now), now)["batches"]
        content = batch_data(status, reasons, driven=app.is_driven)
        names = [each["name"] for each in content["jobs"]]
        app.answer(document(**content), lambda: batch_text(content, app.width), names)
        return
    one = find_job(app, found, job)
    reason = pause_reason(one.state, one.node, app.pauses(now), now) or app.shown(found, one.reason)
    one = replace(one, reason=reason)
    content = job_data(found, one, app.queue.attempts(one.id), reasons, app.silent_nodes(), driven=app.is_driven)
    app.answer(document(**content), lambda: job_text(content, now), [one.name])
