"""The words that people get when a batch has ended."""

from __future__ import annotations

from typing import Any

import pytest

from distribute_ssh.views.notice import LONGEST, ended, messages_table, trials_text


def notice(**said: Any) -> dict[str, Any]:
    return {
        "batch": "lab/study",
        "submitter": "ana",
        "to": [],
        "submitted_at": "2026-03-01T08:00:00Z",
        "finished_at": "2026-03-01T10:10:59Z",
        "counts": {"done": 51},
        "failed": [],
        "unbuilt": [],
        "killed_by": [],
    } | said


def failure(name: str, state: str = "failed", **said: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "node": "lab3", "reason": "exit 1: a number is negative"} | said


def test_a_batch_that_is_done_says_so_how_long_it_took_and_how_to_fetch_it() -> None:
    words = ended(notice())
    assert words.text == "lab/study is done: 51 jobs\n2h10m after ana submitted it\ndistribute pull lab/study"


def test_failures_come_with_node_and_last_line_and_the_rest_as_a_number() -> None:
    failed = [failure("a"), failure("b", "timeout", node="lab1", reason="stopped at its time limit of 1h")]
    words = ended(notice(counts={"done": 3, "timeout": 4, "failed": 1000}, failed=failed))
    assert words.title == "lab/study has ended: 3 done, 1,000 failed, 4 timeout"
    assert words.body.splitlines()[:3] == [
        "a failed on lab3: exit 1: a number is negative",
        "b timeout on lab1: stopped at its time limit of 1h",
        "and 1,002 more",
    ]


def test_when_all_failures_are_told_nothing_more_is_promised() -> None:
    assert "more" not in ended(notice(counts={"failed": 1}, failed=[failure("a")])).body


@pytest.mark.parametrize(
    ("counts", "by", "title"),
    [
        ({"killed": 2}, ["bob"], "lab/study was killed by bob: 2 killed"),
        ({"killed": 2, "done": 1}, ["ana", "bob"], "lab/study was killed by ana and bob: 1 done, 2 killed"),
        ({"killed": 2, "skipped": 1}, [], "lab/study was killed: 2 killed, 1 skipped"),
        ({"killed": 2, "lost": 1}, ["bob"], "lab/study has ended: 1 lost, 2 killed"),
        ({"skipped": 1}, [], "lab/study was killed: 1 skipped"),
        ({}, [], "lab/study is done: 0 jobs"),
    ],
)
def test_the_first_line_says_how_it_ended(counts: dict[str, int], by: list[str], title: str) -> None:
    assert ended(notice(counts=counts, killed_by=by)).title == title


def test_a_batch_that_could_not_be_built_tells_the_builds_in_place_of_its_jobs() -> None:
    unbuilt = [{"node": "lab1", "reason": "exit 2: no compiler"}, {"node": "lab2", "reason": None}]
    words = ended(notice(counts={"failed": 12}, unbuilt=unbuilt))
    assert words.title == "lab/study could not be built on any node: 12 failed"
    assert words.body.splitlines()[:2] == [
        "the build failed on lab1: exit 2: no compiler",
        "the build failed on lab2",
    ]
    assert "more" not in words.body


def test_what_a_job_printed_is_cut_and_plays_no_tricks() -> None:
    words = ended(notice(counts={"failed": 1}, failed=[failure("a", reason="\x1b[2J\nx" + "y" * 10_000)]))
    line = words.body.splitlines()[0]
    assert len(line) == LONGEST
    assert line.endswith("y…")
    assert "\\x1b[2J\\nxy" in line


def test_a_clock_that_was_set_back_makes_no_negative_time() -> None:
    assert "0s after ana" in ended(notice(finished_at="2026-03-01T07:00:00Z")).body


def test_the_table_shows_what_waits_and_why() -> None:
    row = {
        "batch": "lab/study", "finished_at": "2026-03-01T10:10:59Z", "to": None, "state": "waiting", "tries": 3,
        "next_at": "2026-03-01T10:20:00Z", "ended_at": None, "trouble": "it is\ndown",
    }  # fmt: skip
    head, line = messages_table([row], 0.0).splitlines()
    assert head.split() == ["BATCH", "ENDED", "TO", "STATE", "TRIES", "NEXT", "TROUBLE"]
    assert line.split()[0] == "lab/study"
    assert line.endswith("it is\\ndown")


def test_every_test_has_a_line_with_what_came_of_it() -> None:
    trials = [{"to": "mail", "sent": True, "error": None}, {"to": "@a:b", "sent": False, "error": "it is down"}]
    assert trials_text(trials) == "mail  sent\n@a:b  not sent: it is down\n"
