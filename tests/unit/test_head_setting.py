"""Which head a command acts on."""

from __future__ import annotations

from pathlib import Path

import pytest

from distribute_ssh.cli.app import App
from distribute_ssh.errors import FileError, HeadError, UsageError
from distribute_ssh.model.actor import Actor, Role
from distribute_ssh.model.settings import GATEWAY, Head, Places, read_config


def config(tmp_path: Path, text: str) -> Places:
    places = Places.of({"XDG_CONFIG_HOME": str(tmp_path)}, tmp_path)
    places.config_file.parent.mkdir(exist_ok=True)
    places.config_file.write_text(text)
    return places


def test_a_head_is_a_name_ssh_knows_or_a_mapping_with_the_command_there(tmp_path: Path) -> None:
    head = read_config(config(tmp_path, "head: ana@head:2222"), "ana").head
    assert head is not None
    assert (head.name, head.command) == ("ana@head:2222", GATEWAY)
    head = read_config(config(tmp_path, "head: {host: head, command: /opt/d gateway}"), "ana").head
    assert head is not None
    assert (head.name, head.command) == ("head", "/opt/d gateway")


@pytest.mark.parametrize("text", ["head: -oProxyCommand=x", "head: [a]", "head: {command: x}", "head: a b", "head: ''"])
def test_what_is_no_head_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileError):
        read_config(config(tmp_path, text), "ana")


def an_app(places: Places) -> App:
    app = App()
    app.places = places
    return app


def test_the_option_wins_over_the_variable_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = an_app(config(tmp_path, "head: {host: file, command: c}"))
    monkeypatch.delenv("DISTRIBUTE_HEAD", raising=False)
    assert app.away is not None
    assert app.away.name == "file"
    monkeypatch.setenv("DISTRIBUTE_HEAD", "variable")
    assert app.away.name == "variable"
    app.head = "option"
    assert app.away.name == "option"
    app.head = "file"
    assert app.away.command == "c"  # the same head, so what the file says of it holds
    app.head = "none"
    assert app.away is None
    app.head = "-oProxyCommand=touch x"
    with pytest.raises(UsageError, match="no head"):
        assert app.away


def test_what_a_gateway_runs_acts_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRIBUTE_HEAD", "elsewhere")
    monkeypatch.setenv("DISTRIBUTE_ACTOR", '{"role": "owner", "user": null, "node": null}')
    assert an_app(config(tmp_path, "head: file")).away is None


def test_a_head_that_is_none_is_an_error_of_its_own() -> None:
    with pytest.raises(ValueError, match="not an address"):
        Head.parse("-x")


def test_a_mistake_in_the_head_s_own_file_is_shown_in_its_words_to_nobody_from_elsewhere(tmp_path: Path) -> None:
    """A line of it may hold the password of a channel, and every command of everybody reads it."""
    places = config(tmp_path, "notify: mailtos://user:password@mail.org")
    app = an_app(places)
    app.actor = None
    with pytest.raises(FileError, match="password"):
        _ = app.config
    for role in (Role.SUBMITTER, Role.ADMIN):
        app = an_app(places)
        app.actor = Actor(role, "ana")
        with pytest.raises(HeadError, match="is wrong") as told:
            _ = app.nodes
        assert "password" not in str(told.value)
