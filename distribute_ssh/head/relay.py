"""A command that the gateway runs for a laptop: its output to the line, and the person's signals to it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from distribute_ssh.head import frames
from distribute_ssh.head.frames import SILENCE, Frame, FrameError
from distribute_ssh.head.gateway import Gone, Wire

PIECE = 1 << 16
HELD = 4 << 20  # bytes for a slow laptop before the command has to wait for it
PATIENCE = 10.0  # seconds for a command to end by itself when nobody is left to read it
SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP}
_TERM = re.compile(r"[A-Za-z0-9._+-]{1,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Screen:
    """What the person looks at: which of the streams are a terminal, and of what kind and size."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    columns: int = 80
    rows: int = 24
    term: str = "dumb"
    no_color: bool = False
    force_color: bool = False

    @classmethod
    def told(cls, frame: Frame) -> Screen:
        """Read what a laptop says of it. Raises FrameError."""
        term = frame.text("term", 40)
        return cls(
            frame.flag("stdin"),
            frame.flag("stdout"),
            frame.flag("stderr"),
            frame.number("columns", 10_000),
            frame.number("rows", 10_000),
            term if _TERM.fullmatch(term) else "dumb",
            frame.flag("no_color"),
            frame.flag("force_color"),
        )

    @property
    def env(self) -> dict[str, str]:
        """What it means for the environment of a command."""
        env = {"TERM": self.term}
        env |= {"NO_COLOR": "1"} if self.no_color else {}
        return env | ({"FORCE_COLOR": "1"} if self.force_color else {})


def run(
    wire: Wire, arguments: Sequence[str], env: Mapping[str, str], screen: Screen, stays: Callable[[int], bool]
) -> None:
    """Run our own program with these arguments, to its end or until the laptop is gone.

    `stays`: whether the process of that number has to go on without anybody who looks: it drives the queue. Raises
    Gone, after the command has ended.
    """
    child = _Child(arguments, {**env, **screen.env}, screen)
    try:
        _Relay(wire, child).run()
    except Gone:
        if stays(child.process.pid):
            child.drain()
        else:
            child.end()
        raise
    except BaseException:
        child.end()
        raise
    finally:
        child.close()


class _Child:
    """The command, on pipes, or on a terminal of its own where the person has one."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], screen: Screen) -> None:
        slave = None
        self.terminal: int | None = None
        if screen.stdin or screen.stdout or screen.stderr:
            self.terminal, slave = os.openpty()
            self.resize(screen.columns, screen.rows)
            _plain(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "distribute_ssh", *arguments],
            stdin=slave if screen.stdin and slave is not None else subprocess.DEVNULL,
            stdout=slave if screen.stdout else subprocess.PIPE,
            stderr=slave if screen.stderr else subprocess.PIPE,
            env=dict(env),
            cwd="/",
            start_new_session=True,
        )
        if slave is not None:
            os.close(slave)
        self.streams: dict[int, str] = {}
        if self.process.stdout:
            self.streams[self.process.stdout.fileno()] = "out"
        if self.process.stderr:
            self.streams[self.process.stderr.fileno()] = "err"
        if self.terminal is not None:
            self.streams[self.terminal] = "out" if screen.stdout else "err"
        for each in self.streams:
            os.set_blocking(each, False)

    def resize(self, columns: int, rows: int) -> None:
        """Give its terminal that size."""
        if self.terminal is not None:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        """Give it what the person typed; it asks for a yes at most, so what does not fit is dropped."""
        if self.terminal is not None:
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(self.terminal, data)

    def signal(self, number: int) -> None:
        """Tell it something; nothing where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def read(self, stream: int) -> bytes | None:
        """What it printed; b"" at the end, None where there is nothing now."""
        try:
            return os.read(stream, PIECE)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # how a terminal says that nobody has its other side any more
                return b""
            raise

    def drain(self) -> None:
        """Let it go on to its end, and read what it prints for nobody."""
        with selectors.DefaultSelector() as selector:
            for stream in self.streams:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map() and self.process.poll() is None:
                for key, _ in selector.select(1.0):
                    if self.read(key.fd) == b"":
                        selector.unregister(key.fd)
        self.process.wait()

    def end(self) -> None:
        """End it: as a terminal that is closed would, and less politely where that does not help."""
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL):
            self.signal(number)
            end = time.monotonic() + PATIENCE
            while self.process.poll() is None and time.monotonic() < end:
                for stream in self.streams:
                    self.read(stream)
                time.sleep(0.02)  # its output has to be read meanwhile, or it could not end
            if self.process.poll() is not None:
                return

    def close(self) -> None:
        """Let go of its streams."""
        for each in (self.process.stdout, self.process.stderr):
            if each:
                each.close()
        if self.terminal is not None:
            os.close(self.terminal)


class _Relay:
    """Between the line and a command, until one of them ends."""

    def __init__(self, wire: Wire, child: _Child) -> None:
        self._wire = wire
        self._child = child
        self._held = bytearray()  # on its way to the laptop
        self._heard = time.monotonic()

    def run(self) -> None:
        child, open_streams = self._child, set(self._child.streams)
        ended = os.pidfd_open(child.process.pid)
        try:
            for frame in self._wire.take():  # what came together with the command
                self._obey(frame)
            while child.process.poll() is None:
                self._step(open_streams, ended)
            # It may have left somebody behind who holds its streams: what is in them now is all we wait for.
            end = time.monotonic() + 1.0
            while open_streams and (self._step(open_streams, None) or self._is_full or time.monotonic() < end):
                pass
        finally:
            os.close(ended)
        code = child.process.wait()
        self._wire.write(bytes(self._held) + frames.encode("exit", code=code if code >= 0 else 128 - code))

    @property
    def _is_full(self) -> bool:
        return len(self._held) >= HELD

    def _step(self, streams: set[int], ended: int | None) -> bool:
        """Wait until something can be moved, and move it. False: nothing could within the time."""
        with selectors.PollSelector() as selector:
            source, sink = self._wire.source, self._wire.sink
            selector.register(source, selectors.EVENT_READ)
            if self._held:
                selector.register(sink, selectors.EVENT_WRITE)
            if ended is not None:
                selector.register(ended, selectors.EVENT_READ)
            for stream in () if self._is_full else streams:
                selector.register(stream, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(1.0 if ended is not None else 0.1)}
        if source in ready:
            self._heard = time.monotonic()
            for frame in self._wire.take():
                self._obey(frame)
        elif time.monotonic() - self._heard > SILENCE:
            raise Gone
        moved = False
        for stream in streams & ready:
            data = self._child.read(stream)
            moved = True
            if data == b"":
                streams.discard(stream)
            elif data:
                self._held += frames.encode(self._child.streams[stream], data)
        self._send()
        return moved

    def _send(self) -> None:
        try:
            while self._held:
                done = os.write(self._wire.sink, bytes(self._held[:PIECE]))
                del self._held[:done]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionError):
            raise Gone from None

    def _obey(self, frame: Frame) -> None:
        if frame.kind == "signal":
            if (number := SIGNALS.get(frame.text("name", 10))) is None:
                raise FrameError("there is no such signal here")
            self._child.signal(number)
        elif frame.kind == "size":
            self._child.resize(frame.number("columns", 10_000), frame.number("rows", 10_000))
        elif frame.kind == "in":
            self._child.type(frame.data)
        else:
            raise FrameError(f"{frame.kind[:40]!r} is not expected now")


def _plain(terminal: int) -> None:
    """Leave line ends and echo to the person's own terminal, which does both already."""
    settings = termios.tcgetattr(terminal)
    settings[1] &= ~termios.OPOST
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, settings)
