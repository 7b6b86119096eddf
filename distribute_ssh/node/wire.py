"""The lines between a channel and its resident: how requests are spelled and answers are read. Pure.

Nothing from a node is believed further than this grammar goes: a line that does not fit is dropped, tokens are looked
up among those we know, and an event only makes us look at the record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from distribute_ssh.model.layout import is_token

LONGEST = 512
"""Bytes in a line from a node; pipes keep lines up to 4,096 whole, and ours are far shorter."""

EVENTS = frozenset({"started", "exit", "resumed"})
ROWS = frozenset({"sight", "batch", "kept", "lease", "moves", "stray", "slurm", "refusal"})
READINGS = frozenset({"tty", "watch", "session", "screen", "load", "cpu", "gpu"})
SIGHTS = frozenset({"absent", "unstarted", "claimed", "running", "ended", "gone"})


@dataclass(frozen=True, slots=True)
class Hello:
    """The resident is there."""

    boot_id: str
    pid: int
    room: str  # a name for that very folder, whatever the node is called
    root: str  # our folder on the node, absolute


@dataclass(frozen=True, slots=True)
class Refusal:
    """The resident cannot work: `scratch` (no folder can be written) or `full`."""

    why: str
    detail: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to an attempt, or to a lease: a hint."""

    kind: str  # "started" or "exit"; "resumed", of a lease that ended by itself
    token: str
    detail: str


@dataclass(frozen=True, slots=True)
class Row:
    """A part of an answer."""

    number: int
    kind: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class End:
    """The end of an answer."""

    number: int
    ok: bool
    detail: str


def escape(text: str) -> str:
    """Spell any text so that `printf %b` gives it back, in one line of printable ASCII."""
    return escape_bytes(text.encode("utf-8", "surrogateescape"))


def escape_bytes(data: bytes) -> str:
    """Spell any bytes so that `printf %b` gives them back, in one line of printable ASCII."""
    return "".join(_ESCAPED[byte] for byte in data)


_ESCAPED = [chr(byte) if 0x20 <= byte < 0x7F else f"\\0{byte:03o}" for byte in range(256)]
_ESCAPED[ord("\\")] = "\\\\"
_ESCAPED[ord("\n")] = "\\n"


def word(text: str, room: int) -> str:
    """Spell a text of people as one word of a line, of at most `room` bytes; `unword` reads it again."""
    out = ""
    for character in text:
        spelled = "\\0040" if character == " " else escape(character)
        if len(out) + len(spelled) > room:
            break
        out += spelled
    return out


def unword(spelled: str) -> str:
    """Read a word again; what no `word` wrote stays as it is."""
    data = re.sub(
        rb"\\(0[0-7]{3}|n|\\)",
        lambda found: {b"n": b"\n", b"\\": b"\\"}.get(found[1]) or bytes([int(found[1], 8) & 0xFF]),
        spelled.encode("utf-8", "surrogateescape"),
    )
    return data.decode("utf-8", "replace")


def request(verb: str, number: int, *words: str) -> bytes:
    """Spell a request."""
    return (" ".join((verb, str(number), *words)) + "\n").encode("ascii")


_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


def read(line: bytes, nonce: str) -> Hello | Refusal | Event | Row | End | None:
    """Read a line from a node; None for everything that is not a well-formed line of ours."""
    if len(line) > LONGEST and b" hello " not in line[:64]:
        return None
    words = line.decode("utf-8", "surrogateescape").rstrip("\n").split(" ")
    if len(words) < 3 or words[0] != nonce:
        return None
    kind, rest = words[1], words[2:]
    if kind == "hello" and len(rest) >= 5 and _NUMBER.fullmatch(rest[2]):
        root = " ".join(rest[4:])
        return Hello(rest[1], int(rest[2]), rest[3], root) if root.startswith("/") else None
    if kind in ("scratch", "full"):
        return Refusal(kind, " ".join(rest))
    if kind in EVENTS:
        return Event(kind, rest[0], " ".join(rest[1:])) if is_token(rest[0]) else None
    if not _NUMBER.fullmatch(rest[0]):
        return None
    if kind in ("done", "fail"):
        return End(int(rest[0]), kind == "done", " ".join(rest[1:]))
    if kind == "reading" and len(rest) > 2 and rest[1] in READINGS:
        return Row(int(rest[0]), kind, tuple(rest[1:]))
    if kind in ROWS and len(rest) > 1 and is_token(rest[1]):
        return Row(int(rest[0]), kind, tuple(rest[1:]))
    return None
