"""Which keys a login offers, in OpenSSH's order: a server that allows few tries must see the right one early."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from distribute_ssh.node.library import asyncssh
from distribute_ssh.node.sshconfig import Target, existing

log = logging.getLogger(__name__)
Pairs = list[asyncssh.SSHKeyPair]


@asynccontextmanager
async def offered(target: Target) -> AsyncIterator[Pairs]:
    """Keys of the agent that the configuration names, then key files, then the agent's others where they are allowed.

    The agent signs, so the block lasts until the login is through. asyncssh would ask it only where key files are given
    as well, and would offer whatever it holds first.
    """
    files = [pair for path in existing(target.identities) for pair in _load(path, target)]
    named = {pair.public_data for pair in files} | {data for path in target.identities for data in _public(path)}
    agent = await _agent(target)
    try:
        held = await _held(agent) if agent is not None else []
        first = [pair for pair in held if pair.public_data in named]
        others = [] if target.identities_only else [pair for pair in held if pair.public_data not in named]
        known = {pair.public_data for pair in first}
        yield [*first, *(pair for pair in files if pair.public_data not in known), *others]
    finally:
        if agent is not None:
            agent.close()
            await agent.wait_closed()


def _load(path: Path, target: Target) -> Pairs:
    """A private key with its certificates, if it opens without a passphrase; otherwise it may still be in the agent."""
    try:
        return list(asyncssh.load_keypairs(str(path), certlist=[str(each) for each in existing(target.certificates)]))
    except (asyncssh.KeyImportError, OSError) as error:
        log.debug("%s: the key %s is not used: %s", target.alias, path, error)
        return []


def _public(path: Path) -> list[bytes]:
    """The public halves beside a private key, or in its place: the private one may be in the agent alone."""
    found = []
    for each, read in (
        (path.with_name(path.name + ".pub"), asyncssh.read_public_key),
        (path.with_name(path.name + "-cert.pub"), asyncssh.read_certificate),
        (path, asyncssh.read_public_key),
    ):
        try:
            found.append(read(each).public_data)
        except (asyncssh.KeyImportError, OSError):
            continue  # not there, or the private key itself
    return found


async def _held(agent: asyncssh.SSHAgentClient) -> Pairs:
    try:
        return list(await agent.get_keys())
    except (ValueError, OSError) as error:  # it is locked, or went away
        log.debug("the agent shows no keys: %s", error)
        return []


async def _agent(target: Target) -> asyncssh.SSHAgentClient | None:
    path = os.environ.get("SSH_AUTH_SOCK", "") if target.agent is None else target.agent
    if not path:
        return None
    try:
        async with asyncio.timeout(target.connect_timeout):
            return await asyncssh.connect_agent(path)
    except (TimeoutError, OSError) as error:
        log.debug("%s: no agent answers at %s: %s", target.alias, path, error)
        return None
