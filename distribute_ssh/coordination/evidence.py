"""What happened outside, as the supervisors tell it to the tick. Facts, not decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from distribute_ssh.model.lease import Lease
from distribute_ssh.model.owner import Reading
from distribute_ssh.node.probe import Facts
from distribute_ssh.plan.reconcile import Sighting


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose an attempt or a build is, by what its script on the node says."""

    namespace: str
    batch: str
    job: str | None  # None: it is a build
    number: int  # of the attempt
    batch_token: str  # of the folder it runs in
    slot: int
    input_hash: str


@dataclass(frozen=True, slots=True)
class Connected:
    """A node was reached, and all its attempts were looked at; those it does not name are not there."""

    node: str
    boot_id: str
    facts: Facts
    sightings: Mapping[str, Sighting | None]
    strays: frozenset[str] = frozenset()  # of which processes run, but there is no folder
    claims: Mapping[str, Claim] = field(default_factory=dict)  # of attempts the queue did not know


@dataclass(frozen=True, slots=True)
class Swept:
    """What belonged to nobody any more is gone from a node; `batch`: NAMESPACE/BATCH that it was of, where known."""

    node: str
    token: str
    what: str
    batch: str | None


@dataclass(frozen=True, slots=True)
class Lost:
    """A node does not answer, or cannot be worked with."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Some attempts were looked at. `said`: what the stage step printed last, where an attempt ended in it."""

    node: str
    sightings: Mapping[str, Sighting | None]
    said: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Staged:
    """The inputs of an attempt or a build are on its node."""

    node: str
    token: str


@dataclass(frozen=True, slots=True)
class NotStaged:
    """They could not be put there: no room, no right."""

    node: str
    token: str
    reason: str


@dataclass(frozen=True, slots=True)
class NotReady:
    """They are, but the node has not what the attempt was promised; nothing of it was started.

    `used`: GPUs that others hold, and who; `gone`: GPUs that do not answer any more, and what they are.
    """

    node: str
    token: str
    reason: str
    used: Mapping[int, str]
    gone: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Published:
    """An attempt's results, or a build's log, are in storage."""

    node: str
    token: str
    last_line: str | None


@dataclass(frozen=True, slots=True)
class NotPublished:
    """They could not be put there yet; the node keeps them."""

    node: str
    token: str
    reason: str


@dataclass(frozen=True, slots=True)
class Killed:
    """An attempt was ended; `left` processes would not go."""

    node: str
    token: str
    left: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nothing of an attempt is left on its node."""

    node: str
    token: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """Nothing of a build is left on its node."""

    node: str
    token: str


@dataclass(frozen=True, slots=True)
class Leased:
    """The lease that stands on a node (None: none does); `answers`: the request after which it does, if any."""

    node: str
    lease: Lease | None
    answers: str | None = None


@dataclass(frozen=True, slots=True)
class NotObeyed:
    """A node could not do what was asked of it; it is asked again."""

    node: str
    token: str
    reason: str


@dataclass(frozen=True, slots=True)
class Watched:
    """What was read of somebody being at a node; nothing, where it was asked in vain."""

    node: str
    readings: tuple[Reading, ...]


Evidence = (
    Connected | Lost | Seen | Staged | NotStaged | NotReady | Published | NotPublished | Killed | Dropped | Cleared
    | Leased | NotObeyed | Watched | Swept
)  # fmt: skip
