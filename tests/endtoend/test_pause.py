"""Whoever sits at the machine has it back at once, and the jobs lose nothing but the time."""

from __future__ import annotations

import os
import time

import pytest

from tests.endtoend.site import Site
from tests.support import processes

pytestmark = pytest.mark.sshd

BUSY = """\
# One in a session of its own, one whose parent is gone, one in a group of its own, and itself: all busy.
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
elif os.fork() == 0:
    os.setsid()
elif os.fork() == 0:
    os.setpgid(0, 0)
else:
    note("begin " + JOB)
while not os.path.exists(SITE + "/gates/run"):
    pass
note("end")
"""


def cpu(site: Site) -> dict[int, int]:
    """Hundredths of a second that each process of a site's jobs has had of the processors."""
    jobs = (pid for pid, command in site.processes() if "run.py" in command)
    return {pid: had for pid in jobs if (had := processes.processor_time(pid)) is not None}


def stand_still(site: Site, seconds: float = 2) -> bool:
    return processes.stand_still(lambda: cpu(site), seconds)


def test_a_pause_holds_with_the_coordinator_killed_and_the_node_goes_on_when_it_is_told_to(site: Site) -> None:
    node = site.node("lab1", slots=2)
    path = site.batch(["one", "two", "three"], run=BUSY)
    site.do("add", path)
    runner = site.start("runner")
    site.wait(lambda: len(cpu(site)) == 8, "two jobs run")
    site.do("pause", "lab1", "--for", "1h", "--reason", "visitors")
    assert stand_still(site)
    assert sorted(site.states().values()) == ["paused", "paused", "queued"]
    runner.kill()
    assert stand_still(site, 0.5)

    # A coordinator that finds a paused node starts nothing on it, and knows why.
    runner = site.start("runner")
    site.wait(lambda: site.select("SELECT 1 FROM nodes WHERE last_seen > ?", time.time() - 1), "it looks")
    (shown,) = site.data("status", "ns/b")["batches"]
    assert (shown["paused"]["lab1"]["by"], shown["paused"]["lab1"]["reason"]) == ("tester", "visitors")
    assert stand_still(site, 0.5)
    runner.kill()

    site.do("resume", "lab1")
    before = cpu(site)
    site.wait(lambda: all(now > before[pid] for pid, now in cpu(site).items()), "all of it goes on")
    site.open("run")
    site.do("run", path)
    assert sorted(site.notes("begin")) == ["one", "three", "two"]
    assert site.states() == dict.fromkeys(["one", "two", "three"], "done")
    site.assert_clean(node.room)


def test_a_pause_ends_by_itself_when_nobody_is_left_who_could_end_it(site: Site) -> None:
    node = site.node("lab1")
    path = site.batch(["job"], run=BUSY)
    site.do("add", path)
    runner = site.start("runner")
    site.wait(lambda: len(cpu(site)) == 4, "it runs")
    began = time.monotonic()
    site.do("pause", "lab1", "--for", "6")
    runner.kill()
    node.sshd.stop()
    assert stand_still(site)
    before = cpu(site)
    site.wait(lambda: all(now > before[pid] for pid, now in cpu(site).items()), "all of it goes on")
    assert time.monotonic() - began < 6 + 2
    node.sshd.start()
    site.open("run")
    site.do("run", path)
    assert site.states() == {"job": "done"}
    site.assert_clean(node.room)


def test_a_time_limit_counts_only_the_time_that_a_job_had(site: Site) -> None:
    site.node("lab1")
    # Half a second of work in each of 8 steps, and 6 s for them: a pause of 6 s would be too much.
    steps = "note('begin')\nfor _ in range(8):\n    time.sleep(0.25)\nnote('end')\n"
    path = site.batch({"job": {"time_limit": "6s"}}, run=steps)
    command = site.start("run", path)
    site.wait(lambda: site.notes("begin"), "it runs")
    site.do("pause", "lab1", "--for", "6")
    assert command.end() == 0, command.said()
    assert site.notes("end") == [""]
    record = site.record("job")
    assert record["state"] == "done"
    assert site.select("SELECT paused_seconds >= 5 FROM attempts") == [(1,)]


def test_a_paused_job_is_killed_with_all_that_it_saved(site: Site) -> None:
    node = site.node("lab1")
    path = site.batch(["job"], run="save('half', b'done')\n" + BUSY)
    site.do("add", path)
    runner = site.start("runner")
    site.wait(lambda: len(cpu(site)) == 4, "it runs")
    site.do("pause", "lab1")
    site.do("kill", "ns/b", "-y")
    assert site.states() == {"job": "killed"}
    assert (site.results("job") / "half").read_bytes() == b"done"
    site.do("resume", "lab1")
    site.wait(lambda: not os.listdir(node.room / "attempts"), "the node is cleaned")
    assert runner.interrupt() == 0
    assert not site.processes()


def test_a_node_that_leaves_the_inventory_finishes_its_jobs_and_gets_no_others(site: Site) -> None:
    first = site.node("lab1")
    path = site.batch(["one", "two"], run="note('run ' + JOB + ' ' + NODE)\ngate(JOB)\n")
    site.do("add", path)
    runner = site.start("runner")
    site.wait(lambda: site.notes("run"), "the first runs")
    runner.kill()
    second = site.node("lab2")
    del site.entries["lab1"]
    site.write_inventory()
    runner = site.start("runner")
    site.wait(lambda: len(site.notes("run")) == 2, "the second runs")
    shown = {node["name"]: (node["state"], node["reason"]) for node in site.data("nodes")["nodes"]}
    assert shown == {"lab2": ("up", None), "lab1": ("drained", "no longer in the inventory")}
    site.open("one", "two")
    site.wait(lambda: set(site.states().values()) == {"done"}, "both end")
    assert site.notes("run") == ["one lab1", "two lab2"]
    assert site.record("one")["node"] == "lab1"
    site.wait(lambda: [n["name"] for n in site.data("nodes")["nodes"]] == ["lab2"], "nothing is left on it")
    assert runner.interrupt() == 0
    site.assert_clean(first.room, second.room)
