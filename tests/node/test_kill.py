"""Ending an attempt: nothing of it is left, whatever it did to get away, and what it saved is kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from distribute_ssh.node.link import Link
from tests.support import processes
from tests.support.resident import Resident, job, new_token, resident
from tests.support.wait import until

# Each way to spread writes its process number into the folder PIDS before it goes on for ever.
SPREAD = """
import os, signal, subprocess, sys, time

def note(name):
    with open(os.path.join(PIDS, name + ".new"), "w") as file:
        file.write(str(os.getpid()))
    os.rename(os.path.join(PIDS, name + ".new"), os.path.join(PIDS, name))

def forever(name):
    note(name)
    while True:
        time.sleep(1)

def child(name, before=lambda: None):
    if os.fork() == 0:
        before()
        forever(name)

def daemon():
    os.setsid()
    os.chdir("/")
    if os.fork():
        os._exit(0)
    for fd in range(3):
        os.close(fd)

def deaf():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

def bare():
    # Its environment is cleared; it is found as a child of one that is not.
    note("bare")
    os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})

child("plain")
child("own group", lambda: os.setpgid(0, 0))
child("own session", os.setsid)
child("daemon", daemon)
child("deaf", deaf)
child("deaf daemon", lambda: (daemon(), deaf()))
if os.fork() == 0:
    bare()
if os.fork() == 0:
    # Whoever is killed is started anew.
    deaf()
    number = 0
    while True:
        number += 1
        if os.fork() == 0:
            forever("respawned %d" % number)
        os.wait()
forever("main")
"""
KINDS = {"plain", "own group", "own session", "daemon", "deaf", "deaf daemon", "bare", "respawned 1", "main"}


@pytest.fixture
async def here(shell_link: Link, tmp_path: Path) -> AsyncIterator[Resident]:
    """A resident under each kind of /bin/sh that a node may have."""
    async with resident(shell_link, tmp_path) as opened:
        yield opened


def tagged(token: str) -> list[int]:
    """Every process that carries an attempt's tag."""
    found = []
    for each in processes.everything():
        with contextlib.suppress(OSError):
            if f"DISTRIBUTE_ATTEMPT={token}".encode() in Path(f"/proc/{each.pid}/environ").read_bytes().split(b"\0"):
                found.append(each.pid)
    return found


async def spread(here: Resident, tmp_path: Path, token: str) -> Path:
    """Start an attempt that does all it can to get away; the folder where it notes its processes."""
    pids = tmp_path / "pids"
    pids.mkdir()
    (tmp_path / "spread.py").write_text(f"PIDS = {str(pids)!r}\n{SPREAD}")
    slot = f"batches/{new_token()}/slot-0"
    payload = f"echo kept > distribute_save/result; exec python3 {tmp_path}/spread.py"
    await here.start(token, job(payload, token=token, slot=slot))
    await until(lambda: set(os.listdir(pids)) >= KINDS, "it has spread")
    return pids


def alive(pids: Path) -> set[str]:
    """What of it is left."""
    return {path.name for path in pids.iterdir() if path.suffix != ".new" and processes.is_alive(int(path.read_text()))}


async def test_nothing_gets_away_and_what_was_saved_is_kept(here: Resident, tmp_path: Path) -> None:
    token = new_token()
    pids = await spread(here, tmp_path, token)
    assert alive(pids) == KINDS
    assert await here.kill(token, grace=1) == "0"
    assert alive(pids) == set()
    assert tagged(token) == []
    assert (await here.look(token)) in ("ended 143", "ended 137")
    assert (here.home(token) / "save" / "result").read_text() == "kept\n"


async def test_nothing_gets_away_whose_wrapper_was_killed(here: Resident, tmp_path: Path) -> None:
    token = new_token()
    pids = await spread(here, tmp_path, token)
    os.kill(int((here.home(token) / "pid").read_text().split()[0]), signal.SIGKILL)
    assert await here.kill(token, grace=1) == "0"
    # Its parent is gone and its environment is cleared: the one thing the tag does not find.
    assert alive(pids) <= {"bare"}
    for name in alive(pids):
        os.kill(int((pids / name).read_text()), signal.SIGKILL)
    assert await here.look(token) == "ended lost"
    assert (here.home(token) / "save" / "result").read_text() == "kept\n"


async def test_a_stopped_job_is_ended_as_well(here: Resident, tmp_path: Path) -> None:
    token = new_token()
    pids = await spread(here, tmp_path, token)
    for path in pids.iterdir():
        with contextlib.suppress(ValueError, ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGSTOP)
    assert await here.kill(token, grace=1) == "0"
    assert alive(pids) == set()
    assert (await here.look(token)).startswith("ended ")


async def test_a_job_that_wants_to_end_in_order_gets_the_time(here: Resident) -> None:
    token, slot = new_token(), f"batches/{new_token()}/slot-0"
    payload = (
        "trap 'sleep 0.5; echo checkpoint > distribute_save/state; exit 9' TERM; : > ready; while :; do sleep 0.1; done"
    )
    await here.start(token, job(payload, token=token, slot=slot))
    await until((here.room / slot / "ready").exists, "it runs")
    assert await here.kill(token, grace=30) == "0"
    assert await here.look(token) == "ended 9"
    assert (here.home(token) / "save" / "state").read_text() == "checkpoint\n"


async def test_the_neighbour_is_left_alone(here: Resident) -> None:
    one, other = new_token(), new_token()
    for token in (one, other):
        await here.start(token, job("sleep 600; exit 5", token=token))
        await here.event("started", token)
    assert await here.kill(one) == "0"
    assert await here.look(other) == "running"
    assert tagged(other)
    assert await here.kill(other) == "0"


async def test_killing_what_never_started_keeps_it_from_ever_starting(here: Resident, tmp_path: Path) -> None:
    """The start may still be on its way, on a line that was thought to be dead."""
    for token, prepare in ((new_token(), False), (new_token(), True)):
        if prepare:
            here.home(token).mkdir()
        assert await here.kill(token) == "0"
        assert (await here.start(token, job(f": > {tmp_path}/ran"))).ok
        assert await here.look(token) == "ended lost"
        await here.run(job(":"))
        assert await here.look(token) == "ended lost"
    assert not (tmp_path / "ran").exists()


async def test_killing_what_has_ended_changes_nothing(here: Resident) -> None:
    token = new_token()
    assert await here.run(job("exit 4"), token) == "ended 4"
    assert await here.kill(token) == "0"
    assert await here.look(token) == "ended 4"


async def test_killing_twice_at_once_is_killing(here: Resident) -> None:
    token = new_token()
    await here.start(token, job("trap '' TERM; while :; do sleep 0.1; done", token=token))
    await here.event("started", token)
    assert await asyncio.gather(*(here.kill(token, grace=0) for _ in range(3))) == ["0"] * 3
    assert tagged(token) == []
    assert (await here.look(token)).startswith("ended ")


async def test_what_was_started_before_the_machine_was_restarted_is_ended_as_lost(here: Resident) -> None:
    token, slot = new_token(), f"batches/{new_token()}/slot-0"
    home = here.home(token)
    (home / "claim").mkdir(parents=True)
    (here.room / slot / "distribute_save").mkdir(parents=True)
    (here.room / slot / "distribute_save" / "result").touch()
    (home / "run.sh").write_text(job(":", slot=slot))
    # This very process, as its number was before the restart: a stranger now.
    (home / "pid").write_text(f"{os.getpid()} 1 00000000-0000-4000-8000-000000000000\n")
    assert await here.kill(token) == "0"
    assert await here.look(token) == "ended lost"
    assert (home / "save" / "result").exists()


async def test_a_kill_in_the_moment_of_the_end_loses_neither_the_record_nor_what_was_saved(
    link: Link, tmp_path: Path
) -> None:
    """What the wrapper starts to record the end must not be taken for a process of the job."""
    chance = random.Random(5)

    async def one(here: Resident) -> None:
        token, slot = new_token(), f"batches/{new_token()}/slot-0"
        payload = "trap '' TERM; : > distribute_save/result; sleep 0.1; exit 5"
        await here.start(token, job(payload, token=token, slot=slot))
        await asyncio.sleep(chance.uniform(0.05, 0.2))
        assert await here.kill(token, grace=0) == "0"
        assert tagged(token) == []
        seen = await here.look(token)
        saved = (here.home(token) / "save" / "result").exists()
        assert not (here.room / slot / "distribute_save").exists() or seen == "ended stage"
        assert (seen, saved) in (("ended 5", True), ("ended 137", True), ("ended 137", False), ("ended stage", False))

    async with resident(link, tmp_path) as here:
        for _ in range(6):
            await asyncio.gather(*(one(here) for _ in range(5)))


async def test_a_kill_between_two_steps_of_an_attempt_leaves_none_that_begins_after_it(
    link: Link, tmp_path: Path
) -> None:
    chance = random.Random(6)

    async def one(here: Resident, number: int) -> None:
        token = new_token()
        ran = tmp_path / f"ran-{number}"
        stage = f"sleep {chance.uniform(0.01, 0.1):.3f}"
        await here.start(token, job(f": > {ran}; exec sleep 600", token=token, stage=stage))
        await here.event("started", token)
        await asyncio.sleep(chance.uniform(0, 0.1))
        assert await here.kill(token, grace=0) == "0"
        before = ran.exists()
        assert (await here.look(token)).startswith("ended ")
        assert tagged(token) == []
        await here.run(job(":"))
        assert ran.exists() == before
        assert tagged(token) == []

    async with resident(link, tmp_path) as here:
        for start in range(0, 30, 5):
            await asyncio.gather(*(one(here, start + n) for n in range(5)))


@pytest.mark.root
async def test_on_a_full_disk_it_is_ended_and_recorded_as_well(shell_link: Link, small_disk: Path) -> None:
    token, slot = new_token(), f"batches/{new_token()}/slot-0"
    async with resident(shell_link, small_disk) as here:
        payload = "cat /dev/zero > distribute_save/big; exec sleep 600"
        await here.start(token, job(payload, token=token, slot=slot))
        await until(lambda: os.statvfs(small_disk).f_bavail == 0, "it is full")
        assert await here.kill(token) == "0"
        assert await here.look(token) == "ended 143"
        assert (here.home(token) / "save" / "big").exists()
