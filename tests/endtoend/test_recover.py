"""A queue that was lost or damaged: made anew from storage, and nothing of what was done is done again."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.endtoend.site import Site

pytestmark = pytest.mark.sshd

RUN = "note('begin ' + JOB)\nsave('half', b'saved')\nprint('working', flush=True)\ngate(JOB)\nnote('end ' + JOB)\n"


def lose(site: Site) -> None:
    """The queue's file is gone, with all that belongs to it."""
    for path in site.state.glob("queue.db*"):
        path.unlink()


def queue_id(site: Site) -> str:
    ((found,),) = site.select("SELECT queue FROM coordinator")
    return str(found)


def test_a_lost_queue_comes_back_with_what_is_done_and_the_rest_goes_on(site: Site) -> None:
    node = site.node("lab1")
    site.do("add", site.batch(["one", "two", "three"], run=RUN))
    before = queue_id(site)
    runner = site.start("runner")
    site.open("one")
    site.wait_state("one", "done")
    site.wait(lambda: "two" in site.notes("begin"), "the second job runs")
    runner.kill()
    kept = (site.results("one") / "job.json").read_bytes()
    lose(site)
    told = site.do("recover", "-y")
    assert "1 done, 2 queued" in told.said()
    assert queue_id(site) == before
    assert site.states() == {"one": "done", "two": "queued", "three": "queued"}
    runner = site.start("runner")
    site.wait_state("two", "running")
    site.open("two", "three")
    site.wait(lambda: set(site.states().values()) == {"done"}, "all is done")
    site.wait(lambda: not site.left(node.room), "nothing is left there")
    assert runner.interrupt() == 0
    assert site.notes("begin") == site.notes("end") == ["one", "two", "three"], "what ran went on"
    assert list(site.results().glob("*@orphan-*")) == []
    assert site.notes("build") == ["lab1"], "and what was built is still used"
    assert (site.results("one") / "job.json").read_bytes() == kept
    assert [site.record(job)["attempt"] for job in ("one", "two", "three")] == [1, 1, 1]
    assert site.half_written() == []


def test_what_ended_while_there_was_no_queue_is_archived_and_not_run_again(site: Site) -> None:
    node = site.node("lab1")
    site.do("add", site.batch(["one"], run=RUN))
    runner = site.start("runner")
    site.wait(lambda: site.notes("begin"), "it runs")
    runner.kill()
    lose(site)
    site.open("one")
    site.wait(lambda: list(node.room.glob("attempts/*/exit.0")), "it ended")
    site.do("recover", "-y")
    site.do("runner", "--once")
    assert site.states() == {"one": "done"}
    assert (site.results("one") / "half").read_bytes() == b"saved"
    assert site.notes("begin") == ["one"]
    site.assert_clean(node.room)


def test_a_damaged_queue_is_kept_aside_whole_and_another_takes_its_place(site: Site) -> None:
    site.local()
    site.open("one")
    site.do("run", site.batch(["one"], run=RUN))
    database = site.state / "queue.db"
    rubbish = b"not a database" * 1000
    database.write_bytes(rubbish)
    assert "distribute recover" in site.do("runner", code=1).said()
    assert "no terminal to ask on" in site.do("recover", code=2).said()
    assert database.read_bytes() == rubbish, "nothing was done unasked"
    site.do("recover", "-y")
    (aside,) = site.state.glob("queue.db.damaged-*Z")
    assert aside.read_bytes() == rubbish
    assert (site.states(), database.stat().st_mode & 0o777) == ({"one": "done"}, 0o600)
    assert list(site.state.glob("*.recovering*")) == []
    site.do("run", site.folder / "batches" / "b" / "jobs.yaml")
    assert site.notes("begin") == ["one"], "what was done is kept when the batch is submitted again"


def test_jobs_whose_files_are_gone_say_so_unless_a_node_is_at_them_and_run_when_submitted_again(site: Site) -> None:
    node = site.node("lab1")
    path = site.batch(["one", "two", "three"], run=RUN)
    site.do("add", path)
    runner = site.start("runner")
    site.open("one")
    site.wait_state("one", "done")
    site.wait(lambda: "two" in site.notes("begin"), "the second job runs")
    runner.kill()
    lose(site)
    shutil.rmtree(site.state / "spool")
    site.do("recover", "-y")
    assert site.states() == {"one": "done", "two": "lost", "three": "lost"}
    assert "submit the batch again" in site.reason("two")
    runner = site.start("runner")
    site.wait_state("two", "running")
    site.open("two", "three")
    site.wait_state("two", "done")
    assert site.states()["three"] == "lost", "which no node was at"
    assert runner.interrupt() == 0
    command = site.start("run", path)
    assert command.end() == 0, command.said()
    assert set(site.states().values()) == {"done"}
    assert site.notes("begin") == site.notes("end") == ["one", "two", "three"]
    site.assert_clean(node.room)


def test_a_queue_in_order_is_never_replaced_nor_one_that_is_driven(site: Site) -> None:
    site.local()
    site.do("add", site.batch(["one"], run=RUN))
    assert "is in order and has 1 batch, ns/b" in site.do("recover", "-y", code=2).said()
    runner = site.start("runner")
    site.wait(lambda: site.notes("begin"), "it is driven")
    assert "a coordinator drives the queue" in site.do("recover", "-y", code=5).said()
    assert runner.interrupt() == 0
    site.open("one")


def test_an_empty_queue_that_a_crontab_made_in_the_place_of_the_lost_one_is_put_aside(site: Site) -> None:
    site.local()
    site.do("add", site.batch(["one"], run=RUN))
    site.do("runner", "--once")
    before = queue_id(site)
    lose(site)
    for path in site.state.glob("spool/??/*"):
        os.utime(path, (0, 0))  # long ago: what no batch needs would go
    site.do("runner", "--once")
    assert queue_id(site) != before
    site.do("recover", "-y")
    assert queue_id(site) == before
    assert site.states() == {"one": "queued"}, "its files are still here"
    assert len(list(site.state.glob("queue.db.empty-*Z"))) == 1


def test_the_machine_is_replaced_and_all_of_its_state_is_gone(site: Site) -> None:
    node = site.node("lab1")
    site.do("add", site.batch(["one", "two"], run=RUN))
    runner = site.start("runner")
    site.wait(lambda: site.notes("begin") == ["one"], "a job runs")
    site.wait((site.results() / "batch.json").exists, "the batch is on record")
    runner.kill()
    before = queue_id(site)
    shutil.rmtree(site.state)
    site.do("recover", "-y")
    assert queue_id(site) == before
    assert set(site.states().values()) == {"lost"}
    runner = site.start("runner")
    site.wait_state("one", "running")
    site.open("one")
    site.wait_state("one", "done")
    site.wait(lambda: not site.left(node.room), "nothing is left there")
    assert runner.interrupt() == 0
    assert site.states() == {"one": "done", "two": "lost"}
    assert site.notes("begin") == site.notes("end") == ["one"], "what ran went on"
