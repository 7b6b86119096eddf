"""Storage as commands open it, and batches that may be in the queue, in storage, or in both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from distribute_ssh.cli.app import App
from distribute_ssh.cli.names import find_batch, of_file
from distribute_ssh.errors import DeniedError, NoMatchError
from distribute_ssh.model.job import OUTCOMES
from distribute_ssh.storage.selection import wrong_name

if TYPE_CHECKING:
    from distribute_ssh.head.fetching import Offered
    from distribute_ssh.head.gateway import Wire
    from distribute_ssh.model.job import Batch
    from distribute_ssh.storage.folder import Storage


def open_stored(app: App) -> AbstractAsyncContextManager[Storage]:
    """Open the inventory's storage. Raises StorageError, and what `open_storage` does."""
    from distribute_ssh.storage.opening import open_named

    return open_named(app.nodes, app.places)


class Named:
    """A batch somebody named: its name in full, and what the queue knows of it, which may be nothing."""

    def __init__(self, app: App, text: str) -> None:
        self.batch: Batch | None = None
        self.unknown: NoMatchError | None = None
        name = (of_file(text) if app.actor is None else None) or text
        try:
            self.batch = find_batch(app, text)
            name = self.batch.name
        except NoMatchError as error:
            namespace, slash, batch = name.partition("/")
            if not slash or wrong_name(namespace, batch):
                raise
            self.unknown = error  # results outlive the queue: storage may have them all the same
        self.namespace, _, self.name = name.partition("/")

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    async def permit_reading(self, app: App, storage: Storage) -> None:
        """Raise DeniedError where whoever acts may not have its results. Of a batch that the queue does not know, as
        after it was lost, storage tells whose it is.
        """
        from distribute_ssh.storage.batches import read_record

        if app.actor is None:
            return
        if self.batch is not None:
            app.permit_reading(self.batch)
            return
        record = await read_record(storage, self.namespace, self.name)
        definition = record.get("definition")
        batch = definition.get("batch") if isinstance(definition, dict) else None
        private = bool(batch.get("private")) if isinstance(batch, dict) else False
        submitter = record.get("submitter")
        if why := app.actor.why_not_read(submitter if isinstance(submitter, str) else "somebody", private):
            raise DeniedError(why)


@asynccontextmanager
async def open_results(app: App, text: str) -> AsyncIterator[Offered]:
    """Open the results of the batch somebody names, here or on the head.

    Raises NoMatchError, StorageError, and where there is a head HeadError and UnreachableError; listing them may, too.
    """
    from distribute_ssh.head.fetching import Offered, offered_by
    from distribute_ssh.storage.results import StoredResults

    if at := app.away:
        async with offered_by(at, app.places, of_file(text) or text) as offered:
            yield offered
        return
    named = Named(app, text)
    jobs = [] if named.batch is None else app.queue.jobs(named.batch.id)
    unfinished = [{"job": job.name, "state": str(job.state)} for job in jobs if job.state not in OUTCOMES]
    async with open_stored(app) as storage:
        await named.permit_reading(app, storage)
        # Where the queue does not know it either, what is nearest to the name is worth more than where we looked.
        results = StoredResults(storage, named.namespace, named.name, named.unknown, coming=bool(unfinished))
        yield Offered(results, str(named), unfinished)


async def give_results(app: App, wire: Wire, text: str) -> None:
    """Let a laptop have the results of the batch it names, until it hangs up."""
    from distribute_ssh.head.fetching import give

    async with open_results(app, text) as offered:
        await give(wire, offered)
