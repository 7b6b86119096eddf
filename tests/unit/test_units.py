"""Durations, sizes and times."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute_ssh.model.units import (
    format_duration,
    format_size,
    iso,
    parse_duration,
    parse_iso,
    parse_size,
    parse_until,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("1.5", 1.5),
        ("90s", 90),
        ("15m", 900),
        ("1h30m10s", 5410),
        ("1h 30m", 5400),
        ("  1H30M ", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("1w", 604800),
        ("1w2d", 777600),
        ("00:05:00", 300),
        ("90:00:00", 324000),
        ("2-12:00:00", 216000),
    ],
)
def test_a_duration_is_read_in_every_form_people_write(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "write seconds"),
        ("   ", "write seconds"),
        ("soon", "1h30m"),
        ("-5", "write seconds"),
        ("1e3", "write seconds"),
        ("inf", "write seconds"),
        ("10 minutes", "15m"),
        ("30m1h", "1h30m"),
        ("1h1h", "1h30m"),
        ("5:30", "two ways"),
        ("00:61:00", "up to 59"),
        ("00:00:99", "up to 59"),
        ("٣", "write seconds"),
        ("9" * 20, "century"),
        ("5200w9999d", "century"),
        ("9" * 5000, "write seconds"),
        ("1-" + "9" * 5000 + ":00:00", "write seconds"),
    ],
)
def test_what_is_not_a_duration_is_refused_with_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("10B", 10),
        ("1K", 1024),
        ("512M", 512 << 20),
        ("16G", 16 << 30),
        ("16GB", 16 << 30),
        ("16GiB", 16 << 30),
        ("16 gib", 16 << 30),
        ("1.5T", 3 << 39),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_a_size_counts_in_1024s_whatever_its_suffix(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "16X", "-1G", "1.5", "16 G B", "1e3", "nan", "1" * 20, "9" * 5000, "٣G"])
def test_what_is_not_a_size_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"16G|1\.5G"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.9, "0s"),
        (45, "45s"),
        (60, "1m"),
        (65, "1m5s"),
        (3599.9, "59m59s"),
        (3605, "1h"),
        (7800, "2h10m"),
        (7859, "2h10m"),
        (86400 * 3 + 3600 * 4 + 59, "3d4h"),
        (86400 * 400, "400d"),
        (-90, "-1m30s"),
    ],
)
def test_a_duration_is_shown_in_at_most_two_neighbouring_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=3_000_000_000))
def test_a_shown_duration_can_be_read_again_and_is_never_longer_than_the_truth(seconds: int) -> None:
    again = parse_duration(format_duration(seconds))
    assert again <= seconds < again + max(60, 3600 * (seconds >= 86400)) + 1


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1024 * 1024 - 1, "1 MiB"),
        (1288490189, "1.2 GiB"),
        (16 << 30, "16 GiB"),
        (5 << 60, "5120 PiB"),
    ],
)
def test_a_size_is_shown_with_one_decimal_at_most(size: int, text: str) -> None:
    assert format_size(size) == text


def test_a_time_is_utc_in_whole_seconds_and_comes_back() -> None:
    assert iso(0) == "1970-01-01T00:00:00Z"
    assert iso(1743444000.999) == "2025-03-31T18:00:00Z"
    assert iso(-0.5) == "1969-12-31T23:59:59Z"
    assert parse_iso(iso(1743444000.999)) == 1743444000
    assert parse_iso("2025-03-31T20:00:00+02:00") == 1743444000
    assert parse_iso(" 2025-03-31T18:00:00.5Z ") == 1743444000.5


@pytest.mark.parametrize(("text", "why"), [("2025-03-31T18:00:00", "no time zone"), ("yesterday", "not a time")])
def test_a_time_without_a_zone_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_iso(text)


BERLIN = ZoneInfo("Europe/Berlin")
AFTERNOON = datetime(2025, 3, 29, 16, 0, tzinfo=BERLIN)  # in the night to the next day, clocks go one hour ahead


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:00", datetime(2025, 3, 29, 18, 0, tzinfo=BERLIN)),
        (" 16:00:01 ", datetime(2025, 3, 29, 16, 0, 1, tzinfo=BERLIN)),
        ("16:00", datetime(2025, 3, 30, 16, 0, tzinfo=BERLIN)),
        ("8:30", datetime(2025, 3, 30, 8, 30, tzinfo=BERLIN)),
        ("2025-03-31", datetime(2025, 3, 31, tzinfo=BERLIN)),
        ("2025-03-31 18:00", datetime(2025, 3, 31, 18, 0, tzinfo=BERLIN)),
        ("2025-03-31T18:00:00Z", datetime(2025, 3, 31, 18, 0, tzinfo=UTC)),
    ],
)
def test_a_moment_to_come_is_read_as_a_person_means_it(text: str, moment: datetime) -> None:
    assert parse_until(text, AFTERNOON.timestamp(), BERLIN) == moment.timestamp()


@pytest.mark.parametrize("text", ["", "noon", "24:00", "18:60", "18", "2025-02-30", "99999-01-01", "18:00h"])
def test_what_is_no_moment_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: write 18:00"):
        parse_until(text, AFTERNOON.timestamp(), BERLIN)


def test_a_moment_that_is_past_is_refused() -> None:
    with pytest.raises(ValueError, match="`2025-03-28` is over already"):
        parse_until("2025-03-28", AFTERNOON.timestamp(), BERLIN)
