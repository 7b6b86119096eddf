"""Whatever cuts archiving short: nothing half-written is ever published, and the next call goes on from there."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute_ssh.errors import StorageError, UnreachableError
from distribute_ssh.node.probe import Facts
from distribute_ssh.storage.archive import archive
from distribute_ssh.storage.check import verify
from distribute_ssh.storage.disk import LocalStorage
from distribute_ssh.storage.publish import discard
from tests.storage.faults import BreakingLink, DyingStorage
from tests.storage.places import ALL, Route, parcel, tree

BIG = os.urandom(12_000_000)
FILES = {b"big": BIG} | {b"d%d/%03d" % (n % 7, n): os.urandom(n * 37) for n in range(200)}
LISTING = 60_000  # bytes at most that two lists of those take


async def _is_whole_or_absent(route: Route, *names: str) -> int:
    """How many of them are published; each of those must be whole."""
    published = 0
    for name in names:
        if (route.batch / name).exists():
            published += 1
            assert await verify(LocalStorage(route.store), "ns", "batch", name) == []
            assert tree(route.batch / name) == tree(route.node.root / "attempts" / parcel(name).token / "save")
    return published


def _small(route: Route, name: str) -> Path:
    save = route.node.attempt(name, {b"a": b"1" * 10, b"d/b": b"2" * 20, b"empty": b"", b"big": BIG[:1_200_000]})
    (save / "link").symlink_to("a")
    return save


async def test_a_coordinator_killed_at_any_act_leaves_nothing_half_published(local: Route) -> None:
    """`kill -9`, not an error: nothing is tidied up after it, and no journal is written."""
    _small(local, "whole")
    counting = DyingStorage(local.store)
    assert (await local.archive("whole", storage=counting))[0].published
    assert counting.acts > 10
    for dies_at in range(1, counting.acts + 1):
        name = f"job{dies_at}"
        _small(local, name)
        [outcome] = await local.archive(name, storage=DyingStorage(local.store, dies_at))
        assert not outcome.published or not (local.batch / f".part-{parcel(name).token}").exists()
        await _is_whole_or_absent(local, name)
        [outcome] = await local.archive(name)
        assert outcome.published, (dies_at, outcome.reason)
        assert await _is_whole_or_absent(local, name) == 1
        assert not [path for path in local.batch.iterdir() if path.name.startswith(".part")]


async def test_a_group_killed_at_any_act_is_whole_after_the_second_call(local: Route) -> None:
    names = ["one", "two", "three", "four"]
    for dies_at in range(1, 14):
        batch = [f"{name}{dies_at}" for name in names]
        for name in batch:
            local.node.attempt(name, {b"x": name.encode(), b"y/z": b"z"})
        await local.archive(*batch, storage=DyingStorage(local.store, dies_at))
        await _is_whole_or_absent(local, *batch)
        assert all(outcome.published for outcome in await local.archive(*batch))
        assert await _is_whole_or_absent(local, *batch) == len(names)


@pytest.mark.parametrize("facts", [ALL, Facts()], ids=["tar", "single files"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.3, 0.9, 0.99])
async def test_after_a_cut_only_what_is_missing_comes_again(
    local: Route, facts: Facts, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distribute_ssh.storage.resume.WORTH_IT", 1 << 20)
    save = local.node.attempt("job", FILES)
    total = sum(map(len, FILES.values()))
    link = BreakingLink(local.link, int(total * part))
    [outcome] = await local.archive("job", link=link, facts=facts)
    assert isinstance(outcome.error, UnreachableError)
    assert await _is_whole_or_absent(local, "job") == 0
    second = BreakingLink(local.link)
    [outcome] = await local.archive("job", link=second, facts=facts)
    assert outcome.published, outcome.reason
    assert tree(local.batch / "job") == tree(save)
    # Two lists each time, and files that were on their way: small ones whole, of a big one the pieces asked for ahead.
    again = second.came - (total - link.came)
    assert again < 2 * LISTING + 5_000_000, again


async def test_a_big_file_goes_on_from_where_it_was_cut(route: Route) -> None:
    data = os.urandom(40_000_000)
    route.node.attempt("job", {b"big": data})
    link = BreakingLink(route.link, 30_000_000)
    [outcome] = await route.archive("job", link=link)
    assert not outcome.published
    second = BreakingLink(route.link)
    [outcome] = await route.archive("job", link=second)
    assert outcome.published, outcome.reason
    assert second.came < 18_000_000
    assert hashlib.sha256((route.batch / "job" / "big").read_bytes()).digest() == hashlib.sha256(data).digest()


async def test_a_beginning_that_is_not_the_nodes_is_fetched_anew(local: Route) -> None:
    """A power cut may leave a file of the right length that holds zeros."""
    data = os.urandom(20_000_000)
    local.node.attempt("job", {b"big": data})
    await local.archive("job", link=BreakingLink(local.link, 15_000_000))
    [part] = local.batch.glob(".part-*/big")
    with part.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"\0" * 4096)
    [outcome] = await local.archive("job")
    assert outcome.published, outcome.reason
    assert (local.batch / "job" / "big").read_bytes() == data


async def test_a_file_that_no_journal_vouches_for_comes_again(local: Route) -> None:
    """Right name, size and time, but written by a coordinator that was killed: it may hold anything."""
    save = local.node.attempt("job", {b"file": b"right"})
    part = local.batch / f".part-{parcel('job').token}"
    part.mkdir(parents=True)
    (part / "file").write_bytes(b"wrong")
    status = (save / "file").stat()
    os.utime(part / "file", ns=(status.st_mtime_ns, status.st_mtime_ns))
    [outcome] = await local.archive("job")
    assert outcome.published
    assert (local.batch / "job" / "file").read_bytes() == b"right"


async def test_what_lies_about_in_a_part_folder_is_never_published(local: Route, tmp_path: Path) -> None:
    save = local.node.attempt("job", {b"file": b"right", b"folder/x": b"x"})
    outside = tmp_path / "outside"
    outside.mkdir()
    part = local.batch / f".part-{parcel('job').token}"
    (part / "stray" / "deep").mkdir(parents=True)
    (part / "stray" / "deep" / "file").touch()
    (part / "job.json").write_text("{}")
    (part / "file").mkdir()
    (part / "folder").symlink_to(outside)
    os.mkfifo(part / "pipe")
    [outcome] = await local.archive("job")
    assert outcome.published, outcome.reason
    assert tree(local.batch / "job") == tree(save)
    assert list(outside.iterdir()) == []
    assert await verify(local.storage, "ns", "batch", "job") == []


async def test_a_crash_between_publishing_and_noting_it_costs_nothing(route: Route) -> None:
    route.node.attempt("job", {b"x": b"1" * 1000}, output=b"last\n")
    [first] = await route.archive("job")
    link = BreakingLink(route.link)
    [second] = await route.archive("job", link=link)
    assert second == first
    assert (link.commands, link.came) == (0, 0)
    assert [path.name for path in route.batch.iterdir()] == ["job"]


async def test_cancelling_leaves_what_can_be_resumed(local: Route) -> None:
    save = local.node.attempt("job", FILES)
    link = BreakingLink(local.link)
    task = asyncio.create_task(local.archive("job", link=link))

    def cancel(came: int) -> None:
        if came > 6_000_000:
            task.cancel()

    link.on_bytes = cancel
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _is_whole_or_absent(local, "job") == 0
    [outcome] = await local.archive("job")
    assert outcome.published, outcome.reason
    assert tree(local.batch / "job") == tree(save)


async def test_what_was_brought_of_an_attempt_that_is_given_up_can_be_discarded(route: Route) -> None:
    route.node.attempt("job", FILES)
    await route.archive("job", link=BreakingLink(route.link, 6_000_000))
    assert len(list(route.batch.iterdir())) == 2
    await discard(route.storage, "ns", "batch", parcel("job").token)
    assert list(route.batch.iterdir()) == []
    await discard(route.storage, "ns", "batch", parcel("job").token)


# --- what is in the way ---


async def test_results_that_are_there_are_set_aside_never_overwritten(route: Route) -> None:
    for number, name in enumerate(("first", "second", "third"), 1):
        route.node.attempt(name, {b"x": name.encode()})
        one = parcel(name, number)
        again = type(one)(one.token, "ns", "batch", "job", "job_output.txt", one.record)
        [outcome] = await archive(route.link, os.fsencode(route.node.root), [again], route.storage, facts=ALL)
        assert outcome.published, outcome.reason
    found = {path.name: (path / "x").read_text() for path in route.batch.iterdir()}
    assert found == {"job@attempt-1": "first", "job@attempt-2": "second", "job": "third"}


async def test_a_folder_without_a_record_and_names_that_are_taken_are_kept_too(local: Route) -> None:
    local.batch.mkdir(parents=True)
    for name in ("job", "job@attempt-0", "job@attempt-0-2"):
        (local.batch / name).mkdir()
        (local.batch / name / "precious").write_text(name)
    local.node.attempt("job", {b"x": b"new"})
    [outcome] = await local.archive("job")
    assert outcome.published, outcome.reason
    assert (local.batch / "job" / "x").read_text() == "new"
    assert (local.batch / "job@attempt-0-3" / "precious").read_text() == "job"
    assert (local.batch / "job@attempt-0" / "precious").read_text() == "job@attempt-0"


async def test_a_file_in_the_place_of_the_batch_is_told_and_kept(local: Route) -> None:
    (local.store / "ns").write_text("a file")
    local.node.attempt("job")
    [outcome] = await local.archive("job")
    assert isinstance(outcome.error, StorageError)
    assert (local.store / "ns").read_text() == "a file"


# --- what changes underneath ---


@pytest.mark.parametrize("facts", [ALL, Facts()], ids=["tar and find", "neither"])
async def test_a_file_that_grows_during_the_copy_is_fetched_again(local: Route, facts: Facts) -> None:
    save = local.node.attempt("job", {b"a": b"1" * 3_000_000, b"growing": b"1" * 3_000_000, b"short": b"x"})
    link = BreakingLink(local.link)
    grown: list[int] = []

    def grow(came: int) -> None:
        if came > 2_000_000 and not grown:
            grown.append(came)
            for name in ("growing", "short"):
                with (save / name).open("ab") as file:
                    file.write(b"more")
            (save / "new").write_text("new")
            (save / "a").unlink()

    link.on_bytes = grow
    [outcome] = await local.archive("job", link=link, facts=facts)
    assert outcome.published, outcome.reason
    assert grown
    assert tree(local.batch / "job") == tree(save)
    assert await verify(local.storage, "ns", "batch", "job") == []


async def test_a_file_that_never_rests_is_not_published_but_named(local: Route) -> None:
    save = local.node.attempt("job", {b"restless": b"1", b"big": bytes(2_000_000)})
    link = BreakingLink(local.link)

    def write(came: int) -> None:
        (save / "restless").write_text(str(came))

    link.on_bytes = write
    [outcome] = await local.archive("job", link=link)
    assert not outcome.published
    assert "change while they are brought in: restless" in str(outcome.reason)
    [outcome] = await local.archive("job")
    assert outcome.published, outcome.reason
    assert tree(local.batch / "job") == tree(save)


async def test_what_the_job_removed_before_the_second_call_is_not_published(local: Route) -> None:
    save = local.node.attempt("job", FILES)
    await local.archive("job", link=BreakingLink(local.link, 12_200_000))
    (save / "big").unlink()
    (save / "d1" / "001").write_text("other")
    [outcome] = await local.archive("job")
    assert outcome.published, outcome.reason
    assert tree(local.batch / "job") == tree(save)


# --- full disks and missing rights ---


@pytest.fixture
def small_disk(local: Route) -> Iterator[Route]:
    """Storage on a file system of 3 MB and 40 files."""
    options = "size=3m,nr_inodes=40,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", local.store], check=True)
    yield local
    subprocess.run(["umount", local.store], check=True)


def _enlarge(route: Route) -> None:
    subprocess.run(["mount", "-o", "remount,size=50m,nr_inodes=4000", route.store], check=True)


@pytest.mark.root
async def test_what_does_not_fit_is_not_begun_and_goes_on_when_there_is_room(small_disk: Route) -> None:
    small_disk.node.attempt("large", {b"x": bytes(4_000_000)})
    small_disk.node.attempt("little", {b"x": b"1"})
    large, little = await small_disk.archive("large", "little")
    assert little.published, little.reason
    assert isinstance(large.error, StorageError)
    assert "storage is full" in str(large.reason)
    assert str(small_disk.store) in str(large.reason)
    _enlarge(small_disk)
    [large] = await small_disk.archive("large")
    assert large.published, large.reason


@pytest.mark.root
@pytest.mark.parametrize("facts", [ALL, Facts()], ids=["tar and find", "neither"])
async def test_a_disk_that_fills_up_on_the_way_publishes_nothing_and_resumes(small_disk: Route, facts: Facts) -> None:
    """Files run out before bytes do, which nothing tells beforehand."""
    save = small_disk.node.attempt("job", {b"%03d" % number: b"x" * 100 for number in range(60)})
    [outcome] = await small_disk.archive("job", facts=facts)
    assert isinstance(outcome.error, StorageError)
    assert "storage is full" in str(outcome.reason)
    assert "free some space" in str(outcome.reason)
    assert [path.name[:6] for path in small_disk.batch.iterdir() if path.is_dir()] == [".part-"]
    _enlarge(small_disk)
    [outcome] = await small_disk.archive("job", facts=facts)
    assert outcome.published, outcome.reason
    assert tree(small_disk.batch / "job") == tree(save)


@pytest.mark.root
async def test_a_reserve_stays_free(small_disk: Route) -> None:
    small_disk.node.attempt("job", {b"x": bytes(500_000)})
    [outcome] = await small_disk.archive("job", reserve=2_900_000)
    assert "kept for others" in str(outcome.reason)
    assert (await small_disk.archive("job", reserve=1_000_000))[0].published


@pytest.mark.root
async def test_a_disk_that_is_read_only_is_told_and_then_goes_on(small_disk: Route) -> None:
    small_disk.node.attempt("job", {b"x": b"1"})
    subprocess.run(["mount", "-o", "remount,ro", small_disk.store], check=True)
    [outcome] = await small_disk.archive("job")
    assert isinstance(outcome.error, StorageError)
    assert "storage cannot be written" in str(outcome.reason)
    subprocess.run(["mount", "-o", "remount,rw", small_disk.store], check=True)
    assert (await small_disk.archive("job"))[0].published


async def test_storage_that_went_away_is_told(local: Route) -> None:
    local.node.attempt("job", {b"x": b"1"})
    local.store.rename(local.store.with_name("elsewhere"))
    [outcome] = await local.archive("job")
    assert isinstance(outcome.error, StorageError)
    assert "cannot be opened" in str(outcome.reason)
    local.store.with_name("elsewhere").rename(local.store)
    assert (await local.archive("job"))[0].published
    assert json.loads((local.batch / "job" / "job.json").read_text())["attempt"] == 1
