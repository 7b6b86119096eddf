"""One call of the program: what it was told for all commands, and how a command answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TextIO

from distribute_ssh.views.document import Document, dump
from distribute_ssh.workplace import Workplace


class App(Workplace):
    """Data goes to stdout (a table, names with `-q`, or one JSON document), words for people to stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.json = False
        self.quiet = False
        self.debug = False

    # --- how it answers ---

    def answer(self, content: Document, text: Callable[[], str], names: Iterable[str] = ()) -> None:
        """Print the data of a command: JSON, names only, or what `text` makes of it."""
        if self.json:
            out = dump(content) + "\n"
        elif self.quiet:
            out = "".join(f"{name}\n" for name in names)
        else:
            out = text()
        write(sys.stdout, out)

    def say(self, text: str) -> None:
        """Tell a person something; nothing with `-q`."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Tell a person what must not be missed, with `-q` too."""
        write(sys.stderr, text if text.endswith("\n") else text + "\n")

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Whether to go on with what cannot be undone; `yes`: that was said already.

        Raises UsageError where nobody can be asked.
        """
        if yes:
            return True
        if not sys.stdin.isatty():
            from distribute_ssh.errors import UsageError

            raise UsageError("there is no terminal to ask on, so nothing was done", hint="add -y to go on unasked")
        write(sys.stderr, f"{question} [y/N] ")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @property
    def width(self) -> int | None:
        """Columns to fit into; None on a pipe, where nothing is cut."""
        return columns(sys.stdout)

    @property
    def colour(self) -> bool:
        """Whether stdout takes colours."""
        return has_colour(sys.stdout, os.environ)


def write(stream: TextIO, text: str) -> None:
    """Write at once. A terminal in a poorer encoding gets escapes in place of an error."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
    stream.flush()


def columns(stream: TextIO) -> int | None:
    """How wide a terminal is; None where the stream is none."""
    if not stream.isatty():
        return None
    if (told := os.environ.get("COLUMNS", "")).isdigit() and int(told):
        return int(told)
    return os.get_terminal_size(stream.fileno()).columns or 80  # some serial lines say 0


def has_colour(stream: TextIO, env: Mapping[str, str]) -> bool:
    """NO_COLOR wins, then FORCE_COLOR, then whether it is a terminal that knows colours."""
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR"):
        return True
    return stream.isatty() and env.get("TERM") != "dumb"
