"""Pauses: what is in force, what a node's answer says of one, and the words for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from distribute_ssh.model.lease import Lease, NodeRequest, in_force
from distribute_ssh.node.lease import standing
from distribute_ssh.node.wire import Row
from distribute_ssh.views.times import pause_words

NOW = datetime(2025, 3, 4, 16, 0, tzinfo=UTC).timestamp()
LEASE = Lease("queue1-lease1", NOW + 600, NOW - 60, "ana", "visitors")
ASKED = NodeRequest("queue1-lease2", NOW, "ben", NOW + 60)
RESUME = NodeRequest("queue1-lease3", NOW, "ben")


def test_what_is_asked_for_is_in_force_before_the_node_knows_of_it() -> None:
    found = in_force(ASKED, LEASE, NOW)
    assert found == Lease("queue1-lease2", NOW + 60, NOW, "ben")


@pytest.mark.parametrize(
    ("request_", "lease", "at", "token"),
    [
        (None, None, NOW, None),
        (None, LEASE, NOW, LEASE.token),
        (None, LEASE, LEASE.until, None),
        (ASKED, None, NOW + 60, None),
        (ASKED, LEASE, NOW + 61, LEASE.token),
        # Until the node says that it goes on, it does not.
        (RESUME, LEASE, NOW, LEASE.token),
        (RESUME, None, NOW, None),
    ],
)
def test_a_pause_is_in_force_until_its_end(
    request_: NodeRequest | None, lease: Lease | None, at: float, token: str | None
) -> None:
    found = in_force(request_, lease, at)
    assert (found and found.token) == token


def test_a_request_is_over_with_its_pause_and_a_resume_never() -> None:
    assert not ASKED.is_over(NOW + 59)
    assert ASKED.is_over(NOW + 60)
    assert not RESUME.is_over(NOW + 10**9)


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (None, True),
        (LEASE, False),
        (replace(LEASE, until=LEASE.until + 1.5, since=LEASE.since - 1), False),
        (replace(LEASE, until=LEASE.until + 3), True),
        (replace(LEASE, token="queue1-lease9"), True),
        (replace(LEASE, left=("12 vmd",)), True),
    ],
)
def test_two_looks_at_one_lease_say_the_same(other: Lease | None, differs: bool) -> None:
    assert LEASE.differs(other) is differs


def row(*fields: str, kind: str = "lease") -> Row:
    return Row(1, kind, fields)


def test_an_answer_says_which_lease_stands_and_what_still_moves() -> None:
    rows = [
        row("queue1-lease1", "77", "/opt/vmd", "-e", "x", kind="moves"),
        row("queue1-lease1", "600", "60", "ana", "for\\0040visitors"),
    ]
    assert standing(rows, NOW) == replace(LEASE, reason="for visitors", left=("77 /opt/vmd -e x",))


@pytest.mark.parametrize(
    "fields",
    [
        ("queue1-lease1",),
        ("queue1-lease1", "600", "60"),
        ("queue1-lease1", "-1", "60", "ana"),
        ("queue1-lease1", "9" * 400, "60", "ana"),
        ("queue1-lease1", "six", "60", "ana"),
        ("queue1-lease1", "\u0661", "60", "ana"),
    ],
)
def test_a_row_that_makes_no_sense_is_no_lease(fields: tuple[str, ...]) -> None:
    assert standing([row(*fields)], NOW) is None


def test_what_people_said_cannot_play_tricks_on_the_reader() -> None:
    found = standing([row("queue1-lease1", "600", "60", "ana\\0033", "a\\nb\\0033[31m")], NOW)
    assert found is not None
    assert (found.who, found.reason) == ("ana", "a b [31m")


@pytest.mark.parametrize(
    ("lease", "words"),
    [
        (LEASE, "until 16:10 by ana: visitors"),
        (replace(LEASE, reason=None), "until 16:10 by ana"),
        (replace(LEASE, until=NOW + 10 * 3600), "until Wed 02:00 by ana: visitors"),
    ],
)
def test_the_words_say_until_when_by_whom_and_why(lease: Lease, words: str) -> None:
    assert pause_words(lease, NOW, UTC) == words
