"""One attempt on a node: started once, told of, recorded; and what it finds when it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from distribute_ssh.errors import UnreachableError
from distribute_ssh.node import channel as channel_module
from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink
from tests.node.conftest import fill
from tests.support import processes
from tests.support.lab import Lab
from tests.support.resident import Resident, job, new_token, resident
from tests.support.wait import until


@pytest.fixture
async def here(shell_link: Link, tmp_path: Path) -> AsyncIterator[Resident]:
    """A resident under each kind of /bin/sh that a node may have."""
    async with resident(shell_link, tmp_path) as opened:
        yield opened


async def test_a_start_is_told_and_so_is_the_end(here: Resident) -> None:
    token = new_token()
    assert (await here.start(token, job("echo hello; echo trouble >&2; exit 3"))).ok
    assert await here.event("started", token) == ""
    assert await here.event("exit", token) == "3"
    assert await here.look(token) == "ended 3"
    assert (here.home(token) / "output").read_text() == "hello\ntrouble\n"


async def test_every_exit_status_is_recorded_as_it_was(here: Resident) -> None:
    tokens = {new_token(): status for status in (*range(0, 256, 17), 1, 2, 3, 125, 126, 127, 128, 254)}
    for token, status in tokens.items():
        await here.start(token, job(f"exit {status}"))
    for token, status in tokens.items():
        assert await here.event("exit", token) == str(status)
        assert await here.look(token) == f"ended {status}"


@pytest.mark.parametrize("name", ["TERM", "KILL", "INT", "SEGV", "HUP", "PIPE"])
async def test_an_end_by_signal_is_recorded_as_shells_do(here: Resident, name: str) -> None:
    number = int(getattr(signal, f"SIG{name}"))
    undo = "" if name == "KILL" else f"signal.signal({number}, signal.SIG_DFL); "
    command = f"exec python3 -c 'import os, signal; {undo}os.kill(os.getpid(), {number})'"
    assert await here.run(job(command)) == f"ended {128 + number}"


async def test_asked_for_twice_it_runs_once(here: Resident, tmp_path: Path) -> None:
    token, log = new_token(), tmp_path / "log"
    script = job(f"echo ran >> {log}; sleep 0.2")
    await asyncio.gather(*(here.start(token, script) for _ in range(20)))
    await here.event("exit", token)
    assert (await here.start(token, script)).ok
    assert await here.look(token) == "ended 0"
    # A later start that worked would have been seen to run by the end of another.
    await here.run(job(":"))
    assert log.read_text() == "ran\n"
    assert here.said("started", token) == [""]
    assert here.said("exit", token) == ["0"]


async def test_a_script_arrives_byte_by_byte_as_it_was_sent(here: Resident, tmp_path: Path) -> None:
    text = "\\n \\\\ %s %% $(id) `id` ' \" \t é \udcff\n\n  * ~ #EOS\n#EOS\n!  "
    token = new_token()
    (tmp_path / "x").mkdir()
    script = f"payload() {{\ncat <<'END'\n{text}\nEND\n}}\n"
    assert await here.run(script, token) == "ended 0"
    assert (here.home(token) / "output").read_bytes() == text.encode("utf-8", "surrogateescape") + b"\n"
    assert (here.home(token) / "run.sh").read_bytes() == script.encode("utf-8", "surrogateescape")


async def test_a_long_script_is_no_trouble(here: Resident) -> None:
    token = new_token()
    long = "x" * 200_000
    assert await here.run(job(f"printf %s '{long}' | wc -c; exit 9"), token) == "ended 9"
    assert (here.home(token) / "output").read_text().split() == ["200000"]


async def test_where_the_inputs_cannot_be_put_in_place_it_ends_as_stage_and_does_not_run(
    here: Resident, tmp_path: Path
) -> None:
    token = new_token()
    ended = await here.run(job(f": > {tmp_path}/ran", stage="echo no such input >&2; return 1"), token)
    assert ended == "ended stage"
    assert (here.home(token) / "output").read_text() == "no such input\n"
    assert not (tmp_path / "ran").exists()


async def test_what_it_saved_is_kept_with_the_attempt(here: Resident) -> None:
    token, slot = new_token(), f"batches/{new_token()}/slot-0"
    await here.run(job("echo result > distribute_save/result; exit 1", slot=slot), token)
    assert (here.home(token) / "save" / "result").read_text() == "result\n"
    assert not (here.room / slot / "distribute_save").exists()


async def test_settle_runs_after_success_only_and_its_failure_counts(here: Resident, tmp_path: Path) -> None:
    assert await here.run(job("exit 0", settle=f"echo settled >> {tmp_path}/log")) == "ended 0"
    assert await here.run(job("exit 2", settle=f"echo settled >> {tmp_path}/log")) == "ended 2"
    assert (tmp_path / "log").read_text() == "settled\n"
    assert await here.run(job("exit 0", settle="return 6")) == "ended 6"


# --- what it finds when it runs ---


async def test_it_has_default_signals_and_no_input(here: Resident) -> None:
    token = new_token()
    await here.run(job('grep -E "^Sig(Ign|Blk)" /proc/self/status; readlink /proc/self/fd/0'), token)
    blocked, ignored, stdin = (here.home(token) / "output").read_text().splitlines()
    for line in (blocked, ignored):
        mask = int(line.split()[1], 16)
        names = ("HUP", "INT", "QUIT", "PIPE", "TERM", "CHLD")
        assert not [name for name in names if mask >> (getattr(signal, f"SIG{name}") - 1) & 1]
    assert stdin == "/dev/null"


async def test_a_program_it_starts_has_three_files_open(here: Resident) -> None:
    token = new_token()
    command = "exec python3 -c 'import os; print(sorted(os.listdir(\"/proc/self/fd\"), key=int)[:-1])'"
    await here.run(job(command), token)
    assert (here.home(token) / "output").read_text() == "['0', '1', '2']\n"


async def test_a_python_job_can_be_interrupted(here: Resident) -> None:
    """A shell that starts it with `&` would leave SIGINT ignored, and Python would then never see Ctrl-C."""
    token = new_token()
    await here.run(job("exec python3 -c 'import signal; print(signal.getsignal(signal.SIGINT).__name__)'"), token)
    assert (here.home(token) / "output").read_text() == "default_int_handler\n"


async def test_the_tag_is_in_its_environment_and_our_secrets_are_not(
    shell_link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nonce, token = "0123456789abcdef", new_token()
    monkeypatch.setattr(channel_module.secrets, "token_hex", lambda size: nonce)
    async with resident(shell_link, tmp_path) as here:
        monkeypatch.undo()
        await here.start(token, job("cat /proc/self/environ; exec sleep 600", token=token))
        await here.event("started", token)
        output = here.home(token) / "output"
        await until(lambda: output.exists() and output.stat().st_size, "it printed")
        environ = output.read_bytes()
        assert f"DISTRIBUTE_ATTEMPT={token}".encode() in environ.split(b"\0")
        assert nonce.encode() not in environ
        assert not [each for each in processes.everything() if any(nonce in part for part in each.command)]
        await here.kill(token)


async def test_what_runs_leads_a_session_of_its_own(here: Resident) -> None:
    token = new_token()
    await here.start(token, job("exec sleep 600", token=token))
    await here.event("started", token)
    wrapper = int((here.home(token) / "pid").read_text().split()[0])
    assert os.getsid(wrapper) == wrapper
    assert os.getsid(wrapper) != os.getsid(here.channel.hello.pid)
    assert await here.kill(token) == "0"


# --- what a look tells ---


async def test_a_look_tells_what_is(here: Resident) -> None:
    token = new_token()
    assert await here.look(token) == "absent"
    here.home(token).mkdir()
    assert await here.look(token) == "unstarted"
    (here.home(token) / "run.sh").write_text(job("exit 0"))
    assert await here.look(token) == "unstarted"
    (here.home(token) / "claim").mkdir()
    assert await here.look(token) == "claimed"
    (here.home(token) / "pid").touch()
    assert await here.look(token) == "claimed"


async def test_a_running_attempt_is_running_and_one_whose_wrapper_was_killed_is_gone(here: Resident) -> None:
    token = new_token()
    await here.start(token, job("exec sleep 600", token=token))
    await here.event("started", token)
    assert await here.look(token) == "running"
    pid = int((here.home(token) / "pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not processes.is_alive(pid), "it is dead")
    assert await here.look(token) == "gone"
    assert await here.kill(token) == "0"


async def test_a_process_of_another_boot_or_another_start_is_not_taken_for_it(here: Resident) -> None:
    token = new_token()
    await here.start(token, job("exec sleep 600", token=token))
    await here.event("started", token)
    record = here.home(token) / "pid"
    pid, began, boot = record.read_text().split()
    for other in (
        f"{pid} {began} 00000000-0000-4000-8000-000000000000",
        f"{pid} {int(began) + 1} {boot}",
        f"{pid} {began}",
        f"{pid}",
    ):
        record.write_text(other + "\n")
        assert await here.look(token) == "gone"
    record.write_text(f"{pid} {began} {boot}\n")
    assert await here.look(token) == "running"
    assert await here.kill(token) == "0"


async def test_a_stopped_process_is_running(here: Resident) -> None:
    token = new_token()
    await here.start(token, job("exec sleep 600", token=token))
    await here.event("started", token)
    os.kill(int((here.home(token) / "pid").read_text().split()[0]), signal.SIGSTOP)
    assert await here.look(token) == "running"
    assert await here.kill(token) == "0"


async def test_a_name_with_parentheses_and_blanks_hides_no_process(here: Resident, tmp_path: Path) -> None:
    """What stands in /proc/PID/stat before the last parenthesis is a name, and a job may call itself anything."""
    token = new_token()
    rename = 'open("/proc/self/comm", "w").write("a) R 1 1\\n) S 7 7")'
    await here.start(token, job(f"exec python3 -c 'import time; {rename}; time.sleep(600)'", token=token))
    await here.event("started", token)
    wrapper = int((here.home(token) / "pid").read_text().split()[0])
    (child,) = await until(lambda: processes.children(wrapper), "its child runs")
    await until(lambda: ")" in Path(f"/proc/{child.pid}/comm").read_text(), "it took its name")
    assert await here.kill(token) == "0"
    assert not processes.is_alive(child.pid)


# --- removal ---


async def test_dropping_and_clearing_leave_nothing(here: Resident) -> None:
    token, batch = new_token(), new_token()
    await here.run(
        job("mkdir -p distribute_save/a/b; : > distribute_save/a/b/c", slot=f"batches/{batch}/slot-0"), token
    )
    assert await here.drop(token, new_token()) == []
    assert await here.clear(batch) == []
    assert list((here.room / "attempts").iterdir()) == []
    assert list((here.room / "batches").iterdir()) == []
    assert await here.look(token) == "absent"


async def test_folders_without_rights_and_odd_names_go_as_well(here: Resident) -> None:
    token, batch = new_token(), new_token()
    await here.run(
        job(
            "mkdir -p 'distribute_save/-rf *' x/y; chmod 0 'distribute_save/-rf *'; chmod 0 x/y x distribute_save",
            slot=f"batches/{batch}/slot-0",
        ),
        token,
    )
    assert await here.drop(token) == []
    assert await here.clear(batch) == []
    assert not here.home(token).exists()
    assert list((here.room / "batches").iterdir()) == []


async def test_dropping_does_not_follow_links(here: Resident, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (tmp_path / "outside").chmod(0o500)
    token = new_token()
    await here.run(
        job(
            f"ln -s {tmp_path}/outside distribute_save/link; ln -s {tmp_path}/outside ./-x; chmod 0 distribute_save",
            slot=f"batches/{new_token()}/slot-0",
        ),
        token,
    )
    assert await here.drop(token) == []
    assert (tmp_path / "outside" / "file").exists()
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o500


# --- a full disk ---


@pytest.mark.root
@pytest.mark.parametrize("command", ["exit 3", "exit 0"])
async def test_the_end_is_recorded_on_a_disk_without_a_free_block(
    shell_link: Link, small_disk: Path, command: str
) -> None:
    token, slot = new_token(), f"batches/{new_token()}/slot-0"
    async with resident(shell_link, small_disk) as here:
        payload = f"head -c 2000000 /dev/zero > distribute_save/big; echo more >&2; {command}"
        ended = await here.run(job(payload, slot=slot), token)
        assert ended == f"ended {command.split()[1]}"
        assert (here.home(token) / "save" / "big").stat().st_size > 0
        assert await here.drop(token) == []


@pytest.mark.root
async def test_a_start_on_a_full_disk_fails_and_works_when_there_is_room(shell_link: Link, small_disk: Path) -> None:
    token = new_token()
    async with resident(shell_link, small_disk) as here:
        ballast = fill(small_disk)
        end = await here.start(token, job("exit 8"))
        assert (end.ok, end.detail) == (False, "full")
        assert await here.look(token) == "unstarted"
        ballast.unlink()
        assert await here.run(job("exit 8"), token) == "ended 8"


@pytest.mark.root
async def test_without_room_for_its_identity_it_does_not_run(
    shell_link: Link, small_disk: Path, tmp_path: Path
) -> None:
    """An attempt that runs and cannot be found again could be neither seen nor ended."""
    token = new_token()
    async with resident(shell_link, small_disk) as here:
        ballast = fill(small_disk)
        with ballast.open("r+b") as file:
            file.truncate(ballast.stat().st_size - 4096)  # one block: for the script, and none for more
        assert await here.run(job(f": > {tmp_path}/ran", token=token), token) == "ended stage"
        assert here.said("started", token) == []
        assert not (tmp_path / "ran").exists()


# --- whatever breaks, once ---


async def test_residents_killed_at_random_run_each_attempt_exactly_once(link: Link, tmp_path: Path) -> None:
    await chaos(tmp_path, 300, 7, lambda: contextlib.nullcontext(link), lambda pid: os.kill(pid, signal.SIGKILL))


@pytest.mark.sshd
async def test_lines_cut_at_random_run_each_attempt_exactly_once(lab: Lab, tmp_path: Path) -> None:
    node = lab.add("lab1")
    await chaos(tmp_path, 150, 8, lambda: lab.link("lab1"), lambda pid: node.sshd.kill_sessions())


async def chaos(tmp_path: Path, count: int, seed: int, connect, cut) -> None:
    """Start `count` attempts and cut again and again; the head does what it does after a loss: look, and ask again."""
    chance = random.Random(seed)
    log = tmp_path / "log"
    statuses = {new_token(): chance.randrange(256) for _ in range(count)}
    waiting, cuts = dict(statuses), 0
    while waiting:
        with contextlib.suppress(UnreachableError):
            async with connect() as link, resident(link, tmp_path) as here:
                cutting = (
                    asyncio.get_running_loop().call_later(chance.uniform(0.02, 0.6), cut, here.channel.hello.pid)
                    if cuts < 25
                    else None
                )
                try:
                    for token, seen in [(token, await here.look(token)) for token in waiting]:
                        if seen.startswith("ended"):
                            assert seen == f"ended {statuses[token]}"
                            del waiting[token]
                        elif seen in ("absent", "unstarted"):
                            script = job(f"echo {token} >> {log}; exit {statuses[token]}", token=token)
                            assert (await here.start(token, script)).ok
                        else:
                            assert seen in ("claimed", "running")
                finally:
                    if cutting is not None:
                        cutting.cancel()
        cuts += 1
        assert cuts < 500
    assert sorted(log.read_text().split()) == sorted(statuses)


async def test_a_head_that_ignores_hangups_does_not_pass_that_on_to_jobs_of_this_machine(tmp_path: Path) -> None:
    """`nohup distribute run` on this machine must not make its jobs deaf as well."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with resident(LocalLink("here"), tmp_path) as here:
            token = new_token()
            await here.run(job("grep SigIgn /proc/self/status"), token)
            mask = int((here.home(token) / "output").read_text().split()[1], 16)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not mask & 1
