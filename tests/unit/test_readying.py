"""Which placed attempts are let start after the last look at their node."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from distribute_ssh.coordination import readying
from distribute_ssh.coordination.evidence import NotReady, Staged
from distribute_ssh.coordination.readying import Readying
from distribute_ssh.coordination.work import Ready, Work
from distribute_ssh.model.job import Attempt, AttemptState, Batch, Build, BuildState, Input
from distribute_ssh.model.resources import Share
from distribute_ssh.node.probe import Gpu, Offer
from distribute_ssh.plan.readiness import PATIENCE

GPUS = tuple(Gpu(number, "nvidia", "NVIDIA A100", 40960, f"GPU-{number}") for number in range(2))
OFFER = Offer(16, 64000, GPUS, ("gpu", "python3"), 1)
CALM = "MemTotal: 65536000\nMemAvailable: 63000000\nours 0\nothers 0\n"
THERE = "nvidia-there GPU-0\nnvidia-there GPU-1\nexit nvidia-there 0\n"
HELD = f"{THERE}nvidia-used GPU-0, 77, 2048, /usr/bin/python3\nprocess 77 ann python3\n"


class Node:
    """One that says what a test wants."""

    def __init__(self, *, cluster: bool = False) -> None:
        self.says = CALM
        self.asked: list[str] = []
        self.now = 0.0
        entry: Any = SimpleNamespace(name="n1", env={}, cluster=object() if cluster else None)
        room: Any = SimpleNamespace(link=self, channel=SimpleNamespace(root="/scratch/ours"))
        self.readying = Readying(entry, "abcd1234", room, OFFER)
        self.attempts: list[Ready] = []

    async def run(self, script: str, *, limit: float) -> Any:
        assert limit > 15
        self.asked.append(script)
        return SimpleNamespace(stdout=f"{self.says}end ok\n".encode())

    def add(
        self, share: Share | None, state: AttemptState = AttemptState.PLACED, capabilities: tuple[str, ...] = ()
    ) -> Ready:
        number = len(self.attempts) + 1
        batch = Batch(
            1, "q-b", "n", "b", "ann", 0.0, "python", frozenset(capabilities), None, Input("x", "0" * 64, 1), (), (), ""
        )
        ready = Ready(
            Attempt(number, f"q-{number}", number, 1, "q-b", 1, "n1", number, state, share=share), None, batch
        )
        self.attempts.append(ready)
        self.readying.arrived(ready.attempt.token)
        return ready

    @property
    def work(self) -> Work:
        build = Build(1, "q-build", 1, "q-b", "n1", "", BuildState.BUILT)
        return Work(self.attempts, [(build, self.attempts[0].batch)])

    async def look(self) -> dict[str, str | None]:
        """What came of each attempt that waits: None, or why it cannot start."""
        found = await self.readying.look(self.readying.due(self.work), self.work, set())
        return {
            told.token: None if isinstance(told, Staged) else told.reason
            for told in found
            if isinstance(told, Staged | NotReady)
        }


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node()
    monkeypatch.setattr(readying, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


async def test_a_node_that_hangs_over_the_question_holds_up_only_who_would_start(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(script: str, *, limit: float) -> Any:
        await asyncio.sleep(limit + 60)

    node.add(Share(1))
    monkeypatch.setattr(node, "run", hang)
    monkeypatch.setattr(readying.readiness, "TIME_LIMIT", 0.05)
    assert await node.look() == {"q-1": "did not say within 0.05 s what it has now"}


def test_only_what_is_placed_and_built_is_due(node: Node) -> None:
    ready = node.add(Share(1))
    node.add(Share(1), AttemptState.RUNNING)
    assert node.readying.due(node.work) == [ready]
    assert node.readying.due(Work(node.attempts)) == [], "it is not built: much may happen until then"


def test_who_was_promised_nothing_is_not_looked_at() -> None:
    node, cluster = Node(), Node(cluster=True)
    assert not node.readying.needs_look(node.add(None))
    assert node.readying.needs_look(node.add(Share(1)))
    assert node.readying.needs_look(node.add(None, capabilities=("gpu",)))
    assert not cluster.readying.needs_look(cluster.add(Share(1))), "Slurm looks after its nodes"


async def test_what_is_let_pass_counts_for_the_next_in_the_same_look(node: Node) -> None:
    first, second = node.add(Share(1, 40_000)), node.add(Share(1, 40_000))
    found = await node.look()
    assert found[first.attempt.token] is None
    assert "has 21 GiB of memory free now, and 39.1 GiB are asked for" in str(found[second.attempt.token])
    assert len(node.asked) == 1


async def test_what_runs_was_promised_its_part(node: Node) -> None:
    node.add(Share(1, 40_000), AttemptState.RUNNING)
    ready = node.add(Share(1, 40_000))
    assert await node.look() == {ready.attempt.token: "has 21 GiB of memory free now, and 39.1 GiB are asked for"}


async def test_gpus_are_asked_for_only_where_they_are_given_and_all_that_was_seen_is_told(node: Node) -> None:
    ready = node.add(Share(1))
    assert await node.look() == {ready.attempt.token: None}
    assert "gpus=''" in node.asked[0]
    node.attempts.clear()
    node.says = CALM + HELD
    wants = node.add(Share(1, gpus=(0,)))
    (told,) = await node.readying.look(node.readying.due(node.work), node.work, set())
    assert "gpus=nvidia" in node.asked[1]
    assert told == NotReady(
        "n1", wants.attempt.token, "GPU 0 is used by ann (python3, 2.0 GiB)", {0: "ann (python3, 2.0 GiB)"}, {}
    )


async def test_who_gets_every_gpu_gets_those_that_nobody_else_holds(node: Node) -> None:
    node.says = CALM + HELD
    ready = node.add(None, capabilities=("gpu",))
    assert await node.look() == {ready.attempt.token: None}
    assert node.readying.kept_back(ready.attempt.token) == {0}
    node.readying.forget(())
    assert node.readying.kept_back(ready.attempt.token) == frozenset()


async def test_others_at_work_hold_a_job_up_for_half_an_hour_at_most(node: Node) -> None:
    ready = node.add(Share(16))
    node.says = CALM.replace("others 0", "others 1500")
    busy = "has others at work on 15.0 of its 16 cores, and 16 cores are asked for"
    assert await node.look() == {ready.attempt.token: busy}
    node.now += PATIENCE - 1
    assert await node.look() == {ready.attempt.token: busy}
    node.now += 2
    assert await node.look() == {ready.attempt.token: None}
    node.says = CALM
    await node.look()
    node.says = CALM.replace("others 0", "others 1500")
    assert await node.look() == {ready.attempt.token: busy}, "they had gone meanwhile"


async def test_a_node_that_cannot_be_asked_starts_nothing(node: Node) -> None:
    ready = node.add(Share(1))

    async def cut(script: str, *, limit: float) -> Any:
        return SimpleNamespace(stdout=b"MemTotal: 1\n")

    node.run = cut  # type: ignore[method-assign]
    (told,) = await node.readying.look([ready], node.work, set())
    assert told == NotReady("n1", ready.attempt.token, "could not be asked what it has now", {}, {})
