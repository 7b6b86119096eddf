"""Exit codes count: what failed says so with its last line, and what it printed and saved is kept all the same."""

from __future__ import annotations

import signal

import pytest

from tests.endtoend.site import Site

pytestmark = pytest.mark.sshd


def test_where_a_build_fails_other_nodes_take_over_and_its_log_is_kept(site: Site) -> None:
    rooms = [site.node("lab1").room, site.node("lab2").room]
    build = "note('build ' + NODE)\nprint('no compiler on', NODE)\nif NODE == 'lab1':\n    sys.exit(5)\n"
    jobs = ["job0", "job1", "job2"]
    # Jobs wait until both nodes have built: lab2 shall not be done before lab1 fails.
    run = "note('run ' + JOB)\ngate('all')\n"
    command = site.start("run", site.batch(jobs, build=build, run=run))
    site.wait(lambda: sorted(site.notes("build")) == ["lab1", "lab2"], "both nodes build")
    log = site.results("b_build_output-lab1.txt")
    site.wait(log.exists, "the log of the build that failed is in storage")
    site.open("all")
    assert command.end() == 0, command.said()
    assert log.read_text() == "no compiler on lab1\n"
    assert sorted(site.notes("run")) == jobs
    assert {site.record(job)["node"] for job in jobs} == {"lab2"}
    assert sorted(site.notes("build")) == ["lab1", "lab2"], "it is not tried again and again"
    site.assert_clean(*rooms)


def test_where_no_node_can_build_the_jobs_fail_with_that_reason_and_retry_builds_again(site: Site) -> None:
    room = site.node("lab1").room
    build = "note('build')\nif not os.path.exists(SITE + '/gates/mended'):\n    sys.exit('no licence today')\n"
    path = site.batch(["job0", "job1"], build=build)
    site.do("run", path, code=1)
    assert site.states() == {"job0": "failed", "job1": "failed"}
    assert "exit 1: no licence today" in site.reason("job0")
    assert "no licence today" in site.do("explain", "ns/b", "job0").answered()
    assert site.results("b_build_output-lab1.txt").read_text() == "no licence today\n"
    site.assert_clean(room)

    site.open("mended")
    site.do("retry", "ns/b")
    site.do("run", path)
    assert site.notes("build") == ["", ""]
    assert site.states() == {"job0": "done", "job1": "done"}
    logs = {log.read_text() for log in site.results().glob("b_build_output-lab1*")}
    assert logs == {"no licence today\n", ""}, "the log of the first build is not written over"
    site.assert_clean(room)


def test_every_end_of_a_job_is_told_as_it_was_and_what_it_saved_is_kept(site: Site) -> None:
    room = site.local(slots=4)
    save = "save('partial', b'half')\nprint('step 7')\n"
    twice = "note('try')\ntry_ = open(SITE + '/notes').read().count('try')\nsave('partial', b'%d' % try_)\n"
    jobs = {
        "good": {},
        "fails": save + "sys.exit('no convergence')\n",
        "crashes": save + "sys.stdout.flush()\nos.kill(os.getpid(), signal.SIGSEGV)\n",
        "late": save + "sys.stdout.flush()\ngate('never')\n",
        "second": twice + "sys.exit(0 if try_ == 2 else 9)\n",
    }
    path = site.batch(jobs, build="", meta={"max_attempts": 1})
    text = path.read_text()
    text = text.replace('"name": "late",', '"name": "late", "time_limit": "1s",')
    path.write_text(text.replace('"name": "second",', '"name": "second", "max_attempts": 2,'))
    site.do("run", path, code=1)

    ends = {job: (site.states()[job], site.record(job)["exit_code"], site.record(job)["attempt"]) for job in jobs}
    assert ends["good"] == ("done", 0, 1)
    assert ends["fails"] == ("failed", 1, 1)
    assert ends["crashes"] == ("failed", 128 + signal.SIGSEGV, 1)
    assert ends["late"][0] == "timeout"
    assert ends["second"] == ("done", 0, 2)
    assert "exit 1: no convergence" in site.reason("fails")
    assert "SEGV" in site.reason("crashes")
    assert "time limit of 1s" in site.reason("late")
    for job in ("fails", "crashes", "late"):
        assert (site.results(job) / "partial").read_bytes() == b"half"
        assert (site.results(job) / f"{job}_output.txt").read_text().startswith("step 7")
    assert (site.results("second@attempt-1") / "partial").read_bytes() == b"1"
    assert (site.results("second") / "partial").read_bytes() == b"2"
    assert site.record("second@attempt-1")["exit_code"] == 9
    shown = site.data("status", "ns/b")["batches"][0]["jobs"]
    assert {job["name"]: job["state"] for job in shown} == site.states()
    site.assert_clean(room)


WARNED = """\
def warned(*_):
    note("warned " + JOB)
    save("checkpoint", b"half")
    sys.exit(0)

signal.signal(signal.SIGUSR1, warned)
note("begin")
gate("never")
"""


def test_who_asked_to_be_warned_of_the_time_limit_can_end_in_order_and_nobody_else_is(site: Site) -> None:
    room = site.local(slots=2)
    jobs = {"orderly": {"time_limit": "8s", "warn_signal": "USR1"}, "deaf": {"time_limit": "8s"}}
    command = site.start("run", site.batch(jobs, build="", run=WARNED))
    assert command.end() == 1, command.said()
    assert site.states() == {"orderly": "done", "deaf": "timeout"}
    assert site.notes("warned") == ["orderly"]
    assert (site.results("orderly") / "checkpoint").read_bytes() == b"half"
    site.assert_clean(room)


FAMILY = """\
# A child in a session of its own, and a grandchild whose parent is gone.
subprocess.Popen(["sleep", "300"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execvp("sleep", ["sleep", "301"])
note("begin " + JOB)
"""


def test_kill_ends_jobs_in_every_state_with_all_their_processes(site: Site) -> None:
    room = site.node("lab1", slots=2).room
    jobs = ["zero", "one", "two", "three"]
    path = site.batch(jobs, build="note('build')\ngate('build')\n", run=FAMILY + "gate('never')\n")
    site.do("add", path)
    assert "three" in site.do("kill", "ns/b", "three", "-y").said(), "one that waits"
    assert site.states()["three"] == "killed"

    runner = site.start("runner")
    site.hit(lambda: "staging" in site.states().values(), "jobs are staged")
    runner.kill()
    site.do("kill", "ns/b", "zero", "-y")
    assert site.states()["zero"] == "killed", "also where nobody drives the queue"

    runner = site.start("runner")
    site.wait(lambda: site.notes("build"), "the build runs")
    site.wait(lambda: site.states()["one"] == site.states()["two"] == "building", "the others wait for it")
    site.do("kill", "ns/b", "one", "-y")
    assert site.states() == {"zero": "killed", "one": "killed", "two": "building", "three": "killed"}
    site.open("build")
    site.wait(lambda: site.notes("begin") == ["two"], "the last one runs")
    site.wait(lambda: len(site.processes()) == 3, "with its whole family")
    site.do("kill", "ns/b", "-y")
    assert site.states() == dict.fromkeys(jobs, "killed")
    assert not site.processes()
    assert site.record("two")["state"] == "killed"
    site.wait(lambda: not site.left(room), "the node is cleaned")
    assert runner.interrupt() == 0
    assert site.notes("begin") == ["two"]


def test_what_a_job_leaves_running_is_ended_with_it_and_writes_into_no_results(site: Site) -> None:
    room = site.node("lab1").room
    chatty = "while True:\n    open('log', 'a').write('.' * 1000)\n    time.sleep(0.01)\n"
    run = FAMILY + f"subprocess.Popen([sys.executable, '-c', 'import time\\n' + {chatty!r}], cwd=SAVE)\n"
    site.do("run", site.batch({"job": run, "next": {}}))
    assert site.states() == {"job": "done", "next": "done"}
    site.record("job")
    site.assert_clean(room)
