"""Peers that say nothing, or nothing that makes sense: how long we wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from distribute_ssh.errors import UnreachableError
from tests.support.lab import Lab
from tests.support.sshd import host_block

pytestmark = pytest.mark.sshd


Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(lab: Lab, speak: Speak) -> AsyncIterator[None]:
    """A machine `lab1` whose port 22 does what `speak` does."""
    writers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            await speak(reader, writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    lab.block("lab1", host_block("lab1", port, lab.key, lab.known_hosts, "ConnectTimeout 1"))
    async with server:
        yield
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A line now and then, never the one that counts."""
    while True:
        writer.write(b"please hold the line\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def greet_and_sleep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-Sleepy\r\n")
    await reader.read()


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n<html></html>\n")
    writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("speak", [say_nothing, drip, greet_and_sleep, speak_http, hang_up])
async def test_a_peer_that_is_no_sshd_is_unreachable_in_bounded_time(lab: Lab, speak: Speak) -> None:
    async with peer(lab, speak):
        began = time.monotonic()
        with pytest.raises(UnreachableError) as caught:
            await lab.connector().open("lab1", "lab1")
        assert time.monotonic() - began < 10
        assert caught.value.retryable
        assert str(caught.value).startswith("lab1: ")


@pytest.mark.parametrize("speak", [say_nothing, drip, greet_and_sleep])
async def test_asking_such_a_peer_for_its_key_ends_as_well(lab: Lab, speak: Speak) -> None:
    async with peer(lab, speak):
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            await lab.connector().host_key("lab1")
        assert time.monotonic() - began < 10


async def test_a_closed_port_is_unreachable(lab: Lab) -> None:
    node = lab.add("lab1")
    node.sshd.stop()
    with pytest.raises(UnreachableError, match="refused"):
        await lab.works()


async def test_a_name_nobody_knows_is_unreachable(lab: Lab) -> None:
    with pytest.raises(UnreachableError):
        await lab.connector().open("lab1", "no-such-machine.invalid")


async def test_a_peer_that_falls_silent_is_noticed(lab: Lab) -> None:
    """Frozen, as a machine that swaps or whose cable was pulled: nothing is closed, nothing comes."""
    node = lab.add("lab1", ssh=["ServerAliveInterval 1"])
    async with lab.link("lab1") as link:
        async with link.process("echo ready; cat") as process:
            await process.readline()
            node.sshd.freeze()
            began = time.monotonic()
            with pytest.raises(UnreachableError):
                await process.readline()
            assert 2 < time.monotonic() - began < 15
        assert not link.is_open


async def test_by_default_a_silent_peer_is_noticed_within_a_minute(lab: Lab) -> None:
    lab.add("lab1")
    target = await lab.connector().target("lab1")
    assert 0 < target.alive_interval * (target.alive_count + 1) <= 60
