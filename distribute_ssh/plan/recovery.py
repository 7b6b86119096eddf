"""How far a job was when its queue was lost, from what storage holds of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from distribute_ssh.model.job import OUTCOMES, WAITING, State

NO_FILES = "the queue was lost, and its files with it: submit the batch again, what is done is kept"


BROUGHT_BACK = "brought back from storage; a node may still be at it, and is asked first"


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a job is."""

    state: State
    attempt: int = 0  # number of the last one
    reason: str | None = None
    node: str | None = None
    exit_code: int | None = None
    started_at: float | None = None
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """An attempt whose `job.json` lies in storage."""

    token: str
    job: str
    standing: Standing
    decides: bool  # it lies under its job's own name, and not beside it
    input_hash: str | None = None  # of what it was made from


def standing(told: Standing, input_hash: str, results: Sequence[Result], *, has_files: bool) -> Standing:
    """How far a job is, where `told` is what the batch's record said when it was last written.

    That record is written when a batch begins, is asked for again, and ends; a result that is newer says more. What
    had not ended waits until the nodes have said whether one of them is still at it; its next attempt needs its files.
    """
    last = max([told.attempt, *(result.standing.attempt for result in results)])
    own = next((result for result in results if result.decides), None)
    if own is not None and _is_news(own, told, input_hash):
        return replace(own.standing, attempt=last)
    if told.state in OUTCOMES:
        return replace(told, attempt=last)
    if not has_files:
        return Standing(State.LOST, last, NO_FILES)
    if told.state is State.HELD:
        return Standing(State.HELD, last, told.reason)
    return Standing(State.QUEUED, last, BROUGHT_BACK)


def _is_news(own: Result, told: Standing, input_hash: str) -> bool:
    """Whether a result came after the batch's record was written, and is one of what the batch asks for now."""
    if own.standing.state not in OUTCOMES or own.input_hash not in (None, input_hash):
        return False
    # A waiting job's last attempt was found wanting: somebody asked for another one.
    return own.standing.attempt >= told.attempt + (told.state in WAITING)
