"""Kill means killed, whatever the job is just doing; and what it had printed and saved is kept.

Killing what waits, is staged or is being built is in test_ends.py, what is paused in test_pause.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from distribute_ssh.errors import UnreachableError
from tests.endtoend.site import Site
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd

UNREACHABLE = UnreachableError.exit_code
ORDERLY = """\
def end(*_):
    save("last", b"words")
    sys.exit(3)

signal.signal(signal.SIGTERM, end)
print("hello", flush=True)
save("half", b"done")
note("begin")
gate("never")
"""


@contextmanager
def storage_away(site: Site) -> Iterator[None]:
    """Results cannot come in meanwhile: there is something else in the place of storage."""
    elsewhere = site.storage.with_name("elsewhere")
    site.storage.rename(elsewhere)
    site.storage.touch()
    yield
    site.storage.unlink()
    elsewhere.rename(site.storage)


def assert_kept(site: Site) -> None:
    """It is told as killed, and all that it had is in storage."""
    assert site.states() == {"job": "killed"}
    assert site.reason("job") == "killed by tester"
    record = site.record("job")
    assert (record["state"], record["exit_code"]) == ("killed", 3)
    assert (site.results("job") / "half").read_bytes() == b"done"
    assert (site.results("job") / "last").read_bytes() == b"words"
    assert (site.results("job") / "job_output.txt").read_text() == "hello\n"


def test_a_running_job_has_time_for_last_words_and_keeps_them(site: Site) -> None:
    room = site.node("lab1").room
    site.do("add", site.batch({"job": ORDERLY}))
    runner = site.start("runner")
    site.wait(lambda: site.notes("begin"), "it runs")
    runner.kill()
    assert "killed 1 job" in site.do("kill", "ns/b", "-y").answered(), "also where nobody drives the queue"
    assert_kept(site)
    site.do("runner", "--once")
    site.assert_clean(room)


def test_what_is_held_ends_at_once_and_never_runs(site: Site) -> None:
    site.node("lab1")
    path = site.batch(["one", "two"])
    site.do("add", path)
    site.do("hold", "ns/b")
    assert "killed 1 job" in site.do("kill", "ns/b", "one", "-y").answered()
    assert site.states() == {"one": "killed", "two": "held"}
    site.do("release", "ns/b")
    site.do("run", path, code=1)
    assert site.states() == {"one": "killed", "two": "done"}
    assert site.notes("run") == ["two"]


def test_what_has_ended_and_is_on_its_way_to_storage_keeps_its_end(site: Site) -> None:
    room = site.node("lab1", slots=2).room
    path = site.batch({"good": {}, "bad": "note('run bad')\nsys.exit(4)\n"})
    site.do("add", path)
    with storage_away(site):
        runner = site.start("runner")
        site.wait(lambda: set(site.states().values()) == {"archiving"}, "both have ended")
        kill = site.start("kill", "ns/b", "-y")
        site.wait(lambda: site.select("SELECT count(*) FROM jobs WHERE request = 'kill'") == [(2,)], "it is asked for")
        assert set(site.states().values()) == {"archiving"}
        assert kill.is_running, "it returns when they have ended"
    assert kill.end() == 0, kill.said()
    assert "killed 0 jobs" in kill.answered()
    assert site.states() == {"good": "done", "bad": "failed"}
    assert site.record("bad")["exit_code"] == 4
    assert (site.results("good") / "result").exists()
    site.wait(lambda: not site.left(room), "the node is cleaned")
    assert runner.interrupt() == 0


def test_what_failed_is_not_tried_again_when_it_is_killed_on_its_way_to_storage(site: Site) -> None:
    room = site.node("lab1").room
    path = site.batch({"job": {"max_attempts": 3}}, run="note('run')\nsave('half', b'done')\nsys.exit(3)\n")
    site.do("add", path)
    with storage_away(site):
        runner = site.start("runner")
        site.wait_state("job", "archiving")
        kill = site.start("kill", "ns/b", "-y")
        site.wait(lambda: site.select("SELECT count(*) FROM jobs WHERE request = 'kill'") == [(1,)], "it is asked for")
    assert kill.end() == 0, kill.said()
    assert site.states() == {"job": "killed"}
    assert site.notes("run") == [""]
    # Under the name of its attempt, where it had set out as one of several.
    (half,) = (*site.results().glob("job/half"), *site.results().glob("job@attempt-1/half"))
    assert half.read_bytes() == b"done"
    site.wait(lambda: not site.left(room), "the node is cleaned")
    assert runner.interrupt() == 0


def silence(site: Site, sshd: Sshd, name: str) -> None:
    sshd.stop()
    known = "SELECT unreachable_since FROM nodes WHERE name = ?"
    site.wait(lambda: site.select(known, name) not in ([], [(None,)]), "it is known to be silent")


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
@pytest.mark.parametrize("driven", [False, True], ids=["no runner", "a runner"])
def test_on_a_silent_node_it_stays_asked_for_and_is_done_when_the_node_is_back(
    site: Site, driven: bool, paused: bool
) -> None:
    node = site.node("lab1")
    path = site.batch({"job": ORDERLY})
    site.do("add", path)
    runner = site.start("runner")
    site.wait(lambda: site.notes("begin"), "it runs")
    site.wait_state("job", "running")
    if paused:
        site.do("pause", "lab1")
    silence(site, node.sshd, "lab1")
    if not driven:
        runner.kill()
    said = site.do("kill", "ns/b", "-y", code=UNREACHABLE).said()
    assert "lab1 does not answer" in said
    assert "is done when the node is back" in said
    assert site.states() == {"job": "paused" if paused else "running"}, "silence is no evidence"
    assert "kill" in site.do("status", "ns/b").answered() + site.do("explain", "ns/b", "job").answered()
    node.sshd.start()
    if not driven:
        runner = site.start("runner")
    site.wait_state("job", "killed")
    assert_kept(site)
    if paused:
        site.do("resume", "lab1")
    site.wait(lambda: not site.left(node.room), "the node is cleaned")
    assert runner.interrupt() == 0
