"""`kill -9` of the coordinator is a normal stop: no job is lost, none runs twice, all results come."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable

import pytest

from tests.endtoend.site import Site

pytestmark = pytest.mark.sshd

JOBS = [f"job{number:02d}" for number in range(20)]
# Both sides of the gate are noted: a second start would be seen even if it never came far.
RUN = "note('begin ' + JOB)\ngate(JOB)\nnote('end ' + JOB)\nsave('result', JOB.encode() * 1000)\n"


def has_attempt(site: Site, state: str, number: int = 1) -> bool:
    return site.select("SELECT count(*) FROM attempts WHERE state = ?", state)[0][0] >= number


def has_build(site: Site, state: str, more: str = "") -> bool:
    return bool(site.select(f"SELECT 1 FROM builds WHERE state = ? {more}", state))


def has_unnoted_results(site: Site) -> bool:
    here = {path.name for path in site.results().iterdir()}
    return any(job in here and state == "archiving" for job, state in site.states().items())


MOMENTS: dict[str, tuple[int, Callable[[Site], object]]] = {
    # what is so when it is killed: (how many gates are opened for it, the condition)
    "it has just begun": (0, lambda site: site.select("SELECT 1 FROM coordinator WHERE epoch = 1")),
    "jobs are staged": (0, lambda site: has_attempt(site, "placed")),
    "a build is about to start": (0, lambda site: has_build(site, "starting")),
    "builds run": (0, lambda site: site.notes("build")),
    "a build is done, its log not yet here": (0, lambda site: has_build(site, "built", "AND log_kept = 0")),
    "a job is about to start": (1, lambda site: has_attempt(site, "starting")),
    "jobs run": (2, lambda site: has_attempt(site, "running", 2)),
    "a job has ended": (2, lambda site: has_attempt(site, "ended")),
    "results are on their way": (2, lambda site: any(".part-" in path for path in site.half_written())),
    "results are here, nobody has noted it": (2, has_unnoted_results),
    "results are here, the node still has its copy": (2, lambda site: has_attempt(site, "published")),
    "some are done, some run": (2, lambda site: len(set(site.states().values()) & {"done", "running"}) == 2),
    "all is done, the record not yet written": (
        len(JOBS), lambda site: site.select("SELECT 1 FROM batches WHERE finished_at > 0 AND recorded_at IS NULL"),
    ),
    "the record is written, a node is not yet cleaned": (
        0, lambda site: site.select("SELECT 1 FROM batches JOIN builds ON state <> 'wiped' WHERE recorded_at > 0"),
    ),
}  # fmt: skip


def test_killed_at_fourteen_moments_of_a_batch_of_twenty_each_job_runs_once_and_all_results_come(site: Site) -> None:
    rooms = [site.node("lab1", slots=2).room, site.node("lab2", slots=2).room, site.local()]
    path = site.batch(JOBS, build="note('build ' + NODE)\ngate('build')\n", run=RUN)
    site.do("add", path)
    closed = list(JOBS)
    for moment, (opened, condition) in MOMENTS.items():
        if moment.startswith("a build is done"):
            site.open("build")
        site.open(*closed[:opened])
        del closed[:opened]
        runner = site.start("runner")
        site.hit(functools.partial(condition, site), moment)
        assert runner.is_running, runner.said()
        runner.kill()
    site.do("run", path)

    assert sorted(site.notes("build")) == ["here", "lab1", "lab2"]
    assert sorted(site.notes("begin")) == JOBS
    assert sorted(site.notes("end")) == JOBS
    for job in JOBS:
        assert site.record(job)["attempt"] == 1
        assert (site.results(job) / "result").read_text() == job * 1000
    logs = {f"b_build_output-{node}.txt" for node in ("here", "lab1", "lab2")}
    assert {path.name for path in site.results().iterdir()} == {"batch.yaml", "batch.json", *logs, *JOBS}
    site.assert_clean(*rooms)


def test_whatever_breaks_in_whatever_order_each_job_runs_once_and_all_results_come(site: Site) -> None:
    """Coordinators killed, connections cut and frozen, servers gone for a while, at random."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    nodes = [site.node(name, slots=2) for name in ("lab1", "lab2")]
    run = "note('begin ' + JOB)\ntime.sleep(0.3)\nnote('end ' + JOB)\nsave('result', os.urandom(200_000))\n"
    path = site.batch(JOBS, run=run)
    site.do("add", path)
    runner = site.start("runner")
    for _ in range(12):
        time.sleep(dice.uniform(0.1, 0.8))
        node = dice.choice(nodes)
        match dice.choice(("coordinator", "connection", "server")):
            case "coordinator":
                runner.kill()
                runner = site.start("runner")
            case "connection":
                node.sshd.kill_sessions()
            case "server":
                node.sshd.stop()
                node.sshd.start()
    runner.kill()
    site.do("run", path)
    assert sorted(site.notes("begin")) == sorted(site.notes("end")) == JOBS
    assert {job: site.record(job)["state"] for job in JOBS} == dict.fromkeys(JOBS, "done")
    assert not site.half_written()
    site.assert_clean(*(node.room for node in nodes))
