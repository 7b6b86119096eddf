"""The laptop's side of a head: one connection, and conversations on it with the gateway there, side by side."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from distribute_ssh.errors import HeadError, HostKeyError, LoginError, UnreachableError, UsageError
from distribute_ssh.head import frames
from distribute_ssh.head.frames import Decoder, Frame, FrameError
from distribute_ssh.node.connection import Connector, KnownHosts
from distribute_ssh.views.text import safe

if TYPE_CHECKING:
    from distribute_ssh.model.settings import Head, Places
    from distribute_ssh.node.connection import SshLink
    from distribute_ssh.node.session import SshProcess

HELLO_LIMIT = 30.0  # seconds for the gateway to start: a head may be busy
NOISE = 1 << 16  # bytes that start-up files of the account may print before it
WRITE = 1 << 18

COME_BACK = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0, 60.0, 60.0, 60.0)
"""Seconds between tries where a line is lost, five minutes in all: a laptop sleeps, a VPN drops."""

Take = Callable[[str, bytes], None]
"""Called with `out` or `err` and what a command printed there."""


@asynccontextmanager
async def connected(head: Head, places: Places) -> AsyncIterator[Line]:
    """A connection to the head. Raises UnreachableError, HostKeyError, LoginError."""
    connector = Connector(KnownHosts(places.known_hosts), places.ssh_config)
    try:
        at = head.address
        try:
            link = await connector.open(head.name, at.host, user=at.user, port=at.port)
        except HostKeyError as error:
            raise HostKeyError(
                error.message, hint=f"log in once by hand, and compare the fingerprint it shows: ssh {head.name}"
            ) from error
        except LoginError as error:
            hint = "has the administrator of the head added your key? `distribute users add` there"
            raise LoginError(error.message, hint=f"{error.hint or ''}; {hint}".removeprefix("; ")) from error
        try:
            yield Line(head, link)
        finally:
            await link.close()
    finally:
        await connector.close()


class Line:
    """A connection that is open."""

    def __init__(self, head: Head, link: SshLink) -> None:
        self.head = head
        self._link = link

    @asynccontextmanager
    async def talk(self, does: str, first: bytes = b"") -> AsyncIterator[Conversation]:
        """Begin a conversation; `first`: frames to be said in the same breath, which saves a round trip.

        Raises HeadError where no gateway answers, or one of another version.
        """
        async with self._link.command(self.head.command) as process:
            talk = Conversation(self.head, process)
            await talk.greet(does, first)
            alive = asyncio.create_task(talk.stay_alive(), name="signs of life for the head")
            try:
                yield talk
            finally:
                alive.cancel()
                await asyncio.gather(alive, return_exceptions=True)


class Conversation:
    """Frames to and from the gateway."""

    def __init__(self, head: Head, process: SshProcess) -> None:
        self._head = head
        self._process = process
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self._hearing = False
        self._greeted = False
        self._turn = asyncio.Lock()  # a frame is one piece, whoever else has something to say

    async def say(self, data: bytes) -> None:
        """Send a frame, or several. Raises UnreachableError, HeadError."""
        async with self._turn:
            try:
                await self._process.write(data)
            except UnreachableError:
                await self._last_words()
                raise

    async def hear(self) -> Frame:
        """The next frame. An error that the head tells is raised here; UnreachableError where the line is lost."""
        self._hearing = True
        try:
            while not self._frames:
                data = await self._process.read(WRITE)
                if not data:
                    raise await self._ended()
                self._frames += self._decoder.feed(data)
        except FrameError as error:
            raise HeadError(f"{self._head.name} sends what is none of ours: {error}") from None
        finally:
            self._hearing = False
        frame = self._frames.pop(0)
        if frame.kind == "error":
            raise frames.failed(frame)
        return frame

    async def _last_words(self) -> None:
        """Raise what the head said before it hung up, if it did: that is the reason, the line is not."""
        if self._hearing:
            return  # somebody else will hear it
        with contextlib.suppress(UnreachableError):
            while True:
                await self.hear()

    async def greet(self, does: str, first: bytes) -> None:
        """Say hello and what comes first, and hear hello."""
        with contextlib.suppress(UnreachableError):  # where nobody listens, what it printed says more
            await self._process.write(frames.hello(does=does) + first)
        try:
            async with asyncio.timeout(HELLO_LIMIT):
                line, noise = b"", 0
                while not (line := await self._process.readline()).startswith(frames.HELLO):
                    noise += len(line)
                    if not line.endswith(b"\n"):
                        raise await self._ended()
                    if noise > NOISE:
                        raise HeadError(
                            f"{self._head.name} prints {safe(line[:60].decode(errors='replace'))!r} and so on, "
                            "and no gateway answers"
                        )
            (frame,) = self._decoder.feed(line)
            frames.check_head(frame)
            self._greeted = True
        except TimeoutError:
            raise UnreachableError(f"{self._head.name}: the gateway did not answer in {HELLO_LIMIT:.0f} s") from None
        except (FrameError, ValueError) as error:
            raise HeadError(f"{self._head.name} greets with what is none of ours: {error}") from None

    async def stay_alive(self) -> None:
        """Be heard of now and then: a gateway that hears nothing takes the laptop for closed."""
        with contextlib.suppress(UnreachableError, HeadError):
            while True:
                await asyncio.sleep(frames.PING)
                await self.say(frames.encode("ping"))

    async def _ended(self) -> HeadError | UnreachableError:
        """Why the gateway is not there. Raises UnreachableError where the line was lost."""
        ended = await self._process.wait(5.0)
        if ended.ok and self._greeted:
            return UnreachableError(f"{self._head.name} heard nothing of this machine for a while, and hung up")
        said = safe(ended.stderr.decode(errors="replace").strip()[-400:])
        if ended.status in (126, 127):
            return HeadError(
                f"{self._head.name}: there is no program `{self._head.command}`: {said}",
                hint="install distribute there, or say where it is: "
                "`head: {host: USER@HOST, command: /path/to/distribute gateway}` in the config file",
            )
        return HeadError(f"{self._head.name}: the gateway ended: {said or f'exit {ended.status}'}")


# ------------------------------------------------------------------------------------------------------------- commands


async def command(
    line: Line, arguments: Sequence[str], take: Take, *, asks: bool, captured: bool = False, typed: bool = True
) -> int:
    """Run a command on the head, with our terminal as its own; returns its exit code.

    `take` gets what it prints; `asks`: it may want a yes from the person; `captured`: nobody sees its stdout.
    Not `typed`: a program asks, so the terminal and its signals are none of the command's business.
    """
    screen = _screen(asks, captured) if typed else _UNSEEN
    try:
        said = frames.encode("run", argv=list(arguments), **screen)
    except FrameError:
        raise UsageError("that is more than fits into a command for the head", hint="name fewer jobs at once") from None
    async with line.talk("command", said) as talk:
        with _passed_on(talk, typed=screen["stdin"]) if typed else contextlib.nullcontext():
            while (frame := await talk.hear()).kind != "exit":
                if frame.kind not in ("out", "err"):
                    raise odd(line.head, frame)
                take(frame.kind, frame.data)
        return frame.number("code", 255)


def odd(head: Head, frame: Frame) -> HeadError:
    """The error for what no gateway says there."""
    return HeadError(f"{head.name} answers with what is none of ours: {safe(frame.kind[:40])!r}")


def printed(kind: str, data: bytes) -> None:
    """Print what a command on the head printed."""
    stream = sys.stdout if kind == "out" else sys.stderr
    stream.buffer.write(data)
    stream.flush()


def _size() -> os.terminal_size:
    """That of the terminal, wherever it is: stdout may be a file."""
    for stream in (1, 2, 0):
        with contextlib.suppress(OSError):
            return shutil.get_terminal_size(os.get_terminal_size(stream))
    return shutil.get_terminal_size()


_UNSEEN: dict[str, Any] = {"columns": 80, "rows": 24, "term": "dumb"}


def _screen(asks: bool, captured: bool) -> dict[str, Any]:
    size = _size()
    return {
        "stdin": asks and sys.stdin.isatty(),
        "stdout": not captured and sys.stdout.isatty(),
        "stderr": sys.stderr.isatty(),
        "columns": size.columns,
        "rows": size.lines,
        "term": os.environ.get("TERM", "dumb")[:40],
        "no_color": bool(os.environ.get("NO_COLOR")),
        "force_color": bool(os.environ.get("FORCE_COLOR")),
    }


@contextlib.contextmanager
def _passed_on(talk: Conversation, *, typed: bool) -> Iterator[None]:
    """Signals, the size of the terminal, and with `typed` what the person types, go to the command there."""
    loop, waiting = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    this, asked = asyncio.current_task(), 0

    def say(data: bytes) -> None:
        task = loop.create_task(_quietly(talk, data))
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    def signalled(name: str) -> None:
        nonlocal asked
        asked += 1
        if asked > 2 and this is not None:  # the head does not answer: at least we go
            this.cancel()
        say(frames.encode("signal", name=name))

    def resized() -> None:
        size = _size()
        say(frames.encode("size", columns=size.columns, rows=size.lines))

    def read() -> None:
        if data := os.read(0, 4096):
            say(frames.encode("in", data))
        else:
            loop.remove_reader(0)

    loop.add_signal_handler(signal.SIGINT, signalled, "INT")
    loop.add_signal_handler(signal.SIGTERM, signalled, "TERM")
    loop.add_signal_handler(signal.SIGWINCH, resized)
    if typed:
        loop.add_reader(0, read)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH):
            loop.remove_signal_handler(number)
        if typed:
            loop.remove_reader(0)


async def _quietly(talk: Conversation, data: bytes) -> None:
    with contextlib.suppress(UnreachableError, HeadError):  # who hears the answers finds that out as well
        await talk.say(data)
