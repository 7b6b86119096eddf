"""A pause stops everything of every job on a machine, ends when it said, whoever is gone by then, and stops no kill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.lab.site import LabSite
from tests.support import processes

MakeSite = Callable[..., LabSite]
MANY = 200
TOLERANCE = 5.0  # seconds; two are promised, of machines that are not busy with other tests

# All of it is busy: most in the group of the job, one in a group of its own, one in a session of its own, one whose
# parent is gone. In the spare time of this computer, which has more to do.
BUSY = """\
os.nice(19)

def busy():
    while not os.path.exists(SITE + "/gates/end"):
        for _ in range(100_000):
            pass
    os._exit(0)

def child(before=lambda: None):
    if os.fork() == 0:
        before()
        busy()

def daemon():
    os.setsid()
    os.chdir("/")
    if os.fork():
        os._exit(0)

child(os.setsid)
child(lambda: os.setpgid(0, 0))
child(daemon)
for _ in range(%d):
    child()
note("begin")
busy()
"""


def times(site: LabSite) -> dict[int, int]:
    """Hundredths of a second that each process of a site's jobs has had of the processors."""
    jobs = (pid for pid, command in site.processes() if "run.py" in command)
    return {pid: had for pid in jobs if (had := processes.processor_time(pid)) is not None}


def stand_still(site: LabSite, seconds: float = 2) -> bool:
    return processes.stand_still(lambda: times(site), seconds)


def wait_until_all_go_on(site: LabSite) -> None:
    before = times(site)
    site.wait(lambda: all(now > before[pid] for pid, now in times(site).items()), "all go on")


def lease_end(site: LabSite) -> float:
    """When the lease that node1 told of ends; seconds since the epoch."""
    ((lease,),) = site.select("SELECT lease FROM nodes WHERE name = 'node1'")
    return float(json.loads(lease)["until"])


@pytest.mark.timeout(300)
def test_two_hundred_busy_processes_are_stopped_go_on_and_are_ended_wherever_they_went(site: MakeSite) -> None:
    here = site(1)
    here.do("add", here.batch(["job"], build="", run=BUSY % MANY))
    runner = here.start("runner")
    here.wait(lambda: len(times(here)) == MANY + 4 and here.states() == {"job": "running"}, "all of it runs")
    here.do("pause", "node1")
    assert stand_still(here)
    assert here.states() == {"job": "paused"}
    here.do("resume", "node1")
    wait_until_all_go_on(here)
    assert len(times(here)) == MANY + 4, "none of them was lost"
    here.do("pause", "node1")
    here.do("kill", "ns/b", "-y")
    assert here.processes() == []
    assert here.states() == {"job": "killed"}
    here.do("resume", "node1")
    runner.interrupt()
    here.wait(lambda: not here.remains(), "nothing is left")


@pytest.mark.parametrize("gone", ["coordinator", "network", "coordinator and network"])
def test_a_pause_ends_on_time_whoever_is_gone(site: MakeSite, gone: str) -> None:
    here = site(1)
    path = here.batch(["job"], build="", run=BUSY % 1)
    here.do("add", path)
    coordinator = here.start("run", path)
    here.wait(lambda: len(times(here)) == 5 and here.states() == {"job": "running"}, "all of it runs")
    here.do("pause", "node1", "--for", "6")
    if "coordinator" in gone:
        coordinator.kill()
    if "network" in gone:
        here.machines.cut("node1")
    still = times(here)
    here.wait(lambda: all(now > still[pid] for pid, now in times(here).items()), "all go on")
    late = time.time() - lease_end(here)
    assert -1.5 < late < TOLERANCE, "a lease counts in whole seconds"

    here.machines.mend("node1")
    here.open("end")
    last = here.start("run", path) if "coordinator" in gone else coordinator
    assert last.end() == 0, last.said()
    assert here.states() == {"job": "done"}
    assert here.record("job")["attempt"] == 1
    assert here.notes("begin") == [""]
    here.wait(lambda: not here.remains(), "nothing is left")


def test_with_the_network_cut_and_nobody_on_the_head_a_person_at_the_machine_pauses_it(site: MakeSite) -> None:
    here = site(1)
    path = here.batch(["job"], build="", run=BUSY % 1)
    here.do("add", path)
    first = here.start("run", path)
    here.wait(lambda: len(times(here)) == 5 and here.states() == {"job": "running"}, "all of it runs")
    program = here.data("nodes", "alias", "node1")["program"]
    first.kill()
    here.machines.cut("node1")
    ana = here.machines.login("node1", "ana")
    ana.type(f"{program} pause 10m")
    here.wait(lambda: "node1 is paused by ana" in ana.screen(), "she is told so")
    assert stand_still(here)

    here.machines.mend("node1")
    last = here.start("run", path)
    here.wait(lambda: here.states() == {"job": "paused"}, "the coordinator learns of it")
    ana.type(f"{program} resume; echo 'that is' all")
    wait_until_all_go_on(here)
    here.wait(lambda: "that is all\n" in ana.screen(), "her shell listens again")
    ana.leave()
    here.open("end")
    assert last.end() == 0, last.said()
    assert here.record("job")["attempt"] == 1
    here.do("nodes", "alias", "node1", "--remove")
    here.wait(lambda: not here.remains(), "nothing is left")
