"""One call of the program: what it was told for all commands, and how a command answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from distribute_ssh.errors import DeniedError
from distribute_ssh.model.actor import Actor
from distribute_ssh.views.document import Document, dump

if TYPE_CHECKING:
    from distribute_ssh.model.inventory import Inventory
    from distribute_ssh.model.job import Batch
    from distribute_ssh.model.lease import Lease
    from distribute_ssh.model.settings import Config, Head, Places
    from distribute_ssh.store.queue import Queue


HERE = "none"
"""`--head none`: this machine, whatever the config file says."""


class App:
    """Data goes to stdout (a table, names with `-q`, or one JSON document), words for people to stderr."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.debug = False
        self.inventory: Path | None = None
        self.head: str | None = None  # as --head says it

    # --- what it works on ---

    @cached_property
    def actor(self) -> Actor | None:
        """For whom the gateway runs this; None: nobody stands between the person and us. Raises UsageError."""
        return Actor.of(os.environ)

    @cached_property
    def places(self) -> Places:
        """Where things are."""
        from distribute_ssh.model.settings import Places

        return Places.here()

    @cached_property
    def queue(self) -> Queue:
        """The queue; made where there is none yet."""
        from distribute_ssh.store.queue import Queue

        queue = Queue.open(self.places.database)
        queue.actor = self.actor
        return queue

    def close(self) -> None:
        """Let go of the queue, if it was opened."""
        if "queue" in self.__dict__:
            self.queue.close()

    @property
    def has_queue(self) -> bool:
        """Whether anything was ever submitted here: who only looks around makes no database."""
        return self.places.database.exists()

    @property
    def is_driven(self) -> bool:
        """Whether a coordinator drives the queue now.

        The kernel is asked who holds the lock. Trying to take it would turn away a coordinator that starts right then.
        """
        try:
            status = self.places.lock.stat()
            locks = Path("/proc/locks").read_text(encoding="ascii")
        except OSError:
            return False
        file = f" {os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino} "
        return any(" FLOCK " in line and file in line for line in locks.splitlines())

    def silent_nodes(self) -> dict[str, float]:
        """The nodes that do not answer, and since when."""
        return {row.name: row.unreachable_since for row in self.queue.nodes().values() if row.unreachable_since}

    def pauses(self, now: float) -> dict[str, Lease]:
        """The nodes that are paused, or asked to be."""
        from distribute_ssh.model.lease import in_force

        found = {row.name: in_force(row.request, row.lease, now) for row in self.queue.nodes().values()}
        return {name: pause for name, pause in found.items() if pause}

    def find_inventory(self) -> Path | None:
        """Which inventory file holds; None where there is none, and this machine is the only node."""
        from distribute_ssh.model import inventory

        explicit = None if self.inventory is None else str(self.inventory)
        return inventory.find(explicit, os.environ, self.places, self.config.inventory)

    @cached_property
    def nodes(self) -> Inventory:
        """The inventory that holds. Raises FileError with all that is wrong in it."""
        return self.read_nodes()

    def permit_reading(self, batch: Batch) -> None:
        """Raise DeniedError where whoever acts may not have results and logs of a batch."""
        if self.actor is not None and (why := self.actor.why_not_read(batch.submitter, batch.private)):
            raise DeniedError(why)

    def read_nodes(self) -> Inventory:
        """The inventory as it is now. Raises as `nodes` does."""
        from distribute_ssh.model import inventory

        path = self.find_inventory()
        found = inventory.read(path, self.places) if path else inventory.default(self.places)
        for warning in found.warnings:
            self.warn(f"distribute: {warning}")
        return found

    @property
    def known_nodes(self) -> Inventory:
        """The same, and the nodes that left it with jobs on them. Raises FileError."""
        from distribute_ssh.coordination.departed import with_departed

        return with_departed(self.queue, self.nodes) if self.has_queue else self.nodes

    @cached_property
    def config(self) -> Config:
        """What the person's own config file says. Raises FileError."""
        from distribute_ssh.model.settings import read_config

        return read_config(self.places)

    @property
    def user(self) -> str:
        """Who submits, and who asked."""
        return (self.actor and self.actor.user) or self.config.user

    @property
    def away(self) -> Head | None:
        """The head on which the command is to act; None: here. Raises FileError, UsageError."""
        if self.actor is not None:
            return None  # we are there; the account's own config file may well name itself
        from distribute_ssh.model.settings import Head

        told = self.head or os.environ.get("DISTRIBUTE_HEAD")
        configured = self.config.head
        if not told:
            return configured
        if told == HERE:
            return None
        try:
            head = Head.parse(told)
        except ValueError as error:
            from distribute_ssh.errors import UsageError

            raise UsageError(f"no head: {error}") from None
        return configured if configured and configured.address == head.address else head

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
