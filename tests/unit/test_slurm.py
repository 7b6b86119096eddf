"""The `slurm:` blocks of a jobs file: how they are read, which one wins, and the lines that sbatch gets to read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from distribute_ssh.errors import FileError
from distribute_ssh.model.jobsfile import parse
from distribute_ssh.model.resources import Resources
from distribute_ssh.model.slurm import KEYS, Slurm, clock, directive, directives, effective

BATCH = """
meta: {namespace: ana, batch_name: pi, capabilities: []}
python: {initialize: {build_file: build.py}, jobs: [{name: one, file: run.py}]}
"""


def read(block: str) -> Slurm | None:
    return parse(f"{BATCH}slurm: {block}\n", Path("jobs.yaml"), check_files=False).slurm


def refusal(block: str) -> str:
    with pytest.raises(FileError) as caught:
        read(block)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------- reading


def test_a_block_that_is_not_there_differs_from_an_empty_one() -> None:
    assert read("~") is None
    assert read("{}") == Slurm()


def test_values_stay_as_they_were_written() -> None:
    assert read('{time: 10:00:00, account: 010, gpus: 2, nodes: 1, mem: "64G"}') == Slurm(
        time="10:00:00", account="010", gpus="2", nodes=1, mem="64G"
    )


def test_a_key_in_sbatch_s_own_spelling_is_refused_with_ours() -> None:
    assert "did you mean `cpus_per_task`?" in refusal("{cpus-per-task: 4}")


def test_memory_said_in_two_ways_is_refused() -> None:
    assert "slurm.mem: there is `mem_per_cpu` too" in refusal("{mem: 4G, mem_per_cpu: 1G}")


def test_a_value_of_two_lines_cannot_bring_in_a_line_of_its_own() -> None:
    assert "must be one line" in refusal('{partition: "short\\n#SBATCH --uid=0"}')


# ------------------------------------------------------------------------------------------------------- which one wins


def test_a_job_wins_key_by_key() -> None:
    found = effective(Slurm(time="01:00:00", partition="compute"), Slurm(time="02:00:00", ntasks=4), "one")
    assert found == Slurm(job_name="one", time="02:00:00", partition="compute", ntasks=4)


def test_without_any_block_there_is_the_name_of_the_job() -> None:
    assert effective(None, None, "one") == Slurm(job_name="one")


@pytest.mark.parametrize(
    ("job", "name"), [(None, "study"), (Slurm(), "one"), (Slurm(time="1"), "one"), (Slurm(job_name="x"), "x")]
)
def test_the_batch_names_only_jobs_without_a_block_of_their_own(job: Slurm | None, name: str) -> None:
    assert effective(Slurm(job_name="study"), job, "one").job_name == name


def test_the_memory_of_a_job_replaces_the_other_way_of_saying_it() -> None:
    assert effective(Slurm(mem_per_cpu="1G"), Slurm(mem="8G"), "one") == Slurm(job_name="one", mem="8G")
    assert effective(Slurm(mem="8G"), Slurm(mem_per_cpu="1G"), "one") == Slurm(job_name="one", mem_per_cpu="1G")
    assert effective(Slurm(mem="8G"), Slurm(ntasks=2), "one") == Slurm(job_name="one", mem="8G", ntasks=2)


def test_what_a_job_asks_of_our_nodes_stands_in_for_what_no_block_says() -> None:
    asked = Resources(cores=8, memory_mb=4096, gpus=2)
    assert effective(None, None, "one", time_limit=90.0, resources=asked) == Slurm(
        job_name="one", time="00:01:30", cpus_per_task=8, mem="4096M", gres="gpu:2"
    )


def test_what_a_block_says_stands_against_what_is_asked_of_our_nodes() -> None:
    said = Slurm(job_name="one", time="5", ntasks=4, mem_per_cpu="1G", gpus="a100:1")
    asked = Resources(cores=8, memory_mb=4096, gpus=2)
    assert effective(said, None, "one", time_limit=90.0, resources=asked) == said


def test_gpus_are_asked_for_beside_other_generic_resources() -> None:
    assert effective(Slurm(gres="scratch:1"), None, "one", resources=Resources(gpus=1)).gres == "scratch:1,gpu:1"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59.2, "00:01:00"), (3600, "01:00:00"), (86399, "23:59:59"), (86400, "1-00:00:00"), (200000, "2-07:33:20")],
)
def test_a_length_of_time_is_written_as_slurm_reads_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


# --------------------------------------------------------------------------------------------------- lines for sbatch


def test_the_lines_are_in_the_order_of_the_keys() -> None:
    full = Slurm(**{key: (1 if key in ("nodes", "ntasks", "cpus_per_task") else "x") for key in KEYS})  # type: ignore[arg-type]
    found = [line.split("=")[0] for line in directives(full)]
    assert found == ["#SBATCH --" + key.name.replace("_", "-") for key in fields(Slurm)]
    assert found[:4] == ["#SBATCH --job-name", "#SBATCH --output", "#SBATCH --nodes", "#SBATCH --ntasks"]


def test_keys_can_be_left_out() -> None:
    assert directives(Slurm(job_name="one", output="log"), without=("output",)) == ("#SBATCH --job-name=one",)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("logs/%x-%j.out", "logs/%x-%j.out"),
        ("two words", '"two words"'),
        ("a#b", '"a#b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("it's", '"it\'s"'),
        ("C:\\x", '"C:\\\\x"'),
    ],
)
def test_a_value_is_quoted_as_sbatch_reads_it(value: str, line: str) -> None:
    assert directive("output", value) == f"#SBATCH --output={line}"


@pytest.mark.parametrize("value", ["", "a\nb", "a\rb", "\x1b[1m", "a\u2028b"])
def test_a_value_that_is_no_line_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        directive("output", value)
