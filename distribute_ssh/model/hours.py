"""The hours of a node: when jobs may run there, by the clock on the wall of the head. Pure.

`nights`; `weekends`; `not office`; `Mon-Fri 19:00-07:00, Sat-Sun`. Several add up, and what stands behind `not` is
taken out of the rest (of the whole week, where nothing else stands there). What begins before midnight and ends after
it belongs to the day on which it begins.

Whether a node is open is asked of the clock on the wall at that instant, and never reckoned from one hour to the next:
so nights on which clocks are set are as long as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from functools import lru_cache

NAMED = {
    "nights": "Mon-Sun 19:00-07:00",
    "weekends": "Sat-Sun",
    "office": "Mon-Fri 08:00-18:00",
    "always": "Mon-Sun",
}
FORMS = "write nights, weekends, not office, or days and times: Mon-Fri 19:00-07:00"

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = rf"({'|'.join(_DAYS)})(?:day|sday|nesday|rsday|urday)?"
_WINDOW = re.compile(
    rf"(?:{_DAY}(?:\s*-\s*{_DAY})?)?\s*(?:(\d{{1,2}}):(\d{{2}})\s*-\s*(\d{{1,2}}):(\d{{2}}))?", re.ASCII | re.IGNORECASE
)
_MIDNIGHT = 24 * 60
_AHEAD = 9  # days: no change lies farther off than a week, and one day to either side for what crosses midnight


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day on some days of the week; it may end on the day after."""

    days: frozenset[int]  # Monday is 0
    begin: int  # minutes since midnight
    end: int  # may be below `begin`: then it is over on the next day
    is_open: bool = True  # False: it stood behind `not`

    def holds(self, day: int, minute: float) -> bool:
        """Whether this is within it."""
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


Hours = tuple[Window, ...]


@lru_cache(maxsize=256)
def parse_hours(text: str) -> Hours:
    """Read what a person wrote. Raises ValueError with a sentence that says what to write instead."""
    found = tuple(_window(each.strip()) for each in text.split(","))
    week = [(day, minute) for day in range(7) for minute in range(_MIDNIGHT)]
    if not any(_is_open(found, day, minute) for day, minute in week):
        raise ValueError(f"`{text}` leaves no time in which a job could run: {FORMS}")
    return found


def _window(text: str) -> Window:
    first, _, rest = text.partition(" ")
    is_open = first.lower() != "not"
    inner = text if is_open else rest.strip()
    match = _WINDOW.fullmatch(NAMED.get(inner.lower(), inner))
    if match is None or not inner:
        raise ValueError(f"`{text}` says no hours: {FORMS}")
    since, until, *clock = match.groups()
    days = set(range(7))
    if since is not None:
        start, stop = (_DAYS.index(each.lower()) for each in (since, until or since))
        days = {(start + ahead) % 7 for ahead in range((stop - start) % 7 + 1)}
    if clock[0] is None:
        return Window(frozenset(days), 0, _MIDNIGHT, is_open)
    hour, minute, end_hour, end_minute = map(int, clock)
    begin, end = hour * 60 + minute, end_hour * 60 + end_minute
    if begin >= _MIDNIGHT or end > _MIDNIGHT or minute > 59 or end_minute > 59:
        raise ValueError(f"`{text}` says no hours: times go from 00:00 to 24:00")
    if begin == end:
        raise ValueError(f"`{text}` ends when it begins: for whole days leave the times out")
    return Window(frozenset(days), begin, end, is_open)


def is_open(hours: Hours, at: float, zone: tzinfo | None = None) -> bool:
    """Whether jobs may run then; `zone`: where the head is (None: the zone of this machine)."""
    wall = datetime.fromtimestamp(at // 1, zone)  # not rounded up into the next hour
    return _is_open(hours, wall.weekday(), wall.hour * 60 + wall.minute)


def _is_open(hours: Hours, day: int, minute: int) -> bool:
    if any(not window.is_open and window.holds(day, minute) for window in hours):
        return False
    given = [window for window in hours if window.is_open]
    return not given or any(window.holds(day, minute) for window in given)


def next_change(hours: Hours, at: float, zone: tzinfo | None = None) -> float | None:
    """When it is the other way round next; None: never."""
    now = is_open(hours, at, zone)
    moments = sorted(moment for moment in _moments(hours, at, range(-1, _AHEAD), zone) if moment > at)
    return next((moment for moment in moments if is_open(hours, moment, zone) != now), None)


def last_change(hours: Hours, at: float, zone: tzinfo | None = None) -> float | None:
    """Since when it is as it is; None: for ever."""
    moments = sorted(moment for moment in _moments(hours, at, range(-_AHEAD, 2), zone) if moment <= at)
    return next((m for m in reversed(moments) if is_open(hours, m, zone) != is_open(hours, m - 1, zone)), None)


def _moments(hours: Hours, at: float, days: range, zone: tzinfo | None) -> Iterator[float]:
    """All instants at which something may begin or end."""
    today = datetime.fromtimestamp(at, zone).date()
    marks = {mark % _MIDNIGHT for window in hours for mark in (window.begin, window.end)} | {0}
    for day in (today + timedelta(days=ahead) for ahead in days):
        for mark in marks:
            # A time on the wall may come twice. One that is left out is met below.
            yield from {_instant(day, mark, zone, fold) for fold in (0, 1)}
        start, end = _instant(day, 0, zone, 0), _instant(day + timedelta(days=1), 0, zone, 0)
        if end - start != _MIDNIGHT * 60:  # clocks are set: at a quarter of an hour, wherever that is done
            yield from (start + 900.0 * quarter for quarter in range(1, int((end - start) // 900)))


def _instant(day: date, minute: int, zone: tzinfo | None, fold: int) -> float:
    return datetime.combine(day, time(minute // 60, minute % 60, fold=fold), zone).timestamp()
