"""Going on where an earlier call was stopped: what lies in an attempt's `.part-` folder, and what of it is good."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distribute_ssh.errors import StorageError
from distribute_ssh.node.link import Link
from distribute_ssh.storage import manifest
from distribute_ssh.storage.folder import Storage, trouble
from distribute_ssh.storage.gathering import Difference, Gathering
from distribute_ssh.storage.listing import SECOND, Item
from distribute_ssh.storage.publish import read_all
from distribute_ssh.storage.source import PREFIX_SUMS, request

if TYPE_CHECKING:
    from hashlib import _Hash

WORTH_IT = 8 << 20  # bytes from which on it is worth asking whether a file's beginning is here already
PIECE = 4 << 20
SLOWEST = 10e6  # bytes a second that a node's disk and sha256sum reach together, at worst


async def take_over(storage: Storage, gathering: Gathering) -> None:
    """See what an earlier call left of an attempt. A file counts as whole only where the journal says so."""
    vouched: dict[bytes, tuple[Item, str]] = {}
    try:
        try:
            vouched, gathering.journal_size = manifest.read_journal(await read_all(storage, gathering.journal))
            gathering.has_journal = True
        except FileNotFoundError:
            pass  # it was stopped before the first was written
        tree = await storage.tree(gathering.part)
        links = [gathering.at(path) for path, entry in tree.items() if entry.kind == "l"]
        targets = await storage.readlinks(links) if links else {}
    except OSError as error:
        gathering.fail(trouble(storage.name, gathering.journal, error))
        return
    except StorageError as error:
        gathering.fail(error)
        return
    for path, entry in tree.items():
        item, sha256 = vouched.get(path, (None, ""))
        if entry.kind == "l":
            gathering.have[path] = Item("l", target=targets.get(gathering.at(path), b""))
        elif item is not None and (entry.kind, entry.size, entry.mtime) == ("f", item.size, item.mtime_ns // SECOND):
            gathering.got(path, item, sha256)
        else:
            gathering.have[path] = Item(entry.kind, entry.size, -1)


async def begun(
    link: Link, attempts: bytes, storage: Storage, todo: Mapping[Gathering, Difference]
) -> dict[tuple[Gathering, bytes], tuple[int, _Hash]]:
    """Of big files that were cut off: how many bytes are here that the node has too, and their hash so far."""
    candidates = [
        (gathering, path, gathering.have[path].size)
        for gathering, wanted in todo.items()
        for path in wanted.files
        if (there := gathering.have.get(path)) is not None
        and there.kind == "f"
        and WORTH_IT <= there.size <= gathering.wanted[path].item.size
    ]
    if not candidates:
        return {}
    asked = b"".join(b"%d\0%s\0" % (size, g.wanted[path].source) for g, path, size in candidates)
    limit = 60 + sum(size for *_, size in candidates) / SLOWEST
    question = request(attempts, ()) + asked
    answered = asyncio.create_task(link.run(PREFIX_SUMS, stdin=question, limit=limit), name="hashes on the node")
    try:
        here = [await _hash(storage, g.at(path), size) for g, path, size in candidates]
        there_sums = [line.split(b" ")[0].decode("ascii", "replace") for line in (await answered).stdout.splitlines()]
    finally:
        answered.cancel()
        await asyncio.gather(answered, return_exceptions=True)
    return {
        (g, path): (size, digest)
        for (g, path, size), digest, there_sum in zip(candidates, here, there_sums, strict=False)
        if digest is not None and digest.hexdigest() == there_sum
    }


async def _hash(storage: Storage, path: bytes, size: int) -> _Hash | None:
    digest = hashlib.sha256()
    offset = 0
    try:
        while offset < size and (piece := await storage.read(path, offset, min(PIECE, size - offset))):
            await asyncio.to_thread(digest.update, piece)
            offset += len(piece)
    except OSError:
        return None  # it is fetched anew, and says so if it cannot be written either
    return digest if offset == size else None
