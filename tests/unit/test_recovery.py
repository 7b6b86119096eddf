"""What becomes of a job when its queue was lost: what storage tells, and which of two records is the newer one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest

from distribute_ssh.errors import NoMatchError, UsageError
from distribute_ssh.model.job import OUTCOMES, State
from distribute_ssh.plan.recovery import Result, Standing, standing
from distribute_ssh.recovery import Found, Plan, plan
from distribute_ssh.store.rows import DEFINITION

HASH = "made-from-this"


def result(state: State, attempt: int, *, decides: bool = True, input_hash: str | None = HASH) -> Result:
    return Result(f"queue1-token{attempt}", "job", Standing(state, attempt, node="lab1"), decides, input_hash)


def became(told: Standing, *results: Result, has_files: bool = True) -> tuple[State, int]:
    found = standing(told, HASH, results, has_files=has_files)
    return found.state, found.attempt


@pytest.mark.parametrize("outcome", sorted(OUTCOMES))
def test_a_result_that_came_after_the_record_was_written_decides(outcome: State) -> None:
    assert became(Standing(State.QUEUED), result(outcome, 1)) == (outcome, 1)
    assert became(Standing(State.RUNNING, 1), result(outcome, 1)) == (outcome, 1)
    assert became(Standing(State.FAILED, 1), result(outcome, 2)) == (outcome, 2)


def test_a_job_that_was_queued_again_after_its_result_came_is_run_again() -> None:
    assert became(Standing(State.QUEUED, 1), result(State.FAILED, 1)) == (State.QUEUED, 1)
    assert became(Standing(State.RUNNING, 2), result(State.FAILED, 1)) == (State.QUEUED, 2)


def test_a_result_of_other_inputs_is_none() -> None:
    assert became(Standing(State.QUEUED), result(State.DONE, 4, input_hash="other")) == (State.QUEUED, 4)
    assert became(Standing(State.QUEUED), result(State.DONE, 4, input_hash=None)) == (State.DONE, 4)


def test_an_outcome_without_a_result_stands() -> None:
    """A job that was killed while it waited has no folder."""
    assert became(Standing(State.KILLED)) == (State.KILLED, 0)


@pytest.mark.parametrize("state", sorted(set(State) - OUTCOMES))
def test_what_had_not_ended_waits_if_its_files_are_here_and_is_lost_if_not(state: State) -> None:
    assert became(Standing(state, 2)) == (State.HELD if state is State.HELD else State.QUEUED, 2)
    assert became(Standing(state, 2), has_files=False) == (State.LOST, 2)
    assert became(Standing(State.DONE, 2), has_files=False) == (State.DONE, 2)


def test_attempts_go_on_counting_from_the_last_one_that_storage_knows_of() -> None:
    aside = [result(State.FAILED, number, decides=False) for number in (3, 5)]
    assert became(Standing(State.QUEUED, 1), *aside) == (State.QUEUED, 5)
    assert became(Standing(State.QUEUED, 1), *aside, result(State.DONE, 4)) == (State.DONE, 5)


# --- batches ---


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cells(*names: str) -> str:
    return json.dumps([[name, sha256(name), 1, "file", False] for name in names])


def found(
    name: str = "lab/study", token: str = "queue1-batch1", at: int = 1, definition: Any = None, **jobs: State
) -> Found:
    rows: list[Mapping[str, Any]] = [
        dict.fromkeys(DEFINITION) | {"name": job, "input_hash": HASH, "script": cells("run"), "inputs": cells(job)}
        for job in jobs
    ]
    made = {
        "batch": {"token": token, "script": cells("build"), "init": cells("mesh")},
        "columns": list(DEFINITION),
        "jobs": [list(row.values()) for row in rows],
    }
    record = {
        "submitted_at": f"2026-11-2{at}T00:00:00Z",
        "finished_at": "2026-11-23T00:00:00Z",
        "jobs": [{"name": job, "state": state} for job, state in jobs.items()],
        "definition": made if definition is None else definition,
    }
    namespace, _, batch = name.partition("/")
    return Found(namespace, batch, record, "meta: {}\n", {})


def planned(*batches: Found, queue: str | None = None, gone: str = "") -> Plan:
    return plan(batches, lambda wanted: wanted != sha256(gone), queue)


def test_the_queue_is_the_one_whose_batches_storage_has() -> None:
    made = planned(found(a=State.DONE, b=State.RUNNING))
    assert made.queue == "queue1"
    assert made.as_data()["batches"] == [{"name": "lab/study", "counts": {"done": 1, "queued": 1}}]
    with pytest.raises(NoMatchError, match="no record of a batch"):
        planned()


def test_of_several_queues_one_has_to_be_said_and_the_batches_of_the_others_are_left_alone() -> None:
    mine, theirs = found(a=State.DONE), found("lab/other", "queue2-batch2", at=2, a=State.DONE)
    with pytest.raises(UsageError, match=r"queue1 \(last: lab/study\), queue2 \(last: lab/other\)"):
        planned(mine, theirs)
    made = planned(mine, theirs, queue="queue2")
    assert [batch.name for batch in made.batches] == ["lab/other"]
    assert "of another queue, queue1" in made.left["lab/study"]


def test_a_batch_whose_folder_was_copied_comes_back_once() -> None:
    made = planned(found(a=State.DONE), found("lab/study-copy", a=State.DONE))
    assert [batch.name for batch in made.batches] == ["lab/study"]
    assert made.left == {"lab/study-copy": "it is a copy of lab/study"}


def test_only_jobs_that_need_what_is_gone_are_lost() -> None:
    jobs = {"a": State.QUEUED, "b": State.QUEUED}

    def states(gone: str) -> dict[str, State]:
        (batch,) = planned(found(**jobs), gone=gone).batches
        return {name: at.state for name, at in batch.standings.items()}

    assert states("a") == {"a": State.LOST, "b": State.QUEUED}
    assert states("mesh") == {"a": State.LOST, "b": State.LOST}


def test_a_batch_is_finished_only_where_nothing_of_it_is_left_to_do() -> None:
    (ended,) = planned(found(a=State.DONE)).batches
    (open_,) = planned(found(a=State.DONE, b=State.QUEUED)).batches
    assert ended.finished_at is not None
    assert open_.finished_at is None


@pytest.mark.parametrize(
    "definition",
    [
        7,
        {},
        {"batch": {}, "columns": [], "jobs": []},
        {"batch": {"token": "../../x", "script": "[]", "init": "[]"}, "columns": list(DEFINITION), "jobs": []},
        {"batch": {"token": "queue1-batch1", "script": "{", "init": "[]"}, "columns": list(DEFINITION), "jobs": []},
        {
            "batch": {
                "token": "queue1-batch1",
                "script": '[["a", "../../../etc/passwd", 1, "file", false]]',
                "init": "[]",
            },
            "columns": list(DEFINITION),
            "jobs": [],
        },
        {
            "batch": {"token": "queue1-batch1", "script": cells("a"), "init": "[]"},
            "columns": list(DEFINITION),
            "jobs": [["../x" for _ in DEFINITION]],
        },
    ],
)
def test_a_definition_that_is_none_of_ours_leaves_its_batch_where_it_is(definition: Any) -> None:
    made = planned(found(a=State.DONE), found("lab/odd", definition=definition))
    assert [batch.name for batch in made.batches] == ["lab/study"]
    assert "lab/odd" in made.left


def test_a_batch_without_a_record_that_can_be_read_is_left_where_it_is() -> None:
    odd = [Found("lab", "none", {}, "", {}), Found("lab", "old", {"jobs": []}, "", {})]
    made = planned(found(a=State.DONE), *odd)
    assert set(made.left) == {"lab/none", "lab/old"}
