"""A resident and what it said: requests and events of a channel, in the words of a test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from distribute_ssh.node import wire
from distribute_ssh.node.channel import Channel, open_channel
from distribute_ssh.node.link import Link
from tests.support.wait import until


def new_token() -> str:
    """A name for an attempt or a batch."""
    return f"testqueue-{secrets.token_hex(6)}"


def job(payload: str, *, token: str = "", stage: str = ":", slot: str = "", settle: str = ":") -> str:
    """The script of an attempt. With a `slot`, what it leaves in distribute_save there is kept."""
    tag = f"DISTRIBUTE_ATTEMPT={token}; export DISTRIBUTE_ATTEMPT" if token else ":"
    kept = f"slot={slot}\nsave=1\n" if slot else ""
    make = f"mkdir -p {slot}/distribute_save || return 1" if slot else ":"
    enter = f"cd {slot} || exit 126" if slot else ":"
    return (
        f"{kept}stage() {{\n{make}\n{stage}\n}}\n"
        f"payload() {{\n{enter}\n{tag}\n{payload}\n}}\n"
        f"settles=1\nsettle() {{\n{settle}\n}}\n"
    )


class Resident:
    """One open channel. `room`: our folder on the node, which is this machine."""

    def __init__(self, channel: Channel, events: list[wire.Event]) -> None:
        self.channel = channel
        self.events = events
        self.room = Path(channel.root)

    def home(self, token: str) -> Path:
        """The folder of an attempt."""
        return self.room / "attempts" / token

    async def start(self, token: str, script: str) -> wire.End:
        """Ask for a start."""
        return (await self.channel.request("start", token, wire.escape(script)))[1]

    async def look(self, token: str) -> str:
        """What the folder of an attempt tells."""
        rows, _ = await self.channel.request("look", token)
        rows = [row for row in rows if row.kind == "sight"]
        assert [row.fields[0] for row in rows] == [token]
        return " ".join(rows[0].fields[1:])

    async def kill(self, token: str, grace: int = 5) -> str:
        """End an attempt; what is left."""
        _, end = await self.channel.request("kill", token, str(grace))
        assert end.ok
        return end.detail

    async def drop(self, *tokens: str) -> list[str]:
        """Remove attempts; those that are kept."""
        rows, _ = await self.channel.request("drop", *tokens)
        return [row.fields[0] for row in rows]

    async def clear(self, *tokens: str) -> list[str]:
        """Remove batches; those that are kept."""
        rows, _ = await self.channel.request("clear", *tokens)
        return [row.fields[0] for row in rows]

    def said(self, kind: str, token: str) -> list[str]:
        """The details of events of that kind."""
        return [event.detail for event in self.events if (event.kind, event.token) == (kind, token)]

    async def event(self, kind: str, token: str) -> str:
        """Wait for an event; its detail."""
        return (await until(lambda: self.said(kind, token), f"{kind} {token}"))[0]

    async def run(self, script: str, token: str = "") -> str:
        """Start an attempt and wait for its end; what its folder tells then."""
        token = token or new_token()
        assert (await self.start(token, script)).ok
        await self.event("exit", token)
        return await self.look(token)


@asynccontextmanager
async def resident(link: Link, scratch: Path | str | None) -> AsyncIterator[Resident]:
    """Start one."""
    events: list[wire.Event] = []
    async with open_channel(link, None if scratch is None else str(scratch), events.append) as channel:
        yield Resident(channel, events)
