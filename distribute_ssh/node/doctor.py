"""`nodes doctor`: each step from here to a job on a node, one after the other, and what to do where one fails."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from distribute_ssh.errors import (
    DistributeError,
    HostKeyError,
    LoginError,
    NodeError,
    ScratchError,
    UnreachableError,
)
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.units import format_duration, format_size
from distribute_ssh.node import probe, slurm, wire
from distribute_ssh.node.channel import open_channel
from distribute_ssh.node.connection import Connector, SshLink
from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink

ANSWER_LIMIT = 10.0  # seconds
SLOW_SHELL = 3.0  # seconds: longer, and a person should know where every connection spends them
TRIAL_LIMIT = 30.0  # seconds for a job that does nothing
LOG_OUT = 1.5  # seconds: systemd ends what it is going to end when the session closes
LITTLE_ROOM = 5 << 30  # bytes
NO_ROOM = 64 << 20
FEW_INODES = 10_000
CLOCK_OFF = 30  # seconds

_WAITING = "exec sleep 60"


@dataclass(frozen=True, slots=True)
class Check:
    """One step. `ok` None: it works, but somebody should know; or it could not be told."""

    step: str
    ok: bool | None
    text: str
    remedy: str | None = None


async def examine(connector: Connector, entry: NodeEntry) -> AsyncIterator[Check]:
    """Every check of one node, in order; ends with the first that leaves nothing to check behind it."""
    link: Link
    if entry.connection == "local":
        link = LocalLink(entry.name)
        yield Check("reach", True, "this machine, without ssh")
    else:
        checks, opened = await _connect(connector, entry)
        for check in checks:
            yield check
        if opened is None:
            return
        link = opened
    try:
        async for check in _inside(connector, entry, link):
            yield check
    except DistributeError as error:
        yield Check("reach", False, error.message, error.hint or "the connection broke: try again")
    finally:
        await link.close()


async def _connect(connector: Connector, entry: NodeEntry) -> tuple[list[Check], SshLink | None]:
    """Reach, host key and login by a single connection: some sshd lock out who comes and goes."""
    try:
        target = await connector.target(entry.host, user=entry.user, port=entry.port)
    except HostKeyError as error:
        return [Check("host key", False, error.message, error.hint)], None
    except DistributeError as error:
        return [Check("reach", False, error.message, error.hint or "mend the ssh configuration")], None
    way = f" through {', '.join(target.jumps)}" if target.jumps else ""
    reach = Check("reach", True, f"{target.user}@{target.hostname}:{target.port}{way}")
    try:
        link = await _open(connector, entry)
    except HostKeyError as error:
        return [reach, Check("host key", False, error.message, error.hint)], None
    except LoginError as error:
        remedy = f"{error.hint}; put your public key into ~/.ssh/authorized_keys of {target.user} there: ssh-copy-id"
        return [reach, Check("host key", True, "known"), Check("login", False, error.message, remedy)], None
    except UnreachableError as error:
        remedy = f"{error.hint}. Is the machine on, the name right, the VPN up, and sshd running there?"
        return [Check("reach", False, f"{reach.text}: {error.message}", remedy)], None
    except NodeError as error:
        return [reach, Check("login", False, error.message, error.hint)], None
    key = link.connection.get_server_host_key()
    shown = f"{key.get_algorithm()} {key.get_fingerprint()}" if key is not None else "known"
    return [reach, Check("host key", True, shown), Check("login", True, f"as {target.user}")], link


async def _inside(connector: Connector, entry: NodeEntry, link: Link) -> AsyncIterator[Check]:
    shell = await _shell(link)
    yield shell
    if shell.ok is False:
        return
    if isinstance(link, SshLink):
        yield await _sftp(link)
    ended = await link.run(probe.script(entry, {}), limit=probe.TIME_LIMIT)
    try:
        facts = probe.parse(ended.stdout)
    except ValueError as error:
        said = ended.stderr.decode(errors="replace").strip()[-200:]
        yield Check("shell", False, f"{error}: {said}", "is /bin/sh there a POSIX shell, and does `ssh` run it?")
        return
    for check in (*scratch(facts, entry), *python(facts, entry), *tools(facts)):
        yield check
    yield clock(facts, time.time())
    if facts.scratch is None or not facts.awk:
        return
    if entry.cluster is not None:
        yield Check("slurm", *await slurm.examine(link))
        return
    async for check in _trial(connector, entry, link, facts):
        yield check


async def _shell(link: Link) -> Check:
    began = time.monotonic()
    try:
        async with link.process("exit 0") as process:
            await process.wait(ANSWER_LIMIT)
    except NodeError as error:
        remedy = f"{error.hint}. A start-up file is left early with: [ -t 1 ] || return"
        return Check("shell", False, error.message, remedy)
    took = time.monotonic() - began
    noise = process.noise.decode(errors="replace").strip()
    if noise:
        remedy = "we pass over it, scp and sftp may not; print only for people: [ -t 1 ] || return"
        return Check("shell", None, f"its start-up files print: {noise[:200]!r}", remedy)
    if took > SLOW_SHELL:
        remedy = "move what takes the time in its start-up files (.bashrc, conda) behind: [ -t 1 ] || return"
        return Check("shell", None, f"it takes {took:.1f} s to start, at each connection", remedy)
    return Check("shell", True, f"starts in {took * 1000:.0f} ms")


async def _sftp(link: SshLink) -> Check:
    try:
        async with link.files() as files:
            await files.stat(b".")
    except NodeError as error:
        return Check("sftp", False, error.message, error.hint)
    except OSError as error:
        return Check("sftp", False, f"it does not find the home folder: {error}", "make the home folder of the account")
    return Check("sftp", True, "works")


# --- what the facts say; pure ---


def scratch(facts: probe.Facts, entry: NodeEntry) -> Iterator[Check]:
    """Whether there is a folder to work in, of what kind, and how much room it has."""
    own = f"name a folder of its own: `scratch:` of {entry.name} in the inventory"
    if facts.scratch is None:
        yield Check("scratch", False, facts.no_scratch or "there is none", own)
        return
    kind = f" ({facts.scratch_type})" if facts.scratch_type else ""
    if entry.cluster is not None and not facts.scratch_is_network:
        what = f"{facts.scratch}{kind} can be written; does every node of the cluster see this very folder?"
        yield Check("scratch", None, what, f"if not, name one that they share: `scratch:` of {entry.name}")
    elif facts.scratch_is_network and entry.cluster is None:
        what = f"{facts.scratch} is on a network file system{kind}, which other nodes may share"
        yield Check("scratch", False, what, f"{own}, on a disk of that machine")
    else:
        yield Check("scratch", True, f"{facts.scratch}{kind} can be written")
    if facts.scratch_exec is False:
        what = f"{facts.scratch} is mounted noexec: programs that a build compiles will not run there"
        yield Check("noexec", None, what, own)
    if facts.scratch_free is None:
        yield Check("room", None, f"could not be told for {facts.scratch}", "is `df` installed there?")
        return
    inodes = facts.scratch_inodes_free
    room = f"{format_size(facts.scratch_free)} free" + ("" if inodes is None else f", {inodes} more files")
    if facts.scratch_free < NO_ROOM or inodes == 0:
        yield Check("room", False, room, f"remove something from {facts.scratch}, or {own}")
    elif facts.scratch_free < LITTLE_ROOM or (inodes is not None and inodes < FEW_INODES):
        yield Check("room", None, f"only {room}", f"remove something from {facts.scratch}, or {own}")
    else:
        yield Check("room", True, room)


def python(facts: probe.Facts, entry: NodeEntry) -> Iterator[Check]:
    """Whether python batches can run."""
    if version := facts.tools.get("python3"):
        yield Check("python3", True, version)
        return
    name = entry.python or "python3"
    what = f"{name} {facts.broken['python3']}" if "python3" in facts.broken else f"there is no {name}"
    remedy = f"apt install python3 there, or name one: `python:` of {entry.name} in the inventory"
    yield Check("python3", False, f"{what}: no python batch runs here", remedy)


def tools(facts: probe.Facts) -> Iterator[Check]:
    """Which tools of ours are missing, and what that costs."""
    lacking = [
        (facts.awk, False, "awk", "without it no job can be killed: its processes are not found", "gawk or mawk"),
        (facts.has_tar, None, "tar", "many small files travel slower, folders as inputs cannot be unpacked", "tar"),
        (facts.find_printf, None, "find -printf", "what jobs saved is listed slower", "findutils (GNU find)"),
        (facts.sha256sum, None, "sha256sum", "inputs that arrive are checked by their size alone", "coreutils"),
        (facts.setsid_fork, None, "setsid -f", "jobs ignore an interrupt (SIGINT)", "util-linux"),
    ]
    found = [
        Check("tools", ok, f"no {name}: {cost}", f"install {package}")
        for there, ok, name, cost, package in lacking
        if not there
    ]
    for name, what in facts.broken.items():
        if name != "python3":
            found.append(Check("tools", None, f"{name} {what}", f"mend or remove {name} there"))
    yield from found or [Check("tools", True, "all there")]


def lingering(facts: probe.Facts) -> Check | None:
    """What the node's settings say about jobs after our log-out; None: nothing that ends them is set."""
    remedy = f"its root types: loginctl enable-linger {facts.user}"
    if facts.linger:
        return Check("log-out", True, "lingering is on: jobs outlive our connection")
    if facts.kill_user_processes:
        return Check("log-out", False, "systemd ends all that runs when we log out (KillUserProcesses)", remedy)
    # Users of the system, below 1000, are spared.
    if facts.remove_ipc and (facts.uid or 0) >= 1000:
        what = "shared memory goes when we log out (RemoveIPC): MPI and PyTorch jobs may crash"
        return Check("log-out", None, what, remedy)
    return None


def clock(facts: probe.Facts, now: float) -> Check:
    """How far its clock is from ours, read at `now`."""
    if facts.clock is None:
        return Check("clock", None, "could not be told", "is `date` installed there?")
    off = facts.clock - now
    if abs(off) < CLOCK_OFF:
        return Check("clock", True, "agrees with ours")
    side = "ahead of" if off > 0 else "behind"
    what = f"it is {format_duration(abs(off))} {side} ours: the times of files will be wrong"
    return Check("clock", None, what, "its root types: timedatectl set-ntp true")


# --- a job that does nothing, and one that outlives our log-out ---


async def _trial(connector: Connector, entry: NodeEntry, link: Link, facts: probe.Facts) -> AsyncIterator[Check]:
    quick, slow = (f"doctor-{secrets.token_hex(8)}" for _ in range(2))
    began = time.monotonic()
    try:
        ended = await _run(link, entry, quick, "exit 0", end="exit")
        took = time.monotonic() - began
        if ended != "0":
            what = f"a job that does nothing ended with {ended!r}"
            yield Check("job", False, what, "is the disk full, or /proc missing?")
            return
        yield Check("job", True, f"a job that does nothing ran in {took * 1000:.0f} ms")
        settings = lingering(facts)
        if settings is not None and settings.ok is not True:
            yield settings
        elif isinstance(link, SshLink):
            yield await _log_out(connector, entry, link, slow)
        else:
            yield Check("log-out", True, "jobs do not depend on a connection")
    except ScratchError as error:
        yield Check("job", False, error.message, error.hint)
    except UnreachableError as error:
        yield Check("job", False, error.message, error.hint or "the shell of the node may be too slow or broken")


async def _log_out(connector: Connector, entry: NodeEntry, link: SshLink, token: str) -> Check:
    """Leave something running, log out, log in again and look."""
    await _run(link, entry, token, _WAITING, end="started")
    await link.close()
    await asyncio.sleep(LOG_OUT)
    again = await _open(connector, entry)
    try:
        async with open_channel(again, entry.scratch, lambda _: None) as channel:
            rows, _ = await channel.request("look", token)
            lives = any(row.kind == "sight" and row.fields[:2] == (token, "running") for row in rows)
            await channel.request("kill", token, "1")
            await channel.request("drop", token)
    finally:
        await again.close()
    if lives:
        return Check("log-out", True, "a job outlives our connection")
    what = "what we leave running ends when we log out"
    return Check("log-out", False, what, "its root types: loginctl enable-linger USER, or sets KillUserProcesses=no")


async def _run(link: Link, entry: NodeEntry, token: str, command: str, *, end: str) -> str:
    """Start a job of one line; the detail of the event `end`. One that ended is removed."""
    said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def hear(event: wire.Event) -> None:
        if (event.kind, event.token) == (end, token) and not said.done():
            said.set_result(event.detail)

    tag = f"export DISTRIBUTE_ATTEMPT={token}"
    async with open_channel(link, entry.scratch, hear) as channel:
        _, answer = await channel.request("start", token, wire.escape(f"payload() {{\n{tag}\n{command}\n}}\n"))
        if not answer.ok:
            raise ScratchError(f"{entry.name}: no room left in {channel.root}", hint="free some space there")
        try:
            async with asyncio.timeout(TRIAL_LIMIT):
                detail = await said
        except TimeoutError:
            raise UnreachableError(f"{entry.name}: a job did not say `{end}` within {TRIAL_LIMIT:.0f} s") from None
        if end == "exit":
            await channel.request("drop", token)
        return detail


async def _open(connector: Connector, entry: NodeEntry) -> SshLink:
    identity = Path(entry.identity) if entry.identity else None
    return await connector.open(entry.name, entry.host, user=entry.user, port=entry.port, identity=identity)
