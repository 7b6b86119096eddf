"""`pull`: what is chosen, shown, said, and with which exit code."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from distribute_ssh.model.job import State
from distribute_ssh.store.queue import Queue
from tests.cli.conftest import Call
from tests.endtoend.site import JOB, Site
from tests.storage.batches import job
from tests.storage.places import tree
from tests.store.makes import brought, submitted


@pytest.fixture
def store(home: Path) -> Path:
    """Storage with two jobs of ns/batch."""
    storage = home / "storage"
    job(storage, "re_1", {b"u.h5": b"1234", b"out/p.h5": b"56", b"run.log": b"7"}, {b"last": b"out/p.h5"})
    job(storage, "re_2", {b"u.h5": b"4321", b"odd \xff\n": b"8"})
    return storage


def here(home: Path) -> list[str]:
    return sorted(path for path, entry in _texts(home / "batch") if entry[0] != "folder")


def _texts(folder: Path) -> list[tuple[str, tuple[str, bytes, int]]]:
    return [(path.decode("utf-8", "replace"), entry) for path, entry in tree(folder, own=True).items()]


def test_a_batch_comes_into_a_folder_of_its_name(call: Call, store: Path, home: Path) -> None:
    answer = call("pull", "ns/batch")
    assert answer.code == 0, answer.err
    assert "7 files" in answer.out
    assert "came into batch" in answer.out
    assert tree(home / "batch", own=True) == tree(store / "ns/batch", own=True)
    again = call("pull", "ns/batch")
    assert "0 files, 0 B came" in again.out
    assert "8 here already" in again.out


def test_the_jobs_file_stands_for_its_batch(call: Call, store: Path, home: Path) -> None:
    (home / "jobs.yaml").write_text("meta: {namespace: ns, batch_name: batch}\n")
    assert call("pull", "jobs.yaml", "--save-dir", "deep/down", "-q").out == "deep/down/batch\n"
    assert (home / "deep/down/batch/re_1/u.h5").read_bytes() == b"1234"


def test_include_and_exclude_work_together_and_exclude_wins(call: Call, store: Path, home: Path) -> None:
    call("pull", "ns/batch", "--include", r"\.h5$", "--include", "log", "--exclude", "^re_2/", "--exclude", "out/")
    assert here(home) == ["re_1/run.log", "re_1/u.h5"]


def test_the_original_s_forms_work(call: Call, store: Path, home: Path) -> None:
    assert call("pull", "ns/batch", "include", "--include", "u.h5", "-i", "log$").code == 0
    assert here(home) == ["re_1/run.log", "re_1/u.h5", "re_2/u.h5"]
    assert call("pull", "ns/batch", "exclude", "-e", "re_2", "--exclude", "log").code == 0
    assert here(home) == ["re_1/job.json", "re_1/last", "re_1/out/p.h5", "re_1/run.log", "re_1/u.h5", "re_2/u.h5"]
    nothing = call("pull", "ns/batch", "include")
    assert nothing.code == 2
    assert "say what to include" in nothing.err


def test_expressions_that_are_none_are_all_told_at_once(call: Call, store: Path, home: Path) -> None:
    answer = call("pull", "ns/batch", "--include", "(", "--exclude", "[z-a]", "--include", "fine", "--json")
    assert answer.code == 2
    assert "'('" in answer.err
    assert "'[z-a]'" in answer.err
    assert answer.json["error"]["kind"] == "usage"
    assert not (home / "batch").exists()


def test_one_job_can_be_asked_for_and_an_unknown_one_is_answered_with_the_nearest(
    call: Call, store: Path, home: Path
) -> None:
    assert call("pull", "ns/batch", "--job", "RE_2").code == 0
    assert os.listdir(home / "batch") == ["re_2"]
    answer = call("pull", "ns/batch", "--job", "re_3")
    assert answer.code == 3
    assert "did you mean re_" in answer.err


def test_dry_brings_nothing_and_says_why(call: Call, store: Path, home: Path) -> None:
    answer = call("pull", "ns/batch", "--dry", "--include", "h5$")
    left_out, comes = answer.out.split("comes: matches --include h5$: 3 files, 10 B\n")
    assert [line.split() for line in comes.splitlines()] == [
        ["2", "B", "re_1/out/p.h5"],
        ["4", "B", "re_1/u.h5"],
        ["4", "B", "re_2/u.h5"],
    ]
    assert left_out.startswith("left out: matches no --include: 5 files, ")
    for path in ("re_1/job.json", "re_1/last", "re_1/run.log", "re_2/job.json", "re_2/odd"):
        assert f"  {path}" in left_out
    assert "3 files, 10 B would come" in answer.err
    assert call("pull", "ns/batch", "--dry", "-q", "--include", "u.h5$").out == "re_1/u.h5\nre_2/u.h5\n"
    assert "left out: matches --exclude out: " in call("pull", "ns/batch", "--dry", "--exclude", "out").out
    call("pull", "ns/batch", "--save-dir", "done")
    assert call("pull", "ns/batch", "--dry", "--save-dir", "done").out.startswith("here: is here already, the same: 8 ")
    document = call("pull", "ns/batch", "--dry", "--json", "--include", "h5$").json["pull"]
    assert (document["files"], document["bytes"], document["left_out"]) == (3, 10, 5)
    whys = {each["path"]: (each["fate"], each["why"]) for each in document["entries"] if each["kind"] == "file"}
    assert whys["re_1/u.h5"] == ("comes", "matches --include h5$")
    assert whys["re_2/odd \udcff\n"] == ("left out", "matches no --include")
    assert not (home / "batch").exists()


def test_folders_are_made_all_or_only_where_they_hold_something(call: Call, store: Path, home: Path) -> None:
    call("pull", "ns/batch", "-s", "--include", "log")
    assert os.listdir(home / "batch") == ["re_1"]
    call("pull", "ns/batch", "--include", "log")
    assert sorted(os.listdir(home / "batch")) == ["re_1", "re_2"]
    assert os.listdir(home / "batch" / "re_2") == []


def test_list_shows_what_is_there_and_brings_nothing(call: Call, store: Path, home: Path) -> None:
    answer = call("pull", "ns/batch", "--list", "--exclude", "json")
    assert "4 B  2020-09-13T12:26:40Z  re_1/u.h5" in answer.out
    assert "last -> out/p.h5" in answer.out
    assert "job.json" not in answer.out
    names = call("pull", "ns/batch", "--list", "-q", "--job", "re_1").out.splitlines()
    assert names == ["re_1/job.json", "re_1/last", "re_1/out/p.h5", "re_1/run.log", "re_1/u.h5"]
    document = call("pull", "ns/batch", "--list", "--json").json["results"]
    assert document["files"] == 7
    assert not (home / "batch").exists()


def test_what_is_not_as_recorded_does_not_come_and_the_exit_code_says_so(call: Call, store: Path, home: Path) -> None:
    (store / "ns/batch/re_1/u.h5").write_bytes(b"123x")
    answer = call("pull", "ns/batch")
    assert answer.code == 1
    assert "re_1/u.h5  is not what its job.json says" in answer.err
    assert call("pull", "ns/batch", "--json").json["pull"]["problems"][0]["path"] == "re_1/u.h5"
    assert not (home / "batch/re_1/u.h5").exists()


def test_a_link_that_leads_out_is_named_and_no_failure(call: Call, store: Path, home: Path) -> None:
    (store / "ns/batch/re_1/passwords").symlink_to("/etc/passwd")
    answer = call("pull", "ns/batch")
    assert answer.code == 0
    assert "re_1/passwords  is a link that may lead out of the batch: /etc/passwd" in answer.err
    assert not (home / "batch/re_1/passwords").is_symlink()


def test_jobs_that_have_not_ended_are_named(call: Call, store: Path, queue: Queue) -> None:
    done = submitted(queue, "re_1", "re_2", "re_3", namespace="ns", batch="batch")
    for name in ("re_1", "re_2"):
        found = queue.job(done.batch_id, name)
        assert found
        brought(queue, found.id, State.DONE)
    answer = call("pull", "ns/batch")
    assert answer.code == 0
    assert "ns/batch is not finished: re_3 has not ended" in answer.err
    assert call("pull", "ns/batch", "--json").json["pull"]["unfinished"] == [{"job": "re_3", "state": "queued"}]


def test_a_batch_without_results_and_an_unknown_one_end_with_3(call: Call, queue: Queue, home: Path) -> None:
    (home / "storage").mkdir()
    batch_id = submitted(queue, "a").batch_id
    early = call("pull", "lab/study")
    assert (early.code, "lab/study is not finished: a has not ended" in early.err) == (0, True)
    (home / "study").rmdir()
    brought(queue, queue.jobs(batch_id)[0].id, State.KILLED)
    none = call("pull", "lab/study")
    assert none.code == 3
    assert "lab/study has no results in" in none.err
    unknown = call("pull", "lab/stdy")
    assert unknown.code == 3
    assert "did you mean lab/study?" in unknown.err
    assert call("pull", "../etc").code == 3
    assert call("pull", "ns/..").code == 3
    assert sorted(os.listdir(home)) == ["inventory.yaml", "state", "storage"]


def test_storage_that_is_not_there_is_said_to_be_missing(call: Call, home: Path) -> None:
    answer = call("pull", "ns/batch")
    assert answer.code == 6
    assert "storage is not there" in answer.err


# --- with everything real ---


def test_finished_jobs_come_while_the_batch_still_runs_and_the_rest_later(site: Site) -> None:
    site.local(slots=2)
    jobs = site.batch({"quick": JOB, "slow": "gate('go')\n" + JOB})
    running = site.start("run", jobs)
    site.wait_state("quick", "done")
    first = site.data("pull", jobs)["pull"]
    assert first["unfinished"] == [{"job": "slow", "state": "running"}]
    assert sorted(path.name for path in (site.folder / "b" / "quick").iterdir()) == [
        "job.json",
        "quick_output.txt",
        "result",
    ]
    assert not (site.folder / "b" / "slow").exists()
    site.open("go")
    assert running.end() == 0
    second = site.data("pull", jobs)["pull"]
    assert second["unfinished"] == []
    assert second["here"] >= 3
    assert (site.folder / "b" / "slow" / "result").read_bytes() == b"slow"
    assert site.data("pull", jobs)["pull"]["files"] == 0


def test_run_with_pull_brings_the_results_at_the_end(site: Site) -> None:
    site.local()
    answer = site.data("run", site.batch({"one": JOB}), "--pull")
    assert answer["pull"]["problems"] == []
    assert (site.folder / "b" / "one" / "result").read_bytes() == b"one"


@pytest.mark.sshd
def test_storage_on_another_machine_is_pulled_from_verified_and_cared_for_alike(site: Site) -> None:
    site.local()
    site.lab.add("vault")
    site.settings["storage"] = f"sftp://vault{site.storage}"
    site.write_inventory()
    jobs = site.batch({"one": JOB, "two": "os.symlink('result', SAVE + '/link')\n" + JOB})
    assert site.data("run", jobs, "--pull")["pull"]["problems"] == []
    assert tree(site.folder / "b", own=True) == tree(site.results(), own=True)
    assert site.data("verify", jobs)["verified"]["jobs"] == ["one", "two"]
    (listed,) = site.data("archive", "list")["batches"]
    assert (listed["name"], listed["jobs"], listed["state"]) == ("ns/b", 2, "done")
    site.do("archive", "rm", jobs, "-y")
    assert list(site.storage.iterdir()) == []


def test_ctrl_c_keeps_what_came_and_the_same_command_goes_on(site: Site) -> None:
    site.local()
    jobs = site.batch({"one": "save('big', b''.join(bytes([n]) * (1 << 20) for n in range(200)))\n"})
    site.do("run", jobs)
    pulling = site.start("pull", jobs)
    beside = site.folder / "b" / ".distribute-pull"
    site.hit(lambda: not pulling.is_running or any(beside.glob("*.part")), "some of it is here")
    assert pulling.interrupt(signal.SIGINT) == 130
    assert "goes on where it stopped" in pulling.said()
    (part,) = beside.glob("*.part")
    assert part.stat().st_size < 200 << 20
    assert site.data("pull", jobs)["pull"]["bytes"] < 200 << 20
    assert (site.folder / "b/one/big").stat().st_size == 200 << 20
    assert not beside.exists()
