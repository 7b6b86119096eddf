"""A lease, which is a pause of a node with an end; and what somebody asks of a node."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Lease:
    """A pause as it stands on a node. All times by the clock of whoever asked the node."""

    token: str
    until: float  # seconds since the epoch
    since: float
    who: str
    reason: str | None = None
    left: tuple[str, ...] = ()  # what would not stop: process number and command line

    def differs(self, other: Lease | None) -> bool:
        """Whether they say something else: nodes count in whole seconds, so two looks at it may differ by one."""
        if other is None:
            return True
        same = replace(other, until=self.until, since=self.since) == self
        return not same or abs(self.until - other.until) > 2.0 or abs(self.since - other.since) > 2.0


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """What somebody asks of a node that is not so yet."""

    token: str  # of the lease
    at: float  # when it was asked for: what was said to the node since then wins
    who: str
    until: float | None = None  # paused until then; None: it is to go on
    reason: str | None = None
    trouble: str | None = None  # why the last try to make it so failed
    yields: bool = False  # nobody in person asked for it: it leaves every other lease as it is
    extends: bool = False  # only while that very lease stands: one that somebody ended is not begun again

    def is_over(self, now: float) -> bool:
        """Whether there is nothing left to do: the time of the pause is over."""
        return self.until is not None and self.until <= now


def in_force(request: NodeRequest | None, lease: Lease | None, now: float) -> Lease | None:
    """What keeps a node from beginning anything `now`: a pause that was asked for, else the lease it told of last."""
    if request is not None and request.until is not None and request.until > now:
        return Lease(request.token, request.until, request.at, request.who, request.reason)
    return lease if lease is not None and lease.until > now else None
