"""What pulling promises, whatever the results come through: a folder, SFTP, a tar stream, two byte streams."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from distribute_ssh.errors import BusyError, DistributeError, NoMatchError, StorageError
from distribute_ssh.storage.disk import LocalStorage
from distribute_ssh.storage.folder import Storage, open_storage
from distribute_ssh.storage.listing import Item
from distribute_ssh.storage.pull import Fate, Pulled, look, pull
from distribute_ssh.storage.results import Results, StoredResults, Take, Want
from distribute_ssh.storage.selection import Selection
from distribute_ssh.storage.source import _HEAD
from distribute_ssh.storage.target import BESIDE, opened
from distribute_ssh.storage.wire import SentResults, serve
from tests.storage.batches import MTIME_NS, job
from tests.storage.places import connecting, tree
from tests.support.lab import Lab

WAYS = [
    pytest.param("folder", id="a folder"),
    pytest.param("wire", id="two byte streams"),
    pytest.param("sftp", id="sftp with a shell", marks=pytest.mark.sshd),
    pytest.param("sftp-only", id="sftp alone", marks=pytest.mark.sshd),
]
ALL = Selection()
BIG = bytes(range(256)) * 40_000  # 10 MB


class Counting:
    """Results that count what is asked of them, and are cut after so many bytes."""

    def __init__(self, results: Results, limit: int | None = None) -> None:
        self.name = results.name
        self.asked: list[Want] = []
        self.streams = 0
        self.came = 0
        self.limit = limit
        self._results = results

    async def listing(self) -> Sequence[tuple[bytes, Item]]:
        return await self._results.listing()

    async def fetch(self, wanted: Sequence[Want], take: Take) -> None:
        self.asked += wanted
        self.streams += 1

        async def counting(pieces: Sequence[object]) -> None:
            for piece in pieces:
                self.came += len(piece.data)  # type: ignore[attr-defined]
                await take([piece])  # type: ignore[list-item]
                if self.limit is not None and self.came > self.limit:
                    raise StorageError("cut")

        await self._results.fetch(wanted, counting)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Way:
    """Storage, what lies in it, and where it is pulled to."""

    results: Counting
    store: Path
    target: Path
    again: Callable[[], Results]  # the same results, after a connection was lost

    @property
    def batch(self) -> Path:
        return self.store / "ns" / "batch"

    async def pull(self, selection: Selection = ALL, **options: bool) -> Pulled:
        self.results.asked.clear()
        self.results.came = self.results.streams = 0
        return await pull(self.results, self.target, selection, **options)  # type: ignore[arg-type]


def behind_streams(results: Results) -> Results:
    """The same results, asked and told over bytes only."""
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    serving: set[asyncio.Task[None]] = set()
    held = b""

    async def answer(data: bytes) -> None:
        await answers.put(data)

    async def write(line: bytes) -> None:
        task = asyncio.create_task(serve(results, line, answer))
        serving.add(task)

    async def read(size: int) -> bytes:
        nonlocal held
        held = held or await answers.get()
        piece, held = held[: min(size, 70_001)], held[min(size, 70_001) :]
        return piece

    return SentResults(results.name, read, write)


@pytest.fixture(params=WAYS)
async def way(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Way]:
    """What is promised of pulling is promised on each."""
    store = tmp_path / "store"
    store.mkdir()
    async with AsyncExitStack() as stack:
        storage: Storage = LocalStorage(store)
        if request.param.startswith("sftp"):
            lab: Lab = request.getfixturevalue("shared_lab" if request.param == "sftp" else "lab")
            if request.param == "sftp-only":
                lab.add("lab1", ["ForceCommand internal-sftp"])
            connect = await stack.enter_async_context(connecting(lab))
            storage = await stack.enter_async_context(open_storage(f"sftp://lab1{store}", connect))
        stored = StoredResults(storage, "ns", "batch")

        def again() -> Results:
            return behind_streams(stored) if request.param == "wire" else stored

        yield Way(Counting(again()), store, tmp_path / "here" / "batch", again)


@pytest.fixture
def near(tmp_path: Path) -> Way:
    """The shortest way, where the way does not matter."""
    (tmp_path / "store").mkdir()
    results = StoredResults(LocalStorage(tmp_path / "store"), "ns", "batch")
    return Way(Counting(results), tmp_path / "store", tmp_path / "here" / "batch", lambda: results)


def whole(folder: Path) -> dict[bytes, tuple[str, bytes, int]]:
    return tree(folder, own=True)


# --- what comes ---


async def test_a_batch_comes_whole_with_its_modes_times_links_and_odd_names(way: Way) -> None:
    job(
        way.store,
        "a",
        {b"out.dat": b"data", b"deep/er/run.sh": b"#!/bin/sh\n", b"empty": b"", b"odd \xff\n'name": b"odd"},
        {b"latest": b"deep/er/run.sh"},
    )
    job(way.store, "b", {"größe/\u202eb".encode(): b"utf-8", b"-rf": b"x", b"big": BIG})
    (way.batch / "batch.json").write_text("{}\n")
    pulled = await way.pull()
    assert pulled.problems == {}
    assert whole(way.target) == whole(way.batch)
    for path in ("a/out.dat", "a/deep/er/run.sh", "a/deep", "b/big"):
        assert (way.target / path).stat().st_mtime_ns // 10**9 == MTIME_NS // 10**9
    assert pulled.unverified == 1  # batch.json
    assert pulled.files == 10
    assert not (way.target / os.fsdecode(BESIDE)).exists()


async def test_a_second_pull_asks_for_nothing_and_changes_nothing(way: Way) -> None:
    job(way.store, "a", {b"one": b"1", b"two/three": b"3", b"big": BIG}, {b"link": b"one"})
    await way.pull()
    before = {path: path.lstat() for path in way.target.rglob("*")}
    pulled = await way.pull()
    assert way.results.asked == []
    assert pulled.files == 0
    assert {row.fate for row in pulled.rows} == {Fate.HERE}
    after = {path: path.lstat() for path in way.target.rglob("*")}
    assert {path: (each.st_ino, each.st_mtime_ns) for path, each in after.items()} == {
        path: (each.st_ino, each.st_mtime_ns) for path, each in before.items()
    }


async def test_two_thousand_small_files_are_one_stream_beside_that_of_the_records(way: Way) -> None:
    job(way.store, "a", {b"%d/%d" % (n % 50, n): b"x" * 100 for n in range(2000)})
    pulled = await way.pull()
    assert pulled.files == 2001
    assert way.results.streams == 2
    assert whole(way.target) == whole(way.batch)


async def test_more_files_than_fit_into_one_request_come_all_the_same(
    near: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distribute_ssh.storage.wire.REQUEST", 500)
    job(near.store, "a", {b"%d" % n: b"%d" % n for n in range(100)} | {b"big": BIG})
    pulled = await pull(behind_streams(near.again()), near.target, ALL)
    assert pulled.problems == {}
    assert whole(near.target) == whole(near.batch)


async def test_what_changed_in_storage_comes_again_and_nothing_else(way: Way) -> None:
    job(way.store, "a", {b"one": b"1", b"two": b"2"})
    job(way.store, "b", {b"three": b"3"})
    await way.pull()
    os.rename(way.batch / "a", way.batch / "a@attempt-1")
    job(way.store, "a", {b"one": b"1", b"two": b"new"})
    pulled = await way.pull(Selection(jobs=["a"]))
    assert pulled.problems == {}
    assert (way.target / "a/two").read_bytes() == b"new"
    assert {want.path for want in way.results.asked} == {b"a/two", b"a/job.json"}


async def test_a_file_with_another_time_is_compared_by_its_hash_and_does_not_come_again(way: Way) -> None:
    job(way.store, "a", {b"same": b"1234", b"else": b"1234"})
    await way.pull()
    os.utime(way.target / "a/same", (1, 1))
    (way.target / "a/else").write_bytes(b"4321")
    pulled = await way.pull()
    assert {want.path for want in way.results.asked} == {b"a/job.json", b"a/else"}
    assert pulled.problems == {}
    assert whole(way.target) == whole(way.batch)
    assert (way.target / "a/same").stat().st_mtime_ns // 10**9 == MTIME_NS // 10**9


async def test_what_is_cut_in_the_middle_goes_on_where_it_stopped(way: Way) -> None:
    job(way.store, "a", {b"big": BIG, b"small": b"s"})
    with pytest.raises(StorageError, match="cut"):
        await pull(Counting(way.again(), limit=4 << 20), way.target, ALL)
    assert not (way.target / "a/big").exists()
    (part,) = (way.target / os.fsdecode(BESIDE)).glob("*.part")
    here = part.stat().st_size
    assert 2 << 20 <= here < len(BIG)
    pulled = await way.pull()
    big = next(want for want in way.results.asked if want.path == b"a/big")
    assert big.offset == here
    assert pulled.problems == {}
    assert whole(way.target) == whole(way.batch)


async def test_a_beginning_that_is_wrong_is_thrown_away_and_the_file_comes_anew(near: Way) -> None:
    job(near.store, "a", {b"big": BIG})
    with pytest.raises(StorageError, match="cut"):
        await pull(Counting(near.again(), limit=4 << 20), near.target, ALL)
    (part,) = (near.target / os.fsdecode(BESIDE)).glob("*.part")
    with part.open("r+b") as file:
        file.write(b"rotten")
    pulled = await near.pull()
    assert pulled.problems == {}
    assert (near.target / "a/big").read_bytes() == BIG
    assert [want.offset for want in near.results.asked if want.path == b"a/big"][1:] == [0]


async def test_what_is_not_as_its_record_says_gets_no_name_here_and_is_named(way: Way) -> None:
    job(way.store, "a", {b"good": b"good", b"bad": b"good", b"big": BIG})
    for name in ("bad", "big"):
        data = bytearray((way.batch / "a" / name).read_bytes())
        data[-1] ^= 1
        (way.batch / "a" / name).write_bytes(data)
    pulled = await way.pull()
    assert sorted(pulled.problems) == [b"a/bad", b"a/big"]
    assert "job.json" in pulled.problems[b"a/bad"]
    assert sorted(os.listdir(way.target / "a")) == ["good", "job.json"]
    assert not (way.target / os.fsdecode(BESIDE)).exists()


async def test_a_file_that_goes_away_meanwhile_is_told_of_and_the_rest_comes(way: Way) -> None:
    job(way.store, "a", {b"one": b"1", b"two": b"2", b"three": BIG[: 2 << 20]})
    listing = await way.results.listing()
    (way.batch / "a/two").unlink()

    class Stale(Counting):
        async def listing(self) -> Sequence[tuple[bytes, Item]]:
            return listing

    pulled = await pull(Stale(way.again()), way.target, ALL)
    assert list(pulled.problems) == [b"a/two"]
    assert (way.target / "a/three").read_bytes() == BIG[: 2 << 20]


async def test_unfinished_business_of_the_archive_is_no_result(way: Way) -> None:
    job(way.store, "a", {b"one": b"1"})
    (way.batch / ".part-x").mkdir()
    (way.batch / ".part-x" / "half").write_text("half")
    (way.batch / ".part-x.journal").write_text("x")
    await way.pull()
    assert os.listdir(way.target) == ["a"]


async def test_a_batch_without_results_is_said_to_have_none(way: Way) -> None:
    with pytest.raises(NoMatchError, match="ns/batch has no results"):
        await way.pull()
    assert list(way.target.rglob("*")) == []


# --- choosing ---


async def test_expressions_choose_and_say_why(near: Way) -> None:
    job(near.store, "re_1", {b"a.h5": b"1", b"a.log": b"2", b"sub/b.h5": b"3"})
    job(near.store, "re_2", {b"a.h5": b"4"})
    selection = Selection(include=[r"\.h5$", "json"], exclude=["^re_2/", "sub"])
    found = await look(near.results, near.target, selection)
    assert not near.target.exists()
    fates = {row.path: (row.fate, row.why) for row in found.rows if row.item.kind == "f"}
    assert fates[b"re_1/a.h5"] == (Fate.COMES, r"matches --include \.h5$")
    assert fates[b"re_1/a.log"] == (Fate.LEFT_OUT, "matches no --include")
    assert fates[b"re_2/a.h5"] == (Fate.LEFT_OUT, "matches --exclude ^re_2/")
    pulled = await near.pull(selection)
    assert pulled.files == 2
    assert {row.path for row in pulled.of(Fate.COMES)} == {row.path for row in found.of(Fate.COMES)}
    assert sorted(os.listdir(near.target / "re_1")) == ["a.h5", "job.json", "sub"]


async def test_folders_come_all_or_only_those_that_hold_something(near: Way) -> None:
    folder = job(near.store, "a", {b"keep/x.h5": b"1", b"other/y.log": b"2"})
    (folder / "empty").mkdir()
    await near.pull(Selection(include=["h5"]), skip_folders=True)
    assert sorted(os.listdir(near.target / "a")) == ["keep"]
    await near.pull(Selection(include=["h5"]))
    assert sorted(os.listdir(near.target / "a")) == ["empty", "keep", "other"]


async def test_a_look_says_of_what_is_here_that_it_is_here(near: Way) -> None:
    job(near.store, "a", {b"one": b"1", b"two": b"2"})
    await near.pull()
    (near.target / "a/two").unlink()
    found = await look(near.results, near.target, ALL)
    assert {row.path: row.fate for row in found.rows if row.item.kind == "f"} == {
        b"a/one": Fate.HERE,
        b"a/two": Fate.COMES,
        b"a/job.json": Fate.HERE,
    }
    assert not (near.target / "a/two").exists()


# --- what lies in the way ---


async def test_links_of_the_target_s_owner_are_never_followed(near: Way, tmp_path: Path) -> None:
    job(near.store, "a", {b"sub/one": b"1", b"two": b"2"})
    job(near.store, "b", {b"three": b"3"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (near.target / "a").mkdir(parents=True)
    (near.target / "a" / "sub").symlink_to(outside)
    (near.target / "b").symlink_to(outside)
    (near.target / "a" / "two").symlink_to(outside / "two")
    pulled = await near.pull()
    assert os.listdir(outside) == []
    assert sorted(pulled.problems) == [b"a/sub", b"a/sub/one", b"b", b"b/job.json", b"b/three"]
    assert "a link" in pulled.problems[b"b/three"]
    assert (near.target / "a/two").read_bytes() == b"2"
    assert not (near.target / "a/two").is_symlink()


async def test_what_is_in_the_place_of_a_folder_or_file_is_named_and_left(near: Way) -> None:
    job(near.store, "a", {b"sub/one": b"1", b"two": b"2"})
    (near.target / "a" / "two" / "mine").mkdir(parents=True)
    (near.target / "a" / "sub").write_text("mine")
    pulled = await near.pull()
    assert pulled.problems == {
        b"a/sub": "a file is in its place; move it away",
        b"a/sub/one": "a file is in its place; move it away",
        b"a/two": "a folder is in its place; move it away",
    }
    assert (near.target / "a" / "sub").read_text() == "mine"


async def test_two_pulls_into_one_folder_do_not_meet(near: Way) -> None:
    job(near.store, "a", {b"one": b"1"})
    with opened(near.target), pytest.raises(BusyError, match="another pull"):
        await near.pull()
    assert (await near.pull()).problems == {}


async def test_what_a_killed_pull_left_beside_is_swept(near: Way) -> None:
    job(near.store, "a", {b"one": b"1"})
    beside = near.target / os.fsdecode(BESIDE)
    beside.mkdir(parents=True)
    for name in ("7.new", "0123.part", "lock"):
        (beside / name).write_text("x")
    await near.pull()
    assert not beside.exists()


async def test_no_room_is_said_before_anything_comes(near: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    job(near.store, "a", {b"big": BIG})

    async def free(*_: object) -> int:
        return 1000

    monkeypatch.setattr("distribute_ssh.storage.target.Target.free", free)
    with pytest.raises(DistributeError, match="there is no room"):
        await near.pull()
    assert not (near.target / "a").exists()


# --- storage that can do less ---


@pytest.mark.sshd
@pytest.mark.parametrize("listing", [None, "IFS= read -r folder; exit 127\n"], ids=["find", "no find"])
@pytest.mark.parametrize(
    "tar",
    [_HEAD + "exit 127\n", _HEAD + "xargs -0 -r tar -cf - | head -c 30000\n", _HEAD + "echo hello; cat\n"],
    ids=["no tar", "a tar that is cut", "no such thing as tar"],
)
async def test_without_a_tar_or_find_that_works_all_comes_over_sftp(
    tmp_path: Path, shared_lab: Lab, monkeypatch: pytest.MonkeyPatch, tar: str, listing: str | None
) -> None:
    monkeypatch.setattr("distribute_ssh.storage.results.TAR_ONLY", tar)
    if listing is not None:
        monkeypatch.setattr("distribute_ssh.storage.results._LIST", listing)
    store, target = tmp_path / "store", tmp_path / "here"
    job(store, "a", {b"%d" % n: b"x" * 3000 for n in range(20)}, {b"link": b"1"})
    async with AsyncExitStack() as stack:
        connect = await stack.enter_async_context(connecting(shared_lab))
        storage = await stack.enter_async_context(open_storage(f"sftp://lab1{store}", connect))
        pulled = await pull(StoredResults(storage, "ns", "batch"), target, ALL)
    assert pulled.problems == {}
    assert whole(target) == whole(store / "ns" / "batch")
