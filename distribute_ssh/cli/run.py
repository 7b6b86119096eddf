"""`run` and `add`: a jobs file into the queue, and its batch followed to the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from distribute_ssh import submitting
from distribute_ssh.cli.app import App, write
from distribute_ssh.cli.group import Verb
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.errors import NoMatchError, NoNodeError, UsageError
from distribute_ssh.model import jobsfile
from distribute_ssh.model.jobsfile import BatchSpec
from distribute_ssh.model.units import format_size
from distribute_ssh.plan.snapshot import NodeView
from distribute_ssh.store.spool import Spool
from distribute_ssh.store.submission import Submitted
from distribute_ssh.views import progress
from distribute_ssh.views.document import document
from distribute_ssh.views.plan import plan_text

BIG = 64 << 20  # bytes from which on taking the files in is worth a line that moves

_JOBS = click.argument("jobs", type=click.Path(path_type=Path), metavar="JOBS")
_FRESH = click.option("--fresh", is_flag=True, help="Run all jobs anew; old results move to BATCH@<time>.")
_REPLACE = click.option("--replace", is_flag=True, help="Also if the batch still works; changed jobs are killed.")


_LOCAL = ("local", "save_dir", "clean_save", "only")


class Run(Verb):
    """`run`, which with --local is about this machine, whatever head there is."""

    def act(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do it here and at once, or as other commands."""
        context = click.get_current_context()
        local = {name: context.params.pop(name) for name in _LOCAL}
        others = {name: value for name, value in kwargs.items() if name not in _LOCAL}
        if not local.pop("local"):
            if any(local.values()):
                raise UsageError("--save-dir, --clean-save and --job are options of `distribute run --local`")
            return super().act(callback, *args, **others)
        path = others.pop("jobs")
        if any(others.values()):
            raise UsageError("--local runs the batch at once, without a queue: no other way to run it can be given")
        from distribute_ssh.cli.local import run_here

        return run_here(context.obj, path, **local)


@click.command(cls=Run)
@_JOBS
@click.option("--detach", is_flag=True, help="Return once it is in the queue.")
@click.option("--plan", "plan_only", is_flag=True, help="Show who could run it and what would be sent; do nothing.")
@_FRESH
@_REPLACE
@click.option("--pull", "pulls", is_flag=True, help="At the end, bring the results here, as `pull` does.")
@click.option("--local", is_flag=True, help="Run it here and at once, without queue and ssh, for debugging.")
@click.option("-s", "--save-dir", type=click.Path(path_type=Path), metavar="DIR", help="Of --local: for the results.")
@click.option("--clean-save", is_flag=True, help="Of --local: empty that folder first, if --local made it.")
@click.option("--job", "only", multiple=True, metavar="NAME", help="Of --local: this job only; repeat for more.")
@click.pass_obj
def run(app: App, jobs: Path, detach: bool, plan_only: bool, fresh: bool, replace: bool, pulls: bool) -> int:
    """Submit a jobs file and follow its batch to the end.

    Where nobody drives the queue, this command does. Ctrl-C leaves the batch in the queue and running; the same command
    comes back to it. Jobs that are done and unchanged are not run again.
    """
    spec = read_jobs(app, jobs)
    if plan_only:
        return show_plan(app, spec, _nodes(app))
    if detach:
        return leave(app, asdict(_submit(app, spec, fresh, replace)), jobs, driven=app.is_driven)
    # Before anything is submitted: it is slow to import, and Ctrl-C then still means that nothing was done.
    from distribute_ssh.cli.follow import follow

    submitted = _submit(app, spec, fresh, replace)
    batch = app.queue.batch_by_id(submitted.batch_id)
    assert batch is not None, "it was just submitted"
    wide = max(len(job.name) for job in spec.jobs)
    return follow(
        app,
        batch,
        f"distribute run {jobs}",
        wide,
        submitted,
        then=partial(pull_results, app, batch.name) if pulls else dict,
    )


def pull_results(app: App, batch: str) -> dict[str, Any]:
    """Pull a batch that has ended, into a folder here; what is to be told of it."""
    from distribute_ssh.cli.pull import bring
    from distribute_ssh.storage.selection import Selection
    from distribute_ssh.views.pulling import pulled_text

    try:
        _, content = bring(app, batch, Path(), Selection())
    except NoMatchError as error:  # of a batch that was killed before anything ran
        app.say(error.message)
        return {"pull": None}
    app.say(pulled_text(content))
    return {"pull": content}


@click.command(cls=Verb)
@_JOBS
@_FRESH
@_REPLACE
@click.pass_obj
def add(app: App, jobs: Path, fresh: bool, replace: bool) -> int:
    """Submit a jobs file and return: the same as `run --detach`."""
    submitted = _submit(app, read_jobs(app, jobs), fresh, replace)
    return leave(app, asdict(submitted), jobs, driven=app.is_driven)


def read_jobs(app: App, path: Path) -> BatchSpec:
    """Read a jobs file, and say what is odd in it. Raises FileError."""
    spec = jobsfile.read(path)
    for warning in spec.warnings:
        app.warn(f"distribute: {warning}")
    return spec


def _nodes(app: App) -> tuple[NodeView, ...]:
    return snapshot(app.queue, app.nodes, time.time()).nodes


def show_plan(app: App, spec: BatchSpec, nodes: Sequence[NodeView]) -> int:
    """Show what submitting would do; the exit code."""
    outline = submitting.outline(spec, nodes)
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


def leave(app: App, submitted: Mapping[str, Any], jobs: Path, *, driven: bool) -> int:
    """Say what was submitted, and go."""
    if not driven:
        app.say(f"nothing drives the queue now: `distribute runner`, or `distribute run {jobs}`")
    app.answer(document(submitted=submitted), lambda: f"{submitted['name']}\n", [submitted["name"]])
    return 0
