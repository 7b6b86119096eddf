"""A head, and people who reach it from a laptop: the lid is closed, and two work while runners come and go."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.campus import HEAD, LAPTOP, PEOPLE, Campus
from tests.lab.disk import SERVICE
from tests.lab.installed import PROGRAM
from tests.lab.lab import Lab


@pytest.fixture
def campus(lab: Callable[..., Lab], tmp_path: Path) -> Iterator[Campus]:
    """A campus with nothing in its queue."""
    made = Campus(lab(5, users=dict.fromkeys(PEOPLE, "/bin/bash")), tmp_path)
    yield made
    made.close()


def test_a_batch_goes_on_while_the_lid_is_closed_and_is_there_when_it_opens(campus: Campus) -> None:
    jobs = [f"job{number}" for number in range(6)]
    path = campus.batch("ana", "b", jobs)
    following = campus.start("ana", "run", path)
    campus.wait(lambda: len(campus.notes()) == 6, "two jobs run on each workstation")
    campus.lab.cut(LAPTOP)
    campus.open_gate()
    campus.wait(lambda: campus.counts("ana/b") == {"done": 6}, "the batch ends with nobody there")
    campus.wait(lambda: "coming back in" in following.said(), "the laptop finds its line lost")
    campus.lab.mend(LAPTOP)
    assert following.end() == 0, following.said()
    assert following.answer()["batch"]["counts"] == {"done": 6}
    assert campus.do("ana", "pull", path)["pull"]["problems"] == []
    for job in jobs:
        assert campus.file("ana", f"b/{job}/result") == job * 1000
    assert sorted(campus.notes()) == jobs, "each ran once"
    # Others see it, and may not touch it; an administrator may.
    assert campus.do("bob", "pull", "ana/b")["pull"]["files"] >= len(jobs)
    assert campus.do("bob", "archive", "rm", "ana/b", "-y", code=2)["error"]["kind"] == "denied"
    assert campus.do("eva", "pause", "node3", "--for", "1m")
    assert campus.do("eva", "archive", "rm", "ana/b", "-y")
    # The key opens the gateway, and nothing else.
    shell = campus.laptop.exec(["ssh", "-o", "BatchMode=yes", f"{SERVICE}@{HEAD}", "id"], "ana", check=False)
    assert ("uid=" in shell.stdout, "no shell" in shell.stderr) == (False, True)


def test_two_people_pull_and_submit_while_runners_come_and_go(campus: Campus) -> None:
    campus.open_gate()
    cron = _cron(campus)
    with ThreadPoolExecutor() as pool:
        working = [pool.submit(_work, campus, person) for person in ("ana", "bob")]
        killed = 0
        while killed < 2 or not all(each.done() for each in working):
            killed += _runner(campus, lambda: all(each.done() for each in working))
        for each in working:
            each.result()
    (campus.lab.window / "stop").touch()
    said = cron.communicate(timeout=60)[0]
    assert (said, cron.returncode) == ("", 0), "a cron job that fails, or prints, sends a mail"
    jobs = Counter(campus.notes())
    assert set(jobs) == {f"{person}-{each}-{job}" for person in ("ana", "bob") for each in range(2) for job in range(3)}
    assert max(jobs.values()) == 1, "each ran once"


def _work(campus: Campus, person: str) -> None:
    """A person's day: submit, wait for it, pull it; and look at what the other one has."""
    other = "bob" if person == "ana" else "ana"
    for number in range(2):
        jobs = [f"{person}-{number}-{job}" for job in range(3)]
        path = campus.batch(person, f"b{number}", jobs)
        assert campus.do(person, "add", path)["submitted"]["new"] == 3
        if number % 2:
            assert campus.do(person, "follow", f"{person}/b{number}")["batch"]["counts"] == {"done": 3}
        else:  # whoever follows drives where nobody does; who looks on does not
            done = {"done": 3}
            campus.wait(lambda: campus.do(person, "status", path)["batches"][0]["counts"] == done, f"{path} is done")  # noqa: B023
        assert campus.do(person, "pull", path)["pull"]["problems"] == []
        for job in jobs:
            assert campus.file(person, f"b{number}/{job}/result") == job * 1000
        theirs = [each["counts"] for each in campus.do(person, "status")["batches"] if each["namespace"] == other]
        if {"done": 3} in theirs:  # of which the first is one
            assert campus.do(person, "pull", f"{other}/b0", "--save-dir", "theirs")["pull"]["problems"] == []


def _runner(campus: Campus, is_over: Callable[[], bool]) -> bool:
    """A runner that is killed in the middle of its work; False where it had none: another one drove the queue."""
    runner = campus.start_on_head("runner")
    campus.wait(lambda: "driving" in runner.said() or not runner.is_running, "it drives, or another one does")
    if not runner.is_running:
        assert runner.end() == 5, runner.said()
        return False
    seen = len(campus.notes())
    campus.wait(lambda: len(campus.notes()) > seen or is_over(), "jobs go on")
    campus.kill(campus.head, "runner", but="--once")
    runner.end()
    return True


def _cron(campus: Campus) -> subprocess.Popen[str]:
    """`runner --once` again and again, in what cron gives a job for an environment."""
    once = f'while [ ! -e "$0" ]; do {PROGRAM} runner --once || echo "exit $?"; done'
    stop = str(campus.lab.window / "stop")
    bare = ["env", "-i", "HOME=/home/distribute", "PATH=/usr/bin:/bin"]
    argv = campus.head.command([*bare, "sh", "-c", once, stop], SERVICE)
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
