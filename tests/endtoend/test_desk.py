"""People at a workstation pause it themselves, and the coordinator hears of it."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.endtoend.site import Site
from tests.support.wait import wait_for

pytestmark = pytest.mark.sshd

LONG = "note('begin')\ngate('end')\nnote('end')\n"


def type_there(program: str, *words: str) -> str:
    """What somebody types at the node."""
    typed = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
    assert typed.returncode == 0, typed.stderr
    return typed.stdout


def test_a_pause_from_the_desk_is_shown_explained_and_ended_from_either_side(site: Site) -> None:
    node = site.node("lab1")
    told = site.data("nodes", "alias", "lab1", "--path", str(site.folder / "bin"))
    assert told["path"] == str(site.folder / "bin" / "distribute")
    command = site.start("run", site.batch(["job"], run=LONG))
    site.wait_state("job", "running")
    assert "ns/b/job  of tester, since " in type_there(told["path"], "status")
    assert "lab1 is paused by" in type_there(told["path"], "pause", "1h")
    site.wait_state("job", "paused")
    (shown,) = site.data("nodes")["nodes"]
    assert shown["state"] == "paused"
    assert "at its desk" in shown["reason"]
    acts = site.data("history", "--node", "lab1")["history"]
    assert [each["reason"] for each in acts if each["batch"] is None] == ["paused at its desk"]
    assert type_there(told["path"], "resume") == "lab1 is not paused\n"
    site.wait_state("job", "running")
    type_there(told["path"], "pause")
    site.wait_state("job", "paused")
    site.do("resume", "lab1")
    site.open("end")
    assert command.end() == 0, command.said()
    watcher = next(node.room.glob("watcher-*"))
    pid = int(watcher.read_text().split()[0])
    site.do("nodes", "alias", "lab1", "--path", str(site.folder / "bin"), "--remove")
    assert not os.path.lexists(told["path"])
    wait_for(lambda: not watcher.exists() or not os.path.exists(f"/proc/{pid}/cwd"), "the watcher is gone")


def test_with_nobody_connected_the_desk_works_and_the_next_coordinator_knows(site: Site) -> None:
    node = site.node("lab1")
    program = site.data("nodes", "alias", "lab1", "--path", str(site.folder / "bin"))["path"]
    runner = site.start("runner")
    site.do("add", site.batch(["job"], run=LONG))
    site.wait_state("job", "running")
    runner.kill()
    node.sshd.stop()  # the network is away, too
    type_there(program, "pause")
    node.sshd.start()
    runner = site.start("runner")
    site.wait_state("job", "paused")
    type_there(program, "resume")
    site.wait_state("job", "running")
    site.open("end")
    site.wait_state("job", "done")
    assert runner.interrupt() == 0
    site.do("nodes", "alias", "lab1", "--remove")


def test_another_program_of_that_name_stays_and_the_desk_works_from_its_folder(site: Site) -> None:
    site.node("lab1")
    other = site.folder / "bin" / "distribute"
    other.parent.mkdir()
    other.write_text("theirs")
    told = site.data("nodes", "alias", "lab1", "--path", str(other.parent), code=6)
    assert other.read_text() == "theirs"
    assert told["path"] is None
    assert "lab1 is not paused" in type_there(told["program"], "status")
    site.do("nodes", "alias", "lab1", "--remove")
