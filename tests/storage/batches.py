"""A batch in storage as archiving leaves it, for tests that take it from there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from distribute_ssh.storage.listing import Item
from distribute_ssh.storage.manifest import Contents, build

MTIME_NS = 1_600_000_000_123_456_789


def job(store: Path, name: str, files: Mapping[bytes, bytes], links: Mapping[bytes, bytes] | None = None) -> Path:
    """A job's folder in the batch ns/batch, with these files and its `job.json`."""
    folder = os.fsencode(store / "ns" / "batch" / name)
    os.makedirs(folder, exist_ok=True)
    contents = Contents()
    for path, data in files.items():
        where = os.path.join(folder, path)
        above = os.path.dirname(path)
        while above:
            contents.folders[above] = Item("d", 0, MTIME_NS, 0o755)
            above = os.path.dirname(above)
        os.makedirs(os.path.dirname(where), exist_ok=True)
        with open(where, "wb") as file:
            file.write(data)
        mode = 0o755 if path.endswith(b".sh") else 0o644
        os.chmod(where, mode)
        os.utime(where, ns=(MTIME_NS, MTIME_NS))
        contents.files[path] = (Item("f", len(data), MTIME_NS, mode), hashlib.sha256(data).hexdigest())
    for path, target in (links or {}).items():
        os.symlink(target, os.path.join(folder, path))
        contents.links[path] = target
    for path in contents.folders:
        os.chmod(os.path.join(folder, path), 0o755)
        os.utime(os.path.join(folder, path), ns=(MTIME_NS, MTIME_NS))
    with open(os.path.join(folder, b"job.json"), "wb") as file:
        file.write(build("tests0-0123456789", {"attempt": 1}, contents))
    return Path(os.fsdecode(folder))
