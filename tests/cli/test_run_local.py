"""`run --local`: the jobs of a file, here and at once, with the command that nodes run."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distribute_ssh import local_folder, local_run
from distribute_ssh.model import jobsfile
from distribute_ssh.model.inventory import NodeEntry
from distribute_ssh.model.job import State
from tests.cli.conftest import Call
from tests.support import processes
from tests.support.wait import wait_for

LOOK = """\
import os, sys
print("cores", sys.argv[1:], "found", sorted(os.listdir("input")), sorted(os.listdir("distribute_save")))
print("solver", open("solver").read(), "secret", os.environ.get("SECRET"), "case", os.environ.get("CASE"))
open("distribute_save/result", "w").write(os.environ["DISTRIBUTE_JOB_NAME"])
sys.exit(int(os.environ.get("EXIT", "0")))
"""
# Looks into nothing; runs the image, which is a shell script, in the folder with what is to be mounted.
STAND_IN = """\
#!/bin/sh
[ "$1" != --version ] || { echo "apptainer version 1.4.5"; exit; }
[ "$1" = run ] || exit 0
echo "$*"
while [ "$#" -gt 2 ]; do shift; done
exec sh "$1" "$2"
"""


def write(folder: Path, document: Mapping[str, Any], **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    path = folder / "jobs.yaml"
    path.write_text(json.dumps(document))
    return path


def scripts(
    folder: Path, *jobs: Mapping[str, Any], run: str = LOOK, build: str = "open('solver', 'w').write('fine')"
) -> Path:
    entries = [{"file": "run.py", "required_files": ["case.dat"], **job} for job in jobs]
    document = {
        "meta": {"namespace": "ns", "batch_name": "b", "capabilities": ["a-cluster"]},
        "python": {"initialize": {"build_file": "build.py"}, "jobs": entries},
    }
    return write(folder, document, run_py=run, build_py=build, case_dat="")


def test_jobs_run_in_the_order_of_the_file_and_leave_what_pull_would_bring(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the terminal")
    path = scripts(home, {"name": "z"}, {"name": "bad", "env": {"EXIT": "3", "CASE": "two words"}}, {"name": "a"})
    answer = call("run", "--local", path)
    assert answer.code == 1
    folder = home / "distribute-run"
    assert sorted(each.name for each in folder.iterdir()) == [
        ".distribute-run",
        "a",
        "b_build_output-here.txt",
        "bad",
        "z",
    ]
    assert (folder / "bad" / "result").read_text() == "bad"
    said = (folder / "bad" / "bad_output.txt").read_text()
    assert "found ['case.dat'] []\n" in said
    assert "solver fine secret None case two words\n" in said
    outputs = [(folder / job / f"{job}_output.txt").read_text() for job in ("z", "bad", "a")]
    assert answer.out == "".join(outputs)
    told = [line.split(" in ")[0] for line in answer.err.splitlines() if " in " in line]
    assert told == ["build: done", "z: done", "bad: failed, exit 3", "a: done"]
    assert "2 of 3 jobs done" in answer.err


def test_an_image_runs_with_the_very_command_that_is_told(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = home / "tools"
    tools.mkdir()
    (tools / "apptainer").write_text(STAND_IN)
    (tools / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    document = {
        "meta": {"namespace": "ns", "batch_name": "b", "capabilities": []},
        "apptainer": {
            "initialize": {"sif": "solver.sif", "required_files": ["case.dat"], "required_mounts": ["/results"]},
            "jobs": [{"name": "one"}, {"name": "two"}],
        },
    }
    image = "ls input _bind_path_0; touch _bind_path_0/left\n"
    image += "echo $DISTRIBUTE_INPUT_DIR > distribute_save/$DISTRIBUTE_JOB_NAME\n"
    answer = call("run", "--local", "-s", "here", "--json", write(home, document, solver_sif=image, case_dat=""))
    assert answer.code == 0
    for job in answer.json["local"]["jobs"]:
        _, _, command = job["command"].partition("apptainer ")
        assert f"&& apptainer {command}\n" in answer.err
        words = shlex.split(command)
        assert words[:5] == ["run", "--app", "distribute", "--bind", words[4]]
        assert "_bind_path_0:/results:rw" in words[4]
        said = Path(job["results"], f"{job['name']}_output.txt").read_text()
        assert said == f"{' '.join(words)}\n_bind_path_0:\n\ninput:\ncase.dat\n"
        assert (home / "here" / job["name"] / job["name"]).read_text() == "/input\n"


def test_a_folder_that_is_there_is_kept_unless_it_is_ours_and_that_is_asked_for(home: Path, call: Call) -> None:
    path = scripts(home, {"name": "a"}, {"name": "b2"})
    (home / "mine").mkdir()
    (home / "mine" / "thesis").touch()
    for options in ([], ["--clean-save"]):
        answer = call("run", "--local", path, "--save-dir", "mine", *options)
        assert answer.code == 2
        assert (home / "mine" / "thesis").exists()
    assert "was not made by `distribute run --local`" in answer.err
    assert call("run", "--local", path, "--job", "A", "-q").out == "a\n"
    assert call("run", "--local", path).code == 2
    (home / "distribute-run" / "a").chmod(0o500)
    assert call("run", "--local", path, "--clean-save", "--job", "b2", "-q").out == "b2\n"
    assert not (home / "distribute-run" / "a").exists()


@pytest.mark.parametrize(("here", "why"), [("used", "you are in it"), (".", "which is needed, lies in it")])
def test_what_is_still_needed_is_not_removed_with_old_results(home: Path, call: Call, here: str, why: str) -> None:
    path = scripts(home, {"name": "a", "required_files": ["used/a/result"]})
    (home / "used" / ".distribute-run" / "attempts").mkdir(parents=True)
    (home / "used" / "a").mkdir()
    (home / "used" / "a" / "result").write_text("precious")
    os.chdir(home / here)
    answer = call("run", "--local", path, "--save-dir", home / "used", "--clean-save")
    assert (answer.code, why in answer.err) == (2, True), answer.err
    assert (home / "used" / "a" / "result").read_text() == "precious"


def test_the_folder_of_a_run_that_is_at_work_is_not_removed(home: Path, call: Call) -> None:
    path = scripts(home, {"name": "a"})
    attempt = home / "distribute-run" / ".distribute-run" / "attempts" / "token"
    attempt.mkdir(parents=True)
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (attempt / "pid").write_text(f"{os.getpid()} {start} boot\n")
    answer = call("run", "--local", path, "--clean-save")
    assert (answer.code, attempt.exists()) == (2, True)
    assert f"a job runs in it, process {os.getpid()}" in answer.err
    (attempt / "pid").write_text(f"{os.getpid()} {int(start) - 1} boot\n")  # another one had that number
    assert call("run", "--local", path, "--clean-save").code == 0


def test_a_folder_beside_results_that_are_called_like_ours_is_not_taken_for_ours(home: Path, call: Call) -> None:
    path = scripts(home, {"name": "a"})
    (home / "study").mkdir()
    (home / "study" / "thesis").touch()
    assert call("run", "--local", path, "--save-dir", "study/.distribute-run").code == 0
    answer = call("run", "--local", path, "--save-dir", "study", "--clean-save")
    assert (answer.code, (home / "study" / "thesis").exists()) == (2, True)
    assert "was not made by" in answer.err


def test_results_do_not_go_into_a_folder_that_goes_along_with_the_jobs(home: Path, call: Call) -> None:
    path = scripts(home, {"name": "a", "required_files": [{"path": ".", "alias": "all"}]})
    answer = call("run", "--local", path)
    assert (answer.code, (home / "distribute-run").exists()) == (2, False)
    assert "which the jobs get" in answer.err


def test_a_time_limit_holds_for_a_job_that_prints_faster_than_it_is_read(home: Path) -> None:
    run = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end:\n"
    run += "    print('x' * 8192, flush=True); time.sleep(0.002)"
    path = scripts(home, {"name": "a", "time_limit": "1s"}, run=run)
    spec = jobsfile.read(path)
    entry = NodeEntry("here", host="here", connection="local")
    local_folder.make(home / "results", spec, path, clean=False)
    running = local_run.LocalRun(
        spec, home / "results", entry, local_run.facts_here(entry),
        who="ana", tell=lambda _: None, show=lambda _: time.sleep(0.03),
    )  # fmt: skip
    assert [step.state for step in running.run(["a"])] == [State.DONE, State.TIMEOUT]


def test_a_full_disk_is_named(home: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scripts(home, {"name": "a"})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_run, "stage", full)
    answer = call("run", "--local", path)
    assert answer.code == 1
    assert f"'{home}/distribute-run' cannot be written: No space left on device" in answer.err


def test_what_cannot_be_run_here_changes_nothing(home: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scripts(home, {"name": "viscous"})
    for arguments, words in (
        (["--local", "--job", "viscus"], "did you mean viscous?"),
        (["--local", "--detach"], "--local runs the batch at once"),
        (["--job", "viscous"], "options of `distribute run --local`"),
        (["--clean-save"], "options of `distribute run --local`"),
    ):
        answer = call("run", path, *arguments)
        assert answer.code in (2, 3)
        assert words in answer.err
    document = {
        "meta": {"namespace": "ns", "batch_name": "b", "capabilities": []},
        "apptainer": {"initialize": {"sif": "run.py"}, "jobs": [{"name": "a"}]},
    }
    monkeypatch.setenv("PATH", str(home / "nothing"))
    answer = call("run", "--local", write(home, document))
    assert answer.code == 2
    assert "this machine has no apptainer and no singularity" in answer.err
    assert not (home / "distribute-run").exists()
    assert not (home / "state" / "queue.db").exists()


def test_after_a_build_that_failed_no_job_runs(home: Path, call: Call) -> None:
    path = scripts(home, {"name": "a"}, build="import sys; sys.exit('no compiler')")
    answer = call("run", "--local", "--json", "--head", "ana@nowhere.invalid", path)
    assert answer.code == 1
    assert (answer.json["local"]["build"]["state"], answer.json["local"]["jobs"]) == ("failed", [])
    assert "no compiler\n" in answer.err


def test_a_job_past_its_time_limit_is_ended_with_all_it_started(home: Path, call: Call) -> None:
    run = "import subprocess; subprocess.Popen(['setsid', 'sleep', '1234.5']).wait()"
    answer = call("run", "--local", scripts(home, {"name": "a", "time_limit": "1s"}, run=run))
    assert answer.code == 1
    assert "a: timeout" in answer.err
    assert not [each for each in processes.everything() if "1234.5" in each.command]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_end_the_job_and_all_it_started(home: Path, number: int) -> None:
    run = "import subprocess; print('begun', flush=True); subprocess.Popen(['setsid', 'sleep', '1234.75']).wait()"
    path = scripts(home, {"name": "a"}, {"name": "b2"}, run=run)
    command = [sys.executable, "-m", "distribute_ssh", "run", "--local", str(path)]
    checkout = str(Path(__file__).parents[2])
    with (home / "said").open("wb") as said:
        process = subprocess.Popen(
            command, cwd=home, env={**os.environ, "PYTHONPATH": checkout}, stdout=said, stderr=said
        )
    wait_for(lambda: "begun" in (home / "said").read_text(), "the job runs")
    process.send_signal(number)
    assert process.wait(60) == 130
    assert not [each for each in processes.everything() if "1234.75" in each.command]
    assert "a: killed" in (home / "said").read_text()
    assert not (home / "distribute-run" / "b2").exists()
