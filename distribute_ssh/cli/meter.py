"""Bytes on their way, shown: a line that moves on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from distribute_ssh.cli.app import App, columns, write
from distribute_ssh.views.moving import moving_line

if TYPE_CHECKING:
    from types import TracebackType

MOVES_EVERY = 0.2  # seconds between two lines on a terminal
SAYS_EVERY = 30.0  # and elsewhere


class Meter:
    """Shows how far one transfer is; to be used in a `with`, at the end of which a line that moved is gone."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._moves = sys.stderr.isatty() and not app.debug
        self._began = self._told = time.monotonic()
        self._before: int | None = None  # bytes that were there when it began
        self._wide = 0

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def tell(self, what: str, done: int, total: int | None = None) -> None:
        """Show how far it is, if that is due. `what`: of what; `done` and `total`: bytes."""
        now = time.monotonic()
        self._before = done if self._before is None else self._before
        if self._app.quiet or now - self._told < (MOVES_EVERY if self._moves else SAYS_EVERY):
            return
        self._told = now
        line = moving_line(what, done, total, now - self._began, self._before)
        if self._moves:
            line = line[: (columns(sys.stderr) or 80) - 1]
            write(sys.stderr, "\r" + line.ljust(self._wide))
            self._wide = len(line)
        else:
            self._app.say(line)

    def clear(self) -> None:
        """Take away the line that moves, for others to be written."""
        if self._wide:
            write(sys.stderr, "\r" + " " * self._wide + "\r")
            self._wide = 0
