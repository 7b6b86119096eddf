"""What a node holds and the queue does not know: ended, kept where it may be a result, wiped, and told."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.endtoend.site import Site
from tests.support import processes
from tests.support.wait import wait_for

pytestmark = pytest.mark.sshd

LONG = "note('begin')\nsave('half', b'saved')\nprint('working', flush=True)\ngate('end')\nnote('end')\n"


def backup(site: Site, target: Path) -> None:
    """A copy of the queue as it is now."""
    with sqlite3.connect(site.state / "queue.db") as queue, sqlite3.connect(target) as copy:
        queue.backup(copy)


def history(site: Site) -> list[str]:
    return [reason or "" for (reason,) in site.select("SELECT reason FROM history ORDER BY id")]


def test_after_an_older_queue_was_restored_what_runs_goes_on(site: Site) -> None:
    node = site.node("lab1")
    site.do("add", site.batch(["job"], run=LONG))
    backup(site, site.folder / "older")
    runner = site.start("runner")
    site.wait(lambda: site.notes("begin"), "it runs")
    runner.kill()
    for path in site.state.glob("queue.db*"):
        path.unlink()
    shutil.copy(site.folder / "older", site.state / "queue.db")
    runner = site.start("runner")
    site.wait_state("job", "running")
    site.open("end")
    site.wait_state("job", "done")
    assert (site.notes("begin"), site.notes("end")) == ([""], [""])
    site.wait(lambda: not site.left(node.room), "nothing is left there")
    assert any("taken up again" in line for line in history(site)), "it is told"
    assert runner.interrupt() == 0


def test_what_runs_of_something_else_than_an_older_queue_asks_for_is_ended_and_kept_aside(site: Site) -> None:
    node = site.node("lab1")
    site.do("add", site.batch(["job"], run=LONG + "# as it was\n"))
    backup(site, site.folder / "older")
    site.do("kill", "-y", "ns/b")
    site.do("add", site.batch(["job"], run=LONG))
    runner = site.start("runner")
    site.wait(lambda: site.notes("begin"), "it runs")
    site.wait(lambda: list(node.room.glob("batches/*/slot-0/distribute_save/half")), "and has saved something")
    runner.kill()
    for path in site.state.glob("queue.db*"):
        path.unlink()
    shutil.copy(site.folder / "older", site.state / "queue.db")
    runner = site.start("runner")
    site.wait(lambda: any("job@orphan" in line for line in history(site)), "it is told")
    (kept,) = site.results().glob("job@orphan-*")
    assert (kept / "half").read_bytes() == b"saved"
    assert "working" in (kept / "job_output.txt").read_text()
    site.wait(lambda: len(site.notes("begin")) == 2, "it runs again, as the queue says")
    site.open("end")
    site.wait_state("job", "done")
    assert site.notes("end") == [""]
    assert (site.results("job") / "half").read_bytes() == b"saved"
    site.wait(lambda: not site.left(node.room), "nothing is left there")
    assert runner.interrupt() == 0


def test_a_process_without_a_folder_is_ended_and_those_of_other_queues_are_not(site: Site) -> None:
    site.node("lab1")
    site.do("add", site.batch(["job"]))
    ((queue,),) = site.select("SELECT queue FROM coordinator")
    tags = [f"{queue}-aaaaaaaaaaaa", "otherqueue-aaaaaaaaaaaa"]
    started = [
        subprocess.Popen(["sleep", "600"], env={"DISTRIBUTE_ATTEMPT": tag}, start_new_session=True) for tag in tags
    ]
    runner = site.start("runner")
    wait_for(lambda: not processes.is_alive(started[0].pid), "ours is ended")
    site.wait_state("job", "done")
    assert processes.is_alive(started[1].pid)
    site.wait(lambda: any("belonged to nobody" in line for line in history(site)), "it is told")
    assert runner.interrupt() == 0
    for each in started:
        each.kill()
        each.wait()
