"""What is promised of storage, whether it is a folder of this machine or behind an SFTP server."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from distribute_ssh.errors import StorageError, UsageError
from distribute_ssh.node.link import Link
from distribute_ssh.storage.batches import rename_batch, write_batch_files
from distribute_ssh.storage.check import test_storage as try_storage
from distribute_ssh.storage.check import verify
from distribute_ssh.storage.disk import LocalStorage
from distribute_ssh.storage.folder import Small, Stamp, Storage, open_storage, trouble
from distribute_ssh.storage.publish import set_aside
from tests.storage.places import Route, connecting, tree
from tests.support.lab import Lab

KINDS = [
    pytest.param("folder", id="a folder"),
    pytest.param("sftp", id="sftp with a shell", marks=pytest.mark.sshd),
    pytest.param("sftp-only", id="sftp alone", marks=pytest.mark.sshd),
]


@dataclass(frozen=True)
class Place:
    """Storage, and where it really lies."""

    storage: Storage
    path: Path


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Every kind of storage, empty but for the folder `ns/batch/.part-x`."""
    store = tmp_path / "store"
    (store / "ns" / "batch" / ".part-x").mkdir(parents=True)
    if request.param == "folder":
        yield Place(LocalStorage(store), store)
        return
    lab: Lab = request.getfixturevalue("shared_lab" if request.param == "sftp" else "lab")
    if request.param == "sftp-only":
        lab.add("lab1", ["ForceCommand internal-sftp"])
    async with AsyncExitStack() as opened:
        connect = await opened.enter_async_context(connecting(lab))
        yield Place(await opened.enter_async_context(open_storage(f"sftp://lab1{store}", connect)), store)


PART = b"ns/batch/.part-x/"


async def test_what_is_put_lies_there_with_its_mode_and_time(place: Place) -> None:
    await place.storage.make_folders([PART + b"d", PART + b"d/e\xff\n"])
    files = [Small(PART + b"d/e\xff\n/%03d" % n, b"x" * n * 4000, 0o755, 10**18) for n in range(150)]
    assert await place.storage.put(files) == {}
    await place.storage.sync([PART.rstrip(b"/")])
    folder = os.fsencode(place.path) + b"/" + PART + b"d/e\xff\n"
    for n, name in enumerate(sorted(os.listdir(folder))):
        status = os.stat(folder + b"/" + name)
        assert (status.st_size, status.st_mode & 0o7777, status.st_mtime) == (n * 4000, 0o755, 10**9)


async def test_nothing_is_ever_written_over(place: Place) -> None:
    assert await place.storage.put([Small(PART + b"x", b"first")]) == {}
    failures = await place.storage.put([Small(PART + b"x", b"second"), Small(PART + b"y", b"other")])
    assert {path: error.errno for path, error in failures.items()} == {PART + b"x": errno.EEXIST}
    assert (place.path / "ns/batch/.part-x/x").read_bytes() == b"first"
    assert (place.path / "ns/batch/.part-x/y").read_bytes() == b"other"
    with pytest.raises(OSError, match="exist"):
        await place.storage.open(PART + b"x", fresh=True)


async def test_a_rename_never_replaces_results(place: Place) -> None:
    for name in ("job", "other"):
        (place.path / "ns" / "batch" / name).mkdir()
        (place.path / "ns" / "batch" / name / "file").write_text(name)
    assert set(await place.storage.rename([(b"ns/batch/other", b"ns/batch/job")])) == {b"ns/batch/other"}
    assert (place.path / "ns" / "batch" / "job" / "file").read_text() == "job"


async def test_a_big_file_is_written_in_pieces_and_continued(place: Place) -> None:
    data = os.urandom(1_500_000)
    writer = await place.storage.open(PART + b"big", fresh=True)
    await writer.write(0, data[:700_000])
    await writer.close()
    writer = await place.storage.open(PART + b"big", fresh=False)
    await writer.write(700_000, data[700_000:])
    await writer.close()
    assert (place.path / "ns/batch/.part-x/big").read_bytes() == data
    assert await place.storage.read(PART + b"big", 600_000, 300_000) == data[600_000:900_000]
    assert await place.storage.read(PART + b"big", 1_499_999, 50) == data[-1:]
    assert await place.storage.read(PART + b"big", 1_500_000, 50) == b""


async def test_looking_tells_kinds_and_follows_no_link(place: Place, tmp_path: Path) -> None:
    folder = place.path / "ns/batch/.part-x"
    (folder / "d" / "deep").mkdir(parents=True)
    (folder / "d" / "deep" / "file").write_text("123")
    (folder / "out").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    found = await place.storage.tree(PART.rstrip(b"/"))
    kinds = {path: entry.kind for path, entry in found.items()}
    assert kinds == {b"d": "d", b"d/deep": "d", b"d/deep/file": "f", b"out": "l", b"pipe": "?"}
    assert found[b"d/deep/file"].size == 3
    assert await place.storage.readlinks([PART + b"out", PART + b"d", PART + b"none"]) == {PART + b"out": b"/etc"}
    assert set(await place.storage.stat([PART + b"out", PART + b"none", b"no/such"])) == {PART + b"out"}


async def test_links_say_what_they_are_given(place: Place) -> None:
    links = {PART + b"a": b"/etc/passwd", PART + b"b": b"../../..", PART + b"c\n": b"\xff\n"}
    assert await place.storage.make_links(links) == {}
    assert await place.storage.readlinks(list(links)) == links


async def test_removing_takes_files_links_and_emptied_folders_and_not_what_links_point_to(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    folder = place.path / "ns/batch/.part-x"
    (folder / "d").mkdir()
    (folder / "d" / "file").touch()
    (folder / "link").symlink_to(tmp_path / "precious")
    paths = [PART + b"d/file", PART + b"link", PART + b"d", PART + b"was never"]
    assert await place.storage.remove(paths) == {}
    assert list(folder.iterdir()) == []
    assert (tmp_path / "precious" / "file").exists()


async def test_an_act_that_fails_leaves_the_others_alone(place: Place) -> None:
    stamps = [Stamp(PART + b"none", 0o644, 0), Stamp(PART.rstrip(b"/"), 0o750, 5 * 10**9)]
    assert set(await place.storage.stamp(stamps)) == {PART + b"none"}
    status = (place.path / "ns/batch/.part-x").stat()
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o750, 5)
    (place.path / "ns/batch/.part-x/file").touch()
    failures = await place.storage.make_folders([PART + b"file", PART + b"good", PART.rstrip(b"/")])
    assert set(failures) == {PART + b"file"}


async def test_free_space_is_told(place: Place) -> None:
    there = os.statvfs(place.path)
    assert abs(await place.storage.free(b"") - there.f_bavail * there.f_frsize) < 1 << 30


@pytest.mark.parametrize("path", [b"../x", b"/etc/x", b"ns/..", b"ns/", b"."])
async def test_a_path_out_of_storage_is_a_mistake_of_ours_and_nothing_happens(place: Place, path: bytes) -> None:
    with pytest.raises(ValueError, match="not a path"):
        await place.storage.put([Small(path + b"/.." if path == b"../x" else path, b"x")])


async def test_below_the_batch_no_link_is_followed_and_above_it_the_sites_are(tmp_path: Path) -> None:
    outside, store = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    (store / "ns" / "batch").mkdir(parents=True)
    (store / "ns" / "batch" / "job").symlink_to(outside)
    (store / "big").symlink_to(outside)
    storage = LocalStorage(store)
    failures = await storage.put([Small(b"ns/batch/job/x", b"x")])
    assert failures[b"ns/batch/job/x"].errno in (errno.ELOOP, errno.ENOTDIR)
    assert await storage.put([Small(b"big/x", b"x")]) == {}
    assert [path.name for path in outside.iterdir()] == ["x"]


async def test_hundreds_of_folders_need_few_descriptors(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    folders = [b"%d/b/%d" % (n % 5, n) for n in range(1500)]
    await storage.make_folders([b"%d" % n for n in range(5)] + [b"%d/b" % n for n in range(5)] + folders)
    before = len(os.listdir("/proc/self/fd"))
    assert await storage.put([Small(folder + b"/x", b"x") for folder in folders]) == {}
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(list(tmp_path.glob("*/b/*/x"))) == 1500


# --- opening it ---


async def test_a_folder_that_is_missing_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"mkdir -p {tmp_path}/none"):
        async with open_storage(str(tmp_path / "none")):
            pass


@pytest.mark.sshd
async def test_a_folder_that_is_missing_behind_sftp_is_told_too(shared_lab: Lab, tmp_path: Path) -> None:
    async with connecting(shared_lab) as connect:
        with pytest.raises(StorageError, match="mkdir -p"):
            async with open_storage(f"sftp://lab1{tmp_path}/none", connect):
                pass


@pytest.mark.sshd
async def test_a_line_lost_to_storage_is_storages_trouble(lab: Lab, tmp_path: Path, local: Route) -> None:
    node = lab.add("vault")

    local.node.attempt("job", {b"%d" % n: b"x" for n in range(100)})
    async with connecting(lab) as connect:
        async with open_storage(f"sftp://vault{local.store}", connect) as storage:
            assert await storage.free(b"") > 0
            node.sshd.kill_sessions()
            [outcome] = await local.archive("job", storage=storage)
            assert isinstance(outcome.error, StorageError)
            assert "cannot be reached" in str(outcome.reason)
        async with open_storage(f"sftp://vault{local.store}", connect) as storage:
            assert (await local.archive("job", storage=storage))[0].published


@pytest.mark.parametrize("place", ["sftp://", "sftp://h:x/p", "sftp://a b/p"])
async def test_an_address_that_is_none_is_refused(place: str) -> None:
    async def connect(host: str, *, user: str | None, port: int | None) -> Link:
        raise AssertionError("not reached")

    with pytest.raises(UsageError):
        async with open_storage(place, connect):
            pass


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "storage is full"), (errno.EDQUOT, "quota"), (errno.EACCES, "the right to write"),
        (errno.EROFS, "the right to write"), (errno.ENAMETOOLONG, "cannot hold this name"), (errno.EIO, "output error"),
    ],
)  # fmt: skip
def test_every_trouble_names_the_place_and_what_to_do(code: int, words: str) -> None:
    said = str(trouble("/srv/archive", b"ns/b\x1b", OSError(code, os.strerror(code))))
    assert words in said
    assert "/srv/archive/ns/b\\x1b" in said


# --- a batch's own, and looking whether all is well ---


async def test_a_batchs_files_are_replaced_whole(place: Place) -> None:
    for number in (1, 2):
        await write_batch_files(place.storage, "new", "batch", f"meta: {number}\n", {"schema": 1, "number": number})
    found = {path.name: path.read_text() for path in (place.path / "new" / "batch").iterdir()}
    assert found == {"batch.yaml": "meta: 2\n", "batch.json": '{\n "schema": 1,\n "number": 2\n}\n'}


async def test_a_batch_is_moved_whole_and_never_onto_another(place: Place) -> None:
    (place.path / "ns" / "batch" / "file").touch()
    assert await rename_batch(place.storage, "ns", "batch", "batch@2025")
    assert (place.path / "ns" / "batch@2025" / "file").exists()
    assert not await rename_batch(place.storage, "ns", "batch", "batch@2026")
    (place.path / "ns" / "batch").mkdir()
    with pytest.raises(StorageError, match="is there already"):
        await rename_batch(place.storage, "ns", "batch", "batch@2025")


async def test_setting_aside_tells_the_new_name(place: Place) -> None:
    job = place.path / "ns" / "batch" / "job"
    job.mkdir()
    (job / "job.json").write_text('{\n "schema": 1,\n "token": "tests0-job",\n "attempt": 7,\n "files": []}')
    assert await set_aside(place.storage, "ns", "batch", "job") == "job@attempt-7"
    assert (place.path / "ns" / "batch" / "job@attempt-7" / "job.json").exists()


async def test_storage_that_works_is_told_apart_and_left_as_it_was(place: Place) -> None:
    before = tree(place.path)
    assert await try_storage(place.storage) > 0
    assert tree(place.path) == before


@pytest.mark.root
async def test_storage_that_cannot_be_written_fails_its_trial(tmp_path: Path) -> None:
    storage = LocalStorage(Path("/proc"))
    with pytest.raises(StorageError):
        await try_storage(storage)


async def test_verifying_finds_every_kind_of_change(route: Route) -> None:
    save = route.node.attempt("job", dict.fromkeys((b"same", b"gone", b"longer", b"other", b"kind"), b"12345"))
    (save / "link").symlink_to("same")
    (save / "folder").mkdir()
    await route.archive("job")
    assert await verify(route.storage, "ns", "batch", "job") == []
    job = route.batch / "job"
    (job / "gone").unlink()
    (job / "longer").write_text("123456")
    (job / "other").write_text("54321")
    (job / "kind").unlink()
    (job / "kind").mkdir()
    (job / "link").unlink()
    (job / "link").symlink_to("other")
    (job / "folder").rmdir()
    (job / "added\x1b").touch()
    problems = {problem.path: problem.what for problem in await verify(route.storage, "ns", "batch", "job")}
    assert problems == {
        "gone": "is missing", "longer": "has 6 bytes, not 5", "other": "has other contents",
        "kind": "is no file any more", "link": "is no link to the same place", "folder": "is no folder",
        "added\\x1b": "was added",
    }  # fmt: skip
