"""Programs written for the original's Python package go on working, and what they write loads here."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

import distribute_compute_config as dcc
from distribute_ssh.model import jobsfile

POSITIONS = {
    "metadata": ["namespace", "batch_name", "capabilities", "matrix_username"],
    "file": ["path", "relative", "alias"],
    "initialize": ["sif", "required_files", "required_mounts"],
    "job": ["name", "required_files", "slurm"],
    "description": ["initialize", "jobs"],
    "slurm": [
        *("job_name", "output", "nodes", "ntasks", "cpus_per_task", "mem_per_cpu"),
        *("hint", "time", "partition", "account", "mail_user", "mail_type"),
    ],
    "apptainer_config": ["meta", "description", "slurm"],
    "write_config_to_file": ["config", "path"],
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the batches here, and the folder to stand in."""
    monkeypatch.chdir(tmp_path)
    for name in ("solver.sif", "mesh.h5", "re_100.json", "re_400.json"):
        (tmp_path / name).touch()
    return tmp_path


def written(config: dcc.ApptainerConfig) -> tuple[jobsfile.BatchSpec, Any]:
    dcc.write_config_to_file(config, "distribute-jobs.yaml")
    path = Path("distribute-jobs.yaml")
    return jobsfile.read(path), yaml.safe_load(path.read_text())


@pytest.mark.parametrize("name", POSITIONS)
def test_functions_and_positions_are_those_of_the_original(name: str) -> None:
    parameters = inspect.signature(getattr(dcc, name)).parameters.values()
    assert [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD] == POSITIONS[name]


def test_a_program_of_today_writes_a_file_that_loads_with_all_it_said() -> None:
    meta = dcc.metadata("lab", "sweep_01", ["gpu", "apptainer"], "@me:example.org")
    init = dcc.initialize(dcc.file("solver.sif", relative=True), [dcc.file("mesh.h5", True, "m.h5")], ["/scratch"])
    jobs = [
        dcc.job(f"re_{re}", [dcc.file(f"re_{re}.json", relative=True, alias="config.json")],
                dcc.slurm(time="10:00:00") if re > 100 else None)
        for re in (100, 400)
    ]  # fmt: skip
    slurm = dcc.slurm(ntasks=4, partition="short")
    spec, plain = written(dcc.apptainer_config(meta, dcc.description(init, jobs), slurm))
    assert (spec.name, spec.matrix, spec.capabilities) == ("lab/sweep_01", "@me:example.org", ("apptainer", "gpu"))
    assert (spec.kind, spec.required_mounts, spec.script.alias) == ("apptainer", ("/scratch",), "solver.sif")
    assert [(job.name, job.required_files[0].alias) for job in spec.jobs] == [
        ("re_100", "config.json"),
        ("re_400", "config.json"),
    ]
    assert spec.jobs[0].slurm is None
    assert spec.jobs[1].slurm == dcc.Slurm(time="10:00:00")
    assert spec.slurm == dcc.Slurm(ntasks=4, partition="short")
    assert plain["apptainer"]["initialize"]["sif"] == {"path": "solver.sif", "alias": None}, "as it was given"
    assert list(plain) == ["meta", "apptainer", "slurm"]


@pytest.mark.parametrize("keyword", ["sif", "sif_path"])
def test_the_image_can_be_a_text_under_either_name_as_programs_of_2022_have_it(keyword: str, files: Path) -> None:
    image = str(files / "solver.sif")
    init = dcc.initialize(**{keyword: image}, required_files=[dcc.file("mesh.h5")], required_mounts=[])  # type: ignore[arg-type]
    meta = dcc.metadata("lab", "old", [], matrix_username=None)
    spec, plain = written(dcc.apptainer_config(meta, dcc.description(init, [dcc.job("a", [])])))
    assert spec.script.path == files / "solver.sif"
    assert plain["apptainer"]["initialize"]["required_files"][0]["path"] == str((files / "mesh.h5").resolve())


def test_the_image_once_and_no_more() -> None:
    for given in ({}, {"sif": "a.sif", "sif_path": "b.sif"}):
        with pytest.raises(TypeError, match="takes the image once"):
            dcc.initialize(**given)


def test_what_the_original_refused_with_a_value_error_is_one_here() -> None:
    with pytest.raises(ValueError, match="matrix"):
        dcc.metadata("lab", "b", [], "me@example.org")
    with pytest.raises(ValueError, match=r"'nothing\.h5' cannot be found: No such file"):
        dcc.file("nothing.h5")
    config = dcc.apptainer_config(
        dcc.metadata("lab", "b", []),
        dcc.description(dcc.initialize(dcc.file("solver.sif"), [], []), [dcc.job("a", [])]),
    )
    with pytest.raises(ValueError, match="cannot be written: No such file"):
        dcc.write_config_to_file(config, "no/such/folder/jobs.yaml")


def test_a_file_that_nobody_could_read_is_not_written() -> None:
    image = dcc.initialize(dcc.file("solver.sif"), [], [])
    config = dcc.apptainer_config(dcc.metadata("lab", "b", []), dcc.description(image, [dcc.job("../a", [])]))
    with pytest.raises(ValueError, match=r"job\('../a'\)\.name"):
        dcc.write_config_to_file(config, "jobs.yaml")
    assert not Path("jobs.yaml").exists()


def test_a_link_is_followed_unless_the_path_is_relative(files: Path) -> None:
    (files / "link.h5").symlink_to("mesh.h5")
    assert dcc.file("link.h5") == dcc.File(str((files / "mesh.h5").resolve()))
    assert dcc.file("link.h5", relative=True) == dcc.File("link.h5")
