"""Names on the command line: a batch by name or by its jobs file; jobs of a batch; nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distribute_ssh.cli.app import App
from distribute_ssh.errors import NoMatchError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from distribute_ssh.model.job import Batch, Job


def complete_batch(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the batches of the queue, or files."""
    from click.shell_completion import CompletionItem

    app = context.find_object(App) or App()
    known = [batch.name for batch in app.queue.batches()] if app.has_queue else []
    found = [CompletionItem(name) for name in known if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def find_batch(app: App, text: str) -> Batch:
    """The batch somebody means. Raises NoMatchError with the nearest names, UsageError where several have it."""
    # What came from elsewhere names no file of ours.
    name = (of_file(text) if app.actor is None else None) or text
    if "/" in name and app.has_queue and (found := app.queue.batch(name)):
        return found
    known = [batch.name for batch in app.queue.batches()] if app.has_queue else []
    if "/" not in name:
        same = [each for each in known if each.partition("/")[2].casefold() == name.casefold()]
        if len(same) > 1:
            raise UsageError(f"{name!r} is the name of several batches", hint=f"say which: {', '.join(same)}")
        name = same[0] if same else name
    found = app.queue.batch(name) if app.has_queue else None
    if found is None:
        raise no_match("batch", name, known, "`distribute status` shows all batches")
    return found


def of_file(text: str) -> str | None:
    """The batch of a jobs file; None for what is no file."""
    path = Path(text)
    if not (path.suffix in (".yaml", ".yml") or path.is_file()):
        return None
    from distribute_ssh.model import jobsfile

    return "/".join(jobsfile.reference(path))


def find_job(app: App, batch: Batch, name: str) -> Job:
    """The job of a batch somebody names. Raises NoMatchError with the nearest name."""
    found = app.queue.job(batch.id, name)
    if found is None:
        known = [job.name for job in app.queue.jobs(batch.id)]
        raise no_match(f"job in {batch.name}", name, known, f"`distribute status {batch.name}` shows its jobs")
    return found


def find_jobs(known: Iterable[str], wanted: Sequence[str], batch: str) -> list[str]:
    """The jobs of a batch somebody names, spelled as in the batch. Raises NoMatchError with the nearest name."""
    names = {name.casefold(): name for name in known}
    for name in wanted:
        if name.casefold() not in names:
            raise no_match(f"job in {batch}", name, names.values(), f"`distribute status {batch}` shows its jobs")
    return [names[name.casefold()] for name in wanted]


def no_match(what: str, name: str, known: Iterable[str], otherwise: str) -> NoMatchError:
    """Nothing is called `name`; say what is nearest to it."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 3, 0.5)
    return NoMatchError(
        f"there is no {what} named {name!r}", hint=f"did you mean {' or '.join(near)}?" if near else otherwise
    )
