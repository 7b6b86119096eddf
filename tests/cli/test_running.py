"""`run`, `add`, `runner`, `logs`, `kill`: the real program with this machine as its only node."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.endtoend.site import CHECKOUT, LIMIT, Site
from tests.support.wait import wait_for

SLOW = "print('begun', flush=True)\nnote('begun ' + JOB)\ngate(JOB)\nsave('result', b'x')\nprint('ended')\n"
BAD = "print('before', flush=True)\nraise ValueError('no convergence')\n"


@pytest.fixture
def here(site: Site) -> Site:
    """A site with this machine as its only node."""
    site.local()
    return site


def begun(site: Site, job: str) -> None:
    site.wait(lambda: job in site.notes("begun"), f"{job} has begun")
    site.wait_state(job, "running")


def driver(site: Site) -> int | None:
    """The process that took the queue's lock last."""
    path = site.state / "lock"
    text = path.read_text() if path.exists() else ""
    return int(json.loads(text)["pid"]) if text else None


# --- run ---


def test_run_follows_a_batch_to_its_end_and_says_where_the_results_are(here: Site) -> None:
    command = here.do("run", here.batch(["a", "b"]))
    lines = command.answered().splitlines()
    assert lines[0].startswith("ns/b: 2 of 2 jobs done in ")
    assert lines[1:] == [f"results: {here.results()}", "next:    distribute pull ns/b"]
    assert (here.results("a") / "result").read_text() == "a"
    said = command.said()
    assert "ns/b: 2 jobs: 2 new" in said
    for job in ("a", "b"):
        assert [line for line in said.splitlines() if line.split()[1:3] == [job, "done"]]


def test_run_ends_with_1_and_the_failures_first_when_a_job_failed(here: Site) -> None:
    command = here.do("run", here.batch({"good": {}, "bad": BAD}), code=1)
    lines = command.answered().splitlines()
    assert lines[0] == "bad  failed on here: exit 1: ValueError: no convergence"
    assert "next:    distribute logs ns/b bad" in lines
    assert here.data("explain", "b", "bad")["job"]["exit_code"] == 1
    assert here.do("logs", "b", "bad").answered().startswith("before\nTraceback")
    assert here.do("logs", "b", "bad", "-n", "1").answered() == "ValueError: no convergence\n"


def test_run_as_json_is_one_document(here: Site) -> None:
    found = here.data("run", here.batch(["a"]))
    assert found["submitted"]["new"] == 1
    assert found["results"] == str(here.results())
    assert [(job["name"], job["state"]) for job in found["batch"]["jobs"]] == [("a", "done")]


def test_quiet_prints_the_name_of_the_batch_and_no_chat(here: Site) -> None:
    command = here.do("run", "-q", here.batch(["a"]))
    assert (command.answered(), command.said()) == ("ns/b\n", "")


def test_the_same_file_again_runs_nothing_and_says_why(here: Site) -> None:
    jobs = here.batch(["a"])
    here.do("run", jobs)
    command = here.do("run", jobs)
    assert "1 done already; --fresh would run them anew" in command.said()
    assert here.notes("run") == ["a"]


def test_fresh_runs_all_anew_and_keeps_the_old_results_aside(here: Site) -> None:
    jobs = here.batch(["a"])
    here.do("run", jobs)
    moved = here.data("run", jobs, "--fresh")["submitted"]["moved_to"]
    assert here.notes("run") == ["a", "a"]
    assert (here.storage / moved / "a" / "result").exists()


def test_an_interrupt_leaves_the_batch_running_and_the_same_command_comes_back(here: Site) -> None:
    jobs = here.batch({"slow": SLOW})
    first = here.start("run", jobs)
    begun(here, "slow")
    assert first.interrupt(signal.SIGINT) == 130
    assert "slow goes on" in first.said()
    assert f"distribute run {jobs}" in first.said()
    assert here.states() == {"slow": "running"}
    second = here.start("run", jobs)
    here.wait(lambda: "at work" in second.said(), "the second run follows")
    here.open("slow")
    assert second.end() == 0
    assert here.notes("begun") == ["slow"]


def test_a_termination_leaves_it_too_with_143(here: Site) -> None:
    command = here.start("run", here.batch({"slow": SLOW}))
    begun(here, "slow")
    assert command.interrupt(signal.SIGTERM) == 143


def test_run_looks_on_while_another_drives_and_takes_over_when_it_dies(here: Site) -> None:
    runner = here.start("runner")
    here.wait(lambda: driver(here) == runner.pid, "the runner drives")
    command = here.start("run", here.batch({"slow": SLOW}))
    begun(here, "slow")
    assert driver(here) == runner.pid
    runner.kill()
    here.wait(lambda: driver(here) == command.pid, "run drives")
    here.open("slow")
    assert command.end() == 0
    assert here.notes("begun") == ["slow"]


def test_run_that_looked_on_ends_with_the_batch_of_the_runner(here: Site) -> None:
    runner = here.start("runner")
    here.wait(lambda: driver(here) == runner.pid, "the runner drives")
    here.do("run", here.batch(["a"]))
    assert driver(here) == runner.pid
    assert runner.interrupt(signal.SIGTERM) == 0


# --- plan, no node ---


def test_a_plan_shows_files_and_nodes_and_changes_nothing(here: Site) -> None:
    jobs = here.batch(["a", "b"])
    found = here.data("run", "--plan", jobs)["plan"]
    assert (found["batch"], found["jobs"], found["files"]) == ("ns/b", 2, 2)
    assert found["nodes"] == [{"name": "here", "fits": None, "missing": None}]
    here.do("nodes", "probe")
    text = here.do("run", "--plan", jobs).answered()
    assert ["here", "yes"] in [line.split() for line in text.splitlines()]
    assert here.states() == {}
    assert not (here.state / "spool").exists()


def test_what_no_node_can_run_ends_with_4_once_all_were_asked(here: Site) -> None:
    jobs = here.batch(["a"], meta={"capabilities": ["flux-capacitor"]})
    command = here.do("run", jobs, code=4)
    assert "flux-capacitor" in command.said()
    assert "stays in the queue" in command.said()
    other = here.batch(["a"], name="c", meta={"capabilities": ["flux-capacitor"]})
    refused = here.do("run", other, code=4)
    assert "here has no flux-capacitor" in refused.said()
    assert here.states("c") == {}
    assert here.do("run", "--plan", other, code=4).answered()


def test_a_file_that_is_wrong_submits_nothing_and_shows_every_problem(here: Site) -> None:
    jobs = here.batch(["a"])
    jobs.write_text(jobs.read_text().replace('"file"', '"fiel"').replace('"namespace"', '"namespaec"'))
    command = here.do("run", jobs, code=2)
    assert command.said().count("jobs.yaml:1:") >= 2
    assert here.states() == {}


# --- add, runner ---


def test_add_returns_at_once_and_passes_of_the_runner_bring_it_to_its_end(here: Site) -> None:
    jobs = here.batch({"slow": SLOW})
    command = here.do("add", jobs)
    assert command.answered() == "ns/b\n"
    assert "nothing drives the queue now" in command.said()
    assert here.do("run", "--detach", jobs).answered() == "ns/b\n"
    here.wait(lambda: here.do("runner", "--once") and here.notes("begun"), "a pass starts it")
    here.open("slow")
    here.wait(lambda: here.do("runner", "--once") and here.states() == {"slow": "done"}, "a pass ends it")


def test_a_second_runner_says_who_drives_and_leaves_with_5(here: Site) -> None:
    first = here.start("runner")
    here.wait(lambda: driver(here) == first.pid, "the runner drives")
    second = here.do("runner", code=5)
    assert f"process {first.pid}" in second.said()
    assert here.do("runner", "--once").said() == ""


# --- logs ---


def test_logs_show_what_a_running_job_prints_and_follow_it_to_its_end(here: Site) -> None:
    command = here.start("run", here.batch({"slow": SLOW}))
    begun(here, "slow")
    assert here.do("logs", "b", "slow").answered() == "begun\n"
    follower = here.start("logs", "-f", "b", "slow")
    here.wait(lambda: follower.answered() == "begun\n", "the follower shows what there is")
    here.open("slow")
    assert command.end() == 0
    assert follower.end() == 0
    assert follower.answered() == "begun\nended\n"


def test_leaving_a_log_that_is_followed_ends_nothing(here: Site) -> None:
    command = here.start("run", here.batch({"slow": SLOW}))
    begun(here, "slow")
    follower = here.start("logs", "-f", "b", "slow")
    here.wait(follower.answered, "the follower shows something")
    assert follower.interrupt(signal.SIGINT) == 130
    assert "nothing was ended" in follower.said()
    here.open("slow")
    assert command.end() == 0


def test_the_log_of_a_build_is_kept_for_each_node(here: Site) -> None:
    here.do("run", here.batch(["a"], build="print('compiling')\n"))
    assert here.do("logs", "b", "--build", "here").answered() == "compiling\n"
    assert here.data("logs", "b", "--build", "here")["text"] == "compiling\n"


def test_bytes_on_a_pipe_are_as_the_job_printed_them(here: Site) -> None:
    odd = r"import sys; sys.stdout.buffer.write(b'\x1b]0;x\x07\xff\n')"
    here.do("run", here.batch({"odd": odd}))
    here.do("logs", "b", "odd")
    assert here.commands[-1].out.read_bytes() == b"\x1b]0;x\x07\xff\n"


@pytest.mark.parametrize(("lines", "shown"), [(0, ""), (1, "2\n"), (2, "1\n2\n"), (9, "0\n1\n2\n")])
def test_only_the_last_lines_are_shown_where_asked(here: Site, lines: int, shown: str) -> None:
    here.do("run", here.batch({"n": "for n in range(3): print(n)"}))
    assert here.do("logs", "b", "n", "-n", str(lines)).answered() == shown


def test_a_job_that_never_ran_has_no_log(here: Site) -> None:
    here.do("add", here.batch(["a"]))
    assert "waits for a node" in here.do("logs", "b", "a").said()
    here.do("kill", "b", "-y")
    assert "never ran" in here.do("logs", "b", "a", code=3).said()


def test_logs_want_a_job_or_a_build(here: Site) -> None:
    here.do("add", here.batch(["a"]))
    here.do("logs", "b", code=2)
    here.do("logs", "b", "a", "--build", "here", code=2)
    assert "never built" in here.do("logs", "b", "--build", "here", code=3).said()


# --- kill ---


def test_kill_ends_a_running_job_where_nobody_drives_the_queue(here: Site) -> None:
    command = here.start("run", here.batch({"slow": SLOW}))
    begun(here, "slow")
    command.interrupt(signal.SIGINT)
    assert here.data("kill", "b", "slow", "-y")["killed"] == [{"name": "slow", "state": "killed"}]
    assert not here.processes()
    assert here.do("logs", "b", "slow").answered() == "begun\n"


def test_kill_returns_when_the_coordinator_has_ended_the_job(here: Site) -> None:
    here.start("runner")
    here.do("add", here.batch({"slow": SLOW}))
    begun(here, "slow")
    here.do("kill", "b", "-y")
    assert here.states() == {"slow": "killed"}
    assert not here.processes()


def test_who_waits_no_longer_for_a_kill_leaves_it_requested(here: Site) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    command = here.start("run", here.batch({"deaf": deaf + SLOW}))
    begun(here, "deaf")
    killing = here.start("kill", "b", "-y")
    here.wait(lambda: here.select("SELECT 1 FROM jobs WHERE request = 'kill'"), "the kill is requested")
    assert killing.interrupt(signal.SIGINT) == 130
    assert "stays requested" in killing.said()
    assert command.end() == 1
    assert here.states() == {"deaf": "killed"}


def test_a_killed_batch_ends_the_run_that_follows_it(here: Site) -> None:
    command = here.start("run", here.batch({"slow": SLOW}))
    begun(here, "slow")
    here.do("kill", "b", "-y")
    assert command.end() == 1
    assert command.answered().startswith("slow  killed on here: killed by ")


def test_a_job_that_failed_runs_again_after_retry(here: Site) -> None:
    jobs = here.batch({"a": "import os\nif not os.path.exists(SITE + '/gates/mended'): sys.exit(3)\n"})
    here.do("run", jobs, code=1)
    here.open("mended")
    here.do("retry", "b", "a")
    here.wait(lambda: here.do("runner", "--once") and here.states() == {"a": "done"}, "a pass ends it")
    assert here.data("status", "b")["batches"][0]["jobs"][0]["attempt"] == 2


# --- on a terminal ---


class Terminal:
    """A command of ours on a terminal of its own, with all that it drew."""

    def __init__(self, site: Site, *arguments: str | Path) -> None:
        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distribute_ssh", *map(str, arguments)],
            env=site.env | {"TERM": "xterm", "COLUMNS": "100"},
            cwd=CHECKOUT, stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        self.drawn = ""
        self._reader = threading.Thread(target=self._read, args=(ours,))
        self._reader.start()

    def _read(self, ours: int) -> None:
        # A terminal whose last process is gone answers with an error, not with an end.
        try:
            while piece := os.read(ours, 65536):
                self.drawn += piece.decode(errors="replace")
        except OSError:
            pass
        finally:
            os.close(ours)

    def end(self) -> int:
        code = self.process.wait(LIMIT)
        self._reader.join()
        return code


def test_on_a_terminal_the_view_moves_and_leaves_failures_and_the_summary(here: Site) -> None:
    terminal = Terminal(here, "run", here.batch({"bad": BAD, "slow": SLOW}))
    wait_for(lambda: "1 failed" in terminal.drawn and "running" in terminal.drawn, "the view shows both", LIMIT)
    here.open("slow")
    assert terminal.end() == 1
    assert "\x1b[?25l" in terminal.drawn
    assert terminal.drawn.rindex("\x1b[?25h") > terminal.drawn.rindex("\x1b[?25l"), "the cursor is back"
    assert "Ctrl-C leaves it running" in terminal.drawn
    assert terminal.drawn.count("exit 1: ValueError: no convergence") >= 2
    assert "ns/b: 1 of 2 jobs done" in terminal.drawn


def test_ctrl_c_on_a_terminal_gives_the_cursor_back_and_says_how_to_return(here: Site) -> None:
    terminal = Terminal(here, "run", here.batch({"slow": SLOW}))
    begun(here, "slow")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert terminal.drawn.rindex("\x1b[?25h") > terminal.drawn.rindex("\x1b[?25l")
    assert "stays in the queue" in terminal.drawn
    assert "Traceback" not in terminal.drawn


def test_a_terminal_gets_no_control_characters_of_a_job(here: Site) -> None:
    odd = r"import sys; sys.stdout.buffer.write(b'\x1b[31mred\x1b[0m\x1b]0;owned\x07\x1b[2J!\n')"
    here.do("run", here.batch({"odd": odd}))
    terminal = Terminal(here, "logs", "b", "odd")
    assert terminal.end() == 0
    assert "\x1b[31mred\x1b[0m]0;owned[2J!" in terminal.drawn
