"""`status`, `explain`, `history`, `nodes`, `where`: what is, said of a queue that nobody drives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distribute_ssh.model.job import State
from distribute_ssh.model.units import iso
from distribute_ssh.store.queue import Queue
from tests.cli.conftest import Call
from tests.store.makes import submitted

FACTS = {"cores": 8, "memory_mb": 32000, "tools": {"python3": "3.11", "gcc": "12"}}

JOBS_FILE = "meta: {namespace: lab, batch_name: study}\n"


def end(queue: Queue, batch_id: int, name: str, *states: State, now: float, **fields: object) -> None:
    """Take a job from state to state, as a coordinator would."""
    with queue.transaction() as change:
        for state in states:
            job = queue.job(batch_id, name)
            assert job is not None
            last = fields if state is states[-1] else {}
            assert change.job(job.id, job.state, state, now, **last)  # type: ignore[arg-type]


def failed(queue: Queue, batch_id: int, name: str, now: float) -> None:
    job = queue.job(batch_id, name)
    assert job is not None
    with queue.transaction() as change:
        assert change.place(job.id, queue.new_token(), "lab1", 0, now)
    end(queue, batch_id, name, State.RUNNING, State.ARCHIVING, State.FAILED, now=now, reason="exit 3: no", exit_code=3)


# --- status ---


def test_status_is_a_line_for_every_batch(call: Call, queue: Queue, now: float) -> None:
    submitted(queue, "a", "b", now=now)
    submitted(queue, "c", now=now, batch="other")
    head, study, other = call("status").out.splitlines()
    assert study.split()[:2] == ["lab/study", "ann"]
    assert other.startswith("lab/other")
    assert head.startswith("BATCH")


def test_status_as_json_is_what_the_docs_promise(call: Call, queue: Queue, now: float) -> None:
    submitted(queue, "a", "b", now=now)
    (batch,) = call("status", "lab/study", "--json").json["batches"]
    job = batch.pop("jobs")[0]
    assert batch == {
        "namespace": "lab",
        "batch": "study",
        "submitter": "ann",
        "state": "waiting",
        "submitted_at": iso(now),
        "finished_at": None,
        "counts": {"queued": 2},
        "runtime": None,
        "nodes": [],
        "unreachable": {},
        "paused": {},
    }
    assert set(job) == {
        "name", "state", "node", "attempt", "exit_code", "reason", "request", "started_at", "finished_at",
    }  # fmt: skip


def test_a_batch_is_named_in_full_by_its_own_name_or_by_its_jobs_file(call: Call, queue: Queue, home: Path) -> None:
    submitted(queue, "a")
    (home / "jobs.yaml").write_text(JOBS_FILE)
    answers = [call("status", name).out for name in ("lab/study", "study", "STUDY", "jobs.yaml", home / "jobs.yaml")]
    assert len(set(answers)) == 1
    assert "queued" in answers[0]


def test_a_name_that_two_batches_have_is_asked_back(call: Call, queue: Queue) -> None:
    submitted(queue, "a")
    submitted(queue, "a", namespace="other")
    answer = call("status", "study")
    assert answer.code == 2
    assert "lab/study" in answer.err
    assert "other/study" in answer.err


@pytest.mark.parametrize("command", ["status", "explain", "logs", "kill", "retry", "history"])
def test_an_unknown_batch_is_answered_with_the_nearest_and_3(call: Call, queue: Queue, command: str) -> None:
    submitted(queue, "a")
    answer = call(command, "lab/stdy", *(["a"] if command == "logs" else []))
    assert answer.code == 3
    assert "did you mean lab/study?" in answer.err


@pytest.mark.parametrize("command", ["explain", "logs", "kill", "retry", "history"])
def test_an_unknown_job_is_answered_with_the_nearest_and_3(call: Call, queue: Queue, command: str) -> None:
    submitted(queue, "re_100", "re_400")
    answer = call(command, "study", "re_10")
    assert answer.code == 3
    assert "did you mean re_100" in answer.err


def test_who_has_no_queue_is_told_so_and_gets_none(call: Call, home: Path) -> None:
    assert call("status", "lab/study").code == 3
    assert not (home / "state").exists()


def test_status_says_that_nobody_drives_a_queue_with_work_in_it(call: Call, queue: Queue) -> None:
    submitted(queue, "a")
    assert "nothing drives the queue" in call("status").err
    call("kill", "study", "-y")
    assert "nothing drives the queue" not in call("status").err


def test_a_silent_node_is_shown_beside_the_job_it_has(call: Call, queue: Queue, now: float) -> None:
    done = submitted(queue, "a", now=now)
    job = queue.job(done.batch_id, "a")
    assert job is not None
    with queue.transaction() as change:
        change.place(job.id, queue.new_token(), "lab1", 0, now)
        change.node("lab1", unreachable_since=now, unreachable_reason="no answer in time")
    assert "lab1 unreachable since" in call("status", "study").out
    (batch,) = call("status", "--json").json["batches"]
    assert batch["unreachable"] == {"lab1": iso(now)}


def test_watching_a_batch_ends_with_it(call: Call, queue: Queue) -> None:
    submitted(queue, "a")
    call("kill", "study", "-y")
    assert call("status", "study", "--watch").code == 0


# --- explain ---


def test_explain_says_for_every_node_why_it_takes_nothing(call: Call, queue: Queue, now: float) -> None:
    submitted(queue, "a", now=now)
    with queue.transaction() as change:
        change.node("lab1", facts=FACTS, last_seen=now, drained="new disk")
        change.node("lab2", facts=FACTS | {"tools": {"python3": "3.11"}}, last_seen=now)
    text = call("explain", "study").out
    assert "nothing drives the queue now" in text
    assert "lab1  is drained: new disk" in text
    assert "lab2  has no gcc" in text
    found = call("explain", "study", "--json").json
    assert found["driven"] is False
    assert {"code": "no-capability", "text": "has no gcc", "node": "lab2"} in found["reasons"]


def test_explain_says_why_a_job_failed(call: Call, queue: Queue, now: float) -> None:
    done = submitted(queue, "a", "b", now=now)
    failed(queue, done.batch_id, "a", now)
    assert "a  failed on lab1: exit 3: no" in call("explain", "study").out
    found = call("explain", "study", "a", "--json").json
    assert (found["job"]["state"], found["job"]["exit_code"], found["job"]["reason"]) == ("failed", 3, "exit 3: no")
    assert [(each["number"], each["node"]) for each in found["attempts"]] == [(1, "lab1")]
    assert found["reasons"] == []


# --- history ---


def test_history_tells_who_asked_for_what(call: Call, queue: Queue) -> None:
    submitted(queue, "a", "b")
    call("kill", "study", "a", "-y")
    events = call("history", "study", "--json").json["history"]
    assert {"submitted: 2 jobs"} <= {event["reason"] for event in events}
    (killed,) = [event for event in events if event["to"] == "killed"]
    assert (killed["job"], killed["from"]) == ("a", "queued")
    assert len(call("history", "study", "a", "-n", "1", "--json").json["history"]) == 1
    assert "killed" in call("history", "study").out


# --- nodes ---


def test_nodes_are_those_of_the_inventory_with_what_was_seen_last(call: Call, queue: Queue, now: float) -> None:
    with queue.transaction() as change:
        change.node("lab1", facts=FACTS, last_seen=now)
        change.node("lab2", unreachable_since=now, unreachable_reason="no answer in time")
        change.node("gone", facts=FACTS, last_seen=now)
    lab1, lab2, here = call("nodes", "--json").json["nodes"]
    assert lab1 == {
        "name": "lab1",
        "state": "up",
        "reason": None,
        "capabilities": ["gcc", "python3"],
        "cores": 8,
        "memory_mb": 32000,
        "gpus": [],
        "slots": 2,
        "running": [],
        "given": [],
        "paused_until": None,
        "last_seen": iso(now),
        "probed": True,
        "owner": None,
        "hours": None,
        "gentle": None,
    }
    assert (lab2["state"], lab2["reason"]) == ("unreachable", "no answer in time")
    assert (here["state"], here["probed"]) == ("unreachable", False)
    assert "nodes probe" in here["reason"]


def test_nodes_name_the_jobs_they_have(call: Call, queue: Queue, now: float) -> None:
    done = submitted(queue, "a", now=now)
    job = queue.job(done.batch_id, "a")
    assert job is not None
    with queue.transaction() as change:
        change.place(job.id, queue.new_token(), "lab1", 1, now)
        change.node("lab1", facts=FACTS, last_seen=now)
    assert call("nodes", "--json").json["nodes"][0]["running"] == ["lab/study/a"]
    assert "1/2" in call("nodes").out


def test_a_drained_node_says_why_until_it_is_undrained(call: Call, queue: Queue) -> None:
    assert call("nodes", "drain", "LAB1", "--reason", "new disk").out == "lab1 drained\n"
    node = call("nodes", "--json").json["nodes"][0]
    assert (node["state"], node["reason"]) == ("drained", "new disk")
    assert call("nodes", "undrain", "lab1", "--json").json["drained"] is None
    assert call("nodes", "--json").json["nodes"][0]["reason"] != "new disk"


def test_a_node_that_the_inventory_disables_stays_drained_and_says_so(call: Call, home: Path) -> None:
    (home / "inventory.yaml").write_text("nodes:\n  - {name: lab1, enabled: false, reason: in repair}\n")
    assert "enabled: false" in call("nodes", "undrain", "lab1").err
    node = call("nodes", "--json").json["nodes"][0]
    assert (node["state"], node["reason"]) == ("drained", "in repair")


@pytest.mark.parametrize("verb", ["drain", "undrain", "trust", "probe", "doctor"])
def test_an_unknown_node_is_answered_with_the_nearest_and_3(call: Call, verb: str) -> None:
    answer = call("nodes", verb, "lab11")
    assert answer.code == 3
    assert "lab1" in answer.err


def test_an_inventory_that_is_wrong_says_where(call: Call, home: Path) -> None:
    (home / "inventory.yaml").write_text("nodse: [lab1]\n")
    answer = call("nodes", "--json")
    assert answer.code == 2
    (problem, *_) = answer.json["error"]["problems"]
    assert (problem["line"], problem["column"]) == (1, 1)


def test_the_inventory_may_be_named_on_the_command_line(call: Call, home: Path) -> None:
    (home / "other.yaml").write_text("nodes: [elsewhere]\n")
    assert call("nodes", "-q", "--inventory", home / "other.yaml").out == "elsewhere\n"
    assert call("--inventory", home / "missing.yaml", "nodes").code == 2


def test_without_an_inventory_this_machine_is_the_only_node(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTRIBUTE_INVENTORY")
    assert len(call("nodes", "--json").json["nodes"]) == 1


# --- where, template, completion ---


def test_where_shows_what_is_in_use(call: Call, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = call("where", "--json").json["where"]
    assert found["inventory"] == str(home / "inventory.yaml")
    assert found["storage"] == str(home / "storage")
    assert found["database"] == str(home / "state" / "queue.db")
    assert f"storage      {home}/storage\n" in call("where").out
    monkeypatch.delenv("DISTRIBUTE_INVENTORY")
    assert call("where", "--json").json["where"]["inventory"] is None
    assert "this machine is the only node" in call("where").out


@pytest.mark.parametrize("kind", ["python", "apptainer"])
def test_a_template_is_written_once_and_never_over_a_file(call: Call, home: Path, kind: str) -> None:
    assert call("template", kind).code == 0
    text = (home / "distribute-jobs.yaml").read_text()
    assert f"\n{kind}:\n" in text
    assert "batch_name: your_jobset_name" in text
    (home / "distribute-jobs.yaml").write_text("mine")
    refused = call("template", kind)
    assert refused.code == 2
    assert "--force" in refused.err
    assert (home / "distribute-jobs.yaml").read_text() == "mine"
    assert call("template", kind, "--force").code == 0
    assert (home / "distribute-jobs.yaml").read_text() == text


def test_a_template_may_be_printed_or_go_elsewhere(call: Call, home: Path) -> None:
    printed = call("template", "python", "--output", "-").out
    assert call("template", "python", "--output", "mine.yaml", "-q").out == "mine.yaml\n"
    assert (home / "mine.yaml").read_text() == printed
    assert call("template", "python", "--output", "-", "--json").json["text"] == printed
    assert not (home / "distribute-jobs.yaml").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_the_program(call: Call, shell: str) -> None:
    assert "_DISTRIBUTE_COMPLETE" in call("completion", shell).out
    assert call("completion", shell, "--json").json["shell"] == shell


def test_names_of_batches_are_completed(
    call: Call, queue: Queue, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from distribute_ssh.cli import main

    submitted(queue, "a")
    monkeypatch.setenv("_DISTRIBUTE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "distribute status la")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        main([])
    assert capfd.readouterr().out == "plain,lab/study\n"


def test_documents_have_one_line(call: Call, queue: Queue) -> None:
    submitted(queue, "a")
    for command in (["status"], ["nodes"], ["explain", "study"], ["where"], ["history", "study"]):
        (line,) = call(*command, "--json").out.splitlines()
        assert json.loads(line)["schema"] == 1
