"""The spool: content in, whole or not at all."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distribute_ssh.errors import StoreError, UsageError
from distribute_ssh.store.spool import GRACE, Blob, Spool
from tests.support.spools import content, sha

# ------------------------------------------------------------------------------------------------------ single files


def test_content_lies_under_its_hash_read_only_in_a_private_folder(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    (tmp_path / "f").chmod(0o755)
    blob = spool.add_file(tmp_path / "f")
    assert blob == Blob(sha(b"data"), 4, 0o755)
    kept = spool.path_of(blob.sha256)
    assert kept == spool.root / blob.sha256[:2] / blob.sha256
    assert kept.read_bytes() == b"data"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o400
    assert stat.S_IMODE(spool.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_every_size_is_kept_as_it_is(size: int, spool: Spool, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    blob = spool.add_file(tmp_path / "f")
    assert (blob.sha256, blob.size) == (sha(data), size)
    assert spool.path_of(blob.sha256).read_bytes() == data


def test_equal_content_is_kept_once_and_not_written_again(spool: Spool, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    first = spool.add_file(tmp_path / "a")
    inode = spool.path_of(first.sha256).stat().st_ino
    assert spool.add_file(tmp_path / "b") == first == spool.add_bytes(b"same")
    assert spool.path_of(first.sha256).stat().st_ino == inode
    assert content(spool) == [first.sha256]


def test_a_link_to_a_file_is_followed(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"data")
    (tmp_path / "link").symlink_to("real")
    assert spool.add_file(tmp_path / "link").sha256 == sha(b"data")


def test_a_file_that_changes_meanwhile_is_refused_and_nothing_kept(spool: Spool, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before")
    with pytest.raises(UsageError, match="changed while it was read"):
        spool.add_file(path, lambda count: path.write_bytes(b"after!"))
    assert content(spool) == []


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "socket", "dangling", "below a file"])
def test_what_is_no_file_is_refused_at_once(kind: str, spool: Spool, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "below a file":
        (tmp_path / "y").touch()
        path = tmp_path / "y" / "z"
    with pytest.raises(UsageError) as caught:
        spool.add_file(path)
    assert repr(str(path)) in str(caught.value)
    assert content(spool) == []


@pytest.mark.parametrize("name", ["../x", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "", "a" * 64 + "\n"])
def test_only_a_hash_is_made_a_path(name: str, spool: Spool) -> None:
    with pytest.raises(ValueError, match="is no sha256"):
        spool.path_of(name)


def test_progress_counts_each_byte_twice_whether_it_was_known_or_not(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    for _ in range(2):
        ticks: list[int] = []
        spool.add_file(tmp_path / "f", ticks.append)
        assert sum(ticks) == 6_000_000


# ------------------------------------------------------------------------------------------- whole, or not at all


def test_what_is_added_together_appears_together(spool: Spool) -> None:
    with spool.together():
        one = spool.add_bytes(b"1")
        assert spool.add_bytes(b"1") == one
        two = spool.add_bytes(b"2")
        assert not spool.path_of(one.sha256).exists()
    assert content(spool) == sorted([one.sha256, two.sha256])


def test_when_one_cannot_be_added_none_is(spool: Spool, tmp_path: Path) -> None:
    def add_both() -> None:
        with spool.together():
            spool.add_bytes(b"1")
            spool.add_file(tmp_path / "missing")

    with pytest.raises(UsageError):
        add_both()
    assert content(spool) == []
    assert spool.path_of(spool.add_bytes(b"1").sha256).exists()


def test_a_spool_without_room_is_said_to_be_so_and_keeps_nothing(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from distribute_ssh.errors import StoreError
from distribute_ssh.store.spool import Spool
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Spool(Path(sys.argv[1])).add_bytes(b"x" * 100_000)
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "s"], capture_output=True, text=True, check=True)
    assert "the spool" in done.stdout
    assert "cannot be written: File too large" in done.stdout
    assert content(Spool(tmp_path / "s")) == []


def test_a_spool_that_cannot_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        Spool(tmp_path / "file" / "spool").add_bytes(b"x")


def test_killed_at_any_point_it_leaves_nothing_half_written_in_place(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from distribute_ssh.store.spool import Spool
spool = Spool(Path(sys.argv[1]))
with spool.together():
    spool.add_bytes(b"whole")
    print("ready", flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    spool = Spool(tmp_path / "s")
    assert not spool.path_of(sha(b"whole")).exists()
    (leftover,) = content(spool)
    assert leftover.startswith("new-")
    assert spool.remove_unused(set(), now=time.time() + GRACE + 1) == 5
    assert content(spool) == []


def test_two_processes_may_add_the_same_at_once(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from distribute_ssh.store.spool import Spool
spool = Spool(Path(sys.argv[1]))
for n in range(50):
    spool.add_bytes(b"%d" % n)
"""
    children = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "s"]) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    spool = Spool(tmp_path / "s")
    assert content(spool) == sorted(sha(b"%d" % n) for n in range(50))


# ---------------------------------------------------------------------------------------------------------- removal


def test_only_what_nobody_needs_and_nobody_just_added_is_removed(spool: Spool) -> None:
    keep, drop = spool.add_bytes(b"keep"), spool.add_bytes(b"drop this")
    assert spool.remove_unused({keep.sha256}) == 0
    later = time.time() + GRACE + 1
    assert spool.remove_unused({keep.sha256}, now=later) == len(b"drop this")
    assert content(spool) == [keep.sha256]
    assert not spool.path_of(drop.sha256).exists()


def test_content_that_is_needed_again_has_its_hour_again(spool: Spool) -> None:
    blob = spool.add_bytes(b"x")
    old = time.time() - 10 * GRACE
    os.utime(spool.path_of(blob.sha256), (old, old))
    spool.add_bytes(b"x")
    assert spool.remove_unused(set()) == 0
    assert content(spool) == [blob.sha256]


def test_nothing_is_removed_while_somebody_adds(spool: Spool) -> None:
    spool.add_bytes(b"x")
    later = time.time() + GRACE + 1
    other = Spool(spool.root)
    with other.together():
        assert spool.remove_unused(set(), now=later) == 0
    assert spool.remove_unused(set(), now=later) == 1


def test_a_spool_that_is_not_there_has_nothing_to_remove(tmp_path: Path) -> None:
    assert Spool(tmp_path / "none").remove_unused(set()) == 0
    assert not (tmp_path / "none").exists()
