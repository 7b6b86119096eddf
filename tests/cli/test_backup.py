"""`backup`: a whole copy of the queue, whoever works on it; and what `recover` refuses."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from distribute_ssh.store.lock import CoordinatorLock
from distribute_ssh.store.queue import Queue
from tests.cli.conftest import Call
from tests.store.makes import submitted


def test_a_backup_is_a_queue_for_the_owner_alone_and_says_how_to_go_back(call: Call, queue: Queue, home: Path) -> None:
    submitted(queue, "a", "b")
    before = os.umask(0)
    try:
        answer = call("backup", "copy.db")
    finally:
        os.umask(before)
    assert answer.code == 0
    assert "1 batch" in answer.out
    assert f"install -m 600 {home / 'copy.db'} {home / 'state' / 'queue.db'}" in answer.err
    assert (home / "copy.db").stat().st_mode & 0o777 == 0o600
    with closing(Queue.open(home / "copy.db", check=True)) as copy:
        assert copy.id == queue.id
        assert copy.status("lab/study") == queue.status("lab/study")
    assert call("backup", "other.db", "--json").json["batches"] == 1
    assert call("backup", "third.db", "-q").out == f"{home / 'third.db'}\n"


def test_a_backup_replaces_nothing_unless_it_is_told_to(call: Call, queue: Queue, home: Path) -> None:
    submitted(queue, "a")
    (home / "copy.db").write_text("mine")
    refused = call("backup", "copy.db")
    assert refused.code == 2
    assert "--force" in refused.err
    assert (home / "copy.db").read_text() == "mine"
    assert call("backup", "copy.db", "--force").code == 0
    with closing(Queue.open(home / "copy.db")) as copy:
        assert copy.batch("lab/study") is not None


def test_a_backup_goes_into_no_folder_that_is_not_there_and_not_over_the_queue(
    call: Call, queue: Queue, home: Path
) -> None:
    assert call("backup", "nowhere/copy.db").code == 2
    assert call("backup", ".").code == 2
    own = call("backup", home / "state" / "queue.db", "--force")
    assert own.code == 2
    assert "the queue itself" in own.err


def test_what_is_no_file_is_never_replaced(call: Call, queue: Queue, home: Path) -> None:
    """Root would put a copy of the queue into the place of /dev/null."""
    os.mkfifo(home / "pipe")
    refused = call("backup", "--force", "pipe")
    assert (refused.code, "is no file" in refused.err) == (2, True)
    assert (home / "pipe").is_fifo()


def test_where_there_is_no_queue_there_is_no_backup_and_none_is_made(call: Call, home: Path) -> None:
    assert call("backup", "copy.db").code == 3
    assert not (home / "state" / "queue.db").exists()


def test_a_backup_holds_each_submission_whole_or_not_at_all_while_others_write(
    call: Call, queue: Queue, home: Path
) -> None:
    submitted(queue, "a", "b", batch="first")
    over = threading.Event()

    def write() -> None:
        with closing(Queue.open(home / "state" / "queue.db")) as other:
            for number in range(1000):
                if over.is_set():
                    return
                submitted(other, "a", "b", "c", batch=f"batch{number}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            assert call("backup", f"copy{number}.db").code == 0
    finally:
        over.set()
        writer.join()
    for number in range(3):
        with closing(Queue.open(home / f"copy{number}.db", check=True)) as copy:
            counts = {each["batch"]: sum(each["counts"].values()) for each in copy.status()["batches"]}
        assert counts.pop("first") == 2
        assert set(counts.values()) <= {3}


def test_recover_finds_nothing_in_a_storage_without_records(call: Call, home: Path) -> None:
    (home / "storage" / "lab" / "study").mkdir(parents=True)
    answer = call("recover", "-y")
    assert answer.code == 3
    assert "no record of a batch" in answer.err
    assert not (home / "state" / "queue.db").exists()


def test_recover_leaves_a_queue_alone_that_is_driven_or_holds_something(call: Call, queue: Queue, home: Path) -> None:
    submitted(queue, "a")
    assert "is in order and has 1 batch" in call("recover", "-y").err
    lock = CoordinatorLock(home / "state" / "lock")
    assert lock.acquire()
    try:
        answer = call("recover", "-y")
    finally:
        lock.release()
    assert answer.code == 5


@pytest.mark.parametrize("words", [["backup", "copy.db"], ["recover", "-y"]])
def test_what_is_about_another_machine_s_queue_is_not_done_to_this_one(
    call: Call, queue: Queue, words: list[str]
) -> None:
    submitted(queue, "a")
    answer = call(*words, "--head", "somebody@head")
    assert answer.code == 2
    assert "the queue is on somebody@head" in answer.err
    assert call("backup", "copy.db", "--head", "none").code == 0
