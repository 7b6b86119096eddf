from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from distribute_ssh.store.lock import CoordinatorLock
from tests.support.wait import wait_for

HOLD = """
import sys
from pathlib import Path
from distribute_ssh.store.lock import CoordinatorLock
lock = CoordinatorLock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def test_one_of_two_gets_the_lock_and_the_other_learns_who_has_it(tmp_path: Path) -> None:
    first, second = CoordinatorLock(tmp_path / "lock"), CoordinatorLock(tmp_path / "lock")
    assert first.acquire()
    assert first.acquire()  # it has it already
    assert not second.acquire()
    holder = second.holder()
    assert holder is not None
    assert (holder.host, holder.pid) == (os.uname().nodename, os.getpid())
    first.release()
    first.release()
    assert second.acquire()
    second.release()


def test_the_lock_of_a_killed_process_is_free_and_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        mine, inode = CoordinatorLock(path), path.stat().st_ino
        assert not mine.acquire()
        holder = mine.holder()
        assert holder is not None
        assert holder.pid == other.pid
        other.kill()
        other.wait()
        assert mine.acquire()
        assert path.stat().st_ino == inode
        mine.release()


def test_a_child_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = CoordinatorLock(tmp_path / "lock")
    assert lock.acquire()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        other = CoordinatorLock(tmp_path / "lock")
        assert other.acquire()
        other.release()
        assert child.stdin is not None
        child.stdin.close()


def test_a_file_that_tells_nothing_names_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = CoordinatorLock(path)
    assert lock.holder() is None
    for text in ("", "[]", '{"host": "a"}', '{"host": "a", "pid": "x", "since": 0}'):
        path.write_text(text)
        assert lock.holder() is None


def test_a_child_that_is_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    ours, go = CoordinatorLock(tmp_path / "lock"), os.pipe()
    assert ours.acquire()
    child = os.fork()
    if not child:  # it lives until the test is done
        os.close(go[1])
        os.read(go[0], 1)
        os._exit(0)
    try:
        other = CoordinatorLock(tmp_path / "lock")
        assert not other.acquire(), "the parent has it still"
        ours.release()
        wait_for(other.acquire, "the child has let go")
        other.release()
    finally:
        os.close(go[1])
        os.waitpid(child, 0)
        os.close(go[0])
