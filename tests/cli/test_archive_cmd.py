"""`archive list`, `archive rm` and `verify`: what storage holds, whether it still does, and what may go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distribute_ssh.model.actor import VARIABLE, Actor, Role
from distribute_ssh.model.job import State
from distribute_ssh.store.queue import Queue
from tests.cli.conftest import Call
from tests.endtoend.site import JOB, Site
from tests.storage.batches import job
from tests.store.makes import NOW, brought, submitted


@pytest.fixture
def store(home: Path) -> Path:
    """Storage with ns/batch, of which the queue need not know."""
    storage = home / "storage"
    job(storage, "re_1", {b"u.h5": b"1234", b"out/p.h5": b"56"}, {b"last": b"out/p.h5"})
    job(storage, "re_2", {b"u.h5": b"4321", b"odd \xff\n": b"8"})
    return storage


def finished(queue: Queue, *, recorded: bool = True) -> int:
    """The batch ns/batch of ann in the queue, with one job that is done."""
    batch_id = submitted(queue, "re_1", namespace="ns", batch="batch").batch_id
    found = queue.job(batch_id, "re_1")
    assert found is not None
    brought(queue, found.id, State.DONE)
    with queue.transaction() as change:
        assert change.finish_batch_if_ended(batch_id, NOW)
    batch = queue.batch_by_id(batch_id)
    assert batch is not None
    if recorded:
        with queue.transaction() as change:
            assert change.recorded(batch, NOW)
    return batch_id


# --- list ---


def test_list_shows_every_batch_with_its_size_and_the_free_space(call: Call, store: Path, queue: Queue) -> None:
    finished(queue)
    old = store / "lab" / "old@20250101T000000Z"
    old.mkdir(parents=True)
    (old / "batch.json").write_text(json.dumps({"submitter": "bob", "state": "failed"}))
    (store / "lab" / ".removed-0123").mkdir()
    (store / "README").write_text("a file of the site")
    answer = call("archive", "list")
    assert answer.code == 0, answer.err
    lines = [line.split() for line in answer.out.splitlines()]
    assert lines[1][:5] == ["lab/old@20250101T000000Z", "bob", "failed", "0", "1"]
    assert lines[2][:5] == ["ns/batch", "ann", "done", "2", "6"]
    assert "2 batches" in answer.out
    assert "free" in answer.out
    document = call("archive", "list", "--json").json
    assert document["free"] > 0
    assert [each["name"] for each in document["batches"]] == ["lab/old@20250101T000000Z", "ns/batch"]
    assert document["batches"][1]["bytes"] == sum(
        path.stat().st_size for path in (store / "ns/batch").rglob("*") if path.is_file() and not path.is_symlink()
    )
    assert call("archive", "list", "-q").out == "lab/old@20250101T000000Z\nns/batch\n"


def test_an_empty_storage_has_no_batches(call: Call, home: Path) -> None:
    (home / "storage").mkdir()
    assert call("archive", "list").out.startswith("0 batches, 0 B")


# --- rm ---


def test_rm_asks_and_without_a_terminal_needs_y(call: Call, store: Path) -> None:
    answer = call("archive", "rm", "ns/batch")
    assert answer.code == 2
    assert "add -y" in answer.err
    assert (store / "ns/batch/re_1/u.h5").exists()
    answer = call("archive", "rm", "ns/batch", "-y")
    assert answer.code == 0, answer.err
    assert "2 jobs, 6 files" in answer.err
    assert os.listdir(store) == []


def test_rm_leaves_the_other_batches_and_what_links_lead_to(call: Call, store: Path, home: Path) -> None:
    (home / "mine").write_text("mine")
    (store / "ns/batch/re_1/link").symlink_to(home)
    (store / "ns/other/job").mkdir(parents=True)
    (store / "ns/.removed-0123/half").mkdir(parents=True)
    assert call("archive", "rm", "ns/batch", "-y").code == 0
    assert os.listdir(store / "ns") == ["other"]
    assert (home / "mine").read_text() == "mine"


@pytest.mark.parametrize("unfinished", ["a job", "the record"])
def test_rm_refuses_a_batch_that_still_works(call: Call, store: Path, queue: Queue, unfinished: str) -> None:
    if unfinished == "a job":
        submitted(queue, "re_1", namespace="ns", batch="batch")
    else:
        finished(queue, recorded=False)
    answer = call("archive", "rm", "ns/batch", "-y")
    assert answer.code == 2
    assert "still works" in answer.err
    assert (store / "ns/batch/re_1/u.h5").exists()


def test_after_rm_the_same_batch_runs_anew(call: Call, store: Path, queue: Queue) -> None:
    finished(queue)
    assert submitted(queue, "re_1", namespace="ns", batch="batch").kept == 1
    assert call("archive", "rm", "ns/batch", "-y").code == 0
    assert "results removed from storage" in call("history", "ns/batch").out
    assert submitted(queue, "re_1", namespace="ns", batch="batch").again == 1


@pytest.mark.parametrize("known", [True, False], ids=["in the queue", "only in storage"])
def test_rm_is_for_the_submitter_and_administrators(
    call: Call, store: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:
        finished(queue)
    (store / "ns/batch/batch.json").write_text(json.dumps({"submitter": "ann"}))

    def as_(role: Role, user: str) -> int:
        monkeypatch.setenv(VARIABLE, Actor(role, user).text())
        answer = call("archive", "rm", "ns/batch", "-y")
        assert (store / "ns/batch").exists() == (answer.code != 0)
        return answer.code

    assert as_(Role.SUBMITTER, "bob") == 2
    assert as_(Role.SUBMITTER, "ann") == 0
    job(store, "re_1", {b"u.h5": b"1234"})
    if known:
        again = submitted(queue, "re_1", namespace="ns", batch="batch")
        found = queue.job(again.batch_id, "re_1")
        assert found is not None
        brought(queue, found.id, State.KILLED)
        with queue.transaction() as change:
            change.finish_batch_if_ended(again.batch_id, NOW)
        batch = queue.batch_by_id(again.batch_id)
        assert batch is not None
        with queue.transaction() as change:
            change.recorded(batch, NOW)
    assert as_(Role.ADMIN, "eve") == 0


def test_rm_of_what_is_not_there_ends_with_3(call: Call, store: Path) -> None:
    for name in ("ns/none", "ns/..", "../ns", "ns"):
        assert call("archive", "rm", name, "-y").code == 3
    assert (store / "ns/batch").exists()


# --- verify ---


def test_verify_says_that_all_is_as_recorded(call: Call, store: Path) -> None:
    answer = call("verify", "ns/batch")
    assert answer.code == 0, answer.out
    assert answer.out == "ns/batch: 2 jobs compared, 0 things not as recorded\n"


def test_verify_names_what_differs_and_ends_with_1(call: Call, store: Path, queue: Queue) -> None:
    batch = store / "ns/batch"
    (batch / "re_1/u.h5").write_bytes(b"123x")
    (batch / "re_1/out/p.h5").unlink()
    (batch / "re_2/more").write_text("x")
    (batch / "odd").mkdir()
    done = submitted(queue, "re_3", namespace="ns", batch="batch")
    found = queue.job(done.batch_id, "re_3")
    assert found is not None
    brought(queue, found.id, State.DONE)
    answer = call("verify", "ns/batch", "--json")
    assert answer.code == 1
    assert {(each["job"], each["path"], each["what"]) for each in answer.json["verified"]["problems"]} == {
        ("odd", "", "has no job.json: what lies in it cannot be verified"),
        ("re_1", "out/p.h5", "is missing"),
        ("re_1", "u.h5", "has other contents"),
        ("re_2", "more", "was added"),
        ("re_3", "", "is done, and has no results"),
    }
    assert call("verify", "ns/batch", "-q").out == "odd\nre_1\nre_2\nre_3\n"
    assert call("verify", "ns/batch", "re_2").out.splitlines()[0] == "re_2/more  was added"
    assert call("verify", "ns/batch", "re_9").code == 3


def test_a_record_that_is_none_is_a_thing_that_differs(call: Call, store: Path) -> None:
    (store / "ns/batch/re_1/job.json").write_text("{}")
    answer = call("verify", "ns/batch")
    assert answer.code == 1
    assert "re_1/job.json" in answer.out


# --- with everything real ---


def test_what_ran_verifies_is_removed_and_runs_again(site: Site) -> None:
    site.local()
    jobs = site.batch({"one": JOB})
    site.do("run", jobs)
    assert site.data("verify", jobs)["verified"]["problems"] == []
    site.do("archive", "rm", jobs, "-y")
    assert not (site.storage / "ns").exists()
    answer = site.data("run", jobs)
    assert answer["submitted"]["again"] == 1
    assert site.data("verify", jobs)["verified"]["jobs"] == ["one"]
