"""What `nodes` says of a node's owner, its hours and its gentleness."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.owner import Activity, Reading
from distribute_ssh.views.owners import owner_data, owners_text

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()  # a Monday
ACTIVITY = Activity(
    at=NOW - 5,
    readings=(Reading("tty", "ana at pts/3", 600.0), Reading("cpu", "others use 0.1 cores", amount=0.1)),
    last=NOW - 605,
    why="ana at pts/3",
    token="queue1-lease1",
)
FULL = NodeEntry(
    "desk", pause_when_active=900.0, move_after=7200.0, hours="nights, weekends", nice=10, ionice="idle", core_cap=8
)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def text(entry: NodeEntry, activity: Activity | None) -> str:
    return owners_text([{"name": entry.name, **owner_data(entry, activity, NOW)}], NOW)


def test_every_reading_is_shown_with_when_it_speaks_of_somebody() -> None:
    assert text(FULL, ACTIVITY) == (
        "\n"
        "desk\n"
        "  owner    jobs pause until nobody was active for 15m\n"
        "           last active 10m5s ago: ana at pts/3; read 5s ago\n"
        "  tty      ana at pts/3, 10m5s ago\n"
        "  cpu      others use 0.1 cores\n"
        "  move     a job paused for 2h may be attempted elsewhere\n"
        "  hours    nights, weekends: closed until 19:00\n"
        "  gentle   nice 10, ionice idle, on 8 cores\n"
    )


def test_what_the_inventory_does_not_ask_for_is_not_spoken_of() -> None:
    assert owner_data(NodeEntry("desk"), ACTIVITY, NOW) == {"owner": None, "hours": None, "gentle": None}
    assert text(NodeEntry("desk"), ACTIVITY) == ""
    assert text(NodeEntry("desk", hours="always"), None).endswith("hours    always: open\n")


def test_before_the_first_look_it_says_so_and_after_one_in_vain_too() -> None:
    assert "nothing was read yet" in text(FULL, None)
    assert "nobody was active; read 0s ago" in text(FULL, Activity(at=NOW))


def test_nothing_that_a_node_said_plays_tricks_on_a_terminal() -> None:
    evil = Activity(NOW, (Reading("tty", "ana\x1b[2J", 1.0),), NOW, "ana\x1b[2J")
    assert "\x1b" not in text(FULL, evil)


def test_documents_hold_times_and_no_token() -> None:
    data = owner_data(FULL, ACTIVITY, NOW)
    assert data["owner"] == {
        "pause_when_active": 900.0,
        "move_after": 7200.0,
        "last_active": "2026-03-02T11:49:55Z",
        "why": "ana at pts/3",
        "read_at": "2026-03-02T11:59:55Z",
        "readings": [
            {"kind": "tty", "text": "ana at pts/3", "last": "2026-03-02T11:49:55Z", "amount": None, "known": True},
            {"kind": "cpu", "text": "others use 0.1 cores", "last": None, "amount": 0.1, "known": True},
        ],
    }
    assert data["hours"] == {"text": "nights, weekends", "open": False, "until": "2026-03-02T19:00:00Z"}
    assert data["gentle"] == {"nice": 10, "ionice": "idle", "cores": 8}
