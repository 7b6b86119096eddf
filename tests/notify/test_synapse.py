"""Against a real Matrix homeserver: what is sent is read back by the person it was sent to."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from distribute_ssh.errors import NotifyError
from distribute_ssh.model.notify import MatrixAccount
from distribute_ssh.notices.matrix import Matrix, credentials
from distribute_ssh.views.notice import Words
from tests.endtoend.site import Site
from tests.support.synapse import Person, Synapse

# The first of them installs the server.
pytestmark = pytest.mark.timeout(400)

WORDS = Words("lab/study has ended: 1 done, 1 failed", "b failed on n1: exit 1: <boom> & all\nand more")


def account(bot: Person, folder: Path, **more: Any) -> MatrixAccount:
    token = folder / "matrix-token"
    token.touch(mode=0o600)
    token.write_text(f"{bot.token}\n")
    return MatrixAccount(bot.server.url, bot.id, token, **more)


def joined(person: Person) -> str:
    """The one room they are invited to, which they enter."""
    [room] = person.invitations()
    person.ask("POST", f"/join/{quote(room)}", {})
    return room


def test_a_person_is_invited_into_a_room_of_their_own_and_reads_each_message_once(
    synapse: Synapse, tmp_path: Path
) -> None:
    bot, ana = synapse.register("bot1"), synapse.register("ana1")
    Matrix(credentials(account(bot, tmp_path), {})).send(ana.id, WORDS, "queue-1")
    room = joined(ana)
    # Another process, which remembers nothing; first what it cannot know to have been taken already.
    again = Matrix(credentials(account(bot, tmp_path), {}))
    again.send(ana.id, WORDS, "queue-1")
    again.send(ana.id, Words("second", ""), "queue-2")
    first, second = ana.messages(room)
    assert (first["msgtype"], first["body"]) == ("m.text", WORDS.text)
    assert "&lt;boom&gt; &amp; all<br/>" in first["formatted_body"]
    assert first["m.mentions"] == {"user_ids": [ana.id]}
    assert second["body"] == "second"
    assert ana.invitations() == [], "the room is found again"


def test_who_left_the_room_is_invited_into_a_new_one(synapse: Synapse, tmp_path: Path) -> None:
    bot, ana = synapse.register("bot2"), synapse.register("ana2")
    matrix = Matrix(credentials(account(bot, tmp_path), {}))
    matrix.send(ana.id, WORDS, "queue-1")
    first = joined(ana)
    ana.ask("POST", f"/rooms/{quote(first)}/leave", {})
    matrix.send(ana.id, Words("second", ""), "queue-2")
    assert [each["body"] for each in ana.messages(joined(ana))] == ["second"]


def test_a_common_room_is_entered_by_its_alias_and_the_person_is_mentioned_there(
    synapse: Synapse, tmp_path: Path
) -> None:
    bot, ana = synapse.register("bot3"), synapse.register("ana3")
    asked = {"room_alias_name": "lab3", "preset": "private_chat", "invite": [bot.id]}
    room = ana.ask("POST", "/createRoom", asked)["room_id"]
    matrix = Matrix(credentials(account(bot, tmp_path, room="#lab3:lab.test"), {}))
    matrix.send(ana.id, WORDS, "queue-1")
    [message] = ana.messages(room)
    assert message["body"] == f"{ana.id}: {WORDS.text}"
    assert f"https://matrix.to/#/{ana.id}" in message["formatted_body"]
    assert message["m.mentions"] == {"user_ids": [ana.id]}


def test_a_token_that_does_not_hold_and_a_room_one_may_not_enter_are_said(synapse: Synapse, tmp_path: Path) -> None:
    bot, ana = synapse.register("bot4"), synapse.register("ana4")
    room = ana.ask("POST", "/createRoom", {"preset": "private_chat"})["room_id"]
    with pytest.raises(NotifyError, match=r"(?s)403 M_FORBIDDEN.*invite it there"):
        Matrix(credentials(account(bot, tmp_path, room=room), {})).send(ana.id, WORDS, "queue-1")
    bot.token = "syt_wrong"
    with pytest.raises(NotifyError, match=r"(?s)401 M_UNKNOWN_TOKEN.*put in a new one") as caught:
        Matrix(credentials(account(bot, tmp_path), {})).send(ana.id, WORDS, "queue-1")
    assert bot.token not in str(caught.value)


def test_the_original_s_json_file_logs_in_and_a_token_that_ran_out_is_asked_for_anew(
    synapse: Synapse, tmp_path: Path
) -> None:
    bot, ana = synapse.register("bot5"), synapse.register("ana5")
    told = {
        "matrix_username": "bot5", "matrix_password": bot.password, "homeserver_url": synapse.url, "matrix_id": bot.id,
    }  # fmt: skip
    file = tmp_path / "matrix.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(told))
    matrix = Matrix(credentials(file, {}))
    matrix.send(ana.id, WORDS, "queue-1")
    room = joined(ana)
    bot.ask("POST", "/logout/all", {})
    with pytest.raises(NotifyError, match="401"):
        matrix.send(ana.id, Words("second", ""), "queue-2")
    matrix.send(ana.id, Words("second", ""), "queue-2")
    assert [each["body"] for each in ana.messages(room)] == [WORDS.text, "second"]


def test_people_who_are_told_at_the_same_moment_get_one_room_each(synapse: Synapse, tmp_path: Path) -> None:
    bot, people = synapse.register("bot7"), [synapse.register(f"ana7{each}") for each in "abc"]
    matrix = Matrix(credentials(account(bot, tmp_path), {}))
    for turn in ("first", "second"):
        keys = [f"{turn}-{person.id}" for person in people]
        with ThreadPoolExecutor() as pool:
            list(pool.map(matrix.send, [person.id for person in people], [WORDS] * 3, keys))
    for person in people:
        assert len(person.messages(joined(person))) == 2


def test_a_batch_that_ends_tells_its_person_from_the_jobs_file_to_the_room(
    synapse: Synapse, site: Site, tmp_path: Path
) -> None:
    bot, ana = synapse.register("bot6"), synapse.register("ana6")
    site.local()
    config = site.folder / "home" / ".config" / "distribute" / "config.yaml"
    config.parent.mkdir(parents=True)
    account(bot, config.parent)
    matrix = {"homeserver": synapse.url, "account": bot.id, "token_file": "matrix-token"}
    config.write_text(json.dumps({"notify": {"matrix": matrix}}))
    jobs = {"good": "pass\n", "bad": "print('a number is negative')\nsys.exit(3)\n"}
    site.do("run", site.batch(jobs, meta={"matrix": ana.id}), code=1)
    room = joined(ana)
    [message] = ana.messages(room)
    title, failure, took, pull = message["body"].splitlines()
    assert title == "ns/b has ended: 1 done, 1 failed"
    assert failure == "bad failed on here: exit 3: a number is negative"
    assert took.endswith(" after tester submitted it")
    assert pull == "distribute pull ns/b"
    assert site.select("SELECT recipient, state, tries FROM outbox") == [(ana.id, "sent", 1)]
    # Mended and tried again, it ends a second time, and tells a second time.
    (site.folder / "batches" / "b" / "run-1.py").write_text("")
    site.do("run", site.folder / "batches" / "b" / "jobs.yaml")
    titles = [each["body"].splitlines()[0] for each in ana.messages(room)]
    assert titles == [title, "ns/b is done: 2 jobs"]
    for place in (site.state, site.storage):
        for path in place.rglob("*"):
            assert not path.is_file() or bot.token.encode() not in path.read_bytes(), path
