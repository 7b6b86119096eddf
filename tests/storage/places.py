"""An attempt's folder on a node, and what lies in storage, as tests make and read them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distribute_ssh.node.link import Link
from distribute_ssh.node.probe import Facts
from distribute_ssh.storage.archive import Outcome, Parcel, archive
from distribute_ssh.storage.folder import Connect, Storage
from tests.support.lab import Lab

ALL = Facts(has_tar=True, find_printf=True)
MTIME = 1_600_000_000


def token(name: str) -> str:
    """A token as the queue would give it."""
    return "tests0-" + hashlib.sha256(name.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Node:
    """The distribute folder of a node."""

    root: Path

    def attempt(self, name: str, files: Mapping[bytes, bytes] | None = None, output: bytes | None = b"done\n") -> Path:
        """An ended attempt with these files below `save/`, whose folder is returned; `output` None: it has none."""
        folder = self.root / "attempts" / token(name)
        save = folder / "save"
        save.mkdir(parents=True)
        (folder / "exit.0").touch()
        if output is not None:
            (folder / "output").write_bytes(output)
        for path, data in (files or {}).items():
            where = os.path.join(os.fsencode(save), path)
            os.makedirs(os.path.dirname(where), exist_ok=True)
            with open(where, "wb") as file:
                file.write(data)
            os.utime(where, (MTIME, MTIME))
        return save


@dataclass(frozen=True)
class Route:
    """A node, storage, and the way between them. `store`: where storage really lies."""

    link: Link
    node: Node
    storage: Storage
    store: Path

    async def archive(self, *names: str, facts: Facts = ALL, **options: Any) -> list[Outcome]:
        """Archive attempts as jobs of the same name in the batch `ns/batch`."""
        return await archive(
            options.pop("link", self.link),
            os.fsencode(self.node.root),
            [parcel(name) for name in names],
            options.pop("storage", self.storage),
            facts=facts,
            **options,
        )

    @property
    def batch(self) -> Path:
        """The batch's folder in storage."""
        return self.store / "ns" / "batch"


@asynccontextmanager
async def connecting(lab: Lab) -> AsyncIterator[Connect]:
    """How the machines of a lab are reached."""
    connector = lab.connector()

    async def connect(host: str, *, user: str | None, port: int | None) -> Link:
        return await connector.open(host, host, user=user, port=port)

    yield connect
    await connector.close()


def parcel(name: str, attempt: int = 1) -> Parcel:
    """What the coordinator asks for it."""
    return Parcel(token(name), "ns", "batch", name, f"{name}_output.txt", {"attempt": attempt, "node": "lab1"})


def tree(folder: Path, *, own: bool = False) -> dict[bytes, tuple[str, bytes, int]]:
    """Everything in a folder: kind, contents or target, permission bits. Without our own two files, unless `own`."""
    root = os.fsencode(folder)
    found: dict[bytes, tuple[str, bytes, int]] = {}
    for path, folders, files in os.walk(root):
        for name in folders + files:
            full = os.path.join(path, name)
            inner = os.path.relpath(full, root)
            status = os.lstat(full)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                found[inner] = ("link", os.readlink(full), 0)
            elif stat.S_ISDIR(status.st_mode):
                found[inner] = ("folder", b"", mode)
            elif stat.S_ISREG(status.st_mode):
                with open(full, "rb") as file:
                    found[inner] = ("file", file.read(), mode)
            else:
                found[inner] = ("odd", b"", mode)
    ours = {b"job.json", os.fsencode(folder.name) + b"_output.txt"}
    return {path: entry for path, entry in found.items() if own or path not in ours}
