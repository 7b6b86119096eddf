"""`history`: what happened, to whom, since when; and the totals, for people, programs and spreadsheets."""

from __future__ import annotations

import csv
import getpass
import io
from datetime import UTC, datetime

import pytest

from distribute_ssh.model.job import State
from distribute_ssh.model.units import parse_since
from distribute_ssh.store.queue import Queue
from tests.cli.conftest import Call
from tests.endtoend.site import JOB, Site
from tests.store.makes import submitted
from tests.store.test_ledger import ran


@pytest.fixture
def used(queue: Queue, now: float) -> Queue:
    """Ann had 100 s of lab1 yesterday, and bob 50 s of lab2 just now."""
    ann = submitted(queue, "a1", batch="one", who="ann", now=now - 90_000).batch_id
    bob = submitted(queue, "b1", "b2", batch="two", who="bob", now=now - 100).batch_id
    ran(queue, ann, "a1", "lab1", now - 90_000, 100)
    ran(queue, bob, "b1", "lab2", now - 60, 50, State.FAILED)
    return queue


def test_without_a_batch_it_is_of_all_of_them(call: Call, used: Queue) -> None:
    text = call("history").out
    assert "lab/one" in text
    assert "lab/two" in text
    assert text.splitlines()[0].split() == ["WHEN", "BATCH", "JOB", "TO", "NODE", "WHO", "REASON"]
    assert "BATCH" not in call("history", "lab/one").out
    events = call("history", "--json").json
    assert events["batch"] is None
    assert events["history"][0]["batch"] == "lab/one"
    assert {event["node"] for event in events["history"]} == {None, "lab1", "lab2"}


def test_more_lines_than_there_can_be_are_all_of_them(call: Call, used: Queue) -> None:
    assert call("history", "-n", "9" * 30).out == call("history").out


def test_it_can_be_of_one_person_one_node_and_the_last_days(call: Call, used: Queue) -> None:
    def batches(*arguments: str) -> set[str]:
        return {event["batch"] for event in call("history", "--json", *arguments).json["history"]}

    assert batches("--user", "bob") == {"lab/two"}
    assert batches("--node", "LAB1") == {"lab/one"}
    assert batches("--since", "1d") == {"lab/two"}
    assert batches("--since", "3d") == {"lab/one", "lab/two"}
    assert batches("--user", "bob", "--node", "lab1") == set()


def test_totals_are_of_people_and_of_nodes(call: Call, used: Queue) -> None:
    person, ann, bob, _, node, one, two = (line.split() for line in call("history", "--totals").out.splitlines())
    assert person == ["PERSON", "NODE", "TIME", "ATTEMPTS", "DONE", "FAILED"]
    assert ann == ["ann", "1m40s", "1", "1", "0"]
    assert bob == ["bob", "50s", "1", "0", "1"]
    assert node == ["NODE", "NODE", "TIME", "ATTEMPTS", "DONE", "FAILED"]
    assert (one[0], two[0]) == ("lab1", "lab2")
    document = call("history", "--totals", "--json", "--since", "1d").json
    assert document["people"] == [{"name": "bob", "node_seconds": 50.0, "attempts": 1, "jobs": {"failed": 1}}]
    assert document["nodes"] == [{"name": "lab2", "node_seconds": 50.0, "attempts": 1, "jobs": {"failed": 1}}]


def test_csv_is_read_by_a_spreadsheet(call: Call, used: Queue, now: float) -> None:
    with used.transaction() as change:
        found = used.batch("lab/two")
        assert found is not None
        change.request_kill(found.id, ["b2"], 'o"dd, \x1b[31m\nname', now)
    rows = list(csv.DictReader(io.StringIO(call("history", "--csv").out)))
    assert rows[-1]["who"] == 'o"dd, \\x1b[31m\\nname'
    assert rows[-1]["to"] == "killed"
    assert list(rows[0]) == ["at", "batch", "job", "attempt", "node", "from", "to", "who", "reason"]
    totals = list(csv.DictReader(io.StringIO(call("history", "--totals", "--csv").out)))
    assert [(row["of"], row["name"], row["node_seconds"]) for row in totals] == [
        ("person", "ann", "100.0"),
        ("person", "bob", "50.0"),
        ("node", "lab1", "100.0"),
        ("node", "lab2", "50.0"),
    ]
    assert call("history", "--csv", "--json").code == 2


def test_what_cannot_be_is_said(call: Call, used: Queue) -> None:
    assert "is not a time" in call("history", "--since", "whenever").err
    assert call("history", "--since", "2999-01-01").code == 2
    unknown = call("history", "--node", "lab9")
    assert unknown.code == 3
    assert "did you mean lab2 or lab1?" in unknown.err


def test_who_has_no_queue_has_no_history(call: Call, home: object) -> None:
    assert call("history", "--json").json["history"] == []
    assert call("history", "--totals", "--json").json["people"] == []


NOON = datetime(2025, 3, 4, 12, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("2h", NOON - 7200),
        ("7d", NOON - 7 * 86400),
        ("11:30", NOON - 1800),
        ("12:30", NOON + 1800 - 86400),
        ("2025-03-04", NOON - 12 * 3600),
        ("2025-03-04 11:00", NOON - 3600),
        ("2025-03-04T11:00:00+01:00", NOON - 7200),
    ],
)
def test_a_moment_that_has_passed_is_said_as_people_do(text: str, then: float) -> None:
    assert parse_since(text, NOON, UTC) == then


@pytest.mark.parametrize("text", ["", "soon", "2025-13-01", "25:00", "-5m", "2025-03-05"])
def test_what_is_no_such_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="`"):
        parse_since(text, NOON, UTC)


def test_what_really_ran_is_in_the_totals(site: Site) -> None:
    site.local("desk")
    site.do("run", site.batch({"one": JOB, "two": "time.sleep(1)\nsys.exit(3)\n"}), code=1)
    told = site.data("history", "--totals")
    (person,), (node,) = told["people"], told["nodes"]
    assert person["jobs"] == node["jobs"] == {"done": 1, "failed": 1}
    assert (person["name"], node["name"], person["attempts"]) == ("tester", "desk", 2)
    assert 0.5 < person["node_seconds"] < 60


def test_what_was_done_to_a_node_is_told_with_who_did_it(call: Call, queue: Queue) -> None:
    assert call("nodes", "drain", "here", "--reason", "new disk").code == 0
    assert call("nodes", "undrain", "here").code == 0
    told = call("history", "--node", "here", "--json").json["history"]
    assert [(each["node"], each["who"], each["reason"]) for each in told] == [
        ("here", getpass.getuser(), "drained: new disk"),
        ("here", getpass.getuser(), "undrained"),
    ]
    assert [each["batch"] for each in told] == [None, None]
    assert "drained: new disk" in call("history").out
