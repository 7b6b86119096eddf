"""Inputs travel to a node once, whatever their name and however often the line breaks; results go where storage is."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.endtoend.site import Site

pytestmark = pytest.mark.sshd

MEGABYTE = 1 << 20
SIZE = 50 * MEGABYTE
RUN = """\
import hashlib
note('%s %s' % (JOB, hashlib.sha256(open('input/mesh', 'rb').read()).hexdigest()))
"""


def big_file(site: Site) -> tuple[Path, str]:
    path = site.folder / "mesh v3.dat"
    path.write_bytes(os.urandom(SIZE))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def arrived(room: Path) -> int:
    """Bytes of the big file that a node holds, under whatever name; 0 while it gets another name."""
    sizes = [0]
    for path in (room / "files").glob("*"):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return max(sizes) if max(sizes) > MEGABYTE else 0  # what is smaller are the scripts


def stamp(room: Path, digest: str) -> tuple[int, int]:
    status = (room / "files" / digest).stat()
    return status.st_ino, status.st_mtime_ns


def test_a_big_input_is_sent_once_to_each_node_and_an_upload_that_is_cut_goes_on_where_it_was(site: Site) -> None:
    first, second = site.node("lab1"), site.node("lab2")
    mesh, digest = big_file(site)
    build = RUN.replace("input/mesh", "initial_files/mesh").replace("JOB", "NODE")
    listed = [{"path": str(mesh), "alias": "mesh"}]
    # No job ends before both nodes have begun: neither may do the work of the other.
    path = site.batch(["a", "b", "c"], build=build, run=RUN + "gate('all')\n", init=listed)
    command = site.start("run", path)
    site.wait(lambda: SIZE > arrived(first.room) > SIZE // 5, "a part has come")
    assert first.sshd.kill_sessions()
    cut_at = arrived(first.room)
    assert 0 < cut_at < SIZE, "the cut came too late to prove anything"

    def both_run() -> bool:
        come = arrived(first.room)
        assert come == 0 or come >= cut_at, "what had come is not sent again"
        return len(site.notes()) >= 4

    site.wait(both_run, "both nodes have built and run a job")
    site.open("all")
    assert command.end() == 0, command.said()
    assert sorted(site.notes()) == sorted(f"{who} {digest}" for who in ("lab1", "lab2", "a", "b", "c"))

    # Another batch, another name for the same content: nothing travels.
    before = {node.name: stamp(node.room, digest) for node in (first, second)}
    job = {"required_files": [{"path": str(mesh), "alias": "input"}]}
    site.do("run", site.batch({"d": job, "e": job}, name="second", run=RUN.replace("input/mesh", "input/input")))
    assert sorted(site.notes()[-4:])[-2:] == [f"d {digest}", f"e {digest}"]
    assert {node.name: stamp(node.room, digest) for node in (first, second)} == before
    site.assert_clean(first.room, second.room)


def test_storage_on_another_machine_gets_the_same_results_and_a_cut_line_to_it_only_delays_them(site: Site) -> None:
    room = site.node("lab1").room
    vault = site.lab.add("vault")
    site.write_inventory(storage=f"sftp://vault{site.storage}")
    run = f"note('run ' + JOB)\nsave('big', os.urandom({30 * MEGABYTE}))\nos.symlink('big', SAVE + '/link')\n"
    command = site.start("run", site.batch({"small": {}, "big": run, "last": {}}))

    def is_coming() -> bool:
        return any(path.stat().st_size > 2 * MEGABYTE for path in site.results().glob(".part-*/big"))

    site.wait(is_coming, "the big one is on its way")
    assert vault.sshd.kill_sessions()
    assert command.end() == 0, command.said()
    assert site.notes("run") == ["small", "big", "last"]
    for job in ("small", "big", "last"):
        site.record(job)
    assert (site.results("big") / "big").stat().st_size == 30 * MEGABYTE
    assert os.readlink(site.results("big") / "link") == "big"
    assert {"batch.yaml", "batch.json", "b_build_output-lab1.txt"} <= {path.name for path in site.results().iterdir()}
    assert not site.half_written()
    site.assert_clean(room)
