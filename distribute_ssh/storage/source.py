"""A node's side of archiving: list the attempts, hand over files as one tar stream, list again, in one command there.

What the job printed and saved is the account's own, so the script may give itself the right to read it (a job that
left a file with mode 000 would otherwise wait for ever); `listing.Item` says why nobody sees that later. Tokens and
names travel on stdin, the names after the tokens up to its end; none ever is part of a command line of a shell.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from distribute_ssh.errors import NodeError, ScratchError, UnreachableError
from distribute_ssh.node.files import Files
from distribute_ssh.node.link import Link, Process
from distribute_ssh.storage.listing import Collector, FindReader, Saved, walk
from distribute_ssh.storage.tarstream import END, TarError

READ = 1 << 20
BATCH = 1 << 20  # bytes worth a thread switch
SILENCE = 300.0  # seconds for so many; the connection has its own pings, but a network disk over there may hang
AHEAD = 4 << 20  # bytes held while the ones before are being written

NO_FOLDER = 70
_HEAD = """\
LC_ALL=C; export LC_ALL; unset TAR_OPTIONS POSIXLY_CORRECT
IFS= read -r folder; cd "$folder" 2>/dev/null || exit 70
set --
while IFS= read -r token && [ -n "$token" ]; do set -- "$@" "$token"; done
"""
_LOOK = r"""
look() {
    find "$@" \( -type d ! -perm -700 -exec chmod u+rwx {} \; , -type f ! -perm -400 -exec chmod u+r {} \; , \
        -printf '%y %s %T@ %m %p\0%l\0' \)
    [ $? -lt 126 ] || exit 71  # no such program: that nothing was listed means nothing
    printf '=\0\0'
}
"""
_TAR = "xargs -0 -r tar -cf -; printf =\n"
WITH_FIND = _HEAD + _LOOK + 'look "$@"\n' + _TAR + 'look "$@"\n'
TAR_ONLY = _HEAD + _TAR
MAKE_READABLE = _HEAD + 'chmod -R u+rwX "$@"\n'
# Prints the sha256 of the first bytes of files; asked for by pairs of byte count and name.
PREFIX_SUMS = _HEAD + 'xargs -0 -r -n 2 sh -c \'head -c "$1" "./$2" | sha256sum\' sh\n'

Feed = Callable[[Sequence[bytes]], Awaitable[bytes | None]]
"""Takes the next pieces of a stream; returns what is not part of it once it is over, None before that."""


class Source(Protocol):
    """One round with a node: `look`, at most one `receive`, `look`."""

    async def look(self) -> Mapping[str, Saved]:
        """What the attempts hold now. Raises NodeError, UnreachableError."""

    async def receive(self, names: Sequence[bytes], feed: Feed) -> None:
        """Have the files of these names (token, slash, path) sent as a tar stream.

        Raises TarError where that does not work there (the other lane will do), NodeError, UnreachableError.
        """


@asynccontextmanager
async def open_source(link: Link, files: Files | None, attempts: bytes, tokens: Sequence[str]) -> AsyncIterator[Source]:
    """Begin a round. `files`: list by walking through them, where the node's `find` cannot print what we need."""
    if files is not None:
        yield _Walked(link, files, attempts, tokens)
        return
    async with link.process(WITH_FIND) as process:
        await process.write(request(attempts, tokens))
        yield _Found(link.node, process, tokens)


def request(attempts: bytes, tokens: Sequence[str]) -> bytes:
    """What every script here reads first."""
    return attempts + b"\n" + b"".join(token.encode() + b"\n" for token in tokens) + b"\n"


class _Found:
    def __init__(self, node: str, process: Process, tokens: Sequence[str]) -> None:
        self._node = node
        self._process = process
        self._tokens = tokens
        self._rest = b""
        self._received = False
        self._looked = False

    async def look(self) -> Mapping[str, Saved]:
        if self._looked and not self._received:
            await self.receive((), _no_files)
        self._looked = True
        reader = FindReader(collector := Collector(self._node, self._tokens))
        data = self._rest
        while not reader.ended:
            if not data:
                async with _silence(self._node):
                    data = await self._process.read(READ)
            if not data:
                why = await why_ended(self._process, self._node)
                raise NodeError(f"{self._node}: the list of its files ended early: {why}")
            await asyncio.to_thread(reader.feed, data)  # a long list must not hold up the nodes' events
            data = b""
        self._rest = reader.rest
        return collector.saved

    async def receive(self, names: Sequence[bytes], feed: Feed) -> None:
        self._received = True
        self._rest = await transfer(self._process, self._node, names, feed, self._rest)


class _Walked:
    def __init__(self, link: Link, files: Files, attempts: bytes, tokens: Sequence[str]) -> None:
        self._link = link
        self._files = files
        self._attempts = attempts
        self._tokens = tokens
        self._looked = False

    async def look(self) -> Mapping[str, Saved]:
        if not self._looked:
            await self._link.run(MAKE_READABLE, stdin=request(self._attempts, self._tokens), limit=600)
        self._looked = True
        return await walk(self._files, self._link.node, self._attempts, self._tokens)

    async def receive(self, names: Sequence[bytes], feed: Feed) -> None:
        if not names:
            return
        async with self._link.process(TAR_ONLY) as process:
            await process.write(request(self._attempts, ()))
            await transfer(process, self._link.node, names, feed)


async def _no_files(pieces: Sequence[bytes]) -> bytes | None:
    return b"".join(pieces).removeprefix(END)


async def transfer(process: Process, node: str, names: Sequence[bytes], feed: Feed, first: bytes = b"") -> bytes:
    """Send the names and pass on the stream that answers, reading on while what came before is being written.

    Returns the bytes behind the stream.
    """
    asking = asyncio.create_task(_ask(process, names), name=f"names for {node}")
    working: asyncio.Task[bytes | None] | None = None
    held = [first] if first else []
    size = len(first)
    ended = False
    lost: UnreachableError | None = None
    try:
        async with _silence(node) as limit:
            while True:
                if working is not None and (working.done() or ended or size >= AHEAD):
                    limit.reschedule(None)  # storage may take its time
                    rest = await working
                    working = None
                    limit.reschedule(asyncio.get_running_loop().time() + SILENCE)
                    if rest is not None:
                        return rest + b"".join(held)
                if working is None and held and (ended or size >= BATCH):
                    working = asyncio.create_task(_call(feed, held), name=f"files of {node}")
                    held, size = [], 0
                elif ended and working is None:
                    if lost is not None:
                        raise lost
                    raise TarError(f"it ended early: {await why_ended(process, node)}")
                elif not ended:
                    try:
                        piece = await process.read(READ)
                    except UnreachableError as error:  # what came before is kept: it need not come again
                        lost, piece = error, b""
                    held += [piece] if piece else []
                    size += len(piece)
                    ended = not piece
    finally:
        tasks = [asking, *([working] if working else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _silence(node: str) -> AsyncIterator[asyncio.Timeout]:
    """Wait for a node's disk, but not for ever."""
    try:
        async with asyncio.timeout(SILENCE) as limit:
            yield limit
    except TimeoutError:
        raise UnreachableError(f"{node}: its disk gave nothing for {SILENCE:.0f} s") from None


async def _call(feed: Feed, pieces: Sequence[bytes]) -> bytes | None:
    return await feed(pieces)


async def _ask(process: Process, names: Sequence[bytes]) -> None:
    for start in range(0, len(names), 1000):
        await process.write(b"".join(name + b"\0" for name in names[start : start + 1000]))
    process.write_eof()


async def why_ended(process: Process, node: str) -> str:
    """Say why a command's output stopped short. Raises UnreachableError, ScratchError where that is the reason."""
    ended = await process.wait(10)
    if ended.status is None:
        raise UnreachableError(f"{node}: the connection was lost")
    if ended.status == NO_FOLDER:
        raise ScratchError(f"{node}: its scratch folder is not there any more")
    said = ended.stderr[-200:].decode("utf-8", "replace").strip()
    return f"status {ended.status}: {said or 'no message'}"
