"""Looking whether storage is well: can it be used, and does a job's folder still hold what its `job.json` says."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from distribute_ssh.errors import NoMatchError, StorageError
from distribute_ssh.model import layout
from distribute_ssh.storage import manifest
from distribute_ssh.storage.folder import Small, Stamp, Storage, trouble
from distribute_ssh.storage.gathering import RECORD
from distribute_ssh.storage.listing import printable
from distribute_ssh.storage.publish import FOLDER_MODE, read_all, sha256

TEXT = b"whole or not at all\n"


async def test_storage(storage: Storage) -> int:
    """Do once what archiving does there, in a folder of its own; returns the bytes free. Raises StorageError."""
    folder = f".test-{secrets.token_hex(6)}".encode()
    one, two, link = folder + b"/one", folder + b"/two", folder + b"/link"
    try:
        failures = {**await storage.make_folders([folder])}
        failures |= await storage.put([Small(one, TEXT, 0o644, 10**18)])
        failures |= await storage.make_links({link: b"one"})
        failures |= await storage.rename([(one, two)])
        failures |= await storage.stamp([Stamp(folder, FOLDER_MODE, 10**18)])
        for path, error in failures.items():
            raise trouble(storage.name, path, error)
        await storage.sync([folder])
        try:
            back = await storage.read(two, 0, 100)
        except OSError as error:
            raise trouble(storage.name, two, error) from error
        if back != TEXT:
            raise StorageError(f"storage: {storage.name} gives back something else than was written")
        return await storage.free(b"")
    finally:
        await storage.remove([one, two, link, folder])


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a job's folder that is not as its `job.json` says."""

    path: str
    what: str


async def verify(storage: Storage, namespace: str, batch: str, job: str) -> list[Problem]:
    """Compare a job's folder with its `job.json`, byte for byte. Raises StorageError."""
    folder = f"{namespace}/{batch}/{job}".encode()
    try:
        contents = manifest.parse(await read_all(storage, folder + b"/" + RECORD))
    except FileNotFoundError as error:
        raise NoMatchError(f"{namespace}/{batch}/{job} has no results in {storage.name}") from error
    except OSError as error:
        raise trouble(storage.name, folder + b"/" + RECORD, error) from error
    except manifest.ManifestError as error:
        return [Problem(layout.JOB_RECORD, str(error))]
    there = await storage.tree(folder)
    links = await storage.readlinks([folder + b"/" + path for path in contents.links])
    problems: dict[bytes, str] = {}
    for path, (item, wanted) in contents.files.items():
        entry = there.get(path)
        if entry is None or entry.kind != "f":
            problems[path] = "is missing" if entry is None else "is no file any more"
        elif entry.size != item.size:
            problems[path] = f"has {entry.size} bytes, not {item.size}"
        elif await sha256(storage, folder + b"/" + path) != wanted:
            problems[path] = "has other contents"
    problems |= {path: "is no folder" for path in contents.folders if path not in there or there[path].kind != "d"}
    problems |= {
        path: "is no link to the same place"
        for path, target in contents.links.items()
        if links.get(folder + b"/" + path) != target
    }
    known = contents.files.keys() | contents.folders.keys() | contents.links.keys() | {RECORD}
    problems |= {path: "was added" for path in there if path not in known}
    return [Problem(printable(path), what) for path, what in sorted(problems.items())]
