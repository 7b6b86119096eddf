"""When jobs may run on a node: by the clock on the wall, also in the nights in which clocks are set."""

from __future__ import annotations

from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute_ssh.model.hours import is_open, last_change, next_change, parse_hours

BERLIN = ZoneInfo("Europe/Berlin")
# A Monday; in 2026 clocks go forward in the night to Sunday, 29 March, and back in that to Sunday, 25 October.


def at(text: str, zone: tzinfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def wall(moment: float | None) -> str:
    assert moment is not None
    return datetime.fromtimestamp(moment, BERLIN).strftime("%a %H:%M")


@pytest.mark.parametrize(
    ("text", "is_yes", "is_no"),
    [
        ("nights", ["02 19:00", "02 23:59", "03 00:00", "03 06:59"], ["02 18:59", "03 07:00", "03 12:00"]),
        ("weekends", ["07 00:00", "08 23:59"], ["06 23:59", "09 00:00"]),
        ("not office", ["02 07:59", "02 18:00", "07 12:00"], ["02 08:00", "06 17:59"]),
        ("nights, weekends", ["07 12:00", "04 03:00"], ["04 12:00"]),
        ("Mon-Fri 19:00-07:00", ["06 20:00", "07 06:59"], ["07 07:00", "07 20:00", "02 06:00"]),
        ("fri 22:00 - 02:00", ["06 22:00", "07 01:59"], ["06 01:00", "07 22:00"]),
        ("Friday-Monday", ["06 00:00", "08 12:00", "09 23:59"], ["05 23:59", "10 00:00"]),
        ("12:15-12:45", ["02 12:15", "08 12:44"], ["02 12:14", "02 12:45"]),
        ("18:00-24:00", ["02 23:59"], ["03 00:00"]),
        ("nights, not Sun", ["07 20:00", "08 23:59 no", "09 03:00"], ["08 03:00"]),
        ("always", ["02 12:00"], []),
    ],
)
def test_hours_say_what_they_are_read_to_say(text: str, is_yes: list[str], is_no: list[str]) -> None:
    hours = parse_hours(text)
    for moment in [*is_yes, *is_no]:
        day, clock, *turned = moment.split()
        assert is_open(hours, at(f"2026-03-{day} {clock}"), BERLIN) is (moment in is_yes and not turned), moment


@pytest.mark.parametrize(
    "text",
    ["", "night", "Mon-Fri 19-07", "Mon-Fri 25:00-26:00", "19:00-19:00", "Mon 08:61-09:00", "not", "not always",
     "weekends, not Sat-Sun", "nights,,weekends", "Mo-Fr 10:00-12:00"],
)  # fmt: skip
def test_what_says_no_hours_or_leaves_none_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"write nights|go from 00:00 to 24:00|leave the times out"):
        parse_hours(text)


def test_the_next_and_the_last_change_are_found_across_midnights_and_weeks() -> None:
    hours = parse_hours("Mon-Fri 19:00-07:00, Sat-Sun")
    monday_noon = at("2026-03-02 12:00")
    assert wall(next_change(hours, monday_noon, BERLIN)) == "Mon 19:00"
    assert wall(last_change(hours, monday_noon, BERLIN)) == "Mon 00:00"
    # Friday night runs into the weekend: nothing ends at Saturday 07:00.
    assert wall(next_change(hours, at("2026-03-06 20:00"), BERLIN)) == "Mon 00:00"
    assert wall(last_change(hours, at("2026-03-08 20:00"), BERLIN)) == "Fri 19:00"
    weekly = parse_hours("Wed 12:00-12:30")
    assert next_change(weekly, at("2026-03-04 12:30"), BERLIN) == at("2026-03-11 12:00")


def test_what_is_always_open_never_changes() -> None:
    hours = parse_hours("always")
    assert next_change(hours, at("2026-03-02 12:00"), BERLIN) is None
    assert last_change(hours, at("2026-03-02 12:00"), BERLIN) is None


def test_a_night_in_which_clocks_go_forward_is_an_hour_shorter_and_one_in_which_they_go_back_longer() -> None:
    hours = parse_hours("nights")
    for evening, seconds in (("2026-03-28", 11 * 3600), ("2026-10-24", 13 * 3600), ("2026-03-02", 12 * 3600)):
        begin = at(f"{evening} 19:00")
        assert next_change(hours, begin - 1, BERLIN) == begin
        assert next_change(hours, begin, BERLIN) == begin + seconds
        assert last_change(hours, begin + seconds - 1, BERLIN) == begin


def test_a_time_that_the_clocks_leave_out_begins_when_they_are_set() -> None:
    hours = parse_hours("02:30-05:00")
    set_forward = at("2026-03-29 03:00")
    assert not is_open(hours, set_forward - 1, BERLIN)
    assert next_change(hours, at("2026-03-29 01:00"), BERLIN) == set_forward
    assert last_change(hours, set_forward + 60, BERLIN) == set_forward


def test_a_time_that_comes_twice_holds_twice() -> None:
    hours = parse_hours("02:15-02:45")
    first, again = at("2026-10-25 02:15"), at("2026-10-25 02:15", fold=1)
    assert again - first == 3600
    changes = [first - 60]
    for _ in range(4):
        following = next_change(hours, changes[-1], BERLIN)
        assert following is not None
        changes.append(following)
    assert changes[1:] == [first, first + 1800, again, again + 1800]


@given(
    st.sampled_from(
        ["nights", "weekends", "not office", "Mon-Fri 19:00-07:00, Sat-Sun", "02:30-03:15", "Sun 23:45-00:15"]
    ),
    st.floats(at("2026-01-01 00:00"), at("2027-01-01 00:00")),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
)
def test_nothing_changes_between_the_last_change_and_the_next(text: str, moment: float, name: str) -> None:
    hours, zone = parse_hours(text), ZoneInfo(name)
    before, after = last_change(hours, moment, zone), next_change(hours, moment, zone)
    assert before is not None
    assert after is not None
    assert before <= moment < after
    now = is_open(hours, moment, zone)
    steps = [before + (after - before) * part / 50 for part in range(50)]
    assert all(is_open(hours, step, zone) is now for step in steps)
    assert is_open(hours, before - 1, zone) is not now
    assert is_open(hours, after, zone) is not now
