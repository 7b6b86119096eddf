"""`run` and `add`: a jobs file into the queue, and its batch followed to the end."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from distribute_ssh import submit as submitting
from distribute_ssh.cli.app import App, write
from distribute_ssh.cli.group import Verb
from distribute_ssh.errors import NoNodeError
from distribute_ssh.model import jobsfile
from distribute_ssh.model.jobsfile import BatchSpec
from distribute_ssh.model.units import format_size
from distribute_ssh.plan.snapshot import NodeView
from distribute_ssh.snapshot import snapshot
from distribute_ssh.store.spool import Spool
from distribute_ssh.store.submission import Submitted
from distribute_ssh.views import progress
from distribute_ssh.views.document import document
from distribute_ssh.views.plan import plan_text

BIG = 64 << 20  # bytes from which on taking the files in is worth a line that moves

_JOBS = click.argument("jobs", type=click.Path(path_type=Path), metavar="JOBS")
_FRESH = click.option("--fresh", is_flag=True, help="Run all jobs anew; old results move to BATCH@<time>.")
_REPLACE = click.option("--replace", is_flag=True, help="Also if the batch still works; changed jobs are killed.")


@click.command(cls=Verb)
@_JOBS
@click.option("--detach", is_flag=True, help="Return once it is in the queue.")
@click.option("--plan", "plan_only", is_flag=True, help="Show who could run it and what would be sent; do nothing.")
@_FRESH
@_REPLACE
@click.pass_obj
def run(app: App, jobs: Path, detach: bool, plan_only: bool, fresh: bool, replace: bool) -> int:
    """Submit a jobs file and follow its batch to the end.

    Where nobody drives the queue, this command does. Ctrl-C leaves the batch in the queue and running; the same command
    comes back to it. Jobs that are done and unchanged are not run again.
    """
    spec = _read(app, jobs)
    if plan_only:
        return _plan(app, spec)
    if detach:
        return _leave(app, _submit(app, spec, fresh, replace), jobs)
    # Before anything is submitted: it is slow to import, and Ctrl-C then still means that nothing was done.
    from distribute_ssh.cli.follow import follow

    return follow(app, _submit(app, spec, fresh, replace), jobs, max(len(job.name) for job in spec.jobs))


@click.command(cls=Verb)
@_JOBS
@_FRESH
@_REPLACE
@click.pass_obj
def add(app: App, jobs: Path, fresh: bool, replace: bool) -> int:
    """Submit a jobs file and return: the same as `run --detach`."""
    return _leave(app, _submit(app, _read(app, jobs), fresh, replace), jobs)


def _read(app: App, path: Path) -> BatchSpec:
    spec = jobsfile.read(path)
    for warning in spec.warnings:
        app.warn(f"distribute: {warning}")
    return spec


def _nodes(app: App) -> tuple[NodeView, ...]:
    return snapshot(app.queue, app.nodes, time.time()).nodes


def _plan(app: App, spec: BatchSpec) -> int:
    outline = submitting.outline(spec, _nodes(app))
    plan = outline.as_data()
    app.answer(document(plan=plan), lambda: plan_text(plan, app.width), [outline.name])
    return NoNodeError.exit_code if all(fit.missing for fit in outline.fits) else 0


def _submit(app: App, spec: BatchSpec, fresh: bool, replace: bool) -> Submitted:
    shows = not app.quiet and sys.stderr.isatty()

    def taken_in(done: int, total: int) -> None:
        if shows and total > BIG:
            end = "\n" if done >= total else ""
            write(sys.stderr, f"\rtaking in {format_size(done)} of {format_size(total)}   {end}")

    submitted = submitting.submit(
        app.queue, Spool(app.places.spool), spec, _nodes(app),
        who=app.user, now=time.time(), fresh=fresh, replace=replace, progress=taken_in,
    )  # fmt: skip
    app.say(progress.submitted_line(asdict(submitted), len(spec.jobs)))
    return submitted


def _leave(app: App, submitted: Submitted, jobs: Path) -> int:
    if not app.is_driven:
        app.say(f"nothing drives the queue now: `distribute runner`, or `distribute run {jobs}`")
    app.answer(document(submitted=asdict(submitted)), lambda: f"{submitted.name}\n", [submitted.name])
    return 0
