"""A submission on its way to the head: a jobs file, and what each file it names is by content.

The head reads the jobs file again, with the same reader, and believes of the rest only what it can check: that every
file it names is listed, and that what is listed by its hash is what came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distribute_ssh.errors import LimitError
from distribute_ssh.head import frames
from distribute_ssh.head.frames import Frame, FrameError
from distribute_ssh.model.job import Input

if TYPE_CHECKING:
    from distribute_ssh.model.fileref import FileRef
    from distribute_ssh.model.jobsfile import BatchSpec

MAX_SOURCE = 8 << 20  # bytes of a jobs file, as its reader has it
MAX_LIST = 64 << 20  # bytes of the list of files: 100,000 of them with long paths
LONGEST_ROW = 64 << 10  # bytes: a path of 4 KiB, each character escaped, and what stands beside it
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Offer:
    """What is offered: the batch as read, and each of its files as an input (its alias left out)."""

    spec: BatchSpec
    files: Mapping[Path, Input]
    fresh: bool = False
    replace: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by hash, each content once."""
        return {each.sha256: each.size for each in self.files.values()}

    def inputs(self, refs: list[FileRef]) -> dict[FileRef, Input]:
        """Each reference as an input under its own alias."""
        return {ref: replace(self.files[ref.path], alias=ref.alias) for ref in refs}

    def said(self, path: Path) -> Iterator[bytes]:
        """Return the frames that say it; `path` is that of the jobs file."""
        yield frames.encode("offer", path=str(path), fresh=self.fresh, replace=self.replace)
        yield from frames.pieces("source", self.spec.source.encode())
        rows = [[str(each), i.sha256, i.size, i.kind, i.executable] for each, i in self.files.items()]
        yield from frames.pieces("files", dumped(rows))


def dumped(rows: Iterable[list[Any]]) -> bytes:
    """Return rows as they travel: a line of JSON each, so that they can be counted before any of them is read."""
    return b"\n".join(json.dumps(row, separators=(",", ":")).encode() for row in rows)


def rows_of(text: bytes) -> Iterator[Any]:
    """Read rows again. Raises ValueError, RecursionError."""
    for line in text.split(b"\n") if text else ():
        if len(line) > LONGEST_ROW:
            raise ValueError("a row is too long")
        yield json.loads(line)


def heard(said: Frame, source: bytes, listed: bytes, most_files: int) -> Offer:
    """Make an offer of what came. Raises FileError, FrameError, LimitError."""
    from distribute_ssh.model import jobsfile  # it reads YAML, which only a submission needs
    from distribute_ssh.store.spool import references

    path = said.text("path")
    if not path.startswith("/") or "\0" in path:
        raise FrameError("the jobs file has no whole path")
    # The path is a word for messages, and what relative paths are told apart by; nothing is looked up on this disk.
    spec = jobsfile.parse(source, Path(path), check_files=False)
    files = _files(listed, most_files)
    wanted = {ref.path for ref in references(spec)}
    if wanted != files.keys():
        odd = next(iter(wanted ^ files.keys()))
        raise FrameError(f"the list of files does not fit the jobs file: {str(odd)[:200]!r}")
    for ref in (spec.script, *(job.file for job in spec.jobs)):
        if ref is not None and files[ref.path].kind != "file":
            raise FrameError("a script is no folder")
    return Offer(spec, files, said.flag("fresh"), said.flag("replace"))


def _files(listed: bytes, most: int) -> dict[Path, Input]:
    # Before it is read: as objects, 64 MiB of brackets would be gigabytes.
    if (count := listed.count(b"\n") + 1) > most:
        raise LimitError(
            f"the batch names {count:,} files, and one batch may name {most:,}",
            hint="put many small files into one folder, which counts as one file",
        )
    try:
        rows = list(rows_of(listed))
    except (ValueError, RecursionError):
        raise FrameError("the list of files is none") from None
    found: dict[Path, Input] = {}
    sizes: dict[str, int] = {}
    for row in rows:
        match row:
            case [str(path), str(sha256), int(size), "file" | "tree" as kind, bool(executable)] if (
                _SHA256.fullmatch(sha256) and type(size) is int and 0 <= size < 1 << 53
            ):
                if sizes.setdefault(sha256, size) != size:
                    raise FrameError("two files have one hash and two sizes")
                found[Path(path)] = Input("", sha256, size, kind, executable)
            case _:
                raise FrameError("the list of files holds something that is no file")
    return found
