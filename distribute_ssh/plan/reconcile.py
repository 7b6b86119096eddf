"""What became of an attempt or a build, judged by evidence from its node; and what becomes of its job.

Silence is no evidence: nothing here is asked about a node that does not answer, except `is_given_up`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from distribute_ssh.model.job import Attempt, AttemptState, BuildState, Job, OnNodeLoss, Request, State
from distribute_ssh.model.units import format_duration

GRACE = 30.0  # seconds a wrapper may take from its claim to its `pid` file, on a machine that swaps
MAX_LOSSES = 5  # after so many losses in a row it is the job that takes its nodes down
PAUSE = 2.0  # seconds before the second try; doubled for every further one
LONGEST_PAUSE = 300.0
PROBATION = 1800.0  # seconds a node that cannot build gets no work
BUILD_FAILURES = 3  # different batches in a row

STAGE = "stage"
"""The exit record where the inputs could not be put in place."""

GONE = "lost"
"""The exit record of what we ended and found without its wrapper: how it ended nobody knows, what it saved is kept."""

REFUSED = "refused"
"""The exit record of what the node's own queue, Slurm, would not run; what it printed is why."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the folder of an attempt or a build says.

    `unstarted`: nobody claimed it; `claimed`: somebody did, but there is no `pid`; `running`: the process of `pid` is
    there; `ended`: there is an exit record, in `exit`; `gone`: the process is not there, and a second look found no
    exit record either.
    """

    token: str
    state: Literal["unstarted", "claimed", "running", "ended", "gone"]
    exit: str | None = None  # "0" to "255", STAGE, GONE or REFUSED; anything else is as good as no record
    paused: bool = False  # it is there, and stopped by a lease
    paused_seconds: float = 0.0  # that it was paused in all so far
    ending: State | None = None  # somebody beside us ended it, or is to be taken to have: `killed` or `timeout`
    note: str | None = None  # what the node's own queue says of it


class Verdict(StrEnum):
    """What a sighting means."""

    KEEP = "keep"  # as it should be
    START = "start"  # ask for the start, again if need be: two starts are one, as the claim is one mkdir
    STARTED = "started"
    ENDED = "ended"
    LOST = "lost"  # it will never end by itself
    STOP = "stop"  # nobody wants it any more: stop it and drop its files
    DROPPED = "dropped"  # nobody wants it any more, and nothing is left of it


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict; with ENDED the exit record, with LOST the reason."""

    verdict: Verdict
    exit: str | None = None
    reason: str | None = None


V = Verdict

# Attempts and builds share the names of their states. What contradicts a state that was seen (unstarted, though it was
# running) means that somebody tidied up on the node.
_VERDICTS: Mapping[str, tuple[Verdict, Verdict, Verdict, Verdict, Verdict, Verdict]] = {
    # its folder:   absent     unstarted  claimed  running    ended    gone
    "placed":      (V.KEEP,    V.KEEP,    V.KEEP,  V.KEEP,    V.KEEP,  V.KEEP),
    "starting":    (V.START,   V.START,   V.LOST,  V.STARTED, V.ENDED, V.LOST),
    "running":     (V.LOST,    V.LOST,    V.LOST,  V.KEEP,    V.ENDED, V.LOST),
    "ended":       (V.LOST,    V.KEEP,    V.KEEP,  V.KEEP,    V.KEEP,  V.KEEP),
    "built":       (V.LOST,    V.KEEP,    V.KEEP,  V.KEEP,    V.KEEP,  V.KEEP),
    "failed":      (V.DROPPED, V.KEEP,    V.KEEP,  V.KEEP,    V.KEEP,  V.KEEP),
    "published":   (V.DROPPED, V.KEEP,    V.KEEP,  V.KEEP,    V.KEEP,  V.KEEP),
    "stale":       (V.DROPPED, V.STOP,    V.STOP,  V.STOP,    V.STOP,  V.STOP),
    # A start that was under way when we gave up on it may arrive after we found nothing and called it wiped.
    "wiped":       (V.KEEP,    V.STOP,    V.STOP,  V.STOP,    V.STOP,  V.STOP),
}  # fmt: skip
_STATUSES = frozenset(map(str, range(256)))
_SEEN = (None, "unstarted", "claimed", "running", "ended", "gone")


def judge(
    state: AttemptState | BuildState,
    boot_id: str | None,
    sighting: Sighting | None,
    *,
    node_boot_id: str,
    since: float,
    now: float,
) -> Judgement:
    """Judge one attempt or build by what its node, which answers, says about it.

    `boot_id` is the one it was started under (None: not known), `sighting` None that the node has no such folder.
    `since` is since when this may have been so: the latest of the change to `state`, of the last time its start was
    asked for, and of the first look that said the same as this one.
    """
    seen = sighting.state if sighting else None
    if sighting and seen == "ended" and not is_exit_record(sighting.exit):
        seen = "gone"
    verdict = _VERDICTS[state.value][_SEEN.index(seen)]
    was_restarted = boot_id not in (None, node_boot_id)
    if verdict is V.START and seen is None and was_restarted:
        # Where scratch does not outlive a restart, it may have run and its claim may be gone: never start it twice.
        verdict = V.LOST
    if verdict is V.ENDED and sighting:
        return Judgement(verdict, exit=sighting.exit)
    if verdict is not V.LOST:
        return Judgement(verdict)
    if sighting and sighting.note:
        return Judgement(verdict, reason=sighting.note)
    if was_restarted:
        return Judgement(verdict, reason="the node was restarted")
    # A claim without `pid` is a wrapper's first moment, and its last: `pid` becomes the exit record between two looks.
    if seen == "claimed" and now - since <= GRACE:
        return Judgement(V.KEEP)
    if seen in (None, "unstarted"):
        return Judgement(verdict, reason="its folder is gone from the node")
    return Judgement(verdict, reason="its wrapper was killed")


def is_exit_record(text: str | None) -> bool:
    """Whether this is something our scripts write: an exit status, STAGE, GONE or REFUSED. Nodes may say anything."""
    return text in (STAGE, GONE, REFUSED) or (text is not None and text in _STATUSES)


@dataclass(frozen=True, slots=True)
class Next:
    """What becomes of a job after an attempt."""

    state: State
    reason: str | None = None
    not_before: float = 0.0  # when it may be placed again; seconds since the epoch
    count_try: bool = True
    count_loss: bool = False


def after_end(job: Job, attempt: Attempt, exit_record: str, last_line: str | None, now: float) -> Next:
    """What becomes of a job whose attempt ended, by itself or by us (`attempt.ending`), with this exit record.

    `last_line` is the last line it printed, if any.
    """
    if attempt.ending is State.KILLED:
        by = f"killed by {job.requested_by}" if job.requested_by else "cancelled in Slurm, by somebody else than us"
        return Next(State.KILLED, by, count_try=False)
    if attempt.ending is State.TIMEOUT:
        limit = "" if job.time_limit is None else f" of {format_duration(job.time_limit)}"
        return Next(State.TIMEOUT, f"stopped at its time limit{limit}", count_try=False)
    if exit_record == "0":
        return Next(State.DONE)
    if exit_record == GONE:
        return after_loss(job, "its wrapper was killed", now)
    said = f": {last_line}" if last_line else ""
    if exit_record == STAGE:
        # Never the job's fault, and often a full disk: it waits with that reason until somebody makes room. No loss
        # either, or a disk full for an hour would use up what is meant for nodes that die.
        why = f"its inputs could not be put in place on {attempt.node}{said}"
        follow = Next(State.QUEUED, why, now + PAUSE, count_try=False)
    else:
        why = f"Slurm refused it{said}" if exit_record == REFUSED else f"{exit_words(int(exit_record))}{said}"
        if job.tries + 1 >= job.max_attempts:
            return Next(State.FAILED, why)
        follow = Next(State.QUEUED, why, now + pause(job.tries))
    if job.request is Request.KILL:  # asked for when it had just ended by itself
        return replace(follow, state=State.KILLED, reason=f"killed instead of tried again: {why}", not_before=0.0)
    return follow


def after_loss(job: Job, reason: str, now: float) -> Next:
    """What becomes of a job whose attempt will never end: its node lost it, was restarted, or was given up."""
    if job.request is Request.KILL:
        why_not = "it was to be killed"
    elif job.on_node_loss is OnNodeLoss.WAIT:
        why_not = "on_node_loss is `wait`"
    elif job.losses >= MAX_LOSSES:
        why_not = f"this happened {job.losses + 1} times"
    else:
        return Next(State.QUEUED, reason, now + pause(job.losses), count_try=False, count_loss=True)
    return Next(State.LOST, f"{reason}; not tried again, as {why_not}", count_try=False, count_loss=True)


def pause(before: int) -> float:
    """Seconds until the next try, when `before` tries went wrong before this one."""
    return min(LONGEST_PAUSE, PAUSE * 2.0 ** min(before, 32))


# By Linux's numbers: the nodes run it, whatever the head runs.
_SIGNALS = {
    1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 10: "USR1",
    11: "SEGV", 12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 24: "XCPU", 25: "XFSZ", 31: "SYS",
}  # fmt: skip


def exit_words(status: int) -> str:
    """An exit status for people; a shell reports signal n as 128+n."""
    number = status - 128
    if number not in _SIGNALS:
        return f"exit {status}"
    memory = ", perhaps for lack of memory" if _SIGNALS[number] == "KILL" else ""
    return f"exit {status}, killed by signal {number} ({_SIGNALS[number]}){memory}"


def is_given_up(on_node_loss: OnNodeLoss, since: float, lost_after: float, now: float) -> bool:
    """Whether a job on a node that is silent `since` then may be tried elsewhere; `lost_after` in seconds."""
    return on_node_loss is OnNodeLoss.RESCHEDULE and now - since > lost_after


def probation(failures: Sequence[int], built: Collection[int], now: float) -> float | None:
    """Until when a node gets no work because it cannot build; None: it need not be put on probation.

    `failures` are the batches whose builds failed on the node since one succeeded there, the latest last; `built` those
    that were built on some other node. Only they speak against the node, a batch that fails everywhere does not; the
    latest counts unheard, as it had no time to be built elsewhere. When the time has passed the node is on trial
    (`NodeView.trial`): one more failure begins another probation, one success forgives everything.
    """
    blamed = {batch_id for batch_id in failures if batch_id in built or batch_id == failures[-1]}
    return now + PROBATION if len(blamed) >= BUILD_FAILURES else None
