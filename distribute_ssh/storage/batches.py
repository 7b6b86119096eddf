"""A batch's own files in storage, and its folder as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distribute_ssh.errors import StorageError
from distribute_ssh.model import layout
from distribute_ssh.storage.folder import Small, Storage, trouble
from distribute_ssh.storage.listing import printable
from distribute_ssh.storage.publish import FOLDER_MODE


async def write_batch_files(
    storage: Storage, namespace: str, batch: str, source: str, record: Mapping[str, Any]
) -> None:
    """Write `batch.yaml` (as submitted) and `batch.json` beside the job folders, each in place of the one before.

    Raises StorageError.
    """
    base = f"{namespace}/{batch}".encode()
    texts = {
        layout.BATCH_FILE: source.encode(),
        layout.BATCH_RECORD: json.dumps(record, indent=1).encode() + b"\n",
    }
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
