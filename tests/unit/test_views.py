"""What views promise: widths, escapes, counts and words, from plain data."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

import pytest

from distribute_ssh.errors import FileError, HostKeyError, NoMatchError, Problem, UsageError
from distribute_ssh.model.job import State
from distribute_ssh.views import batches, document, explanation, history, machines, plan
from distribute_ssh.views.eta import RunTimes, estimate
from distribute_ssh.views.output import Output
from distribute_ssh.views.text import Column, cells, count, listed, middle, painted, safe, stripped, table
from distribute_ssh.views.times import ago, clock, when
from tests.support.shown import NOW, batch, job

# --- text ---


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "a\nb", "a\rb", "\u202egnp.exe", "\x9b2J", "tab\there"])
def test_foreign_text_on_one_line_holds_nothing_a_terminal_would_obey(text: str) -> None:
    assert safe(text).isprintable()


def test_ordinary_text_stays_as_it_is() -> None:
    assert safe("naïve Jöb 日本 (re=100)") == "naïve Jöb 日本 (re=100)"


def test_output_keeps_lines_tabs_and_colours_and_nothing_else_that_controls() -> None:
    assert stripped("a\tb\n\x1b[1;31mred\x1b[0m\x1b[2J\x1b]0;title\x07\x08\x7f\r!") == (
        "a\tb\n\x1b[1;31mred\x1b[0m[2J]0;title!"
    )


@pytest.mark.parametrize("cut", range(12))
def test_output_in_pieces_is_the_output_in_one(cut: int) -> None:
    data = "ö\x1b[31m日\x1b[0m\n".encode()
    output = Output()
    assert output.feed(data[:cut]) + output.feed(data[cut:]) == data.decode()


def test_a_name_is_cut_in_its_middle_to_the_width() -> None:
    assert middle("re_000100_mesh_64", 9) == "re_0…h_64"
    assert middle("short", 9) == "short"


@pytest.mark.parametrize("width", range(12))
@pytest.mark.parametrize("text", ["re_000100_mesh_64", "日本語のとても長い名前", "e\u0301" * 6])
def test_a_cut_text_never_takes_more_columns_than_it_may(text: str, width: int) -> None:
    assert cells(middle(text, width)) <= width


COLUMNS = [Column("NAME", gives=True), Column("N", right=True), Column("REASON", gives=True)]


def test_a_table_has_a_head_in_capitals_no_borders_and_numbers_to_the_right() -> None:
    assert table(COLUMNS, [["a", "1", "x"], ["bbbbb", "100", ""]]) == "NAME     N  REASON\na        1  x\nbbbbb  100\n"


def test_on_a_pipe_nothing_is_cut() -> None:
    assert "x" * 500 in table(COLUMNS, [["x" * 500, "1", ""]])


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_table_fits_the_terminal_while_its_columns_can_give_way(width: int) -> None:
    text = table(COLUMNS, [["name" * 30, "1234", "reason " * 30], ["日本" * 20, "1", "short"]], width=width)
    assert max(map(cells, text.splitlines())) <= width


def test_columns_that_may_not_give_way_stay_whole_on_any_terminal() -> None:
    assert " 123456 " in table(COLUMNS, [["name" * 30, "123456", "reason " * 30]], width=5)


def test_colours_change_no_width() -> None:
    columns = [Column("STATE", colour=batches.colour_of), Column("X")]
    plain = table(columns, [["done", "1"], ["failed", "2"]])
    coloured = table(columns, [["done", "1"], ["failed", "2"]], colour=True)
    assert "\x1b[31mfailed\x1b[0m  2" in coloured
    assert coloured.replace("\x1b[31m", "").replace("\x1b[32m", "").replace("\x1b[0m", "") == plain


def test_a_cell_cannot_break_its_line() -> None:
    assert table(COLUMNS, [["a\nb", "1", "\x1b[31m"]]).count("\n") == 2


def test_blanks_are_not_painted() -> None:
    assert painted("  ", "red") == "  "


def test_numbers_agree_with_their_word() -> None:
    assert [count(n, "job") for n in (0, 1, 1200)] == ["0 jobs", "1 job", "1,200 jobs"]
    assert count(2, "batch") == "2 batches"


def test_a_long_list_says_how_many_it_leaves_out() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed([str(n) for n in range(10)]) == "0, 1, 2, 3 and 6 more"


# --- times ---


def test_a_time_of_this_week_has_its_weekday_and_an_older_one_its_date() -> None:
    assert when(NOW - 3600, NOW, UTC) == "Tue 13:53"
    assert when(NOW - 30 * 86_400, NOW, UTC) == "2025-02-02"
    assert when(None, NOW, UTC) == ""
    assert clock(NOW, UTC) == "2025-03-04 14:53:20"


def test_what_never_was_is_said_to_be_so() -> None:
    assert (ago(None, NOW), ago(NOW - 61, NOW), ago(NOW + 5, NOW)) == ("never", "1m1s", "0s")


# --- eta ---


def test_there_is_no_eta_before_three_jobs_are_done_nor_while_nothing_runs() -> None:
    assert estimate(RunTimes(2, 10.0, 0.0), 1, 5) is None
    assert estimate(RunTimes(3, 10.0, 0.0), 0, 5) is None
    assert estimate(RunTimes(3, 10.0, 0.0), 1, 5) is not None


def test_an_eta_is_a_range_with_its_basis() -> None:
    eta = estimate(RunTimes(37, 600.0, 60.0), 2, 8, [300.0, 300.0])
    assert eta is not None
    assert (str(eta), eta.basis) == ("40m-50m", "from 37 finished jobs")


def test_an_eta_counts_the_jobs_that_run_side_by_side() -> None:
    one, four = (estimate(RunTimes(9, 100.0, 0.0), n, 100, [0.0] * n) for n in (1, 4))
    assert one is not None
    assert four is not None
    assert one.high == pytest.approx(10_100.0)
    assert four.high == pytest.approx(2_600.0)


def test_the_last_job_to_start_still_takes_its_whole_time() -> None:
    eta = estimate(RunTimes(9, 100.0, 0.0), 10, 1, [90.0] * 10)
    assert eta is not None
    assert eta.low == pytest.approx(110.0)


def test_a_job_that_runs_far_longer_than_the_others_makes_the_eta_overdue() -> None:
    eta = estimate(RunTimes(9, 100.0, 5.0), 1, 0, [300.0])
    assert eta is not None
    assert str(eta) == "0s+"


def test_without_elapsed_times_a_running_job_is_taken_to_be_half_way() -> None:
    eta = estimate(RunTimes(9, 100.0, 0.0), 1, 0)
    assert eta is not None
    assert (eta.low, eta.high, eta.overdue) == (50.0, 50.0, False)


# --- batches ---


def test_every_state_is_counted_in_exactly_one_column() -> None:
    for state in State:
        assert sorted(batches.folded({state: 1})) == [0, 0, 0, 1]


def test_a_batch_is_one_line_with_its_counts_bar_and_eta() -> None:
    head, line = batches.batches_table({"batches": [batch()]}, NOW).splitlines()
    assert head.split() == [
        "BATCH",
        "SUBMITTER",
        "SUBMITTED",
        "DONE",
        "RUN",
        "WAIT",
        "FAIL",
        "TOTAL",
        "PROGRESS",
        "ETA",
    ]
    assert line.split("  ")[0] == "demo/sweep"
    assert [word for word in line.split() if word.isdigit()] == ["5", "3", "3", "2", "13"]
    assert "[#####     ]" in line
    assert line.endswith("1m30s")


def test_the_bar_is_full_only_when_all_is_there() -> None:
    assert batches.bar(99_999, 100_000) == "[######### ]"
    assert batches.bar(100_000, 100_000) == "[##########]"
    assert batches.bar(0, 0) == "[          ]"


def test_no_batches_are_no_table() -> None:
    assert batches.batches_table({"batches": []}, NOW) == ""


def test_a_job_is_one_line_with_its_state_in_words() -> None:
    jobs = [job("a"), job("b", "queued", node=None, attempt=0, started_at=None, finished_at=None, reason="no room")]
    _, done, queued = batches.jobs_table(batch(jobs=jobs), NOW).splitlines()
    assert done.split()[:3] == ["a", "done", "lab1"]
    assert "1m5s" in done
    assert queued.split() == ["b", "queued", "no", "room"]


def test_a_job_on_a_silent_node_keeps_its_state_and_says_since_when_nothing_was_heard() -> None:
    found = batch(jobs=[job("a", "running", finished_at=None)])
    batches.with_unreachable({"batches": [found]}, {"lab1": NOW - 60, "lab2": NOW})
    assert found["unreachable"] == {"lab1": "2025-03-04T14:52:20Z"}
    (_, line) = batches.jobs_table(found, NOW).splitlines()
    assert "running" in line
    assert "lab1 unreachable since" in line


def test_a_request_is_shown_beside_the_state() -> None:
    (_, line) = batches.jobs_table(batch(jobs=[job("a", "running", request="kill")]), NOW).splitlines()
    assert "running" in line
    assert "kill requested" in line


def test_history_is_a_table_that_cuts_no_reason_on_a_pipe() -> None:
    row = {"at": "2025-03-04T14:00:00Z", "job": "a", "node": None, "to": "failed", "who": "ana", "reason": "r" * 300}
    assert "r" * 300 in history.events_table([row], batches=False)


# --- machines ---


def node(**changes: Any) -> dict[str, Any]:
    return {
        "name": "lab1",
        "state": "up",
        "reason": None,
        "capabilities": ["gcc", "python3"],
        "cores": 16,
        "memory_mb": 64 << 10,
        "gpus": [],
        "slots": 2,
        "running": ["demo/sweep/a"],
        "paused_until": None,
        "last_seen": "2025-03-04T14:53:00Z",
        "probed": True,
    } | changes


def test_a_node_is_one_line() -> None:
    head, line = machines.nodes_table([node()], NOW).splitlines()
    assert head.split() == ["NODE", "STATE", "JOBS", "CORES", "MEM", "GPU", "LAST", "SEEN", "REASON", "CAPABILITIES"]
    assert line.split() == ["lab1", "up", "1/2", "16", "64", "GiB", "-", "20s", "gcc,python3"]


def test_what_nobody_asked_a_node_is_not_made_up() -> None:
    _, line = machines.nodes_table([node(probed=False, memory_mb=0, last_seen=None)], NOW).splitlines()
    assert line.split()[3:7] == ["?", "?", "-", "never"]


def test_gpus_are_counted_and_named_where_they_are_all_the_same() -> None:
    assert machines.gpus([{"model": "A100"}, {"model": "A100"}]) == "2x A100"
    assert machines.gpus([{"model": "A100", "used_by": "bob"}, {"model": "A100", "used_by": None}]) == "2x A100, 1 used"
    assert machines.gpus([{"model": "A100"}, {"model": ""}]) == "2x GPU"


def test_a_check_says_what_to_do_about_it() -> None:
    line = machines.check_line("lab1", "scratch", False, "no room", "free some")
    assert line == "lab1  NO  scratch: no room\n    free some\n"
    assert machines.check_line("lab1", "shell", True, "/bin/sh", None) == "lab1  ok  shell: /bin/sh\n"


def test_a_probe_is_a_line_for_each_node() -> None:
    answers = {"lab1": None, "lab10": "no answer\n  try by hand: ssh lab10"}
    assert machines.probed_text(answers) == "lab1   ok\nlab10  no answer\n         try by hand: ssh lab10\n"


# --- plan ---


def test_a_plan_shows_who_fits_and_the_largest_files() -> None:
    text = plan.plan_text(
        {
            "batch": "d/s",
            "jobs": 51,
            "needs": ["gcc", "python3"],
            "resources": [
                {"jobs": 50, "cores": 4, "memory_mb": 16384, "gpus": 1, "gpu_memory_mb": 0, "disk_mb": 0, "nodes": []}
            ],
            "nodes": [
                {"name": "lab1", "fits": True, "missing": []},
                {"name": "lab2", "fits": False, "missing": ["gcc"]},
                {"name": "lab3", "fits": None, "missing": None},
            ],
            "files": 12,
            "bytes": 3 << 30,
            "largest": [{"path": "/x/mesh.dat", "bytes": 2 << 30}],
        }
    )
    lines = [line.split() for line in text.splitlines()]
    assert ["lab1", "yes"] in lines
    assert ["lab2", "no", "gcc"] in lines
    assert ["2", "GiB", "/x/mesh.dat"] in lines
    assert "  50 jobs with 4 cores, 16 GiB of memory, 1 GPU: no node\n" in text
    assert "12 files, 3 GiB" in text


# --- explain ---


def explained(**changes: Any) -> dict[str, Any]:
    return {"batch": "d/s", "driven": True, "counts": {}, "reasons": [], "jobs": []} | changes


def test_a_batch_without_trouble_is_said_to_be_done() -> None:
    assert explanation.batch_text(explained(counts={"done": 3})) == "d/s: all jobs are done\n"


def test_every_node_that_takes_nothing_says_why() -> None:
    reasons = [
        {"code": "nodes-away", "text": "every node is away", "node": None},
        {"code": "drained-node", "text": "is drained: disk", "node": "lab3"},
    ]
    text = explanation.batch_text(explained(counts={"queued": 9}, reasons=reasons))
    assert "d/s: 9 jobs waiting" in text
    assert "  every node is away" in text
    assert "lab3  is drained: disk" in text


def test_a_job_that_waits_on_its_node_says_what_for() -> None:
    waiting = job("a", "archiving", reason="storage is full") | {"request": None}
    text = explanation.batch_text(explained(counts={"archiving": 1}, jobs=[waiting]))
    assert "a  archiving on lab1: storage is full" in text


def test_a_queue_that_nobody_drives_is_the_first_reason() -> None:
    text = explanation.batch_text(explained(counts={"queued": 1}, driven=False))
    assert "distribute runner" in text.splitlines()[1]


def test_a_job_that_failed_shows_its_attempts_and_where_its_output_is() -> None:
    found = explained(
        job=job("a", "failed", reason="exit 1: no") | {"request": None},
        unreachable_since=None,
        attempts=[
            {
                "number": 1,
                "node": "lab1",
                "state": "wiped",
                "exit": "1",
                "given": {"cores": 4, "memory_mb": 0, "gpus": [0, 2], "disk_mb": 0},
                "started_at": "2025-03-04T14:00:00Z",
                "ended_at": "2025-03-04T14:01:00Z",
            }
        ],
    )
    assert explanation.job_text(found, NOW).splitlines() == [
        "a  failed on lab1: exit 1: no",
        "  attempt 1 on lab1: exit 1 after 1m with 4 cores, GPU 0 and 2",
        "  what it printed: distribute logs d/s a",
    ]


def test_a_job_on_a_silent_node_is_not_said_to_be_dead() -> None:
    found = explained(
        job=job("a", "running") | {"request": None}, unreachable_since="2025-03-04T14:00:00Z", attempts=[]
    )
    assert "may well go on" in explanation.job_text(found, NOW)


# --- documents ---


def test_a_document_is_one_line_of_json_with_its_version() -> None:
    text = document.dump(document.document(a="ö\n"))
    assert "\n" not in text
    assert json.loads(text) == {"schema": 1, "a": "ö\n"}


def test_a_name_that_is_no_utf8_does_not_break_the_document() -> None:
    text = document.dump(document.document(name="caf\udce9"))
    text.encode()
    assert json.loads(text)["name"] == "caf\udce9"


@pytest.mark.parametrize(
    ("error", "kind"), [(NoMatchError("x"), "no-match"), (HostKeyError("x"), "host-key"), (UsageError("x"), "usage")]
)
def test_an_error_has_a_kind_that_programs_can_compare(error: UsageError, kind: str) -> None:
    assert document.of_error(error)["error"]["kind"] == kind


def test_the_error_of_a_file_carries_every_problem_with_its_place() -> None:
    error = FileError([Problem("f.yaml", 3, 5, "meta.x", "is unknown", "remove it"), Problem("f.yaml", 1, 1, "", "no")])
    problems = document.of_error(error)["error"]["problems"]
    assert [problem["line"] for problem in problems] == [1, 3]
    assert problems[1] == {
        "file": "f.yaml", "line": 3, "column": 5, "key": "meta.x", "what": "is unknown", "remedy": "remove it",
    }  # fmt: skip
