"""What is nobody's: found when a node connects, and told once it is gone."""

from __future__ import annotations

from pathlib import Path

from distribute_ssh.coordination.evidence import Connected, Swept
from distribute_ssh.node.probe import Facts
from distribute_ssh.plan.reconcile import Sighting
from tests.store.makes import submitted
from tests.tick.made import BOOT, Ticks, entry

UNKNOWN = "anyqueue-unknown00"


def connect(ticks: Ticks, *sightings: Sighting, strays: frozenset[str] = frozenset()) -> dict[str, bool]:
    there = {sighting.token: sighting for sighting in sightings}
    ticked = ticks.tick(Connected("n1", BOOT, Facts(), there, strays))
    return dict(ticked.work["n1"].orphans)


def test_what_the_queue_never_knew_may_hold_a_result_unless_it_never_began(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    ticks.connect("n1")
    assert connect(ticks, Sighting(UNKNOWN, "running")) == {UNKNOWN: True}
    assert connect(ticks, Sighting(UNKNOWN, "ended", "0")) == {UNKNOWN: True}
    assert connect(ticks, Sighting(UNKNOWN, "unstarted")) == {UNKNOWN: False}
    assert connect(ticks, strays=frozenset({UNKNOWN})) == {UNKNOWN: False}
    assert connect(ticks) == {}


def test_a_late_start_of_what_was_given_up_holds_no_result(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    submitted(ticks.queue, "job")
    ticks.connect("n1")
    token = ticks.run("job").token
    assert connect(ticks, Sighting(token, "running")) == {}
    connect(ticks)  # lost
    connect(ticks)  # and wiped
    assert connect(ticks, Sighting(token, "running")) == {token: False}


def test_what_was_swept_is_told_and_forgotten(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    ticks.connect("n1")
    connect(ticks, Sighting(UNKNOWN, "running"))
    assert ticks.tick(Swept("n1", UNKNOWN, "it was ended", None)).work["n1"].orphans == {}
    (line,) = ticks.queue._connection.execute("SELECT batch_id, who, reason FROM history")
    assert line == (None, "distribute", "it was ended")
