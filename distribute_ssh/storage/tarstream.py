"""The stream a node's `tar` writes, read piece by piece: regular files come out, everything else is passed over. PURE

`tarfile` is not used: it wants a file to seek in or a thread to block, takes twice the time, and its guards against
hostile archives have been broken again and again. Here a name is only ever a key that the caller looks up among the
names it asked for; nothing in the stream becomes a path, a link or a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 512
END = b"="
"""Our script prints this behind the archive. No header starts with it: the names we ask for start with a token."""

_MOST_META = 1 << 20  # bytes of a long name or a pax header; paths end at 4 KiB
_ZERO = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_NO_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: whatever size they claim


class TarError(ValueError):
    """What came is no tar archive, or more than was asked for."""


@dataclass(frozen=True, slots=True)
class Member:
    """The start of a regular file; `size` bytes of data follow as memoryviews."""

    name: bytes
    size: int


class TarReader:
    """Reads ustar, GNU (long names) and pax (path, size) archives, one behind the other, up to `END`.

    `limit`: bytes after which the stream cannot be what was asked for.
    """

    def __init__(self, limit: int) -> None:
        self.ended = False
        self.rest = b""  # what followed END
        self._limit = limit
        self._head = bytearray()  # of a header that came in pieces
        self._left = 0  # bytes of data still to come, and zeros behind them
        self._padding = 0
        self._meta: bytearray | None = None  # the data is no file's but describes the next one
        self._meta_kind = b""
        self._passed = False  # the data belongs to nothing we take
        self._name: bytes | None = None
        self._size: int | None = None

    def feed(self, data: bytes) -> Iterator[Member | memoryview]:
        """Take the next bytes of the stream; the iterator must be used up. Raises TarError."""
        view = memoryview(data)
        at, end = 0, len(view)
        self._limit -= end
        if self._limit < 0:
            raise TarError("more comes than was asked for")
        while at < end:
            if self._left:
                piece = view[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if self._meta is not None:
                    self._meta += piece
                    if not self._left:
                        self._describe(bytes(self._meta))
                elif not self._passed:
                    yield piece
            elif self._padding:
                skipped = min(self._padding, end - at)
                at += skipped
                self._padding -= skipped
            elif not self._head and view[at : at + 1] == END:
                self.ended = True
                self.rest = bytes(view[at + 1 :])
                return
            else:
                wanted = BLOCK - len(self._head)
                self._head += view[at : at + wanted]
                at += wanted
                if len(self._head) == BLOCK:
                    block = bytes(self._head)
                    self._head.clear()
                    if block != _ZERO and (member := self._header(block)) is not None:
                        yield member

    def _header(self, block: bytes) -> Member | None:
        if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 32:
            raise TarError("a header's checksum is wrong")
        kind = block[156:157]
        size = _number(block[124:136])
        self._meta, self._passed = None, False
        if kind in (b"x", b"L"):
            if size > _MOST_META:
                raise TarError("a name is too long")
            self._meta, self._meta_kind = bytearray(), kind
            self._expect(size)
            return None
        if kind in (b"g", b"K"):  # what holds for all files is never a name or a size; links we know from the listing
            self._passed = True
            self._expect(size)
            return None
        name, self._name = self._name, None
        announced, self._size = self._size, None
        if kind not in _REGULAR:
            self._passed = True
            self._expect(0 if kind in _NO_DATA else size)
            return None
        if name is None:
            name = block[:100].split(b"\0", 1)[0]
            if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
                name = prefix + b"/" + name
        self._expect(size if announced is None else announced)
        return Member(name, self._left)

    def _expect(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    def _describe(self, data: bytes) -> None:
        """Take a long name or a pax header, which hold for the next file."""
        if self._meta_kind == b"L":
            self._name = data.split(b"\0", 1)[0]
            return
        at = 0
        while at < len(data):  # "LENGTH KEY=VALUE\n", LENGTH counting itself
            length, space, _ = data[at : at + 8].partition(b" ")
            if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(data) - at:
                raise TarError("a pax header is broken")
            key, _, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
            at += int(length)
            if key == b"path":
                self._name = value
            elif key == b"size":
                if not value.isdigit() or len(value) > 20:
                    raise TarError("a pax header's size is no number")
                self._size = int(value)


def _number(field: bytes) -> int:
    """Octal digits, or base 256 where the first bit is set (GNU, sizes from 8 GiB on)."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise TarError("a number is negative")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise TarError("a number is none")
    return int(digits, 8)
