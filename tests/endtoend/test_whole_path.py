"""One command, and a batch builds once on every node, runs, comes back whole, and the nodes are clean again."""

from __future__ import annotations

import json

import pytest

from tests.endtoend.site import JOB, Site

pytestmark = pytest.mark.sshd


def test_a_batch_builds_once_a_node_runs_every_job_once_and_leaves_nothing_behind(site: Site) -> None:
    nodes = {name: site.node(name) for name in ("lab1", "lab2", "lab3")}
    jobs = [f"job{number}" for number in range(7)]
    # Each of the first three waits for the other two: no node can take the work of another.
    together = "note('here')\ngate('all')\n" + JOB
    path = site.batch({job: together if job in jobs[:3] else {} for job in jobs})
    command = site.start("run", path)
    site.wait(lambda: len(site.notes("here")) == 3, "three jobs run side by side")
    site.open("all")
    assert command.end() == 0, command.said()

    assert sorted(site.notes("build")) == ["lab1", "lab2", "lab3"]
    assert sorted(site.notes("run")) == jobs
    for job in jobs:
        record = site.record(job)
        assert (record["job"], record["state"], record["exit_code"], record["attempt"]) == (job, "done", 0, 1)
        assert (site.results(job) / "result").read_text() == job
        assert job in (site.results(job) / f"{job}_output.txt").read_text()
    folder = site.results()
    logs = {f"b_build_output-{name}.txt" for name in nodes}
    assert {path.name for path in folder.iterdir()} == {"batch.yaml", "batch.json", *logs, *jobs}
    assert json.loads((folder / "batch.yaml").read_bytes()) == json.loads(path.read_bytes())
    ended = json.loads((folder / "batch.json").read_bytes())
    assert ended["counts"] == {"done": 7}
    assert {job["name"]: job["state"] for job in ended["jobs"]} == dict.fromkeys(jobs, "done")
    site.assert_clean(*(node.room for node in nodes.values()))
    for node in nodes.values():
        assert list((node.room / "files").iterdir()), "inputs are kept for the next batch"


def test_two_names_of_one_folder_are_one_node_and_the_other_says_why(site: Site) -> None:
    first = site.node("lab1")
    site.lab.add("lab2")
    site.enter("lab2", scratch=str(first.scratch))
    command = site.start("run", site.batch([f"job{number}" for number in range(4)]))
    assert command.end() == 0, command.said()
    assert len(site.notes("build")) == 1
    assert len(set(site.notes("run"))) == len(site.notes("run")) == 4
    states = {node["name"]: node for node in site.data("nodes")["nodes"]}
    (refused,) = [node for node in states.values() if node["state"] == "unreachable"]
    assert "its scratch folder is that of lab" in refused["reason"]


def test_the_last_folder_of_storage_is_made_and_no_more_of_it(site: Site) -> None:
    site.node("lab1")
    site.write_inventory(storage=str(site.storage.parent / "new" / "results"))
    command = site.start("run", site.batch(["job"]))
    site.wait(lambda: "storage is not there" in command.said(), "it says what is missing")
    (site.storage.parent / "new").mkdir()
    assert command.end() == 0, command.said()
    assert list((site.storage.parent / "new" / "results").glob("*/b/job/job.json"))
