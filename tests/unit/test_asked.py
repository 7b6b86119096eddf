"""`resources:` of a jobs file: what may be said, what is taken over from `meta`, and what is refused how."""

from __future__ import annotations

from pathlib import Path

import pytest

from distribute_ssh.errors import FileError
from distribute_ssh.model.jobsfile import parse
from distribute_ssh.model.resources import Resources


def asked(meta: str, *jobs: str) -> list[Resources | None]:
    """What jobs ask for whose batch and who themselves say this."""
    entries = "".join(f"    - {{name: j{n}, file: run.py{job}}}\n" for n, job in enumerate(jobs))
    text = (
        f"meta: {{batch_name: b, namespace: n, capabilities: []{meta}}}\n"
        f"python:\n  initialize: {{build_file: build.py}}\n  jobs:\n{entries}"
    )
    return [job.resources for job in parse(text, Path("/study/jobs.yaml"), check_files=False).jobs]


def refused(resources: str, meta: str = "") -> str:
    with pytest.raises(FileError) as caught:
        asked(meta, f", resources: {resources}")
    (problem,) = caught.value.problems
    return str(problem).removeprefix("/study/jobs.yaml:")


def test_a_job_of_which_nothing_is_said_asks_for_a_whole_slot() -> None:
    assert asked("", "") == [None]


def test_everything_that_can_be_asked_for() -> None:
    said = ", resources: {cores: 4, memory: 16G, gpus: 2, gpu_memory: 24GiB, disk: 1.5T}"
    assert asked("", said) == [Resources(4, 16 << 10, 2, 24 << 10, 1536 << 10)]
    assert asked("", ", resources: {gpus: 1}") == [Resources(cores=1, gpus=1)]
    assert asked("", ", resources: {}") == [Resources()]
    assert asked("", ", resources: {memory: 1500000001}") == [Resources(memory_mb=1431)], "never less than was said"


def test_a_job_says_what_is_different_from_meta_key_by_key_and_null_takes_it_all_back() -> None:
    meta = ", resources: {cores: 8, gpus: 1, gpu_memory: 16G}"
    assert asked(meta, "", ", resources: {cores: 2}", ", resources: ", ", resources: {gpus: 0}") == [
        Resources(8, 0, 1, 16 << 10),
        Resources(2, 0, 1, 16 << 10),
        None,
        Resources(8),
    ]
    assert asked(meta, ", resources: {cores: , memory: 1G}") == [Resources(8, 1024, 1, 16 << 10)]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("{cpus: 4}", "5:44: python.jobs[0].resources.cpus: is not a key known here; write `cores: 4`"),
        ("{mem: 4G}", "5:44: python.jobs[0].resources.mem: is not a key known here; write `memory: 16G`, for the"),
        ("{gpu: 1}", "5:44: python.jobs[0].resources.gpu: is not a key known here; write `gpus: 1`"),
        ("{core: 1}", "5:44: python.jobs[0].resources.core: is not a key known here; did you mean `cores`?"),
        ("{cores: 0}", "5:51: python.jobs[0].resources.cores: must be a whole number of at least 1, not 0"),
        ("{cores: 1.5}", "5:51: python.jobs[0].resources.cores: must be a whole number of at least 1, not '1.5'"),
        ("{gpus: -1}", "5:50: python.jobs[0].resources.gpus: must be a whole number of at least 0, not -1"),
        ("{memory: 16}", "5:52: python.jobs[0].resources.memory: `16` is less than a megabyte: write 512M, 16G"),
        ("{memory: lots}", "5:52: python.jobs[0].resources.memory: `lots` is not a size"),
        (
            "{gpu_memory: 8G}",
            "5:56: python.jobs[0].resources.gpu_memory: is of a GPU, and none is asked for; add",
        ),
        ("4", "5:43: python.jobs[0].resources: must be a mapping, not '4'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_what_to_write(said: str, told: str) -> None:
    assert refused(said).startswith(told)


def test_a_batch_has_at_most_two_hundred_kinds_of_jobs() -> None:
    kinds = [f", resources: {{cores: {n + 1}}}" for n in range(200)]
    assert len(asked("", *kinds, *kinds)) == 400
    with pytest.raises(FileError, match=r"python\.jobs: its jobs state more than 200 different `resources`"):
        asked("", *kinds, "")


def test_what_is_asked_for_is_said_in_words() -> None:
    assert Resources(1, 512).words == "1 core, 512 MiB of memory"
    assert Resources(4, 0, 1, 16 << 10, 50 << 10).words == "4 cores, 1 GPU with 16 GiB, 50 GiB of scratch"
    assert Resources(4, gpus=2).words == "4 cores, 2 GPUs"
