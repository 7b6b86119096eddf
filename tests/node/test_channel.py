"""The resident channel: how it greets, answers, and says that it is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from distribute_ssh.errors import ScratchError, UnreachableError
from distribute_ssh.node import channel as channel_module
from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink
from tests.support import processes
from tests.support.lab import Lab
from tests.support.resident import job, new_token, resident
from tests.support.wait import until


async def test_it_greets_with_boot_id_process_and_folder(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        hello = here.channel.hello
        assert hello.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert processes.is_alive(hello.pid)
        assert hello.root == f"{tmp_path}/distribute-{os.getuid()}"


async def test_our_folder_is_open_to_nobody_else(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        assert here.room.stat().st_mode & 0o777 == 0o700


async def test_a_request_it_does_not_know_is_answered(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        _, end = await here.channel.request("dance")
        assert not end.ok


async def test_many_requests_at_once_get_each_its_own_answer(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        tokens = [new_token() for _ in range(200)]
        assert await asyncio.gather(*map(here.look, tokens)) == ["absent"] * 200


async def test_two_residents_on_one_folder_do_not_disturb_each_other(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as one, resident(link, tmp_path) as other:
        token = new_token()
        assert await one.run(job("exit 5"), token) == "ended 5"
        assert await other.look(token) == "ended 5"
        assert other.events == []


async def test_list_shows_attempts_and_batches_of_one_queue(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        (here.room / "attempts" / "testqueue-aaaaaa").mkdir()
        (here.room / "attempts" / "otherqueue-aaaaaa").mkdir()
        (here.room / "batches" / "testqueue-bbbbbb").mkdir()
        rows, end = await here.channel.request("list", "testqueue")
        assert end.ok
        assert [(row.kind, row.fields) for row in rows if row.kind != "stray"] == [
            ("sight", ("testqueue-aaaaaa", "unstarted")),
            ("batch", ("testqueue-bbbbbb",)),
        ]


async def test_names_that_others_put_into_our_folder_are_not_believed(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        for name in ("testqueue-..", "testqueue-a b c d", "testqueue-*", "testqueue-x\ny", "testqueue-" + "x" * 200):
            (here.room / "attempts" / name).mkdir()
        rows, end = await here.channel.request("list", "testqueue")
        assert end.ok
        assert [row for row in rows if row.kind != "stray"] == []  # those are of tests beside this one


async def test_a_resident_that_is_killed_is_noticed(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        os.kill(here.channel.hello.pid, signal.SIGKILL)
        await asyncio.wait_for(here.channel.closed.wait(), 10)
        with pytest.raises(UnreachableError):
            await here.channel.request("ping")


async def test_a_killed_resident_is_noticed_while_a_job_holds_its_channel_open(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapper has inherited its stdout, so that no end of file comes: only the missing pong tells."""
    monkeypatch.setattr(channel_module, "PING_EVERY", 0.2)
    monkeypatch.setattr(channel_module, "PING_LIMIT", 0.5)
    token = new_token()
    async with resident(link, tmp_path) as here:
        await here.start(token, job("exec sleep 600", token=token))
        await here.event("started", token)
        os.kill(here.channel.hello.pid, signal.SIGKILL)
        await asyncio.wait_for(here.channel.closed.wait(), 10)
    async with resident(link, tmp_path) as here:
        assert await here.look(token) == "running"
        assert await here.kill(token) == "0"


async def test_a_silent_resident_is_noticed(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "PING_EVERY", 0.1)
    monkeypatch.setattr(channel_module, "PING_LIMIT", 0.3)
    async with resident(link, tmp_path) as here:
        os.kill(here.channel.hello.pid, signal.SIGSTOP)
        try:
            await asyncio.wait_for(here.channel.closed.wait(), 10)
            assert "no answer" in here.channel.why
        finally:
            os.kill(here.channel.hello.pid, signal.SIGCONT)


async def test_pending_requests_fail_when_the_resident_is_gone(link: Link, tmp_path: Path) -> None:
    async with resident(link, tmp_path) as here:
        os.kill(here.channel.hello.pid, signal.SIGSTOP)
        asking = [asyncio.create_task(here.look(new_token())) for _ in range(5)]
        await asyncio.sleep(0)
        os.kill(here.channel.hello.pid, signal.SIGKILL)
        for each in asking:
            with pytest.raises(UnreachableError):
                await each


async def test_leaving_the_channel_ends_the_resident_but_not_its_jobs(link: Link, tmp_path: Path) -> None:
    token = new_token()
    async with resident(link, tmp_path) as here:
        await here.start(token, job("exec sleep 600", token=token))
        await here.event("started", token)
        pid = here.channel.hello.pid
        began = time.monotonic()
    assert time.monotonic() - began < 2
    await until(lambda: not processes.is_alive(pid), "the resident ended")
    async with resident(link, tmp_path) as here:
        assert await here.look(token) == "running"
        assert await here.kill(token) == "0"


# --- where it works ---


async def test_a_scratch_folder_with_spaces_and_quotes_is_taken_as_it_is(link: Link, tmp_path: Path) -> None:
    scratch = tmp_path / "my 'own' $(id) \"disk\""
    scratch.mkdir()
    async with resident(link, scratch) as here:
        assert here.room.parent == scratch
        assert await here.run(job("exit 4")) == "ended 4"
    assert [path.name for path in tmp_path.iterdir()] == [scratch.name]


async def test_a_scratch_folder_may_be_written_from_home(tmp_path: Path) -> None:
    link = LocalLink("here", environ={"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    (tmp_path / "disk").mkdir()
    async with resident(link, "~/disk") as here:
        assert here.room.parent == tmp_path / "disk"
    async with resident(link, "~") as here:
        assert here.room.parent == tmp_path


@pytest.mark.root
@pytest.mark.sshd
async def test_without_a_scratch_folder_the_first_that_can_be_written_is_taken(lab: Lab) -> None:
    lab.add("lab1", within=elsewhere("mount -t tmpfs tmpfs /var/tmp"))
    async with lab.link("lab1") as link, resident(link, None) as here:
        assert here.room.parent == Path("/scratch" if os.path.isdir("/scratch") else "/var/tmp")


@pytest.mark.root
@pytest.mark.sshd
async def test_the_folder_that_is_there_already_comes_before_one_that_would_be_better(lab: Lab) -> None:
    """A disk mounted as /scratch later must not hide the jobs that run."""
    made = f"mkdir -m 700 /var/tmp/distribute-{os.getuid()}"
    disks = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/scratch && mount -t tmpfs tmpfs /var/tmp"
    lab.add("lab1", within=elsewhere(f"{disks} && {made}"))
    async with lab.link("lab1") as link, resident(link, None) as here:
        assert here.room.parent == Path("/var/tmp")


def elsewhere(prepare: str) -> list[str]:
    """A command that runs another with mounts of its own."""
    return ["unshare", "-m", "/bin/sh", "-c", f'{prepare} && exec "$@"', "sh"]


@pytest.mark.parametrize("scratch", ["/nowhere/at all/b", "/proc", "/dev/null"])
async def test_a_scratch_folder_that_cannot_be_used_is_named(link: Link, scratch: str) -> None:
    with pytest.raises(ScratchError) as caught:
        async with resident(link, scratch):
            pass
    assert scratch in str(caught.value)
    assert "`scratch:` of" in str(caught.value)


async def test_a_link_in_the_place_of_our_folder_is_refused(link: Link, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"distribute-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ScratchError, match="somebody else"):
        async with resident(link, tmp_path):
            pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.root
async def test_a_folder_of_somebody_else_in_the_place_of_ours_is_refused(link: Link, tmp_path: Path) -> None:
    theirs = tmp_path / f"distribute-{os.getuid()}"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with pytest.raises(ScratchError, match="somebody else"):
        async with resident(link, tmp_path):
            pass
    assert list(theirs.iterdir()) == []


@pytest.mark.root
async def test_a_full_disk_is_told_as_such(link: Link, full_disk: Path) -> None:
    with pytest.raises(ScratchError, match="no room"):
        async with resident(link, full_disk):
            pass


# --- over a line that breaks ---


@pytest.mark.sshd
async def test_a_cut_line_closes_the_channel_and_the_job_goes_on(lab: Lab, tmp_path: Path) -> None:
    node = lab.add("lab1")
    token = new_token()
    async with lab.link("lab1") as link, resident(link, tmp_path) as here:
        await here.start(token, job(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 7", token=token))
        await here.event("started", token)
        node.sshd.kill_sessions()
        await asyncio.wait_for(here.channel.closed.wait(), 10)
    (tmp_path / "go").touch()
    async with lab.link("lab1") as link, resident(link, tmp_path) as here:

        async def ended() -> bool:
            return await here.look(token) == "ended 7"

        await until(ended, "its record is found")
        assert here.said("exit", token) == []


@pytest.mark.sshd
async def test_pings_keep_a_channel_open_that_sshd_would_close_for_silence(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "PING_EVERY", 0.3)
    lab.add("lab1", ["ChannelTimeout session:command=2s"])
    async with lab.link("lab1") as link, resident(link, tmp_path) as here:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(here.channel.closed.wait(), 6)
