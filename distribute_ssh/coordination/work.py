"""What is to be done on one node, and what its supervisor needs of the coordinator for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from distribute_ssh.coordination.evidence import Evidence
from distribute_ssh.coordination.spreading import Spreading
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import Attempt, Batch, Build, Job
from distribute_ssh.model.lease import NodeRequest
from distribute_ssh.node import probe
from distribute_ssh.node.link import Link
from distribute_ssh.storage.folder import Storage


@dataclass(frozen=True, slots=True)
class Ready:
    """An attempt with all that is needed to start and to archive it."""

    attempt: Attempt
    job: Job | None  # None: it was dropped from its batch meanwhile
    batch: Batch


@dataclass(frozen=True, slots=True)
class Work:
    """What the queue holds for one node."""

    attempts: Sequence[Ready] = ()
    builds: Sequence[tuple[Build, Batch]] = ()
    clear: Sequence[Build] = ()  # nobody needs them any more
    kill: frozenset[str] = frozenset()  # attempts to end
    ended: frozenset[str] = frozenset()  # stale attempts that were ended: nothing of them runs
    needed: frozenset[str] = frozenset()  # contents that waiting jobs still need
    orphans: Mapping[str, bool] = field(default_factory=dict)  # nobody's attempts; whether they may hold a result
    shared: frozenset[int] = frozenset()  # batches whose jobs may run beside each other, by number
    request: NodeRequest | None = None  # a pause or a resume that is not so yet
    warn: Mapping[str, str] = field(default_factory=dict)  # attempts near their time limit -> the signal they want

    @property
    def tokens(self) -> set[str]:
        """The attempts and builds of which the node may hold something."""
        return {ready.attempt.token for ready in self.attempts} | {build.token for build, _ in self.builds}

    def unknown(self, batches: Iterable[str]) -> list[str]:
        """Those of these batch folders that no attempt and no build stands for."""
        known = {ready.attempt.batch_token for ready in self.attempts} | {b.batch_token for b, _ in self.builds}
        return [token for token in batches if token not in known]


@dataclass(slots=True)
class Transfer:
    """Bytes on their way."""

    node: str
    what: str  # "inputs" or "results"
    done: int = 0
    total: int | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Bytes per second since it began."""
        return self.done / max(time.monotonic() - self.since, 1e-3)


class Hub(Protocol):
    """What a supervisor needs of its coordinator."""

    queue_id: str
    transfers: dict[str, Transfer]
    spreading: Spreading

    def tell(self, evidence: Evidence) -> None:
        """Take notice of something that happened."""

    def spool_path(self, sha256: str) -> Path:
        """Where an input lies here."""

    async def facts(self, entry: NodeEntry, link: Link, boot_id: str) -> probe.Facts:
        """What the node is and has, asked anew where it may have changed."""

    async def link(self, entry: NodeEntry) -> Link:
        """Connect to a node."""

    async def storage(self) -> Storage:
        """Storage, opened. Raises StorageError."""

    def claim(self, node: str, room: str) -> None:
        """Take a folder for a node. Raises ScratchError if it is another node's."""

    def storage_failed(self) -> None:
        """Take notice that something could not be stored: perhaps the line to storage is gone."""

    async def trust_changed(self) -> None:
        """Wait until the host keys we trust were changed."""
