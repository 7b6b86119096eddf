"""Following one batch to its end, and showing it, on a terminal or line by line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, Self

from distribute_ssh.cli.app import App, columns, has_colour
from distribute_ssh.cli.drive import Stopped, drive
from distribute_ssh.errors import NoNodeError
from distribute_ssh.following import Watch
from distribute_ssh.model.job import Batch, State
from distribute_ssh.store.submission import Submitted
from distribute_ssh.views import progress
from distribute_ssh.views.document import document, error_document
from distribute_ssh.views.progress import Picture

if TYPE_CHECKING:
    from rich.live import Live

WIDEST = 40  # one long name should not push the states of all others to the right
QUIET = 60.0  # seconds without a line after which a pipe is told how far things are


class View(Protocol):
    """Where pictures go, inside a `with`."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End; a terminal is as it was."""

    def show(self, picture: Picture) -> None:
        """Show how far it is."""


def view_for(app: App, wide: int) -> View:
    """A view that moves for a terminal, lines for a pipe, nothing with `-q`; `wide`: the longest job's name."""
    if app.quiet:
        return Silent()
    moves = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not app.debug
    return Moves() if moves else Lines(app, wide)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, picture: Picture) -> None:
        """Nothing."""


class Lines:
    """A line for every job that came into another state, and now and then one for the whole."""

    def __init__(self, app: App, wide: int) -> None:
        self._app = app
        self._wide = min(wide, WIDEST)
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, picture: Picture) -> None:
        """Print what is new."""
        lines = [progress.passage_line(passage, self._wide) for passage in picture.passages]
        if not lines and time.monotonic() - self._said > QUIET:
            lines.append(f"{picture.name}: {progress.counts_line(picture.counts)}")
            lines += [f"waits: {picture.waits}"] if picture.waits else []
            lines += [str(each) for each in picture.moving]
        if lines:
            self._said = time.monotonic()
            self._app.say("\n".join(lines))


class Moves:
    """A view that moves, below the failures, which stay."""

    def __init__(self) -> None:
        from rich.console import Console

        colours = has_colour(sys.stderr, os.environ)
        self._console = Console(
            stderr=True, no_color=not colours, width=columns(sys.stderr), highlight=False, soft_wrap=False
        )
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, picture: Picture) -> None:
        """Draw it anew."""
        from distribute_ssh.views.live import failure, live

        assert self._live is not None
        for passage in picture.passages:
            if (told := failure(passage)) is not None:
                self._console.print(told)
        self._live.update(live(picture, self._console.width, self._console.height), refresh=True)


def follow(
    app: App,
    batch: Batch,
    again: str,
    wide: int,
    submitted: Submitted | None = None,
    then: Callable[[], dict[str, Any]] = dict,
) -> int:
    """Follow a batch to its end, driving the queue where nobody does; returns the exit code.

    `again`: the command that comes back to it; `wide`: its longest job's name; `then`: done at the end, what it returns
    is told with the rest. Raises NoNodeError.
    """
    watch = Watch(app, batch)
    try:
        with view_for(app, wide) as view:
            drive(app, watch.is_over, lambda coordinator: view.show(watch.look(coordinator)))
    except Stopped as stopped:
        return _stopped(app, watch, again, stopped)
    if watch.batch.finished_at is None:
        assert watch.hopeless is not None
        hint = f"it stays in the queue until a node can; `distribute kill {batch.name}` takes it out"
        raise NoNodeError(f"{batch.name} can run nowhere: {watch.hopeless}", hint=hint)
    (ended,) = app.status_of(watch.batch)["batches"]
    results = f"{app.nodes.storage.rstrip('/')}/{watch.batch.name}"
    told = {} if submitted is None else {"submitted": asdict(submitted)}
    more = then()
    content = document(**told, batch=ended, results=results, **more)
    app.answer(content, lambda: progress.summary(ended, results), [watch.batch.name])
    is_short = bool(more.get("pull") and more["pull"]["problems"])
    return 0 if _is_all_done(ended) and not is_short else 1


def _is_all_done(batch: dict[str, Any]) -> bool:
    return all(state == State.DONE or not number for state, number in batch["counts"].items())


def _stopped(app: App, watch: Watch, again: str, stopped: Stopped) -> int:
    running = [job.job for job in watch.look(None).active]
    told = progress.left(watch.batch.name, running, again, driven=app.is_driven)
    app.warn(told)
    content = error_document("interrupted", f"{watch.batch.name} stays in the queue", again)
    if app.json:
        app.answer(content, str)
    return stopped.exit_code
