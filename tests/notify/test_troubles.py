"""What goes wrong between us and a homeserver, and what is said of it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute_ssh.errors import NotifyError
from distribute_ssh.model.notify import MatrixAccount, Notify
from distribute_ssh.notices.channels import Apprise, Channels
from distribute_ssh.notices.matrix import TOKEN, Credentials, Matrix, credentials
from distribute_ssh.notices.notify import next_try
from distribute_ssh.views.notice import Words
from tests.support.homeserver import Homeserver

# Apprise imports what Python will drop, and does without it then.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ANA = "@ana:lab.test"
WORDS = Words("title", "body")


@pytest.fixture
def homeserver() -> Iterator[Homeserver]:
    made = Homeserver()
    yield made
    made.close()


def matrix(homeserver: Homeserver, answer: float = 10.0, room: str | None = None) -> Matrix:
    return Matrix(Credentials(homeserver.url, "@bot:lab.test", room, token="syt_secret"), answer)


def trouble(channel: Matrix | Apprise, to: str = ANA) -> NotifyError:
    with pytest.raises(NotifyError) as caught:
        channel.send(to, WORDS, "key")
    assert "secret" not in str(caught.value)
    return caught.value


# --- answers ---


def test_who_is_told_to_wait_knows_for_how_long(homeserver: Homeserver) -> None:
    told = b'{"errcode": "M_LIMIT_EXCEEDED", "error": "Too many", "retry_after_ms": 2500}'
    homeserver.answers = [(429, {"Retry-After": "7"}, told), (429, {"Retry-After": "7"}, b"<html>"), (429, {}, b"")]
    channel = matrix(homeserver)
    found = [trouble(channel) for _ in range(3)]
    assert [each.retry_after for each in found] == [2.5, 7.0, None]
    assert "429 M_LIMIT_EXCEEDED Too many" in found[0].message


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("\xb2", b""),
        ("Mon, 23 Nov 2026 05:00:00 GMT", b"{}"),
        ("", b'{"retry_after_ms": 1' + b"0" * 400 + b"}"),
        ("", b'{"retry_after_ms": NaN}'),
        ("", b'{"retry_after_ms": -1e999}'),
        ("", b'{"retry_after_ms": "7"}'),
        ("", b"[" * 100_000),
    ],
)
def test_a_wait_that_makes_no_sense_is_none_for_ever(homeserver: Homeserver, header: str, told: bytes) -> None:
    homeserver.answers = [(429, {"Retry-After": header}, told)]
    found = trouble(matrix(homeserver))
    assert 30.0 <= next_try(1, found.retry_after, 0.0) <= 3600.0


def test_a_room_whose_id_is_no_text_is_no_end_of_us(homeserver: Homeserver) -> None:
    homeserver.room = "!\ud800:lab.test"
    matrix(homeserver).send(ANA, WORDS, "key")
    assert homeserver.tries == 1


@pytest.mark.parametrize(
    ("code", "told", "said"),
    [
        (500, b"<html>proxy</html>", "refused: 500"),
        (502, b'["no object"]', "refused: 502"),
        (401, b'{"errcode": "M_UNKNOWN_TOKEN"}', "put in a new one"),
        (403, b'{"errcode": "M_FORBIDDEN"}', "invite it there"),
        (200, b"no JSON", "does not answer as a homeserver"),
        (200, b"[]", "does not answer as a homeserver"),
        (200, b"[" * 100_000, "does not answer as a homeserver"),
        (200, b"9" * 100_000, "does not answer as a homeserver"),
    ],
)
def test_what_the_homeserver_answers_is_said(homeserver: Homeserver, code: int, told: bytes, said: str) -> None:
    homeserver.answers = [(code, {}, told)]
    assert said in str(trouble(matrix(homeserver)))
    matrix(homeserver).send(ANA, WORDS, "key")
    assert [key for key, _ in homeserver.sent] == ["key"]


def test_a_homeserver_that_hangs_is_not_waited_for(homeserver: Homeserver) -> None:
    homeserver.silent = True
    assert "within 0.2 s" in str(trouble(matrix(homeserver, answer=0.2)))


def test_a_homeserver_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert f"{url} cannot be reached" in str(trouble(Matrix(Credentials(url, "@bot:lab.test", token="syt_secret"))))


def test_a_redirect_is_not_followed_as_the_token_would_go_along(homeserver: Homeserver) -> None:
    elsewhere = Homeserver()
    try:
        homeserver.answers = [(307, {"Location": f"{elsewhere.url}/send/m.room.message/1"}, b"{}")]
        assert "307" in str(trouble(matrix(homeserver)))
        assert (elsewhere.tries, elsewhere.tokens) == (0, set())
    finally:
        elsewhere.close()


def test_a_name_with_odd_characters_stays_one_part_of_the_address(homeserver: Homeserver) -> None:
    matrix(homeserver, room="!a/../b?c#d:lab.test").send("@a/../b?:lab.test", WORDS, "a/b")
    assert [key for key, _ in homeserver.sent] == ["a%2Fb"]


# --- secrets ---


def test_a_token_comes_from_the_environment_or_else_from_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" syt_of_file \n")
    file.chmod(0o600)
    account = MatrixAccount("https://x", "@bot:x", file)
    assert credentials(account, {}).token == "syt_of_file"
    assert credentials(account, {TOKEN: "syt_of_env"}).token == "syt_of_env"
    assert "syt_of_file" not in repr(credentials(account, {}))
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(NotifyError, match=f"(?s)others may read {file}.*chmod 600 {file}"):
            credentials(account, {})


@pytest.mark.root
def test_a_token_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    os.chown(file, 65534, 65534)
    with pytest.raises(NotifyError, match="user id 65534"):
        credentials(MatrixAccount("https://x", "@bot:x", file), {})


@pytest.mark.parametrize("text", ["", "two words", "a\nb", "é"])
def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(text)
    with pytest.raises(NotifyError, match="is no token") as caught:
        credentials(MatrixAccount("https://x", "@bot:x", file), {})
    assert not text or text not in str(caught.value)


def test_an_account_without_any_token_says_where_one_goes(tmp_path: Path) -> None:
    with pytest.raises(NotifyError, match=f"(?s)token_file.*{TOKEN}"):
        credentials(MatrixAccount("https://x", "@bot:x"), {})
    with pytest.raises(NotifyError, match="No such file"):
        credentials(MatrixAccount("https://x", "@bot:x", tmp_path / "none"), {})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"matrix_password": None}, "not the JSON"),
        ({"matrix_id": "bot"}, "no Matrix user id"),
        ({"homeserver_url": "http://far.example.org"}, "in the clear"),
    ],
)
def test_a_file_of_the_original_that_is_wrong_is_refused_with_the_reason(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    told = {
        "matrix_username": "bot", "matrix_password": "secret", "homeserver_url": "https://x.org", "matrix_id": "@bot:x",
    }  # fmt: skip
    file = tmp_path / "matrix.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(told))
    found = credentials(file, {})
    assert (found.homeserver, found.account, found.user, found.password) == ("https://x.org", "@bot:x", "bot", "secret")
    file.write_text(json.dumps(told | changed))
    with pytest.raises(NotifyError, match=said) as caught:
        credentials(file, {})
    assert "secret" not in str(caught.value)


# --- channels ---


def channels(tmp_path: Path, mode: int = 0o600, **urls: str) -> Channels:
    file = tmp_path / "config.yaml"
    file.touch()
    file.chmod(mode)
    return Channels(Notify(channels=urls), file, {})


def test_a_recipient_that_the_head_knows_no_way_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotifyError, match="no channel called mail"):
        channels(tmp_path).channel("mail")
    with pytest.raises(NotifyError, match="no Matrix account"):
        channels(tmp_path).channel(ANA)


def test_channels_in_a_config_file_that_others_can_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotifyError, match="chmod 600"):
        channels(tmp_path, 0o644, mail="mailto://secret").channel("mail")


def test_a_webhook_gets_the_message_through_apprise(tmp_path: Path, homeserver: Homeserver) -> None:
    url = homeserver.url.replace("http", "json") + "/send/m.room.message/hook"
    channels(tmp_path, hook=url).channel("hook").send("hook", WORDS, "key")
    [(_, content)] = homeserver.sent
    assert (content["title"], content["message"]) == ("title", "body")


def test_what_a_service_answers_through_apprise_is_said_without_the_secrets_of_its_url(
    tmp_path: Path, homeserver: Homeserver
) -> None:
    homeserver.answers = [(503, {}, b"no")]
    url = homeserver.url.replace("http://", "json://user:topsecret@") + "/send/m.room.message/anothersecret"
    found = trouble(Apprise("hook", url), "hook")
    assert found.message.startswith("hook: ")
    assert "503" in found.message


def test_a_url_that_apprise_does_not_know_is_not_shown() -> None:
    assert "does not understand the URL of the channel hook" in str(trouble(Apprise("hook", "nosuch://secret"), "hook"))


def test_without_apprise_matrix_works_and_the_rest_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    assert "pip install" in str(trouble(Apprise("hook", "json://localhost"), "hook"))
