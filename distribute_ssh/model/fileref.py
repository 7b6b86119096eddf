"""Files a jobs file names: the forms they are written in, whether they are there, and their names on the node."""

from __future__ import annotations

import difflib
import errno
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from distribute_ssh.model import names
from distribute_ssh.model.yamltext import Checker, Mapping, Node, Sequence, is_null, quoted

Fill = Callable[[str, Node, str], str]
"""Fills `{key}` of a sweep into a text; its place and key are for messages."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file of the submitter. `path` is absolute, with `..` and links as they are; `alias` is its name on the node."""

    path: Path
    alias: str
    is_dir: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as it was listed: `alias` is the text of its alias, None where the name comes from the path."""

    ref: FileRef
    alias: Node | None
    place: Node
    key: str


@dataclass(frozen=True, slots=True)
class _Found:
    """What is at a path."""

    is_dir: bool = False
    trouble: str | None = None
    remedy: str | None = None


class FileReader:
    """Reads the file references of one jobs file; what is wrong goes to `check`."""

    def __init__(self, check: Checker, folder: Path, *, look: bool) -> None:
        self._check = check
        self._folder = folder
        self._look = look
        # A thousand jobs may share a script: each is looked at once.
        self._seen: dict[str, tuple[Path, _Found]] = {}

    def one(self, node: Node | None, path: str, *, folders: bool = False) -> Listed | None:
        """Read `FILE`, `{path: FILE, alias: NAME}` or `[FILE, NAME]`; with `folders` it may be a folder."""
        check = self._check
        alias: Node | None = None
        location, location_key, alias_key = node, path, path
        if isinstance(node, Mapping):
            keys = check.mapping(node, path, required=("path",), optional=("alias",))
            location, alias = keys.get("path"), keys.get("alias")
            location_key, alias_key = f"{path}.path", f"{path}.alias"
        elif isinstance(node, Sequence) and len(node.items) == 2:
            location, alias = node.items
            location_key, alias_key = f"{path}[0]", f"{path}[1]"
        elif isinstance(node, Sequence):
            check.problem(node, path, "must name one file", "write `file.py`, or `{path: file.py, alias: name.py}`")
            return None
        text = check.string(location, location_key)
        if is_null(alias):
            alias = None
        name = check.string(alias, alias_key)
        if node is None or location is None or text is None or (alias is not None and name is None):
            return None
        if text not in self._seen:
            full = self._folder / text
            self._seen[text] = (full, _look(text, full) if self._look else _Found())
        full, found = self._seen[text]
        if found.trouble:
            check.problem(location, location_key, found.trouble, found.remedy)
        elif found.is_dir and not folders:
            check.problem(location, location_key, f"{shown(full)} is a folder", "name a file")
        # What has no last component ("/") gets no name here, and `named` says so.
        return Listed(FileRef(full, name or full.name, found.is_dir), alias, alias or location, alias_key)

    def many(self, node: Node | None, path: str) -> list[Listed]:
        """Read a list of files and folders."""
        found = (self.one(item, here, folders=True) for here, item in self._check.items(node, path))
        return [listed for listed in found if listed is not None]

    def named(
        self, files: Iterable[Listed], fill: Fill | None = None, taken: Iterable[str] = ()
    ) -> tuple[FileRef, ...]:
        """Give each file its name on the node, which must be possible and unique in the list, and not in `taken`."""
        refs: dict[str, FileRef] = {}
        taken = frozenset(taken)
        for file in files:
            ref = file.ref
            if fill is not None and file.alias is not None:
                ref = replace(ref, alias=fill(ref.alias, file.alias, file.key))
            if wrong := names.check_alias(ref.alias):
                self._check.problem(file.place, file.key, wrong, "give it an `alias`" if file.alias is None else None)
            elif ref.alias in taken:
                what = f"the name {quoted(ref.alias)} is ours here: the values of the sweep are written to it"
                self._check.problem(file.place, file.key, what, "give it another `alias`")
            elif ref.alias in refs:
                what = f"the name {quoted(ref.alias)} is there already, for {shown(refs[ref.alias].path)}"
                self._check.problem(file.place, file.key, what, "give one of the two another `alias`")
            else:
                refs[ref.alias] = ref
        return tuple(refs.values())


def around(place: Path, refs: Iterable[FileRef]) -> FileRef | None:
    """The one of these folders that `place` lies in: what is written there would go along with it, and grow."""
    at = Path(os.path.realpath(place))  # resolve() raises where links go round in a ring
    return next((ref for ref in refs if ref.is_dir and at.is_relative_to(os.path.realpath(ref.path))), None)


def shown(path: Path) -> str:
    """A path for a message; of a very long one the end, which tells more."""
    text = str(path)
    return repr(text if len(text) <= 400 else "..." + text[-397:])


def _look(text: str, path: Path) -> _Found:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return _Found(trouble=f"there is no file {shown(path)}", remedy=_remedy(text, path))
    except OSError as error:
        return _Found(trouble=f"{shown(path)} cannot be read: {error.strerror}")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return _Found(trouble=f"{shown(path)} is neither a file nor a folder")
    if not os.access(path, os.R_OK):
        return _Found(trouble=f"{shown(path)} cannot be read: {os.strerror(errno.EACCES)}")
    return _Found(is_dir=stat.S_ISDIR(mode))


def _remedy(text: str, full: Path) -> str | None:
    if text.startswith("~"):
        return "`~` stands for nothing here; write the whole path"
    if re.search(r"\{\w+\}", text):
        return "a sweep fills names, env and aliases, but no paths; list the files themselves"
    try:
        with os.scandir(full.parent) as entries:
            beside = [entry.name for entry in itertools.islice(entries, 10_000)]
    except OSError:
        return None  # the folder is not there either, which the path in the message shows
    near = difflib.get_close_matches(full.name, beside, n=1)
    return f"did you mean {quoted(near[0])}?" if near else None
