"""A queue goes into records and comes back out of them as it was."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distribute_ssh.errors import StoreError
from distribute_ssh.model.job import OnNodeLoss, State
from distribute_ssh.model.resources import Resources
from distribute_ssh.plan.recovery import Result, Standing
from distribute_ssh.store.definition import define, read
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.restoring import Restored, restore
from tests.store.makes import NOW, new_job, submission, submitted

JOBS = (
    "a",
    new_job(
        "b",
        env={"X": "1"},
        time_limit=60.0,
        max_attempts=3,
        on_node_loss=OnNodeLoss.WAIT,
        resources=Resources(2, 1024, 1),
        slurm={"time": "01:00:00", "nodes": 1},
    ),
)
RICH: dict[str, Any] = {"matrix": "@ann:lab.org", "notify": ("desk",), "mounts": ("/data",), "env": {"Y": "2"}}
TOKEN = "queue1-attempt1"


def restored(queue: Queue, batch_id: int, **standings: Standing) -> Restored:
    """A batch of a queue as it comes back from its record, which is text meanwhile."""
    with queue._reading() as select:
        told = json.loads(json.dumps(define(select, batch_id)))
    result = Result(TOKEN, "a", Standing(State.DONE, 1, node="lab1", started_at=1.0, finished_at=2.0), True)
    return Restored("lab", "study", NOW, None, read(told, queue.source(batch_id)), standings, [result])


def test_everything_a_submitter_asked_for_comes_back(queue: Queue, tmp_path: Path) -> None:
    batch_id = submitted(queue, *JOBS, **RICH).batch_id
    before, jobs = queue.batch("lab/study"), queue.jobs(batch_id)
    path = tmp_path / "other" / "queue.db"
    told = restored(queue, batch_id, a=Standing(State.QUEUED), b=Standing(State.QUEUED))
    restore(path, "queue1", [told], who="ann", now=NOW, patience=900)
    with closing(Queue.open(path, check=True)) as again:
        assert again.id == "queue1"
        waiting = [replace(job, not_before=NOW + 900) for job in jobs]  # for the nodes to tell what they are at
        assert (again.batch("lab/study"), again.jobs(batch_id)) == (before, waiting)
        assert again.source(batch_id) == queue.source(batch_id)
        same = submission(*JOBS, **RICH)
        again_submitted = submitted(again, *same.jobs, **RICH, replace=True)
        assert (again_submitted.going, again_submitted.new, again_submitted.again) == (2, 0, 0), "nothing has changed"
        assert again.history()[0].reason == "brought back from storage: 2 queued"


def test_jobs_are_as_far_as_was_told_and_attempts_in_storage_are_known_and_over(queue: Queue, tmp_path: Path) -> None:
    batch_id = submitted(queue, *JOBS).batch_id
    path = tmp_path / "other" / "queue.db"
    done = Standing(State.DONE, 1, "all well", "lab1", 0, 1.0, 2.0)
    told = restored(queue, batch_id, a=done, b=Standing(State.LOST, 2, "gone"))
    restore(path, "queue1", [told], who="ann", now=NOW, patience=900)
    with closing(Queue.open(path)) as again:
        a, b = again.jobs(batch_id)
        assert (a.state, a.attempt, a.reason, a.node, a.exit_code) == (State.DONE, 1, "all well", "lab1", 0)
        assert (a.started_at, a.finished_at) == (1.0, 2.0)
        assert (b.state, b.attempt, b.reason) == (State.LOST, 2, "gone")
        assert again.was_known(TOKEN)
        assert again.live_attempts() == []
        assert again.status()["batches"][0]["counts"] == {"done": 1, "lost": 1}


def test_what_was_in_the_place_of_the_queue_is_put_aside_with_its_journal(queue: Queue, path: Path) -> None:
    told = restored(queue, submitted(queue, "a").batch_id, a=Standing(State.QUEUED))
    other = path.with_name("other.db")
    other.write_bytes(b"rubbish")
    other.with_name("other.db-journal").write_bytes(b"its journal")
    restore(other, "queue1", [told], who="ann", now=NOW, patience=900, aside=path.with_name("other.db.damaged"))
    assert path.with_name("other.db.damaged").read_bytes() == b"rubbish"
    assert path.with_name("other.db.damaged-journal").read_bytes() == b"its journal"
    with closing(Queue.open(other, check=True)) as again:
        assert [batch.name for batch in again.batches()] == ["lab/study"]
    assert other.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", [{"colour": 1}, {"kind": None}, {"x) VALUES (1) --": 1}, {"env": "{"}])
def test_a_record_the_queue_cannot_hold_is_named_and_nothing_is_made_or_put_aside(
    queue: Queue, path: Path, change: dict[str, Any]
) -> None:
    told = restored(queue, submitted(queue, "a").batch_id, a=Standing(State.QUEUED))
    definition = read(
        {"batch": {**told.definition.batch, **change}, "columns": list(told.definition.jobs[0]),
         "jobs": [list(row.values()) for row in told.definition.jobs]}, "",
    )  # fmt: skip
    odd = Restored("lab", "study", NOW, None, definition, told.standings, [])
    other = path.with_name("other.db")
    other.write_bytes(b"rubbish")
    with pytest.raises(StoreError, match="lab/study cannot be brought back"):
        restore(other, "queue1", [odd], who="ann", now=NOW, patience=900, aside=path.with_name("aside"))
    assert other.read_bytes() == b"rubbish"
    assert list(path.parent.glob("*recovering*")) == []
