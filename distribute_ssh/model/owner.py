"""What was seen of a node's owner: single readings, and what they come to over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIGNS = ("tty", "session", "screen", "watch", "cpu", "gpu")
"""The kinds of readings that can say that somebody is there."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing that was read on a node."""

    kind: str  # one of SIGNS; or load, which people know and which says nothing of whose it is
    text: str  # what it is about, for people
    idle: float | None = None  # seconds since somebody did something by it; None: never, or it does not tell
    amount: float | None = None  # that others use: cores (cpu), processes (gpu); the load average
    is_known: bool = True  # False: it cannot be read there


@dataclass(frozen=True, slots=True)
class Activity:
    """What is known of a node's owner, and of the pauses that we asked for ourselves."""

    at: float | None = None  # when `readings` were taken, by the head's clock, as all times here
    readings: tuple[Reading, ...] = ()
    last: float | None = None  # when the owner was active last
    why: str = ""  # by what that was seen
    resumed_at: float | None = None  # when somebody ended a pause before its time
    token: str | None = None  # of the lease we asked for last

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Activity:
        """Take back what `dataclasses.asdict` gave."""
        return cls(**{**values, "readings": tuple(Reading(**each) for each in values["readings"])})
