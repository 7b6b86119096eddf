"""Submitting a batch: what is new, what is kept, what runs again, and what a batch that still works allows.

The same name again is an ordinary act:

* A job that is done and whose inputs are unchanged is kept. New, changed and failed ones run; attempts go on counting.
* Jobs that are no longer in the file leave the batch; history keeps them.
* Other build inputs give the batch a new token, so that every node builds afresh; the old builds become stale.
* A batch that still works (any job waits or is active) is left alone unless what is submitted is what it is already,
  which changes nothing, or `replace` is said. With `replace`, active jobs go on if neither their inputs nor those of
  the build changed. All others are killed, and what was submitted in their place is queued, or nothing is, the moment
  their attempt is over: it waits in the row as its *successor*, because the row still tells what runs now.
* With `fresh`, the old batch is renamed to `BATCH@<time>` and everything runs as a new one. With `replace` as well, a
  batch that still works is killed and renamed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from distribute_ssh.errors import LimitError, UsageError
from distribute_ssh.model.job import ACTIVE, OUTCOMES, WAITING, Input, OnNodeLoss, Request, State
from distribute_ssh.model.resources import Resources
from distribute_ssh.store.change import Change
from distribute_ssh.store.guarded import ANEW, numbered
from distribute_ssh.store.rows import (
    DEFINITION,
    env_text,
    input_text,
    inputs_text,
    names_text,
    one_of,
    resources_text,
    settings_text,
)

if TYPE_CHECKING:
    from distribute_ssh.store.queue import Queue


@dataclass(frozen=True, slots=True)
class NewJob:
    """One job as it is submitted."""

    name: str
    script: Input | None
    inputs: tuple[Input, ...]
    input_hash: str  # of everything its result depends on: while it is the same, a job that is done is kept
    env: Mapping[str, str] = field(default_factory=dict)
    time_limit: float | None = None  # seconds
    max_attempts: int = 1
    on_node_loss: OnNodeLoss = OnNodeLoss.RESCHEDULE
    resources: Resources | None = None  # None: a whole slot
    slurm: Mapping[str, str | int] | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch as it is submitted; names are checked, and all inputs are in the spool."""

    namespace: str
    batch: str
    kind: str  # "python" or "apptainer"
    capabilities: frozenset[str]
    matrix: str | None
    script: Input  # build_file, or the image
    init: tuple[Input, ...]
    mounts: tuple[str, ...]
    build_hash: str  # of everything the build depends on
    source: str  # the jobs file
    jobs: Sequence[NewJob]
    env: Mapping[str, str] = field(default_factory=dict)  # of the build
    notify: tuple[str, ...] = ()  # channels, by name
    private: bool = False

    @property
    def name(self) -> str:
        """`NAMESPACE/BATCH`."""
        return f"{self.namespace}/{self.batch}"


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submission; the numbers are of jobs."""

    batch_id: int
    name: str
    new: int = 0
    again: int = 0  # were here, and run (or wait to run) with new inputs or because they had failed
    kept: int = 0  # are done, and stay so
    going: int = 0  # wait or run already, just as submitted
    dropped: int = 0  # no longer in the file
    stopping: int = 0  # those of `again` and `dropped` whose attempt is killed first
    moved_to: str | None = None  # name the old batch has now


_BATCH = ("kind", "capabilities", "matrix", "notify", "private", "script", "init", "mounts", "env", "build_hash")
_NAME, _HASH = DEFINITION.index("name"), DEFINITION.index("input_hash")

_Definition = tuple[Any, ...]  # the columns DEFINITION of a job, or _BATCH of a batch


def submit(
    queue: Queue,
    submission: Submission,
    *,
    who: str,
    now: float,
    fresh: bool = False,
    replace: bool = False,
    most_waiting: int | None = None,
) -> Submitted:
    """Put a batch into the queue; durable when this returns. The rules are said at the top of this module.

    Raises UsageError, with nothing changed, if the batch still works and `replace` is not said, or if its name differs
    only in upper and lower case from one that is there; DeniedError if it is not theirs to change; LimitError if more
    than `most_waiting` jobs of `who` would then wait in the queue.
    """
    wanted = {job[_NAME].casefold(): job for job in map(_job_definition, count(), submission.jobs)}
    if len(wanted) < len(submission.jobs):
        raise UsageError(f"two jobs of {submission.name} have the same name, upper and lower case aside")
    with queue.transaction() as change:
        submitted = _submit(_Desk(queue, change, submission, wanted, who, now), fresh, replace)
        if most_waiting is not None and (submitted.new or submitted.again):
            check_waiting(change, who, most_waiting)
        return submitted


def check_waiting(change: Change, who: str, most: int) -> None:
    """Raise LimitError, which undoes what was done in this transaction, where too many jobs of somebody wait now."""
    (waiting,) = change.execute(
        f"SELECT coalesce(sum(count), 0) FROM tally JOIN batches ON batches.id = batch_id WHERE submitter = ? AND"
        f" {one_of(WAITING)}",
        (who,),
    ).fetchone()
    if waiting > most:
        raise LimitError(
            f"{waiting:,} jobs of {who} would wait in the queue then, and {most:,} may",
            hint="try again when some of them have ended, with fewer jobs, or ask the administrator of the head",
        )


def _submit(desk: _Desk, fresh: bool, replace: bool) -> Submitted:
    desk.check_spelling()
    submission = desk.submission
    row = desk.change.execute(
        f"SELECT id, {', '.join(_BATCH)} FROM batches WHERE namespace = ? AND batch = ?",
        (submission.namespace, submission.batch),
    ).fetchone()
    if row is None:
        return desk.insert()
    batch_id, *there = row
    desk.change.permit(batch_id)
    found = desk.compare(batch_id, tuple(there))
    if found.works and not replace:
        if fresh or found.differs:
            raise desk.still_working(batch_id)
        # The same again, perhaps because the answer to the first time was lost on the way.
        return Submitted(batch_id, submission.name, kept=found.kept, going=found.going)
    if fresh:
        return desk.insert(moved_to=desk.set_aside(batch_id))
    return desk.resubmit(batch_id, found)


@dataclass(slots=True)
class _Comparison:
    """What a submission means for the jobs that are there, by their numbers and with the definition wanted."""

    rebuild: bool
    differs: bool  # in what is asked for, not in how far it is
    works: bool = False
    kept: int = 0
    going: int = 0
    new: list[_Definition] = field(default_factory=list)
    ended: list[tuple[int, _Definition]] = field(default_factory=list)  # to run again
    waiting: list[tuple[int, _Definition]] = field(default_factory=list)  # with other inputs
    active: list[tuple[int, _Definition | None]] = field(default_factory=list)  # to be killed; None: and dropped
    settings: list[tuple[int, _Definition]] = field(default_factory=list)  # same inputs; other limits or position
    dropped: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Desk:
    """One submission in its transaction."""

    queue: Queue
    change: Change
    submission: Submission
    wanted: Mapping[str, _Definition]  # by name without case
    who: str
    now: float

    def check_spelling(self) -> None:
        """Refuse a name that is there in other letters: it would be another folder, or, on some disks, the same."""
        name = self.submission.name
        row = self.change.execute(
            "SELECT namespace, batch FROM batches WHERE namespace = ?1 AND"
            " (namespace <> ?1 COLLATE BINARY OR (batch = ?2 AND batch <> ?2 COLLATE BINARY)) LIMIT 1",
            (self.submission.namespace, self.submission.batch),
        ).fetchone()
        if row is not None:
            raise UsageError(
                f"{name} and {row[0]}/{row[1]}, which is there, differ in upper and lower case only",
                hint=f"Write it as in {row[0]}/{row[1]}, or take another name.",
            )

    def still_working(self, batch_id: int) -> UsageError:
        """The refusal of a batch that works."""
        rows = self.change.execute(
            "SELECT sum(count), state FROM tally"
            f" WHERE batch_id = ? AND count > 0 AND NOT {one_of(OUTCOMES)} GROUP BY state ORDER BY state",
            (batch_id,),
        )
        return UsageError(
            f"{self.submission.name} is still working ({', '.join(f'{number} {state}' for number, state in rows)})",
            hint="Wait for its end, kill it, or say --replace to go on with what is submitted now.",
        )

    def compare(self, batch_id: int, there: _Definition) -> _Comparison:
        """Look at every job that is there; `there` is the definition of the batch itself."""
        definition = _batch_definition(self.submission)
        found = _Comparison(rebuild=there[-1] != self.submission.build_hash, differs=there != definition)
        new = dict(self.wanted)
        rows = self.change.execute(
            f"SELECT id, state, request, successor, {', '.join(DEFINITION)} FROM jobs WHERE batch_id = ?", (batch_id,)
        )
        for job_id, text, request, successor, *columns in rows:
            state = State(text)
            found.works |= state not in OUTCOMES
            asked: list[Any] | None = columns if successor is None else json.loads(successor)
            wants = new.pop(columns[_NAME].casefold(), None)
            if wants is None:
                found.differs |= asked is not None
                if state not in ACTIVE:
                    found.dropped.append(job_id)
                elif asked is not None:  # else it is on its way out already
                    found.active.append((job_id, None))
                continue
            changed = asked is None or tuple(asked) != wants
            same = asked is not None and (asked[_NAME], asked[_HASH]) == (wants[_NAME], wants[_HASH])
            found.differs |= changed
            if state in OUTCOMES and not (state is State.DONE and same):
                found.ended.append((job_id, wants))
            elif state in WAITING and not same:
                found.waiting.append((job_id, wants))
            elif state in ACTIVE and (request or found.rebuild or not same):
                found.active.append((job_id, wants))
            else:
                found.kept += state is State.DONE
                found.going += state is not State.DONE
                if changed:
                    found.settings.append((job_id, wants))
        found.new.extend(new.values())
        found.differs |= bool(new)
        return found

    def resubmit(self, batch_id: int, found: _Comparison) -> Submitted:
        """Bring the batch that is there to what is submitted."""
        change, now, who = self.change, self.now, self.who
        result = Submitted(
            batch_id,
            self.submission.name,
            new=len(found.new),
            again=len(found.ended) + len(found.waiting) + sum(wants is not None for _, wants in found.active),
            kept=found.kept,
            going=found.going,
            dropped=len(found.dropped) + sum(wants is None for _, wants in found.active),
            stopping=len(found.active),
        )
        if not (found.differs or found.ended or found.active):
            return result
        change.define(found.settings)
        change.define(found.waiting, **ANEW)
        change.move(numbered(job_id for job_id, _ in found.ended), State.QUEUED, now, who, "submitted again", **ANEW)
        change.define(found.ended)
        change.tell(numbered(job_id for job_id, _ in found.active), None, now, who, "kill requested: submitted again")
        change.executemany(
            "UPDATE jobs SET request = ?, requested_by = ?, successor = ? WHERE id = ?",
            ((Request.KILL, who, json.dumps(wants), job_id) for job_id, wants in found.active),
        )
        change.drop(found.dropped, now, who)
        self._insert_jobs(batch_id, found.new)
        columns = ("submitter", "submitted_at", "source", *_BATCH)
        change.execute(
            f"UPDATE batches SET {', '.join(f'{column} = ?' for column in columns)} WHERE id = ?",
            (who, now, self.submission.source, *_batch_definition(self.submission), batch_id),
        )
        if found.rebuild:
            change.execute("UPDATE batches SET token = ? WHERE id = ?", (self.queue.new_token(), batch_id))
        change.reopen(batch_id, rebuild=found.rebuild)
        said = f"{result.new} new, {result.again} to run again, {result.kept} kept, {result.dropped} dropped"
        change.tell_batch(batch_id, now, who, f"submitted again: {said}")
        return result

    def insert(self, moved_to: str | None = None) -> Submitted:
        """Put the batch in as a new one."""
        asked = self.submission
        columns = ("token", "namespace", "batch", "submitter", "submitted_at", "source", *_BATCH)
        values = (self.queue.new_token(), asked.namespace, asked.batch, self.who, self.now, asked.source)
        (batch_id,) = self.change.execute(
            f"INSERT INTO batches ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) RETURNING id",
            values + _batch_definition(asked),
        ).fetchone()
        self._insert_jobs(batch_id, self.wanted.values())
        self.change.tell_batch(batch_id, self.now, self.who, f"submitted: {len(self.wanted)} jobs")
        return Submitted(batch_id, asked.name, new=len(self.wanted), moved_to=moved_to)

    def set_aside(self, batch_id: int) -> str:
        """Give the old batch another name, and kill what still works of it; returns `NAMESPACE/BATCH@<time>`."""
        self.change.request_kill(batch_id, None, self.who, self.now)
        asked = self.submission
        for second in count(int(self.now)):  # a name that is taken was given within this second
            name = time.strftime(f"{asked.batch}@%Y%m%dT%H%M%SZ", time.gmtime(second))
            same = "SELECT 1 FROM batches WHERE namespace = ? AND batch = ?"
            if not self.change.execute(same, (asked.namespace, name)).fetchone():
                break
        self.change.execute(
            # What is set already comes from a time when storage was not reached: its folder has the older name still.
            "UPDATE batches SET moved_from = coalesce(moved_from, batch), batch = ?, recorded_at = NULL WHERE id = ?",
            (name, batch_id),
        )
        self.change.tell_batch(batch_id, self.now, self.who, f"set aside as {name}")
        return f"{asked.namespace}/{name}"

    def _insert_jobs(self, batch_id: int, definitions: Iterable[_Definition]) -> None:
        columns = ("batch_id", "state", *DEFINITION)
        self.change.executemany(
            f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            ((batch_id, State.QUEUED.value, *definition) for definition in definitions),
        )


def _batch_definition(submission: Submission) -> _Definition:
    return (
        submission.kind,
        names_text(submission.capabilities),
        submission.matrix,
        names_text(submission.notify),
        submission.private,
        input_text(submission.script),
        inputs_text(submission.init),
        names_text(submission.mounts),
        env_text(submission.env),
        submission.build_hash,
    )


def _job_definition(position: int, job: NewJob) -> _Definition:
    return (
        position,
        job.name,
        job.input_hash,
        input_text(job.script),
        inputs_text(job.inputs),
        env_text(job.env),
        job.time_limit,
        job.max_attempts,
        job.on_node_loss.value,
        resources_text(job.resources),
        settings_text(job.slurm),
    )
