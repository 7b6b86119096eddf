"""`pause`, `resume`, `hold`, `release`, and until when a node is drained."""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import State
from distribute_ssh.model.lease import Lease, NodeRequest
from distribute_ssh.model.units import iso
from distribute_ssh.store.queue import Queue
from tests.cli.conftest import Call
from tests.endtoend.site import Site
from tests.store.makes import brought, submitted, the_job

FACTS = {"cores": 8, "memory_mb": 32000, "tools": {"python3": "3.11", "gcc": "12"}}


def paused(queue: Queue, node: str, now: float, *, reason: str | None = "visitors") -> Lease:
    lease = Lease("queue1-lease1", now + 600, now - 60, "ana", reason)
    with queue.transaction() as change:
        change.node(node, facts=FACTS, last_seen=now, lease=lease)
    return lease


# --- what is refused, without asking any node ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "soon"], "`soon` is not a duration"),
        (["--for", "10:30"], "can be read in two ways"),
        (["--for", "0"], "at least a second"),
        (["--for", "4h1s"], "a pause of lab1 takes at most 4h"),
        (["--duration", "1d"], "`max_pause:` in the inventory allows more"),
        (["--until", "noon"], "`noon` is not a time"),
        (["--until", "2020-01-01"], "is over already"),
        (["--until", "18:00", "--for", "1h"], "not both"),
        (["--reason", "two\nlines"], "a reason is one line"),
        (["--reason", "x" * 501], "at most 500 characters"),
    ],
)
def test_a_pause_that_makes_no_sense_is_refused_and_nothing_is_asked(
    call: Call, queue: Queue, arguments: list[str], message: str
) -> None:
    answer = call("pause", "lab1", *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert queue.nodes() == {}


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_node_that_does_not_exist_is_named(call: Call, verb: str) -> None:
    answer = call(verb, "lab9")
    assert answer.code == 3
    assert "lab9" in answer.err


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_where_this_machine_is_no_node_one_has_to_be_named(call: Call, home: Path, verb: str) -> None:
    (home / "inventory.yaml").write_text("nodes: [lab1, lab2]\n")
    answer = call(verb)
    assert answer.code == 2
    assert "nodes: lab1, lab2" in answer.err


def test_a_node_that_is_not_enabled_is_not_waited_for(call: Call, home: Path) -> None:
    (home / "inventory.yaml").write_text(f"storage: {home}/storage\nnodes: [{{name: lab1, enabled: false}}]\n")
    answer = call("pause", "lab1")
    assert answer.code == 6
    assert "does not connect to it" in answer.err


# --- what is shown ---


def test_a_paused_node_says_until_when_by_whom_and_why(call: Call, queue: Queue, now: float) -> None:
    lease = paused(queue, "lab1", now)
    clock = time.strftime("%H:%M by ana: visitors", time.localtime(lease.until))
    node = next(each for each in call("nodes", "--json").json["nodes"] if each["name"] == "lab1")
    assert (node["state"], node["paused_until"]) == ("paused", iso(lease.until))
    assert node["reason"].endswith(clock)
    submitted(queue, "a", now=now)
    reasons = call("explain", "lab/study", "--json").json["reasons"]
    (found,) = (each for each in reasons if each["node"] == "lab1")
    assert found["code"] == "paused-node"
    assert found["text"].startswith("is paused: until ")
    assert found["text"].endswith(clock)


def test_a_pause_that_is_over_is_not_shown_any_more(call: Call, queue: Queue, now: float) -> None:
    paused(queue, "lab1", now - 601)
    node = next(each for each in call("nodes", "--json").json["nodes"] if each["name"] == "lab1")
    assert (node["state"], node["paused_until"]) == ("up", None)


def test_a_pause_that_is_only_asked_for_is_shown(call: Call, queue: Queue, now: float) -> None:
    with queue.transaction() as change:
        change.node("lab1", facts=FACTS, request=NodeRequest("queue1-request1", now, "ben", now + 60))
    node = next(each for each in call("nodes", "--json").json["nodes"] if each["name"] == "lab1")
    assert (node["state"], node["paused_until"]) == ("paused", iso(now + 60))


def test_a_paused_job_says_until_when_by_whom_and_why(call: Call, queue: Queue, now: float) -> None:
    batch = submitted(queue, "a", now=now).batch_id
    brought(queue, the_job(queue, batch, "a").id, State.PAUSED, now)
    node = the_job(queue, batch, "a").node
    assert node is not None
    lease = paused(queue, node, now)
    (shown,) = call("status", "lab/study", "--json").json["batches"]
    assert shown["paused"] == {node: {"until": iso(lease.until), "by": "ana", "reason": "visitors"}}
    assert shown["jobs"][0]["reason"].endswith("by ana: visitors")
    assert "by ana: visitors" in call("status", "lab/study").out
    assert "by ana: visitors" in call("explain", "lab/study").out
    assert "by ana: visitors" in call("explain", "lab/study", "a").out


# --- drain ---


def test_a_node_is_drained_until_the_time_said(call: Call, queue: Queue, now: float) -> None:
    end = datetime.fromtimestamp(now + 3600).astimezone().isoformat()
    told = call("nodes", "drain", "lab1", "--reason", "new disk", "--until", end, "--json").json
    assert (told["drained"], told["until"]) == ("new disk", iso(now + 3600))
    node = call("nodes", "--json").json["nodes"][0]
    assert node["state"] == "drained"
    assert node["reason"].startswith("new disk (until ")
    with queue.transaction() as change:
        change.node("lab1", facts=FACTS, drained_until=now - 1)
    assert call("nodes", "--json").json["nodes"][0]["state"] == "up"
    with queue.transaction() as change:
        change.node("lab1", drained_until=now + 3600)
    call("nodes", "undrain", "lab1")
    assert call("nodes", "--json").json["nodes"][0]["state"] == "up"
    assert call("nodes", "drain", "lab1", "--until", "sometime").code == 2


# --- hold and release ---


def test_jobs_are_held_and_released(call: Call, queue: Queue, now: float) -> None:
    batch = submitted(queue, "a", "b", now=now).batch_id
    answer = call("hold", "lab/study", "B")
    assert (answer.code, answer.out) == (0, "1 job held\n")
    assert the_job(queue, batch, "b").state is State.HELD
    assert call("hold", "study", "--json").json == {"schema": 1, "batch": "lab/study", "held": ["a"]}
    assert "nothing to hold" in call("hold", "study").err
    assert "held" in call("explain", "lab/study").out
    assert call("release", "lab/study", "-q").out == "a\nb\n"
    assert the_job(queue, batch, "b").state is State.QUEUED
    assert "is held" in call("release", "study").err
    assert call("hold", "study", "x").code == 3
    assert call("release", "nothing").code == 3


# --- with real nodes ---


def test_without_a_coordinator_a_pause_is_carried_out_by_the_command_itself(site: Site) -> None:
    room = site.local()
    told = site.data("pause", "--for", "1h", "--reason", "visitors")
    assert (told["node"], told["by"], told["reason"], told["left"]) == ("here", "tester", "visitors", [])
    assert list(room.glob("lease.*"))
    (node,) = site.data("nodes")["nodes"]
    assert node["paused_until"] == told["paused_until"]
    assert site.data("resume") == {"schema": 1, "node": "here", "paused_until": None}
    assert not list(room.glob("lease.*"))
    assert site.data("nodes")["nodes"][0]["paused_until"] is None


def test_who_waits_at_a_pause_ends_it_with_ctrl_c(site: Site) -> None:
    room = site.local()
    command = site.start("pause", "--wait", "--for", "1h")
    site.wait(command.answered, "it is paused")
    assert command.interrupt(signal.SIGINT) == 130
    assert not list(room.glob("lease.*"))


def test_who_waits_at_a_pause_is_told_when_it_is_over(site: Site) -> None:
    site.local()
    began = time.monotonic()
    command = site.do("pause", "--wait", "--for", "10")  # a busy machine takes seconds until it stands
    assert "here goes on" in command.said()
    assert time.monotonic() - began > 9


def test_a_pause_that_was_over_before_its_node_answered_is_not_laid_to_somebody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("distribute_ssh.cli.pause")
    monkeypatch.setattr(module, "_carry_out", lambda *_: None)
    said: list[str] = []
    app, entry = SimpleNamespace(warn=said.append), NodeEntry("lab1")
    assert module._pause(app, entry, NodeRequest("t", 1.0, "ana", until=2.0)) == 1
    assert said == ["lab1: the pause was over before the node had said that it stood"]
    assert module._pause(app, entry, NodeRequest("t", 1.0, "ana", until=time.time() + 60)) == 1
    assert "something else was said" in said[1]


@pytest.mark.sshd
def test_a_node_that_is_away_is_paused_when_it_is_back(site: Site) -> None:
    node = site.node("lab1")
    node.sshd.stop()
    refused = site.do("pause", "lab1", code=6)
    assert "could not be paused yet" in refused.said()
    assert site.data("nodes")["nodes"][0]["paused_until"] is not None
    runner = site.start("runner")
    node.sshd.start()
    site.wait(lambda: list(node.room.glob("lease.*")), "it is carried out")
    site.do("resume", "lab1")
    assert not list(node.room.glob("lease.*"))
    assert runner.interrupt() == 0


@pytest.mark.sshd
def test_whoever_asks_a_node_that_has_come_back_need_not_wait_for_the_next_try(site: Site) -> None:
    node = site.node("lab1")
    node.sshd.stop()
    runner = site.start("runner")
    site.wait(lambda: site.select("SELECT 1 FROM nodes WHERE unreachable_since IS NOT NULL"), "it is away")
    node.sshd.start()
    assert json.loads(site.do("pause", "lab1", "--json").answered())["node"] == "lab1"
    assert runner.interrupt() == 0
    assert os.listdir(node.room / "attempts") == []
