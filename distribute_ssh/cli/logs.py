"""`logs`: what a job or a build printed, from its node while it runs and from storage afterwards."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import click

from distribute_ssh.cli.app import App, write
from distribute_ssh.cli.group import Verb
from distribute_ssh.cli.names import complete_batch, find_batch, find_job
from distribute_ssh.coordination.coordinator import open_link
from distribute_ssh.errors import NoMatchError, UsageError
from distribute_ssh.model import layout
from distribute_ssh.model.job import ACTIVE, OUTCOMES, Batch, BuildState, Job
from distribute_ssh.node.connection import Connector, KnownHosts
from distribute_ssh.node.link import Link
from distribute_ssh.storage.folder import Storage, open_storage
from distribute_ssh.views.document import document, dump
from distribute_ssh.views.output import Output

FOLLOW = 0.5  # seconds between two looks at a log that grows
PIECE = 4 << 20  # bytes asked for at once: a log may be larger than our memory
DETACHED = 130
_ABSENT = 3

_Read = Callable[[int, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a log is now."""

    in_storage: bytes  # path below storage
    node: str | None = None  # the node that has it; None: it is in storage
    token: str | None = None  # of its folder there
    is_whole: bool = False  # nothing will be added to it


@click.command(cls=Verb)
@click.argument("batch", shell_complete=complete_batch)
@click.argument("job", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends; Ctrl-C detaches, and ends nothing.")
@click.option("-n", "--lines", type=click.IntRange(0), metavar="N", help="Only the last N lines, and what follows.")
@click.option("--build", metavar="NODE", help="What the build of the batch printed on that node.")
@click.pass_obj
def logs(app: App, batch: str, job: str | None, follow: bool, lines: int | None, build: str | None) -> int:
    """Show what a job printed, stdout and stderr in order; also while it runs."""
    if (job is None) == (build is None):
        raise UsageError("name a job, or a node with --build", hint="distribute logs BATCH JOB")
    found = find_batch(app, batch)
    app.permit_reading(found)
    where = _build_finder(app, found, build) if build else _job_finder(app, found, find_job(app, found, job or ""))
    try:
        asyncio.run(_show(app, where, follow, lines))
    except KeyboardInterrupt:
        app.say("\ndetached; nothing was ended")
        return DETACHED
    return 0


def _job_finder(app: App, batch: Batch, job: Job) -> Callable[[], Place | None]:
    def find() -> Place | None:
        now = app.queue.job_by_id(job.id) or job
        attempt = next((a for a in app.queue.attempts(job.id) if a.number == now.attempt), None)
        name = now.name
        path = "/".join([batch.namespace, batch.batch, name, layout.job_output(name)]).encode()
        if now.state in OUTCOMES:
            if attempt is None:
                raise NoMatchError(f"{name} never ran", hint=f"distribute explain {batch.name} {name}")
            return Place(path, is_whole=True)
        if now.state in ACTIVE and attempt is not None:
            return Place(path, attempt.node, attempt.token)
        return None

    return find


def _build_finder(app: App, batch: Batch, node: str) -> Callable[[], Place | None]:
    name = app.known_nodes.node(node).name
    path = "/".join([batch.namespace, batch.batch, layout.build_output(batch.batch, name)]).encode()

    def find() -> Place | None:
        builds = [build for build in app.queue.builds(batch.id) if build.node == name]
        if not builds:
            raise NoMatchError(f"{batch.name} was never built on {name}", hint=f"distribute explain {batch.name}")
        last = builds[-1]
        if last.log_kept or last.state in (BuildState.STALE, BuildState.WIPED):
            return Place(path, is_whole=True)
        return Place(path, name, last.token)

    return find


async def _show(app: App, find: Callable[[], Place | None], follow: bool, lines: int | None) -> None:
    printer = _Printer(app, follow)
    async with AsyncExitStack() as stack:
        sources = _Sources(app, stack)
        offset, token = 0, None
        first = True
        while True:
            place = find()
            if place is None and not follow:
                app.say("it has printed nothing yet: it waits for a node")
            if place is not None:
                if place.token is not None and place.token != token:
                    # Another attempt begins its log anew.
                    offset, first, token = 0, True, place.token
                read = await sources.reader(place)
                if first and lines is not None:
                    offset = await _start_of_last(lines, read)
                while piece := await read(offset, PIECE):
                    first = False
                    offset += len(piece)
                    printer.print(piece)
            if not follow or (place is not None and place.is_whole):
                break
            await asyncio.sleep(FOLLOW)
    printer.end()


class _Sources:
    """Storage and nodes, each opened once and when it is needed."""

    def __init__(self, app: App, stack: AsyncExitStack) -> None:
        self._app = app
        self._stack = stack
        self._connector = Connector(KnownHosts(app.places.known_hosts), app.nodes.ssh_config)
        stack.push_async_callback(self._connector.close)
        self._links: dict[str, Link] = {}
        self._storage: Storage | None = None

    async def reader(self, place: Place) -> _Read:
        """What reads the log at its place: a piece from an offset on; nothing where there is no log."""
        if place.node is None or place.token is None:
            return await self._in_storage(place.in_storage)
        return await self._on_node(place.node, place.token)

    async def _in_storage(self, path: bytes) -> _Read:
        if self._storage is None:
            opened = open_storage(self._app.nodes.storage, self._connect)
            self._storage = await self._stack.enter_async_context(opened)
        storage = self._storage
        is_there = path in await storage.stat([path])

        async def read(offset: int, size: int) -> bytes:
            return await storage.read(path, offset, size) if is_there else b""

        return read

    async def _connect(self, host: str, *, user: str | None, port: int | None) -> Link:
        return await self._connector.open("storage", host, user=user, port=port)

    async def _on_node(self, node: str, token: str) -> _Read:
        entry = self._app.known_nodes.node(node)
        link = self._links.get(node)
        if link is None or not link.is_open:
            link = self._links[node] = await open_link(entry, self._connector)
            self._stack.push_async_callback(link.close)
        name = f"{layout.attempt_folder(token)}/{layout.OUTPUT}"
        assert layout.is_token(token), token
        places = shlex.quote(entry.scratch) if entry.scratch else '/scratch /var/tmp "$HOME/.cache"'
        find = f'for place in {places}; do file=$place/distribute-$(id -u)/{name}; [ -f "$file" ] && break; done\n'

        async def read(offset: int, size: int) -> bytes:
            script = f'[ -f "$file" ] || exit {_ABSENT}\ntail -c +{offset + 1} "$file" | head -c {size}'
            return (await link.run(find + script, limit=120)).stdout

        return read


async def _start_of_last(lines: int, read: _Read) -> int:
    """Where the last `lines` lines begin; all of the log is read for that once, but never held."""
    starts, offset = [0], 0
    while piece := await read(offset, PIECE):
        at = -1
        while (at := piece.find(b"\n", at + 1)) >= 0:
            starts.append(offset + at + 1)
        del starts[: -lines - 1]
        offset += len(piece)
    if starts[-1] != offset:  # the last line has no end yet
        starts.append(offset)
    return starts[max(len(starts) - lines - 1, 0)]


class _Printer:
    """To stdout: as it is for a pipe, made harmless for a terminal, in documents for programs."""

    def __init__(self, app: App, follows: bool) -> None:
        self._app = app
        self._follows = follows
        self._output = Output()
        self._pieces: list[bytes] = []

    def print(self, piece: bytes) -> None:
        """Show one more piece."""
        if self._app.json and not self._follows:
            self._pieces.append(piece)
        elif self._app.json:
            write(sys.stdout, dump(self._document(piece)) + "\n")
        elif sys.stdout.isatty():
            write(sys.stdout, self._output.feed(piece))
        else:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    def end(self) -> None:
        """Show what was kept back for one document."""
        if self._app.json and not self._follows:
            write(sys.stdout, dump(self._document(b"".join(self._pieces))) + "\n")

    def _document(self, piece: bytes) -> dict[str, Any]:
        return document(text=piece.decode("utf-8", "replace"))
