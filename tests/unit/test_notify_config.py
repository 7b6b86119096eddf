"""The section `notify` of the config file."""

from __future__ import annotations

from pathlib import Path

import pytest

from distribute_ssh.errors import FileError
from distribute_ssh.model.notify import MatrixAccount, Notify
from distribute_ssh.model.settings import Places, read_config

MATRIX = 'homeserver: https://matrix.example.org/, account: "@bot:example.org"'


def read(tmp_path: Path, text: str) -> Notify:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    found = read_config(Places.of({"DISTRIBUTE_CONFIG": str(file)}, tmp_path), "ana").notify
    assert found is not None
    return found


def problem(tmp_path: Path, text: str) -> str:
    with pytest.raises(FileError) as caught:
        read(tmp_path, text)
    assert len(caught.value.problems) == 1, caught.value
    return str(caught.value)


def test_all_of_it_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        f"notify:\n  matrix: {{{MATRIX}, token_file: token, room: '#lab:example.org'}}\n"
        "  channels: {mail: 'mailto://me:secret@example.org', chat: 'ntfys://ntfy.example.org/lab'}\n"
        "  users: {ana: [mail, '@ana:example.org', mail], bob: chat}\n",
    )
    assert found.matrix == MatrixAccount(
        "https://matrix.example.org", "@bot:example.org", tmp_path / "token", "#lab:example.org"
    )
    assert dict(found.channels)["chat"] == "ntfys://ntfy.example.org/lab"
    assert found.users == {"ana": ("mail", "@ana:example.org"), "bob": ("chat",)}
    assert "secret" not in repr(found)


@pytest.mark.parametrize("text", ["", "notify:\n", "notify: {}\n", "notify: {matrix: ~, channels: ~, users: ~}\n"])
def test_nothing_said_is_nothing_to_do(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == Notify()


def test_the_original_s_file_is_named_by_its_path_beside_the_config_file(tmp_path: Path) -> None:
    assert read(tmp_path, "notify: {matrix: matrix.json}\n").matrix == tmp_path / "matrix.json"


def test_who_submitted_is_told_besides_those_whom_the_jobs_file_names_and_each_once() -> None:
    found = Notify(users={"ana": ("mail", "@ana:lab")})
    assert found.recipients("ana", ("@ana:lab", "chat")) == ("@ana:lab", "chat", "mail")
    assert found.recipients("bob", ("chat",)) == ("chat",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{matrix: {homeserver: https://x.org}}", "lacks the key `account`"),
        ("{matrix: {" + MATRIX + ", token: syt_secret}}", "`token_file:`"),
        ("{matrix: {" + MATRIX.replace("https", "http") + "}}", "in the clear"),
        ("{matrix: {" + MATRIX.replace("https://", "") + "}}", "no homeserver's address"),
        ("{matrix: {" + MATRIX.replace("@bot:example.org", "bot secret") + "}}", "is no Matrix user id"),
        ("{matrix: {" + MATRIX + ", room: lab}}", "is no room"),
        ("{channels: {mail: me-secret@example.org}}", "is no URL"),
        ("{channels: {'a b': 'mailto://secret'}}", "a name is made of"),
        ("{users: {ana: secret}}", "neither a channel nor a Matrix user id"),
        ("{users: {ana: [secret]}}", "users.ana[0]: is neither"),
        ("{mails: 1}", "keys are matrix, channels, users"),
    ],
)
def test_what_is_wrong_is_said_and_no_value_that_may_be_a_secret_is_shown(tmp_path: Path, text: str, said: str) -> None:
    found = problem(tmp_path, f"notify: {text}\n")
    assert said in found
    assert "secret" not in found


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_homeserver_on_this_machine_needs_no_tls(tmp_path: Path, host: str) -> None:
    found = read(tmp_path, f"notify: {{matrix: {{homeserver: 'http://{host}:8008', account: '@a:b'}}}}\n").matrix
    assert isinstance(found, MatrixAccount)
    assert found.homeserver == f"http://{host}:8008"
