"""The same program with a head elsewhere: files go up, the head drives its queue, results come back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import distribute_ssh as d
from distribute_ssh.errors import UsageError
from tests.head.conftest import shared
from tests.head.site import Head

__all__ = ["shared"]  # one head for all of this file

LIMIT = 90.0
pytestmark = pytest.mark.sshd
RUN = """\
import json
x = json.load(open("input/sweep.json"))["x"]
open("distribute_save/square.txt", "w").write(str(x * x))
if x == 3:
    raise ValueError("no convergence")
"""


@pytest.fixture
def laptop(shared: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which somebody at a laptop works; the head is told by the environment."""
    for name in [name for name in os.environ if name.startswith(("DISTRIBUTE_", "XDG_"))]:
        monkeypatch.delenv(name)
    for name, value in shared.laptop("ana").env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build.py").write_text("print('built')\n")
    (tmp_path / "run.py").write_text(RUN)
    return tmp_path


def test_a_batch_goes_to_the_head_and_its_results_come_back(laptop: Path, shared: Head) -> None:
    batch = d.python_batch("ana", "sweep", build="build.py")
    batch.job("x_{x}", "run.py", sweep={"x": [2, 3]})
    handle = d.submit(batch)
    ended = {job.name: job for job in handle.as_completed(timeout=LIMIT)}
    assert {name: str(job.state) for name, job in ended.items()} == {"x_2": "done", "x_3": "failed"}
    assert ended["x_3"].reason == "exit 1: ValueError: no convergence"
    assert ended["x_2"].sweep == {"x": 2}
    pulled = handle.pull("results", include=["square"])
    assert (pulled["x_2"] / "square.txt").read_text() == "4"
    assert d.find("ana/sweep", head="head-ana").wait(timeout=LIMIT).failed[0].name == "x_3"
    assert shared.site.data("status", "ana/sweep")["batches"][0]["submitter"] == "ana"


def test_functions_run_on_the_nodes_of_a_head(laptop: Path) -> None:
    with d.Executor("ana/calls", head="head-ana") as executor:
        assert list(executor.map(len, ["a", "ab"], timeout=LIMIT)) == [1, 2]


def test_errors_of_the_head_are_the_same_errors_here(laptop: Path, tmp_path: Path) -> None:
    with pytest.raises(d.DistributeError, match="ana/nothing") as caught:
        d.find("ana/nothing")
    assert caught.value.exit_code == 3
    batch = d.python_batch("ana", "nowhere", build="build.py", capabilities=["no-such-tool"])
    batch.job("a", "build.py")
    with pytest.raises(d.DistributeError, match="can run nowhere"):
        d.submit(batch).wait(timeout=LIMIT)
    with pytest.raises(UsageError, match="the inventory is a file of this machine"):
        d.submit(batch, inventory=tmp_path / "inventory.yaml")


def test_a_batch_on_the_head_can_be_killed(laptop: Path) -> None:
    (laptop / "slow.py").write_text("import time\ntime.sleep(600)\n")
    batch = d.python_batch("ana", "slow", build="build.py")
    batch.job("waits", "slow.py")
    handle = d.submit(batch)
    handle.kill()
    assert handle.wait(timeout=LIMIT)["waits"].state == "killed"
