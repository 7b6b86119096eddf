"""Silence is not death: a lost connection changes nothing about jobs; only evidence from the node does."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.endtoend.site import Site
from tests.support import processes
from tests.support.lab import LabNode

pytestmark = pytest.mark.sshd

MEGABYTE = 1 << 20
BUILD = "note('build ' + NODE)\ngate('build')\n"
# A gate for each job on each node, so that the test decides which attempt comes to its end.
RUN = "note('begin %s %s' % (JOB, NODE))\ngate(JOB + NODE)\nnote('end %s %s' % (JOB, NODE))\nsave(NODE, b'')\n"


def unreachable(site: Site) -> set[str]:
    """The nodes that status shows as unreachable, beside a batch that has jobs there."""
    return set(site.data("status", "ns/b")["batches"][0]["unreachable"])


def part_size(site: Site) -> int:
    """Bytes that have come of the file `big`; 0 where it is in neither place just now."""
    for path in (*site.results().glob(".part-*/big"), site.results("job") / "big"):
        try:
            return path.stat().st_size
        except FileNotFoundError:
            continue
    return 0


def test_a_connection_cut_during_build_run_and_archive_loses_nothing_and_starts_nothing_twice(site: Site) -> None:
    node = site.node("lab1")
    size = 64 * MEGABYTE
    big = f"note('begin')\ngate('run')\nsave('big', os.urandom({size}))\nnote('end')\n"
    command = site.start("run", site.batch({"job": big}, build=BUILD))
    site.wait(lambda: site.notes("build"), "the build runs")
    assert node.sshd.kill_sessions()
    site.open("build")
    site.wait(lambda: site.notes("begin"), "the job runs")
    assert node.sshd.kill_sessions()
    site.open("run")
    site.wait(lambda: part_size(site) > size // 4, "a good part of the file has come")
    assert node.sshd.kill_sessions()
    cut_at = part_size(site)
    assert cut_at < size, "the cut came too late to prove anything"

    def is_over() -> bool:
        come = part_size(site)
        assert come == 0 or come >= cut_at, "what had come is not fetched again"
        return not command.is_running

    site.wait(is_over, "the batch ends")
    assert command.end() == 0, command.said()
    assert site.notes() == ["build lab1", "begin", "end"]
    assert (site.results("job") / "big").stat().st_size == size
    assert site.record("job")["attempt"] == 1
    site.assert_clean(node.room)


def test_while_a_node_is_silent_it_is_shown_so_and_its_jobs_stay_what_they_are(site: Site) -> None:
    node = site.node("lab1", slots=2)
    command = site.start("run", site.batch(["stays", "ends"], run=RUN))
    site.wait(lambda: len(site.notes("begin")) == 2, "both jobs run")
    site.wait(lambda: set(site.states().values()) == {"running"}, "and are known to")
    node.sshd.stop()
    site.wait(lambda: unreachable(site) == {"lab1"}, "lab1 is shown as unreachable")
    site.open("endslab1")  # nobody can see that it ends
    site.wait(lambda: site.notes("end ends"), "it has ended")
    assert site.states() == {"stays": "running", "ends": "running"}
    (shown,) = [each for each in site.data("nodes")["nodes"] if each["name"] == "lab1"]
    assert shown["state"] == "unreachable"
    assert "unreachable since" in site.do("status", "ns/b").answered()
    node.sshd.start()
    site.wait_state("ends", "done")
    assert site.states()["stays"] == "running"
    site.open("stayslab1")
    assert command.end() == 0, command.said()
    assert sorted(site.notes("begin")) == ["ends lab1", "stays lab1"]
    site.assert_clean(node.room)


def test_after_lost_after_a_job_is_tried_elsewhere_unless_it_waits_and_the_stale_attempt_is_stopped_and_dropped(
    site: Site,
) -> None:
    old, new = site.node("lab1", slots=2), site.node("lab2")
    site.write_inventory(lost_after="2s")
    new.sshd.stop()
    jobs = {"moves": {}, "waits": {"on_node_loss": "wait"}}
    command = site.start("run", site.batch(jobs, run=RUN))
    site.wait(lambda: len(site.notes("begin")) == 2, "both run on the only node")
    site.wait(lambda: set(site.states().values()) == {"running"}, "and are known to")
    old.sshd.stop()
    new.sshd.start()
    site.wait(lambda: "moves lab2" in site.notes("begin"), "one is tried on the other node")
    assert site.states()["waits"] == "running"
    old.sshd.start()
    site.wait(lambda: all("run.py" not in what for pid, what in on(site, "lab1", "moves")), "the old try is stopped")
    site.open("waitslab1", "moveslab2")
    assert command.end() == 0, command.said()
    assert sorted(site.notes("end")) == ["moves lab2", "waits lab1"]
    assert (site.record("moves")["node"], site.record("moves")["attempt"]) == ("lab2", 2)
    assert (site.record("waits")["node"], site.record("waits")["attempt"]) == ("lab1", 1)
    assert {path.name for path in site.results("moves").iterdir()} == {"lab2", "moves_output.txt", "job.json"}
    site.assert_clean(old.room, new.room)


def on(site: Site, node: str, job: str) -> list[tuple[int, str]]:
    """The processes of a job on one node; they all are on this machine, but know where they believe to be."""
    mark = {f"DISTRIBUTE_NODE={node}".encode(), f"DISTRIBUTE_JOB_NAME={job}".encode()}
    found = []
    for pid, what in site.processes():
        try:
            if mark <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                found.append((pid, what))
        except OSError:
            continue
    return found


def test_time_without_a_coordinator_is_no_silence_of_the_nodes(site: Site) -> None:
    node = site.node("lab1")
    site.node("lab2")
    site.do("add", site.batch(["job"], run="note('begin ' + JOB)\ngate(JOB)\nsave('result', b'')\n"))
    first = site.start("runner")
    site.wait_state("job", "running")
    first.kill()
    with closing(sqlite3.connect(site.state / "queue.db")) as queue, queue:
        queue.execute("UPDATE nodes SET last_seen = last_seen - 7200")  # two hours without anybody
        queue.execute("UPDATE attempts SET placed_at = placed_at - 7200")
    second = site.start("runner")
    site.wait(lambda: site.select("SELECT 1 FROM coordinator WHERE epoch = 2"), "the second one drives")
    site.wait(node.sshd.sessions, "the second one is connected")
    site.open("job")
    site.wait_state("job", "done")
    assert site.record("job")["attempt"] == 1
    assert site.notes("begin") == ["job"]
    assert second.interrupt() == 0


def test_a_node_whose_host_key_nobody_trusts_gets_nothing_until_a_person_does(site: Site) -> None:
    node = site.node("lab1", known=False)
    site.do("add", site.batch(["job"]))
    runner = site.start("runner")
    site.wait(lambda: "host key" in site.do("explain", "ns/b", "job").answered(), "it says why it waits")
    assert not node.room.exists()
    assert "SHA256:" in site.do("nodes", "trust", "lab1", "-y").said()
    site.wait_state("job", "done")
    site.wait(lambda: not site.left(node.room), "the node is cleaned")
    assert runner.interrupt() == 0


def unread(port: int) -> int:
    """Bytes that wait for whoever listens at a port, or for its connections."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(f":{port:04X}"))


def test_a_start_that_arrives_after_its_job_was_done_starts_nothing(site: Site) -> None:
    """A line that hangs may still deliver what was sent into it when the job has long ended over another one."""
    node = site.node("lab1", slots=2)
    run = "note('run ' + JOB)\ngate(JOB)\n"
    path = site.batch(["first"], run=run)
    site.do("add", path)
    runner = site.start("runner")
    site.wait(lambda: site.notes("run") and site.states() == {"first": "running"}, "the first job runs")
    node.sshd.freeze()
    behind = [each.pid for each in processes.everything() if each.command[:1] == ("/bin/sh",) and over(node, each.pid)]
    assert behind
    site.batch(["first", "late"], run=run)
    site.do("add", "--replace", path)
    site.wait(lambda: unread(node.sshd.port) > 1000, "the start of the second job is on its way")
    runner.kill()

    site.open("late")
    site.start("runner")
    site.wait_state("late", "done")
    site.wait(lambda: len(list((node.room / "attempts").iterdir())) == 2, "nothing of it is left")
    node.sshd.thaw()
    site.wait(lambda: not any(map(processes.is_alive, behind)), "the old line has delivered all it had")
    site.open("first")
    site.wait_state("first", "done")
    site.wait(lambda: not site.left(node.room), "the node is cleaned")
    assert site.notes("run") == ["first", "late"]


def over(node: LabNode, pid: int) -> bool:
    """Whether a process runs below a connection to a node."""
    above = {each.pid: each.parent for each in processes.everything()}
    sessions = {each.pid for each in processes.children(int((node.sshd.folder / "pid").read_text()))}
    while pid in above:
        pid = above[pid]
        if pid in sessions:
            return True
    return False


# sshd sees a boot id of its own, and so does everything that is started over it.
REBOOTED = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'


@pytest.mark.root
@pytest.mark.parametrize("scratch", ["kept", "emptied"])
def test_a_job_whose_node_was_restarted_is_tried_again(site: Site, scratch: str) -> None:
    boot_id = site.folder / "boot_id"
    boot_id.write_text("00000000-0000-4000-8000-000000000001\n")
    node = site.node("lab1", within=["unshare", "-m", "sh", "-c", REBOOTED, str(boot_id)])
    command = site.start("run", site.batch(["job"], run="note('begin ' + JOB)\ngate('run')\nnote('end ' + JOB)\n"))
    site.wait(lambda: site.notes("begin") and site.states() == {"job": "running"}, "it runs")
    node.sshd.stop()
    # The wrappers first: they must not live to see their jobs die.
    for pid in (*wrappers(node.room), *(pid for pid, _ in site.processes())):
        os.kill(pid, signal.SIGKILL)
    boot_id.write_text("00000000-0000-4000-8000-000000000002\n")
    if scratch == "emptied":
        for path in sorted(node.room.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        node.room.rmdir()
    node.sshd.start()
    site.wait(lambda: len(site.notes("begin")) == 2, "it is tried again")
    assert any("the node was restarted" in str(reason) for (reason,) in site.select("SELECT reason FROM history"))
    site.open("run")
    assert command.end() == 0, command.said()
    assert site.notes("end") == ["job"]
    assert len(site.notes("build")) == (2 if scratch == "emptied" else 1)
    assert site.record("job")["attempt"] == 2
    site.assert_clean(node.room)


def wrappers(room: Path) -> list[int]:
    """The wrappers that run in a node's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            here = entry.name.isdigit() and os.readlink(entry / "cwd") == str(room)
            if here and b"wrapper.sh" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found
