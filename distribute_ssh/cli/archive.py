"""`archive`: the batches in storage, and removing one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Family, Sections, Verb
from distribute_ssh.cli.names import complete_batch
from distribute_ssh.cli.stored import Named, open_stored
from distribute_ssh.errors import DeniedError, NoMatchError, UsageError
from distribute_ssh.model.units import format_size, iso
from distribute_ssh.views.document import document
from distribute_ssh.views.pulling import batches_text
from distribute_ssh.views.text import count

if TYPE_CHECKING:
    from distribute_ssh.storage.batches import Stored


class Archive(Family):
    """`distribute archive`."""

    sections: ClassVar[Sections] = {
        "Commands": {
            "list": ("archive", "Show the batches in storage, and its free space."),
            "rm": ("archive", "Remove the results of a batch from storage."),
        }
    }


@click.group(cls=Archive)
def archive() -> None:
    """Look after storage: what it holds, what may go."""


@click.command("list", cls=Verb)
@click.pass_obj
def list_(app: App) -> None:
    """Show the batches in storage with their sizes, and how much space is free there."""
    from distribute_ssh.storage.batches import stored_batches

    async def act() -> tuple[list[Stored], int, str]:
        async with open_stored(app) as storage:
            return await stored_batches(storage), await storage.free(b""), storage.name

    found, free, place = asyncio.run(act())
    known = {}
    if app.has_queue:
        known = {f"{each['namespace']}/{each['batch']}": each for each in app.queue.status()["batches"]}
    batches = [_entry(each, known.get(f"{each.namespace}/{each.batch}", each.record)) for each in found]
    room = free if free < 1 << 62 else None  # a server that cannot tell
    app.answer(
        document(storage=place, free=room, batches=batches),
        lambda: batches_text(batches, room, width=app.width),
        [each["name"] for each in batches],
    )


def _entry(stored: Stored, told: Any) -> dict[str, Any]:
    state, submitter = told.get("state"), told.get("submitter")
    return {
        "name": f"{stored.namespace}/{stored.batch}",
        "submitter": submitter if isinstance(submitter, str) else None,
        "state": state if isinstance(state, str) else None,
        "jobs": stored.jobs,
        "files": stored.files,
        "bytes": stored.bytes,
        "changed_at": iso(stored.changed_ns / 1e9) if stored.changed_ns else None,
    }


@click.command(cls=Verb)
@click.argument("batch", shell_complete=complete_batch)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rm(app: App, batch: str, yes: bool) -> int:
    """Remove all results of a batch from storage, for good.

    A batch that still works is refused. Its jobs stay in the queue's history; submitted again, they run again.
    """
    named = Named(app, batch)
    stored = asyncio.run(_find(app, named))
    app.say(f"{named}: {count(stored.jobs, 'job')}, {count(stored.files, 'file')}, {format_size(stored.bytes)}")
    if not app.confirm("remove these results for good?", yes=yes):
        app.say("nothing was removed")
        return 1
    if named.batch is not None:
        with app.queue.transaction() as change:
            if not change.remove_results(named.batch.id, app.user, time.time()):
                raise UsageError(
                    f"{named} still works, or something of it is on its way to storage",
                    hint=f"`distribute status {named}` shows what; `distribute kill {named}` ends it",
                )
    elif app.actor is not None:
        owner = stored.record.get("submitter")
        if why := app.actor.why_not_change(owner if isinstance(owner, str) else "somebody"):
            raise DeniedError(why)
    asyncio.run(_remove(app, named))
    content = {"name": str(named), "files": stored.files, "bytes": stored.bytes}
    app.answer(document(removed=content), lambda: f"removed {named}, {format_size(stored.bytes)}\n", [str(named)])
    return 0


async def _find(app: App, named: Named) -> Stored:
    from distribute_ssh.storage.batches import stored_batch

    async with open_stored(app) as storage:
        try:
            return await stored_batch(storage, named.namespace, named.name)
        except NoMatchError:
            if named.unknown:
                raise named.unknown from None
            raise


async def _remove(app: App, named: Named) -> None:
    from distribute_ssh.storage.batches import remove_batch

    async with open_stored(app) as storage:
        await remove_batch(storage, named.namespace, named.name)
