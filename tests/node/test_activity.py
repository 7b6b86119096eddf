"""What a node says of somebody being there: terminals, sessions, files, processors; and that asking disturbs nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from distribute_ssh.model.lease import NodeRequest
from distribute_ssh.model.owner import Reading
from distribute_ssh.node import channel, wire
from distribute_ssh.node.activity import read
from distribute_ssh.node.lease import carry_out
from distribute_ssh.node.link import Link
from tests.support.lab import Lab
from tests.support.resident import Resident, job, new_token, resident
from tests.support.wait import until

NODE = Path(channel.__file__).parent
FIXTURES = Path(__file__).parents[1] / "fixtures" / "activity"
SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def ask(here: Resident, *words: str) -> list[Reading]:
    rows, end = await here.channel.request("activity", *(words or ("0", "0")))
    assert end.ok
    return read(rows)


def of(readings: list[Reading], kind: str) -> list[Reading]:
    return [reading for reading in readings if reading.kind == kind]


# --- the verb, under every shell and over every link ---


async def test_every_kind_is_answered_be_it_that_it_cannot_be_read(shell_link: Link, tmp_path: Path) -> None:
    async with resident(shell_link, tmp_path) as here:
        kinds = {reading.kind for reading in await ask(here, "1", "1")}
        assert {"tty", "session", "load", "cpu"} <= kinds
        assert {reading.kind for reading in await ask(here)} == kinds - {"cpu", "gpu"}


async def test_a_file_that_is_used_says_when(shell_link: Link, tmp_path: Path) -> None:
    pedal = tmp_path / "my pedal"
    pedal.touch()
    os.utime(pedal, (time.time() - 500, time.time() - 300))
    async with resident(shell_link, tmp_path) as here:
        words = ("0", "0", wire.word(str(pedal), 300), wire.word(str(tmp_path / "none"), 300))
        there, missing = of(await ask(here, *words), "watch")
        assert there.idle is not None
        assert 299 <= there.idle <= 310
        assert there.text == f"{pedal} was used"
        assert missing == Reading("watch", f"{tmp_path}/none is not there")
        pedal.touch()
        (now, _) = of(await ask(here, *words), "watch")
        assert now.idle is not None
        assert now.idle <= 5


async def test_whoever_asks_is_not_kept_waiting_while_processors_are_counted(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        counting = asyncio.create_task(ask(here, "3", "0"))
        for _ in range(3):
            await here.channel.request("ping", limit=2)
        assert not counting.done()
        await counting


async def test_many_answers_at_once_get_each_its_own(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        answers = await asyncio.gather(*(ask(here) for _ in range(5)))
        assert all(of(answer, "load") for answer in answers)


@contextlib.contextmanager
def busy() -> Iterator[int]:
    """A process of somebody else that keeps a processor busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def ticks(pid: int) -> int:
    """Hundredths of a second that a process has had of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def total() -> int:
    """The same of everything on this machine."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(fields[n]) for n in (1, 2, 3, 6, 7))


async def test_what_others_compute_is_counted_and_what_our_jobs_do_is_not(tmp_path: Path, shared_lab: Lab) -> None:
    # Over ssh: on a local link these tests themselves, from which the resident descends, are ours.
    async with shared_lab.link("lab1") as link, resident(link, tmp_path) as here:
        token = new_token()
        number = tmp_path / "number"
        endless = f"echo $$ > {number}.new; mv {number}.new {number}; while :; do :; done"
        await here.start(token, job(f"setsid -f sh -c '{endless}'; sleep 600", token=token))
        await until(number.exists, "it computes")
        ours = int(number.read_text())
        off = []
        with busy():
            for _ in range(3):
                before = (time.monotonic(), total(), ticks(ours))
                (cpu,) = of(await ask(here, "3", "0"), "cpu")
                seconds, all_of_it, mine = (
                    b - a for a, b in zip(before, (time.monotonic(), total(), ticks(ours)), strict=True)
                )
                assert cpu.amount is not None
                off.append(abs(cpu.amount - (all_of_it - mine) / 100 / seconds) / (mine / 100 / seconds))
        await here.kill(token, grace=0)
    assert sorted(off)[1] < 0.5, "nearer to what others use than to that with ours"


# --- the script, with a logind of our making ---


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def shell(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


def logind(folder: Path, situation: str) -> Path:
    """A folder with a loginctl that says what one would in that situation; for what `user`, see the fixtures."""
    now, up = int(time.time()), int(float(Path("/proc/uptime").read_text().split()[0]))
    properties = (FIXTURES / f"{situation}.properties").read_text()
    lines = []
    for line in properties.splitlines():
        key, mark, rest = line.partition("@")
        if mark:
            kind, _, ago = rest.partition("@")
            lines.append(f"{key}{((now if kind == 'NOW' else up) - int(ago)) * 1_000_000}")
        else:
            lines.append(line)
    folder.mkdir()
    (folder / "sessions").write_text((FIXTURES / f"{situation}.sessions").read_text())
    (folder / "properties").write_text("\n".join(lines) + "\n")
    program = folder / "loginctl"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *list-sessions*) cat {folder}/sessions ;; *) cat {folder}/properties ;; esac\n'
    )
    program.chmod(0o755)
    return folder


def run(
    shell: list[str], folder: Path, *words: str, first: Path | None = None, only: Path | None = None, above: int = 0
) -> list[Reading]:
    """Run the script with programs of ours `first` in its PATH, or with them `only`; what it reads.

    `above`: what it takes for the parent of the resident; these tests.
    """
    (folder / "attempts").mkdir(exist_ok=True)
    path = str(only) if only else ":".join([*([str(first)] if first else []), "/usr/bin:/bin"])
    env: Mapping[str, str] = {"PATH": path, "DISTRIBUTE_NONCE": "nonce", "DISTRIBUTE_BOOT": BOOT}
    ran = subprocess.run(
        [shutil.which(shell[0]) or "", *shell[1:], "-c", '. "$0" 3>&1', str(NODE / "activity.sh"), "7", str(NODE),
         str(above or os.getpid()), *(words or ("0", "0"))],
        cwd=folder, env=env, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    said = [wire.read(line + b"\n", "nonce") for line in ran.stdout.splitlines()]
    assert isinstance(said[-1], wire.End)
    return read(each for each in said if isinstance(each, wire.Row))


def idle(readings: list[Reading]) -> dict[str, float | None]:
    return {reading.text: reading.idle if reading.idle is None else round(reading.idle, -1) for reading in readings}


def test_of_all_that_logind_calls_sessions_people_are_found_with_how_long_they_are_idle(
    tmp_path: Path, shell: list[str]
) -> None:
    found = of(run(shell, tmp_path, first=logind(tmp_path / "bin", "gnome")), "session")
    assert idle(found) == {
        "ana at seat0 (wayland)": 420.0,
        "ben at pts/3": 100.0,
        "cem logged in without a terminal": 7200.0,
        # The desktop's own manager, the greeter, and ourselves are nobody.
    }


def test_a_desktop_that_never_calls_itself_idle_is_busy_until_its_screen_is_locked(
    tmp_path: Path, shell: list[str]
) -> None:
    assert idle(of(run(shell, tmp_path, first=logind(tmp_path / "kde", "plasma")), "session")) == {
        "ana at seat0 (x11)": 0.0
    }
    assert idle(of(run(shell, tmp_path, first=logind(tmp_path / "locked", "locked")), "session")) == {
        "ana at seat0 (x11), locked": None
    }


def test_nobody_is_logged_in_where_logind_says_so(tmp_path: Path, shell: list[str]) -> None:
    (found,) = of(run(shell, tmp_path, first=logind(tmp_path / "bin", "nobody")), "session")
    assert found == Reading("session", "nobody is logged in")


def tools(folder: Path, **programs: str) -> Path:
    """Programs of our making."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    return folder


def test_a_bus_that_does_not_answer_is_said_to_be_one(tmp_path: Path, shell: list[str]) -> None:
    found = run(shell, tmp_path, first=tools(tmp_path / "bin", loginctl="echo Host is down >&2; exit 1"))
    assert [reading.is_known for reading in of(found, "session")] == [False]


def test_a_screen_that_may_be_asked_tells_how_long_nobody_touched_it(tmp_path: Path, shell: list[str]) -> None:
    (found,) = of(run(shell, tmp_path, first=tools(tmp_path / "bin", xprintidle="echo 61234")), "screen")
    assert found.idle == 61
    denied = tools(tmp_path / "denied", xprintidle="echo No protocol specified; exit 1")
    assert of(run(shell, tmp_path, first=denied), "screen") == []


def test_processes_of_others_on_a_gpu_are_counted(tmp_path: Path, shell: list[str]) -> None:
    with busy() as theirs:
        smi = tools(tmp_path / "bin", nvidia_smi=f"echo {theirs}; echo 999999999")
        # Nothing here is below the process that is named as ours.
        (found,) = of(run(shell, tmp_path, "1", "1", first=smi, above=1 << 22), "gpu")
        assert found.amount == 2
        (found,) = of(run(shell, tmp_path, "1", "1", first=smi), "gpu")
        assert found.amount == 1, "what descends from us is ours"
    broken = tools(tmp_path / "broken", nvidia_smi="echo 'Driver/library version mismatch'; exit 18")
    (found,) = of(run(shell, tmp_path, "1", "1", first=broken), "gpu")
    assert not found.is_known


@pytest.mark.parametrize("shell", SHELLS[:2], ids=lambda shell: shell[0])  # busybox brings its tools along
def test_without_any_tool_it_still_answers_and_says_what_cannot_be_read(tmp_path: Path, shell: list[str]) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("id", "date"):
        (few / name).symlink_to(shutil.which(name) or "")
    found = run(shell, tmp_path, only=few)
    assert {(reading.kind, reading.is_known) for reading in found} == {
        ("tty", False),
        ("session", False),
        ("load", True),
    }


@pytest.mark.root
def test_a_terminal_of_another_account_is_a_sign_and_one_of_ours_is_not(tmp_path: Path, shell: list[str]) -> None:
    main, side = pty.openpty()
    name = os.ttyname(side)
    try:
        ours = name.removeprefix("/dev/")
        assert not any(ours in reading.text for reading in of(run(shell, tmp_path), "tty"))
        os.chown(name, 12345, -1)
        os.utime(name, (time.time() - 40, time.time()))
        (found,) = [reading for reading in of(run(shell, tmp_path), "tty") if ours in reading.text]
        assert found.text == f"uid 12345 at {ours}"
        assert found.idle is not None
        assert 39 <= found.idle <= 50
    finally:
        os.close(main)
        os.close(side)


def test_a_look_costs_less_than_a_tenth_of_a_second(tmp_path: Path) -> None:
    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    costs = []
    for _ in range(3):
        before = used()
        run(SHELLS[0], tmp_path, "1", "0")
        costs.append(used() - before)
    assert min(costs) < 0.1


# --- pauses that nobody in person asked for ---


def asked(token: str, seconds: float, **fields: bool) -> NodeRequest:
    now = time.time()
    return NodeRequest(token, now, "its owner's activity", now + seconds, "ana at pts/3", **fields)  # type: ignore[arg-type]


async def test_a_pause_that_is_extended_is_one_with_one_timer_and_counted_once(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        token, name = new_token(), new_token()
        await here.start(token, job("exec sleep 600", token=token))
        await here.event("started", token)
        began = time.monotonic()
        await carry_out(here.channel, asked(name, 3, yields=True))
        timer = (here.room / f"timer.{name}").read_text()
        for seconds in (200, 400):
            await asyncio.sleep(1)
            lease = await carry_out(here.channel, asked(name, seconds, extends=True))
            assert lease is not None
            assert (lease.token, lease.reason) == (name, "ana at pts/3")
            assert abs(lease.until - time.time() - seconds) < 3
        await asyncio.sleep(3)
        assert (await here.look(token)).endswith(" p"), "its timer knows of the new end"
        assert (here.room / f"timer.{name}").read_text() == timer
        assert await carry_out(here.channel, NodeRequest(new_token(), time.time(), "ana")) is None
        assert len(list(here.home(token).glob("paused.*"))) == 1
        took = time.monotonic() - began
        assert abs(int((await here.look(token)).split()[1]) - took) <= 2.5
        await here.kill(token, grace=0)


async def test_a_pause_that_somebody_ended_is_not_extended(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        name = new_token()
        assert await carry_out(here.channel, asked(name, 60, yields=True)) is not None
        await carry_out(here.channel, NodeRequest(new_token(), time.time(), "ana"))
        assert await carry_out(here.channel, asked(name, 60, extends=True)) is None
        theirs = NodeRequest(new_token(), time.time(), "ana", time.time() + 60)
        await carry_out(here.channel, theirs)
        lease = await carry_out(here.channel, asked(name, 600, extends=True))
        assert lease is not None
        assert lease.token == theirs.token
        await carry_out(here.channel, NodeRequest(new_token(), time.time(), "ana"))


async def test_what_nobody_in_person_asked_for_leaves_a_pause_of_a_person_as_it_is(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        theirs = NodeRequest(new_token(), time.time(), "ana", time.time() + 60)
        assert await carry_out(here.channel, theirs) is not None
        ours = NodeRequest(new_token(), time.time() + 5, "its hours", time.time() + 600, yields=True)
        lease = await carry_out(here.channel, ours)
        assert lease is not None
        assert (lease.token, lease.who) == (theirs.token, "ana")
        # And a person is obeyed over ours, also with what they said a moment earlier.
        await carry_out(here.channel, NodeRequest(new_token(), time.time(), "ana"))
        assert await carry_out(here.channel, ours) is not None
        lease = await carry_out(here.channel, NodeRequest(theirs.token, time.time(), "ana", time.time() + 60))
        assert lease is not None
        assert lease.who == "ana"
        await carry_out(here.channel, NodeRequest(new_token(), time.time(), "ana"))
