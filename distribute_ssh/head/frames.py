"""What a laptop and a head say to each other: frames, each a line of JSON and, behind it, as many bytes as it says.

Both begin with `hello`, which carries the schema of this file and the version of the program. Pure: bytes in, frames
out; neither side believes what the other sends, so every size has a limit and every field a type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from distribute_ssh import __version__
from distribute_ssh.errors import DistributeError, FileError, HeadError, Problem
from distribute_ssh.views import document

SCHEMA = 1
"""Goes up when an older side would misunderstand; unknown fields are ignored, so that most changes are none."""

MAX_HEADER = 1 << 16  # bytes; an argv fits, a list of files goes as data
MAX_DATA = 1 << 18  # bytes of one frame: a kill must not wait behind more than that
SILENCE = 60.0  # seconds without a byte after which the other side is taken for gone
PING = 15.0  # seconds between signs of life

HELLO = b'{"is": "hello"'
"""How the first line begins. A start-up file of the account may print something before it."""


class FrameError(Exception):
    """What came is no frame, or not one that belongs here."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One thing said. Fields are asked for by type: a wrong one raises FrameError."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    data: bytes = b""

    def text(self, name: str, longest: int = 4096) -> str:
        """A field that is text of at most `longest` characters."""
        found = self.fields.get(name)
        if not isinstance(found, str) or len(found) > longest:
            raise FrameError(f"{self.kind}.{name} is no text of at most {longest} characters")
        return found

    def number(self, name: str, most: int = 1 << 53) -> int:
        """A field that is a whole number from 0 to `most`."""
        found = self.fields.get(name)
        if type(found) is not int or not 0 <= found <= most:
            raise FrameError(f"{self.kind}.{name} is no number from 0 to {most}")
        return found

    def flag(self, name: str) -> bool:
        """A field that is true or false; false where it is missing."""
        found = self.fields.get(name, False)
        if not isinstance(found, bool):
            raise FrameError(f"{self.kind}.{name} is neither true nor false")
        return found

    def texts(self, name: str, most: int = 10_000) -> list[str]:
        """A field that is a list of texts without NUL."""
        found = self.fields.get(name)
        if not isinstance(found, list) or len(found) > most:
            raise FrameError(f"{self.kind}.{name} is no list of at most {most} texts")
        if not all(isinstance(each, str) and "\0" not in each for each in found):
            raise FrameError(f"{self.kind}.{name} is no list of texts")
        return found


def encode(kind: str, data: bytes = b"", **fields: Any) -> bytes:
    """Return a frame as bytes."""
    header = json.dumps({"is": kind, **fields, **({"bytes": len(data)} if data else {})})
    if len(header) >= MAX_HEADER or len(data) > MAX_DATA:
        raise FrameError(f"{kind} is too long to be said")
    return header.encode() + b"\n" + data


def pieces(kind: str, body: bytes) -> Iterator[bytes]:
    """Return a long text as frames of one kind, each of which says how long all of it is."""
    for start in range(0, max(len(body), 1), MAX_DATA):
        yield encode(kind, body[start : start + MAX_DATA], total=len(body))


class Body:
    """A long text that comes in pieces."""

    def __init__(self, kind: str, limit: int) -> None:
        self._kind = kind
        self._limit = limit
        self._got = bytearray()

    def add(self, frame: Frame) -> bytes | None:
        """Take a piece; the whole once it is complete. Raises FrameError for one that does not fit."""
        if frame.kind != self._kind:
            raise FrameError(f"{frame.kind} came in the middle of {self._kind}")
        total = frame.number("total")
        if total > self._limit:
            raise FrameError(f"{self._kind} has {total:,} bytes; at most {self._limit:,} are taken")
        self._got += frame.data
        if len(self._got) > total or (not frame.data and len(self._got) < total):
            raise FrameError(f"{self._kind} is not as long as it said")
        return bytes(self._got) if len(self._got) == total else None


class Decoder:
    """Bytes in, frames out."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._header: Frame | None = None
        self._wanted = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take what came, and give the frames that are complete. Raises FrameError."""
        self._rest += data
        while True:
            if self._header is None and not self._begin():
                return
            if len(self._rest) < self._wanted or self._header is None:
                return
            frame = Frame(self._header.kind, self._header.fields, bytes(self._rest[: self._wanted]))
            del self._rest[: self._wanted]
            self._header = None
            yield frame

    def _begin(self) -> bool:
        end = self._rest.find(b"\n", 0, MAX_HEADER)
        if end < 0:
            if len(self._rest) >= MAX_HEADER:
                raise FrameError("a line came that is too long for a frame")
            return False
        try:
            fields = json.loads(self._rest[:end])
        except (ValueError, RecursionError):
            raise FrameError("something came that is no frame") from None
        if not isinstance(fields, dict) or not isinstance(kind := fields.pop("is", None), str):
            raise FrameError("something came that is no frame")
        self._header = Frame(kind, fields)
        self._wanted = self._header.number("bytes", MAX_DATA) if "bytes" in fields else 0
        del self._rest[: end + 1]
        return True


# ---------------------------------------------------------------------------------------------------------------- hello


def hello(**fields: Any) -> bytes:
    """Return what either side says first."""
    return encode("hello", schema=SCHEMA, version=__version__, **fields)


def check_head(frame: Frame) -> None:
    """Raise HeadError, for the person at the laptop, where the head's hello is of another schema."""
    if frame.kind != "hello":
        raise FrameError(f"{frame.kind} came in place of hello")
    schema, version = frame.number("schema"), frame.text("version", 100)
    if schema == SCHEMA:
        return
    older, where = ("the head", "on the head") if schema < SCHEMA else ("this machine", "here")
    raise HeadError(
        f"the head has distribute {version} (schema {schema}) and this machine {__version__} (schema {SCHEMA}): "
        "they do not understand each other",
        hint=f"{older} is behind: upgrade distribute {where}",
    )


# --------------------------------------------------------------------------------------------------------------- errors


def failure(error: DistributeError) -> bytes:
    """Return an error of ours as a frame; it is cut where it has thousands of problems."""
    content = document.of_error(error)["error"]
    while len(json.dumps(content)) > MAX_HEADER - 1024:
        if problems := content.get("problems"):
            content["problems"] = problems[: len(problems) // 2]
            content["message"] = "\n".join(_shown(each) for each in content["problems"])
        else:
            content["message"] = str(content["message"])[:4096]
            content["hint"] = None
    return encode("error", error=content)


def failed(frame: Frame) -> DistributeError:
    """Return the error a frame tells, as the class it was there. Raises FrameError for what tells none."""
    return error_of(frame.fields.get("error"))


def error_of(told: object) -> DistributeError:
    """Return the error of a document, as the class it was there. Raises FrameError for what tells none."""
    if not isinstance(told, dict) or not isinstance(message := told.get("message"), str):
        raise FrameError("an error came that says nothing")
    hint = told.get("hint")
    known = _classes()
    found = known.get(str(told.get("kind")), HeadError)
    if found is FileError:
        try:
            return FileError([Problem(**each) for each in told["problems"]])
        except (TypeError, KeyError):
            found = HeadError
    return found(message, hint=hint if isinstance(hint, str) else None)


def _classes() -> dict[str, type[DistributeError]]:
    found: dict[str, type[DistributeError]] = {}
    waiting: list[type[DistributeError]] = [DistributeError]
    while waiting:
        each = waiting.pop()
        found[document.kind_of(each)] = each
        waiting += each.__subclasses__()
    return found


def _shown(problem: Mapping[str, Any]) -> str:
    return str(Problem(**problem))
