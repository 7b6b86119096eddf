"""YAML read as its author wrote it: every scalar stays its source text, every node knows its line and column.

YAML 1.1 would turn ``10:00:00`` into 36000, ``010`` into 8, ``no`` into False and ``2023-01-01`` into a date. Here the
schema decides what a text means, never the loader. ``load`` gives a tree of ``Scalar``, ``Sequence`` and ``Mapping``;
``Checker`` reads such a tree and collects everything that is wrong with it.
"""

from __future__ import annotations

import difflib
import gc
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeVar

import yaml

from distribute_ssh.errors import FileError, Problem

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 40
# Aliases multiply: 341 bytes can stand for a billion nodes. An honest file of 8 MiB (100,000 jobs) has 1.2 million.
MAX_NODES = 2_000_000
MAX_PROBLEMS = 100

T = TypeVar("T")


class Mark(NamedTuple):
    """A place in a file; line and column count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value: its source text without quotes, and whether it had none (`plain`)."""

    text: str
    plain: bool
    mark: Mark

    @property
    def is_null(self) -> bool:
        """True for nothing at all, `~` and an unquoted `null`."""
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values in the order written; keys are unique."""

    entries: tuple[tuple[Scalar, Node], ...]
    mark: Mark

    def get(self, key: str) -> Node | None:
        """Return the value of `key`, or None when it is not there."""
        return next((value for name, value in self.entries if name.text == key), None)


Node = Scalar | Sequence | Mapping


def is_null(node: Node | None) -> bool:
    """True when a key is missing or has a null value."""
    return node is None or (isinstance(node, Scalar) and node.is_null)


def quoted(text: str) -> str:
    """Show somebody's text in a message: quoted, shortened, and with nothing in it that could drive a terminal."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def join(path: str, key: str) -> str:
    """Return the path of `key` inside `path`: ``meta.env``; odd keys are quoted."""
    shown = key if re.fullmatch(r"[\w<-]+", key, re.ASCII) else quoted(key)
    return f"{path}.{shown}" if path else shown


# ---------------------------------------------------------------------------------------------------------------- load

# Only the composers of PyYAML recurse (the C one dies of a segmentation fault on 100,000 "["); we take the events,
# whose depth we see as they come.
_TOO_DEEP = f"this is nested more than {MAX_DEPTH} levels deep"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def load(text: bytes | str, file: str) -> Node:
    """Read one YAML document; `file` names it in messages.

    Anchors and aliases work (expansion is bounded); tags, merge keys, duplicate keys and a second document do not.
    Raises FileError with everything found.
    """
    with collecting_paused():
        return _Builder(_decode(text, file), file).build()


@contextmanager
def collecting_paused() -> Iterator[None]:
    """Make a million small objects that stay, without Python looking among them for garbage, which takes longer."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def fail(problems: Iterable[Problem]) -> NoReturn:
    """Raise FileError with the problems in the order of the file: the first hundred, and how many more there are."""
    found = sorted(problems, key=lambda p: (p.line, p.column))
    if len(found) > MAX_PROBLEMS:
        rest = found[MAX_PROBLEMS]
        more = f"and {len(found) - MAX_PROBLEMS:,} more problems from here on"
        found[MAX_PROBLEMS:] = [Problem(rest.file, rest.line, rest.column, "", more)]
    raise FileError(found)


def _decode(source: bytes | str, file: str) -> str:
    if len(source) > MAX_BYTES:
        fail([Problem(file, 1, 1, "", f"the file is larger than {MAX_BYTES >> 20} MiB", "split it into several")])
    text = source if isinstance(source, str) else source.decode("utf-8", "surrogateescape")
    text = text.removeprefix("\ufeff")
    if odd := _UNPRINTABLE.search(text):
        code = ord(odd[0])
        if 0xDC80 <= code <= 0xDCFF:
            what, remedy = f"the byte 0x{code - 0xDC00:02x} is not UTF-8", "save the file as UTF-8"
        else:
            what, remedy = f"the character U+{code:04X} is not allowed in YAML", "remove it"
        lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text[: odd.start()])
        fail([Problem(file, len(lines), len(lines[-1]) + 1, "", what, remedy)])
    return text


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


class _Open:
    """A collection whose end has not come yet."""

    __slots__ = ("anchor", "children", "height", "mark", "size")

    def __init__(self, mark: Mark, anchor: str | None) -> None:
        self.mark = mark
        self.anchor = anchor
        self.children: list[Node] = []
        self.height = 1
        self.size = 1


class _Builder:
    """Makes a tree out of events, and counts while it does."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.problems: list[Problem] = []
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Node, int, int]] = {}  # node, its size and its height
        self.root: Node | None = None
        self.nodes = 0

    def build(self) -> Node:
        try:
            self._consume()
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except yaml.reader.ReaderError as error:
            self._problem(Mark(1, 1), f"cannot be read as YAML: {error.reason}")
        if self.root is None and not self.problems:
            self._problem(Mark(1, 1), "the file is empty")
        if self.root is None or self.problems:
            fail(self.problems)
        return self.root

    def _consume(self) -> None:
        documents = 0
        event: Any  # PyYAML's event classes differ from what their stubs say
        for event in yaml.parse(self.text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionEndEvent):
                self._close(isinstance(event, yaml.MappingEndEvent))
            elif isinstance(event, yaml.AliasEvent):
                self._alias(str(event.anchor), _mark(event))
            elif isinstance(event, yaml.NodeEvent):
                self._open(event, _mark(event))
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents == 2:
                    self._problem(_mark(event), "a second document begins here", "put it into a file of its own")
                    return

    def _open(self, event: Any, mark: Mark) -> None:
        if event.tag is not None:
            self._problem(mark, f"the tag {quoted(event.tag)} is not supported", "remove it; quote what is text")
        if isinstance(event, yaml.ScalarEvent):
            self._add(Scalar(event.value, not event.style, mark), 1, 0, event.anchor)
        elif len(self.stack) == MAX_DEPTH:
            self._stop(mark, _TOO_DEEP)
        else:
            self.stack.append(_Open(mark, event.anchor))

    def _add(self, node: Node, size: int, height: int, anchor: str | None) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            self._stop(node.mark, f"there are more than {MAX_NODES:,} values, counting what aliases stand for")
        if anchor is not None:
            self.anchors[anchor] = (node, size, height)
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        parent.children.append(node)
        parent.size += size
        parent.height = max(parent.height, height + 1)

    def _alias(self, anchor: str, mark: Mark) -> None:
        if anchor not in self.anchors:
            self._problem(mark, f"no anchor &{anchor} comes before this alias", f'quote it if it is text: "*{anchor}"')
            self._add(Scalar("", True, mark), 1, 0, None)
            return
        node, size, height = self.anchors[anchor]
        if len(self.stack) + height > MAX_DEPTH:
            self._stop(mark, _TOO_DEEP)
        self._add(node, size, height, None)

    def _close(self, is_mapping: bool) -> None:
        done = self.stack.pop()
        children = done.children
        node: Node
        if is_mapping:
            node = Mapping(self._entries(children[::2], children[1::2]), done.mark)
        else:
            node = Sequence(tuple(children), done.mark)
        self.nodes -= done.size - 1  # its children were counted as they came
        self._add(node, done.size, done.height, done.anchor)

    def _entries(self, keys: list[Node], values: list[Node]) -> tuple[tuple[Scalar, Node], ...]:
        seen: dict[str, tuple[Scalar, Node]] = {}
        for key, value in zip(keys, values, strict=True):
            if not isinstance(key, Scalar):
                self._problem(key.mark, "a key must be plain text", "quote text that begins with { or [")
            elif key.plain and key.text == "<<":
                self._problem(key.mark, "the merge key << is not supported", "write the keys out")
            elif key.text in seen:
                first = seen[key.text][0].mark.line
                what = f"the key {quoted(key.text)} is there already, in line {first}"
                self._problem(key.mark, what, "remove one of the two")
            else:
                seen[key.text] = (key, value)
        return tuple(seen.values())

    def _problem(self, mark: Mark, what: str, remedy: str | None = None) -> None:
        self.problems.append(Problem(self.file, mark.line, mark.column, "", what, remedy))

    def _stop(self, mark: Mark, what: str) -> NoReturn:
        self._problem(mark, what)
        fail(self.problems)

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        at = error.problem_mark
        mark = Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)
        char = self.text[at.index : at.index + 1] if at else ""
        said = str(error.problem)
        if char == "\t":
            self._problem(mark, "a tab cannot indent YAML", "use spaces")
        elif char in ("@", "`", "%") and "cannot start any token" in said:
            text = re.match(r".[^\s#,\]}]*", self.text[at.index :]) if at else None
            remedy = f'put it into quotes: "{text[0]}"' if text else None
            self._problem(mark, f"unquoted text cannot begin with {char}", remedy)
        else:
            begun = f", in what begins in line {error.context_mark.line + 1}" if error.context_mark else ""
            remedy = None
            if re.search("mapping values|expected", said):
                remedy = """quote text that holds ": " or begins with one of {["*&!|>%@'"""
            self._problem(mark, f"this is not valid YAML: {said}{begun}", remedy)


# ------------------------------------------------------------------------------------------------------------- Checker


class Checker:
    """Reads a tree by a schema and collects every problem of one file.

    Take the values out with the reading verbs, then call ``finish()``, which raises FileError if anything was wrong.

    * Every verb takes a node (or None: the key is not there) and the path of the key, for messages; it returns the
      value, or None when there is nothing to return: the key is absent, or what is there is wrong and has been noted.
      So a reader goes straight on, and all problems come out at once. A required key that is absent is noted by
      ``mapping`` of its parent; the verbs say nothing about None.
    * A null value (``key:``, ``~``) is wrong for every verb but ``items`` and ``entries``, which read it as empty.
      Where null means "not set", ask ``is_null(node)`` first.

    ::

        check = Checker("nodes.yaml")
        top = check.mapping(load(text, "nodes.yaml"), "", required=("storage",), optional=("nodes",))
        storage = check.string(top.get("storage"), "storage")            # str | None
        for path, node in check.items(top.get("nodes"), "nodes"):        # path is "nodes[0]" ...
            keys = check.mapping(node, path, required=("name",), optional=("cores", "memory"))
            cores = check.integer(keys.get("cores"), f"{path}.cores", low=1)
            memory = check.parsed(keys.get("memory"), f"{path}.memory", parse_size)
            if cores == 13:
                check.problem(keys["cores"], f"{path}.cores", "is 13", "choose a luckier number")
        check.finish()
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def problem(self, at: Node | Mark, path: str, what: str, remedy: str | None = None) -> None:
        """Note that the value at `path` is wrong; `what` continues a sentence that begins with the path."""
        mark = at if isinstance(at, Mark) else at.mark
        self.problems.append(Problem(self.file, mark.line, mark.column, path, what, remedy))

    def finish(self) -> None:
        """Raise FileError if there was any problem."""
        if self.problems:
            fail(self.problems)

    def mapping(
        self,
        node: Node | None,
        path: str,
        *,
        required: Iterable[str] = (),
        optional: Iterable[str] = (),
        hints: dict[str, str] | None = None,
    ) -> dict[str, Node]:
        """Return the known keys of a mapping with fixed keys; `hints` gives remedies for wrong keys people do write."""
        if node is None:
            return {}
        required = tuple(required)
        known = (*required, *optional)
        if not isinstance(node, Mapping):
            remedy = f"write `key: value` lines under it; keys: {', '.join(known)}"
            self.problem(node, path, f"must be a mapping, not {_kind(node)}", remedy)
            return {}
        found: dict[str, Node] = {}
        remedies = ""
        for key, value in node.entries:
            if key.text in known:
                found[key.text] = value
                continue
            remedy = (hints or {}).get(key.text) or did_you_mean(key.text, known) or f"keys are {', '.join(known)}"
            remedies += remedy
            self.problem(key, join(path, key.text), "is not a key known here", remedy)
        for name in required:
            # A required key that was only misspelt is one problem, not two.
            if name not in found and f"`{name}`?" not in remedies:
                self.problem(node, path, f"lacks the key `{name}`", f"add `{name}:`")
        return found

    def entries(self, node: Node | None, path: str) -> list[tuple[Scalar, Node]]:
        """Return the keys and values of a mapping whose keys are free; null is an empty one."""
        if node is None or is_null(node):
            return []
        if not isinstance(node, Mapping):
            self.problem(node, path, f"must be a mapping, not {_kind(node)}", "write `key: value` lines under it")
            return []
        return list(node.entries)

    def items(self, node: Node | None, path: str) -> list[tuple[str, Node]]:
        """Return the items of a list, each with its own path; null is an empty list."""
        if node is None or is_null(node):
            return []
        if not isinstance(node, Sequence):
            remedy = f"write it as a list: [{node.text}]" if isinstance(node, Scalar) else "begin each item with `- `"
            self.problem(node, path, f"must be a list, not {_kind(node)}", remedy)
            return []
        return [(f"{path}[{number}]", item) for number, item in enumerate(node.items)]

    def string(self, node: Node | None, path: str, *, empty: bool = False) -> str | None:
        """Return a scalar as it was written; `empty` allows ``""``."""
        if node is None:
            return None
        if not isinstance(node, Scalar):
            remedy = "quote text that begins with { or ["
            self.problem(node, path, f"must be text, not {_kind(node)}", remedy)
            return None
        if node.is_null:
            nothing = 'write "" for an empty text' if empty else "write a value, or remove the key"
            remedy = f'quote it if you mean the text: "{node.text}"' if node.text else nothing
            self.problem(node, path, "has no value", remedy)
            return None
        if not node.text and not empty:
            self.problem(node, path, "must not be empty")
            return None
        if "\0" in node.text or not _encodable(node.text):
            self.problem(node, path, "holds a character that no file name or setting can have", "remove it")
            return None
        return node.text

    def line(self, node: Node | None, path: str) -> str | None:
        """Return a non-empty scalar without line breaks and other control characters."""
        text = self.string(node, path)
        if node is not None and text is not None and re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", text):
            self.problem(node, path, "must be one line without control characters")
            return None
        return text

    def integer(self, node: Node | None, path: str, *, low: int = 0, high: int | None = None) -> int | None:
        """Return a whole number, written plainly and in decimal."""
        if node is None:
            return None
        wanted = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
        if not (
            isinstance(node, Scalar) and node.plain and re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", node.text, re.ASCII)
        ):
            remedy = "remove the quotes" if isinstance(node, Scalar) and not node.plain else None
            self.problem(node, path, f"must be {wanted}, not {_kind(node)}", remedy)
            return None
        value = int(node.text)
        if value < low or (high is not None and value > high):
            self.problem(node, path, f"must be {wanted}, not {value}")
            return None
        return value

    def boolean(self, node: Node | None, path: str) -> bool | None:
        """Return ``true`` or ``false``."""
        if node is None:
            return None
        if isinstance(node, Scalar) and node.plain and node.text.lower() in ("true", "false"):
            return node.text.lower() == "true"
        self.problem(node, path, f"must be true or false, not {_kind(node)}")
        return None

    def choice(self, node: Node | None, path: str, choices: Iterable[str]) -> str | None:
        """Return one of a few words."""
        text = self.string(node, path)
        choices = tuple(choices)
        if node is None or text is None or text in choices:
            return text
        self.problem(
            node, path, f"must be one of {', '.join(choices)}, not {quoted(text)}", did_you_mean(text, choices)
        )
        return None

    def parsed(self, node: Node | None, path: str, parse: Callable[[str], T]) -> T | None:
        """Return what `parse` makes of the text; its ValueError becomes the problem."""
        text = self.string(node, path)
        if node is None or text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.problem(node, path, str(error))
            return None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return the remedy for a misspelt word, if one of the known words is near it."""
    near = difflib.get_close_matches(word.replace("-", "_").lower(), list(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None


def _kind(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    return "empty" if node.is_null else quoted(node.text)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
