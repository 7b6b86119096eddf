"""`verify`: does storage still hold what the records of a batch say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, no_match
from distribute_ssh.cli.stored import Named, open_stored
from distribute_ssh.errors import NoMatchError
from distribute_ssh.model.job import State
from distribute_ssh.model.layout import JOB_RECORD
from distribute_ssh.storage.selection import text_of
from distribute_ssh.views.document import document
from distribute_ssh.views.pulling import verified_text

if TYPE_CHECKING:
    from distribute_ssh.storage.folder import Storage

JOBS_AT_ONCE = 4

Problem = dict[str, str]


@click.command(cls=Verb)
@click.argument("batch", shell_complete=complete_batch)
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.pass_obj
def verify(app: App, batch: str, jobs: tuple[str, ...]) -> int:
    """Compare every file of a batch in storage, byte for byte, with the sha256 in its job's record.

    Names what differs, is missing or was added. All of the batch is read.
    """
    named = Named(app, batch)

    async def act() -> tuple[list[str], list[Problem]]:
        async with open_stored(app) as storage:
            await named.permit_reading(app, storage)
            return await _compare(storage, named, jobs)

    compared, problems = asyncio.run(act())
    if named.batch is not None and not jobs:
        done = [job.name for job in app.queue.jobs(named.batch.id) if job.state is State.DONE]
        problems += [_problem(name, "is done, and has no results") for name in done if name not in compared]
    content = {"batch": str(named), "jobs": compared, "problems": problems}
    app.answer(document(verified=content), lambda: verified_text(content), dict.fromkeys(p["job"] for p in problems))
    return 1 if problems else 0


async def _compare(storage: Storage, named: Named, wanted: tuple[str, ...]) -> tuple[list[str], list[Problem]]:
    from distribute_ssh.storage import check
    from distribute_ssh.storage.results import StoredResults, checked
    from distribute_ssh.storage.together import each

    results = StoredResults(storage, named.namespace, named.name)
    try:
        tree, _ = checked(results.name, await results.listing())
    except NoMatchError:
        raise named.unknown or NoMatchError(f"{named} has no results in {storage.name}") from None
    folders = [text_of(path) for path, item in tree.items() if item.kind == "d" and b"/" not in path]
    if wanted:
        known = {name.casefold(): name for name in folders}
        for name in wanted:
            if name.casefold() not in known:
                raise no_match(
                    f"job in {named}", name, folders, f"`distribute pull --list {named}` shows what is there"
                )
        folders = [known[name.casefold()] for name in wanted]
    problems: list[Problem] = []

    async def look(job: str) -> None:
        if (job + "/" + JOB_RECORD).encode("utf-8", "surrogateescape") not in tree:
            problems.append(_problem(job, f"has no {JOB_RECORD}: what lies in it cannot be verified"))
            return
        found = await check.verify(storage, named.namespace, named.name, job)
        problems.extend(_problem(job, each.what, each.path) for each in found)

    await each(folders, look, JOBS_AT_ONCE)
    return sorted(folders), sorted(problems, key=lambda each: (each["job"], each["path"]))


def _problem(job: str, what: str, path: str = "") -> Problem:
    return {"job": job, "path": path, "what": what}
