"""Bringing the results of a batch, or a part of them, from storage to here: list, compare, fetch what is missing.

Again costs a listing and a look at each file. A file counts as here when size and time are those of the listing; where
only the size is, its hash decides. Each file that comes is compared with its job's `job.json` before it takes its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from distribute_ssh.errors import StorageError
from distribute_ssh.model import layout
from distribute_ssh.node.files import Entry
from distribute_ssh.storage import manifest
from distribute_ssh.storage.arriving import Arrivals, Arriving, Progress
from distribute_ssh.storage.gathering import RECORD
from distribute_ssh.storage.listing import SECOND, Item, printable
from distribute_ssh.storage.results import Piece, Results, Want, checked
from distribute_ssh.storage.selection import Selection
from distribute_ssh.storage.target import Target, no_room, opened

ROUNDS = 3
WORTH_KEEPING = 8 << 20  # bytes of a file from which on what came of it is kept when we are stopped
LARGEST_RECORD = 1 << 30


class Fate(StrEnum):
    """What becomes of a file, folder or link of the batch."""

    COMES = "comes"
    HERE = "here"
    LEFT_OUT = "left out"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing of the batch, what becomes of it, and why."""

    path: bytes
    item: Item
    fate: Fate
    why: str


@dataclass(slots=True)
class Pulled:
    """How a pull went, or would go. `problems`: by path, why something is not here that was wanted."""

    rows: list[Row] = field(default_factory=list)
    files: int = 0  # that came
    size: int = 0  # bytes of them that came now
    problems: dict[bytes, str] = field(default_factory=dict)
    unverified: int = 0  # files that came and stand in no job.json

    def of(self, fate: Fate) -> list[Row]:
        """What had this fate, without folders."""
        return [row for row in self.rows if row.fate is fate and row.item.kind != "d"]


async def look(results: Results, target: Path, selection: Selection, *, skip_folders: bool = False) -> Pulled:
    """What `pull` would do. Raises NoMatchError, StorageError, ListingError."""
    tree, odd = checked(results.name, await results.listing())
    chosen, rows = _choose(tree, odd, selection, skip_folders=skip_folders)
    is_there = target.is_dir()  # noqa: ASYNC240  # nothing else waits
    compared = await _compare(Target(target), chosen) if is_there else _Compared(missing=dict(chosen))
    return Pulled([*_fates(chosen, compared, selection), *rows])


async def pull(
    results: Results,
    target: Path,
    selection: Selection,
    *,
    skip_folders: bool = False,
    progress: Progress = lambda _: None,
) -> Pulled:
    """Bring what is chosen of a batch's results into the folder `target`, which is made where it is missing.

    Raises NoMatchError, StorageError, ListingError; BusyError while another pull works there; DistributeError where
    there is no room. What came until then is kept.
    """
    pulled = Pulled()
    tree, odd = checked(results.name, await results.listing())
    with opened(target) as room:
        for left in reversed(range(ROUNDS)):
            chosen, rows = _choose(tree, odd, selection, skip_folders=skip_folders)
            await room.sweep({room.part(path, item) for path, item in tree.items() if item.size >= WORTH_KEEPING})
            compared = await _compare(room, chosen)
            pulled.rows = pulled.rows or [*_fates(chosen, compared, selection), *rows]
            if await _round(results, room, tree, chosen, compared, progress, pulled) or not left:
                break
            # Something changed meanwhile: a job that was run again, say.
            tree, odd = checked(results.name, await results.listing())
    return pulled


async def _round(
    results: Results,
    room: Target,
    tree: Mapping[bytes, Item],
    chosen: Mapping[bytes, Item],
    compared: _Compared,
    progress: Progress,
    pulled: Pulled,
) -> bool:
    """Fetch what is missing; False if something changed meanwhile, so that another round may bring it."""
    records = await _records(results, tree, compared)
    sums = _sums(records)
    await _settle_doubts(room, chosen, compared, sums)
    work = _Work(room, chosen, compared, sums)
    coming = await work.files()
    needed = sum(each.item.size - each.offset for each in coming)
    if needed > (free := await room.free()):
        raise no_room(room.root, needed, free)
    await work.folders()
    await work.links()
    await work.records(records)
    arrivals = Arrivals(room, results.name, [each for each in coming if work.is_open(each.path)], progress)
    try:
        if arrivals.wanted:
            await results.fetch(arrivals.wanted, arrivals.take)
        await arrivals.end()
    finally:
        await arrivals.close()
        pulled.files += arrivals.files + len(work.kept)
        pulled.size += arrivals.bytes + sum(map(len, work.kept.values()))
        pulled.unverified += arrivals.unverified
    await work.stamp(arrivals.placed)
    pulled.problems = work.problems | arrivals.problems
    return not arrivals.may_help


# --- choosing and comparing ---


def _choose(
    tree: Mapping[bytes, Item], odd: Mapping[bytes, str], selection: Selection, *, skip_folders: bool
) -> tuple[dict[bytes, Item], list[Row]]:
    """What is wanted, parents first, and the rest with the reasons."""
    chosen: dict[bytes, Item] = {}
    rows = [Row(path, Item("?"), Fate.REFUSED, why) for path, why in odd.items() if selection.of_job(path)]
    holding: set[bytes] = set()
    for path, item in tree.items():
        if item.kind == "d":
            continue
        verdict = selection.verdict(path)
        if not verdict.wanted:
            rows.append(Row(path, item, Fate.LEFT_OUT, verdict.why))
        elif item.kind == "l" and not stays_inside(path, item.target):
            why = f"is a link that may lead out of the batch: {printable(item.target)}"
            rows.append(Row(path, item, Fate.REFUSED, why))
        else:
            chosen[path] = item
            holding.update(_above(path))
    wanted = {
        path: item
        for path, item in tree.items()
        if path in chosen or (item.kind == "d" and (path in holding or (not skip_folders and selection.of_job(path))))
    }
    return wanted, rows


def stays_inside(path: bytes, target: bytes) -> bool:
    """Whether a link at `path` leads to a place inside the batch, whatever other links there are.

    `..` counts only at the beginning, where it goes up from a real folder: behind a name it may go up from wherever
    another link leads.
    """
    parts = target.split(b"/")
    ups = next((n for n, part in enumerate(parts) if part != b".."), len(parts))
    return bool(target) and parts[0] != b"" and ups <= path.count(b"/") and b".." not in parts[ups:]


def _above(path: bytes) -> Iterator[bytes]:
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


@dataclass(slots=True)
class _Compared:
    """What is to be done: `missing` is to come; `doubtful` has the right size and another time; `restamp` only lacks
    mode or time; `blocked` cannot be, and why.
    """

    missing: dict[bytes, Item] = field(default_factory=dict)
    doubtful: dict[bytes, Item] = field(default_factory=dict)
    restamp: dict[bytes, Item] = field(default_factory=dict)
    blocked: dict[bytes, str] = field(default_factory=dict)


_SAID = {"d": "a folder", "f": "a file", "l": "a link, which is never followed,"}


async def _compare(room: Target, chosen: Mapping[bytes, Item]) -> _Compared:
    here = await room.look(list(chosen))
    links = await room.links([path for path, entry in here.items() if entry.kind == "l"])
    found = _Compared()
    for path, item in chosen.items():
        entry = here.get(path)
        parent = path.rpartition(b"/")[0]
        if parent in found.blocked:
            found.blocked[path] = found.blocked[parent]
        elif entry is None:
            found.missing[path] = item
        elif (item.kind == "d") != (entry.kind == "d"):
            found.blocked[path] = f"{_SAID.get(entry.kind, 'something else')} is in its place; move it away"
        elif item.kind == "l":
            if links.get(path) != item.target:
                found.missing[path] = item
        elif entry.kind not in "fd" or (entry.size != item.size and item.kind == "f"):
            found.missing[path] = item
        elif item.kind == "f" and not _same_time(entry, item):
            found.doubtful[path] = item
        elif entry.mode != item.mode or not _same_time(entry, item):
            found.restamp[path] = item
    return found


def _same_time(entry: Entry, item: Item) -> bool:
    # A disk that knows whole seconds only has none but those.
    return entry.mtime_ns == item.mtime_ns or (not entry.fraction and entry.mtime == item.mtime_ns // SECOND)


def _fates(chosen: Mapping[bytes, Item], compared: _Compared, selection: Selection) -> Iterator[Row]:
    for path, item in chosen.items():
        if path in compared.blocked:
            yield Row(path, item, Fate.REFUSED, compared.blocked[path])
        elif path in compared.doubtful:  # nothing is hashed to tell more
            yield Row(path, item, Fate.COMES, "has another time here, and the same size: its hash decides")
        elif path in compared.missing:
            why = "is a folder of the batch" if item.kind == "d" else selection.verdict(path).why
            yield Row(path, item, Fate.COMES, why)
        else:
            yield Row(path, item, Fate.HERE, "is here already, the same")


# --- what job.json says ---


async def _records(results: Results, tree: Mapping[bytes, Item], compared: _Compared) -> dict[bytes, bytes]:
    """The `job.json` of those jobs of which something has to come, or is in doubt; by their paths."""
    concerned = [p for p, item in (compared.missing | compared.doubtful).items() if item.kind == "f" and b"/" in p]
    paths = [job + b"/" + RECORD for job in dict.fromkeys(path.partition(b"/")[0] for path in concerned)]
    wanted = [Want(path, item.size) for path in paths if (item := tree.get(path)) and item.kind == "f"]
    if any(want.size > LARGEST_RECORD for want in wanted):
        raise StorageError(f"{results.name}: a {layout.JOB_RECORD} is larger than any can be")
    texts = [bytearray() for _ in wanted]

    async def take(pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if not 0 <= piece.number < len(wanted):
                raise StorageError(f"{results.name}: sends what was not asked for")
            texts[piece.number] += piece.data
            if len(texts[piece.number]) > wanted[piece.number].size:
                raise StorageError(f"{results.name}: sends more of a file than there is")

    if wanted:
        await results.fetch(wanted, take)
    return {want.path: bytes(text) for want, text in zip(wanted, texts, strict=True) if len(text) == want.size}


def _sums(records: Mapping[bytes, bytes]) -> dict[bytes, str]:
    """The sha256 of files as those records tell it; a record that is none of ours tells nothing."""
    sums: dict[bytes, str] = {}
    for path, text in records.items():
        job = path.rpartition(b"/")[0]
        with suppress(manifest.ManifestError):
            sums |= {job + b"/" + name: sha256 for name, (_, sha256) in manifest.parse(text).files.items()}
    return sums


async def _settle_doubts(
    room: Target, chosen: Mapping[bytes, Item], compared: _Compared, sums: Mapping[bytes, str]
) -> None:
    for path, item in compared.doubtful.items():
        if path in sums and await room.sha256(path) == sums[path]:
            compared.restamp[path] = item
        else:
            compared.missing[path] = item
    compared.doubtful = {}
    # Parents first, as `chosen` is.
    compared.missing = {path: item for path, item in chosen.items() if path in compared.missing}


# --- doing ---


class _Work:
    """What one round does here, beside what comes over the line."""

    def __init__(
        self, room: Target, chosen: Mapping[bytes, Item], compared: _Compared, sums: Mapping[bytes, str]
    ) -> None:
        self._room = room
        self._chosen = chosen
        self._missing = compared.missing
        self._restamp = compared.restamp
        self._sums = sums
        self._placed: list[bytes] = []
        self.kept: dict[bytes, bytes] = {}  # records that were put in place
        self.problems = dict(compared.blocked)

    def _of_kind(self, kind: str) -> dict[bytes, Item]:
        return {
            path: item
            for path, item in self._missing.items()
            if item.kind == kind and not any(above in self.problems for above in _above(path))
        }

    def _note(self, failures: Mapping[bytes, OSError]) -> None:
        self.problems |= {path: f"cannot be written: {e.strerror or e}" for path, e in failures.items()}

    async def folders(self) -> None:
        if folders := self._of_kind("d"):
            self._note(await self._room.make_folders(list(folders)))
            self._placed += folders

    async def links(self) -> None:
        if links := self._of_kind("l"):
            self._note(await self._room.link({path: item.target for path, item in links.items()}))
            self._placed += links

    async def records(self, texts: Mapping[bytes, bytes]) -> None:
        """Those that were read to know the hashes need not come again."""
        missing = self._of_kind("f")
        wanted = {path: (missing[path], text) for path, text in texts.items() if path in missing}
        failures = await self._room.put(wanted)
        self._note(failures)
        self.kept = {path: text for path, (_, text) in wanted.items() if path not in failures}
        self._placed += self.kept

    async def files(self) -> list[Arriving]:
        """The files that have to come, with what is here of them already."""
        files = self._of_kind("f")
        parts = {
            self._room.part(path, item): path
            for path, item in files.items()
            if item.size >= WORTH_KEEPING and path in self._sums
        }
        begun = await self._room.begun({part: files[path].size for part, path in parts.items()}) if parts else {}
        part_of = {path: part for part, path in parts.items()}
        coming = []
        for path, item in files.items():
            part = part_of.get(path)
            offset, digest = begun.get(part, (0, None)) if part else (0, None)
            coming.append(Arriving(path, item, self._sums.get(path), part, offset, digest))
        # Those that go on in their middle last: whatever stands before them can be one stream.
        return sorted(coming, key=lambda each: each.offset > 0)

    def is_open(self, path: bytes) -> bool:
        """Whether a file still has to come, and can."""
        return path not in self.kept and not any(each in self.problems for each in (path, *_above(path)))

    async def stamp(self, files: Iterable[bytes]) -> None:
        """Folders get their modes and times last: what was put into them changed the latter."""
        touched = {above for path in (*self._placed, *files) for above in _above(path)}
        touched |= {path for path, item in self._missing.items() if item.kind == "d"}
        items = self._restamp | {path: self._chosen[path] for path in touched if path in self._chosen}
        if items := {path: item for path, item in items.items() if path not in self.problems}:
            self._note(await self._room.stamp(items))
