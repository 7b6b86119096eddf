"""Times as people read them, on the reader's own clock; JSON has them in UTC."""

from __future__ import annotations

from datetime import datetime, tzinfo

from distribute_ssh.model.lease import Lease
from distribute_ssh.model.units import format_duration, parse_iso

_WEEK = 6 * 86_400


def seconds(text: str | None) -> float | None:
    """The time that a document of ours carries, in seconds since the epoch."""
    return None if text is None else parse_iso(text)


def when(at: float | None, now: float, zone: tzinfo | None = None) -> str:
    """`Tue 14:02`, or the date where it is longer ago; empty for None."""
    if at is None:
        return ""
    moment = datetime.fromtimestamp(at, zone)  # None is the local zone: a person reads this
    return moment.strftime("%a %H:%M" if abs(now - at) < _WEEK else "%Y-%m-%d")


def until(at: float, now: float, zone: tzinfo | None = None) -> str:
    """`18:40` where that is today, else with its day."""
    moment, today = (datetime.fromtimestamp(each, zone) for each in (at, now))  # as above
    return moment.strftime("%H:%M") if moment.date() == today.date() else when(at, now, zone)


def pause_words(pause: Lease, now: float, zone: tzinfo | None = None) -> str:
    """`until 18:40 by ana: visitors`."""
    return f"until {until(pause.until, now, zone)} by {pause.who}" + (f": {pause.reason}" if pause.reason else "")


def ago(at: float | None, now: float) -> str:
    """`5m` for what was five minutes ago, `never` for None."""
    return "never" if at is None else format_duration(max(now - at, 0.0))


def clock(at: float | None, zone: tzinfo | None = None) -> str:
    """`2025-03-31 14:02:11`; empty for None."""
    return "" if at is None else datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M:%S")  # as above
