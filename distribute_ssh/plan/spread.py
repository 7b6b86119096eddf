"""From whom a node gets a big input: from another node that has it or is getting it, or from the head.

The head's line is the narrow one: it carries an input once, and each node passes on what it gets while it gets it. So
the nodes that ask stand in a row behind the head, and the last one has it hardly later than the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

AGAIN = 3600.0  # seconds after which two nodes of which one could not get at the other may try again


@dataclass(frozen=True, slots=True)
class Giver:
    """A node that has an input, or is getting it."""

    node: str
    is_whole: bool
    since: float = 0.0  # when it began to get it
    source: str | None = None  # from which node; None: it has it, or gets it from the head


@dataclass(slots=True)
class Failures:
    """Which nodes could not get at which others, and until when that is held to be so."""

    _until: dict[tuple[str | None, str | None], float] = field(default_factory=dict)

    def note(self, now: float, *, giver: str | None = None, taker: str | None = None) -> None:
        """Remember that `giver` lets nobody in, that `taker` gets in nowhere, or, with both, only that pair."""
        self._until = {pair: until for pair, until in self._until.items() if until > now}
        self._until[giver, taker] = now + AGAIN

    def prevent(self, giver: str, taker: str, now: float) -> bool:
        """Whether it is not worth a try."""
        return any(self._until.get(pair, 0.0) > now for pair in ((giver, taker), (giver, None), (None, taker)))


def choose(taker: str, givers: Iterable[Giver], busy: Iterable[str], failures: Failures, now: float) -> str | None:
    """The node from which `taker` is to get an input that these have; None: from the head.

    `busy`: nodes that give something already. Each gives to one at a time: two would have half of its line each, and
    so would all that stand behind them. Never one that itself waits for `taker`.
    """
    known = {giver.node: giver for giver in givers}
    taken = frozenset(busy)
    free = [
        giver
        for giver in known.values()
        if giver.node not in taken
        and not _stands_behind(giver, taker, known)
        and not failures.prevent(giver.node, taker, now)
    ]
    best = min(free, key=lambda giver: (not giver.is_whole, giver.since, giver.node), default=None)
    return best.node if best else None


def _stands_behind(giver: Giver, taker: str, known: dict[str, Giver]) -> bool:
    """Whether what `giver` gets comes by way of `taker`."""
    seen: set[str] = set()
    at: str | None = giver.node
    while at is not None and at not in seen:
        if at == taker:
            return True
        seen.add(at)
        at = known[at].source if at in known else None
    return False
