"""Several processes on one queue, and processes that die in the middle of it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from distribute_ssh.model.job import State
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.schema import journal_mode
from tests.store.makes import NOW, submitted, the_job
from tests.support.processes import look
from tests.support.wait import wait_for

CLAIM = """
import sys
from pathlib import Path
from distribute_ssh.store.queue import Queue
path, batch_id, node = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
queue, slot = Queue.open(path), 0
print("ready", flush=True)
sys.stdin.read()
while jobs := queue.ready_jobs(batch_id, None, 3, 1e9):  # all see the same three: they must meet
    for job in jobs:
        with queue.transaction() as change:
            won = change.place(job.id, queue.new_token(), node, slot, 1.0)
        if won:
            slot += 1
            print(job.name)
queue.close()
"""


def test_of_several_processes_one_gets_each_job(path: Path) -> None:
    names = [f"j{number}" for number in range(60)]
    with closing(Queue.open(path)) as queue:
        batch_id = submitted(queue, *names).batch_id
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(path), str(batch_id), node],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in ("n1", "n2", "n3", "n4")
    ]
    for claimer in claimers:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.close()
    claimed = []
    for claimer in claimers:
        assert claimer.stdout is not None
        claimed += claimer.stdout.read().split()
        claimer.stdout.close()
        assert claimer.wait() == 0
    assert sorted(claimed) == sorted(names)
    with closing(Queue.open(path, check=True)) as queue:
        assert all(job.state is State.STAGING and job.attempt == 1 for job in queue.jobs(batch_id))
        assert len(queue.live_attempts()) == len(names)


WRITE = """
import sys
from pathlib import Path
from tests.store.makes import submitted
from distribute_ssh.model.job import State
from distribute_ssh.store.queue import Queue
queue, number = Queue.open(Path(sys.argv[1])), int(sys.argv[2])
while True:
    number += 1
    batch_id = submitted(queue, *[f"j{n}" for n in range(20)], batch=f"b{number}").batch_id
    print("submitted", number, flush=True)
    with queue.transaction() as change:
        for job in queue.jobs(batch_id):
            change.job(job.id, State.QUEUED, State.HELD, 1.0)
    print("held", number, flush=True)
"""


def test_a_writer_that_is_killed_loses_nothing_it_has_told(path: Path) -> None:
    dice, told = random.Random(1), set[str]()
    for turn in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path), str(turn * 10_000)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(dice.uniform(0.0, 0.05))  # a random moment, not a wait
            writer.send_signal(signal.SIGKILL)
            told |= {first, *writer.stdout.readlines()}
            assert writer.wait() == -signal.SIGKILL
        with closing(Queue.open(path, check=True)) as queue:
            found = {batch.batch: {job.state for job in queue.jobs(batch.id)} for batch in queue.batches()}
            assert all(len(queue.jobs(batch.id)) == 20 for batch in queue.batches())
            assert all(len(states) == 1 for states in found.values())  # whole transactions, or nothing of them
            for line in told:
                if line.endswith("\n"):
                    what, number = line.split()
                    states = found[f"b{number}"]
                    assert states <= ({State.HELD} if what == "held" else {State.QUEUED, State.HELD})
            counts = {batch["batch"]: batch["counts"] for batch in queue.status()["batches"]}
            assert counts == {name: {states.copy().pop().value: 20} for name, states in found.items()}
    assert len(told) > 6


def test_a_command_waits_its_turn_while_another_process_writes(path: Path) -> None:
    hold = """
import sys
from pathlib import Path
from distribute_ssh.store.queue import Queue
queue = Queue.open(Path(sys.argv[1]))
with queue.transaction() as change:
    change.node("n1", drained="held")
    print("in", flush=True)
    sys.stdin.read()
"""
    with closing(Queue.open(path)) as queue:
        job = the_job(queue, submitted(queue, "a").batch_id, "a")
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "in\n"
        with closing(Queue.open(path)) as queue:
            assert queue.nodes() == {}  # reading goes on meanwhile, and sees nothing unfinished
        code = """
import sys
from pathlib import Path
from distribute_ssh.model.job import State
from distribute_ssh.store.queue import Queue
queue = Queue.open(Path(sys.argv[1]))
print("open", flush=True)
with queue.transaction() as change:
    print(change.job(int(sys.argv[2]), State.QUEUED, State.HELD, 1.0), list(queue.nodes()))
"""
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(job.id)], stdout=subprocess.PIPE, text=True
        ) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "open\n"
            wait_for(lambda: (seen := look(second.pid)) and seen.state == "S", "the second waits for the first")
            holder.stdin.close()
            assert second.stdout.read() == "True ['n1']\n"


def test_no_child_process_inherits_the_database(path: Path) -> None:
    with closing(Queue.open(path)) as queue:
        queue.take_epoch("h", "b", os.getpid(), 1, NOW)
        listing = subprocess.run(
            ["sh", "-c", "ls -l /proc/self/fd"], stdout=subprocess.PIPE, close_fds=False, check=True, text=True
        ).stdout
    assert str(path) not in listing


@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_a_queue_left_in_another_journal_is_brought_to_ours(path: Path, mode: str) -> None:
    with closing(Queue.open(path)) as queue:
        batch_id = submitted(queue, "a").batch_id
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA journal_mode = {mode}")
    with closing(Queue.open(path)) as queue:
        assert [job.name for job in queue.jobs(batch_id)] == ["a"]
        wanted = journal_mode(sqlite3.sqlite_version_info)
        assert queue._connection.execute("PRAGMA journal_mode").fetchone() == (wanted,)
