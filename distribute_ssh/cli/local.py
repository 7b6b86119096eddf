"""`run --local`: a batch on this machine, for debugging."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from distribute_ssh import local_folder, local_run
from distribute_ssh.cli.app import App
from distribute_ssh.cli.names import no_match
from distribute_ssh.cli.run import read_jobs
from distribute_ssh.model import inventory
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import State
from distribute_ssh.model.jobsfile import BatchSpec
from distribute_ssh.model.names import key
from distribute_ssh.model.units import format_duration
from distribute_ssh.node import probe
from distribute_ssh.views.document import document

FOLDER = Path("distribute-run")
INTERRUPTED = 130


def run_here(app: App, path: Path, save_dir: Path | None, clean_save: bool, only: Sequence[str]) -> int:
    """Build and run the jobs of a file, or those named; the exit code."""
    spec = read_jobs(app, path)
    names = _names(spec, only)
    entry = _entry(app)
    facts = local_run.facts_here(entry)
    local_run.require_tools(spec, probe.merge(entry, facts))
    folder = save_dir or FOLDER
    local_folder.make(folder, spec, path, clean=clean_save)
    # What is printed is the data; but a document, and names, stand alone on stdout.
    stream = (sys.stderr if app.json else sys.stdout).buffer

    def show(data: bytes) -> None:
        if not app.quiet:
            stream.write(data)
            stream.flush()

    running = local_run.LocalRun(spec, folder, entry, facts, who=app.user, tell=app.say, show=show)
    build, *jobs = _told(app, running, names)
    done = [job.name for job in jobs if job.state is State.DONE]
    app.say(f"{spec.name}: {len(done)} of {len(names)} jobs done; results: {running.folder}")
    content = {
        "name": spec.name,
        "results": str(running.folder),
        "build": build.as_data(),
        "jobs": [job.as_data() for job in jobs],
    }
    app.answer(document(local=content), str, done)
    if running.interrupted:
        return INTERRUPTED
    return 0 if len(done) == len(names) else 1


def _told(app: App, running: local_run.LocalRun, names: Sequence[str]) -> list[local_run.Step]:
    steps = []
    with _hearing():
        for step in running.run(names):
            code = f", exit {step.exit_code}" if step.exit_code else ""
            app.say(f"{step.name}: {step.state}{code} in {format_duration(step.seconds)}")
            steps.append(step)
    return steps


@contextmanager
def _hearing() -> Iterator[None]:
    """Take a closed terminal, and TERM, for Ctrl-C: what runs is in sessions of its own, and would go on."""
    # Under nohup a hangup stays ignored.
    heard = [each for each in (signal.SIGHUP, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _names(spec: BatchSpec, only: Sequence[str]) -> list[str]:
    """The names of the jobs to run. Raises NoMatchError."""
    known = {key(job.name): job.name for job in spec.jobs}
    for name in only:
        if key(name) not in known:
            raise no_match("job in the file", name, known.values(), f"it has {len(known)} jobs")
    wanted = {key(name) for name in only} or set(known)
    return [name for each, name in known.items() if each in wanted]


def _entry(app: App) -> NodeEntry:
    """This machine, as the inventory has it if it is a node."""
    known = (entry for entry in app.nodes.nodes if entry.connection == "local")
    return replace(next(known, inventory.default(app.places).nodes[0]), slots=1)
