"""A node makes way for its owner by itself, and goes on when nobody is there any more."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.endtoend.site import Site

pytestmark = pytest.mark.sshd

# Other tests keep this machine busy, and somebody may be typing at it: only the pedal speaks of its owner.
IGNORE = ["tty", "session", "screen", "cpu", "gpu"]
QUIET = 12

STEPS = """\
note("begin " + JOB)
while not os.path.exists(SITE + "/gates/end"):
    note("step")
    time.sleep(0.05)
save("result", b"x")
"""


@pytest.fixture
def pedal(tmp_path: Path) -> Path:
    """A file on the node that its owner uses; not for an hour now."""
    path = tmp_path / "pedal"
    path.touch()
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    return path


def owner(pedal: Path, **settings: Any) -> dict[str, Any]:
    return {"pause_when_active": f"{QUIET}s", "watch": [str(pedal)], "ignore": IGNORE, **settings}


def steps(site: Site) -> int:
    return len(site.notes("step"))


def goes_on(site: Site) -> None:
    before = steps(site)
    site.wait(lambda: steps(site) > before + 5, "it goes on")


def lease(site: Site, name: str) -> dict[str, Any]:
    (found,) = (node for node in site.data("nodes")["nodes"] if node["name"] == name)
    return dict(found)


def test_jobs_stand_still_while_somebody_is_there_and_go_on_after_some_quiet_even_without_a_coordinator(
    site: Site, pedal: Path
) -> None:
    node = site.node("lab1", owner=owner(pedal))
    path = site.batch(["job"], run=STEPS)
    site.do("add", path)
    runner = site.start("runner")
    site.wait(lambda: steps(site) > 5, "it runs")

    pedal.touch()
    site.wait_state("job", "paused")
    assert site.reason("job") == f"its node was paused by its owner's activity: {pedal} was used"
    # As long as it is used, the pause is extended; it is one.
    end = time.monotonic() + QUIET + 4
    stood = steps(site)
    while time.monotonic() < end:
        pedal.touch()
        time.sleep(1)  # a promise about time
    assert steps(site) == stood
    shown = lease(site, "lab1")
    assert shown["state"] == "paused"
    assert shown["owner"]["why"] == f"{pedal} was used"
    assert {reading["kind"] for reading in shown["owner"]["readings"]} >= {"tty", "session", "watch", "load"}
    assert f"{pedal} was used" in site.do("nodes", "-v").answered()
    assert len(site.select("SELECT 1 FROM history WHERE \"to\" = 'paused'")) == 1

    # Nobody is there any more, and nobody is left who could end the pause.
    last = time.monotonic()
    runner.kill()
    node.sshd.stop()
    goes_on(site)
    assert time.monotonic() - last < QUIET + 5
    node.sshd.start()
    site.open("end")
    site.do("run", path)
    assert site.states() == {"job": "done"}
    site.assert_clean(node.room)


def test_nothing_begins_where_somebody_sits_and_a_person_who_says_resume_is_obeyed(site: Site, pedal: Path) -> None:
    pedal.touch()
    room = site.local("here", owner=owner(pedal, pause_when_active="30s"))
    path = site.batch(["job"], run=STEPS)
    site.do("add", path)
    runner = site.start("runner")
    site.wait(lambda: lease(site, "here")["state"] == "paused", "it is paused")
    assert site.states() == {"job": "queued"}
    told = site.do("explain", "ns/b").answered()
    assert "its owner's activity" in told

    site.do("resume", "here")
    site.wait(lambda: steps(site) > 5, "it runs")
    pedal.touch()
    before = lease(site, "here")["owner"]["read_at"]
    site.wait(lambda: lease(site, "here")["owner"]["read_at"] > before, "it was looked at again")
    goes_on(site)
    site.open("end")
    site.wait(lambda: site.states() == {"job": "done"} and site.left(room) == [], "it is done")
    runner.interrupt()


def test_a_job_that_stands_still_for_too_long_is_done_elsewhere_and_nothing_of_it_is_left(
    site: Site, pedal: Path
) -> None:
    desk = site.node("desk", owner=owner(pedal, move_after="2s", pause_when_active="10m"))
    path = site.batch(["job"], run=STEPS)
    site.do("add", path)
    runner = site.start("runner")
    site.wait(lambda: steps(site) > 5, "it runs")
    pedal.touch()
    # Asked for by hand, so that the job has not worked for long when it stops.
    site.do("pause", "desk", "--for", "1h")
    runner.interrupt()

    other = site.node("other")
    runner = site.start("runner")
    site.wait(lambda: site.notes("begin") == ["job", "job"], "it began anew")
    site.open("end")
    site.wait_state("job", "done")
    assert site.record("job")["node"] == "other"
    site.wait(lambda: site.left(desk.room, other.room) == [], "nothing of it is left anywhere")
    runner.interrupt()


def test_a_job_really_runs_as_gently_as_its_node_says(site: Site) -> None:
    tell = "import json; save('told', json.dumps([os.nice(0), sorted(os.sched_getaffinity(0))]).encode())\n"
    site.local("here", gentle={"nice": 7, "ionice": "idle", "cores": 1})
    site.do("run", site.batch(["job"], run=tell, build=BUILD_TELLS))
    nice, cpus = json.loads((site.results("job") / "told").read_text())
    assert nice == os.nice(0) + 7
    assert len(cpus) < max(2, len(os.sched_getaffinity(0)))
    assert site.notes("nice") == [str(os.nice(0) + 7)]


BUILD_TELLS = "note('nice ' + str(os.nice(0)))\n"
