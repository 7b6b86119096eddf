"""The program, called in this process or in one of its own, always with a home of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distribute_ssh.cli import main
from distribute_ssh.store.queue import Queue
from tests.endtoend.conftest import site

__all__ = ["site"]  # the same head, with the program in processes of its own


@dataclass(frozen=True)
class Answer:
    """What a call came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one document on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        assert found["schema"] == 1
        return found


INVENTORY = """\
storage: {home}/storage
nodes:
  - {{name: lab1, slots: 2}}
  - lab2
  - {{name: here, connection: local}}
"""

Call = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that holds nothing, an inventory of three nodes nobody can reach, and a folder to stand in."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "DISTRIBUTE_CONFIG", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DISTRIBUTE_HOME", str(home / "state"))
    inventory = home / "inventory.yaml"
    inventory.write_text(INVENTORY.format(home=home))
    monkeypatch.setenv("DISTRIBUTE_INVENTORY", str(inventory))
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def call(home: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """Call the program in this process."""

    def calling(*arguments: str | Path) -> Answer:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return calling


@pytest.fixture
def queue(home: Path) -> Iterator[Queue]:
    """The queue the calls work on."""
    queue = Queue.open(home / "state" / "queue.db")
    yield queue
    queue.close()


@pytest.fixture
def now() -> float:
    """The time, in whole seconds, as documents carry it."""
    return float(int(time.time()))
