"""The scripts for a Slurm cluster, as texts: what is in them, and that nothing a person wrote can break out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from distribute_ssh import slurmscript
from distribute_ssh.model.jobsfile import BatchSpec, parse
from distribute_ssh.model.slurm import Slurm
from distribute_ssh.slurmscript import Choices, Cluster, cores

PYTHON = """
meta: {namespace: ana, batch_name: pi, capabilities: [], env: {NASTY: "$(touch owned)'\\"`id`\\n#SBATCH --uid=0"}}
python:
  initialize: {build_file: build.py, required_files: [mesh.dat]}
  jobs:
    - {name: "n=-{n}", file: run.py, sweep: {n: [1, 2]}, time_limit: 90s, warn_signal: USR1, on_node_loss: wait}
    - {name: big, file: run.py, slurm: {ntasks: 32, partition: "large one"}, required_files: [mesh.dat]}
slurm: {cpus_per_task: 4, partition: short}
"""
APPTAINER = """
meta: {namespace: ana, batch_name: pi, capabilities: []}
apptainer:
  initialize: {sif: solver.sif, required_mounts: [/scratch, "/solver/my work"]}
  jobs: [{name: one}]
"""
CLUSTER = Cluster("ana", "hpc.campus.edu", "~/my runs")


def spec(text: str) -> BatchSpec:
    return parse(text, Path("jobs.yaml"), check_files=False)


def scripts(batch: BatchSpec, choices: Choices) -> dict[str, str]:
    found = {job.name: slurmscript.job_script(batch, job, n, choices, "abc") for n, job in enumerate(batch.jobs)}
    found["schedule"] = slurmscript.schedule_script(batch, choices, "abc")
    found["upload"] = slurmscript.upload_script(batch, CLUSTER)
    found["download"] = slurmscript.download_script(batch, CLUSTER)
    if batch.kind == "python":
        found["build"] = slurmscript.build_script(batch, choices, "abc")
    found |= {each.script: each.text for each in slurmscript.arrays(batch)}
    return found


@pytest.mark.parametrize("text", [PYTHON, APPTAINER], ids=["python", "apptainer"])
@pytest.mark.parametrize("choices", [Choices(modules=("gcc/12", "x;y"), array=True), Choices(build_at_login=True)])
def test_every_script_is_good_bash(text: str, choices: Choices, tmp_path: Path) -> None:
    checker = shutil.which("shellcheck")
    for name, script in scripts(spec(text), choices).items():
        file = tmp_path / f"{name}.sh"
        file.write_text(script)
        command = [checker, "-S", "warning", str(file)] if checker else ["bash", "-n", str(file)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout, found.stderr) == (0, "", ""), name


def test_lines_for_sbatch_stand_before_the_first_command_and_nowhere_else() -> None:
    for name, script in scripts(spec(PYTHON), Choices()).items():
        lines = script.splitlines()
        head = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
        injected = [line for line in lines[head:] if line.startswith("#SBATCH")]
        # The second line of a variable's value: sbatch stops reading at the first command, which comes before it.
        assert injected in ([], ["#SBATCH --uid=0'"]), name
        assert lines[0] == "#!/bin/bash"


def test_a_job_is_told_to_slurm_as_the_file_says() -> None:
    batch = spec(PYTHON)
    one = slurmscript.job_script(batch, batch.jobs[0], 0, Choices(), "abc").splitlines()
    assert one[1:7] == [
        "#SBATCH --job-name=n=-1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --time=00:01:30",
        "#SBATCH --partition=short",
        "#SBATCH --no-requeue",
        "#SBATCH --signal=B:USR1@45",
    ]
    big = slurmscript.job_script(batch, batch.jobs[2], 2, Choices(), "abc").splitlines()
    assert big[1:5] == [
        "#SBATCH --job-name=big",
        "#SBATCH --ntasks=32",
        "#SBATCH --cpus-per-task=4",
        '#SBATCH --partition="large one"',
    ]


def test_many_tasks_without_a_word_about_cores_have_their_thread_variables_left_alone() -> None:
    batch = spec(PYTHON.replace("slurm: {cpus_per_task: 4, partition: short}", ""))
    assert "OMP_NUM_THREADS" not in slurmscript.job_script(batch, batch.jobs[2], 2, Choices(), "abc")
    assert 'OMP_NUM_THREADS="$DISTRIBUTE_CPUS"' in slurmscript.job_script(batch, batch.jobs[0], 0, Choices(), "abc")


@pytest.mark.parametrize(
    ("said", "argument"),
    [
        (Slurm(ntasks=4), "4"),
        (Slurm(ntasks=4, cpus_per_task=2), "4"),
        (Slurm(ntasks=1, cpus_per_task=8), "8"),
        (Slurm(cpus_per_task=8), "8"),
        (Slurm(ntasks=1), "1"),
        (Slurm(), "${SLURM_CPUS_ON_NODE:-1}"),
    ],
)
def test_the_argument_of_a_job_is_its_tasks_or_its_cores(said: Slurm, argument: str) -> None:
    assert cores(said) == argument


def test_the_end_is_told_only_where_slurm_was_told_the_same() -> None:
    batch = spec(PYTHON)
    assert "DISTRIBUTE_END_TIME" in slurmscript.job_script(batch, batch.jobs[0], 0, Choices(), "abc")
    other = spec(PYTHON.replace("cpus_per_task: 4,", "time: 60,"))
    assert "DISTRIBUTE_END_TIME" not in slurmscript.job_script(other, other.jobs[0], 0, Choices(), "abc")


@pytest.mark.parametrize(
    ("choices", "line"),
    [
        (Choices(), "command -v apptainer >/dev/null || module load apptainer"),
        (Choices(runtime="singularity"), "command -v singularity >/dev/null || module load singularity"),
        (Choices(modules=("gcc/12", "a b")), "module load gcc/12 'a b' || exit 2"),
        (Choices(modules=()), None),
    ],
)
def test_the_module_line_can_be_chosen(choices: Choices, line: str | None) -> None:
    batch = spec(APPTAINER)
    found = [each for each in slurmscript.job_script(batch, batch.jobs[0], 0, choices).splitlines() if "module" in each]
    assert found == ([line] if line else [])


def test_jobs_that_differ_for_slurm_are_in_different_arrays_and_none_is_too_large() -> None:
    jobs = [f"{{name: a{n}, file: run.py}}" for n in range(1001)] + ["{name: b, file: run.py, slurm: {ntasks: 2}}"]
    head = "meta: {namespace: ana, batch_name: pi, capabilities: []}\n"
    batch = spec(head + f"python: {{initialize: {{build_file: build.py}}, jobs: [{', '.join(jobs)}]}}\n")
    found = slurmscript.arrays(batch)
    assert [(each.jobs[0], len(each.jobs)) for each in found] == [("a0", 1000), ("a1000", 1), ("b", 1)]
    assert "#SBATCH --array=0-999\n" in found[0].text
    assert "#SBATCH --ntasks=2\n" in found[2].text


def test_the_tasks_of_an_array_do_not_all_print_into_one_file() -> None:
    batch = spec(PYTHON.replace("partition: short}", "output: log.txt}"))
    assert "#SBATCH --output=log.txt-%a\n" in slurmscript.arrays(batch)[0].text


def test_who_needs_a_gpu_and_does_not_ask_slurm_for_one_is_told() -> None:
    need = PYTHON.replace("capabilities: []", "capabilities: [gpu]")
    assert "gres: gpu:1" in slurmscript.doubts(spec(need))[0]
    assert slurmscript.doubts(spec(need.replace("cpus_per_task: 4", "gres: gpu:1"))) == []
    assert slurmscript.doubts(spec(PYTHON)) == []


@pytest.mark.parametrize(
    ("user", "address", "destination"),
    [
        ("-oProxyCommand=x", "hpc", "runs"),
        ("ana", "-oProxyCommand=x", "runs"),
        ("ana", "hpc:22", "runs"),
        ("a na", "hpc", "runs"),
        ("ana", "hpc", ""),
        ("ana", "hpc", "a\nb"),
        ("ana", "hpc", ":module"),
        ("ana", "hpc", "~bob/runs"),
    ],
)
def test_what_rsync_or_ssh_would_take_for_something_else_is_refused(user: str, address: str, destination: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Cluster(user, address, destination)


@pytest.mark.parametrize(
    ("destination", "folder"), [("~", "."), ("~/runs", "runs"), ("~//runs", "runs"), ("/data", "/data"), ("a b", "a b")]
)
def test_a_home_folder_is_named_as_rsync_takes_it(destination: str, folder: str) -> None:
    assert Cluster("ana", "[fe80::1]", destination).folder == folder
