"""The resident channel of one node: one shell that stays, requests out, answers and events in."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import secrets
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources

from distribute_ssh.errors import ScratchError, UnreachableError
from distribute_ssh.node import wire
from distribute_ssh.node.link import Link, Process

log = logging.getLogger(__name__)

HELLO_LIMIT = 10.0  # seconds
PING_EVERY = 10.0  # seconds; sshd's ChannelTimeout counts data in the channel, which keepalives are not
PING_LIMIT = 30.0  # a node under full load still answers within a second; swap may take longer
ANSWER_LIMIT = 60.0
LIBRARY = (
    "wrapper.sh",
    "image.sh",
    "members.sh",
    "kill.sh",
    "lease.sh",
    "pause.sh",
    "resume.sh",
    "watch.sh",
    "desk.sh",
    "activity.sh",
    "slurm.sh",
    "batch.sh",
    "fetch.sh",
)


@cache
def _source(name: str) -> str:
    return (resources.files("distribute_ssh.node") / name).read_text()


def library() -> dict[str, str]:
    """The scripts that stay on a node, by their names."""
    return {name: _source(name) for name in LIBRARY}


@cache
def library_version() -> str:
    """A name for this version of the scripts that stay on a node."""
    return hashlib.sha256("".join(library().values()).encode()).hexdigest()[:12]


def script(nonce: str, scratch: str | None) -> str:
    """The resident with its settings and the library it writes."""
    # An account may export variables of these names, and what is assigned to them then would reach every job.
    parts = ["unset nonce boot"]
    parts += [f"nonce={nonce}", f"scratch={shlex.quote(scratch or '')}", f"library={library_version()}"]
    parts.append("write_library() {")
    for name, text in library().items():
        # Written beside and renamed: another resident may be starting a wrapper from the very file.
        parts.append(f"cat > \"$lib/{name}.$$\" <<'END OF {name}' || return 1\n{text}END OF {name}")
        parts.append(f'mv "$lib/{name}.$$" "$lib/{name}" || return 1')
    parts.append("}")
    return "\n".join(parts) + "\n" + _source("resident.sh")


class Answer:
    """An answer under way."""

    def __init__(self) -> None:
        self.rows: list[wire.Row] = []
        self.done: asyncio.Future[wire.End] = asyncio.get_running_loop().create_future()


class Channel:
    """A running resident. `on_event` is called for every event; `closed` is set when the resident is gone."""

    def __init__(self, link: Link, process: Process, hello: wire.Hello, on_event: Callable[[wire.Event], None]) -> None:
        self.node = link.node
        self.hello = hello
        self.closed = asyncio.Event()
        self.why = "the channel was closed"
        self._process = process
        self._on_event = on_event
        self._numbers = itertools.count(2)
        self._answers: dict[int, Answer] = {}
        self._sending = asyncio.Lock()

    @property
    def root(self) -> str:
        """Our folder on the node, absolute."""
        return self.hello.root

    async def request(self, verb: str, *words: str, limit: float = ANSWER_LIMIT) -> tuple[list[wire.Row], wire.End]:
        """Ask and wait for the whole answer. Raises UnreachableError when the line or `limit` seconds end first.

        Whether the node obeyed is then unknown: look, or ask again; every verb may be sent twice.
        """
        number = next(self._numbers)
        answer = self._answers[number] = Answer()
        try:
            async with asyncio.timeout(limit):
                async with self._sending:
                    await self._process.write(wire.request(verb, number, *words))
                if self.closed.is_set():
                    raise UnreachableError(f"{self.node}: {self.why}")
                return answer.rows, await answer.done
        except TimeoutError:
            raise UnreachableError(f"{self.node}: no answer to `{verb}` within {limit:.0f} s") from None
        finally:
            self._answers.pop(number, None)

    async def listen(self, nonce: str) -> None:
        """Read lines until the resident is gone."""
        try:
            while (line := await self._process.readline()).endswith(b"\n"):
                self._take(wire.read(line, nonce))
            self._close("the resident shell ended")
        except UnreachableError as error:
            self._close(error.message)

    def _take(self, said: wire.Hello | wire.Refusal | wire.Event | wire.Row | wire.End | None) -> None:
        match said:
            case wire.Event():
                self._on_event(said)
            case wire.Row() if said.number in self._answers:
                self._answers[said.number].rows.append(said)
            case wire.End() if said.number in self._answers and not self._answers[said.number].done.done():
                self._answers[said.number].done.set_result(said)
            case _:
                return  # noise, or an answer nobody waits for any more

    async def ping(self) -> None:
        """Ask for a sign of life for ever; a silent resident closes the channel."""
        while not self.closed.is_set():
            await asyncio.sleep(PING_EVERY)
            try:
                await self.request("ping", limit=PING_LIMIT)
            except UnreachableError as error:
                self._close(error.message)

    def _close(self, why: str) -> None:
        if not self.closed.is_set():
            self.why = why.removeprefix(f"{self.node}: ")
            self.closed.set()
        for answer in self._answers.values():
            if not answer.done.done():
                answer.done.set_exception(UnreachableError(f"{self.node}: {self.why}"))


@asynccontextmanager
async def open_channel(
    link: Link, scratch: str | None, on_event: Callable[[wire.Event], None]
) -> AsyncIterator[Channel]:
    """Start the resident and keep it for the block.

    Raises UnreachableError when it does not greet in time (the message names the usual causes), ScratchError when
    there is no folder it can write.
    """
    nonce = secrets.token_hex(8)
    async with link.process(script(nonce, scratch)) as process:
        hello = await _greeting(link, process, nonce, scratch)
        channel = Channel(link, process, hello, on_event)
        listening = asyncio.create_task(channel.listen(nonce), name=f"listen to {link.node}")
        pinging = asyncio.create_task(channel.ping(), name=f"ping {link.node}")
        try:
            yield channel
        finally:
            for task in (listening, pinging):
                task.cancel()
            await asyncio.gather(listening, pinging, return_exceptions=True)


async def _greeting(link: Link, process: Process, nonce: str, scratch: str | None) -> wire.Hello:
    try:
        async with asyncio.timeout(HELLO_LIMIT):
            while (line := await process.readline()).endswith(b"\n"):
                said = wire.read(line, nonce)
                if isinstance(said, wire.Hello):
                    return said
                if isinstance(said, wire.Refusal):
                    raise _refused(link.node, said, scratch)
    except TimeoutError:
        raise UnreachableError(
            f"{link.node}: the shell works, but ours did not greet within {HELLO_LIMIT:.0f} s",
            hint="a scratch folder on a disk that hangs? distribute nodes doctor",
        ) from None
    raise UnreachableError(f"{link.node}: our shell ended before it greeted", hint="distribute nodes doctor")


def _refused(node: str, said: wire.Refusal, scratch: str | None) -> ScratchError:
    if said.why == "full":
        return ScratchError(f"{node}: no room left in {said.detail}", hint="free some space there")
    named = f"the scratch folder {scratch}" if scratch else "none of /scratch, /var/tmp and ~/.cache"
    return ScratchError(
        f"{node}: {named} can be written (or somebody else owns our folder in it)",
        hint=f"name a folder of its own: `scratch:` of {node} in the inventory",
    )
