"""`kill` and `retry`: ending jobs, and queueing again those that did not end well."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, find_batch, find_jobs
from distribute_ssh.errors import UnreachableError
from distribute_ssh.model.actor import Role
from distribute_ssh.model.job import OUTCOMES, WAITING, Batch, Job, State
from distribute_ssh.views.document import document
from distribute_ssh.views.text import count, listed

if TYPE_CHECKING:
    from distribute_ssh.coordination.coordinator import Coordinator

INTERRUPTED = 130

_BATCH = click.argument("batch", shell_complete=complete_batch)
_JOBS = click.argument("jobs", nargs=-1, metavar="[JOB]...")


@click.command(cls=Verb)
@_BATCH
@_JOBS
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def kill(app: App, batch: str, jobs: tuple[str, ...], yes: bool) -> int:
    """End jobs of a batch, or all of it; what they saved so far is brought in.

    Returns when they have ended. Where nobody drives the queue, this command does so until then.
    """
    found, concerned = _named(app, batch, jobs)
    hit = [job for job in concerned if job.state not in OUTCOMES]
    if not hit:
        app.say(f"nothing to kill: {_whole(found, concerned, jobs)} ended before")
        app.answer(document(batch=found.name, killed=[]), str)
        return 0
    waiting = sum(job.state in WAITING for job in hit)
    app.say(f"{found.name}: {listed([job.name for job in hit])}: {len(hit) - waiting:,} on a node, {waiting:,} waiting")
    if not app.confirm(f"kill {count(len(hit), 'job')}?", yes=yes):
        app.say("nothing was killed")
        return 1
    with app.queue.transaction() as change:
        change.request_kill(found.id, [job.name for job in hit], app.user, time.time())
        change.finish_batch_if_ended(found.id, time.time())  # where all of it waited, nobody else has to
    try:
        code = _until_ended(app, [job.id for job in hit])
    except KeyboardInterrupt:  # before we began to drive, which hears of it otherwise
        code = INTERRUPTED
    if code:
        app.warn("not all have ended yet; the kill stays requested")
        return code
    ended = {job.id: job for job in app.queue.jobs_by_id([job.id for job in hit])}
    states = [{"name": job.name, "state": ended[job.id].state} for job in hit if job.id in ended]
    names = [each["name"] for each in states if each["state"] == State.KILLED]
    app.answer(document(batch=found.name, killed=states), lambda: f"killed {count(len(names), 'job')}\n", names)
    return 0


@click.command(cls=Verb)
@_BATCH
@_JOBS
@click.pass_obj
def retry(app: App, batch: str, jobs: tuple[str, ...]) -> None:
    """Queue jobs again that ended otherwise than done: those named, or all of the batch.

    Their attempts go on counting; what the old ones saved is kept beside the new results. Nodes on which the build of
    the batch failed are tried again too.
    """
    from distribute_ssh.store.submission import check_waiting

    found, concerned = _named(app, batch, jobs)
    with app.queue.transaction() as change:
        names = change.retry(found.id, [job.name for job in concerned] if jobs else None, app.user, time.time())
        if app.actor is not None and app.actor.role is not Role.OWNER:
            check_waiting(change, found.submitter, app.nodes.limits.jobs)
    if not names:
        app.say(f"nothing to retry: no job of {_whole(found, concerned, jobs)} ended otherwise than done")
    else:
        then = "" if app.is_driven else "; nothing drives the queue now: distribute runner"
        app.say(f"queued again: {listed(names)}{then}")
    app.answer(document(batch=found.name, retried=names), lambda: f"{count(len(names), 'job')} queued\n", names)


def _named(app: App, batch: str, jobs: tuple[str, ...]) -> tuple[Batch, list[Job]]:
    found = find_batch(app, batch)
    there = {job.name: job for job in app.queue.jobs(found.id)}
    return found, [there[name] for name in find_jobs(there, jobs, found.name)] if jobs else list(there.values())


def _whole(batch: Batch, concerned: list[Job], named: tuple[str, ...]) -> str:
    return listed([job.name for job in concerned]) if named else batch.name


def _until_ended(app: App, ids: list[int]) -> int:
    """Wait until all have ended, or a signal says to wait no longer (then its exit code).

    Raises UnreachableError when all that have not ended are on nodes that do not answer.
    """

    def remaining() -> list[Job]:
        return [job for job in app.queue.jobs_by_id(ids) if job.state not in OUTCOMES]

    def is_silent(job: Job, coordinator: Coordinator | None) -> bool:
        if coordinator is None:  # what another coordinator wrote down last holds; what a dead one did may not
            return app.is_driven and job.node in app.silent_nodes()
        node = coordinator.nodes.get(job.node or "")
        return node is None or (node.tried.is_set() and not node.is_connected)

    left = remaining()
    if not left:
        return 0
    from distribute_ssh.cli.drive import Stopped, drive

    try:
        drive(app, lambda coordinator: all(is_silent(job, coordinator) for job in remaining()))
    except Stopped as stopped:
        return stopped.exit_code
    if left := remaining():
        nodes = sorted({job.node or "" for job in left})
        raise UnreachableError(
            f"{listed([job.name for job in left])} could not be ended: {listed(nodes)} "
            f"{'does' if len(nodes) == 1 else 'do'} not answer",
            hint="the kill stays requested, and is done when the node is back",
        )
    return 0
