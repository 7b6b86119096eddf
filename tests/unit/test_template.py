"""The jobs files to start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distribute_ssh.errors import FileError
from distribute_ssh.model.jobsfile import parse
from distribute_ssh.model.template import apptainer_template, python_template

HERE = Path("/somewhere/distribute-jobs.yaml")


def test_the_python_template_holds_what_people_know_it_to_hold() -> None:
    assert yaml.safe_load(python_template()) == {
        "meta": {
            "batch_name": "your_jobset_name",
            "namespace": "example_namespace",
            "matrix": None,
            "capabilities": ["gfortran", "python3", "apptainer"],
        },
        "python": {
            "initialize": {"build_file": "/path/to/build.py"},
            "jobs": [
                {"name": "job_1", "file": "execute_job.py"},
                {"name": "job_2", "file": "execute_job_2.py"},
            ],
        },
    }


def test_the_python_template_is_a_valid_jobs_file() -> None:
    spec = parse(python_template(), HERE, check_files=False)
    assert (spec.name, spec.kind) == ("example_namespace/your_jobset_name", "python")
    assert [job.name for job in spec.jobs] == ["job_1", "job_2"]
    assert not spec.warnings


def test_the_apptainer_template_is_a_valid_jobs_file() -> None:
    spec = parse(apptainer_template(), HERE, check_files=False)
    assert (spec.name, spec.kind) == ("example_namespace/your_jobset_name", "apptainer")
    assert spec.script.path == Path("/path/to/image.sif")
    assert [job.name for job in spec.jobs] == ["job_1", "job_2"]
    assert not spec.warnings


@pytest.mark.parametrize("template", [python_template(), apptainer_template()], ids=["python", "apptainer"])
def test_what_a_template_has_in_comments_is_valid_too(template: str) -> None:
    lines = []
    for line in template.splitlines():
        body = line.lstrip()
        is_code = body.startswith(("# - ", "#   ")) or body.removeprefix("# ").split(":")[0].replace("_", "").isalpha()
        lines.append(line.replace("# ", "", 1) if body.startswith("# ") and is_code else line)
    spec = parse("\n".join(lines), HERE, check_files=False)
    assert len(spec.jobs) == 8
    assert spec.jobs[0].time_limit == 7200
    assert spec.required_files


@pytest.mark.parametrize("template", [python_template(), apptainer_template()], ids=["python", "apptainer"])
def test_a_template_that_was_not_filled_in_names_every_file_to_replace(template: str, tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        parse(template, tmp_path / "distribute-jobs.yaml")
    assert len(caught.value.problems) == 3
    assert all("there is no file" in problem.what for problem in caught.value.problems)


@pytest.mark.parametrize("template", [python_template(), apptainer_template()], ids=["python", "apptainer"])
def test_a_template_is_readable_on_a_terminal(template: str) -> None:
    assert template.endswith("\n")
    assert max(map(len, template.splitlines())) <= 120
    assert template.isascii()
