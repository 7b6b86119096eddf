"""Results over two byte streams: what a head says to whoever pulls from it, and both sides of the conversation.

A request is a line of JSON. `{"listing": 1}` is answered by a row of JSON for each entry, then an empty line;
`{"fetch": [[path, size, offset], ...]}` by frames: a line `NUMBER LENGTH`, then LENGTH bytes of that file.
`NUMBER ! WORDS` says why no more of a file comes, and an empty line that all is over. A path that is no UTF-8 has a
lone surrogate for each odd byte, which JSON escapes. What went wrong as a whole stands as
`{"error": {"kind", "message", "hint"}}` in place of a row or a frame.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from distribute_ssh.errors import DistributeError, NoMatchError, StorageError
from distribute_ssh.storage.listing import Item
from distribute_ssh.storage.results import Piece, Results, Take, Want

LONGEST_LINE = 64 << 10  # a path of 4 KiB, each byte escaped, and what stands beside it
REQUEST = 8 << 20  # bytes of one request, each byte of a path escaped; more files are asked for in several
LONGEST_REQUEST = 2 * REQUEST
"""As much of a request line should be read, and no more."""
LONGEST_FRAME = 1 << 20
MOST_ENTRIES = 5_000_000
ROWS_AT_ONCE = 1000
READ = 1 << 20

Read = Callable[[int], Awaitable[bytes]]
"""Gives at most so many bytes that came; b"" once nothing more will come."""
Write = Callable[[bytes], Awaitable[None]]


class WireError(ValueError):
    """What came is not said this way."""


# --- rows, frames, requests ---


def row(path: bytes, item: Item) -> bytes:
    """One entry of a listing."""
    cells: list[Any] = [item.kind, _text(path), item.size, item.mtime_ns, item.mode]
    return _line([*cells, _text(item.target)] if item.kind == "l" else cells)


def read_row(line: bytes) -> tuple[bytes, Item]:
    """An entry of a listing as it was sent. Raises ValueError, RecursionError."""
    cells = json.loads(line)
    types = (str, str, int, int, int, str)
    if not isinstance(cells, list) or len(cells) not in (5, 6) or not _are(cells, types[: len(cells)]):
        raise WireError("no row of a listing")
    kind, path, size, mtime_ns, mode, *target = cells
    return _bytes(path), Item(kind[:1] or "?", size, mtime_ns, mode & 0o7777, _bytes(target[0]) if target else b"")


def request(wanted: Sequence[Want] | None) -> bytes:
    """Ask for the listing (None), or for files."""
    if wanted is None:
        return _line({"listing": 1})
    return _line({"fetch": [[_text(want.path), want.size, want.offset] for want in wanted]})


def read_request(line: bytes) -> list[Want] | None:
    """What is asked for: files, or the listing (None). Raises WireError."""
    try:
        asked = json.loads(line)
        if isinstance(asked, dict) and asked.keys() == {"listing"}:
            return None
        if isinstance(asked, dict) and asked.keys() == {"fetch"} and isinstance(asked["fetch"], list):
            return [_want(cells) for cells in asked["fetch"]]
    except (ValueError, RecursionError):
        pass
    raise WireError("no request for results")


def _want(cells: Any) -> Want:
    if not isinstance(cells, list) or not _are(cells, (str, int, int)) or not 0 <= cells[2] <= cells[1]:
        raise WireError("no request for a file")
    return Want(_bytes(cells[0]), cells[1], cells[2])


def frames(pieces: Iterable[Piece]) -> Iterator[bytes | memoryview]:
    """Pieces as they go over the line."""
    for piece in pieces:
        view = memoryview(piece.data)
        for start in range(0, len(view), LONGEST_FRAME):
            part = view[start : start + LONGEST_FRAME]
            yield b"%d %d\n" % (piece.number, len(part))
            yield part
        if piece.problem:
            yield b"%d ! %s\n" % (piece.number, " ".join(piece.problem.split())[:500].encode("utf-8", "replace"))


def _line(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def _are(cells: Sequence[Any], types: Sequence[type]) -> bool:
    return len(cells) == len(types) and all(type(cell) is each for cell, each in zip(cells, types, strict=True))


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # ValueError for a surrogate that stands for no byte


# --- the side that has them ---


async def serve(results: Results, line: bytes, write: Write) -> None:
    """Answer one request line; what goes wrong with the results is part of the answer.

    Only what the listing calls a file is sent, see `StoredResults`. Raises WireError for a line that is no request.
    """
    wanted = read_request(line)
    try:
        if wanted is None:
            listing = await results.listing()
            for start in range(0, len(listing), ROWS_AT_ONCE):
                await write(b"".join(row(*each) for each in listing[start : start + ROWS_AT_ONCE]))
        else:

            async def take(pieces: Sequence[Piece]) -> None:
                await write(b"".join(frames(pieces)))

            await results.fetch(wanted, take)
    except DistributeError as error:
        kind = "no-match" if isinstance(error, NoMatchError) else "storage"
        await write(_line({"error": {"kind": kind, "message": error.message, "hint": error.hint}}))
    else:
        await write(b"\n")


# --- the side that wants them ---


class SentResults:
    """The results of one batch behind two byte streams. `name`: where they are, for a person; `asked`: the listing was
    asked for already, and is to be had before anything else.
    """

    def __init__(self, name: str, read: Read, write: Write, *, asked: bool = False) -> None:
        self.name = name
        self._read = read
        self._write = write
        self._asked = asked
        self._held = bytearray()
        self._at = 0

    async def listing(self) -> Sequence[tuple[bytes, Item]]:
        """Everything there."""
        if not self._asked:
            await self._write(request(None))
        self._asked = False
        rows: list[tuple[bytes, Item]] = []
        while (line := await self._line()) != b"":
            if line.startswith(b"{"):
                raise self._error(line)
            try:
                rows.append(read_row(line))
            except (ValueError, RecursionError):
                raise self._nonsense() from None
            if len(rows) > MOST_ENTRIES:
                raise self._nonsense()
        return rows

    async def fetch(self, wanted: Sequence[Want], take: Take) -> None:
        """Have `take` given the bytes of these files."""
        start = 0
        while start < len(wanted):
            end, size = start, 0
            while end < len(wanted) and size < REQUEST:
                size += 6 * len(wanted[end].path) + 50
                end += 1
            await self._fetch(wanted[start:end], start, take)
            start = end

    async def _fetch(self, wanted: Sequence[Want], first: int, take: Take) -> None:
        """One request; `first`: the number of the first of these files for `take`."""
        await self._write(request(wanted))
        pieces: list[Piece] = []
        size = 0
        while (line := await self._line()) != b"":
            if line.startswith(b"{"):
                await take(pieces)
                raise self._error(line)
            number, _, rest = line.partition(b" ")
            if not number.isdigit() or len(number) > 9 or int(number) >= len(wanted):
                raise self._nonsense()
            if rest.startswith(b"! "):
                pieces.append(Piece(first + int(number), problem=_printable(rest[2:])))
            elif rest.isdigit() and len(rest) < 9 and 0 < int(rest) <= LONGEST_FRAME:
                pieces.append(Piece(first + int(number), await self._exactly(int(rest))))
                size += int(rest)
            else:
                raise self._nonsense()
            # What is here already is taken in one go: each go costs a switch to another thread.
            if size >= READ or len(self._held) - self._at == 0:
                await take(pieces)
                pieces, size = [], 0
        if pieces:
            await take(pieces)

    async def _more(self) -> None:
        data = await self._read(READ)
        if not data:
            raise StorageError(f"{self.name}: the connection was lost", hint="the same command goes on from here")
        if self._at:
            del self._held[: self._at]
            self._at = 0
        self._held += data

    async def _line(self) -> bytes:
        while (end := self._held.find(b"\n", self._at, self._at + LONGEST_LINE)) < 0:
            if len(self._held) - self._at >= LONGEST_LINE:
                raise self._nonsense()
            await self._more()
        line = bytes(self._held[self._at : end])
        self._at = end + 1
        return line

    async def _exactly(self, size: int) -> bytes:
        while len(self._held) - self._at < size:
            await self._more()
        data = bytes(self._held[self._at : self._at + size])
        self._at += size
        return data

    def _nonsense(self) -> StorageError:
        return StorageError(f"{self.name}: what it sends makes no sense")

    def _error(self, line: bytes) -> DistributeError:
        try:
            told = json.loads(line)["error"]
            message, hint = str(told["message"]), told["hint"]
            kind: Mapping[str, type[DistributeError]] = {"no-match": NoMatchError}
            return kind.get(told["kind"], StorageError)(
                _printable(message.encode()), hint=None if hint is None else _printable(str(hint).encode())
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._nonsense()


def _printable(words: bytes) -> str:
    text = words.decode("utf-8", "replace")[:1000]
    return "".join(c if c.isprintable() else "?" for c in text)
