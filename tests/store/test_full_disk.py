"""A disk that is full, on a small tmpfs of our own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from distribute_ssh.errors import StoreError
from distribute_ssh.model.job import State
from distribute_ssh.store import ballast
from distribute_ssh.store.ballast import Ballast
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.schema import is_full
from tests.store.makes import NOW, submitted, the_job

pytestmark = pytest.mark.root

SIZE = 24 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(autouse=True)
def a_small_disk_is_plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ballast, "PLENTY", SIZE // 2)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


def hold_until_full(queue: Queue, batch_id: int) -> StoreError:
    """Change states, one transaction each, until the disk says no."""
    job = the_job(queue, batch_id, "a")
    while True:
        to = State.HELD if job.state is State.QUEUED else State.QUEUED
        try:
            with queue.transaction() as change:
                assert change.job(job.id, job.state, to, NOW, reason="x" * 2000)
        except StoreError as error:
            assert the_job(queue, batch_id, "a").state is job.state  # whole, or nothing
            return error
        job = the_job(queue, batch_id, "a")


def test_a_full_disk_is_said_loses_nothing_and_passes(disk: Path) -> None:
    with closing(Queue.open(disk / "queue.db")) as queue:
        batch_id = submitted(queue, "a", "b").batch_id
        filler = fill(disk)
        error = hold_until_full(queue, batch_id)
        assert is_full(error)
        assert "disk is full" in str(error)
        with pytest.raises(StoreError, match="disk is full"):
            submitted(queue, *[f"j{number}" for number in range(2000)], batch="big")
        assert [batch.batch for batch in queue.batches()] == ["study"]  # reading goes on
        filler.unlink()
        submitted(queue, "a", batch="big")
        with queue.transaction() as change:
            assert change.request_kill(batch_id, ["b"], "ann", NOW) == [("b", State.QUEUED)]
    Queue.open(disk / "queue.db", check=True).close()


def test_the_coordinator_drops_its_ballast_goes_on_and_loads_it_again(disk: Path) -> None:
    with closing(Queue.open(disk / "queue.db")) as queue:
        batch_id = submitted(queue, "a", "b").batch_id
        queue.take_epoch("head", "boot", 1, 1, NOW)
        store = disk / "queue.db.ballast"
        assert store.stat().st_blocks * 512 >= ballast.SIZE
        filler = fill(disk)
        assert is_full(hold_until_full(queue, batch_id))
        assert not store.exists()
        for turn in range(200):  # on a disk on which nobody else can write a thing
            frm, to = (State.QUEUED, State.HELD) if turn % 2 == 0 else (State.HELD, State.QUEUED)
            with queue.transaction() as change:
                assert change.job(the_job(queue, batch_id, "b").id, frm, to, NOW)
        assert not store.exists()
        filler.unlink()
        with queue.transaction():
            pass
        assert store.stat().st_size == ballast.SIZE


def test_a_command_does_not_spend_the_coordinators_ballast(disk: Path, opened: Callable[[], Queue]) -> None:
    with closing(Queue.open(disk / "queue.db")) as driver, closing(Queue.open(disk / "queue.db")) as command:
        driver.take_epoch("head", "boot", 1, 1, NOW)
        batch_id = submitted(command, "a").batch_id
        fill(disk)
        assert is_full(hold_until_full(command, batch_id))
        assert (disk / "queue.db.ballast").exists()


def test_there_is_no_ballast_where_room_is_short(disk: Path) -> None:
    with closing(Queue.open(disk / "queue.db")) as queue:
        fill(disk).unlink()
        (disk / "much").write_bytes(b"x" * (SIZE // 2 + 4096))
        queue.take_epoch("head", "boot", 1, 1, NOW)
        assert not (disk / "queue.db.ballast").exists()
        submitted(queue, "a")


def test_ballast_that_does_not_fit_leaves_nothing_behind(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ballast, "SIZE", SIZE * 2)
    assert not Ballast(disk / "queue.db").load()
    assert list(disk.iterdir()) == []
    assert not Ballast(disk / "queue.db").drop()


def test_a_first_start_on_a_full_disk_says_so_and_the_next_one_works(disk: Path) -> None:
    filler = fill(disk)
    with pytest.raises(StoreError, match=r"disk is full|No space left"):
        Queue.open(disk / "home" / "queue.db")
    filler.unlink()
    with closing(Queue.open(disk / "home" / "queue.db")) as queue:
        submitted(queue, "a")
