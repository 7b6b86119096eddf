"""However many coordinators are started, one drives the queue, and none disturbs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.endtoend.site import Site

pytestmark = pytest.mark.sshd

RUN = "note('begin ' + JOB)\ngate(JOB)\nnote('end ' + JOB)\nsave('result', b'')\n"


def drives(site: Site, pid: int) -> bool:
    return bool(site.select("SELECT 1 FROM coordinator WHERE pid = ?", pid))


def test_a_second_runner_leaves_and_disturbs_nothing(site: Site) -> None:
    room = site.node("lab1").room
    site.do("add", site.batch(["job"], run=RUN))
    first = site.start("runner")
    site.wait(lambda: site.notes("begin"), "the job runs")
    assert str(first.pid) in site.do("runner", code=5).said()
    many = [site.start("runner", "--once") for _ in range(10)]
    assert {each.end() for each in many} == {0}
    assert {each.said() + each.answered() for each in many} == {""}, "cron would mail every word"
    assert drives(site, first.pid)
    site.open("job")
    site.wait_state("job", "done")
    site.wait(lambda: not site.left(room), "the node is cleaned")
    assert first.interrupt() == 0
    assert (site.notes("begin"), site.notes("build")) == (["job"], ["lab1"])


def test_run_follows_while_a_runner_drives_and_takes_over_when_that_is_killed(site: Site) -> None:
    room = site.node("lab1").room
    runner = site.start("runner")
    site.wait(lambda: drives(site, runner.pid), "the runner drives")
    command = site.start("run", site.batch(["one", "two"], run=RUN))
    site.wait(lambda: site.notes("begin") == ["one"], "the first job runs")
    site.open("one")
    site.wait(lambda: "done" in command.said(), "run tells of it")
    assert drives(site, runner.pid)
    site.wait(lambda: site.notes("begin") == ["one", "two"], "the second one runs")
    runner.kill()
    site.open("two")
    assert command.end() == 0, command.said()
    assert drives(site, command.pid)
    assert site.notes("end") == ["one", "two"]
    site.assert_clean(room)


def test_ctrl_c_leaves_the_batch_running_and_the_same_command_comes_back_to_it(site: Site) -> None:
    room = site.node("lab1").room
    path = site.batch(["job"], run=RUN)
    command = site.start("run", path)
    site.wait(lambda: site.notes("begin"), "the job runs")
    assert command.interrupt(2) == 130
    assert str(path) in command.said(), "it says how to come back"
    site.open("job")
    site.wait(lambda: site.notes("end"), "the job goes on without anybody")
    site.do("run", path)
    assert site.notes("begin") == ["job"]
    site.record("job")
    site.assert_clean(room)


def have_ended(*rooms: Path) -> bool:
    """Whether every attempt and every build that was started on a node has come to its end."""
    return all(list(attempt.glob("exit.*")) for room in rooms for attempt in (room / "attempts").iterdir())


def test_passes_of_runner_once_bring_a_batch_to_its_end_while_jobs_go_on_between_them(site: Site) -> None:
    rooms = [site.node("lab1").room, site.local()]
    jobs = ["one", "two", "three"]
    site.do("add", site.batch(jobs, build="note('build ' + NODE)\ngate('build')\n", run=RUN))
    many = [site.start("runner", "--once") for _ in range(10)]
    assert {each.end() for each in many} == {0}, "of many at once one works, and the others leave"
    site.wait(lambda: sorted(site.notes("build")) == ["here", "lab1"], "builds go on between the passes")
    site.open("build")
    site.wait(lambda: have_ended(*rooms), "builds end without anybody")
    site.do("runner", "--once")
    site.wait(lambda: len(site.notes("begin")) == 2, "jobs go on between the passes")
    site.open(*jobs)
    for _ in range(2):  # one slot each: the third job starts in the pass that finds the first two ended
        site.wait(lambda: have_ended(*rooms), "jobs end without anybody")
        site.do("runner", "--once")
    assert set(site.states().values()) == {"done"}
    assert sorted(site.notes("begin")) == sorted(jobs)
    assert (site.results() / "batch.json").exists()
    site.assert_clean(*rooms)


def test_a_runner_takes_up_a_changed_inventory_and_jobs_go_on(site: Site) -> None:
    first = site.node("lab1")
    runner = site.start("runner")
    site.do("add", site.batch(["one", "two"], run="note('begin ' + NODE)\ngate('end')\n"))
    site.wait(lambda: site.notes("begin") == ["lab1"], "one runs, the other waits")
    inventory = site.folder / "inventory.yaml"
    inventory.write_text(inventory.read_text() + "}")
    site.wait(lambda: "goes on to hold" in runner.said(), "a mistake is told")
    assert str(inventory) in runner.said()
    second = site.node("lab2")
    site.wait(lambda: sorted(site.notes("begin")) == ["lab1", "lab2"], "the other begins on the new node")
    site.open("end")
    site.wait(lambda: set(site.states().values()) == {"done"}, "both end")
    assert sorted(site.notes("begin")) == ["lab1", "lab2"]
    site.wait(lambda: not site.left(first.room, second.room), "nothing is left")
    assert runner.interrupt() == 0
