"""From what a node says of somebody being there to a pause that nobody had to type."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from distribute_ssh.model.lease import Lease, NodeRequest
from distribute_ssh.model.owner import Activity, Reading
from distribute_ssh.node import wire
from distribute_ssh.node.activity import read
from distribute_ssh.plan.activity import (
    BY_ACTIVITY,
    BY_HOURS,
    Wish,
    closure,
    for_activity,
    for_hours,
    seen,
    to_ask,
    was_ended,
)

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()  # a Monday
QUIET, MOST = 600.0, 4 * 3600.0
OURS, THEIRS, FRESH = "queue1-ours11", "queue1-theirs", "queue1-fresh1"
TTY = Reading("tty", "ana at pts/3", 30.0)
NOBODY = Reading("tty", "nobody has a terminal")


def rows(*lines: str) -> list[wire.Row]:
    """Rows of an answer, through the grammar of the channel."""
    found = [wire.read(f"nonce reading 7 {line}\n".encode(), "nonce") for line in lines]
    return [row for row in found if isinstance(row, wire.Row)]


def one(line: str) -> Reading:
    (found,) = read(rows(line))
    return found


# --- reading ---


@pytest.mark.parametrize(
    ("line", "reading"),
    [
        ("tty 30 1000 pts/3", Reading("tty", "uid 1000 at pts/3", 30.0)),
        ("tty none", NOBODY),
        ("tty unknown", Reading("tty", "terminals: cannot be read here", is_known=False)),
        ("session none", Reading("session", "nobody is logged in")),
        ("session unknown", Reading("session", "sessions (logind): cannot be read here", is_known=False)),
        ("watch 12 /dev/my\\0040pedal", Reading("watch", "/dev/my pedal was used", 12.0)),
        ("watch none /dev/pedal", Reading("watch", "/dev/pedal is not there")),
        ("screen 5", Reading("screen", "keyboard and mouse of the screen", 5.0)),
        ("load 5.07", Reading("load", "load average 5.07", amount=5.07)),
        ("cpu 65", Reading("cpu", "others use 0.7 cores", amount=0.65)),
        ("cpu unknown", Reading("cpu", "use of the processors by others: cannot be read here", is_known=False)),
        ("gpu 2", Reading("gpu", "2 processes of others hold a GPU", amount=2.0)),
    ],
)
def test_every_row_becomes_a_reading_with_words_for_people(line: str, reading: Reading) -> None:
    assert one(line) == reading


@pytest.mark.parametrize(
    "line",
    ["tty", "tty x 1000 pts/3", "tty 1", "watch x y", "dance 1", "load many", "cpu 1e9", "cpu nan", "screen \\0151",
     "session a b", "gpu -1"],
)  # fmt: skip
def test_a_row_that_makes_no_sense_counts_as_not_said(line: str) -> None:
    assert read(rows(line)) == []


SESSION = "session 0 1000000 5000 Id=2 User=1000 Name=ana Class=user State=active Seat=seat0 TTY=tty2 Type=wayland"


@pytest.mark.parametrize(
    ("line", "idle"),
    [
        (f"{SESSION} IdleHint=no LockedHint=no", 0.0),
        (f"{SESSION} IdleHint=yes IdleSinceHint=999580000000", 420.0),
        (f"{SESSION} IdleHint=no LockedHint=yes", None),
        (SESSION.replace("Type=wayland", "Type=tty") + " IdleHint=no IdleSinceHint=999905000000", 95.0),
        (SESSION.replace(" TTY=tty2 Type=wayland", " Type=unspecified") + " TimestampMonotonic=4880000000", 120.0),
        (f"{SESSION} IdleHint=yes IdleSinceHint=soon", None),
    ],
)
def test_a_session_is_as_idle_as_its_desktop_its_terminal_or_its_login_says(line: str, idle: float | None) -> None:
    assert one(line).idle == idle


@pytest.mark.parametrize(
    "change", ["Class=greeter", "Class=manager", "Class=manager-early", "Class=background", "State=closing"]
)
def test_what_logind_calls_a_session_and_no_person_has_is_none(change: str) -> None:
    key = change.partition("=")[0]
    line = " ".join(word for word in SESSION.split() if not word.startswith(f"{key}=")) + f" {change} IdleHint=no"
    assert one(line) == Reading("session", "nobody is logged in")


def test_the_sessions_through_which_we_come_are_ours_and_a_seat_of_our_account_is_a_person() -> None:
    ours = "session 0 1000000 5000 Id=7 User=0 Name=root Class=user State=active Type=unspecified IdleHint=no"
    assert one(ours).idle is None
    assert one(f"{ours} Seat=seat0 Type=x11").idle == 0.0


def test_where_the_screen_can_be_asked_a_desktop_that_never_calls_itself_idle_is_not_believed() -> None:
    never_idle = SESSION.replace("session 0", "session 1000") + " IdleHint=no"
    screen, session = read(rows("screen 900", never_idle))
    assert (screen.idle, session.idle) == (900.0, None)
    _, other = read(rows("screen 900", f"{SESSION} IdleHint=no"))
    assert other.idle == 0.0, "it is another account's, whose screen nobody asked"


def test_names_come_from_the_sessions_and_nothing_of_them_reaches_a_terminal_unseen() -> None:
    tty, _ = read(rows("tty 30 1000 pts/3", f"{SESSION} IdleHint=no"))
    assert tty.text == "ana at pts/3"
    assert one("tty 30 1\x1b]0;x pts/3").text.isprintable()


# --- deciding that somebody is there ---


def test_of_several_signals_the_latest_counts() -> None:
    activity = seen(Activity(), [NOBODY, TTY, Reading("session", "ben at pts/4", 20.0)], NOW)
    assert (activity.last, activity.why) == (NOW - 20, "ben at pts/4")


def test_nobody_is_there_where_all_can_be_read_and_none_says_so() -> None:
    activity = seen(Activity(), [NOBODY, Reading("session", "nobody is logged in")], NOW)
    assert activity.last is None
    assert for_activity(activity, QUIET, MOST, NOW) is None


@pytest.mark.parametrize("readings", [[], [Reading("tty", "", is_known=False), Reading("session", "", is_known=False)]])
def test_where_nothing_can_be_read_somebody_is_taken_to_be_there(readings: list[Reading]) -> None:
    activity = seen(Activity(), readings, NOW)
    assert activity.last == NOW
    assert "can be read" in activity.why


def test_what_is_to_be_ignored_is_shown_and_does_not_count() -> None:
    busy = Reading("cpu", "", amount=2.0)
    before = seen(Activity(), [NOBODY, busy], NOW - 15, ("cpu",))
    assert seen(before, [NOBODY, busy], NOW, ("cpu",)) == Activity(NOW, (NOBODY, busy))
    assert seen(Activity(), [TTY], NOW, ("tty",)).why.startswith("neither"), "nothing else can be read"
    assert seen(Activity(), [TTY], NOW, ("tty", "session")).last is None


def test_one_of_terminals_and_sessions_is_enough_to_know() -> None:
    assert seen(Activity(), [NOBODY, Reading("session", "", is_known=False)], NOW).last is None


def test_processors_are_used_by_others_when_two_looks_in_a_row_say_so() -> None:
    busy, calm = Reading("cpu", "", amount=2.0), Reading("cpu", "", amount=0.2)
    unknown = Reading("cpu", "", is_known=False)
    for before, now, is_there in ((busy, busy, True), (calm, busy, False), (busy, calm, False), (unknown, busy, False)):
        activity = seen(seen(Activity(), [NOBODY, before], NOW - 15), [NOBODY, now], NOW)
        assert (activity.last == NOW) is is_there


def test_a_gpu_that_others_hold_is_theirs() -> None:
    assert seen(Activity(), [NOBODY, Reading("gpu", "", amount=1.0)], NOW).last == NOW
    assert seen(Activity(), [NOBODY, Reading("gpu", "", amount=0.0)], NOW).last is None


def test_what_was_seen_once_is_remembered_and_a_clock_ahead_of_ours_is_no_time_to_come() -> None:
    activity = seen(seen(Activity(), [TTY], NOW), [NOBODY], NOW + 100)
    assert (activity.last, activity.why) == (NOW - 30, "ana at pts/3")
    assert seen(Activity(), [replace(TTY, idle=-50.0)], NOW).last == NOW


def test_it_can_be_written_down_and_taken_back() -> None:
    activity = seen(Activity(resumed_at=NOW, token=OURS), [TTY, NOBODY], NOW)
    assert Activity.from_json(asdict(activity)) == activity


# --- the pause that is right ---


def active(ago: float, **fields: float) -> Activity:
    return Activity(NOW, (), NOW - ago, "ana at pts/3", **fields)  # type: ignore[arg-type]  # as the test says


def test_it_lasts_until_the_owner_was_quiet_for_as_long_as_the_inventory_says() -> None:
    assert for_activity(active(100), QUIET, MOST, NOW) == Wish(NOW + 500, BY_ACTIVITY, "ana at pts/3", QUIET)
    assert for_activity(active(600), QUIET, MOST, NOW) is None


def test_it_is_never_longer_than_a_pause_may_be() -> None:
    wish = for_activity(active(0), QUIET, 60.0, NOW)
    assert wish is not None
    assert wish.until == NOW + 60


def test_whoever_ended_a_pause_is_not_overruled_by_what_they_did_until_then_and_for_a_while_after() -> None:
    assert for_activity(active(0, resumed_at=NOW - 10), QUIET, MOST, NOW) is None
    assert for_activity(active(0, resumed_at=NOW - 599), QUIET, MOST, NOW) is None
    assert for_activity(active(0, resumed_at=NOW - 600), QUIET, MOST, NOW) is not None


def test_outside_its_hours_a_node_is_paused_until_they_begin_in_pieces_that_are_allowed() -> None:
    assert for_hours("nights", Activity(), 10 * 3600, NOW, UTC) == Wish(NOW + 7 * 3600, BY_HOURS, "nights", 10 * 3600)
    assert for_hours("nights", Activity(), MOST, NOW, UTC) == Wish(NOW + MOST, BY_HOURS, "nights", MOST)
    assert for_hours("office", Activity(), MOST, NOW, UTC) is None
    assert (closure("nights", NOW, UTC), closure("office", NOW, UTC)) == (NOW + 7 * 3600, None)


def test_a_pause_of_the_hours_that_somebody_ended_comes_back_when_they_have_begun_and_ended_again() -> None:
    resumed = Activity(resumed_at=NOW)
    assert for_hours("nights", resumed, MOST, NOW + 3600, UTC) is None
    assert for_hours("nights", resumed, MOST, NOW + 86400, UTC) is not None
    assert for_hours("nights", Activity(resumed_at=NOW - 86400), MOST, NOW, UTC) is not None


# --- what is asked for ---


def lease(left: float, token: str = OURS) -> Lease:
    return Lease(token, NOW + left, NOW - 60, "somebody")


def ask(wish: Wish | None, there: Lease | None) -> NodeRequest | None:
    return to_ask([None, wish], there, OURS, FRESH, NOW)


WISH = Wish(NOW + QUIET, BY_ACTIVITY, "ana at pts/3", QUIET)


def test_a_pause_is_asked_for_where_none_stands_and_yields_to_what_people_said() -> None:
    wanted = NodeRequest(FRESH, NOW, BY_ACTIVITY, NOW + QUIET, "ana at pts/3", yields=True)
    assert ask(WISH, None) == wanted
    assert ask(WISH, lease(-1)) == wanted, "what is over is begun anew, under another name"
    assert ask(None, None) is None


@pytest.mark.parametrize("left", [5, 300, 7200])
def test_a_pause_of_a_person_is_left_as_it_is_whether_longer_or_shorter(left: float) -> None:
    assert ask(WISH, lease(left, THEIRS)) is None


def test_our_own_is_extended_under_its_own_name_when_a_quarter_of_it_has_gone_by() -> None:
    assert ask(WISH, lease(451)) is None
    request = ask(WISH, lease(450))
    assert request is not None
    assert (request.token, request.until, request.extends) == (OURS, NOW + QUIET, True)


def test_our_own_is_never_shortened() -> None:
    assert ask(WISH._replace(until=NOW + 200), lease(250)) is None


def test_also_a_little_is_added_to_our_own_before_it_ends() -> None:
    a_little = WISH._replace(until=NOW + 320)
    assert ask(a_little, lease(310)) is None
    assert ask(a_little, lease(300)) is not None


def test_of_two_reasons_the_one_that_lasts_longer_counts() -> None:
    hours = Wish(NOW + MOST, BY_HOURS, "nights", MOST)
    for wishes in ([WISH, hours], [hours, WISH]):
        request = to_ask(wishes, None, None, FRESH, NOW)
        assert request is not None
        assert (request.who, request.until) == (BY_HOURS, NOW + MOST)
    # It takes over the pause that stands for the other reason.
    request = to_ask([WISH, hours], lease(500), OURS, FRESH, NOW)
    assert request is not None
    assert (request.token, request.who) == (OURS, BY_HOURS)


def test_a_day_of_typing_is_one_pause_that_is_extended_a_few_times_an_hour_and_ends_when_it_should() -> None:
    """The owner types for an hour, once a minute; looks and ticks come every 15 s."""
    there, ends, asked = None, [], 0
    for second in range(0, 2 * 3600, 15):
        now = NOW + second
        typed = min(second, 3600) // 60 * 60
        activity = Activity(last=NOW + typed, why="", token=OURS)
        request = to_ask([for_activity(activity, QUIET, MOST, now)], there, OURS, OURS if second == 0 else FRESH, now)
        if request is not None:
            assert request.until is not None
            assert request.token == OURS, "it never ended in between"
            there, asked = Lease(request.token, request.until, NOW, ""), asked + 1
            ends.append(request.until)
    assert all(earlier < later for earlier, later in pairwise(ends))
    assert ends[-1] == NOW + 3600 + QUIET
    assert asked <= 30


def test_a_pause_that_is_gone_before_its_time_was_ended_by_somebody() -> None:
    assert was_ended(lease(60), None, NOW)
    assert not was_ended(lease(2), None, NOW), "it ended by itself, by the clock of the node"
    assert not was_ended(lease(60), lease(30, THEIRS), NOW)
    assert not was_ended(None, None, NOW)
