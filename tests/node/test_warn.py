"""A job that asked for it is told that its time limit is near: its first process is, once, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from distribute_ssh.node.link import Link
from tests.support.resident import Resident, job, new_token, resident
from tests.support.wait import until

# It writes a line for each warning. Its child would die of one.
JOB = """\
import os, signal, subprocess, time

def warned(*_):
    with open("warned", "a") as file:
        file.write("warned\\n")

signal.signal(signal.SIGUSR1, warned)
child = subprocess.Popen(["sleep", "600"])
with open("child", "w") as file:
    file.write(str(child.pid))
os.rename("child", "ready")
while child.poll() is None:
    time.sleep(0.01)
"""


@pytest.fixture
async def here(shell_link: Link, tmp_path: Path) -> AsyncIterator[Resident]:
    """A resident under each kind of /bin/sh that a node may have."""
    async with resident(shell_link, tmp_path) as opened:
        yield opened
        for folder in (opened.room / "attempts").iterdir():
            await opened.kill(folder.name, grace=0)


async def warn(here: Resident, token: str) -> None:
    _, end = await here.channel.request("warn", token, "USR1")
    assert end.ok


async def begun(here: Resident, tmp_path: Path) -> tuple[str, Path]:
    """An attempt that is ready to be warned, and its folder."""
    token = new_token()
    slot = here.room / "batches" / new_token() / "slot-0"
    (tmp_path / "run.py").write_text(JOB)
    await here.start(token, job(f"exec python3 {tmp_path}/run.py", token=token, slot=str(slot)))
    await until((slot / "ready").exists, "it is ready")
    return token, slot


async def test_the_first_process_is_told_and_told_once(here: Resident, tmp_path: Path) -> None:
    token, slot = await begun(here, tmp_path)
    _, neighbour = await begun(here, tmp_path)
    for _ in range(3):
        await warn(here, token)
    await until((slot / "warned").exists, "it is told")
    assert (slot / "warned").read_text() == "warned\n"
    assert await here.look(token) == "running", "its child, which would have died of it, is not told"
    assert not (neighbour / "warned").exists()


async def test_who_does_not_run_is_not_told(here: Resident, tmp_path: Path) -> None:
    await warn(here, new_token())
    token = new_token()
    assert await here.run(job("exit 0", token=token), token) == "ended 0"
    await warn(here, token)


async def test_nobody_is_told_before_the_job_itself_has_begun(here: Resident, tmp_path: Path) -> None:
    token, gate = new_token(), tmp_path / "gate"
    stage = f"while [ ! -e {gate} ]; do sleep 0.1 2>/dev/null || sleep 1; done"
    await here.start(token, job("exit 7", token=token, stage=stage))
    await here.event("started", token)
    await warn(here, token)
    gate.touch()
    assert await here.event("exit", token) == "7", "its inputs were put in place, and it ran"
