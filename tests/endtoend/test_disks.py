"""A disk that is full or may not be written makes jobs wait with that reason, and they go on when it is mended."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distribute_ssh.coordination.lanes import STORAGE_RESERVE
from tests.endtoend.site import Site

pytestmark = [pytest.mark.sshd, pytest.mark.root]

MEGABYTE = 1 << 20


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes in the place of a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left."""
    assert os.path.ismount(folder), "or it would be the disk of this machine"
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for piece in (MEGABYTE, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(piece))
    return path


def test_results_wait_on_their_node_while_storage_is_full_or_read_only_and_come_when_it_is_mended(site: Site) -> None:
    room = site.node("lab1", slots=2).room
    run = f"note('run ' + JOB)\nsave('big', os.urandom({20 * MEGABYTE}))\ngate('all')\n"
    with small_disk(site.storage, STORAGE_RESERVE + 10 * MEGABYTE):
        command = site.start("run", site.batch({"small": {}, "big": run}))
        site.wait_state("small", "done")
        site.open("all")
        site.wait(lambda: "storage is full" in site.reason("big"), "the big one says why it waits")
        assert site.states() == {"small": "done", "big": "archiving"}
        assert not site.results("big").exists()
        assert "storage is full" in site.do("explain", "ns/b", "big").answered()
        assert "storage is full" in site.do("status", "ns/b").answered()

        remount(site.storage, f"size={STORAGE_RESERVE + 60 * MEGABYTE},ro")
        site.wait(lambda: "Read-only file system" in site.reason("big"), "now it says something else")
        assert site.states()["big"] == "archiving"
        remount(site.storage, "rw")
        assert command.end() == 0, command.said()
        assert site.record("big")["attempt"] == 1
        assert not site.half_written()
    assert sorted(site.notes("run")) == ["big", "small"]
    site.assert_clean(room)


def test_a_job_waits_while_its_node_has_no_room_for_the_inputs_and_runs_when_there_is_some(site: Site) -> None:
    node = site.node("lab1")
    data = site.folder / "data"
    data.write_bytes(os.urandom(3 * MEGABYTE))
    with small_disk(node.scratch, 8 * MEGABYTE):
        filler = fill(node.scratch)
        path = site.batch({"job": {"required_files": [str(data)]}})
        site.do("add", path)
        runner = site.start("runner")
        site.wait(lambda: "no room left" in site.do("explain", "ns/b", "job").answered(), "it says why it waits")
        assert site.states() == {"job": "queued"}
        assert not site.notes()
        filler.unlink()
        # Another coordinator tries at once; this one would in a minute.
        assert runner.interrupt() == 0
        site.do("run", path)
        site.record("job")
        site.assert_clean(node.room)


def test_a_batch_whose_inputs_do_not_fit_on_a_node_keeps_nobody_else_from_it(site: Site) -> None:
    node = site.node("lab1", slots=2)
    data = site.folder / "data"
    data.write_bytes(os.urandom(20 * MEGABYTE))
    with small_disk(node.scratch, 8 * MEGABYTE):
        site.do("add", site.batch({"job": {"required_files": [str(data)]}}, name="huge"))
        site.do("add", site.batch(["one", "two"], name="tiny"))
        runner = site.start("runner")
        site.wait(lambda: set(site.states("tiny").values()) == {"done"}, "the small ones run")
        site.wait(lambda: "have to come" in site.do("explain", "ns/huge", "job").answered(), "it says why it waits")
        assert runner.interrupt() == 0


def test_a_job_that_fills_the_disk_of_its_node_fails_by_itself_and_its_end_is_recorded(site: Site) -> None:
    node = site.node("lab1")
    run = "note('run ' + JOB)\nopen('distribute_save/rest', 'wb').write(bytes(64 << 20))\n"
    with small_disk(node.scratch, 8 * MEGABYTE):
        site.do("run", site.batch({"fills": run, "next": {}}), code=1)
        assert site.states() == {"fills": "failed", "next": "done"}
        assert site.record("fills")["exit_code"] > 0
        assert site.notes("run") == ["fills", "next"]
        site.assert_clean(node.room)


def test_a_full_disk_under_the_queue_stops_nothing_that_runs_and_loses_nothing(site: Site) -> None:
    room = site.node("lab1").room
    site.state.mkdir(mode=0o700)
    run = "note('begin ' + JOB)\ngate(JOB)\nnote('end ' + JOB)\nsave('result', b'')\n"
    with small_disk(site.state, 6 * MEGABYTE):
        path = site.batch(["one", "two"], run=run)
        site.do("add", path)
        runner = site.start("runner")
        site.wait(lambda: site.states().get("one") == "running" and site.notes("begin"), "the first job runs")
        filler = fill(site.state)
        site.open("one")
        site.wait(lambda: site.notes("end") == ["one"], "it ends while nothing can be written down")
        site.wait(lambda: "the disk is full" in runner.said(), "the coordinator says so")
        assert runner.is_running
        assert "No space left" in site.do("add", site.batch(["more"], name="other"), code=1).said()
        filler.unlink()
        site.wait(lambda: site.notes("begin") == ["one", "two"], "it goes on")
        site.open("two")
        site.wait(lambda: set(site.states().values()) == {"done"}, "to the end")
        site.wait(lambda: not site.left(room), "the node is cleaned")
        assert runner.interrupt() == 0
        assert site.notes("end") == ["one", "two"]
        assert site.states("other") == {}
        for job in ("one", "two"):
            site.record(job)
