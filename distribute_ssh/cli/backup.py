"""`backup` and `recover`: the queue put away in time, and made anew when it was not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Here
from distribute_ssh.errors import BusyError, NoMatchError, StoreError, UsageError
from distribute_ssh.model.units import format_duration, format_size
from distribute_ssh.views.document import document
from distribute_ssh.views.recovery import plan_text
from distribute_ssh.views.text import count, safe

if TYPE_CHECKING:
    from distribute_ssh.recovery import Plan


@click.command(cls=Here)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.pass_obj
def backup(app: App, file: Path, force: bool) -> None:
    """Write a copy of the queue to FILE, whole as of one moment, whoever works on it meanwhile.

    The submitters' files and the results are not in it.
    """
    from distribute_ssh.store import schema

    _refuse_elsewhere(app)
    database = app.places.database
    if not app.has_queue:
        raise NoMatchError(f"there is no queue at {database}", hint="`distribute where` shows where it is looked for")
    target = file.absolute()
    if target.is_dir() or target.resolve() == database.resolve():
        raise UsageError(f"{file} is {'a folder' if target.is_dir() else 'the queue itself'}", hint="name a new file")
    if target.exists() and not target.is_file():  # to replace /dev/null would break the machine
        raise UsageError(f"{file} is no file", hint="name a new file")
    if target.exists() and not force:
        raise UsageError(f"{file} is there already", hint="name a new file, or say --force")
    batches = len(app.queue.batches())
    try:
        with schema.plain_errors(database):
            schema.copy(database, target)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    size = target.stat().st_size
    app.answer(
        document(backup=str(target), bytes=size, batches=batches),
        lambda: f"{safe(str(target))}: {count(batches, 'batch')}, {format_size(size)}\n",
        [str(target)],
    )
    app.say(
        f"to go back to it: end what drives the queue, `install -m 600 {safe(str(target))} {safe(str(database))}`,"
        f" and remove {safe(database.name)}-journal and -wal if they are there"
    )


@click.command(cls=Here)
@click.option("--queue", metavar="ID", help="Which queue was lost, where storage has batches of several.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def recover(app: App, queue: str | None, yes: bool) -> int:
    """Make a queue anew that was lost or damaged, from what storage holds; says what it would do, and asks.

    Where there is a backup, that is the better way.
    """
    from distribute_ssh.store.restoring import restore

    _refuse_elsewhere(app)
    with _alone(app):
        aside = _put_aside(app)
        found = asyncio.run(_plan(app, queue))
        content = document(recovered=found.as_data())
        tell = app.say if yes else app.warn  # who is asked has to see it
        tell(plan_text(content["recovered"], aside.name if aside else None))
        if not app.confirm("make this the queue?", yes=yes):
            app.say("nothing was changed")
            return 1
        restore(
            app.places.database, found.queue, found.batches,
            who=app.user, now=time.time(), patience=app.nodes.lost_after, aside=aside,
        )  # fmt: skip
    names = [batch.name for batch in found.batches]
    app.answer(content, lambda: f"{count(len(names), 'batch')} brought back into {app.places.database}\n", names)
    app.say(
        "what nodes are still at goes on when the queue is driven: distribute runner. Waiting jobs start once every"
        f" node has told what it holds, at the latest in {format_duration(app.nodes.lost_after)}\n"
        "Drained nodes, pauses, holds and the history went with the old queue"
    )
    return 0


@contextlib.contextmanager
def _alone(app: App) -> Iterator[None]:
    """Nobody drives a queue here meanwhile. Raises BusyError."""
    from distribute_ssh.store.lock import CoordinatorLock

    app.places.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = CoordinatorLock(app.places.lock)
    if not lock.acquire():
        raise BusyError("a coordinator drives the queue", hint="end it first; what runs on the nodes runs on")
    try:
        yield
    finally:
        lock.release()


def _put_aside(app: App) -> Path | None:
    """What the file that lies in the queue's place is to be called; None where there is none.

    Raises UsageError where it is a queue in order that holds something.
    """
    from distribute_ssh.store import schema
    from distribute_ssh.store.queue import Queue

    path = app.places.database
    if not path.exists():
        return None
    what = "empty"
    try:
        with contextlib.closing(Queue.open(path, check=True)) as there:
            batches = there.batches()
    except StoreError as error:
        if not schema.is_damaged(error):
            raise
        batches, what = [], "damaged"
    if batches:
        raise UsageError(
            f"the queue {path} is in order and has {count(len(batches), 'batch')}, {batches[0].name} among them",
            hint="if it is the wrong one, move it away and try again; its batches are to be submitted again then",
        )
    return path.with_name(f"{path.name}.{what}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")


async def _plan(app: App, queue: str | None) -> Plan:
    from distribute_ssh.cli.stored import open_stored
    from distribute_ssh.recovery import collect, plan
    from distribute_ssh.store.spool import Spool

    async with open_stored(app) as storage:
        found = await collect(storage)
    spool = Spool(app.places.spool)
    return plan(found, lambda sha256: spool.path_of(sha256).is_file(), queue)


def _refuse_elsewhere(app: App) -> None:
    """Raise UsageError where another machine's queue is meant: done here, it would be done to the wrong one."""
    if at := app.away:
        raise UsageError(
            f"the queue is on {at.name}", hint="type it there; `--head none` means the one of this machine"
        )
