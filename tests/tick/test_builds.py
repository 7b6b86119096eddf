"""What a tick makes of builds that were lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh.model.job import AttemptState, State
from distribute_ssh.plan.reconcile import Sighting
from tests.store.makes import submitted
from tests.tick.made import Ticks, entry


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Ticks]:
    """One node that answers."""
    ticks = Ticks(tmp_path, entry("n1"))
    ticks.connect("n1")
    yield ticks
    ticks.queue.close()


def test_a_lost_build_is_cleared_though_a_job_waits_there_for_the_next_one(one: Ticks) -> None:
    submitted(one.queue, "a")
    one.tick()
    (build,) = one.queue.live_builds()
    one.see("n1", build.token, "running")
    one.restart("n1", Sighting(build.token, "gone"))
    one.now += 60
    work = one.tick().work["n1"]
    assert one.attempt("a").state is AttemptState.PLACED, "it is tried there again"
    assert [each.token for each in work.clear] == [build.token]


def test_a_lost_build_is_cleared_though_jobs_of_its_batch_run_elsewhere(tmp_path: Path) -> None:
    ticks = Ticks(tmp_path, entry("n1"))
    ticks.connect("n1")
    submitted(ticks.queue, "a", "b")
    ticks.tick()
    ticks.run("a")
    ticks.inventory = replace(ticks.inventory, nodes=(*ticks.inventory.nodes, entry("n2")))
    ticks.connect("n2")
    (build,) = ticks.queue.live_builds("n2")
    ticks.see("n2", build.token, "running")
    ticks.restart("n2", Sighting(build.token, "gone"))
    assert [each.token for each in ticks.tick().work["n2"].clear] == [build.token]
    assert ticks.job("a").state is State.RUNNING
    ticks.queue.close()
