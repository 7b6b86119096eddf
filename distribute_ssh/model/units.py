"""Durations, sizes and times: how people write them, how we count them (seconds, bytes), how we show them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_LONGEST = 100 * 365.25 * 86400  # beyond a century it is a slip of the finger, and dates would overflow
_DURATION_FORMS = "write seconds (90), or 90s, 15m, 1h30m, 2d, 1w, HH:MM:SS or D-HH:MM:SS"

# Bounded: a number of a thousand digits is no number, and Python itself gives up on it in other words.
_NUMBER = r"\d{1,20}(?:\.\d{1,20})?"
_PLAIN = re.compile(_NUMBER, re.ASCII)
_PARTS = re.compile(r"\s*".join(rf"(?:({_NUMBER})\s*{unit})?" for unit in _SECONDS), re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,9})-)?(\d{1,9}):(\d{1,2}):(\d{1,2})", re.ASCII)
_SHORT_CLOCK = re.compile(r"\d{1,9}:\d{1,2}", re.ASCII)

_SIZE = re.compile(rf"({_NUMBER})\s*(?:([KMGTP])(?:I?B)?|B)?", re.ASCII | re.IGNORECASE)
_POWERS = "KMGTP"


def parse_duration(text: str) -> float:
    """Seconds from what a person wrote: `90`, `90s`, `15m`, `1h30m10s`, `1h 30m`, `2d`, `1w`, `HH:MM:SS`, `D-HH:MM:SS`.

    A bare number is seconds. `MM:SS` is refused: batch systems read it as minutes, people also as hours.
    Raises ValueError with a sentence that says what to write instead.
    """
    written = text.strip()
    lower = written.lower()
    if _PLAIN.fullmatch(lower):
        seconds = float(lower)
    elif lower and (parts := _PARTS.fullmatch(lower)):
        seconds = sum(float(n) * each for n, each in zip(parts.groups(), _SECONDS.values(), strict=True) if n)
    elif clock := _CLOCK.fullmatch(lower):
        days, hours, minutes, rest = (int(n or 0) for n in clock.groups())
        if minutes > 59 or rest > 59:
            raise ValueError(f"`{written}` is not a duration: minutes and seconds go up to 59 in HH:MM:SS")
        seconds = float(((days * 24 + hours) * 60 + minutes) * 60 + rest)
    elif _SHORT_CLOCK.fullmatch(lower):
        raise ValueError(f"`{written}` can be read in two ways: write HH:MM:SS, or 90m, or 1h30m")
    else:
        raise ValueError(f"`{written}` is not a duration: {_DURATION_FORMS}")
    if seconds > _LONGEST:
        raise ValueError(f"`{written}` is longer than a century: {_DURATION_FORMS}")
    return seconds


def parse_size(text: str) -> int:
    """Bytes from what a person wrote: `512M`, `16G`, `16GB`, `16GiB`, `1.5T`, or a bare number of bytes.

    `G`, `GB` and `GiB` all count in 1024s, as batch systems do. Raises ValueError with a sentence that says what to
    write instead.
    """
    written = text.strip()
    match = _SIZE.fullmatch(written)
    if match is None:
        raise ValueError(f"`{written}` is not a size: write 512M, 16G, 1.5T, or a number of bytes")
    number, unit = match.groups()
    if unit is None:
        if "." in number:
            raise ValueError(f"`{written}` is not a size: a number of bytes is whole; did you mean {number}G?")
        power = 0
    else:
        power = _POWERS.index(unit.upper()) + 1
    # Whole numbers stay whole: a float would already round a count of bytes above 2**53.
    size = int(number) << (10 * power) if "." not in number else int(float(number) * 1024**power)
    if size >= 1 << 63:
        raise ValueError(f"`{written}` is larger than any disk: write 512M, 16G, 1.5T, or a number of bytes")
    return size


_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", re.ASCII)


def _today(written: str, now: float, zone: tzinfo | None) -> datetime | None:
    """Today at the time written as `18:00`; None for what is written otherwise."""
    if not (clock := _TIME.fullmatch(written)):
        return None
    hour, minute, second = (int(each or 0) for each in clock.groups())
    return datetime.fromtimestamp(now, zone).replace(hour=hour, minute=minute, second=second, microsecond=0)


def _dated(written: str, zone: tzinfo | None) -> datetime:
    moment = datetime.fromisoformat(written)
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def parse_until(text: str, now: float, zone: tzinfo | None = None) -> float:
    """Unix time of a moment to come as a person writes it: `18:00` (tomorrow's where today's is past), `2025-03-31`,
    `2025-03-31 18:00`. `zone`: where the person is (None: where this machine is).

    Raises ValueError with a sentence that says what to write instead.
    """
    written = text.strip()
    try:
        moment = _today(written, now, zone)
        if moment is None:
            moment = _dated(written, zone)
        elif moment.timestamp() <= now:
            moment += timedelta(days=1)
        until = moment.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"`{written}` is not a time: write 18:00, 2025-03-31, or 2025-03-31T18:00") from None
    if until <= now:
        raise ValueError(f"`{written}` is over already")
    return until


def parse_since(text: str, now: float, zone: tzinfo | None = None) -> float:
    """Unix time of a moment that has passed: `2h` or `7d` ago, `18:00` (yesterday's where today's is to come),
    `2025-03-31`, `2025-03-31 18:00`. `zone`: where the person is (None: where this machine is).

    Raises ValueError with a sentence that says what to write instead.
    """
    written = text.strip()
    try:
        moment = _today(written, now, zone)
        if moment is not None:
            if moment.timestamp() > now:
                moment -= timedelta(days=1)
        elif re.match(r"\d{4}-", written):
            moment = _dated(written, zone)
        else:
            return now - parse_duration(written)
        since = moment.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"`{written}` is not a time: write 2h or 7d (ago), 18:00, or 2025-03-31") from None
    if since > now:
        raise ValueError(f"`{written}` is still to come")
    return since


def format_duration(seconds: float) -> str:
    """At most two units, as people say it: `45s`, `2h10m`, `3d4h`. Cut, not rounded: what has begun has not passed."""
    sign = "-" if seconds <= -1 else ""
    rest = int(abs(seconds))
    parts: list[str] = []
    for unit in "dhms":
        count, rest = divmod(rest, _SECONDS[unit])
        # The second unit is the one right below the first: `3d 5s` would pretend to a precision nobody reads.
        if count:
            parts.append(f"{count}{unit}")
        if parts and (unit == "s" or len(parts) == 2 or not count):
            break
    return sign + ("".join(parts) or "0s")


def format_size(size: int) -> str:
    """A size for people: `512 B`, `1.2 GiB`, `16 GiB`."""
    value = float(size)
    unit = ""
    for unit in ("", *_POWERS):
        if abs(round(value, 1)) < 1024:
            break
        if unit != _POWERS[-1]:
            value /= 1024
    return f"{value:.1f}".removesuffix(".0") + (f" {unit}iB" if unit else " B")


def iso(timestamp: float) -> str:
    """ISO 8601 in UTC, whole seconds (`jq fromdate` refuses fractions), ending in Z: what our JSON carries."""
    return datetime.fromtimestamp(int(timestamp // 1), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_iso(text: str) -> float:
    """Unix time of an ISO 8601 text with a zone (`Z` or `+02:00`). Raises ValueError where the zone is missing."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"`{text.strip()}` is not a time: write 2025-03-31T18:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"`{text.strip()}` has no time zone: end it with Z for UTC, or with +02:00")
    return moment.timestamp()
