"""How long a batch may still take: a range with its basis, or nothing. A wrong guess is worse than none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distribute_ssh.model.units import format_duration
from distribute_ssh.views.text import count

ENOUGH = 3  # finished jobs; from fewer nobody can tell a slow job from a slow study


@dataclass(frozen=True, slots=True)
class RunTimes:
    """How long the finished jobs of a batch took: how many, their mean and standard deviation in seconds."""

    samples: int
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Eta:
    """Between `low` and `high` seconds, judged from `samples` jobs; `overdue`: one runs longer than they did."""

    low: float
    high: float
    samples: int
    overdue: bool = False

    def __str__(self) -> str:
        low, high = format_duration(self.low), format_duration(self.high)
        return (low if low == high else f"{low}-{high}") + ("+" if self.overdue else "")

    @property
    def basis(self) -> str:
        """What the range was judged from."""
        return f"from {count(self.samples, 'finished job')}"


def estimate(times: RunTimes, running: int, waiting: int, elapsed: Sequence[float] | None = None) -> Eta | None:
    """How long `running` and `waiting` jobs still take, if they are like the finished ones and as many go on at once.

    `elapsed`: seconds each of the running ones has behind it; None: unknown, and taken to be half of its time. None
    while nothing runs, or fewer than three are done.
    """
    if times.samples < ENOUGH or not running:
        return None
    past = [times.mean / 2] * running if elapsed is None else elapsed
    usual = times.mean + times.deviation
    low = _left(max(times.mean - times.deviation, 0.0), past, waiting)
    overdue = elapsed is not None and max(elapsed) > times.mean + 3 * times.deviation + 1
    return Eta(low, _left(usual, past, waiting), times.samples, overdue)


def _left(each: float, elapsed: Sequence[float], waiting: int) -> float:
    running = [max(each - past, 0.0) for past in elapsed]
    shared = (sum(running) + waiting * each) / len(running)
    last = min(running) + each if waiting else max(running)  # the last one to start still takes its whole time
    return max(shared, last)
