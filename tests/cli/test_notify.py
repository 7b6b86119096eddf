"""`notify`, and what `status` says of messages that did not arrive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute_ssh.cli.gateway import understood
from distribute_ssh.errors import DeniedError
from distribute_ssh.model.actor import Actor, Role
from distribute_ssh.model.job import State
from distribute_ssh.model.units import iso
from distribute_ssh.store import outbox
from distribute_ssh.store.queue import Queue
from tests.cli.conftest import Call
from tests.store.makes import brought, submitted
from tests.support.homeserver import Homeserver

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of apprise's own imports

ANN = "@ann:lab.test"


@pytest.fixture
def homeserver() -> Iterator[Homeserver]:
    made = Homeserver()
    yield made
    made.close()


def config(home: Path, homeserver: Homeserver, **more: object) -> None:
    folder = home / ".config" / "distribute"
    folder.mkdir(parents=True)
    matrix = {"homeserver": homeserver.url, "account": "@bot:lab.test"}
    (folder / "config.yaml").write_text(json.dumps({"user": "ann", "notify": {"matrix": matrix, **more}}))
    (folder / "config.yaml").chmod(0o600)


def ended(queue: Queue, now: float, *recipients: str) -> list[outbox.Message]:
    batch_id = submitted(queue, "a").batch_id
    brought(queue, queue.jobs(batch_id)[0].id, State.DONE)
    with queue.transaction() as change:
        assert change.finish_batch_if_ended(batch_id, now)
    [message] = queue.due_messages(now)
    with queue.transaction() as change:
        outbox.address(change, message, recipients, now)
    return queue.due_messages(now)


def test_before_anything_was_told_it_says_who_can_be(call: Call, home: Path) -> None:
    answer = call("notify", "--json")
    assert (answer.code, answer.json["outbox"]) == (0, [])
    assert "`matrix:`" in answer.err
    assert not (home / "state").exists(), "who only looks makes no queue"


def test_what_was_told_and_what_waits_is_listed_with_the_trouble(call: Call, queue: Queue, now: float) -> None:
    sent, waits = ended(queue, now, ANN, "mail")
    with queue.transaction() as change:
        outbox.begin(change, waits, now, now + 30)
        outbox.failed(change, waits, "it is down", now, now + 30)
        outbox.sent(change, sent.id, now)
    first, second = call("notify", "--json").json["outbox"]
    assert (first["batch"], first["to"], first["state"], first["next_at"]) == ("lab/study", ANN, "sent", None)
    assert second == {
        "batch": "lab/study", "finished_at": iso(now), "to": "mail", "state": "waiting", "tries": 1,
        "next_at": iso(now + 30), "ended_at": None, "trouble": "it is down",
    }  # fmt: skip
    assert call("notify").out.splitlines()[2].endswith("it is down")
    assert call("notify", "-q").out == "lab/study\n"


def test_status_says_that_a_message_was_given_up_for_some_days(call: Call, queue: Queue, now: float) -> None:
    [message] = ended(queue, now, "mail")
    assert "delivered" not in call("status").err
    for at in (now - outbox.GIVE_UP - 60, now - 60):
        [message] = queue.due_messages(9e9)
        with queue.transaction() as change:
            outbox.begin(change, message, at, at)
    assert "1 message about batches that ended could not be delivered: `distribute notify`" in call("status").err
    assert call("notify", "--json").json["outbox"][0]["state"] == "given up"


def test_a_test_goes_to_whom_is_named(
    call: Call, home: Path, homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(home, homeserver)
    monkeypatch.setenv("DISTRIBUTE_MATRIX_TOKEN", "syt_secret")
    answer = call("notify", "--test", ANN)
    assert (answer.code, answer.out) == (0, f"{ANN}  sent\n")
    [(_, content)] = homeserver.sent
    assert content["body"].startswith("distribute can reach you here\nThis is a test by ann on ")
    assert homeserver.tokens == {"Bearer syt_secret"}


def test_a_test_without_a_name_goes_to_me_and_says_of_each_what_came_of_it(
    call: Call, home: Path, homeserver: Homeserver
) -> None:
    hook = homeserver.url.replace("http", "json") + "/send/m.room.message/hook"
    config(home, homeserver, channels={"hook": hook, "other": "json://secret"}, users={"ann": ["hook", ANN]})
    answer = call("notify", "--test", "--json")
    first, second = answer.json["tests"]
    assert answer.code == 6
    assert first == {"to": "hook", "sent": True, "error": None}
    assert (second["to"], second["sent"]) == (ANN, False)
    assert "there is no token" in second["error"]


def test_with_nobody_to_tell_a_test_is_refused_with_what_to_do(call: Call) -> None:
    answer = call("notify", "--test")
    assert answer.code == 2
    assert "nobody to send a test to" in answer.err
    assert "--test TO" in call("notify", "mail").err
    answer = call("notify", "--test", "mail")
    assert answer.code == 6
    assert "no channel called mail" in answer.out


def test_from_elsewhere_people_may_ask_and_a_workstation_may_not() -> None:
    asked = ["notify", "--test", ANN]
    assert understood(asked, Actor(Role.SUBMITTER, "ana")) == ("notify", ["notify", "--test", "--", ANN])
    with pytest.raises(DeniedError):
        understood(asked, Actor(Role.NODE, "lab3", "lab3"))
