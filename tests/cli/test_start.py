"""The program starts fast because it imports only what it uses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distribute_ssh.store.queue import Queue
from tests.store.makes import submitted

HEAVY = {"asyncio", "asyncssh", "pydantic", "rich", "sqlite_utils", "yaml"}

JOBS = """
meta: {batch_name: new, namespace: lab, capabilities: []}
python: {initialize: {build_file: build.py}, jobs: [{name: a, file: run.py}]}
"""


def imported(*arguments: str) -> set[str]:
    command = [sys.executable, "-X", "importtime", "-m", "distribute_ssh", *arguments]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60, check=True)
    return {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)}


@pytest.mark.parametrize("arguments", ["--help", "--version", "status", "status lab/study", "status --json"])
def test_looking_around_imports_nothing_heavy(home: Path, queue: Queue, arguments: str) -> None:
    submitted(queue, "a", "b")
    assert imported(*arguments.split()).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    ["explain lab/study", "nodes", "retry lab/study", "history lab/study", "kill -y lab/study", "add jobs.yaml"],
)
def test_what_asks_only_the_queue_and_the_inventory_needs_no_ssh(home: Path, queue: Queue, arguments: str) -> None:
    submitted(queue, "a", "b")
    (home / "jobs.yaml").write_text(JOBS)
    for name in ("build.py", "run.py"):
        (home / name).touch()
    assert imported(*arguments.split()).isdisjoint({"asyncssh", "rich", "pydantic"})


def test_looking_at_nothing_makes_nothing(home: Path) -> None:
    imported("status")
    assert not (home / "state").exists()
