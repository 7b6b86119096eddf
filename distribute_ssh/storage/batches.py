"""A batch's own files in storage, and its folder as a whole."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distribute_ssh.errors import NoMatchError, StorageError
from distribute_ssh.model import layout
from distribute_ssh.storage.folder import Small, Storage, trouble
from distribute_ssh.storage.gathering import RECORD
from distribute_ssh.storage.listing import printable
from distribute_ssh.storage.publish import FOLDER_MODE, read_all
from distribute_ssh.storage.results import StoredResults, checked
from distribute_ssh.storage.selection import wrong_name
from distribute_ssh.storage.together import each

REMOVED = b".removed-"  # what was removed has this before its name until all of it is gone
_LISTED_AT_ONCE = 4


async def write_batch_files(
    storage: Storage, namespace: str, batch: str, source: str, record: Mapping[str, Any]
) -> None:
    """Write `batch.yaml` (as submitted) and `batch.json` beside the job folders, each in place of the one before.

    Raises StorageError.
    """
    base = f"{namespace}/{batch}".encode()
    # Of a hundred thousand jobs it takes seconds: in a thread, or all connections would stand still.
    told = await asyncio.to_thread(json.dumps, record, indent=1)
    texts = {layout.BATCH_FILE: source.encode(), layout.BATCH_RECORD: told.encode() + b"\n"}
    fresh = {f"{namespace}/{batch}/.{name}.new".encode(): name for name in texts}
    failures = dict(await storage.make_folders([namespace.encode(), base], FOLDER_MODE))
    if not failures:
        failures |= await storage.remove(list(fresh))  # of a call that was cut short
        failures |= await storage.put([Small(path, texts[name]) for path, name in fresh.items()])
    if not failures:
        await storage.sync([base])
        failures |= await storage.rename([(path, base + b"/" + name.encode()) for path, name in fresh.items()])
    for path, error in failures.items():
        raise trouble(storage.name, path, error)
    await storage.sync_names([base])


async def rename_batch(storage: Storage, namespace: str, old: str, new: str) -> bool:
    """Move all results of a batch to another name of its namespace; False where there are none. Raises StorageError."""
    source, target = f"{namespace}/{old}".encode(), f"{namespace}/{new}".encode()
    found = await storage.stat([source, target])
    if source not in found:
        return False
    if target in found:
        raise StorageError(f"storage: {storage.name}/{printable(target)} is there already; nothing was moved")
    for path, error in (await storage.rename([(source, target)])).items():
        raise trouble(storage.name, path, error)
    await storage.sync_names([namespace.encode()])
    return True


@dataclass(frozen=True, slots=True)
class Stored:
    """What storage holds of a batch. `record`: its `batch.json`, where there is one that can be read."""

    namespace: str
    batch: str
    jobs: int  # that have results under their own name
    files: int
    bytes: int
    changed_ns: int
    record: Mapping[str, Any]


async def stored_batches(storage: Storage) -> list[Stored]:
    """All batches in storage, by name. Raises StorageError."""
    found: list[Stored] = []

    async def look(name: tuple[str, str]) -> None:
        try:
            found.append(await stored_batch(storage, *name))
        except NoMatchError:
            return  # it was removed meanwhile

    await each(await batch_names(storage), look, _LISTED_AT_ONCE)
    return sorted(found, key=lambda batch: (batch.namespace, batch.batch))


async def batch_names(storage: Storage) -> list[tuple[str, str]]:
    """Namespace and name of every folder that can be a batch's. Raises StorageError."""
    names = []
    for namespace in await _folders(storage, b""):
        names += [(namespace, batch) for batch in await _folders(storage, namespace.encode())]
    return [name for name in names if not wrong_name(*name)]


async def _folders(storage: Storage, path: bytes) -> list[str]:
    try:
        entries = await storage.scan(path)
    except NotADirectoryError:
        return []  # a link of the site to something else
    except OSError as error:
        raise trouble(storage.name, path, error) from error
    return [entry.name.decode("utf-8", "replace") for entry in entries if entry.kind in "dl"]


async def stored_batch(storage: Storage, namespace: str, batch: str) -> Stored:
    """One batch. Raises NoMatchError, StorageError."""
    results = StoredResults(storage, namespace, batch)
    tree, _ = checked(results.name, await results.listing())
    sizes = [item.size for item in tree.values() if item.kind == "f"]
    jobs = {path.partition(b"/")[0] for path in tree if path.endswith(b"/" + RECORD) and path.count(b"/") == 1}
    return Stored(
        namespace,
        batch,
        jobs=sum(b"@" not in job for job in jobs),
        files=len(sizes),
        bytes=sum(sizes),
        changed_ns=max((item.mtime_ns for path, item in tree.items() if b"/" not in path), default=0),
        record=await read_record(storage, namespace, batch),
    )


async def read_record(storage: Storage, namespace: str, batch: str) -> Mapping[str, Any]:
    """A batch's `batch.json`; empty where it has none, or none of ours."""
    try:
        found = json.loads(await read_all(storage, f"{namespace}/{batch}/{layout.BATCH_RECORD}".encode()))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


async def remove_batch(storage: Storage, namespace: str, batch: str) -> None:
    """Remove all results of a batch: out of sight at once, then file by file; what an earlier call did not get rid of
    goes too. Raises NoMatchError, StorageError.
    """
    base, path = namespace.encode(), f"{namespace}/{batch}".encode()
    away = base + b"/" + REMOVED + secrets.token_hex(6).encode()
    if path not in await storage.stat([path]):
        raise NoMatchError(f"{namespace}/{batch} has no results in {storage.name}")
    for old, error in (await storage.rename([(path, away)])).items():
        raise trouble(storage.name, old, error)
    await storage.sync_names([base])
    left = [base + b"/" + entry.name for entry in await storage.scan(base) if entry.name.startswith(REMOVED)]
    for folder in left:
        inner = sorted(await storage.tree(folder), key=lambda path: (-path.count(b"/"), path))
        for old, error in (await storage.remove([*(folder + b"/" + path for path in inner), folder])).items():
            raise trouble(storage.name, old, error)
    if len(await storage.scan(base)) == 0:
        await storage.remove([base])
