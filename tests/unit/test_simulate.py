"""The replayed month: a small one, so that its program still works when somebody needs it."""

from __future__ import annotations

import random

import pytest

from benchmarks.simulate import Original, Rule, compare, fifo, lab, month, ours, replay


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("rule", [ours, fifo, Original()], ids=["ours", "fifo", "original"])
def test_every_job_of_the_month_is_done_under_every_rule(rule: Rule, parts: bool) -> None:
    rng = random.Random(1)
    machines, batches = lab(rng, 3), month(rng, 3, parts=parts)
    done = replay(machines, batches, rule)
    assert not done.waiting
    assert set(done.ended) == set(batches)
    assert len(done.waits) == sum(len(batch.jobs) for batch in batches)
    assert min(done.waits) >= 0


def test_a_replay_with_the_same_seed_says_the_same() -> None:
    assert compare([7], 2, parts=True) == compare([7], 2, parts=True)
