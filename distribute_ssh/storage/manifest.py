"""`job.json`, the record that lies beside a job's results, and the journal of what already came of an attempt. PURE

Names are bytes, JSON is text: a path that is valid UTF-8 stands under `path` as it is, any other one under `path_b64`
as base64 of its bytes (links: `target` or `target_b64`). So nothing is lost, and no name can smuggle an escape
sequence onto a terminal: everything but ASCII is written as `\\uXXXX`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from distribute_ssh.storage.listing import SECOND, Item

SCHEMA = 1
HEAD_BYTES = 4096
"""As much of a `job.json` tells whose it is; the list of files behind it may be long."""

_HEAD = re.compile(r'\A\{\s*"schema":\s*\d+,\s*"token":\s*"([a-z0-9-]{1,80})",\s*"attempt":\s*(\d{1,9}|null)')
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")
_LINE_LENGTH = 200


@dataclass(slots=True)
class Contents:
    """What lies in a job's folder: each file with its sha256, folders and links, and what could not be brought."""

    files: dict[bytes, tuple[Item, str]] = field(default_factory=dict)
    folders: dict[bytes, Item] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)
    skipped: dict[bytes, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(item.size for item, _ in self.files.values())


class ManifestError(ValueError):
    """A `job.json` that is none of ours, or was changed."""


def build(token: str, record: Mapping[str, Any], contents: Contents) -> bytes:
    """The text of a `job.json`: `record` as the caller gave it, then what lies beside it, one entry a line.

    The token and the number of the attempt come first, so that `head` finds them without reading it all.
    """
    first = {"schema": SCHEMA, "token": token, "attempt": record.get("attempt")}
    head = json.dumps({**first, **{k: v for k, v in record.items() if k not in first}}, indent=1)
    lists: dict[str, Iterable[dict[str, Any]]] = {
        "files": (
            {
                **_named("path", path),
                "size": item.size,
                "mode": f"{item.mode:04o}",
                "mtime": _time(item.mtime_ns),
                "sha256": sha256,
            }
            for path, (item, sha256) in sorted(contents.files.items())
        ),
        "folders": (
            {**_named("path", path), "mode": f"{item.mode:04o}", "mtime": _time(item.mtime_ns)}
            for path, item in sorted(contents.folders.items())
        ),
        "links": (
            {**_named("path", path), **_named("target", target)} for path, target in sorted(contents.links.items())
        ),
        "skipped": ({**_named("path", path), "reason": why} for path, why in sorted(contents.skipped.items())),
    }
    parts = [head.removesuffix("\n}")]
    parts += [f',\n "{name}": {_rows(rows)}' for name, rows in lists.items()]
    return ("".join(parts) + "\n}\n").encode("ascii")


def _rows(rows: Iterable[dict[str, Any]]) -> str:
    lines = ",\n  ".join(map(json.dumps, rows))
    return f"[\n  {lines}\n ]" if lines else "[]"


def head(data: bytes) -> tuple[str, int | None] | None:
    """The token and number of the attempt a `job.json` is of, from its first bytes; None where it is none of ours."""
    match = _HEAD.match(data[:HEAD_BYTES].decode("ascii", "replace"))
    return None if match is None else (match[1], None if match[2] == "null" else int(match[2]))


def parse(data: bytes) -> Contents:
    """The list of what lies beside a `job.json`. Raises ManifestError."""
    try:
        whole = json.loads(data)
        return Contents(
            files={
                _bytes(row, "path"): (
                    Item("f", int(row["size"]), _nanoseconds(row["mtime"]), int(row["mode"], 8)),
                    str(row["sha256"]),
                )
                for row in whole["files"]
            },
            folders={
                _bytes(row, "path"): Item("d", 0, _nanoseconds(row["mtime"]), int(row["mode"], 8))
                for row in whole["folders"]
            },
            links={_bytes(row, "path"): _bytes(row, "target") for row in whole["links"]},
            skipped={_bytes(row, "path"): str(row["reason"]) for row in whole["skipped"]},
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(f"job.json is not as we wrote it: {error!r}") from error


# --- the journal: what already lies in a `.part-` folder, whole and durable ---


def journal_line(path: bytes, item: Item, sha256: str) -> bytes:
    """One file that is whole in storage."""
    row = {**_named("path", path), "size": item.size, "mtime_ns": item.mtime_ns, "mode": item.mode, "sha256": sha256}
    return json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"


def read_journal(data: bytes) -> tuple[dict[bytes, tuple[Item, str]], int]:
    """What a journal vouches for, and how many of its bytes are good: the last line may be torn."""
    files: dict[bytes, tuple[Item, str]] = {}
    good = 0
    for line in data.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            row = json.loads(line)
            item = Item("f", int(row["size"]), int(row["mtime_ns"]), int(row["mode"]))
            files[_bytes(row, "path")] = (item, str(row["sha256"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            break  # a power cut left rubbish behind: what follows is fetched again
        good += len(line)
    return files, good


# --- words ---


def last_line(tail: bytes) -> str | None:
    """The last line with something in it of what a job printed, fit for a terminal, at most 200 characters."""
    text = _ESCAPE.sub("", tail.decode("utf-8", "replace"))
    for line in reversed(re.split(r"[\r\n]", text)):
        shown = "".join(c if c.isprintable() else " " for c in line).strip()
        if shown:
            return shown if len(shown) <= _LINE_LENGTH else shown[: _LINE_LENGTH - 1] + "…"
    return None


def _named(key: str, value: bytes) -> dict[str, str]:
    try:
        return {key: value.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{key}_b64": base64.b64encode(value).decode("ascii")}


def _bytes(row: Mapping[str, Any], key: str) -> bytes:
    if key in row:
        return str(row[key]).encode("utf-8")
    try:
        return base64.b64decode(str(row[f"{key}_b64"]), validate=True)
    except binascii.Error as error:
        raise ManifestError(str(error)) from error


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _nanoseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * SECOND
