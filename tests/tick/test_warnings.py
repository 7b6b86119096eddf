"""When a job that asked for it is told that its time limit is near."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute_ssh.coordination.evidence import Leased
from distribute_ssh.model.job import WARN_SIGNAL
from tests.store.makes import new_job, submitted
from tests.tick.made import Ticks, entry


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    """One node that answers, with room for three."""
    made = Ticks(tmp_path, entry("n1", slots=3))
    made.connect("n1")
    yield made
    made.queue.close()


def run(ticks: Ticks, time_limit: float, signal: str | None = "USR1") -> str:
    """A job runs; its attempt."""
    env = {WARN_SIGNAL: signal} if signal else {}
    submitted(ticks.queue, new_job("a", time_limit=time_limit, env=env))
    ticks.tick()
    return ticks.run("a").token


def warned(ticks: Ticks) -> dict[str, str]:
    return dict(ticks.tick().work["n1"].warn)


def test_a_minute_before_the_end_and_not_sooner(ticks: Ticks) -> None:
    token = run(ticks, 3600)
    ticks.now += 3539
    assert warned(ticks) == {}
    assert ticks.tick().next_at == ticks.now + 1
    ticks.now += 1
    assert warned(ticks) == {token: "USR1"}


def test_at_half_of_a_short_limit(ticks: Ticks) -> None:
    token = run(ticks, 10)
    ticks.now += 4.9
    assert warned(ticks) == {}
    ticks.now += 0.1
    assert warned(ticks) == {token: "USR1"}


def test_who_did_not_ask_is_not_told(ticks: Ticks) -> None:
    run(ticks, 3600, None)
    ticks.now += 3599
    assert warned(ticks) == {}


def test_paused_time_does_not_count_and_nobody_is_told_meanwhile(ticks: Ticks) -> None:
    token = run(ticks, 3600)
    ticks.see("n1", token, "running", paused=True)
    ticks.tick(Leased("n1", ticks.lease()))
    ticks.now += 3590
    assert warned(ticks) == {}
    ticks.tick(Leased("n1", None))
    ticks.see("n1", token, "running", paused_seconds=3000.0)
    assert warned(ticks) == {}
    ticks.now += 2950
    assert warned(ticks) == {token: "USR1"}


def test_who_is_ended_already_is_told_nothing_more(ticks: Ticks) -> None:
    run(ticks, 3600)
    ticks.now += 3600
    assert warned(ticks) == {}
