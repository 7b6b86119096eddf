"""What people are told when a batch has ended, and the table of what was told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distribute_ssh.model.job import OUTCOMES, State
from distribute_ssh.model.units import format_duration, format_size, parse_iso
from distribute_ssh.views.text import Column, cells, count, listed, safe, table
from distribute_ssh.views.times import seconds, when

LONGEST = 300
"""Characters of a line: what a job printed may be anything."""

_ENDS = (State.DONE, State.FAILED, State.TIMEOUT, State.LOST, State.KILLED, State.SKIPPED)
_BROKEN = (State.FAILED, State.TIMEOUT, State.LOST)


@dataclass(frozen=True, slots=True)
class Words:
    """A message: one line that says it, and what there is to say besides."""

    title: str
    body: str

    @property
    def text(self) -> str:
        """All of it."""
        return f"{self.title}\n{self.body}" if self.body else self.title


def words(notice: Mapping[str, Any]) -> Words:
    """The words for what is in the outbox."""
    return storage_low(notice) if "storage" in notice else ended(notice)


def storage_low(notice: Mapping[str, Any]) -> Words:
    """The words for storage that runs low."""
    free, below = format_size(notice["free"]), format_size(notice["below"])
    title = f"storage runs low: {free} left in {safe(notice['storage'])}"
    return Words(title, f"less than {below}; when it is full, results wait on their nodes\ndistribute archive list")


def ended(notice: Mapping[str, Any]) -> Words:
    """The words for a batch that has ended; failures first, the command to fetch its results last."""
    counts: Mapping[str, int] = notice["counts"]
    lines = []
    for build in notice["unbuilt"]:
        lines.append(_line(f"the build failed on {build['node']}", build["reason"]))
    for job in notice["failed"]:
        on = f" on {job['node']}" if job["node"] else ""
        lines.append(_line(f"{job['name']} {job['state']}{on}", job["reason"]))
    # The builds that are told stand for all jobs that none of them let begin.
    rest = sum(counts.get(state, 0) for state in _BROKEN) - len(notice["failed"])
    if notice["failed"] and rest > 0:
        lines.append(f"and {rest:,} more")
    took = max(0.0, parse_iso(notice["finished_at"]) - parse_iso(notice["submitted_at"]))
    lines.append(f"{format_duration(took)} after {safe(notice['submitter'])} submitted it")
    lines.append(f"distribute pull {safe(notice['batch'])}")
    return Words(_title(notice, counts), "\n".join(lines))


def _title(notice: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    batch = safe(notice["batch"])
    said = ", ".join(f"{counts[state]:,} {state}" for state in _ENDS if counts.get(state))
    not_done = {state for state in OUTCOMES - {State.DONE} if counts.get(state)}
    if not not_done:
        return f"{batch} is done: {count(counts.get(State.DONE, 0), 'job')}"
    if notice["unbuilt"]:
        return f"{batch} could not be built on any node: {said}"
    if not_done <= {State.KILLED, State.SKIPPED}:
        by = f" by {listed(notice['killed_by'])}" if notice["killed_by"] else ""
        return f"{batch} was killed{by}: {said}"
    return f"{batch} has ended: {said}"


def _line(what: str, reason: str | None) -> str:
    line = safe(f"{what}: {reason}" if reason else what)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def trial(who: str, head: str) -> Words:
    """The words of a test."""
    said = f"This is a test by {safe(who)} on {safe(head)}. Nothing else happened."
    return Words("distribute can reach you here", said)


def messages_table(messages: Sequence[Mapping[str, Any]], now: float, *, width: int | None = None) -> str:
    """What is in the outbox, oldest first."""
    columns = [
        Column("BATCH", gives=True),
        Column("ENDED"),
        Column("TO", gives=True),
        Column("STATE", colour=lambda text: "red" if text == "given up" else None),
        Column("TRIES", right=True),
        Column("NEXT"),
        Column("TROUBLE", gives=True),
    ]
    rows = [
        [
            each["batch"],
            when(seconds(each["finished_at"]), now),
            each["to"] or "",
            each["state"],
            str(each["tries"]),
            when(seconds(each["next_at"]), now),
            each["trouble"] or "",
        ]
        for each in messages
    ]
    return table(columns, rows, width=width)


def trials_text(trials: Sequence[Mapping[str, Any]]) -> str:
    """What came of each test, a line each."""
    wide = max((cells(safe(each["to"])) for each in trials), default=0)
    return "".join(
        f"{safe(each['to'])}{' ' * (wide - cells(safe(each['to'])))}  "
        + ("sent" if each["sent"] else f"not sent: {safe(each['error'])}")
        + "\n"
        for each in trials
    )
