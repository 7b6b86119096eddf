"""A home of its own for each test, with this machine as its only node; the program is called in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

INVENTORY = "storage: {home}/storage\nnodes:\n  - {{name: here, connection: local, slots: 2, scratch: {scratch}}}\n"
BUILD = "print('nothing to build')\n"
RUN = """\
import json, os
x = json.load(open("input/sweep.json"))["x"]
print("x is", x)
if x == 3:
    raise ValueError("no convergence")
with open("distribute_save/square.txt", "w") as file:
    file.write(str(x * x))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to stand in, with `build.py` and `run.py`."""
    for name in [name for name in os.environ if name.startswith(("DISTRIBUTE_", "XDG_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / "storage").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DISTRIBUTE_HOME", str(home / "state"))
    monkeypatch.setenv("DISTRIBUTE_INVENTORY", str(home / "inventory.yaml"))
    monkeypatch.chdir(home)
    (home / "build.py").write_text(BUILD)
    (home / "run.py").write_text(RUN)
    with TemporaryDirectory(prefix="distribute-api-") as scratch:
        (home / "inventory.yaml").write_text(INVENTORY.format(home=home, scratch=scratch))
        yield home
