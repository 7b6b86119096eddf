"""What became of an attempt or a build by evidence, and what becomes of its job."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from distribute_ssh.model.job import (
    ATTEMPT_TRANSITIONS,
    BUILD_TRANSITIONS,
    TRANSITIONS,
    Attempt,
    AttemptState,
    BuildState,
    Job,
    OnNodeLoss,
    Request,
    State,
)
from distribute_ssh.plan.reconcile import (
    GRACE,
    LONGEST_PAUSE,
    MAX_LOSSES,
    PROBATION,
    Judgement,
    Next,
    Sighting,
    Verdict,
    after_end,
    after_loss,
    exit_words,
    is_given_up,
    judge,
    pause,
    probation,
)

NOW = 1_700_000_000.0
BOOT, OTHER_BOOT = "boot-1", "boot-2"
SEEN = ("absent", "unstarted", "claimed", "running", "ended", "gone")

# What is decided for every state, sighting (in the order of SEEN), and boot. `claimed` is judged after its grace.
TABLE = {
    "placed": "keep keep keep keep keep keep",
    "starting": "start start lost started ended lost",
    "running": "lost lost lost keep ended lost",
    "ended": "lost keep keep keep keep keep",
    "built": "lost keep keep keep keep keep",
    "failed": "dropped keep keep keep keep keep",
    "published": "dropped keep keep keep keep keep",
    "stale": "dropped stop stop stop stop stop",
    "wiped": "keep stop stop stop stop stop",
}
AFTER_RESTART = TABLE | {"starting": "lost start lost started ended lost"}
STATES: list[AttemptState | BuildState] = [*AttemptState, *BuildState]
EVERY = list(itertools.product(STATES, SEEN))


def sighting(seen: str, exit_record: str | None = None) -> Sighting | None:
    if seen == "absent":
        return None
    record = exit_record or ("3" if seen == "ended" else None)
    return Sighting("q-token", seen, record)  # type: ignore[arg-type]


def judged(
    state: AttemptState | BuildState,
    seen: str,
    *,
    boot: str | None = BOOT,
    node_boot: str = BOOT,
    age: float = GRACE + 1,
) -> Judgement:
    return judge(state, boot, sighting(seen), node_boot_id=node_boot, since=NOW - age, now=NOW)


# --- judge ---


@pytest.mark.parametrize("node_boot", [BOOT, OTHER_BOOT])
@pytest.mark.parametrize(("state", "seen"), EVERY)
def test_every_state_and_sighting_has_its_verdict(state: AttemptState | BuildState, seen: str, node_boot: str) -> None:
    table = TABLE if node_boot == BOOT else AFTER_RESTART
    expected = table[state.value].split()[SEEN.index(seen)]
    found = judged(state, seen, node_boot=node_boot)
    assert found.verdict == expected
    assert (found.exit is not None) == (expected == "ended")
    assert (found.reason is not None) == (expected == "lost")


@pytest.mark.parametrize("node_boot", [BOOT, OTHER_BOOT])
@pytest.mark.parametrize(("state", "seen"), EVERY)
def test_no_verdict_asks_for_a_change_of_state_that_is_not_allowed(
    state: AttemptState | BuildState, seen: str, node_boot: str
) -> None:
    allowed = ATTEMPT_TRANSITIONS[state] if isinstance(state, AttemptState) else BUILD_TRANSITIONS[state]
    wanted = {"started": "running", "ended": "ended", "lost": "stale", "dropped": "wiped"}
    verdict = judged(state, seen, node_boot=node_boot).verdict
    if verdict in wanted:
        assert wanted[verdict] in {follower.value for follower in allowed}


@pytest.mark.parametrize(
    "state", [AttemptState.STARTING, AttemptState.RUNNING, BuildState.STARTING, BuildState.RUNNING]
)
def test_a_claim_without_pid_is_given_time_to_become_a_process_or_a_record(state: AttemptState | BuildState) -> None:
    assert judged(state, "claimed", age=0).verdict is Verdict.KEEP
    assert judged(state, "claimed", age=GRACE).verdict is Verdict.KEEP
    assert judged(state, "claimed", age=GRACE + 0.1) == Judgement(Verdict.LOST, reason="its wrapper was killed")
    assert judged(state, "claimed", age=0, boot=None).verdict is Verdict.KEEP


def test_a_claim_from_before_a_restart_gets_no_time() -> None:
    found = judged(AttemptState.STARTING, "claimed", age=0, node_boot=OTHER_BOOT)
    assert found == Judgement(Verdict.LOST, reason="the node was restarted")


@pytest.mark.parametrize(
    ("seen", "node_boot", "reason"),
    [
        ("gone", BOOT, "its wrapper was killed"),
        ("absent", BOOT, "its folder is gone from the node"),
        ("unstarted", BOOT, "its folder is gone from the node"),
        ("gone", OTHER_BOOT, "the node was restarted"),
        ("absent", OTHER_BOOT, "the node was restarted"),
    ],
)
def test_a_loss_says_what_happened_to_the_node_or_to_the_attempt(seen: str, node_boot: str, reason: str) -> None:
    assert judged(AttemptState.RUNNING, seen, node_boot=node_boot).reason == reason


@pytest.mark.parametrize("record", ["0", "1", "255", "stage", "lost"])
@pytest.mark.parametrize("node_boot", [BOOT, OTHER_BOOT])
def test_an_exit_record_is_believed_even_after_a_restart(record: str, node_boot: str) -> None:
    found = judge(
        AttemptState.RUNNING, BOOT, sighting("ended", record), node_boot_id=node_boot, since=NOW - 9_000, now=NOW
    )
    assert found == Judgement(Verdict.ENDED, exit=record)


@pytest.mark.parametrize("record", ["", "256", "-1", "07", "+7", "1e2", "\u0663", "rm -rf", " 0", None])
def test_a_malformed_exit_record_counts_as_none(record: str | None) -> None:
    malformed = Sighting("q-token", "ended", record)
    found = judge(AttemptState.RUNNING, BOOT, malformed, node_boot_id=BOOT, since=NOW, now=NOW)
    assert found == Judgement(Verdict.LOST, reason="its wrapper was killed")


def test_a_start_whose_claim_a_restart_may_have_erased_is_not_asked_for_again() -> None:
    assert judged(AttemptState.STARTING, "absent", node_boot=OTHER_BOOT).verdict is Verdict.LOST
    assert judged(AttemptState.STARTING, "absent", node_boot=OTHER_BOOT, boot=None).verdict is Verdict.START
    assert judged(AttemptState.STARTING, "unstarted", node_boot=OTHER_BOOT).verdict is Verdict.START


# --- after an attempt ---

JOB = Job(1, 1, position=0, name="re400", state=State.ARCHIVING, input_hash="", script=None, inputs=(), node="lab1")
ATTEMPT = Attempt(
    id=1,
    token="q-token",
    job_id=1,
    batch_id=1,
    batch_token="q-batch",
    number=1,
    node="lab1",
    slot=0,
    state=AttemptState.ENDED,
)


def ended(record: str, last_line: str | None = None, *, ending: State | None = None, **job: object) -> Next:
    return after_end(replace(JOB, **job), replace(ATTEMPT, ending=ending), record, last_line, NOW)  # type: ignore[arg-type]


def test_exit_0_is_done() -> None:
    assert ended("0") == Next(State.DONE)


def test_another_exit_status_fails_the_job_and_says_its_last_line() -> None:
    assert ended("3", "mesh has holes") == Next(State.FAILED, "exit 3: mesh has holes")
    assert ended("3") == Next(State.FAILED, "exit 3")


def test_a_job_with_tries_left_is_tried_again_after_a_growing_pause() -> None:
    first = ended("3", max_attempts=3)
    assert first == Next(State.QUEUED, "exit 3", NOW + 2)
    assert first.count_try
    assert not first.count_loss
    assert ended("3", max_attempts=3, tries=1) == Next(State.QUEUED, "exit 3", NOW + 4)
    assert ended("3", max_attempts=3, tries=2).state is State.FAILED


def test_pauses_double_up_to_five_minutes_and_stay_there() -> None:
    assert [pause(n) for n in range(9)] == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert pause(100_000) == LONGEST_PAUSE


@pytest.mark.parametrize("record", ["0", "3", "137", "stage", "lost"])
def test_what_we_ended_is_killed_or_timed_out_whatever_its_exit_record_says(record: str) -> None:
    killed = ended(record, ending=State.KILLED, requested_by="ben", max_attempts=9)
    assert killed == Next(State.KILLED, "killed by ben", count_try=False)
    timeout = ended(record, ending=State.TIMEOUT, time_limit=5_400.0, max_attempts=9)
    assert timeout == Next(State.TIMEOUT, "stopped at its time limit of 1h30m", count_try=False)


def test_inputs_that_could_not_be_put_in_place_are_no_try_of_the_job_and_never_its_end() -> None:
    first = ended("stage", "No space left on device")
    why = "its inputs could not be put in place on lab1: No space left on device"
    assert first == Next(State.QUEUED, why, NOW + 2, count_try=False)
    assert ended("stage", losses=50) == Next(
        State.QUEUED, "its inputs could not be put in place on lab1", NOW + 2, count_try=False
    )


def test_an_attempt_that_was_found_without_its_wrapper_is_a_loss() -> None:
    assert ended("lost") == after_loss(JOB, "its wrapper was killed", NOW)


@pytest.mark.parametrize("record", ["3", "stage"])
def test_a_job_that_is_to_be_killed_is_not_tried_again(record: str) -> None:
    follow = ended(record, request=Request.KILL, max_attempts=9)
    assert follow.state is State.KILLED
    assert follow.not_before == 0
    assert follow.reason is not None
    assert follow.reason.startswith("killed instead of tried again: ")
    assert ended("0", request=Request.KILL).state is State.DONE


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, "exit 1"),
        (127, "exit 127"),
        (128, "exit 128"),
        (137, "exit 137, killed by signal 9 (KILL), perhaps for lack of memory"),
        (139, "exit 139, killed by signal 11 (SEGV)"),
        (143, "exit 143, killed by signal 15 (TERM)"),
        (255, "exit 255"),
    ],
)
def test_exit_statuses_that_shells_use_for_signals_are_named(status: int, words: str) -> None:
    assert exit_words(status) == words


def test_a_lost_job_is_queued_again_after_a_pause_and_not_charged_with_a_try() -> None:
    follow = after_loss(JOB, "lab1: the node was restarted", NOW)
    assert follow == Next(State.QUEUED, "lab1: the node was restarted", NOW + 2, count_try=False, count_loss=True)


def test_a_job_that_was_lost_too_often_is_not_tried_again() -> None:
    assert after_loss(replace(JOB, losses=MAX_LOSSES - 1), "gone", NOW).state is State.QUEUED
    assert after_loss(replace(JOB, losses=MAX_LOSSES), "gone", NOW) == Next(
        State.LOST, "gone; not tried again, as this happened 6 times", count_try=False, count_loss=True
    )


def test_a_job_that_shall_wait_for_its_node_or_be_killed_is_lost_with_it() -> None:
    waits = after_loss(replace(JOB, on_node_loss=OnNodeLoss.WAIT), "gone", NOW)
    assert (waits.state, waits.reason) == (State.LOST, "gone; not tried again, as on_node_loss is `wait`")
    killed = after_loss(replace(JOB, request=Request.KILL), "gone", NOW)
    assert (killed.state, killed.reason) == (State.LOST, "gone; not tried again, as it was to be killed")


@pytest.mark.parametrize("state", [State.STAGING, State.BUILDING, State.RUNNING, State.PAUSED, State.ARCHIVING])
@pytest.mark.parametrize("request_", [None, Request.KILL])
@pytest.mark.parametrize("losses", [0, MAX_LOSSES])
def test_a_loss_leads_only_where_a_job_may_go(state: State, request_: Request | None, losses: int) -> None:
    job = replace(JOB, state=state, request=request_, losses=losses)
    assert after_loss(job, "gone", NOW).state in TRANSITIONS[state]


@pytest.mark.parametrize("record", ["0", "3", "137", "stage", "lost"])
@pytest.mark.parametrize("ending", [None, State.KILLED, State.TIMEOUT])
@pytest.mark.parametrize("max_attempts", [1, 2])
def test_an_end_leads_only_where_an_archived_job_may_go(record: str, ending: State | None, max_attempts: int) -> None:
    assert ended(record, ending=ending, max_attempts=max_attempts).state in TRANSITIONS[State.ARCHIVING]


# --- silence, and nodes that cannot build ---


def test_a_silent_node_is_given_up_only_after_lost_after_and_only_where_the_job_allows_it() -> None:
    assert not is_given_up(OnNodeLoss.RESCHEDULE, NOW - 900, 900, NOW)
    assert is_given_up(OnNodeLoss.RESCHEDULE, NOW - 901, 900, NOW)
    assert not is_given_up(OnNodeLoss.WAIT, NOW - 90_000, 900, NOW)


def test_a_node_where_three_batches_in_a_row_failed_that_build_elsewhere_is_put_on_probation() -> None:
    assert probation([1, 2], {1, 2}, NOW) is None
    assert probation([1, 2, 3], {1, 2, 3}, NOW) == NOW + PROBATION


def test_the_latest_batch_counts_though_nobody_knows_yet_whether_it_builds_elsewhere() -> None:
    assert probation([1, 2, 3], {1, 2}, NOW) == NOW + PROBATION
    assert probation([1, 2, 3], {1}, NOW) is None


def test_batches_that_fail_everywhere_and_repetitions_do_not_speak_against_a_node() -> None:
    assert probation([1, 2, 3, 4, 5], set(), NOW) is None
    assert probation([1, 1, 1, 2], {1, 2}, NOW) is None
    assert probation([], {1, 2, 3}, NOW) is None
