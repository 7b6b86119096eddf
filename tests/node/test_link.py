"""What is promised of a link, on this machine and over SSH."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from distribute_ssh.errors import UnreachableError
from distribute_ssh.node import connection
from distribute_ssh.node.link import Link, lines
from tests.support import processes
from tests.support.lab import Lab
from tests.support.wait import until

MEGABYTE = 1_000_000


async def test_run_returns_status_stdout_and_stderr(link: Link) -> None:
    ended = await link.run("echo out; echo err >&2; exit 3")
    assert (ended.status, ended.stdout, ended.stderr) == (3, b"out\n", b"err\n")
    assert not ended.ok


async def test_success_is_status_zero(link: Link) -> None:
    assert (await link.run("true")).ok


@pytest.mark.parametrize("status", [0, 1, 2, 126, 127, 128, 254, 255])
async def test_every_status_arrives_as_it_was(link: Link, status: int) -> None:
    assert (await link.run(f"exit {status}")).status == status


async def test_a_command_ended_by_a_signal_is_no_success(link: Link) -> None:
    assert not (await link.run("kill -s KILL $$")).ok


async def test_bytes_that_are_no_text_pass_unchanged(link: Link) -> None:
    data = bytes(range(256)) * 3
    ended = await link.run("cat", stdin=data)
    assert ended.stdout == data


async def test_stdin_begins_right_behind_the_script(link: Link) -> None:
    ended = await link.run('read -r first; echo "[$first]"; cat', stdin=b"#EOS\necho not a command\n")
    assert ended.stdout == b"[#EOS]\necho not a command\n"


async def test_without_input_a_reader_sees_the_end_at_once(link: Link) -> None:
    assert (await link.run("cat; echo end")).stdout == b"end\n"


async def test_big_input_arrives_whole(link: Link) -> None:
    data = os.urandom(MEGABYTE) * 20
    ended = await link.run("sha256sum", stdin=data)
    assert ended.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_a_command_that_leaves_its_input_unread_ends_by_itself(link: Link) -> None:
    ended = await link.run("echo done; exit 4", stdin=bytes(20 * MEGABYTE))
    assert (ended.status, ended.stdout) == (4, b"done\n")


async def test_input_and_output_flow_at_the_same_time(link: Link) -> None:
    data = os.urandom(MEGABYTE) * 8
    assert (await link.run("cat", stdin=data)).stdout == data


async def test_the_last_of_stderr_is_kept(link: Link) -> None:
    ended = await link.run("i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i + 1)); done; exit 1")
    assert ended.stderr.endswith(b"line 2999\n")
    assert len(ended.stderr) <= 8192


async def test_a_command_past_its_time_is_ended_at_the_far_end(link: Link, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="within 1 s"):
        await link.run(f"echo $$ > {tmp_path}/pid; sleep 600; true", limit=1)
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not processes.is_alive(pid), "the shell ended")
    await until(lambda: not processes.children(pid), "its children ended")


async def test_what_a_command_past_its_time_had_started_ends_with_it(link: Link, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        await link.run(f"sh -c 'echo $$ > {tmp_path}/pid; sleep 600; true'; true", limit=1)
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not processes.is_alive(pid), "its child ended")


async def test_a_command_that_ignores_term_is_killed(link: Link, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        await link.run(f"trap '' TERM HUP; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done", limit=1)
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not processes.is_alive(pid), "the shell was killed")


async def test_a_cancelled_command_is_ended_at_the_far_end(link: Link, tmp_path: Path) -> None:
    running = asyncio.create_task(link.run(f"echo $$ > {tmp_path}/pid; sleep 600; true"))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it started")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not processes.is_alive(pid), "the shell ended")


async def test_what_was_set_free_on_purpose_stays(link: Link, tmp_path: Path) -> None:
    """A wrapper is started with setsid: neither the end of the command nor of the link may reach it."""
    script = f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600' < /dev/null > /dev/null 2>&1 & sleep 600"
    running = asyncio.create_task(link.run(script))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it started")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await link.close()
    pid = int((tmp_path / "pid").read_text())
    try:
        assert processes.is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


async def test_a_conversation_goes_line_by_line(link: Link) -> None:
    async with link.process('while read -r word; do echo "<$word>"; done') as process:
        for word in (b"one", b"two", b"three"):
            await process.write(word + b"\n")
            assert await process.readline() == b"<" + word + b">\n"
        process.write_eof()
        assert await process.readline() == b""
        assert (await process.wait(10)).ok


async def test_lines_drops_a_torn_last_piece(link: Link) -> None:
    async with link.process("printf 'one\\ntwo\\ntor'") as process:
        assert [line async for line in lines(process)] == [b"one\n", b"two\n"]


async def test_an_endless_line_is_handed_out_in_pieces(link: Link) -> None:
    async with link.process("head -c 3000000 /dev/zero | tr '\\0' x; echo") as process:
        piece = await process.readline()
        assert piece
        assert not piece.endswith(b"\n")
        assert len(piece) < 3_000_000
        total = len(piece)
        while piece := await process.readline():
            total += len(piece)
        assert total == 3_000_001


async def test_a_hundred_megabytes_pass_a_slow_reader_without_being_gathered(link: Link) -> None:
    digest = hashlib.sha256()
    async with link.process("head -c 100000000 /dev/zero") as process:
        await asyncio.sleep(0.3)  # the far end writes all it can while nobody reads
        total = 0
        while piece := await process.read(1 << 20):
            assert len(piece) <= 1 << 20
            total += len(piece)
            digest.update(piece)
        assert (await process.wait(10)).ok
    assert total == 100 * MEGABYTE
    assert digest.digest() == hashlib.sha256(bytes(100 * MEGABYTE)).digest()


async def test_the_far_end_is_made_to_wait_for_a_reader(link: Link, tmp_path: Path) -> None:
    """100 MB that nobody reads must stay at the far end, not in our memory."""
    async with link.process(f"head -c 100000000 /dev/zero; : > {tmp_path}/written") as process:
        assert await process.read(1)
        await asyncio.sleep(0.5)
        assert not (tmp_path / "written").exists()
        while await process.read(1 << 20):
            pass
    assert (tmp_path / "written").exists()


async def test_a_writer_is_made_to_wait_for_the_far_end(link: Link) -> None:
    async with link.process("read -r go; sleep 600") as process:
        await process.write(b"go\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await process.write(bytes(50 * MEGABYTE))


async def test_leaving_a_process_does_not_wait_for_what_it_left_running(link: Link, tmp_path: Path) -> None:
    """A wrapper holds the resident's stdout for as long as its job runs."""
    script = f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600' < /dev/null & cat"
    async with link.process(script):
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it started")
        began = time.monotonic()
    took = time.monotonic() - began
    pid = int((tmp_path / "pid").read_text())
    try:
        assert processes.is_alive(pid)
        assert took < 1.5
    finally:
        os.kill(pid, signal.SIGKILL)


async def test_twelve_commands_at_once_all_run(link: Link) -> None:
    ended = await asyncio.gather(*(link.run(f"echo {n}; sleep 0.05") for n in range(12)))
    assert [each.stdout for each in ended] == [b"%d\n" % n for n in range(12)]


async def test_no_secret_of_ours_reaches_a_command(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert b"hunter2" not in (await link.run("env")).stdout


async def test_a_closed_link_says_so(link: Link) -> None:
    assert link.is_open
    await link.close()
    assert not link.is_open


# --- over SSH only ---


@pytest.mark.sshd
@pytest.mark.parametrize("limit", [2, 3])
async def test_commands_wait_for_each_other_where_sshd_allows_few_sessions(lab: Lab, limit: int) -> None:
    lab.add("lab1", [f"MaxSessions {limit}"])
    async with lab.link("lab1") as link, link.process("cat") as resident:
        ended = await asyncio.gather(*(link.run(f"echo {n}; sleep 0.3") for n in range(12)))
        assert [each.stdout for each in ended] == [b"%d\n" % n for n in range(12)]
        await resident.write(b"still here\n")
        assert await resident.readline() == b"still here\n"


@pytest.mark.sshd
async def test_where_sshd_allows_one_session_the_message_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OPEN_LIMIT", 1.0)
    lab.add("lab1", ["MaxSessions 1"])
    async with lab.link("lab1") as link, link.process("cat"):
        with pytest.raises(UnreachableError, match="MaxSessions"):
            await link.run("true")


@pytest.mark.sshd
async def test_a_cut_in_the_middle_of_a_command_is_no_answer_and_no_success(lab: Lab) -> None:
    node = lab.add("lab1")
    async with lab.link("lab1") as link:
        running = asyncio.create_task(link.run("echo part; while kill -s 0 $PPID; do sleep 0.1; done"))
        async with link.process("echo ready; cat") as process:
            assert await process.readline() == b"ready\n"
            assert node.sshd.kill_sessions() > 0
            with pytest.raises(UnreachableError):
                await running
            with pytest.raises(UnreachableError):
                await process.readline()
        await until(lambda: not link.is_open, "the link knows")
        with pytest.raises(UnreachableError):
            await link.run("true")


@pytest.mark.sshd
async def test_a_cut_while_writing_is_noticed(lab: Lab, tmp_path: Path) -> None:
    node = lab.add("lab1")
    async with lab.link("lab1") as link:
        script = f"read -r l; : > {tmp_path}/begun; while kill -s 0 $PPID; do sleep 0.1; done"
        writing = asyncio.create_task(link.run(script, stdin=b"go\n" + bytes(50 * MEGABYTE)))
        await until((tmp_path / "begun").exists, "it began")
        node.sshd.kill_sessions()
        with pytest.raises(UnreachableError):
            await writing


@pytest.mark.sshd
async def test_our_own_close_ends_a_waiting_command_as_unknown(lab: Lab) -> None:
    lab.add("lab1")
    async with lab.link("lab1") as link, link.process("echo ready; cat") as process:
        await process.readline()
        waiting = asyncio.create_task(process.readline())
        await asyncio.sleep(0)
        await link.close()
        with pytest.raises(UnreachableError):
            await waiting


@pytest.mark.sshd
@pytest.mark.parametrize("limit", [0.001, 0.005, 0.02, 0.5])
async def test_sessions_come_back_after_commands_past_their_time(lab: Lab, limit: float) -> None:
    """Ten commands that ended late, at whatever moment of their start, would otherwise use up all that sshd grants."""
    own = str(600 + lab.add("lab1").sshd.port)  # seconds that nobody else sleeps
    async with lab.link("lab1") as link:
        runs = (link.run(f"sleep {own}", limit=limit) for _ in range(25))
        late = await asyncio.gather(*runs, return_exceptions=True)
        assert all(isinstance(each, UnreachableError) for each in late)
        async with AsyncExitStack() as stack:
            for _ in range(5):
                process = await stack.enter_async_context(link.process("echo yes; cat"))
                assert await process.readline() == b"yes\n"
            await until(lambda: not processes.running("sleep", own), "nothing is left")
