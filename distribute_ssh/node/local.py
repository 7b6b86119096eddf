"""This machine as a node: the same verbs as over SSH, on a subprocess."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from distribute_ssh.errors import UnreachableError
from distribute_ssh.node.files import LocalFiles
from distribute_ssh.node.link import Finished, Process, framed

# What a login on this machine would have given the job. The submitter's own environment stays out: it holds tokens,
# and a result must not depend on what a terminal happened to export.
KEPT = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
BUFFER = 1 << 20
STDERR_KEPT = 8192
END_LIMIT = 2.0  # seconds a command gets to go after TERM


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of our own environment that a node's processes may see."""
    kept = {name: environ[name] for name in KEPT if name in environ}
    kept.setdefault("PATH", os.defpath)
    return kept


class LocalProcess:
    """A subprocess; see `link.Process`."""

    noise = b""  # no login, no start-up files

    def __init__(self, process: asyncio.subprocess.Process, node: str) -> None:
        self._process = process
        self._node = node
        self._stderr = asyncio.create_task(self._keep_stderr(), name=f"stderr of {node}")

    async def _keep_stderr(self) -> bytes:
        assert self._process.stderr is not None
        kept = b""
        while piece := await self._process.stderr.read(STDERR_KEPT):
            kept = (kept + piece)[-STDERR_KEPT:]
        return kept

    async def write(self, data: bytes) -> None:
        """Send to its stdin."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise UnreachableError(f"{self._node}: the shell on this machine ended") from error

    def write_eof(self) -> None:
        """Close its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def read(self, size: int) -> bytes:
        """Up to `size` bytes of its stdout."""
        assert self._process.stdout is not None
        return await self._process.stdout.read(size)

    async def readline(self) -> bytes:
        """One line."""
        assert self._process.stdout is not None
        try:
            return await self._process.stdout.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            return end.partial
        except asyncio.LimitOverrunError as error:
            return await self._process.stdout.readexactly(error.consumed)

    async def wait(self, limit: float) -> Finished:
        """Its end."""
        try:
            async with asyncio.timeout(limit):
                status = await self._process.wait()
                stderr = await self._stderr
        except TimeoutError:
            raise UnreachableError(f"{self._node}: a command did not end within {limit:g} s") from None
        return Finished(status, b"", stderr)

    async def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)  # it leads a group; its children would outlive it
            # Not `wait()`: that also waits for every pipe, and a wrapper may hold one for as long as its job runs.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_LIMIT):
                    while self._process.returncode is None:  # noqa: ASYNC110  # asyncio tells of it in no other way
                        await asyncio.sleep(0.005)
        self._stderr.cancel()
        await asyncio.gather(self._stderr, return_exceptions=True)
        transport = getattr(self._process, "_transport", None)  # asyncio offers no other way to drop inherited pipes
        if transport is not None:
            transport.close()


def _hear_signals() -> None:
    """Have what we start hear the signals that we are to ignore.

    `nohup` and `&` make us ignore some, and what we start would ignore them for life. A handler that does nothing is as
    deaf, and is not passed on.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, lambda *_: None)


class LocalLink:
    """This machine; see `link.Link`."""

    def __init__(self, node: str, environ: Mapping[str, str] | None = None) -> None:
        _hear_signals()
        self.node = node
        self._environ = clean_environment(os.environ if environ is None else environ)
        self._open = True

    @property
    def is_open(self) -> bool:
        """Until closed."""
        return self._open

    async def run(self, script: str, *, stdin: bytes = b"", limit: float = 30.0) -> Finished:
        """Run one of our scripts to its end."""
        try:
            async with asyncio.timeout(limit), self.process(script) as process:
                feeding = asyncio.create_task(_feed(process, stdin), name=f"input for {self.node}")
                try:
                    pieces = []
                    while piece := await process.read(BUFFER):
                        pieces.append(piece)
                    ended = await process.wait(limit)
                finally:
                    feeding.cancel()
                    await asyncio.gather(feeding, return_exceptions=True)
        except TimeoutError:
            raise UnreachableError(f"{self.node}: a command did not end within {limit:g} s") from None
        return Finished(ended.status, b"".join(pieces), ended.stderr)

    @asynccontextmanager
    async def process(self, script: str) -> AsyncIterator[LocalProcess]:
        """Start one of our scripts and talk to it."""
        head, marker = framed(script)
        # A session of its own: Ctrl-C in the terminal of `distribute run` must not reach what runs on the node.
        starting = asyncio.create_task(asyncio.create_subprocess_exec(
            "/bin/sh", "-c", 'eval "$(while IFS= read -r l; do [ "$l" = "#EOS" ] && break; printf "%s\\n" "$l"; done)"',
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=self._environ, cwd="/", start_new_session=True, limit=BUFFER,
        ), name=f"shell for {self.node}")  # fmt: skip
        try:
            child = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Python 3.11 waits for ever for a process whose start is cancelled before all its pipes are connected.
            await LocalProcess(await starting, self.node).close()
            raise
        process = LocalProcess(child, self.node)
        try:
            await process.write(head)
            while not (line := await process.readline()).startswith(marker):
                if not line.endswith(b"\n"):
                    raise UnreachableError(f"{self.node}: /bin/sh on this machine ended before our script began")
            yield process
        finally:
            # In a task of its own: in one that is being cancelled, Python before 3.11.4 takes a time limit for another
            # cancellation, and what ignores TERM would never be sent KILL.
            await asyncio.shield(process.close())

    @asynccontextmanager
    async def files(self) -> AsyncIterator[LocalFiles]:
        """This machine's files."""
        yield LocalFiles()

    async def close(self) -> None:
        """Nothing is held between calls."""
        self._open = False


async def _feed(process: Process, data: bytes) -> None:
    """Give a command its input; one that ends without reading all of it is no error of ours."""
    try:
        if data:
            await process.write(data)
    except UnreachableError:
        return
    finally:
        process.write_eof()
