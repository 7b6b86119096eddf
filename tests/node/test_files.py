"""What is promised of a machine's files, on this machine and over SFTP."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from distribute_ssh.errors import UnreachableError
from distribute_ssh.node.files import Files
from distribute_ssh.node.link import Link
from tests.support.lab import Lab
from tests.support.wait import until

ODD_NAMES = [
    *(b"a b", b"-rf", b"*", b"back\\slash", b"new\nline", b"\xe9\xff", b"'\"$(id);", b"~", b"x" * 255),
    "é".encode(),
]


@pytest.fixture
async def files(link: Link) -> AsyncIterator[Files]:
    async with link.files() as opened:
        yield opened


@pytest.fixture
def here(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[bytes]:
    """A file system of 64 KiB."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs", where], check=True)
    yield os.fsencode(where)
    subprocess.run(["umount", "-l", where], check=True)


async def put(files: Files, path: bytes, data: bytes) -> None:
    file = await files.open_write(path, fresh=True)
    await file.write(0, data)
    await file.close()


async def test_stat_tells_kind_size_time_and_mode(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "file").chmod(0o640)
    os.utime(tmp_path / "file", (1, 1_600_000_000.9))
    entry = await files.stat(here + b"/file")
    assert (entry.name, entry.kind, entry.size, entry.mtime, entry.mode) == (b"file", "f", 5, 1_600_000_000, 0o640)


async def test_kinds_are_told_apart_and_links_are_not_followed(
    files: Files, here: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the name of a socket has at most 107 bytes
        listening.bind("socket")
        found = {entry.name: entry.kind for entry in await files.scan(here)}
    assert found == {b"folder": "d", b"link": "l", b"dangling": "l", b"pipe": "?", b"socket": "?"}
    for name, kind in found.items():
        assert (await files.stat(here + b"/" + name)).kind == kind


async def test_names_are_bytes_and_come_back_as_they_are(files: Files, here: bytes, tmp_path: Path) -> None:
    for name in ODD_NAMES:
        await put(files, here + b"/" + name, b"content of " + name)
    assert sorted(entry.name for entry in await files.scan(here)) == sorted(ODD_NAMES)
    assert sorted(os.listdir(here)) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        file = await files.open_read(here + b"/" + name)
        assert await file.read(0, 1000) == b"content of " + name
        await file.close()
        await files.remove(here + b"/" + name)
    assert os.listdir(here) == []


async def test_a_link_says_where_it_points(files: Files, here: bytes) -> None:
    for target in (b"../x", b"/etc/passwd", b"\xe9 '\n", b"-n"):
        await files.symlink(target, here + b"/link")
        assert os.readlink(here + b"/link") == target
        assert await files.readlink(here + b"/link") == target
        await files.remove(here + b"/link")


async def test_a_file_is_read_at_any_offset(files: Files, here: bytes, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    (tmp_path / "file").write_bytes(data)
    file = await files.open_read(here + b"/file")
    assert await file.read(0, 2_000_000) == data
    assert await file.read(999_990, 100) == data[-10:]
    assert await file.read(500_000, 300_000) == data[500_000:800_000]
    assert await file.read(1_000_000, 100) == b""
    await file.close()


async def test_a_file_is_written_at_any_offset_and_is_ours_alone(files: Files, here: bytes, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    file = await files.open_write(here + b"/file", fresh=True)
    await file.write(500_000, data[500_000:])
    await file.write(0, data[:500_000])
    await file.sync()
    await file.close()
    assert (tmp_path / "file").read_bytes() == data
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


async def test_writing_goes_on_in_a_file_that_was_cut(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"first ")
    file = await files.open_write(here + b"/part", fresh=False)
    await file.write(6, b"second")
    await file.close()
    assert (tmp_path / "part").read_bytes() == b"first second"


async def test_a_fresh_file_never_replaces_one(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        await files.open_write(here + b"/there", fresh=True)
    assert (tmp_path / "there").read_bytes() == b"old"


async def test_a_fresh_file_is_never_written_through_a_link(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("outside")
    with pytest.raises(FileExistsError):
        await files.open_write(here + b"/link", fresh=True)
    assert not (tmp_path / "outside").exists()


async def test_a_file_is_never_read_through_a_link(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to("secret")
    with pytest.raises(OSError, match="link"):
        await files.open_read(here + b"/link")


async def test_a_pipe_is_refused_and_does_not_hang_what_follows(files: Files, here: bytes, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        await files.open_read(here + b"/pipe")
    assert (await files.stat(here + b"/pipe")).kind == "?"


async def test_a_folder_is_refused_as_a_file(files: Files, here: bytes) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        await files.open_read(here)


async def test_mkdir_makes_a_folder_of_that_mode_once(files: Files, here: bytes, tmp_path: Path) -> None:
    await files.mkdir(here + b"/new", 0o750)
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o750
    with pytest.raises(FileExistsError):
        await files.mkdir(here + b"/new")


async def test_rename_replaces_a_file(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    await files.rename(here + b"/new", here + b"/old")
    assert (tmp_path / "old").read_bytes() == b"new"
    assert not (tmp_path / "new").exists()


async def test_rename_moves_a_folder_but_never_over_a_full_one(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "mine").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "theirs").touch()
    with pytest.raises(OSError, match="taken") as caught:
        await files.rename(here + b"/part", here + b"/taken")
    assert caught.value.errno in (errno.ENOTEMPTY, errno.EEXIST)
    assert os.listdir(tmp_path / "taken") == ["theirs"]
    await files.rename(here + b"/part", here + b"/free")
    assert os.listdir(tmp_path / "free") == ["mine"]


async def test_a_folder_that_holds_something_is_not_removed(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OSError, match="full") as caught:
        await files.rmdir(here + b"/full")
    assert caught.value.errno in (errno.ENOTEMPTY, errno.EEXIST)
    await files.remove(here + b"/full/file")
    await files.rmdir(here + b"/full")
    assert not (tmp_path / "full").exists()


async def test_removing_a_link_leaves_what_it_points_to(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    await files.remove(here + b"/link")
    assert os.listdir(tmp_path) == ["file"]


async def test_mode_and_time_are_set(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await files.set_times(here + b"/file", 0o751, 1_500_000_000)
    status = (tmp_path / "file").stat()
    assert (status.st_mode & 0o7777, int(status.st_mtime)) == (0o751, 1_500_000_000)
    await files.set_times(here + b"/file", None, 1_400_000_000)
    status = (tmp_path / "file").stat()
    assert (status.st_mode & 0o7777, int(status.st_mtime)) == (0o751, 1_400_000_000)


async def test_the_time_of_a_link_is_its_own(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = (tmp_path / "file").stat().st_mtime
    (tmp_path / "link").symlink_to("file")
    await files.set_times(here + b"/link", None, 1_500_000_000)
    assert int((tmp_path / "link").lstat().st_mtime) == 1_500_000_000
    assert (tmp_path / "file").stat().st_mtime == before


async def test_free_is_what_an_ordinary_user_may_still_write(files: Files, here: bytes, tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert abs(await files.free(here) - found.f_bavail * found.f_frsize) < 1 << 30


async def test_what_is_not_there_is_called_so(files: Files, here: bytes) -> None:
    gone = here + b"/gone"
    for attempt in (
        files.stat(gone),
        files.scan(gone),
        files.readlink(gone),
        files.open_read(gone),
        files.open_write(gone + b"/x", fresh=True),
        files.mkdir(gone + b"/x"),
        files.symlink(b"x", gone + b"/x"),
        files.rename(gone, here + b"/y"),
        files.remove(gone),
        files.rmdir(gone),
        files.set_times(gone, 0o600, 1),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            await attempt
        assert caught.value.filename is not None


async def test_a_taken_name_is_called_so(files: Files, here: bytes, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    for attempt in (files.mkdir(here + b"/there"), files.symlink(b"x", here + b"/there")):
        with pytest.raises(FileExistsError):
            await attempt


async def test_other_errors_are_not_called_full_or_taken(files: Files, here: bytes, tmp_path: Path) -> None:
    """Whoever hears "exists" or "no space" acts on it."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for attempt in (
        lambda: files.readlink(here + b"/file"),
        lambda: files.remove(here + b"/folder"),
        lambda: files.open_write(here + b"/folder", fresh=False),
    ):
        with pytest.raises(OSError, match=r"file|folder") as caught:
            await attempt()
        assert caught.value.errno not in (errno.EEXIST, errno.ENOSPC, errno.ENOENT)


@pytest.mark.root
async def test_a_full_disk_is_called_so(files: Files, small_disk: bytes) -> None:
    file = await files.open_write(small_disk + b"/file", fresh=True)
    with pytest.raises(OSError, match="No space") as caught:
        await file.write(0, bytes(1 << 20))
    assert caught.value.errno == errno.ENOSPC
    await file.close()
    assert await files.free(small_disk) == 0
    await files.remove(small_disk + b"/file")
    assert await files.free(small_disk) > 0
    await put(files, small_disk + b"/other", b"goes on")


@pytest.mark.root
async def test_a_taken_name_on_a_full_disk_is_still_a_taken_name(files: Files, small_disk: bytes) -> None:
    Path(os.fsdecode(small_disk), "there").mkdir()
    with pytest.raises(OSError, match="No space"):
        Path(os.fsdecode(small_disk), "fill").write_bytes(bytes(1 << 20))
    with pytest.raises(FileExistsError):
        await files.mkdir(small_disk + b"/there")


@pytest.mark.sshd
async def test_a_lost_line_is_no_file_error(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    node = lab.add("lab1")
    async with lab.link("lab1") as link, link.files() as files:
        file = await files.open_read(os.fsencode(tmp_path / "file"))
        node.sshd.kill_sessions()
        await until(lambda: not link.is_open, "the link knows")
        for attempt in (file.read(0, 10), files.stat(b"/"), files.scan(b"/"), files.mkdir(b"/tmp/x")):
            with pytest.raises(UnreachableError):
                await attempt


@pytest.mark.sshd
async def test_sftp_sessions_are_given_back(lab: Lab) -> None:
    lab.add("lab1")
    async with lab.link("lab1") as link:
        for _ in range(25):
            async with link.files() as files:
                await files.stat(b"/")
        assert (await link.run("true")).ok
