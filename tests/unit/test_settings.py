"""Where things are, and the config file."""

from __future__ import annotations

from pathlib import Path

import pytest

from distribute_ssh.errors import FileError, UsageError
from distribute_ssh.model import settings
from distribute_ssh.model.settings import Places, read_config

HOME = Path("/home/ana")


def test_without_any_variable_everything_lies_in_the_xdg_folders() -> None:
    places = Places.of({}, HOME)
    assert places.state == HOME / ".local/state/distribute"
    assert places.config_file == HOME / ".config/distribute/config.yaml"
    assert places.inventory == HOME / ".config/distribute/inventory.yaml"
    assert places.storage == HOME / ".local/share/distribute/storage"
    assert places.ssh_config is None


def test_the_xdg_variables_move_each_folder() -> None:
    env = {"XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d"}
    places = Places.of(env, HOME)
    assert places.database == Path("/s/distribute/queue.db")
    assert places.config == Path("/c/distribute")
    assert places.data == Path("/d/distribute")


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_an_empty_or_relative_xdg_variable_is_ignored(value: str) -> None:
    assert Places.of({"XDG_STATE_HOME": value}, HOME) == Places.of({}, HOME)


def test_distribute_home_moves_the_state_and_nothing_else() -> None:
    places = Places.of({"DISTRIBUTE_HOME": "/queue", "XDG_STATE_HOME": "/s"}, HOME)
    assert places.state == Path("/queue")
    assert {places.database, places.lock, places.known_hosts, places.spool} == {
        Path("/queue/queue.db"),
        Path("/queue/lock"),
        Path("/queue/known_hosts"),
        Path("/queue/spool"),
    }
    assert places.data == Places.of({}, HOME).data


def test_a_relative_distribute_home_is_refused() -> None:
    with pytest.raises(UsageError, match="absolute"):
        Places.of({"DISTRIBUTE_HOME": "queue"}, HOME)


def test_describe_names_every_place_as_text() -> None:
    places = Places.of({"DISTRIBUTE_SSH_CONFIG": "/etc/lab_ssh"}, HOME)
    shown = places.describe()
    assert shown["database"] == str(places.database)
    assert shown["ssh_config"] == "/etc/lab_ssh"
    assert all(isinstance(value, str) and value.startswith("/") for value in shown.values())


def places_with(tmp_path: Path, text: str | None) -> Places:
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    return Places.of({"DISTRIBUTE_CONFIG": str(file)}, HOME)


@pytest.mark.parametrize("text", [None, "", "\n", "{}"])
def test_without_a_config_file_the_submitter_is_who_is_logged_in(tmp_path: Path, text: str | None) -> None:
    config = read_config(places_with(tmp_path, text), "ana")
    assert (config.user, config.inventory) == ("ana", None)


def test_the_config_file_names_the_submitter_and_an_inventory_beside_it(tmp_path: Path) -> None:
    config = read_config(places_with(tmp_path, "user: Ana L.\ninventory: lab.yaml\n"), "ana")
    assert (config.user, config.inventory) == ("Ana L.", tmp_path / "lab.yaml")


def test_an_absolute_inventory_stays_where_it_is(tmp_path: Path) -> None:
    assert read_config(places_with(tmp_path, "inventory: /srv/lab.yaml"), "ana").inventory == Path("/srv/lab.yaml")


def test_every_mistake_in_the_config_file_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        read_config(places_with(tmp_path, f"usr: ana\nuser: {'x' * 101}\ninventory: [a]\n"), "ana")
    text = str(caught.value)
    assert "config.yaml:1:1: usr: " in text
    assert "did you mean `user`?" in text
    assert ":2:7: user: has more than 100" in text
    assert ":3:12: inventory: " in text


def test_a_config_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(Places.of({"DISTRIBUTE_CONFIG": str(tmp_path)}, HOME), "ana")


def test_an_account_without_a_name_still_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError("no username set in the environment")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert settings.login_name().startswith("uid-")
