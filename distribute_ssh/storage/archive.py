"""Bringing what ended attempts saved on a node into storage: whole or not at all, many at a time, in few round trips.

One call handles a group of attempts of one node. A round is one command there: it lists them all, sends what storage
lacks as one tar stream, and lists them again; an attempt whose second list equals what was stored is published. What
tar did not bring, and big files that were cut off, come one by one through the node's files. Whatever ends a call, what
came stays in `.part-` folders, and the next call goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from distribute_ssh.errors import DistributeError, NodeError, StorageError
from distribute_ssh.node.files import Files
from distribute_ssh.node.link import Link
from distribute_ssh.storage import manifest, resume
from distribute_ssh.storage.folder import Failures, Small, Storage, trouble
from distribute_ssh.storage.gathering import EMPTY_SHA256, RECORD, TAIL, Gathering, Parcel
from distribute_ssh.storage.intake import Coming, Intake, Meter, Progress
from distribute_ssh.storage.listing import Saved, printable
from distribute_ssh.storage.publish import FOLDER_MODE, attempt_of, publish, read_all
from distribute_ssh.storage.source import open_source
from distribute_ssh.storage.tarstream import TarError

if TYPE_CHECKING:
    from distribute_ssh.node.probe import Facts

__all__ = ["Outcome", "Parcel", "Progress", "archive"]

ROUNDS = 3  # a file that changes in each of them is still being written: that is for a person to look at
BULK = 256 << 20  # bytes in one round, unless a single attempt has more


@dataclass(frozen=True, slots=True)
class Outcome:
    """How archiving of one attempt ended. Not published: `error` says why, and nothing is lost; try again."""

    token: str
    published: bool
    error: DistributeError | None = None
    last_line: str | None = None  # of what it printed
    bytes: int = 0
    files: int = 0
    manifest_sha: str | None = None  # of its job.json; of the output itself for a build

    @property
    def reason(self) -> str | None:
        """Why it was not published, for a person."""
        if self.error is None:
            return None
        return self.error.message + (f"; {self.error.hint}" if self.error.hint else "")


async def archive(
    link: Link,
    root: bytes,
    parcels: Sequence[Parcel],
    storage: Storage,
    *,
    facts: Facts,
    progress: Progress = lambda *_: None,
    reserve: int = 0,
) -> list[Outcome]:
    """Bring a group of ended attempts of one node into storage; outcomes in the order of `parcels`.

    `root`: the node's distribute folder, absolute. `facts`: whether the node has tar, and a find that prints what we
    need. `reserve`: bytes that stay free in storage. Troubles of the node or of storage are told in the outcomes;
    nothing is raised for them.
    """
    gatherings = [Gathering(parcel) for parcel in parcels]
    meter = Meter(progress)
    intake = Intake(storage, meter, reserve)
    node = _Node(link, root.rstrip(b"/") + b"/attempts", facts)
    try:
        await _prepare(storage, gatherings)
        while waiting := _next([g for g in gatherings if g.open and g.rounds < ROUNDS]):
            await publish(storage, await _round(node, storage, intake, waiting))
    except (NodeError, StorageError) as error:
        for gathering in gatherings:
            if gathering.published is None:
                gathering.fail(error)
    finally:
        await intake.close()
        await node.close()
    for gathering in gatherings:
        if gathering.open:
            gathering.fail(_unsteady(gathering, link.node))
    if any(gathering.error for gathering in gatherings):
        # Each outcome has its reason already; without the journal more is fetched again, that is all.
        with suppress(StorageError):
            await intake.save()
    meter.tell()
    return [await _outcome(storage, gathering) for gathering in gatherings]


class _Node:
    """The node's side of one call; its files over SFTP are opened when first needed."""

    def __init__(self, link: Link, attempts: bytes, facts: Facts) -> None:
        self.link = link
        self.name = link.node
        self.attempts = attempts
        self.has_tar = facts.has_tar
        self.has_find = facts.find_printf
        self._opened = AsyncExitStack()
        self._files: Files | None = None

    async def files(self) -> Files:
        """The node's files."""
        if self._files is None:
            self._files = await self._opened.enter_async_context(self.link.files())
        return self._files

    async def close(self) -> None:
        """Close what was opened."""
        await self._opened.aclose()


async def _prepare(storage: Storage, gatherings: Sequence[Gathering]) -> None:
    """See what is in storage of each already: all of it, a part, nothing."""
    paths = [path for g in gatherings for path in (g.final, g.part)]
    there = await storage.stat(paths)
    for gathering in gatherings:
        if gathering.final in there and gathering.parcel.folder is not None:
            found = await attempt_of(storage, gathering.final)
            if found is not None and found[0] == gathering.parcel.token:
                await _published_before(storage, gathering)
                continue
        if gathering.part in there:
            await resume.take_over(storage, gathering)
    fresh = [gathering for gathering in gatherings if gathering.open and gathering.part not in there]
    site = {path: None for g in fresh for path in (g.parcel.namespace.encode(), g.base)}
    failures = dict(await storage.make_folders(list(site), FOLDER_MODE)) if fresh else {}
    failures |= await storage.make_folders([g.part for g in fresh if g.base not in failures]) if fresh else {}
    for gathering in fresh:
        for path in (gathering.parcel.namespace.encode(), gathering.base, gathering.part):
            if path in failures:
                gathering.fail(trouble(storage.name, path, failures[path]))


async def _published_before(storage: Storage, gathering: Gathering) -> None:
    """It was published, and then we were stopped before that was noted."""
    try:
        text = await read_all(storage, gathering.final + b"/" + RECORD)
        contents = manifest.parse(text)
    except (OSError, manifest.ManifestError) as error:
        gathering.fail(StorageError(f"storage: {printable(gathering.final)}/job.json cannot be read: {error}"))
        return
    gathering.files, gathering.bytes = len(contents.files), contents.size
    gathering.published = hashlib.sha256(text).hexdigest()
    await storage.remove([gathering.journal])


async def _round(node: _Node, storage: Storage, intake: Intake, gatherings: Sequence[Gathering]) -> Sequence[Gathering]:
    """List, fetch what storage lacks, list again; marks those that are whole. Returns whom it was about."""
    tokens = [gathering.parcel.token for gathering in gatherings]
    files = None if node.has_find else await node.files()
    async with open_source(node.link, files, node.attempts, tokens) as source:
        _tell(gatherings, await source.look(), node)
        gatherings = _next([gathering for gathering in gatherings if gathering.open])
        coming = await intake.admit(await _differences(node, storage, gatherings))
        stream: list[Coming] = []
        single: list[Coming] = []
        for one in coming:
            (stream if node.has_tar and one.gathering.rounds == 0 and not one.offset else single).append(one)
        for gathering in gatherings:
            gathering.rounds += 1
        if single:
            await intake.fetch(await node.files(), node.name, node.attempts, single)
        try:
            await source.receive([c.source for c in stream], intake.tar(stream))
        except TarError:
            return gatherings  # their next round fetches one by one
        _tell(gatherings, await source.look(), node)
    await intake.settle()
    for gathering in gatherings:
        gathering.whole = gathering.open and not gathering.difference()
    return gatherings


def _next(gatherings: Sequence[Gathering]) -> Sequence[Gathering]:
    """Whom a round is about: small ones first, and no more than `BULK` at once, for none to wait long for others.

    Those that were never listed count as small; the round asks again when it has listed them.
    """
    sizes = {gathering: gathering.missing() for gathering in gatherings}
    ordered = sorted(gatherings, key=sizes.__getitem__)
    sums = accumulate(sizes[gathering] for gathering in ordered)
    return [gathering for n, (gathering, total) in enumerate(zip(ordered, sums, strict=True)) if not n or total <= BULK]


def _tell(gatherings: Sequence[Gathering], saved: Mapping[str, Saved], node: _Node) -> None:
    for gathering in gatherings:
        if gathering.open:
            gathering.tell(saved[gathering.parcel.token], node.name)


async def _differences(node: _Node, storage: Storage, gatherings: Sequence[Gathering]) -> list[Coming]:
    """Remove what is not wanted, make folders, links and empty files; returns the files that have to come."""
    todo = {gathering: gathering.difference() for gathering in gatherings if gathering.open}
    begun = await resume.begun(node.link, node.attempts, storage, todo)

    def note(failures: Failures) -> None:
        for gathering in todo:
            for path in failures:
                if path.startswith(gathering.part + b"/"):
                    gathering.fail(trouble(storage.name, path, failures[path]))

    gone = [(g, path) for g, d in todo.items() for path in d.remove if (g, path) not in begun]
    if gone:
        note(await storage.remove([g.at(path) for g, path in gone]))
    for gathering, path in gone:
        del gathering.have[path]
    folders = [(g, path) for g, d in todo.items() for path in d.folders]
    if folders:
        note(await storage.make_folders([g.at(path) for g, path in folders]))
    links = {g.at(path): target for g, d in todo.items() for path, target in d.links.items()}
    if links:
        note(await storage.make_links(links))
    empty = [(g, path) for g, d in todo.items() for path in d.files if g.wanted[path].item.size == 0]
    if empty:
        items = {g.at(path): g.wanted[path].item for g, path in empty}
        note(await storage.put([Small(path, b"", item.mode, item.mtime_ns) for path, item in items.items()]))
    coming = []
    for gathering, wanted in todo.items():
        for path in (*wanted.folders, *wanted.links):
            gathering.have[path] = gathering.wanted[path].item
        for path in wanted.files:
            item, source = gathering.wanted[path].item, gathering.wanted[path].source
            if item.size == 0:
                gathering.got(path, item, EMPTY_SHA256)
            else:
                offset, digest = begun.get((gathering, path), (0, None))
                coming.append(Coming(gathering, path, item, source, offset, digest))
    return coming


def _unsteady(gathering: Gathering, node: str) -> NodeError:
    wanted = gathering.difference()
    paths = list(dict.fromkeys([*wanted.files, *wanted.folders, *wanted.links, *wanted.remove]))
    named = ", ".join(printable(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    return NodeError(
        f"{node}: files change while they are brought in: {named}",
        hint="something of the job still writes there; it goes on when that has ended",
    )


async def _outcome(storage: Storage, gathering: Gathering) -> Outcome:
    token = gathering.parcel.token
    if gathering.published is None:
        return Outcome(token, False, gathering.error)
    tail = gathering.tail or await _tail(storage, gathering)
    last_line = manifest.last_line(tail)
    return Outcome(token, True, None, last_line, gathering.bytes, gathering.files, gathering.published)


async def _tail(storage: Storage, gathering: Gathering) -> bytes:
    """The end of what it printed, from storage: an earlier call had brought it."""
    path = gathering.final
    if gathering.parcel.folder is not None:
        path += b"/" + gathering.output_name
    try:
        found = await storage.stat([path])
        return await storage.read(path, max(0, found[path].size - TAIL), TAIL) if path in found else b""
    except (OSError, StorageError):
        return b""  # it is published; a line to show is not worth an error
