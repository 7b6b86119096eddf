"""What is shown of a batch under way: lines that stay, the picture that moves, and the summary at the end."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from distribute_ssh.model.job import State
from distribute_ssh.views import progress
from distribute_ssh.views.eta import RunTimes, estimate
from distribute_ssh.views.live import failure, live
from distribute_ssh.views.progress import Active, Moving, Passage, Picture
from distribute_ssh.views.text import cells
from tests.support.shown import NOW, batch, job

# --- progress ---


def picture(**changes: Any) -> Picture:
    values: dict[str, Any] = {"name": "demo/sweep", "now": NOW, "began": NOW - 130, "counts": {"done": 3, "running": 1}}
    return Picture(**values | changes)


def test_a_passage_is_a_line_with_job_state_node_and_reason() -> None:
    line = progress.passage_line(Passage(NOW, "re\n1", State.FAILED, "lab1", "exit 3: \x1b[2Jno", 65.0), 8)
    assert line.split("  ", 1)[1] == r"re\n1     failed     lab1  1m5s  exit 3: \x1b[2Jno"


def test_the_summary_tells_failures_first_and_ends_with_what_to_type() -> None:
    ended = batch(counts={"done": 1, "failed": 1}, jobs=[job("a"), job("b", "failed", reason="exit 3: no convergence")])
    lines = progress.summary(ended, "/srv/demo/sweep").splitlines()
    assert lines[0] == "b  failed on lab1: exit 3: no convergence"
    assert "demo/sweep: 1 of 2 jobs done in 1m5s" in lines
    assert "results: /srv/demo/sweep" in lines
    assert lines[-2:] == ["next:    distribute logs demo/sweep b", "         distribute retry demo/sweep"]


def test_the_summary_of_a_good_batch_says_where_the_results_are() -> None:
    lines = progress.summary(batch(counts={"done": 1}, jobs=[job("a")]), "/srv/x").splitlines()
    assert lines[-2:] == ["results: /srv/x", "next:    distribute pull demo/sweep"]


def test_a_summary_of_a_thousand_failures_stays_on_one_screen() -> None:
    ended = batch(counts={"failed": 1000}, jobs=[job(str(n), "failed", reason="exit 1") for n in range(1000)])
    text = progress.summary(ended, "/srv/x")
    assert len(text.splitlines()) < 20
    assert "990 more" in text


SUBMITTED = {"name": "d/s", "new": 0, "again": 0, "kept": 0, "going": 0, "dropped": 0, "stopping": 0, "moved_to": None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"new": 3}, "3 jobs: 3 new"),
        ({"kept": 3}, "--fresh would run them anew"),
        ({"going": 2, "kept": 1}, "at work"),
        ({"again": 1, "kept": 2}, "1 run again, 2 done already"),
        ({"new": 3, "moved_to": "d/s@1"}, "the old results are d/s@1 now"),
        ({"new": 3, "stopping": 1}, "1 killed first"),
    ],
)
def test_a_submission_says_what_became_of_it(changes: dict[str, Any], words: str) -> None:
    assert words in progress.submitted_line(SUBMITTED | changes, 3)


def test_who_leaves_is_told_what_goes_on_and_how_to_come_back() -> None:
    alone = progress.left("d/s", ["a", "b"], "distribute run jobs.yaml", driven=False)
    assert "a and b go on" in alone
    assert "distribute runner" in alone
    assert "distribute run jobs.yaml" in alone
    assert "distribute runner" not in progress.left("d/s", ["a"], "distribute run jobs.yaml", driven=True)


# --- live ---


def drawn(shown: Picture, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(live(shown, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_live_view_shows_jobs_bytes_and_the_range_of_the_eta() -> None:
    lines = drawn(
        picture(
            active=[Active("re_100", State.RUNNING, "lab1", NOW - 61)],
            moving=[Moving("lab2", "inputs", 1 << 30, 8 << 30, 100 << 20)],
            eta=estimate(RunTimes(3, 600.0, 60.0), 1, 0, [0.0]),
        ),
        width=120,
    )
    text = "\n".join(lines)
    assert "3/4" in lines[0]
    assert "2m10s" in lines[0]
    assert "ETA 9m-11m (from 3 finished jobs)" in text
    assert "3 done, 1 running" in text
    assert any(line.split() == ["re_100", "running", "lab1", "1m1s"] for line in lines)
    assert "lab2  inputs  1 GiB of 8 GiB  100 MiB/s" in text
    assert "Ctrl-C leaves it running" in lines[-1]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [10, 24, 60])
def test_the_live_view_fits_every_terminal(width: int, height: int) -> None:
    active = [Active(f"a_rather_long_name_of_a_job_{n}", State.RUNNING, f"workstation{n}", NOW) for n in range(200)]
    moving = [Moving(f"workstation{n}", "results", 1, None, 1.0) for n in range(50)]
    lines = drawn(picture(active=active, moving=moving, waits="because " * 90), width, height)
    assert len(lines) <= height
    assert all(cells(line) <= width for line in lines)


def test_jobs_that_do_not_fit_are_counted() -> None:
    active = [Active(f"job{n}", State.RUNNING, "lab1", NOW) for n in range(200)]
    (more,) = [line for line in drawn(picture(active=active)) if "more" in line]
    shown = sum("lab1" in line for line in drawn(picture(active=active)))
    assert more.split() == ["...", "and", str(200 - shown), "more"]


def test_the_live_view_says_why_nothing_runs() -> None:
    assert any("waits: every node is busy" in line for line in drawn(picture(waits="every node is busy")))


def test_nothing_in_the_live_view_is_read_as_markup_or_control() -> None:
    remark = "[bold]\x1b[2Jx"
    lines = drawn(picture(active=[Active("[red]", State.RUNNING, "lab1", None, remark)]))
    assert any("[red]" in line and r"[bold]\x1b[2Jx" in line for line in lines)


def test_only_jobs_that_did_not_end_well_stay_on_the_screen() -> None:
    kept = {state for state in State if failure(Passage(NOW, "a", state)) is not None}
    assert kept == {State.FAILED, State.TIMEOUT, State.KILLED, State.SKIPPED, State.LOST}
