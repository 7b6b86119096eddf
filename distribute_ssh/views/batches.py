"""What `status` shows: batches folded to a line each, or the jobs of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distribute_ssh.model.job import ACTIVE, OUTCOMES, WAITING, State
from distribute_ssh.model.lease import Lease
from distribute_ssh.model.units import format_duration, iso
from distribute_ssh.views.eta import Eta, RunTimes, estimate
from distribute_ssh.views.text import Column, table
from distribute_ssh.views.times import pause_words, seconds, when

_COLOURS: dict[str, str] = {
    **dict.fromkeys(ACTIVE, "cyan"),
    **dict.fromkeys(OUTCOMES, "red"),
    State.DONE: "green",
    State.PAUSED: "yellow",
    State.HELD: "yellow",
    State.SKIPPED: "yellow",
}
BAR = 10

Pauses = Mapping[str, Lease]
"""The nodes that are paused, or asked to be."""


def colour_of(state: str) -> str | None:
    """The colour of a state; the word itself is always there too."""
    return _COLOURS.get(state)


def folded(counts: Mapping[str, int]) -> tuple[int, int, int, int]:
    """How many jobs are done, run, wait, and ended otherwise than well."""

    def those(states: Iterable[State]) -> int:
        return sum(counts.get(state, 0) for state in states)

    return those([State.DONE]), those(ACTIVE), those(WAITING), those(OUTCOMES - {State.DONE})


def bar(part: int, whole: int, width: int = BAR) -> str:
    """`[####      ]`: full only when all of it is there."""
    full = part * width // whole if whole else 0
    return f"[{'#' * full}{' ' * (width - full)}]"


def eta(batch: Mapping[str, Any], elapsed: Sequence[float] | None = None) -> Eta | None:
    """How long a batch of a status document may still take."""
    done, running, waiting, _ = folded(batch["counts"])
    runtime = batch.get("runtime")
    if runtime is None:
        return None
    return estimate(RunTimes(done, runtime["mean"], runtime["stdev"]), running, waiting, elapsed)


def batches_table(status: Mapping[str, Any], now: float, *, width: int | None = None, colour: bool = False) -> str:
    """All batches, oldest first."""
    columns = [
        Column("BATCH", gives=True),
        Column("SUBMITTER", gives=True),
        Column("SUBMITTED"),
        Column("DONE", right=True),
        Column("RUN", right=True),
        Column("WAIT", right=True),
        Column("FAIL", right=True, colour=lambda text: None if text == "0" else "red"),
        Column("TOTAL", right=True),
        Column("PROGRESS"),
        Column("ETA"),
    ]
    rows = []
    for batch in status["batches"]:
        done, running, waiting, failed = folded(batch["counts"])
        total = done + running + waiting + failed
        rows.append(
            [
                f"{batch['namespace']}/{batch['batch']}",
                batch["submitter"],
                when(seconds(batch["submitted_at"]), now),
                *map(str, (done, running, waiting, failed, total)),
                bar(done + failed, total),
                str(eta(batch) or ""),
            ]
        )
    return table(columns, rows, width=width, colour=colour) if rows else ""


def jobs_table(batch: Mapping[str, Any], now: float, *, width: int | None = None, colour: bool = False) -> str:
    """The jobs of one batch, in file order; `unreachable` of it says since when nodes are silent."""
    columns = [
        Column("JOB", gives=True),
        Column("STATE", colour=colour_of),
        Column("NODE", gives=True),
        Column("START"),
        Column("ELAPSED", right=True),
        Column("TRY", right=True),
        Column("REASON", gives=True),
    ]
    silent = batch.get("unreachable", {})
    rows = []
    for job in batch["jobs"]:
        start = seconds(job["started_at"])
        end = seconds(job["finished_at"]) or now
        rows.append(
            [
                job["name"],
                job["state"],
                job["node"] or "",
                when(start, now),
                "" if start is None else format_duration(max(end - start, 0.0)),
                str(job["attempt"] or ""),
                _reason(job, silent, now),
            ]
        )
    return table(columns, rows, width=width, colour=colour)


def _reason(job: Mapping[str, Any], silent: Mapping[str, str], now: float) -> str:
    words = []
    if job.get("request"):
        words.append(f"{job['request']} requested")
    if job["state"] in ACTIVE and job["node"] in silent:
        words.append(f"{job['node']} unreachable since {when(seconds(silent[job['node']]), now)}")
    if job["reason"]:
        words.append(job["reason"])
    return "; ".join(words)


def with_unreachable(status: dict[str, Any], since: Mapping[str, float]) -> dict[str, Any]:
    """Add to every batch which of the nodes that work for it are silent, and since when."""
    for batch in status["batches"]:
        batch["unreachable"] = {name: iso(since[name]) for name in batch.get("nodes", ()) if name in since}
    return status


def pause_reason(state: str, node: str | None, pauses: Pauses, now: float) -> str | None:
    """Until when, by whom and why a paused job is; None for one that is not, or whose node does not say."""
    pause = pauses.get(node or "") if state == State.PAUSED else None
    return None if pause is None else pause_words(pause, now)


def with_pauses(status: dict[str, Any], pauses: Pauses, now: float) -> dict[str, Any]:
    """Add to every batch which of the nodes that work for it are paused, and to its paused jobs the reason."""
    for batch in status["batches"]:
        here = {name: pauses[name] for name in batch.get("nodes", ()) if name in pauses}
        batch["paused"] = {
            name: {"until": iso(pause.until), "by": pause.who, "reason": pause.reason} for name, pause in here.items()
        }
        for job in batch.get("jobs", ()):
            job["reason"] = pause_reason(job["state"], job["node"], here, now) or job["reason"]
    return status
