"""A cluster with a real Slurm as a node: its login machine and two compute nodes, all of them machines of a lab."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.endtoend.site import BUILD, Site
from tests.lab import slurm as installed
from tests.lab.lab import Lab
from tests.lab.site import IMPATIENT
from tests.lab.slurm import Slurm
from tests.support import lab as loopback

LOGIN, COMPUTE, DESK = "node1", ("node2", "node3"), "node4"
LIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}
RUN = "note('run ' + JOB)\nsave('result', JOB.encode())\n"
WAITS = RUN + "gate(JOB)\n"
WARNED = "signal.signal(signal.SIGUSR1, lambda *_: note('warned ' + JOB))\n"


class Cluster(Site):
    """A head whose node is a cluster; where the jobs run is written on their results."""

    def __init__(self, folder: Path, real: Slurm, **settings: Any) -> None:
        self.slurm = real
        self.shared = real.shared / folder.name
        self.shared.mkdir()
        self.shared.chmod(0o1777)
        public = real.lab.window / folder.name
        public.mkdir()
        super().__init__(folder, cast(loopback.Lab, real.lab.access), public)
        self.enter("cluster", host=LOGIN, kind="slurm", scratch=str(self.shared), **settings)

    @property
    def room(self) -> Path:
        """Our folder."""
        (found,) = self.shared.glob("distribute-*")
        return found

    def rows(self) -> dict[str, list[tuple[str, str]]]:
        """The Slurm jobs of each attempt: number and state. Rows of an array are of the attempts in its order."""
        members = {}
        for path in self.room.glob("attempts/*/member"):
            with contextlib.suppress(OSError, ValueError):  # it has just gone
                name, index = path.read_text().split()
                members[name, index] = path.parent.name
        found: dict[str, list[tuple[str, str]]] = {}
        for number, name, index, state in self.slurm.jobs("i", "j", "K", "T"):
            if token := members.get((name, index if index.isdigit() else "1")):
                found.setdefault(token, []).append((number, state))
        return found

    def row(self, job: str) -> tuple[str, str]:
        """Number and state of the only Slurm job of a job's attempt."""
        ((token,),) = self.select(
            "SELECT token FROM attempts a JOIN jobs j ON j.id = a.job_id AND j.attempt = a.number WHERE j.name = ?", job
        )
        (found,) = self.rows()[token]
        return found

    def queued(self) -> list[list[str]]:
        """What Slurm has not ended of all that this head ever submitted."""
        queue = self.select("SELECT queue FROM coordinator")[0][0]
        return [row for row in self.slurm.jobs("j", "T") if row[0].startswith(f"{queue}-") and row[1] in LIVE]

    def report(self) -> str:
        """All that helps."""
        return f"{super().report()}\n{self.slurm.jobs('i', 'j', 'K', 'T', 'N', 'r')}\n{self.slurm.log()}"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """One for all these tests: each has a head, a queue and a scratch folder of its own."""
    if why := installed.missing():
        if os.environ.get("DISTRIBUTE_TESTS_COMPLETE"):
            pytest.exit(f"nothing may be left out, but for a Slurm this computer {why}", returncode=1)
        pytest.skip(f"left out: for a Slurm this computer {why}")
    with Lab.up(4, ssh=IMPATIENT) as lab:
        yield Slurm(lab, LOGIN, COMPUTE)


@pytest.fixture
def cluster(slurm: Slurm, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """`cluster(slots=3)` is a head with it; further settings are those of the node."""
    with contextlib.ExitStack() as made:

        def make(**settings: Any) -> Cluster:
            new = Cluster(tmp_path / tmp_path.name, slurm, **settings)
            made.callback(new.close)
            return new

        yield make


def test_a_hundred_jobs_are_shared_by_a_desk_and_a_cluster_and_each_runs_once(cluster: Callable[..., Cluster]) -> None:
    site = cluster(slots=40, slurm={"partition": "long"})
    site.enter("desk", host=DESK, scratch="/var/tmp", slots=2)
    jobs = [f"job-{number:03d}" for number in range(100)]
    site.do("run", site.batch(jobs, run=RUN + "print('on', os.uname().nodename)\n"), limit=120)

    assert Counter(site.notes("run ")) == Counter(jobs)
    assert site.notes("build ") == site.notes("build cluster") or sorted(site.notes("build ")) == ["cluster", "desk"]
    records = [site.record(job) for job in jobs]
    assert {record["node"] for record in records} == {"cluster", "desk"}
    where = {(site.results(job) / f"{job}_output.txt").read_text().split()[-1] for job in jobs}
    assert where & {*COMPUTE}
    assert LOGIN not in where, "the login machine runs no jobs"
    rows = site.slurm.jobs("i", "T")
    assert {state for _, state in rows} == {"COMPLETED"}
    assert any("_" in number for number, _ in rows), "what is alike is submitted as one array"
    site.assert_clean(site.room)


def test_what_slurm_refuses_or_ends_is_told_with_its_reason(cluster: Callable[..., Cluster]) -> None:
    site = cluster(build="login")
    jobs: dict[str, Any] = {
        "at-its-limit": {"slurm": {"time": "00:01:00"}},
        "cancelled": {"slurm": {"account": "fluids"}},
        "no-partition": {"slurm": {"partition": "nope"}},
        "too-long": {"slurm": {"time": "1:00:00", "partition": "short"}},
        "too-big": {"slurm": {"mem": "900G"}},
        "our-limit": {"time_limit": "6s", "warn_signal": "USR1"},
    }
    command = site.start("run", site.batch(jobs, run=WARNED + WAITS))
    for job in ("at-its-limit", "cancelled"):
        site.wait_state(job, "running")
    site.slurm.admin("update", f"jobid={site.row('at-its-limit')[0]}", "TimeLimit=0")
    site.slurm.ask("scancel", site.row("cancelled")[0])
    assert command.end(limit=90) == 1
    assert site.states() == {
        "at-its-limit": "timeout", "our-limit": "timeout", "cancelled": "killed",
        "no-partition": "failed", "too-long": "failed", "too-big": "failed",
    }  # fmt: skip
    assert "time limit" in site.reason("at-its-limit")
    assert site.reason("cancelled") == "cancelled in Slurm, by somebody else than us"
    assert "Slurm refused it: " in site.reason("no-partition")
    assert "nope" in site.reason("no-partition")
    assert site.reason("too-long") == "Slurm refused it: it would wait for ever: PartitionTimeLimit"
    assert "Memory specification can not be satisfied" in site.reason("too-big")
    assert site.notes("warned ") == ["our-limit"]
    for job in ("at-its-limit", "our-limit", "cancelled"):
        assert (site.results(job) / "result").read_text() == job, "what it had saved is kept"
        assert site.record(job)["attempt"] == 1, "and it is not tried again"
    assert site.queued() == []
    site.assert_clean(site.room)


def test_a_kill_ends_what_runs_there_and_takes_back_what_waits(cluster: Callable[..., Cluster]) -> None:
    site = cluster(cores=8)
    tells = BUILD + "note('build has ' + os.environ['DISTRIBUTE_CPUS'])\n"
    command = site.start("run", batch := site.batch(["a", "b", "waits", "done"], run=WAITS, build=tells))
    site.wait(lambda: len(site.notes("run ")) == 2, "two jobs of eight cores run")
    assert site.notes("build has ") == ["8"]
    held = next(job for job in ("waits", "done", "b", "a") if job not in site.notes("run "))
    site.wait(lambda: site.reason(held) == "waits in Slurm: Resources", "why the others wait is known")
    assert "waits in Slurm: Resources" in site.do("explain", "ns/b").answered()
    site.do("kill", "-y", batch)
    assert command.end() == 1
    assert set(site.states().values()) == {"killed"}
    assert site.queued() == []
    for job in site.notes("run "):
        assert (site.results(job) / "result").read_text() == job
    assert site.processes() == []
    site.assert_clean(site.room)


def test_what_a_failed_node_ran_runs_again_elsewhere_by_our_queue_and_not_by_slurms(
    cluster: Callable[..., Cluster],
) -> None:
    site = cluster(cores=8)
    command = site.start("run", site.batch(["a"], run=WAITS))
    site.wait_state("a", "running")
    number, _ = site.row("a")
    (node,) = (row[1] for row in site.slurm.jobs("i", "N") if row[0] == number)
    lab = site.slurm.lab
    assert lab.exec(LOGIN, ["scontrol", "requeue", number], check=False).returncode != 0, "Slurm begins nothing again"
    try:
        lab.crash(node)
        site.slurm.admin("update", f"nodename={node}", "state=down", "reason=test")
        site.wait(lambda: site.notes("run ") == ["a", "a"], "it runs on the other node")
        site.open("a")
        assert command.end() == 0
    finally:
        lab.start(node)
        site.slurm.start_machine(node)
        site.slurm.wait_up()
    assert site.select("SELECT number, state FROM attempts") == [(1, "wiped"), (2, "wiped")]
    assert "Slurm ended it: NODE_FAIL" in site.report()
    assert site.record("a")["attempt"] == 2
    site.assert_clean(site.room)


def test_a_head_killed_between_sbatch_and_its_answer_submits_nothing_twice_nor_does_silence_lose_a_job(
    cluster: Callable[..., Cluster],
) -> None:
    site = cluster(build="login")
    lab, seen, again = site.slurm.lab, site.public / "submitted", site.public / "again"
    # The jobs are in Slurm, even twice, and everybody dies who could write their number down.
    twice = 'cat > /tmp/job; for each in 1 2; do /usr/bin/sbatch "$@" < /tmp/job; done'
    dies = "kill -9 $(ps -o pid= -s $(ps -o sid= -p $$))"
    site.slurm.admin("update", "partition=short", "state=down")
    lab.pretend(LOGIN, "sbatch", f"#!/bin/sh\n{twice}\ntouch {seen}\n{dies}\n")
    command = site.start("run", batch := site.batch(["a", "b"], run=WAITS))
    try:
        site.wait(seen.exists, "they were submitted")
        command.kill()
    finally:
        lab.pretend(LOGIN, "sbatch", f'#!/bin/sh\ntouch {again}\nexec /usr/bin/sbatch "$@"\n')
    assert not [*site.room.glob("attempts/*/submitted")]
    command = site.start("run", batch)
    site.wait(lambda: len([*site.room.glob("attempts/*/submitted")]) == 2 or again.exists(), "Slurm was asked for them")
    site.slurm.admin("update", "partition=short", "state=up")
    for job in ("a", "b"):
        site.wait_state(job, "running")
    assert not again.exists(), "nothing was submitted again"
    site.slurm.stop_controller()
    try:
        site.open("a")
        site.wait_state("a", "done")
        assert site.states()["b"] == "running", "that Slurm does not answer says nothing about it"
    finally:
        site.slurm.start_controller()
    site.open("b")
    assert command.end() == 0
    assert sorted(site.notes("run ")) == ["a", "b"]
    assert [number for (number,) in site.select("SELECT number FROM attempts")] == [1, 1]
    site.assert_clean(site.room)


WRITTEN = """\
meta: {namespace: ns, batch_name: b, capabilities: []}
python:
  initialize: {build_file: build.py, required_files: [common.dat]}
  jobs:
    - {name: "n{n}", file: run.py, sweep: {n: [1, 2]}}
    - {name: own, file: run.py, slurm: {ntasks: 2, output: "logs/my %x.txt"}}
slurm: {partition: long, time: 00:05:00}
"""


@pytest.mark.parametrize("options", [(), ("--array",)])
def test_the_folder_that_the_slurm_command_writes_runs_without_us(
    cluster: Callable[..., Cluster], options: tuple[str, ...]
) -> None:
    site = cluster()
    (site.folder / "jobs.yaml").write_text(WRITTEN)
    (site.folder / "common.dat").write_text("common")
    (site.folder / "build.py").write_text("open('made', 'w').write('built')\n")
    (site.folder / "run.py").write_text(
        "import sys\nprint('said')\nfound = [open(name).read() for name in ('made', 'input/common.dat')]\n"
        "open('distribute_save/all', 'w').write(' '.join([*found, sys.argv[1]]))\n"
    )
    site.do("slurm", out := site.shared / "out", "jobs.yaml", *options)
    site.slurm.lab.exec(LOGIN, ["chown", "-R", "distribute", str(out)])
    said = site.slurm.ask("bash", str(out / "schedule_jobs.sh")).splitlines()
    numbers = {line.split()[1] for line in said}
    assert said[0].startswith("build ")

    def ended() -> bool:
        states = [state for number, state in site.slurm.jobs("F", "T") if number in numbers]
        return len(states) == 4 and not LIVE & set(states)

    site.wait(ended, "Slurm has ended them all")
    assert {state for number, state in site.slurm.jobs("F", "T") if number in numbers} == {"COMPLETED"}
    assert [(out / job / "output" / "all").read_text() for job in ("n1", "n2", "own")] == [
        *("built common 1", "built common 1", "built common 2"),
    ]
    if not options:
        assert (out / "own" / "logs" / "my own.txt").read_text() == "said\n"
