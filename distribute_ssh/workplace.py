"""What one works on from here: the queue and the nodes of this machine, the person's config file, or which head."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from distribute_ssh.errors import DeniedError, FileError, HeadError
from distribute_ssh.model.actor import Actor
from distribute_ssh.views.document import Document
from distribute_ssh.views.reasons import without_output

if TYPE_CHECKING:
    from distribute_ssh.model.inventory import Inventory
    from distribute_ssh.model.job import Batch
    from distribute_ssh.model.lease import Lease
    from distribute_ssh.model.settings import Config, Head, Places
    from distribute_ssh.store.queue import Queue


HERE = "none"
"""In the place of a head: this machine, whatever the config file says."""


class Workplace:
    """Each part is found when it is first asked for. `inventory` and `head` are what somebody said in so many words."""

    def __init__(self, inventory: Path | None = None, head: str | None = None) -> None:
        self.inventory = inventory
        self.head = head

    def warn(self, text: str) -> None:
        """Tell somebody what is odd here."""
        import logging

        logging.getLogger("distribute_ssh").warning(text)

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
            del self.queue

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

    def may_read(self, batch: Batch) -> bool:
        """Whether they may."""
        return self.actor is None or self.actor.why_not_read(batch.submitter, batch.private) is None

    def shown(self, batch: Batch, reason: str | None) -> str | None:
        """What they may have of a reason: a job's last line is a part of its log."""
        return reason if self.may_read(batch) else without_output(reason)

    def status_of(self, batch: Batch) -> Document:
        """The document of `status` of one batch, with as much of its reasons."""
        found = self.queue.status(batch.name)
        for job in found["batches"][0]["jobs"]:
            job["reason"] = self.shown(batch, job["reason"])
        return found

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

        try:
            return read_config(self.places)
        except FileError:
            if self.actor is None:
                raise
            # Not its own words: a line of that file may hold a password, and a mistake in it is shown to everybody.
            hint = "ask the administrator of the head, to whom every command there says how"
            raise HeadError("the config file of the head is wrong", hint=hint) from None

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
