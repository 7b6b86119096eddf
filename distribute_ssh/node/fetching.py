"""A big input from one node to another, without passing the head: a key for this one transfer, and what uses it.

The node that gives gets a line into a file of keys that is ours (`fetch.sh` says which), which opens this one input and
expires by itself; the node that takes gets the private key on stdin and forgets it once it is logged in. What came is
compared with its hash there, so neither has to trust the other.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import secrets
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from distribute_ssh.errors import NodeError
from distribute_ssh.node.channel import library_version
from distribute_ssh.node.connection import SshLink
from distribute_ssh.node.library import asyncssh
from distribute_ssh.node.link import Process

log = logging.getLogger(__name__)

BEGIN_LIMIT = 15.0  # seconds until the first byte must come: a firewall that swallows packets is not waited for
STILL_LIMIT = 30.0  # seconds without a byte
# Who stands behind a node on a slow line gets it no faster. The head may be faster; its own line seldom is slower.
SLOWEST = 5 << 20  # bytes/s
SLOW_FOR = 20.0  # seconds
_PLAIN = re.compile(r"[A-Za-z0-9/._+@,=-]+", re.ASCII)  # a path that needs no quotes in any shell, nor in a key file


class NotFetchedError(Exception):
    """It did not come this way. `refused`: the giver lets nobody in; `lame`: the taker has no ssh."""

    def __init__(self, why: str, *, refused: bool = False, lame: bool = False) -> None:
        super().__init__(why)
        self.refused = refused
        self.lame = lame


@dataclass(frozen=True, slots=True)
class Door:
    """Where a node can be reached by others, as the head reaches it."""

    user: str
    address: str
    port: int
    host_key: str  # as a line of known_hosts has it, without the name


@dataclass(frozen=True, slots=True)
class Content:
    """An input on its way."""

    sha256: str
    size: int


def door(link: object, root: str) -> Door | None:
    """How other nodes can reach this one; None where they cannot, as far as can be told from here."""
    if not isinstance(link, SshLink) or not _PLAIN.fullmatch(root):
        return None
    target, connection = link.target, link.connection
    if target.jumps or target.proxy_command:
        return None
    peer, key = connection.get_extra_info("peername"), connection.get_server_host_key()
    if not peer or key is None:
        return None
    # Its address and not its name: names are the head's own.
    try:
        if ipaddress.ip_address(peer[0].partition("%")[0]).is_loopback:
            return None
    except ValueError:
        return None
    return Door(target.user, peer[0], peer[1], key.export_public_key("openssh").decode().strip())


async def fetch(
    giver: SshLink,
    giver_root: str,
    at: Door,
    taker: SshLink,
    taker_root: str,
    content: Content,
    *,
    queue_id: str,
    progress: Callable[[int], None],
) -> None:
    """Have `taker` get an input from `giver`; `progress` is told how many bytes are there.

    Raises NotFetchedError, and what came lies where the head goes on from; NodeError when the taker's line is lost.
    """
    number = secrets.token_hex(8)
    key = asyncssh.generate_private_key("ssh-ed25519")
    public = key.export_public_key("openssh").decode().split()[:2]
    async with _opened(giver, giver_root, number, public, content) as close:
        words = [queue_id, content.sha256, content.size, number, at.user, at.address, at.port]
        async with taker.process(_script(taker_root, "take", *words)) as process:
            secret = key.export_private_key("openssh").decode().strip()
            await process.write(f"{secret}\n#KEY\ngiver {at.host_key}\n".encode())
            said = await _followed(process, content, close, progress)
            ended = await process.wait(60.0)
    if not ended.ok:
        raise _trouble(ended.status, said)


async def _followed(
    process: Process, content: Content, begun: Callable[[], Awaitable[None]], progress: Callable[[int], None]
) -> str:
    """Read what the taker tells, to its end; what its ssh complained of. Raises NotFetchedError where nothing comes."""
    now = asyncio.get_running_loop().time
    there, said, has_begun = 0, "", False
    looked, seen, until = now(), 0, now() + BEGIN_LIMIT
    while True:
        try:
            async with asyncio.timeout_at(until):
                line = await process.readline()
        except TimeoutError:
            raise NotFetchedError("nothing came for too long") from None
        if not line.endswith(b"\n"):
            return said
        word, _, rest = line.decode(errors="replace").strip().partition(" ")
        # A taker that says so again and again, or tells of more than there is, would keep us here.
        if word == "begun" and not has_begun:
            has_begun, looked, until = True, now(), now() + STILL_LIMIT
            await begun()
        elif word == "at" and rest.isdecimal() and len(rest) < 16 and there < int(rest) and there < content.size:
            there = min(int(rest), content.size)
            progress(there)
            # When all is there, its hash is taken.
            until = now() + (STILL_LIMIT if there < content.size else 60 + content.size / SLOWEST)
            if there < content.size and now() - looked > SLOW_FOR:
                if there - seen < SLOWEST * (now() - looked):
                    raise NotFetchedError("it comes too slowly")
                looked, seen = now(), there
        elif word == "said":
            said = "".join(c for c in rest if c.isprintable())[:200]


def _trouble(status: int | None, said: str) -> NotFetchedError:
    match status:
        case 9:
            return NotFetchedError("it arrived damaged")
        case 11:
            return NotFetchedError("it was cut short")
        case 13:
            return NotFetchedError("there is no ssh", lame=True)
    return NotFetchedError(said or f"status {status}", refused="Permission denied" in said)


@asynccontextmanager
async def _opened(
    giver: SshLink, root: str, number: str, public: list[str], content: Content
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Let whoever has the key read one input, until the block is left or what is yielded is called."""
    is_open = True

    async def close() -> None:
        nonlocal is_open
        if is_open:
            is_open = False
            try:
                await giver.run(_script(root, "close", number))
            except NodeError as error:  # it expires by itself, and the next connection removes it
                log.info("%s: the key of a transfer is still there: %s", giver.node, error)

    library = f"lib-{library_version()}"
    try:
        try:
            ended = await giver.run(_script(root, "open", number, *public, root, library, content.sha256, content.size))
        except NodeError as error:
            raise NotFetchedError(str(error)) from None
        if not ended.ok:
            raise NotFetchedError("no key can be put there", refused=True)
        yield close
    finally:
        await asyncio.shield(close())


def _script(root: str, verb: str, *words: object) -> str:
    command = " ".join(shlex.quote(str(word)) for word in ("sh", f"lib-{library_version()}/fetch.sh", verb, *words))
    return f"cd {shlex.quote(root)} || exit 7\nexec {command}"
