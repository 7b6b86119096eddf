"""Making what was gathered appear, whole or not at all, and never in the place of something else."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from distribute_ssh.errors import StorageError
from distribute_ssh.model import layout
from distribute_ssh.storage import manifest
from distribute_ssh.storage.folder import Failures, Small, Stamp, Storage, trouble
from distribute_ssh.storage.gathering import JOURNAL, RECORD, Gathering

PIECE = 1 << 20
FOLDER_MODE = 0o755


async def publish(storage: Storage, gatherings: Sequence[Gathering]) -> None:
    """Publish those that are whole: record, sync, rename, sync. Each ends published or with its error."""
    ready = [gathering for gathering in gatherings if gathering.whole and gathering.error is None]
    texts: dict[Gathering, bytes] = {}
    for gathering in ready:
        contents = gathering.contents()
        gathering.files, gathering.bytes = len(contents.files), contents.size
        if gathering.parcel.folder is not None:
            parcel = gathering.parcel
            texts[gathering] = await asyncio.to_thread(manifest.build, parcel.token, parcel.record, contents)
    ready = _failing(storage, ready, await storage.put([Small(g.at(RECORD), text) for g, text in texts.items()]))
    ready = _failing(storage, ready, await storage.stamp([stamp for g in ready for stamp in _stamps(g)]))
    if not ready:
        return
    await storage.sync([gathering.part for gathering in ready])
    taken = await storage.stat([gathering.final for gathering in ready])
    for gathering in [gathering for gathering in ready if gathering.final in taken]:
        if gathering.parcel.folder is None and await _same(storage, gathering):
            await _forget(storage, [gathering])
            gathering.published = gathering.sums[gathering.output_name]
        else:
            await _move_away(storage, gathering)
    ready = [gathering for gathering in ready if gathering.error is None and gathering.published is None]
    moves = [(g.part if g.parcel.folder is not None else g.at(g.output_name), g.final) for g in ready]
    ready = _failing(storage, ready, await storage.rename(moves))
    if not ready:
        return
    await storage.sync_names(list(dict.fromkeys(gathering.base for gathering in ready)))
    for gathering in ready:
        text = texts.get(gathering)
        gathering.published = (
            gathering.sums[gathering.output_name] if text is None else hashlib.sha256(text).hexdigest()
        )
    await _forget(storage, ready)


def _stamps(gathering: Gathering) -> Iterator[Stamp]:
    if gathering.parcel.folder is None:
        return
    folders = [(path, wanted.item) for path, wanted in gathering.wanted.items() if wanted.item.kind == "d"]
    for path, item in sorted(folders, key=lambda pair: -pair[0].count(b"/")):
        yield Stamp(gathering.at(path), item.mode, item.mtime_ns)
    yield Stamp(gathering.part, FOLDER_MODE)


def _failing(storage: Storage, gatherings: Sequence[Gathering], failures: Failures) -> list[Gathering]:
    """Give the failures to whom they belong; returns who is left."""
    by_part = {gathering.part: gathering for gathering in gatherings}
    for path, error in failures.items():
        part = b"/".join(path.split(b"/")[:3])
        by_part[part].fail(trouble(storage.name, path, error))
    return [gathering for gathering in gatherings if gathering.error is None]


async def _forget(storage: Storage, gatherings: Sequence[Gathering]) -> None:
    """Remove what is only of use until an attempt is published; what stays behind does no harm."""
    leftovers = [gathering.journal for gathering in gatherings if gathering.has_journal]
    for gathering in gatherings:
        if gathering.parcel.folder is None:
            leftovers += [gathering.at(gathering.output_name), gathering.part]
    if leftovers:
        await storage.remove(leftovers)


async def _same(storage: Storage, gathering: Gathering) -> bool:
    """Whether a build's output lies there already: published, and then we were stopped before noting it."""
    try:
        return await sha256(storage, gathering.final) == gathering.sums[gathering.output_name]
    except OSError:
        return False


async def _move_away(storage: Storage, gathering: Gathering) -> None:
    try:
        if gathering.parcel.folder is None:
            stem, dot, suffix = gathering.final.rpartition(b".")
            await _rename(storage, gathering.final, (b"%s@%d%s%s" % (stem, n, dot, suffix) for n in count(1)))
        else:
            await set_aside(storage, gathering.parcel.namespace, gathering.parcel.batch, gathering.parcel.folder)
    except StorageError as error:
        gathering.fail(error)


async def _rename(storage: Storage, old: bytes, names: Iterable[bytes]) -> bytes:
    """Give `old` the first of `names` that is free."""
    for new in names:
        if not await storage.stat([new]):
            for path, error in (await storage.rename([(old, new)])).items():
                raise trouble(storage.name, path, error)
            return new
    raise AssertionError("there is always one more name")


async def set_aside(storage: Storage, namespace: str, batch: str, job: str) -> str:
    """Move a job's results to `JOB@attempt-N` (`-2`, `-3` where that is taken); returns the new name.

    N is the attempt its `job.json` tells, 0 where it tells none. Raises StorageError.
    """
    base = f"{namespace}/{batch}".encode()
    found = await attempt_of(storage, base + b"/" + job.encode())
    name = layout.aside(job, (found[1] if found else None) or 0).encode()
    names = (base + b"/" + name + (b"" if n == 1 else b"-%d" % n) for n in count(1))
    new = await _rename(storage, base + b"/" + job.encode(), names)
    await storage.sync_names([base])
    return new.rpartition(b"/")[2].decode()


async def discard(storage: Storage, namespace: str, batch: str, token: str) -> None:
    """Remove what was brought of an attempt that was given up before it was published. Raises StorageError."""
    part = f"{namespace}/{batch}/{layout.part_folder(token)}".encode()
    if part not in await storage.stat([part]):
        return
    tree = await storage.tree(part)
    inner = sorted(tree, key=lambda path: (-path.count(b"/"), path))
    failures = await storage.remove([*(part + b"/" + path for path in inner), part, part + JOURNAL])
    for path, error in failures.items():
        raise trouble(storage.name, path, error)


async def attempt_of(storage: Storage, folder: bytes) -> tuple[str, int | None] | None:
    """The token and number of the attempt whose results lie in `folder`; None where that cannot be known."""
    try:
        return manifest.head(await storage.read(folder + b"/" + RECORD, 0, manifest.HEAD_BYTES))
    except OSError:
        return None


async def read_all(storage: Storage, path: bytes) -> bytes:
    """A whole file. Raises OSError."""
    pieces: list[bytes] = []
    while piece := await storage.read(path, sum(map(len, pieces)), PIECE):
        pieces.append(piece)
    return b"".join(pieces)


async def sha256(storage: Storage, path: bytes) -> str:
    """The hash of a file in storage. Raises OSError."""
    digest = hashlib.sha256()
    offset = 0
    while piece := await storage.read(path, offset, PIECE):
        await asyncio.to_thread(digest.update, piece)
        offset += len(piece)
    return digest.hexdigest()
