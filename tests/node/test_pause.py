"""Pausing a node: everything of every attempt stands still, and goes on at the end of the lease, whoever is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from distribute_ssh.errors import ScratchError
from distribute_ssh.model.lease import Lease, NodeRequest
from distribute_ssh.node.lease import carry_out
from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink
from tests.node.conftest import fill
from tests.support import processes
from tests.support.resident import Resident, job, new_token, resident
from tests.support.wait import until

# Every process of it is busy, wherever it went, and writes its number into the folder PIDS.
BUSY = """
import os, signal, sys

def busy(name):
    with open(os.path.join(PIDS, name + ".new"), "w") as file:
        file.write(str(os.getpid()))
    os.rename(os.path.join(PIDS, name + ".new"), os.path.join(PIDS, name))
    while True:
        pass

def child(name, before=lambda: None):
    if os.fork() == 0:
        before()
        busy(name)

def daemon():
    os.setsid()
    os.chdir("/")
    if os.fork():
        os._exit(0)
    for fd in range(3):
        os.close(fd)

child("own session", os.setsid)
child("own group", lambda: os.setpgid(0, 0))
child("daemon", daemon)
for number in range(MANY):
    child("plain %d" % number)
busy("main")
"""


@pytest.fixture
async def here(shell_link: Link, tmp_path: Path) -> AsyncIterator[Resident]:
    """A resident under each kind of /bin/sh that a node may have."""
    async with resident(shell_link, tmp_path) as opened:
        yield opened
        await go_on(opened)
        await end_all(opened)


@pytest.fixture
async def desk(link: Link, tmp_path: Path) -> AsyncIterator[Resident]:
    """A resident over each kind of link."""
    async with resident(link, tmp_path) as opened:
        yield opened
        if not opened.channel.closed.is_set():
            await go_on(opened)
            await end_all(opened)


async def end_all(here: Resident) -> None:
    for folder in (here.room / "attempts").iterdir():
        await here.kill(folder.name, grace=0)


async def pause(here: Resident, seconds: float = 600, *, age: float = 0, reason: str | None = None) -> Lease | None:
    now = time.time()
    return await carry_out(here.channel, NodeRequest(new_token(), now - age, "ana", now + seconds, reason))


async def go_on(here: Resident, *, age: float = 0) -> Lease | None:
    return await carry_out(here.channel, NodeRequest(new_token(), time.time() - age, "ana"))


async def busy(here: Resident, tmp_path: Path, many: int = 10) -> dict[str, int]:
    """Start an attempt of busy processes; their numbers."""
    token = new_token()
    pids = tmp_path / f"pids-{token}"
    pids.mkdir()
    (tmp_path / f"{token}.py").write_text(f"PIDS, MANY = {str(pids)!r}, {many}\n{BUSY}")
    await here.start(token, job(f"exec python3 {tmp_path}/{token}.py", token=token))

    def names() -> list[str]:
        return [name for name in os.listdir(pids) if not name.endswith(".new")]

    await until(lambda: len(names()) == many + 4, "all are busy")
    return {name: int((pids / name).read_text()) for name in names()}


def cpu(pid: int) -> int:
    """Hundredths of a second that a process has had of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def state(pid: int) -> str:
    found = processes.look(pid)
    return found.state if found else "gone"


def stopped(pids: dict[str, int]) -> set[str]:
    return {name for name, pid in pids.items() if state(pid) == "T"}


async def waiting(here: Resident) -> tuple[str, Path]:
    """Start an attempt on a paused node; its token, and the file that it makes when it runs."""
    token = new_token()
    begun = here.room / f"begun-{token}"
    await here.start(token, job(f": > {begun}; exec sleep 600", token=token))
    await here.event("started", token)
    return token, begun


def timer(here: Resident, lease: Lease) -> int:
    """The process number of a lease's timer; 0 where there is none."""
    with contextlib.suppress(OSError):
        return int((here.room / f"timer.{lease.token}").read_text().split()[0])
    return 0


# --- everything stands still, and goes on ---


async def test_nothing_gains_cpu_time_while_paused_and_everything_does_afterwards(
    here: Resident, tmp_path: Path
) -> None:
    pids = await busy(here, tmp_path, 50)
    lease = await pause(here)
    assert lease is not None
    assert lease.left == ()
    before = {name: cpu(pid) for name, pid in pids.items()}
    await asyncio.sleep(2)  # a promise about time
    assert {name: cpu(pid) for name, pid in pids.items()} == before
    assert stopped(pids) == set(pids)
    assert await go_on(here) is None
    assert stopped(pids) == set()
    await until(lambda: all(cpu(pid) > before[name] for name, pid in pids.items()), "all go on")


async def test_all_attempts_of_the_node_are_stopped_and_those_of_others_are_not(desk: Resident, tmp_path: Path) -> None:
    one, two = await busy(desk, tmp_path, 1), await busy(desk, tmp_path, 1)
    (tmp_path / "other").mkdir()
    async with resident(LocalLink("other"), tmp_path / "other") as other:
        theirs = await busy(other, tmp_path, 1)
        assert await pause(desk) is not None
        assert stopped(one) == set(one)
        assert stopped(two) == set(two)
        assert stopped(theirs) == set()
        await end_all(other)


async def test_wrappers_are_never_stopped_for_long(desk: Resident) -> None:
    token = new_token()
    await desk.start(token, job("exec sleep 600", token=token))
    await desk.event("started", token)
    await pause(desk)
    wrapper = int((desk.home(token) / "pid").read_text().split()[0])
    assert state(wrapper) == "S"


async def test_a_paused_job_that_is_let_go_comes_to_its_end_as_if_nothing_had_been(desk: Resident) -> None:
    token = new_token()
    await desk.start(token, job("sleep 1; exit 7", token=token))
    await desk.event("started", token)
    await pause(desk)
    await go_on(desk)
    assert await desk.event("exit", token) == "7"


async def test_who_starts_mpi_ranks_is_told_to_stop_those_elsewhere(here: Resident, tmp_path: Path) -> None:
    (tmp_path / "mpirun.py").write_text(
        "import ctypes, os, signal, time\n"
        "ctypes.CDLL(None).prctl(15, b'mpirun')\n"
        f"signal.signal(signal.SIGTSTP, lambda *_: open({str(tmp_path / 'told')!r}, 'w').close())\n"
        f"open({str(tmp_path / 'pid.new')!r}, 'w').write(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'pid.new')!r}, {str(tmp_path / 'pid')!r})\n"
        "while True:\n    time.sleep(0.01)\n"
    )
    token = new_token()
    await here.start(token, job(f"exec python3 {tmp_path}/mpirun.py", token=token))
    await until((tmp_path / "pid").exists, "it listens")
    await pause(here)
    assert (tmp_path / "told").exists()
    assert state(int((tmp_path / "pid").read_text())) == "T"


async def test_what_cannot_be_stopped_is_named(here: Resident) -> None:
    token = new_token()
    # The parent of a vfork waits for its child, deaf to every signal but KILL.
    child = "import ctypes; libc = ctypes.CDLL(None); libc.vfork() or libc.pause()"
    await here.start(token, job(f"exec python3 -c '{child}'", token=token))

    def deaf() -> list[int]:
        there = [each for each in processes.everything() if child in each.command]
        return [each.pid for each in there if each.state == "D" and any(other.parent == each.pid for other in there)]

    await until(deaf, "it waits for its child")
    lease = await pause(here)
    assert lease is not None
    (named,) = lease.left
    pid, command = named.split(" ", 1)
    assert [int(pid)] == deaf()
    assert "python3 -c import ctypes" in command


async def test_who_and_why_come_back_as_they_were_said(desk: Resident) -> None:
    reason = "Besuch (\\n \\0101) 'für' \"mich\"; $(id) `id` * é  ünd\nmehr"
    lease = await pause(desk, reason=reason)
    assert lease is not None
    assert (lease.who, lease.reason) == ("ana", reason.replace("\n", " "))
    assert abs(lease.until - time.time() - 600) < 3
    assert abs(lease.since - time.time()) < 3


async def test_a_very_long_reason_is_cut_and_the_lease_stands(desk: Resident) -> None:
    lease = await pause(desk, reason="ü" * 5000)
    assert lease is not None
    assert lease.reason
    assert set(lease.reason) == {"ü"}


# --- its end ---


async def test_it_ends_on_time_by_itself_and_says_so(here: Resident, tmp_path: Path) -> None:
    pids = await busy(here, tmp_path, 2)
    began = time.monotonic()
    lease = await pause(here, 3)
    assert lease is not None
    assert stopped(pids) == set(pids)
    await until(lambda: here.said("resumed", lease.token), "it says so")
    assert stopped(pids) == set()
    assert 1.9 < time.monotonic() - began < 5


async def test_it_ends_on_time_with_resident_and_connection_gone(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        pids = await busy(here, tmp_path, 2)
        began = time.monotonic()
        await pause(here, 3)
        assert stopped(pids) == set(pids)
        os.kill(here.channel.hello.pid, signal.SIGKILL)
    await until(lambda: not stopped(pids), "all go on")
    assert 1.9 < time.monotonic() - began < 5
    async with resident(link, tmp_path) as here:
        await end_all(here)


async def test_a_timer_that_was_killed_is_replaced_at_the_next_look(desk: Resident, tmp_path: Path) -> None:
    pids = await busy(desk, tmp_path, 2)
    lease = await pause(desk, 4)
    assert lease is not None
    first = timer(desk, lease)
    os.kill(first, signal.SIGKILL)
    await until(lambda: not processes.is_alive(first), "it is gone")  # on a busy machine that takes its moment
    await desk.look(new_token())
    await until(lambda: timer(desk, lease) not in (0, first), "another one counts")
    await until(lambda: not stopped(pids), "all go on")


@pytest.mark.root
async def test_on_a_full_disk_a_timer_that_was_killed_is_replaced_by_one(link: Link, small_disk: Path) -> None:
    async with resident(link, small_disk) as here:
        lease = await pause(here)
        assert lease is not None
        first = timer(here, lease)
        fill(small_disk)
        os.kill(first, signal.SIGKILL)
        await until(lambda: not processes.is_alive(first), "it is gone")
        for _ in range(5):
            await here.look(new_token())
            await until(lambda: processes.is_alive(timer(here, lease)), "another one counts")
        names = [path.name for path in here.room.iterdir() if path.name.startswith("timer.")]
        assert names == [f"timer.{lease.token}"]
        script = f"pause.sh 0 {lease.token}"
        await until(
            lambda: len([e for e in processes.everything() if script in " ".join(e.command)]) == 1, "and one only"
        )
        await go_on(here)


async def test_a_lease_that_was_over_unnoticed_ends_when_somebody_connects(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        pids = await busy(here, tmp_path, 2)
        lease = await pause(here, 2)
        assert lease is not None
        os.kill(timer(here, lease), signal.SIGKILL)
    await asyncio.sleep(2)  # the time of the lease passes
    assert stopped(pids) == set(pids)
    async with resident(link, tmp_path) as here:
        await until(lambda: not stopped(pids), "all go on")
        await end_all(here)


async def test_said_again_it_is_extended(desk: Resident, tmp_path: Path) -> None:
    pids = await busy(desk, tmp_path, 2)
    first = await pause(desk, 2)
    second = await pause(desk, 600)
    assert first is not None
    assert second is not None
    assert second.token != first.token
    assert abs(second.since - first.since) < 2
    assert not (desk.room / f"lease.{first.token}").exists()
    await asyncio.sleep(3)  # the end of the first one passes
    assert stopped(pids) == set(pids)


async def test_said_again_it_is_shortened(desk: Resident, tmp_path: Path) -> None:
    pids = await busy(desk, tmp_path, 2)
    await pause(desk, 600)
    await pause(desk, 1)
    await until(lambda: not list(desk.room.glob("lease.*")), "it is over")
    await until(lambda: not stopped(pids), "all go on")


async def test_a_request_that_comes_late_does_not_undo_what_was_said_since_then(desk: Resident, tmp_path: Path) -> None:
    pids = await busy(desk, tmp_path, 2)
    lease = await pause(desk)
    assert lease is not None
    standing = await go_on(desk, age=30)
    assert standing is not None
    assert standing.token == lease.token
    standing = await pause(desk, 1, age=30)
    assert standing is not None
    assert standing.token == lease.token
    assert stopped(pids) == set(pids)


async def test_the_same_request_twice_is_one(desk: Resident, tmp_path: Path) -> None:
    await busy(desk, tmp_path, 2)
    now = time.time()
    request = NodeRequest(new_token(), now, "ana", now + 600)
    leases = await asyncio.gather(*(carry_out(desk.channel, request) for _ in range(3)))
    assert {lease and lease.token for lease in leases} == {request.token}


@pytest.mark.parametrize("seed", range(3))
async def test_requests_that_overtake_each_other_end_in_what_was_said_last(
    desk: Resident, tmp_path: Path, seed: int
) -> None:
    pids = await busy(desk, tmp_path, 4)
    order = random.Random(seed)
    for last in (pause, go_on):
        acts = [order.choice((pause, go_on)) for _ in range(8)] + [last]
        await asyncio.gather(*(act(desk) for act in acts))
        expected = set(pids) if last is pause else set()
        await until(lambda: stopped(pids) == expected, f"as {last.__name__} said")  # noqa: B023  # not kept


async def test_two_pauses_in_one_moment_do_not_end_each_other(desk: Resident, tmp_path: Path) -> None:
    pids = await busy(desk, tmp_path, 2)
    async with resident(LocalLink("second"), desk.room.parent) as second:
        for _ in range(5):
            await asyncio.gather(pause(desk), pause(second))
            assert stopped(pids) == set(pids)
            await go_on(desk)
            assert stopped(pids) == set()


async def test_a_lease_from_before_a_restart_is_void(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        old = here.room / f"lease.{new_token()}"
        old.write_text("999999999 1 1 00000000-0000-4000-8000-000000000001 1900000000 ana\n")
        token, begun = await waiting(here)
        await until(begun.exists, "it begins")
        assert await here.look(token) == "running"
    async with resident(link, tmp_path) as here:
        assert not old.exists()
        await end_all(here)


async def test_rubbish_in_the_place_of_a_lease_pauses_nothing(desk: Resident) -> None:
    (desk.room / "lease.rubbish").write_bytes(b"\0\xff never\n")
    (desk.room / "lease.folder").mkdir()
    _, begun = await waiting(desk)
    await until(begun.exists, "it begins")


@pytest.mark.root
async def test_a_disk_without_room_for_the_lease_is_told(link: Link, small_disk: Path) -> None:
    async with resident(link, small_disk) as here:
        fill(small_disk)
        with pytest.raises(ScratchError, match="no room left"):
            await pause(here)


# --- what begins, and what ends, meanwhile ---


async def test_what_is_started_on_a_paused_node_waits_for_the_end(here: Resident) -> None:
    await pause(here)
    token, begun = await waiting(here)
    assert (await here.look(token)).endswith(" p")
    assert not begun.exists()
    await go_on(here)
    await until(begun.exists, "it begins")


async def test_what_waits_for_the_end_can_be_killed_and_never_runs(here: Resident) -> None:
    await pause(here)
    token, begun = await waiting(here)
    assert await here.kill(token) == "0"
    assert (await here.look(token)).startswith("ended ")
    await go_on(here)
    assert not begun.exists()


async def test_a_kill_gives_a_paused_job_the_time_to_end_in_order(here: Resident, tmp_path: Path) -> None:
    token, slot = new_token(), f"batches/{new_token()}/slot-0"
    (tmp_path / "run.py").write_text(
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(0.5)\n"
        "    open('distribute_save/state', 'w').close()\n"
        "    sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open('ready', 'w').close()\n"
        "while True:\n"
        "    time.sleep(0.01)\n"
    )
    await here.start(token, job(f"exec python3 {tmp_path}/run.py", token=token, slot=slot))
    await until((here.room / slot / "ready").exists, "it listens")
    others = await busy(here, tmp_path, 2)
    await pause(here)
    assert await here.kill(token, grace=10) == "0"
    assert await here.look(token) == "ended 9"
    assert (here.home(token) / "save" / "state").exists()
    assert stopped(others) == set(others)


async def test_what_somebody_lets_go_on_by_hand_is_stopped_again(desk: Resident, tmp_path: Path) -> None:
    pids = await busy(desk, tmp_path, 2)
    await pause(desk)
    for pid in pids.values():
        os.kill(pid, signal.SIGCONT)
    assert stopped(pids) == set()
    await until(lambda: stopped(pids) == set(pids), "the timer has looked")


# --- counting ---


async def test_paused_seconds_are_counted_over_all_pauses(desk: Resident) -> None:
    token = new_token()
    await desk.start(token, job("exec sleep 600", token=token))
    await desk.event("started", token)
    assert await desk.look(token) == "running"
    in_all = 0.0
    for _ in range(2):
        began = time.monotonic()
        await pause(desk)
        await asyncio.sleep(2)
        assert (await desk.look(token)).endswith(" p")
        await go_on(desk)
        in_all += time.monotonic() - began
    _, seconds, running = (await desk.look(token)).split()
    assert running == "r"
    assert abs(int(seconds) - in_all) <= 2.5


async def test_an_extended_pause_is_counted_once(desk: Resident) -> None:
    token = new_token()
    await desk.start(token, job("exec sleep 600", token=token))
    await desk.event("started", token)
    began = time.monotonic()
    for _ in range(4):
        await pause(desk)
        await asyncio.sleep(0.5)
    await go_on(desk)
    assert abs(int((await desk.look(token)).split()[1]) - (time.monotonic() - began)) <= 1.5


async def test_of_a_pause_that_began_earlier_only_the_rest_counts(desk: Resident) -> None:
    await pause(desk)
    await asyncio.sleep(3)
    token, begun = await waiting(desk)
    assert int((await desk.look(token)).split()[1]) <= 1
    await go_on(desk)
    await until(begun.exists, "it begins")
    assert await desk.look(token) in ("running", "running 1 r", "running 2 r")
