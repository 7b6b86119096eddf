"""Results from a head to a laptop: `storage.wire` inside a conversation with the gateway, seen from both ends.

The laptop names a batch; the head answers with what it is called and which of its jobs have not ended. Then each
request line comes as the body `ask`, and the bytes that answer it as frames `bytes`, until the laptop hangs up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distribute_ssh.errors import HeadError, UnreachableError
from distribute_ssh.head import frames
from distribute_ssh.head.frames import MAX_DATA, Body, FrameError
from distribute_ssh.storage.wire import LONGEST_REQUEST, SentResults, WireError, request, serve

if TYPE_CHECKING:
    from distribute_ssh.head.gateway import Wire
    from distribute_ssh.model.settings import Head, Places
    from distribute_ssh.storage.results import Results

MAX_TOLD = 64 << 20  # bytes that name a batch's unfinished jobs
GOES_ON = "what came is kept; the same command goes on where it stopped"


@dataclass(frozen=True, slots=True)
class Offered:
    """What a head has of a batch. `unfinished`: its jobs that have not ended, as {job, state}."""

    results: Results
    batch: str  # NAMESPACE/BATCH
    unfinished: list[dict[str, str]]


# --- the head's end ---


async def give(wire: Wire, offered: Offered) -> None:
    """Answer requests until the laptop hangs up. Raises Gone then, FrameError for what is no request."""
    told = json.dumps({"batch": offered.batch, "unfinished": offered.unfinished}).encode()
    for piece in frames.pieces("results", told):
        wire.write(piece)

    async def write(data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA):
            # In a thread: what comes next is read from storage meanwhile.
            await asyncio.to_thread(wire.write, frames.encode("bytes", data[start : start + MAX_DATA]))

    while True:
        body = Body("ask", LONGEST_REQUEST)
        while (line := body.add(await asyncio.to_thread(wire.read))) is None:
            pass
        try:
            await serve(offered.results, line, write)
        except WireError as error:
            raise FrameError(str(error)) from None


# --- the laptop's end ---


@asynccontextmanager
async def offered_by(at: Head, places: Places, batch: str) -> AsyncIterator[Offered]:
    """Open what a head has of a batch. Raises NoMatchError, HeadError, UnreachableError; so does what is yielded."""
    from distribute_ssh.head import client as head  # with it comes an SSH library, which the head's end has no use for

    # The listing is asked for in the same breath: who opens results begins with it.
    asked = [frames.encode("results", batch=batch), *frames.pieces("ask", request(None))]
    async with head.connected(at, places) as line, line.talk("pull", b"".join(asked)) as talk:

        async def read(_size: int) -> bytes:
            try:
                frame = await talk.hear()
            except UnreachableError as error:
                raise UnreachableError(error.message, hint=GOES_ON) from error
            if frame.kind != "bytes":
                raise head.odd(at, frame)
            return frame.data

        async def write(data: bytes) -> None:
            for piece in frames.pieces("ask", data):
                await talk.say(piece)

        body = Body("results", MAX_TOLD)
        try:
            while (told := body.add(await talk.hear())) is None:
                pass
            found = json.loads(told)
            name, unfinished = _text(found["batch"]), [_job(each) for each in found["unfinished"]]
        except (FrameError, ValueError, KeyError, TypeError, RecursionError):
            raise HeadError(f"{at.name} answers with what is none of ours") from None
        yield Offered(SentResults(f"{at.name}: {name}", read, write, asked=True), name, unfinished)


def _job(told: object) -> dict[str, str]:
    if not isinstance(told, dict):
        raise TypeError("no job")
    return {key: _text(told[key]) for key in ("job", "state")}


def _text(told: object) -> str:
    if not isinstance(told, str):
        raise TypeError("no text")
    return told
