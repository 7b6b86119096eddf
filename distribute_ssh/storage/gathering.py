"""One attempt's results on their way into storage: what shall lie there, what does, what is still to be done. PURE"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distribute_ssh.errors import DistributeError, NodeError
from distribute_ssh.model import layout
from distribute_ssh.storage.listing import OUTPUT, SAVE, Item, Saved
from distribute_ssh.storage.manifest import Contents

TAIL = 4096  # bytes at the end of what a job printed; its last line is shown to people
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
RECORD = layout.JOB_RECORD.encode()
JOURNAL = b".journal"  # behind the name of the `.part-` folder


@dataclass(frozen=True, slots=True)
class Parcel:
    """What the caller wants archived: an ended attempt, by its token, and where it belongs.

    `folder`: the job's name, or another one for an attempt that is not the job's result; None for a build, of which
    only `output_name` is kept, beside the job folders. `record` goes into `job.json`; its `attempt` is the number.
    """

    token: str
    namespace: str
    batch: str
    folder: str | None
    output_name: str
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file, folder or link that shall lie in storage. `source`: its name on the node; b"" where it has none."""

    item: Item
    source: bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """What to do in a `.part-` folder to make it what is wanted, in this order."""

    remove: list[bytes]  # children first
    folders: list[bytes]  # parents first
    links: dict[bytes, bytes]
    files: list[bytes]

    def __bool__(self) -> bool:
        return bool(self.remove or self.folders or self.links or self.files)


class Gathering:
    """One parcel under way. Paths in `have`, `sums` and `wanted` are relative to its `.part-` folder."""

    def __init__(self, parcel: Parcel) -> None:
        self.parcel = parcel
        self.base = f"{parcel.namespace}/{parcel.batch}".encode()
        self.part = self.base + b"/" + layout.part_folder(parcel.token).encode()
        self.journal = self.part + JOURNAL
        self.has_journal = False
        self.journal_size = 0  # good bytes of it
        self.output_name = parcel.output_name.encode()
        self.final = self.base + b"/" + (self.output_name if parcel.folder is None else parcel.folder.encode())
        self.have: dict[bytes, Item] = {}
        self.sums: dict[bytes, str] = {}
        self.wanted: dict[bytes, Wanted] = {}
        self.skipped: dict[bytes, str] = {}
        self.tail = b""  # of what the job printed, where all of it came in this call
        self.rounds = 0
        self.error: DistributeError | None = None
        self.whole = False  # verified against the node; to be published
        self.published: str | None = None  # sha256 of its job.json, or of its output where that is all
        self.files = 0
        self.bytes = 0

    @property
    def open(self) -> bool:
        """Whether there is still something to do for it in this call."""
        return self.error is None and self.published is None and not self.whole

    def fail(self, error: DistributeError) -> None:
        """Give up on it for this call; the first reason is the one that tells."""
        self.error = self.error or error

    def at(self, path: bytes) -> bytes:
        """Where something of it lies in storage now."""
        return self.part + b"/" + path

    def tell(self, saved: Saved, node: str) -> None:
        """Take what the node holds of it."""
        if not saved.there:
            self.fail(NodeError(f"{node}: nothing of this attempt is left there; it was removed by somebody else"))
        elif saved.trouble is not None:
            self.fail(NodeError(f"{node}: {saved.trouble}", hint="rearrange the files on the node, or kill the job"))
        else:
            self.wanted, self.skipped = arrange(self.parcel, saved)

    def got(self, path: bytes, item: Item, sha256: str) -> None:
        """Note a file that is whole in storage."""
        self.have[path] = item
        self.sums[path] = sha256

    def missing(self) -> int:
        """Bytes that still have to come."""
        return sum(self.wanted[path].item.size for path in self.difference().files)

    def difference(self) -> Difference:
        """What is still to be done."""
        return difference({path: wanted.item for path, wanted in self.wanted.items()}, self.have)

    def contents(self) -> Contents:
        """What lies there now that nothing is left to be done."""
        contents = Contents(skipped=self.skipped)
        for path, wanted in self.wanted.items():
            match wanted.item.kind:
                case "f":
                    contents.files[path] = (wanted.item, self.sums[path])
                case "d":
                    contents.folders[path] = wanted.item
                case _:
                    contents.links[path] = wanted.item.target
        return contents


def arrange(parcel: Parcel, saved: Saved) -> tuple[dict[bytes, Wanted], dict[bytes, str]]:
    """Where everything an attempt holds shall lie, and what is left out for which reason.

    Our own two files, what the job printed and `job.json`, win their names; what the job itself saved under such a
    name lies beside as NAME.saved (NAME.saved.saved where it saved that too).
    """
    output = parcel.output_name.encode()
    root = parcel.token.encode()
    printed = saved.output
    skipped = {} if printed else {output: saved.no_output}
    wanted = {output: Wanted(printed or Item("f", mode=0o644), root + b"/" + OUTPUT if printed else b"")}
    if parcel.folder is None:
        return wanted, skipped
    if saved.no_tree is not None:
        skipped[b"."] = saved.no_tree
    tree = saved.tree or {}
    own = {output, RECORD}
    taken = own | {path for path in (*tree, *saved.skipped) if b"/" not in path}
    moved: dict[bytes, bytes] = {}
    for name in sorted(own & {*tree, *saved.skipped}):
        other = name
        while other in taken:
            other += b".saved"
        taken.add(other)
        moved[name] = other

    def place(path: bytes) -> bytes:
        top, slash, below = path.partition(b"/")
        return moved.get(top, top) + slash + below

    for path, item in tree.items():
        wanted[place(path)] = Wanted(item, root + b"/" + SAVE + b"/" + path)
    skipped |= {place(path): why for path, why in saved.skipped.items()}
    return wanted, skipped


def difference(wanted: Mapping[bytes, Item], have: Mapping[bytes, Item]) -> Difference:
    """What to do to what is there (`have`) to make it what is `wanted`; parents come before children in `wanted`."""

    def right(path: bytes) -> bool:
        item, there = wanted.get(path), have[path]
        return item is not None and (item == there or item.kind == there.kind == "d")

    missing = [(path, item) for path, item in wanted.items() if path not in have or not right(path)]
    return Difference(
        remove=sorted((path for path in have if not right(path)), key=lambda path: (-path.count(b"/"), path)),
        folders=[path for path, item in missing if item.kind == "d"],
        links={path: item.target for path, item in missing if item.kind == "l"},
        files=[path for path, item in missing if item.kind == "f"],
    )
