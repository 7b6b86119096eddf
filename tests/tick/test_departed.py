"""A node that left the inventory, or was switched off in it: its jobs run to their end, and it gets no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh.coordination.departed import GONE, entry_of, holding, remember, with_departed
from distribute_ssh.coordination.evidence import Lost
from distribute_ssh.coordination.snapshot import snapshot
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import NodeState, State
from tests.store.makes import submitted
from tests.tick.made import Ticks, entry


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    """A job runs on n1, which then leaves the inventory."""
    made = Ticks(tmp_path, replace(entry("n1"), env={"A": "b"}, gpus=(0, 2), user="ana", port=2222), entry("n2"))
    submitted(made.queue, "a")
    made.connect("n1")
    made.run("a")
    yield made
    made.queue.close()


def leave(ticks: Ticks, *names: str) -> None:
    kept = tuple(each for each in ticks.inventory.nodes if each.name not in names)
    ticks.inventory = with_departed(ticks.queue, replace(ticks.inventory, nodes=kept))


def test_what_the_inventory_said_last_is_kept_as_it_was(ticks: Ticks) -> None:
    assert entry_of(ticks.queue.nodes()["n1"]) == ticks.inventory.nodes[0]
    changed = replace(ticks.inventory, nodes=(NodeEntry("n1", port=22),))
    with ticks.queue.transaction() as change:
        remember(change, ticks.queue.nodes(), changed)
    assert entry_of(ticks.queue.nodes()["n1"]) == NodeEntry("n1", port=22)


def test_a_node_that_left_is_drained_as_long_as_it_holds_something(ticks: Ticks) -> None:
    before = ticks.inventory.nodes[0]
    leave(ticks, "n1", "n2")
    assert ticks.inventory.nodes == (replace(before, enabled=False, reason=GONE),)
    (view,) = snapshot(ticks.queue, ticks.inventory, ticks.now).nodes
    assert (view.state, view.reason) == (NodeState.DRAINED, GONE)
    submitted(ticks.queue, "b", batch="other")
    ticks.tick()
    assert ticks.job("b", "lab/other").state is State.QUEUED
    token = ticks.attempt("a").token
    ticks.see("n1", token, "ended", "0")
    assert ticks.job("a").state is State.ARCHIVING, "its jobs run to their end"


def test_a_node_that_left_with_nothing_on_it_is_gone(ticks: Ticks) -> None:
    leave(ticks, "n2")
    assert [each.name for each in ticks.inventory.nodes] == ["n1"]


def test_a_node_that_left_is_asked_first_before_its_job_is_given_up(ticks: Ticks) -> None:
    leave(ticks, "n1")
    ticks.live.clear()
    ticks.now += 10_000
    ticks.tick()
    assert ticks.job("a").state is State.RUNNING, "nobody listened meanwhile"
    ticks.tick(Lost("n1", "no answer"))
    assert ticks.job("a").state is State.RUNNING
    ticks.now += ticks.inventory.lost_after + 1
    ticks.tick()
    assert ticks.job("a").state is State.QUEUED


def test_a_machine_that_was_scrapped_with_traces_on_it_is_not_waited_for(ticks: Ticks) -> None:
    ticks.live.clear()
    ticks.tick(Lost("n1", "no answer"))
    assert holding(ticks.queue) == {"n1"}, "results are to come"
    ticks.now += ticks.inventory.lost_after + 1
    ticks.tick()
    assert holding(ticks.queue) == set()
    leave(ticks, "n1")
    assert [each.name for each in ticks.inventory.nodes] == ["n2"]
