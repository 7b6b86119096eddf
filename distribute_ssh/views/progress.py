"""A batch as it goes, in plain words: a line for each change, and at the end what became of it and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from distribute_ssh.model.job import ACTIVE, OUTCOMES, State
from distribute_ssh.model.units import format_duration, format_size
from distribute_ssh.views.batches import folded
from distribute_ssh.views.eta import Eta
from distribute_ssh.views.text import count, listed, safe
from distribute_ssh.views.times import seconds

SHOWN_FAILURES = 10


@dataclass(frozen=True, slots=True)
class Passage:
    """A job came into a state."""

    at: float
    job: str
    state: State
    node: str | None = None
    reason: str | None = None
    took: float | None = None  # seconds, of one that ended


@dataclass(frozen=True, slots=True)
class Active:
    """A job that is on a node now."""

    job: str
    state: State
    node: str
    since: float | None  # when it started to run
    remark: str | None = None  # what it waits for where it is


@dataclass(frozen=True, slots=True)
class Moving:
    """Bytes on the line."""

    node: str
    what: str
    done: int
    total: int | None
    rate: float  # bytes/s

    def __str__(self) -> str:
        whole = f" of {format_size(self.total)}" if self.total else ""
        return f"{self.node}  {self.what}  {format_size(self.done)}{whole}  {format_size(round(self.rate))}/s"


@dataclass(frozen=True, slots=True)
class Picture:
    """How far a batch is at one moment."""

    name: str
    now: float
    began: float
    counts: Mapping[str, int]
    active: Sequence[Active] = ()
    moving: Sequence[Moving] = ()
    eta: Eta | None = None
    waits: str | None = None  # why nothing runs, where nothing does
    passages: Sequence[Passage] = field(default_factory=tuple)  # since the picture before

    @property
    def progress(self) -> tuple[int, int]:
        """How many jobs ended, and how many there are."""
        done, running, waiting, failed = folded(self.counts)
        return done + failed, done + running + waiting + failed


def passage_line(passage: Passage, wide: int = 0) -> str:
    """`14:02:11  re_100  running  lab1`; names padded to `wide`."""
    clock = datetime.fromtimestamp(passage.at).strftime("%H:%M:%S")  # noqa: DTZ006  # the reader's own clock
    words = [clock, f"{safe(passage.job):{wide}}", f"{passage.state:9}", passage.node or ""]
    if passage.took is not None:
        words.append(format_duration(passage.took))
    if passage.reason:
        words.append(safe(passage.reason))
    return "  ".join(words).rstrip()


def counts_line(counts: Mapping[str, int]) -> str:
    """`11 done, 4 running, 35 waiting, 1 failed`; what there is none of is left out."""
    done, running, waiting, failed = folded(counts)
    words = {"done": done, "running": running, "waiting": waiting, "failed": failed}
    return ", ".join(f"{number:,} {word}" for word, number in words.items() if number)


def summary(batch: Mapping[str, Any], results: str) -> str:
    """What became of a batch (of a status document, with its jobs): failures first, then the whole, then what next."""
    name = f"{batch['namespace']}/{batch['batch']}"
    failed = [job for job in batch["jobs"] if job["state"] in OUTCOMES - {State.DONE}]
    lines = []
    for job in failed[:SHOWN_FAILURES]:
        where = f" on {job['node']}" if job["node"] else ""
        lines.append(f"{safe(job['name'])}  {job['state']}{where}{_because(job)}")
    if len(failed) > SHOWN_FAILURES:
        lines.append(f"... and {len(failed) - SHOWN_FAILURES:,} more: distribute status {name}")
    done, total = batch["counts"].get(State.DONE, 0), len(batch["jobs"])
    times = [seconds(job["started_at"]) for job in batch["jobs"] if job["started_at"]]
    ends = [seconds(job["finished_at"]) for job in batch["jobs"] if job["finished_at"]]
    took = f" in {format_duration(max(map(float, ends)) - min(map(float, times)))}" if times and ends else ""  # type: ignore[arg-type]
    lines.append(f"{name}: {done:,} of {count(total, 'job')} done{took}")
    lines.append(f"results: {results}")
    if failed:
        lines.append(f"next:    distribute logs {name} {safe(failed[0]['name'])}")
        lines.append(f"         distribute retry {name}")
    else:
        lines.append(f"next:    distribute pull {name}")
    return "\n".join(lines) + "\n"


def _because(job: Mapping[str, Any]) -> str:
    return f": {safe(job['reason'])}" if job["reason"] else ""


def submitted_line(submitted: Mapping[str, Any], jobs: int) -> str:
    """What became of a submission: `demo/sweep: 51 jobs: 12 new, 39 done already`."""
    kinds = {
        "new": submitted["new"],
        "run again": submitted["again"],
        "done already": submitted["kept"],
        "waiting or running already": submitted["going"],
        "dropped": submitted["dropped"],
        "killed first": submitted["stopping"],
    }
    words = ", ".join(f"{number:,} {word}" for word, number in kinds.items() if number)
    line = f"{submitted['name']}: {count(jobs, 'job')}: {words or 'nothing to do'}"
    if submitted["moved_to"]:
        line += f"; the old results are {submitted['moved_to']} now"
    if submitted["kept"] == jobs:
        line += "; --fresh would run them anew"
    if submitted["going"] and not (submitted["new"] or submitted["again"]):
        line += "; it is at work, and nothing was changed"
    return line


def left(name: str, running: Sequence[str], again: str, *, driven: bool) -> str:
    """What goes on without us after Ctrl-C, and how to come back: with the command `again`."""
    lines = [f"{name} stays in the queue" + (f"; {listed(running, 3)} {_goes(running)} on" if running else "")]
    if driven:
        lines.append("another coordinator goes on with it")
    else:
        lines.append("nothing new starts and no results are brought in until the queue is driven again:")
        lines.append("  distribute runner        in the background")
    lines.append(f"  {safe(again)}  to come back")
    lines.append(f"  distribute status {name}")
    return "\n".join(lines)


def _goes(names: Sequence[str]) -> str:
    return "goes" if len(names) == 1 else "go"


def is_waiting_only(counts: Mapping[str, int]) -> bool:
    """Whether jobs wait and none is on a node."""
    _, running, waiting, _ = folded(counts)
    return bool(waiting) and not running


def active_of(jobs: Sequence[Any], silent: Mapping[str, float]) -> list[Active]:
    """The jobs of a batch that are on a node, running ones first, those that started first before others."""
    found = [
        Active(
            job.name,
            job.state,
            job.node or "",
            job.started_at,
            "its node does not answer" if job.node in silent else job.reason if job.state in ACTIVE else None,
        )
        for job in jobs
    ]
    return sorted(found, key=lambda job: (job.state is not State.RUNNING, job.since or 0.0, job.job))
