"""Batches and jobs for the tests of the store."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from distribute_ssh.model.job import Attempt, AttemptState, Input, Job, State
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.submission import NewJob, Submission, Submitted, submit

NOW = 1_795_000_000.0


def blob(text: str) -> Input:
    return Input(alias=f"{text}.dat", sha256=hashlib.sha256(text.encode()).hexdigest(), size=len(text))


def new_job(name: str, version: str = "1", **fields: Any) -> NewJob:
    return NewJob(name, blob("run"), (blob(name + version),), input_hash=f"{name}-{version}", **fields)


def submission(*jobs: NewJob | str, batch: str = "study", **fields: Any) -> Submission:
    made = Submission(
        namespace="lab",
        batch=batch,
        kind="python",
        capabilities=frozenset({"gcc", "python3"}),
        matrix=None,
        script=blob("build"),
        init=(blob("mesh"),),
        mounts=(),
        build_hash="build-1",
        source="meta: {}\n",
        jobs=[new_job(job) if isinstance(job, str) else job for job in jobs],
    )
    return replace(made, **fields)


def submitted(queue: Queue, *jobs: NewJob | str, now: float = NOW, **fields: Any) -> Submitted:
    options: dict[str, Any] = {key: fields.pop(key) for key in ("fresh", "replace", "who") if key in fields}
    return submit(queue, submission(*jobs, **fields), now=now, **({"who": "ann"} | options))


def the_job(queue: Queue, batch_id: int, name: str) -> Job:
    job = queue.job(batch_id, name)
    assert job is not None
    return job


def placed(queue: Queue, job_id: int, node: str = "n1", slot: int = 0, now: float = NOW) -> Attempt:
    with queue.transaction() as change:
        attempt = change.place(job_id, queue.new_token(), node, slot, now)
    assert attempt is not None
    return attempt


ROADS: dict[State, tuple[State, ...]] = {
    State.QUEUED: (),
    State.HELD: (State.HELD,),
    State.STAGING: (State.STAGING,),
    State.BUILDING: (State.STAGING, State.BUILDING),
    State.RUNNING: (State.STAGING, State.RUNNING),
    State.PAUSED: (State.STAGING, State.RUNNING, State.PAUSED),
    State.ARCHIVING: (State.STAGING, State.RUNNING, State.ARCHIVING),
    State.DONE: (State.STAGING, State.RUNNING, State.ARCHIVING, State.DONE),
    State.FAILED: (State.STAGING, State.RUNNING, State.ARCHIVING, State.FAILED),
    State.TIMEOUT: (State.STAGING, State.RUNNING, State.ARCHIVING, State.TIMEOUT),
    State.KILLED: (State.KILLED,),
    State.SKIPPED: (State.SKIPPED,),
    State.LOST: (State.STAGING, State.LOST),
}
"""How a queued job legally comes to be in each state."""


def brought(queue: Queue, job_id: int, state: State, now: float = NOW) -> None:
    """Walk a queued job to a state, with an attempt where it needs one."""
    at = State.QUEUED
    for step in ROADS[state]:
        if step is State.STAGING:
            attempt = placed(queue, job_id, node=f"n{job_id}", now=now)
        else:
            fields: dict[str, Any] = {"started_at": now} if step is State.RUNNING else {}
            with queue.transaction() as change:
                assert change.job(job_id, at, step, now, **fields)
        at = step
    if at in (State.DONE, State.FAILED, State.TIMEOUT):
        steps = [AttemptState.STARTING, AttemptState.RUNNING, AttemptState.ENDED, AttemptState.PUBLISHED]
        before = AttemptState.PLACED
        for following in [*steps, AttemptState.WIPED]:
            with queue.transaction() as change:
                assert change.attempt(attempt.id, before, following, now)
            before = following
