"""Commands on a head: the same output, JSON and exit codes as on the head itself."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.head.site import Head, Screen, cut, pretend
from tests.support import processes
from tests.support.sshd import host_block, make_key
from tests.support.wait import wait_for

pytestmark = pytest.mark.sshd

GATED = "note('run ' + JOB)\ngate('go')\nsave('result', b'x')\n"


@pytest.mark.timeout(300)  # some forty commands, half of them over a line
def test_a_batch_runs_from_a_laptop_with_nothing_but_a_key(head: Head) -> None:
    ana = head.laptop("ana")
    jobs = ana.batch(["a", "b"])
    told = ana.data("run", jobs)
    assert told["batch"]["counts"] == {"done": 2}
    assert told["submitted"]["new"] == 2
    assert told["batch"]["submitter"] == "ana"
    assert head.site.results("a").is_dir()
    # The rest is looked at from both sides.
    for arguments in (
        ["status"], ["status", "b", "--json"], ["status", "-q"], ["explain", "ns/b", "a"],
        ["logs", "b", "a", "-n", "1"], ["logs", "b", "--build", "here"], ["history", "b", "--json"], ["retry", "b"],
        ["kill", "-y", "b"], ["follow", "b", "--json"],
    ):  # fmt: skip
        there, here = head.site.do(*arguments), ana.do(*arguments)
        assert here.answered() == there.answered(), arguments
        assert here.said() == there.said(), arguments
    for arguments in (["status", "nosuch", "--json"], ["logs", "b", "zz", "--json"]):
        assert ana.data(*arguments, code=3) == head.site.data(*arguments, code=3)
    assert ana.data("status", jobs) == ana.data("status", "ns/b")
    assert [row["who"] for row in ana.data("history", "b")["history"] if row["job"] is None] == ["ana"]
    assert ana.data("run", jobs)["submitted"]["kept"] == 2
    assert ana.data("run", "--plan", jobs)["plan"] == head.site.data("run", "--plan", jobs)["plan"]


def test_whoever_has_an_account_on_the_head_needs_no_users(head: Head) -> None:
    own = head.laptop("owner", alias="head")
    gateway = f"{sys.executable} -m distribute_ssh --inventory={head.site.env['DISTRIBUTE_INVENTORY']} gateway"
    config = Path(own.env["HOME"], ".config", "distribute", "config.yaml")
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"head": {"host": "head", "command": f"{gateway} --home={head.site.state}"}}))
    own.env.pop("DISTRIBUTE_HEAD")
    assert own.data("run", own.batch(["a"]))["batch"]["counts"] == {"done": 1}
    assert "head" in own.data("where")["where"].values()
    assert own.data("status", "--head", "none")["batches"] == []


def test_closing_the_lid_leaves_the_batch_running_to_its_end(head: Head) -> None:
    ana = head.laptop("ana")
    command = ana.start("run", ana.batch(["a", "b"], run=GATED))
    head.site.wait_state("a", "running")
    cut(command)
    wait_for(lambda: head.sshd.sessions() == 0, "its line is gone")
    head.site.open("go")
    head.site.wait(lambda: set(head.site.states().values()) == {"done"}, "the batch ended with nobody there")
    assert ana.data("follow", "b")["batch"]["counts"] == {"done": 2}


def test_who_follows_comes_back_by_itself_when_the_line_is_lost(head: Head) -> None:
    ana = head.laptop("ana")
    command = ana.start("run", ana.batch(["a"], run=GATED), "--json")
    head.site.wait_state("a", "running")
    head.sshd.kill_sessions()
    ana.wait(lambda: "coming back in 1 s" in command.said(), "it says so")
    head.site.open("go")
    assert command.end() == 0
    assert json.loads(command.answered())["batch"]["counts"] == {"done": 1}


def test_ctrl_c_while_a_file_is_sent_ends_at_once_and_submits_nothing(head: Head) -> None:
    ana = head.laptop("ana")
    data = ana.folder / "data"
    with data.open("wb") as file:
        file.truncate(400 << 20)
    command = ana.start("run", ana.batch({"a": {"required_files": [str(data)]}}))
    incoming = head.site.state / "spool" / "incoming" / "ana"
    head.site.hit(lambda: list(incoming.glob("*.*")), "some of it is there")
    assert command.interrupt(signal.SIGINT) == 130
    assert head.site.select("SELECT * FROM batches") == []


def test_ctrl_c_leaves_the_batch_in_the_queue_and_says_how_to_come_back(head: Head) -> None:
    ana = head.laptop("ana")
    jobs = ana.batch(["a"], run=GATED)
    command = ana.start("run", jobs)
    head.site.wait_state("a", "running")
    assert command.interrupt(signal.SIGINT) == 130
    assert "distribute follow ns/b  to come back" in command.said()
    assert head.site.states() == {"a": "running"}
    head.site.open("go")
    assert ana.data("run", jobs)["batch"]["counts"] == {"done": 1}


def test_a_follower_whose_laptop_is_gone_ends_where_another_drives(head: Head) -> None:
    ana, bob = head.laptop("ana"), head.laptop("bob")
    driver = ana.start("run", ana.batch(["a"], run=GATED))
    head.site.wait_state("a", "running")
    follower = bob.start("follow", "b")

    def gateways() -> bool:
        return any({"--user", "bob"} <= set(each.command) for each in processes.everything())

    wait_for(gateways, "bob is there")
    cut(follower)
    wait_for(lambda: not gateways(), "bob's gateway is gone")
    head.site.open("go")
    assert driver.end() == 0


def test_on_a_terminal_it_looks_as_it_does_there_and_questions_can_be_answered(head: Head) -> None:
    ana = head.laptop("ana")
    ana.do("add", ana.batch(["a", "b"]))
    ana.do("hold", "b")
    here, there = Screen(ana, "status", "b", columns=50), Screen(head.site, "status", "b", columns=50)
    assert (here.end(), there.end()) == (0, 0)

    def still(text: str) -> str:
        return re.sub(r"[0-9]+(ms|s)", "", text)

    assert still(here.shown) == still(there.shown)
    assert "\x1b[" in here.shown
    asked = Screen(ana, "kill", "b")
    asked.wait("kill 2 jobs? [y/N]")
    os.write(asked.fd, b"y\n")
    assert asked.end() == 0
    assert asked.shown.count("y\r\n") == 1  # echoed by one terminal, not by two
    assert set(head.site.states().values()) == {"killed"}


def test_the_live_view_works_through_the_head(head: Head) -> None:
    ana = head.laptop("ana")
    screen = Screen(ana, "run", ana.batch(["a"], run=GATED))
    screen.wait("Ctrl-C leaves it running")
    head.site.open("go")
    assert screen.end() == 0
    assert "results: " in screen.shown


def test_without_a_terminal_a_question_is_an_error_and_nothing_is_done(shared: Head) -> None:
    ana = shared.laptop("ana")
    ana.do("add", ana.batch(["a"], name="asked"))
    ana.do("hold", "asked")
    assert ana.data("kill", "asked", code=2)["error"]["kind"] == "usage"
    assert shared.site.states("asked") == {"a": "held"}


def test_files_of_the_laptop_that_mean_nothing_there_are_refused_here(shared: Head) -> None:
    ana = shared.laptop("ana")
    assert "--inventory" in ana.data("status", "--inventory", "x.yaml", code=2)["error"]["message"]


# --- heads that do not answer as they should ---


@pytest.mark.parametrize(("schema", "behind"), [(0, "on the head"), (2, "here")])
def test_another_schema_says_which_side_to_upgrade(shared: Head, schema: int, behind: str) -> None:
    hello = shared.folder / f"hello-{schema}"
    hello.write_text(json.dumps({"is": "hello", "schema": schema, "version": "9.9"}) + "\n")
    laptop = pretend(shared, f"other-{schema}", f"cat {hello} -")
    error = laptop.data("status", code=6)["error"]
    assert error["kind"] == "head"
    assert "9.9" in error["message"]
    assert f"upgrade distribute {behind}" in error["hint"]


def test_what_start_up_files_print_before_the_gateway_is_passed_over(shared: Head) -> None:
    (line,) = [each for each in shared.authorized_keys.read_text().splitlines() if "--user ana" in each]
    command = line.partition('command="')[2].partition('"')[0]
    laptop = pretend(shared, "noisy", f"echo welcome; printf no-newline; exec {command}")
    assert laptop.data("status")["schema"] == 1


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("distribute-is-not-here gateway", "there is no program"),
        ("echo sorry >&2; exit 3", "sorry"),
        ("yes", "no gateway answers"),
        ("cat", "none of ours"),  # it greets us with our own words
        ("true", "the gateway ended"),
    ],
)
def test_a_head_without_a_gateway_is_told_with_what_it_said(shared: Head, command: str, told: str) -> None:
    laptop = pretend(shared, f"odd-{abs(hash(command))}", command)
    assert told in laptop.data("status", code=6)["error"]["message"]


def test_a_head_whose_host_key_is_not_known_is_sent_nothing(shared: Head) -> None:
    key = shared.folder / "id_ana"
    empty = shared.folder / "known-nothing"
    empty.touch()
    shared.lab.block("head-unknown", host_block("head-unknown", shared.sshd.port, key, empty))
    error = shared.laptop("unknown").data("status", code=6)["error"]
    assert error["kind"] == "host-key"
    assert "ssh head-unknown" in error["hint"]


def test_a_key_nobody_knows_is_a_login_error(shared: Head) -> None:
    key = make_key(shared.folder / "id_stranger")
    block = host_block("head-stranger", shared.sshd.port, key, shared.lab.known_hosts)
    shared.lab.block("head-stranger", block)
    assert shared.laptop("stranger").data("status", code=6)["error"]["kind"] == "login"
