"""`kill` and `retry` of jobs that wait: nothing runs, so nobody has to be asked but the person."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from distribute_ssh.store.queue import Queue
from tests.cli.conftest import Call
from tests.store.makes import submitted


def states(queue: Queue, name: str = "lab/study") -> dict[str, str]:
    (batch,) = queue.status(name)["batches"]
    return {job["name"]: job["state"] for job in batch["jobs"]}


def test_without_a_terminal_and_without_yes_nothing_is_killed(
    call: Call, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(queue, "a")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    answer = call("kill", "study")
    assert answer.code == 2
    assert "-y" in answer.err
    assert states(queue) == {"a": "queued"}


def test_killing_ends_the_jobs_named_and_no_others(call: Call, queue: Queue) -> None:
    submitted(queue, "a", "b", "c")
    answer = call("kill", "study", "B", "c", "-y", "--json")
    assert answer.code == 0
    assert answer.json["killed"] == [{"name": "b", "state": "killed"}, {"name": "c", "state": "killed"}]
    assert states(queue) == {"a": "queued", "b": "killed", "c": "killed"}


def test_what_will_be_hit_is_shown(call: Call, queue: Queue) -> None:
    submitted(queue, "a", "b")
    assert "a and b: 0 on a node, 2 waiting" in call("kill", "study", "-y").err


def test_killing_what_has_ended_is_no_error(call: Call, queue: Queue) -> None:
    submitted(queue, "a")
    call("kill", "study", "-y")
    answer = call("kill", "study", "-y", "--json")
    assert (answer.code, answer.json["killed"]) == (0, [])
    assert "ended before" in answer.err


@pytest.mark.parametrize(("said", "code", "state"), [("n", 1, "queued"), ("", 1, "queued"), ("y", 0, "killed")])
def test_on_a_terminal_it_asks(call: Call, queue: Queue, said: str, code: int, state: str) -> None:
    submitted(queue, "a")
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "distribute_ssh", "kill", "study"],
            stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        os.write(ours, f"{said}\n".encode())
        _, asked = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "kill 1 job? [y/N]" in asked
    assert (process.returncode, states(queue)) == (code, {"a": state})


def test_retry_queues_what_did_not_end_well(call: Call, queue: Queue) -> None:
    submitted(queue, "a", "b")
    call("kill", "study", "a", "-y")
    answer = call("retry", "study", "--json")
    assert answer.json == {"schema": 1, "batch": "lab/study", "retried": ["a"]}
    assert "nothing drives the queue now" in answer.err
    assert states(queue) == {"a": "queued", "b": "queued"}


def test_retry_of_the_jobs_named_leaves_the_others(call: Call, queue: Queue) -> None:
    submitted(queue, "a", "b")
    call("kill", "study", "-y")
    assert call("retry", "study", "b", "-q").out == "b\n"
    assert states(queue) == {"a": "killed", "b": "queued"}


def test_retry_with_nothing_to_do_says_so(call: Call, queue: Queue) -> None:
    submitted(queue, "a")
    answer = call("retry", "study")
    assert answer.code == 0
    assert "nothing to retry" in answer.err
