"""Where a batch goes: the queue of this machine, or a head. One set of acts, and which of the two somebody means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distribute_ssh.workplace import Workplace

if TYPE_CHECKING:
    from distribute_ssh.head.fetching import Offered
    from distribute_ssh.model.jobsfile import BatchSpec

Changed = Callable[[], object]
"""Called when a look may be worth it."""


class Side(Protocol):
    """What can be done with batches, wherever the queue is. Everything runs in the engine's loop."""

    async def submit(self, spec: BatchSpec, path: Path, *, fresh: bool, replace: bool) -> None:
        """Put a batch into the queue; `path` is that of its jobs file, which need not be there."""

    async def status(self, name: str) -> dict[str, Any]:
        """The document of `status --json` for one batch. Raises NoMatchError."""

    async def follow(self, name: str, changed: Changed) -> None:
        """Return when the batch is over; the queue is driven meanwhile if nobody else does. Raises NoNodeError."""

    async def kill(self, name: str, jobs: Iterable[str]) -> None:
        """Ask for the end of jobs; of all, where none is named."""

    def results(self, name: str) -> AbstractAsyncContextManager[Offered]:
        """Open what storage has of a batch."""

    def stay(self) -> AbstractAsyncContextManager[None]:
        """Be ready for more: whoever drives the queue goes on between two batches."""


def side_of(head: str | None, inventory: Path | None) -> Side:
    """The side somebody means, with what the environment and the config file say beside. Raises FileError, UsageError.

    `head`: `USER@HOST`, or `none` for this machine.
    """
    place = Workplace(inventory, head)
    if (at := place.away) is not None:
        from distribute_ssh.api.away import Away
        from distribute_ssh.errors import UsageError

        if inventory is not None:
            raise UsageError(f"the inventory is a file of this machine, and the batch goes to {at.name}")
        return Away(at, place.places)
    from distribute_ssh.api.local import Local

    return Local.at(place)
