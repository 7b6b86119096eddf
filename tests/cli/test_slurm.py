"""`slurm`: the folder for a cluster, and what its scripts do, run by stand-ins for sbatch, apptainer and rsync."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cli.cluster import IMAGE, META, PYTHON, bash, lay_out, lines, stand_in, written
from tests.cli.conftest import Call


@pytest.fixture
def study(home: Path) -> Path:
    """A folder with what the jobs files name."""
    return lay_out(home)


@pytest.fixture
def cluster(home: Path) -> Mapping[str, str]:
    """An environment with the stand-ins in its PATH."""
    return stand_in(home)


# ----------------------------------------------------------------------------------------------------------- the folder


def test_the_folder_of_an_image_is_laid_out_as_the_original_tool_did(study: Path, call: Call) -> None:
    out = written(study, call, IMAGE % ", required_mounts: [/a, /b]", "--cluster-username", "ana",
                  "--cluster-address", "hpc", "--cluster-upload-destination", "runs")  # fmt: skip
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        *("apptainer.sif", "input", "one", "rsync_download.sh", "rsync_upload.sh", "schedule_jobs.sh", "two"),
    ]
    assert sorted(path.name for path in (out / "one").iterdir()) == [
        *("input", "mnt_00", "mnt_01", "output", "slurm_input.sl"),
    ]
    assert (out / "apptainer.sif").read_text() == "solver.sif"
    assert os.readlink(out / "two" / "input" / "case.dat") == "../../input/case.dat"
    assert not (out / "one" / "input" / "case.dat").is_symlink()


def test_the_folder_is_told_as_json(study: Path, call: Call) -> None:
    (study / "jobs.yaml").write_text(META + IMAGE % "")
    told = call("slurm", "out", "jobs.yaml", "--json").json["slurm"]
    assert told == {
        "folder": str(study / "out"),
        "batch": "ana/pi",
        "jobs": ["one", "two"],
        "changed": 10,
        "same": 0,
        "removed": 0,
    }


def test_again_the_folder_is_brought_to_what_the_file_says_now(study: Path, call: Call) -> None:
    """The original tool stopped at the first link that was there."""
    out = written(study, call, IMAGE % "")
    (out / "two" / "output" / "result").write_text("precious")
    (out / "notes.txt").write_text("mine")
    (study / "mesh.dat").write_text("finer")
    before = (out / "one" / "slurm_input.sl").stat().st_mtime_ns
    (study / "jobs.yaml").write_text(META + (IMAGE % "").replace("two", "three"))
    told = call("slurm", "out", "jobs.yaml", "--json").json["slurm"]
    assert (told["changed"], told["removed"]) == (5, 3)  # mesh.dat, schedule_jobs.sh, three links and a script
    assert (out / "input" / "mesh.dat").read_text() == "finer"
    assert (out / "one" / "slurm_input.sl").stat().st_mtime_ns == before
    assert (out / "two" / "output" / "result").read_text() == "precious"
    assert not (out / "two" / "slurm_input.sl").exists()
    assert (out / "notes.txt").read_text() == "mine"


def test_a_job_that_left_the_file_leaves_no_empty_folder(study: Path, call: Call) -> None:
    out = written(study, call, IMAGE % ", required_mounts: [/a]")
    written(study, call, (IMAGE % "").replace("two", "three"))
    assert not (out / "two").exists()
    assert not (out / "one" / "mnt_00").exists()


def test_a_folder_of_somebody_else_is_left_alone(study: Path, call: Call) -> None:
    (study / "jobs.yaml").write_text(META + IMAGE % "")
    answer = call("slurm", ".", "jobs.yaml")
    assert (answer.code, sorted(path.name for path in study.iterdir() if path.name == "two")) == (2, [])
    assert "holds files that are not ours" in answer.err


def test_the_folder_of_another_batch_is_left_alone(study: Path, call: Call) -> None:
    out = written(study, call, IMAGE % "")
    (study / "jobs.yaml").write_text((META + IMAGE % "").replace("pi", "tau"))
    answer = call("slurm", "out", "jobs.yaml")
    assert (answer.code, (out / "one").is_dir()) == (2, True)
    assert "is the folder of ana/pi, not of ana/tau" in answer.err


def test_nothing_is_written_through_a_link_that_took_the_place_of_a_folder(study: Path, call: Call) -> None:
    out = written(study, call, IMAGE % "")
    (study / "elsewhere").mkdir()
    (out / "two").rename(study / "moved")
    (out / "two").symlink_to(study / "elsewhere")
    answer = call("slurm", "out", "jobs.yaml")
    assert (answer.code, list((study / "elsewhere").iterdir())) == (2, [])


def test_the_folder_may_be_a_link_to_another_disk(study: Path, call: Call) -> None:
    (study / "disk").mkdir()
    (study / "out").symlink_to("disk")
    written(study, call, IMAGE % "")
    out = written(study, call, (IMAGE % "").replace("two", "three"))
    assert (out.is_symlink(), (out / "three").is_dir(), (out / "two").exists()) == (True, True, False)


def test_a_folder_among_the_inputs_is_refused_or_each_writing_would_put_it_into_itself(study: Path, call: Call) -> None:
    (study / "jobs.yaml").write_text(META + (IMAGE % "").replace("mesh.dat,", "{path: ., alias: all},"))
    answer = call("slurm", "out", "jobs.yaml")
    assert (answer.code, (study / "out").exists()) == (2, False)
    assert "which the jobs get" in answer.err


def test_what_cannot_be_written_is_told_and_leaves_no_half_files(study: Path, call: Call) -> None:
    out = written(study, call, IMAGE % "")
    (out / "schedule_jobs.sh").unlink()
    (out / "schedule_jobs.sh").mkdir()
    answer = call("slurm", "out", "jobs.yaml")
    assert answer.code == 2
    assert "'out' cannot be written: Is a directory" in answer.err
    assert [path.name for path in out.iterdir() if path.name.startswith(".part-")] == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--cluster-username", "ana"), "belong together"),
        (
            ("--cluster-username", "-x", "--cluster-address", "hpc", "--cluster-upload-destination", "y"),
            "is no name of an account",
        ),
    ],
)
def test_half_a_cluster_and_an_odd_one_are_refused(
    study: Path, call: Call, options: tuple[str, ...], told: str
) -> None:
    (study / "jobs.yaml").write_text(META + IMAGE % "")
    answer = call("slurm", "out", "jobs.yaml", *options)
    assert (answer.code, (study / "out").exists()) == (2, False)
    assert told in answer.err


@pytest.mark.parametrize("name", ["input", "Apptainer.sif", "schedule_jobs.sh", "build"])
def test_a_job_with_a_name_of_ours_is_refused(study: Path, call: Call, name: str) -> None:
    (study / "jobs.yaml").write_text(META + (IMAGE % "").replace("two", name))
    answer = call("slurm", "out", "jobs.yaml")
    assert (answer.code, (study / "out").exists()) == (2, False)
    assert "has a name of ours" in answer.err


def test_a_missing_file_is_told_before_anything_is_written(study: Path, call: Call) -> None:
    """The original tool stopped in the middle."""
    (study / "own.dat").unlink()
    (study / "jobs.yaml").write_text(META + IMAGE % "")
    assert call("slurm", "out", "jobs.yaml").code == 2
    assert not (study / "out").exists()


# --------------------------------------------------------------------------------------------------------------- images


def test_an_image_without_mounts_runs(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    """The original tool left out the word --bind then, and the rest was unusable."""
    out = written(study, call, IMAGE % "")
    done = bash(cluster, out / "schedule_jobs.sh")
    assert (done.returncode, done.stdout) == (0, "one 1\ntwo 2\n"), done.stderr
    assert lines(study / "spool" / "codes") == ["0", "0"]
    arguments = lines(study / "spool" / "arguments")
    assert arguments[:3] == ["run", "--app", "distribute"]
    assert arguments[3:] == ["--bind", "run/input:/input,output:/distribute_save", "../apptainer.sif", "3"]


def test_a_container_finds_shared_files_and_those_of_its_job(
    study: Path, call: Call, cluster: Mapping[str, str]
) -> None:
    """Links to shared files lead out of a container, so they are followed first; a job's own file wins by its name."""
    out = written(study, call, IMAGE % "")
    assert bash(cluster, out / "schedule_jobs.sh").returncode == 0
    assert lines(out / "one" / "output" / "seen") == ["case.dat=own.dat", "mesh.dat=mesh.dat"]
    assert lines(out / "two" / "output" / "seen") == ["case.dat=case.dat", "mesh.dat=mesh.dat"]


def test_mounts_are_there_writable_and_empty_at_every_start(
    study: Path, call: Call, cluster: Mapping[str, str]
) -> None:
    out = written(study, call, IMAGE % ", required_mounts: [/scratch, /solver/work]")
    for _ in range(2):
        assert bash(cluster, out / "schedule_jobs.sh", "one").returncode == 0
        assert (out / "one" / "output" / "mounts").read_text() == ""
        assert (out / "one" / "mnt_01" / "left").exists()
    assert "mnt_00:/scratch,mnt_01:/solver/work" in (study / "spool" / "arguments").read_text()


def test_a_second_start_keeps_what_the_first_saved(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    out = written(study, call, IMAGE % "")
    bash(cluster, out / "schedule_jobs.sh", "one")
    bash(cluster, out / "schedule_jobs.sh", "one")
    assert lines(out / "one" / "output" / "argument") == ["3"]
    assert lines(out / "one" / "output.before-2.0" / "argument") == ["3"]


def test_the_code_of_a_job_is_that_of_its_container(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    out = written(study, call, IMAGE % "")
    bash({**cluster, "CODE": "7"}, out / "schedule_jobs.sh", "one")
    assert lines(study / "spool" / "codes") == ["7"]


def test_one_name_for_all_jobs_gives_each_its_own_folder(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    """In the original tool they shared one, and overwrote each other."""
    out = written(study, call, IMAGE % "" + "slurm: {job_name: study, ntasks: 2}\n", "--runtime", "singularity")
    assert bash(cluster, out / "schedule_jobs.sh").stdout == "one 1\ntwo 2\n"
    for name in ("one", "two"):
        assert "#SBATCH --job-name=study" in lines(out / name / "slurm_input.sl")
        assert lines(out / name / "output" / "argument") == ["2"]


def test_names_that_mean_something_to_a_shell_are_only_names(
    study: Path, call: Call, cluster: Mapping[str, str]
) -> None:
    text = (
        (IMAGE % "")
        .replace("{name: one,", "{name: 'a=b@c,d+e',")
        .replace("mesh.dat,", "{path: mesh.dat, alias: $(id) *},")
    )
    out = written(study, call, text, out="my runs; $(id)")
    done = bash(cluster, out / "schedule_jobs.sh")
    assert (done.returncode, done.stdout) == (0, "a=b@c,d+e 1\ntwo 2\n"), done.stderr
    assert lines(out / "a=b@c,d+e" / "output" / "seen") == ["$(id) *=mesh.dat", "case.dat=own.dat"]


def test_what_is_in_the_queue_of_slurm_is_not_submitted_again(
    study: Path, call: Call, cluster: Mapping[str, str]
) -> None:
    """Both would work in one folder, and the second begins with emptying it."""
    out = written(study, call, IMAGE % "")
    (study / "spool" / "queued").write_text(f"/elsewhere\n\n{(out / 'one').resolve()}\n")
    done = bash(cluster, out / "schedule_jobs.sh")
    assert (done.returncode, done.stdout) == (0, "two 1\n")
    assert done.stderr == "one is in the queue of Slurm, and was not submitted again\n"


@pytest.mark.parametrize("options", [(), ("--array",), ("--build", "login")])
def test_who_has_a_cdpath_is_not_taken_elsewhere(
    study: Path, call: Call, cluster: Mapping[str, str], options: tuple[str, ...]
) -> None:
    out = written(study, call, PYTHON, *options)
    for name in ("out", "run", "own", "build"):
        (study / "projects" / name).mkdir(parents=True)
    done = subprocess.run(
        ["bash", "out/schedule_jobs.sh"], cwd=study, env={**cluster, "CDPATH": str(study / "projects")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert seen(out, "own")["argument"] == ["3"]
    assert set(lines(study / "spool" / "codes")) == {"0"}


def test_no_variable_of_a_job_is_taken_for_one_of_the_script(
    study: Path, call: Call, cluster: Mapping[str, str]
) -> None:
    names = ["cores", "job", "gpu", "code", "child", "told", "files", "id", "after", "here", "name"]
    (study / "job.py").write_text(
        "import os, sys\nopen('distribute_save/x', 'w').write("
        f"' '.join([*sys.argv[1:], *(os.environ[each] for each in {names})]))\n"
    )
    env = ", ".join(f"{name}: my-{name}" for name in names)
    out = written(study, call, PYTHON.replace("env: {WORD: x}", f"time_limit: 5m, warn_signal: USR1, env: {{{env}}}"))
    bash(cluster, out / "schedule_jobs.sh", "own")
    assert (out / "own" / "output" / "x").read_text() == " ".join(["3", *(f"my-{name}" for name in names)])


def test_a_job_that_is_not_there_is_told(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    out = written(study, call, IMAGE % "")
    done = bash(cluster, out / "schedule_jobs.sh", "three")
    assert (done.returncode, done.stderr) == (3, "there is no job three\n")


def test_an_array_runs_each_job_in_its_folder(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    out = written(study, call, IMAGE % "", "--array")
    assert bash(cluster, out / "schedule_jobs.sh").stdout == "array_00.sl 1\n"
    assert lines(study / "spool" / "codes") == ["0", "0"]
    assert lines(out / "one" / "output" / "seen")[0] == "case.dat=own.dat"
    assert lines(out / "two" / "output" / "seen")[0] == "case.dat=case.dat"
    assert bash(cluster, out / "schedule_jobs.sh", "two").stdout == "two 2\n"


def test_the_folder_goes_there_and_results_come_back(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    if not Path("/usr/bin/rsync").exists():
        pytest.skip("no rsync here")
    out = written(study, call, IMAGE % "", "--cluster-username", "ana", "--cluster-address", "hpc",
                  "--cluster-upload-destination", "~/my runs")  # fmt: skip
    (study / "spool" / "home" / "my runs").mkdir()
    sent = bash(cluster, out / "rsync_upload.sh")
    assert sent.returncode == 0, sent.stderr
    there = study / "spool" / "home" / "my runs" / "out"
    assert bash(cluster, there / "schedule_jobs.sh").returncode == 0
    brought = bash(cluster, out / "rsync_download.sh")
    assert brought.returncode == 0, brought.stderr
    assert lines(out / "two" / "output" / "argument") == ["3"]
    # What is sent again does not go over newer results.
    (there / "two" / "output" / "argument").write_text("newer result\n")
    assert bash(cluster, out / "rsync_upload.sh").returncode == 0
    assert lines(there / "two" / "output" / "argument") == ["newer result"]


@pytest.mark.parametrize("output", ["logs/%x-%j.txt", "job.log"])
def test_what_jobs_print_comes_back_from_where_they_were_told_to_print(
    study: Path, call: Call, cluster: Mapping[str, str], output: str
) -> None:
    if not Path("/usr/bin/rsync").exists():
        pytest.skip("no rsync here")
    out = written(study, call, IMAGE % "" + f"slurm: {{output: {output}}}\n", "--cluster-username", "ana",
                  "--cluster-address", "hpc", "--cluster-upload-destination", "runs")  # fmt: skip
    assert bash(cluster, out / "rsync_upload.sh").returncode == 0
    name = output.replace("%x-%j", "two-7")
    there = study / "spool" / "home" / "runs" / "out"
    (there / "two" / name).write_text("printed\n")
    assert bash(cluster, out / "rsync_download.sh").returncode == 0
    assert (out / "two" / name).read_text() == "printed\n"
    # What came back is not sent over what was printed since.
    (there / "two" / name).write_text("printed\nand more\n")
    assert bash(cluster, out / "rsync_upload.sh").returncode == 0
    assert (there / "two" / name).read_text() == "printed\nand more\n"


# -------------------------------------------------------------------------------------------------------------- scripts


def seen(out: Path, job: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / job / "output" / "seen.json").read_text())
    return found


def test_python_jobs_find_what_they_find_on_our_nodes(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    out = written(study, call, PYTHON + "slurm: {cpus_per_task: 4}\n")
    done = bash(cluster, out / "schedule_jobs.sh")
    assert (done.returncode, done.stdout) == (0, "build 1\nn-1 2\nn-2 3\nown 4\n"), done.stderr
    assert lines(study / "spool" / "codes") == ["0"] * 4
    assert lines(study / "spool" / "printed1") == ["building ['case.dat', 'mesh.dat']"]
    assert seen(out, "n-2") == {
        "argument": ["4"],
        "input": {"case.dat": "case.dat", "mesh.dat": "mesh.dat", "sweep.json": '{"n": 2}\n'},
        "told": {"WORD": "it's 2", "DISTRIBUTE_JOB_NAME": "n-2", "DISTRIBUTE_PARAM_N": "2", "OMP_NUM_THREADS": "4"},
        "here": [".built", "build.py", "distribute_save", "initial_files", "input", "made", "run.py"],
    }
    assert seen(out, "own")["input"] == {"case.dat": "own.dat", "mesh.dat": "mesh.dat"}
    assert not (out / "own" / "run").exists()


def test_jobs_wait_for_the_build_and_a_build_is_made_once(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    out = written(study, call, PYTHON)
    bash(cluster, out / "schedule_jobs.sh")
    again = bash(cluster, out / "schedule_jobs.sh", "own")
    assert again.stdout == "own 5\n"
    asked = lines(study / "spool" / "submitted")
    assert asked[0] == "1 build --parsable build.sl"
    assert asked[1] == "2 n-1 --parsable --dependency=afterok:1 --kill-on-invalid-dep=yes slurm_input.sl"
    assert asked[4] == "5 own --parsable slurm_input.sl"
    # What one job did to the built folder, no other sees.
    (solver,) = (out / "build").glob("*/made/solver")
    assert solver.read_text() == "solver"


def test_what_the_build_is_made_of_decides_whether_it_is_made_again(
    study: Path, call: Call, cluster: Mapping[str, str]
) -> None:
    out = written(study, call, PYTHON)
    bash(cluster, out / "schedule_jobs.sh")
    (study / "mesh.dat").write_text("finer")
    written(study, call, PYTHON)
    assert bash(cluster, out / "schedule_jobs.sh").stdout.startswith("build 5\n")
    assert seen(out, "own")["input"] == {"case.dat": "own.dat", "mesh.dat": "finer"}


def test_a_build_on_the_login_machine_that_fails_submits_nothing(
    study: Path, call: Call, cluster: Mapping[str, str]
) -> None:
    (study / "build.py").write_text("import sys; sys.exit('no compiler')")
    out = written(study, call, PYTHON, "--build", "login")
    done = bash(cluster, out / "schedule_jobs.sh")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no compiler\nthe build failed: nothing was submitted\n"
    assert not (study / "spool" / "submitted").exists()


def test_a_job_before_its_build_says_so(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    out = written(study, call, PYTHON)
    done = subprocess.run(
        ["bash", "slurm_input.sl"], cwd=out / "own", env=cluster, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "the build is not there" in done.stderr) == (2, True)


def test_a_job_is_warned_and_keeps_its_own_code(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    (study / "job.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))\n"
        "os.kill(os.getppid(), signal.SIGUSR1)\n"
        "time.sleep(30)\n"
    )
    text = PYTHON.replace("{name: own,", "{name: own, time_limit: 10m, warn_signal: USR1,")
    out = written(study, call, text)
    bash(cluster, out / "schedule_jobs.sh", "own")
    assert lines(study / "spool" / "codes") == ["0", "5"]


def test_folders_among_the_inputs_arrive_with_their_links(study: Path, call: Call, cluster: Mapping[str, str]) -> None:
    (study / "lib").mkdir()
    (study / "lib" / "a.txt").write_text("a")
    (study / "lib" / "b.txt").symlink_to("a.txt")
    (study / "job.py").write_text(
        "import os\nfound = 'input/lib/b.txt'\n"
        "open('distribute_save/x', 'w').write(os.readlink(found) + open(found).read())\n"
    )
    out = written(study, call, PYTHON.replace("[mesh.dat,", "[lib, mesh.dat,"))
    bash(cluster, out / "schedule_jobs.sh", "own")
    assert (out / "own" / "output" / "x").read_text() == "a.txta"
