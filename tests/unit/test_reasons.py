"""What a job printed is in no reason that is shown to somebody who may not read its log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distribute_ssh.model.job import Attempt, AttemptState, Job, NodeState, Request, State
from distribute_ssh.plan.eligible import never_reason, refusal
from distribute_ssh.plan.reconcile import GONE, STAGE, after_end
from distribute_ssh.plan.snapshot import NodeView, WorkView
from distribute_ssh.views.reasons import without_output

JOB = Job(1, 1, position=0, name="j", state=State.ARCHIVING, input_hash="", script=None, inputs=(), node="lab1")
ATTEMPT = Attempt(
    1, "q-1", job_id=1, batch_id=1, batch_token="q-0", number=1, node="lab1", slot=0, state=AttemptState.ENDED
)
SECRET = "secret: and more, of it"


@pytest.mark.parametrize("record", [*map(str, range(1, 256)), STAGE, GONE])
def test_no_way_to_end_lets_the_last_line_through(record: str) -> None:
    for job in (JOB, replace(JOB, max_attempts=3), replace(JOB, max_attempts=3, request=Request.KILL)):
        reason = after_end(job, ATTEMPT, record, SECRET, 0.0).reason
        shown = without_output(reason)
        assert shown
        assert "secret" not in shown
        assert reason is not None
        assert reason.startswith(shown)


def test_neither_does_a_build_that_failed() -> None:
    failed = f"exit 1: {SECRET}"
    node = NodeView("lab1", NodeState.UP, frozenset(), 4, 8000, 1, (0,), probed=True, failed={1: failed})
    never = never_reason([node], frozenset(), 1)
    work = WorkView(1, "ns/b", "ana", 0.0, frozenset(), 1, 0, None, 0, 0, None)
    no = refusal(node, work)
    assert never is not None
    assert no is not None
    assert without_output(never.text) == "its build failed on every node that can run it"
    assert without_output(no.text) == "could not build it"


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (None, None),
        ("", ""),
        ("the node was restarted", "the node was restarted"),
        ("killed by ana", "killed by ana"),
        ("stopped at its time limit of 12h", "stopped at its time limit of 12h"),
        ("lab3: no space left on device", "trouble with lab3"),
        ("its node was paused by bob until 18:00: lunch", "its node was paused by bob until 18:00"),
    ],
)
def test_our_own_words_stay(reason: str | None, shown: str | None) -> None:
    assert without_output(reason) == shown
