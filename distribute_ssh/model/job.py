"""Batches, jobs, attempts and builds: what they are, and which states may follow which.

Three questions, three fields: *state* (what is), *request* (what somebody wants), *outcome* (how it ended, a state
that is final). The tables here are data: the store refuses every other passage, the tests walk every pair, and the
drawing in `docs/what-happens-when.md` is made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from distribute_ssh.model.resources import Resources, Share


class State(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    HELD = "held"
    STAGING = "staging"
    BUILDING = "building"
    RUNNING = "running"
    PAUSED = "paused"
    ARCHIVING = "archiving"
    DONE = "done"
    FAILED = "failed"
    TIMEOUT = "timeout"
    KILLED = "killed"
    SKIPPED = "skipped"
    LOST = "lost"


S = State

OUTCOMES = frozenset({S.DONE, S.FAILED, S.TIMEOUT, S.KILLED, S.SKIPPED, S.LOST})
"""How a job can have ended."""

WAITING = frozenset({S.QUEUED, S.HELD})
"""No node has anything of the job."""

ACTIVE = frozenset(State) - OUTCOMES - WAITING
"""The job has an attempt on a node."""

TRANSITIONS: Mapping[State, frozenset[State]] = {
    # A batch that nothing can run any more fails its queued jobs; a job killed before it started ends at once.
    S.QUEUED: frozenset({S.HELD, S.STAGING, S.FAILED, S.KILLED, S.SKIPPED}),
    S.HELD: frozenset({S.QUEUED, S.KILLED}),
    # Back to `queued`: the node was lost or could not take the inputs, or the build failed there.
    S.STAGING: frozenset({S.BUILDING, S.RUNNING, S.ARCHIVING, S.QUEUED, S.KILLED, S.LOST}),
    S.BUILDING: frozenset({S.RUNNING, S.ARCHIVING, S.QUEUED, S.KILLED, S.LOST}),
    # `lost` only where the batch says `on_node_loss: wait` and the node came back without the attempt.
    S.RUNNING: frozenset({S.PAUSED, S.ARCHIVING, S.QUEUED, S.LOST}),
    S.PAUSED: frozenset({S.RUNNING, S.ARCHIVING, S.QUEUED, S.LOST}),
    # Back to `queued`: another attempt follows (`max_attempts`), or the node was lost with the results on it.
    S.ARCHIVING: frozenset({S.DONE, S.FAILED, S.TIMEOUT, S.KILLED, S.QUEUED, S.LOST}),
    # An ended job is queued again by `retry`, or by submitting its batch again.
    S.DONE: frozenset({S.QUEUED}),
    S.FAILED: frozenset({S.QUEUED}),
    S.TIMEOUT: frozenset({S.QUEUED}),
    S.KILLED: frozenset({S.QUEUED}),
    S.SKIPPED: frozenset({S.QUEUED}),
    S.LOST: frozenset({S.QUEUED}),
}


class AttemptState(StrEnum):
    """The state of one try of a job on one node."""

    PLACED = "placed"  # a slot is taken; nothing was started
    STARTING = "starting"  # written down before the start is asked for: from here on it may exist on the node
    RUNNING = "running"  # its `pid` file was seen
    ENDED = "ended"  # its exit record was seen; its files wait on the node
    PUBLISHED = "published"  # its results are in storage; the node's copy may go
    STALE = "stale"  # given up; to be stopped and dropped unseen when its node answers
    WIPED = "wiped"  # nothing of it is left on the node


A = AttemptState

ATTEMPT_TRANSITIONS: Mapping[AttemptState, frozenset[AttemptState]] = {
    A.PLACED: frozenset({A.STARTING, A.WIPED}),
    A.STARTING: frozenset({A.RUNNING, A.ENDED, A.STALE, A.WIPED}),
    A.RUNNING: frozenset({A.ENDED, A.STALE}),
    A.ENDED: frozenset({A.PUBLISHED, A.STALE}),
    A.PUBLISHED: frozenset({A.WIPED}),
    A.STALE: frozenset({A.WIPED}),
    A.WIPED: frozenset(),
}


class BuildState(StrEnum):
    """The state of a batch's set-up on one node."""

    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"  # its exit record was seen; its log waits on the node
    BUILT = "built"
    FAILED = "failed"
    STALE = "stale"  # nobody needs it any more; to be stopped and dropped when its node answers
    WIPED = "wiped"


B = BuildState

BUILD_TRANSITIONS: Mapping[BuildState, frozenset[BuildState]] = {
    B.STARTING: frozenset({B.RUNNING, B.ENDED, B.STALE, B.WIPED}),
    B.RUNNING: frozenset({B.ENDED, B.STALE}),
    B.ENDED: frozenset({B.BUILT, B.FAILED, B.STALE}),
    B.BUILT: frozenset({B.STALE, B.WIPED}),
    B.FAILED: frozenset({B.STALE, B.WIPED}),
    B.STALE: frozenset({B.WIPED}),
    B.WIPED: frozenset(),
}


class Request(StrEnum):
    """What somebody wants of a job that is not so yet."""

    KILL = "kill"


class WarnSignal(StrEnum):
    """What a job can ask to be sent some time before its time limit ends it."""

    USR1 = "USR1"
    USR2 = "USR2"
    HUP = "HUP"
    INT = "INT"
    TERM = "TERM"


WARN_SIGNAL = "DISTRIBUTE_WARN_SIGNAL"
"""The variable in a job's environment that names the signal; a job without it is not warned."""

WARN_BEFORE = 60.0
"""Seconds between the warning and the end; half of the time limit, where that is less."""


class OnNodeLoss(StrEnum):
    """What becomes of a job whose node stays silent for longer than `lost_after`."""

    RESCHEDULE = "reschedule"
    WAIT = "wait"


class NodeState(StrEnum):
    """The state of a node."""

    UP = "up"
    UNREACHABLE = "unreachable"
    DRAINED = "drained"
    PAUSED = "paused"
    PROBATION = "probation"


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a build or a job: content in the spool, and its name on the node."""

    alias: str
    sha256: str
    size: int  # bytes
    kind: str = "file"  # "file", or "tree": a tar archive that is unpacked under `alias`
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """One submitted jobs file, as the queue knows it."""

    id: int
    token: str  # names its folder on nodes; never reused
    namespace: str
    batch: str
    submitter: str
    submitted_at: float  # seconds since the epoch
    kind: str  # "python" or "apptainer"
    capabilities: frozenset[str]
    matrix: str | None
    script: Input  # build_file, or the image
    init: tuple[Input, ...]
    mounts: tuple[str, ...]
    build_hash: str  # of everything the build depends on
    env: Mapping[str, str] = field(default_factory=dict)  # of the build; each job has its own, these included
    finished_at: float | None = None
    moved_from: str | None = None  # its folder in storage still has this batch name: it is to be renamed
    recorded_at: float | None = None  # when its record in storage was last written; None: it is due
    notify: tuple[str, ...] = ()  # channels, by name, that are told of its end
    private: bool = False  # its results and logs are for its submitter

    @property
    def name(self) -> str:
        """`NAMESPACE/BATCH`."""
        return f"{self.namespace}/{self.batch}"


@dataclass(frozen=True, slots=True)
class Job:
    """One named run of a batch."""

    id: int
    batch_id: int
    position: int  # in the jobs file, from 0
    name: str
    state: State
    input_hash: str
    script: Input | None
    inputs: tuple[Input, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    time_limit: float | None = None  # seconds
    max_attempts: int = 1
    on_node_loss: OnNodeLoss = OnNodeLoss.RESCHEDULE
    request: Request | None = None
    requested_by: str | None = None
    reason: str | None = None
    attempt: int = 0  # number of the last attempt; 0: none yet
    tries: int = 0  # attempts that ended by themselves since it was last queued by a person: what max_attempts counts
    losses: int = 0  # attempts lost with their node since then
    node: str | None = None
    exit_code: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    not_before: float = 0.0
    resources: Resources | None = None  # None: a whole slot
    slurm: Mapping[str, str | int] | None = None  # what Slurm is told of it

    @property
    def warn_signal(self) -> str | None:
        """What it wants to be sent before its time limit ends it."""
        return self.env.get(WARN_SIGNAL)

    @property
    def warn_before(self) -> float:
        """How many seconds before that; 0 where it wants no warning."""
        return min(WARN_BEFORE, (self.time_limit or 0.0) / 2) if self.warn_signal else 0.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job on a node."""

    id: int
    token: str  # names its folder on the node; random, never reused
    job_id: int
    batch_id: int
    batch_token: str  # of the build it runs in; the batch's own may have changed since
    number: int  # from 1
    node: str
    slot: int  # from 0
    state: AttemptState
    boot_id: str | None = None
    placed_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    exit: str | None = None  # the record: an exit status, "stage", or "lost"
    ending: State | None = None  # why we ended it: `killed` or `timeout`; None: it ended by itself
    paused_seconds: float = 0.0  # by leases on its node; its time limit does not count them
    share: Share | None = None  # what it was given of its node; None: a whole slot


@dataclass(frozen=True, slots=True)
class Build:
    """The once-per-node set-up of a batch."""

    id: int
    token: str  # names its attempt folder on the node
    batch_id: int
    batch_token: str  # names the folder it makes
    node: str
    build_hash: str
    state: BuildState
    boot_id: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit: str | None = None
    reason: str | None = None
    log_kept: bool = False  # what it printed is in storage
