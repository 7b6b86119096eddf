"""What ended attempts hold on their node, as one `find` there or a walk over SFTP tells it, checked. PURE but `walk`

The checks are the wall between a node's words and our paths. Whatever a listing says, every path in it is made of
plain names, below a folder that the same listing calls a folder; so nothing we later create from it can lead through
a link or out of the attempt's room.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from distribute_ssh.errors import NodeError
from distribute_ssh.model import layout
from distribute_ssh.node.files import Entry, Files
from distribute_ssh.storage.together import each

MOST_ENTRIES = 5_000_000
MOST_DEPTH = 128
MOST_NAME = 255  # bytes; what file systems hold
SECOND = 1_000_000_000
_LAST_TIME = (2**32 - 1) * SECOND  # SFTP version 3 has 32 bits for it
_LARGEST = 2**62
_LONGEST_FIELD = 4 << 20  # folders can be nested deeper than any path may be long; that is one attempt's own trouble
_SCANS = 16  # folders looked into at once where there is no `find`

OUTPUT = layout.OUTPUT.encode()
SAVE = layout.SAVE.encode()

_RECORD = re.compile(rb"(\S) (\d{1,19}) (-?\d{1,19})(?:\.(\d{1,12}))? ([0-7]{1,5}) (.+)", re.DOTALL)
_ODD = {"p": "a named pipe", "s": "a socket", "b": "a device", "c": "a device"}


@dataclass(frozen=True, slots=True)
class Item:
    """A file ("f"), folder ("d") or link ("l"): as it is on the node, and once collected as it shall be in storage.

    `mode` is then without set-id bits and others' right to write, and always with the owner's right to read and write,
    so that results can be moved and removed without root. That also makes it blind to the right to read that our own
    script gives itself on the node.
    """

    kind: str
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0
    target: bytes = b""


@dataclass(slots=True)
class Saved:
    """What one attempt holds. `tree`: by path below `save/`, parents first; None where it has no such folder."""

    there: bool = False
    output: Item | None = None
    no_output: str = "the node holds nothing that it printed"
    tree: dict[bytes, Item] | None = None
    no_tree: str | None = None  # what is in its place
    skipped: dict[bytes, str] = field(default_factory=dict)  # why an entry of the tree cannot be brought in
    entries: int = 0
    trouble: str | None = None  # why the whole cannot


class ListingError(NodeError):
    """A node told of its files in a way no honest one does."""


class Collector:
    """Takes entries one by one, parents first, and keeps what may be believed."""

    def __init__(self, node: str, tokens: Iterable[str]) -> None:
        self.node = node
        self.saved = {token: Saved() for token in tokens}
        self._by_name = {token.encode(): saved for token, saved in self.saved.items()}

    def add(self, path: bytes, item: Item) -> None:
        """Take an entry as the node tells it; `path` starts with the attempt's token. Raises ListingError."""
        parts = path.split(b"/")
        saved = self._by_name.get(parts[0])
        if saved is None or not 0 <= item.size <= _LARGEST:
            raise self._nonsense(path)
        depth = len(parts)
        if depth == 1:
            saved.there = item.kind == "d"
        elif parts[1] == OUTPUT and depth == 2:
            if item.kind == "f":
                saved.output = replace(_kept(item), mode=0o644)
            else:
                saved.no_output = "what it printed is no file any more"
        elif parts[1] == SAVE:
            saved.entries += 1
            if saved.entries > 2 * MOST_ENTRIES:
                raise ListingError(f"{self.node}: its list of files does not end")
            if depth == 2:
                if item.kind == "d":
                    saved.tree = {}
                else:
                    saved.no_tree = "distribute_save is no folder any more"
            elif saved.tree is None:
                raise self._nonsense(path)
            else:
                self._add_below(saved, saved.tree, parts[2:], item)

    def _add_below(self, saved: Saved, tree: dict[bytes, Item], parts: list[bytes], item: Item) -> None:
        path, name = b"/".join(parts), parts[-1]
        if name in (b"", b".", b"..") or b"\0" in name or path in tree:
            raise self._nonsense(path)
        if len(parts) > 1:
            parent = tree.get(b"/".join(parts[:-1]))
            if saved.trouble is not None and parent is None:
                return  # below a folder that was refused
            if parent is None or parent.kind != "d":
                raise self._nonsense(path)
        if saved.entries > MOST_ENTRIES:
            saved.trouble = f"more than {MOST_ENTRIES:,} files were saved"
        elif len(parts) > MOST_DEPTH:
            saved.trouble = f"{printable(path[:200])}: folders lie more than {MOST_DEPTH} deep in each other"
        elif len(name) > MOST_NAME:
            saved.trouble = f"{printable(path[:200])}: a name is longer than {MOST_NAME} bytes"
        elif item.kind in "fdl":
            tree[path] = _kept(item)
        else:
            saved.skipped[path] = _ODD.get(item.kind, "neither file, folder nor link")

    def _nonsense(self, path: bytes) -> ListingError:
        return ListingError(f"{self.node}: its list of files makes no sense at {printable(path[:200])!r}")


def _kept(item: Item) -> Item:
    if item.kind == "l":
        return Item("l", target=item.target)
    mtime_ns = min(max(item.mtime_ns, 0), _LAST_TIME)
    if item.kind == "d":
        return Item("d", 0, mtime_ns, (item.mode & 0o755) | 0o700)
    return Item("f", item.size, mtime_ns, (item.mode & 0o755) | 0o600)


class FindReader:
    """Reads what our script's `find` prints: `TYPE SIZE MTIME MODE PATH\\0TARGET\\0` an entry, `=\\0\\0` at the end."""

    def __init__(self, collector: Collector) -> None:
        self.ended = False
        self.rest = b""  # what followed the end
        self._collector = collector
        self._held = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises ListingError."""
        fields = (self._held + data).split(b"\0")
        whole = len(fields) - 1 & ~1
        for at in range(0, whole, 2):
            if fields[at] == b"=":
                self.ended = True
                self.rest = b"\0".join(fields[at + 2 :])
                return
            self._take(fields[at], fields[at + 1])
        self._held = b"\0".join(fields[whole:])
        if len(self._held) > _LONGEST_FIELD:
            raise ListingError(f"{self._collector.node}: its list of files makes no sense")

    def _take(self, record: bytes, target: bytes) -> None:
        match = _RECORD.fullmatch(record)
        if match is None:
            raise ListingError(f"{self._collector.node}: its list of files makes no sense: {printable(record[:200])!r}")
        kind, size, seconds, fraction, mode, path = match.groups()
        mtime_ns = int(seconds) * SECOND + int((fraction or b"0")[:9].ljust(9, b"0"))
        self._collector.add(path, Item(kind.decode("latin-1"), int(size), mtime_ns, int(mode, 8), target))


async def walk(files: Files, node: str, attempts: bytes, tokens: Sequence[str]) -> Mapping[str, Saved]:
    """List the attempts folder by folder, where the node's `find` cannot print what we need. Times in whole seconds.

    `attempts`: the folder that holds them. Raises ListingError, NodeError, UnreachableError.
    """
    collector = Collector(node, tokens)

    folders: list[bytes] = []

    async def enter(path: bytes, entry: Entry) -> None:
        target = await files.readlink(attempts + b"/" + path) if entry.kind == "l" else b""
        collector.add(path, Item(entry.kind, entry.size, entry.mtime * SECOND, entry.mode, target))
        if entry.kind == "d" and path.count(b"/") <= MOST_DEPTH + 1:
            folders.append(path)

    async def look_at(path: bytes) -> None:
        with _readable(node, path):
            await enter(path, await files.stat(attempts + b"/" + path))

    async def look_into(path: bytes) -> None:
        with _readable(node, path):
            for entry in await files.scan(attempts + b"/" + path):
                await enter(path + b"/" + entry.name, entry)

    names = [token.encode() for token in tokens]
    await each(names, look_at, _SCANS)
    for name in (OUTPUT, SAVE):
        folders.clear()
        await each([token + b"/" + name for token in names], look_at, _SCANS)
    while folders:
        level, folders[:] = list(folders), []
        await each(level, look_into, _SCANS)
    return collector.saved


@contextmanager
def _readable(node: str, path: bytes) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        return  # it is not there, or went away meanwhile; the listing that follows the copy decides
    except OSError as error:
        raise NodeError(f"{node}: {printable(path)} cannot be read: {error.strerror or error}") from error


def printable(path: bytes) -> str:
    """A name for a person's screen: control characters, bidirectional marks and odd bytes are shown as escapes."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
