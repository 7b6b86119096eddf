"""One command on a node: its bytes in both directions, flow control, and its end, whatever way it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from distribute_ssh.errors import NodeError, UnreachableError
from distribute_ssh.node.library import asyncssh
from distribute_ssh.node.link import Finished, framed

if TYPE_CHECKING:
    from distribute_ssh.node.connection import SshLink

WINDOW = 4 << 20  # bytes we hold for a slow reader before the far end is made to wait
STDERR_KEPT = 8192
NOISE_KEPT = 1024
CLOSE_LIMIT = 5.0  # seconds for a session to be gone when its command is
TERM_LIMIT = 1.0  # seconds a command gets to end after its input ended and TERM was sent


class Session(asyncssh.SSHClientSession[bytes]):
    """One channel's bytes, handed on without asyncssh's stream readers in between."""

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.held = 0
        self.stderr = b""
        self.ended = False
        self.lost: Exception | None = None
        self.status: int | None = None
        self.changed = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()
        self.channel: asyncssh.SSHClientChannel[bytes] | None = None
        self.paused = False
        self.deaf = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Keep the channel."""
        self.channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Hold stdout for the reader, and the last of stderr for messages."""
        if self.deaf:
            return
        if datatype == asyncssh.EXTENDED_DATA_STDERR:
            self.stderr = (self.stderr + data)[-STDERR_KEPT:]
            return
        self.chunks.append(data)
        self.held += len(data)
        if self.held > WINDOW and not self.paused and self.channel is not None:
            self.paused = True
            self.channel.pause_reading()
        self.changed.set()

    def take(self, data: bytes) -> bytes:
        """Hand `data` to the reader: there is room for more."""
        self.held -= len(data)
        if self.paused and self.held < WINDOW // 2 and self.channel is not None:
            self.paused = False
            self.channel.resume_reading()
        return data

    def eof_received(self) -> bool:
        """Its stdout ended."""
        self.ended = True
        self.changed.set()
        return True  # our own stdin stays open: the exit status is still to come

    def exit_status_received(self, status: int) -> None:
        """It ended by itself."""
        self.status = status
        self.exited.set()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:  # noqa: ARG002  # asyncssh's signature
        """A signal ended it."""
        self.status = 255
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing will come any more; without an exit status nobody knows how it ended."""
        self.lost = exc
        self.ended = True
        self.changed.set()
        self.writable.set()
        self.exited.set()
        self.closed.set()

    def deafen(self) -> None:
        """Drop what still comes: a command that waits for its reader would not end."""
        self.deaf = True
        self.chunks.clear()
        self.held = 0
        if self.paused and self.channel is not None:
            self.paused = False
            self.channel.resume_reading()

    def pause_writing(self) -> None:
        """The far end is slow."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.writable.set()


class SshProcess:
    """A command on the node; see `link.Process`."""

    def __init__(self, session: Session, link: SshLink) -> None:
        self.noise = b""  # the first that the account's start-up files printed
        self._session = session
        self._link = link
        self._marker = b""
        self._group: int | None = None  # its process group over there, once it has begun

    def _channel(self) -> asyncssh.SSHClientChannel[bytes]:
        assert self._session.channel is not None
        return self._session.channel

    def _check(self) -> None:
        # Three ways asyncssh tells of a lost line (an exception, a clean end, silence): all end here as "unknown".
        if self._session.lost is not None or (self._session.closed.is_set() and self._session.status is None):
            raise UnreachableError(f"{self._link.node}: the connection was lost")

    async def begin(self, script: str) -> None:
        """Have it run `script`; its stdout is what comes from here on."""
        head, self._marker = framed(script)
        with contextlib.suppress(UnreachableError):  # where a start-up file ended it, `_begun` can say more
            await self.write(head)
        await self._begun()

    async def _begun(self) -> None:
        while not (line := await self.readline()).startswith(self._marker):
            if not line.endswith(b"\n"):
                raise NodeError(
                    f"{self._link.node}: /bin/sh was not started by the login: {_said(self, line)}",
                    hint="a start-up file (.bashrc, .profile, config.fish) that exits or starts another "
                    f"program, or a ForceCommand: ssh {self._link.target.alias} /bin/sh -c true",
                )
            self.noise = (self.noise + line)[:NOISE_KEPT]
        self._group = int(line.removeprefix(self._marker))

    async def write(self, data: bytes) -> None:
        """Send to its stdin."""
        try:
            for start in range(0, len(data), 1 << 18):
                await self._session.writable.wait()
                self._check()
                if self._session.closed.is_set():
                    raise UnreachableError(f"{self._link.node}: the command ended before it read its input")
                self._channel().write(data[start : start + (1 << 18)])
        except (asyncssh.Error, OSError) as error:
            raise UnreachableError(f"{self._link.node}: the connection was lost") from error

    def write_eof(self) -> None:
        """Close its stdin."""
        if not self._session.closed.is_set():
            with contextlib.suppress(OSError):  # it ended in the same moment
                self._channel().write_eof()

    async def read(self, size: int) -> bytes:
        """Up to `size` bytes of its stdout."""
        session = self._session
        while not session.chunks:
            if session.ended:
                self._check()
                return b""
            session.changed.clear()
            await session.changed.wait()
        piece = session.chunks.popleft()
        if len(piece) > size:
            session.chunks.appendleft(piece[size:])
            piece = piece[:size]
        return session.take(piece)

    async def readline(self) -> bytes:
        """One line."""
        parts: list[bytes] = []
        total = 0
        while total < 65536:
            piece = await self.read(65536)
            if not piece:
                break
            cut = piece.find(b"\n") + 1
            if cut:
                if cut < len(piece):
                    self._session.chunks.appendleft(piece[cut:])
                    self._session.held += len(piece) - cut
                parts.append(piece[:cut])
                break
            parts.append(piece)
            total += len(piece)
        return b"".join(parts)

    async def wait(self, limit: float) -> Finished:
        """Its end."""
        try:
            async with asyncio.timeout(limit):
                await self._session.closed.wait()
        except TimeoutError:
            raise UnreachableError(f"{self._link.node}: a command did not end within {limit:g} s") from None
        self._check()
        return Finished(self._session.status, b"", self._session.stderr)

    async def leave(self) -> None:
        """Hang up: it finds its input at the end. It is sent no signal, which a forced command would not get, and its
        end is not waited for: nobody has a use for it.
        """
        session = self._session
        if not session.closed.is_set():
            session.deafen()
            self._channel().close()

    async def close(self) -> None:
        """End it; a channel merely closed would hold its slot until the command ends by itself."""
        session = self._session
        if session.closed.is_set():
            return
        channel = self._channel()
        with contextlib.suppress(OSError):
            channel.write_eof()
            if session.status is None:
                channel.send_signal("TERM")
        if self._group is None:  # the script is on its way; what it starts must be found
            with contextlib.suppress(TimeoutError, NodeError):
                async with asyncio.timeout(CLOSE_LIMIT):
                    await self._begun()
        session.deafen()
        if not await _within(TERM_LIMIT, session.exited):
            if self._group is not None:
                await self._link.end_group(self._group)
            with contextlib.suppress(OSError):
                channel.send_signal("KILL")
        channel.close()  # not before: a signal cannot follow it, and the slot stays taken until the command has ended
        if not await _within(CLOSE_LIMIT, session.closed):
            self._link.leaked()


def _said(process: SshProcess, line: bytes) -> str:
    text = (line or process._session.stderr).decode(errors="replace").strip()
    return text[-200:] or "it said nothing"


async def _within(limit: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(limit):
            await event.wait()
    except TimeoutError:
        return False
    return True
