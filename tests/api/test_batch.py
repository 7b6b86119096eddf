"""A batch said in Python is the jobs file somebody would have written, and what is wrong is told where it was said."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distribute_ssh as d
from distribute_ssh.model import jobsfile

PACKAGE = Path(d.__file__).parent


def before() -> int:
    """The line above the one that calls this."""
    return sys._getframe(1).f_lineno - 1


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the batches here, and the folder to stand in."""
    monkeypatch.chdir(tmp_path)
    for name in ("build.py", "run.py", "mesh.dat", "re.json", "solver.sif"):
        (tmp_path / name).touch()
    (tmp_path / "library").mkdir()
    return tmp_path


def whole() -> d.PythonBatch:
    """A batch that says all there is to say."""
    batch = d.python_batch(
        "lab", "sweep", build="build.py", capabilities=["gcc", "python3"], required_files=["library"],
        matrix="@ana:example.org", notify=["mail"], private=True, env={"OMP_NUM_THREADS": 4},
        time_limit=timedelta(hours=6), resources=d.Resources(cores=2, memory="4G"),
        slurm=d.Slurm(time="10:00:00", ntasks=4),
    )  # fmt: skip
    batch.job(
        "re_{re}_{mesh}", "run.py", sweep={"re": (100, 0.5), "mesh": ["a", "010"]},
        required_files=[("re.json", "c.json")], env={"CASE": "{mesh}"}, time_limit="2d", warn_signal="USR1",
        max_attempts=3, on_node_loss="wait", resources=None, slurm=d.Slurm(nodes=2),
    )  # fmt: skip
    batch.job("zipped_{n}", file=("run.py", "again.py"), sweep={"n": range(3), "even": [True, False, True]}, zip=True)
    return batch


def test_everything_a_jobs_file_can_say_can_be_said(files: Path) -> None:
    spec = whole().check()
    first, second, *_ = spec.jobs
    assert (spec.name, spec.kind, spec.capabilities) == ("lab/sweep", "python", ("gcc", "python3"))
    assert (spec.matrix, spec.notify, spec.private) == ("@ana:example.org", ("mail",), True)
    assert spec.required_files[0].is_dir
    assert spec.slurm is not None
    assert (spec.slurm.time, spec.slurm.ntasks) == ("10:00:00", 4)
    assert [job.name for job in spec.jobs[:4]] == ["re_100_a", "re_100_010", "re_0.5_a", "re_0.5_010"]
    assert [job.sweep for job in spec.jobs[4:]] == [{"n": n, "even": n != 1} for n in range(3)]
    assert first.sweep == {"re": 100, "mesh": "a"}
    assert second.sweep == {"re": 100, "mesh": "010"}
    assert (first.env["CASE"], first.env["OMP_NUM_THREADS"]) == ("a", "4")
    assert (first.time_limit, first.max_attempts, first.on_node_loss) == (172_800, 3, "wait")
    assert spec.jobs[4].time_limit == 21_600
    assert [ref.alias for ref in first.required_files] == ["c.json"]
    assert first.slurm is not None
    assert first.slurm.nodes == 2
    assert first.resources is None
    assert spec.jobs[4].resources is not None
    assert (spec.jobs[4].resources.cores, spec.jobs[4].resources.memory_mb) == (2, 4096)


def test_an_apptainer_batch_has_an_image_and_mounts_and_no_scripts(files: Path) -> None:
    batch = d.apptainer_batch("lab", "wing", sif="solver.sif", mounts=["/solver/scratch"], capabilities=["gpu"])
    batch.job("fine", required_files=[("re.json", "input.json")], resources=d.Resources(gpus=1, gpu_memory="16G"))
    spec = batch.check()
    assert (spec.kind, spec.script.alias, spec.required_mounts) == ("apptainer", "solver.sif", ("/solver/scratch",))
    assert spec.jobs[0].resources is not None
    assert (spec.jobs[0].resources.gpus, spec.jobs[0].resources.gpu_memory_mb) == (1, 16_384)


def test_options_that_a_jobs_file_knows_are_all_options_here() -> None:
    """A new key of the jobs file that nobody can say in Python would be forgotten otherwise."""
    from distribute_ssh.api.batch import Options

    assert set(jobsfile._OPTIONS) <= set(Options.__annotations__)


def test_what_is_written_is_in_the_long_form_and_reads_back_as_the_same_batch(files: Path) -> None:
    batch = whole()
    path = d.write(batch, "jobs.yaml")
    plain = yaml.safe_load(path.read_text())
    assert plain["python"]["jobs"][0]["file"] == {"path": "run.py", "alias": None}
    again = d.read(path)
    assert isinstance(again, d.PythonBatch)
    assert again.yaml() == path.read_text() == batch.yaml()
    again.job("one_more", "run.py")
    assert [job.name for job in again.check().jobs][-1] == "one_more"


def test_numbers_of_a_file_somebody_wrote_stay_as_they_were_written(files: Path) -> None:
    text = (
        "meta: {namespace: lab, batch_name: b, capabilities: []}\n"
        "python:\n  initialize: {build_file: build.py, required_files: [[mesh.dat, m.dat]]}\n"
        "  jobs:\n    - name: 'dt_{dt}'\n      file: run.py\n      resources: {cores: 2}\n"
        "      sweep: {dt: [0.10, 1e-3, '1e-3x', \"2\"]}\n"
    )
    (files / "jobs.yaml").write_text(text)
    batch, spec = d.read("jobs.yaml"), jobsfile.read(files / "jobs.yaml")
    assert batch.check().jobs == spec.jobs
    assert [job.name for job in spec.jobs] == ["dt_0.10", "dt_1e-3", "dt_1e-3x", "dt_2"]
    assert batch.check().required_files == spec.required_files


def test_a_file_written_elsewhere_names_the_same_files(files: Path) -> None:
    real = files / "deep" / "er"
    real.mkdir(parents=True)
    (files / "link").symlink_to(real)  # from behind a link, `..` leads up from where the link leads to
    path = d.write(whole(), "link/jobs.yaml")
    spec = jobsfile.read(path)
    assert spec.script.path.samefile("build.py")
    assert all(job.file is not None and job.file.path.samefile("run.py") for job in spec.jobs)
    assert spec.jobs[0].required_files[0].path.samefile("re.json")
    assert spec.required_files[0].path.samefile("library")


def test_relative_paths_start_from_where_the_batch_was_made(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = whole()
    monkeypatch.chdir(files / "library")
    assert batch.check().script.path == files / "build.py"
    other = d.python_batch("lab", "b", build="build.py", folder=files)
    other.job("a", "run.py")
    assert other.check().script.path == files / "build.py"


def test_every_mistake_is_told_with_the_line_of_the_program_that_made_it(files: Path) -> None:
    batch = d.python_batch("l/b", "sweep", build="biuld.py", capabilities=["gcc"])
    begun = before()
    batch.job("a", "rum.py", max_attempts=0)
    first = before()
    batch.job("re_{ren}", "run.py", sweep={"re": [1, 2]})
    second = before()
    batch.job("A", "run.py")
    third = before()
    with pytest.raises(d.FileError) as caught:
        batch.check()
    told = {problem.key: (problem.line, str(problem)) for problem in caught.value.problems}
    assert all(text.startswith(f"{__file__}:{at}:1: ") for at, text in told.values())
    assert {key: at for key, (at, _) in told.items()} == {
        "namespace": begun, "build": begun, "job('a').file": first, "job('a').max_attempts": first,
        "job('re_{ren}').name": second, "job('A').name": third,
    }  # fmt: skip
    assert "did you mean 'build.py'?" in told["build"][1]
    assert f"is the name of the job in line {first} " in told["job('A').name"][1]


def test_a_batch_without_jobs_is_refused_and_nothing_is_written(files: Path) -> None:
    with pytest.raises(d.FileError, match="there is no job in it"):
        d.write(d.python_batch("lab", "b", build="build.py"), "jobs.yaml")
    assert not (files / "jobs.yaml").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            lambda b: b.job("a", "run.py", time_limt=3),
            r"job\(\) has no argument 'time_limt'; did you mean 'time_limit'",
        ),
        (lambda b: b.job("a", "run.py", sweep={"re": "100"}), r"sweep\['re'\] must be a list of values"),
        (lambda b: b.job("a", "run.py", sweep={"re": [float("nan")]}), r"sweep\['re'\] has nan"),
        (lambda b: b.job("a", "run.py", sweep={"re": [object()]}), r"it can vary texts, numbers"),
        (lambda b: b.job("a", "run.py", required_files="mesh.dat"), r"required_files must be a list"),
        (lambda _: d.python_batch("lab", "b", build="build.py", capabilities="gcc"), r"capabilities must be a list"),
    ],
)
def test_what_no_jobs_file_could_hold_is_refused_at_once(
    files: Path, wrong: Callable[[d.PythonBatch], object], told: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        wrong(d.python_batch("lab", "b", build="build.py"))


def test_what_can_be_gone_through_once_is_kept(files: Path) -> None:
    batch = d.python_batch("lab", "b", build="build.py", required_files=iter(["mesh.dat"]), notify=iter(["mail"]))
    batch.job("x_{x}", "run.py", sweep={"x": iter([1, 2])}, required_files=iter(["re.json"]))
    assert batch.check() == batch.check()
    assert (len(batch.check().jobs), batch.check().notify, len(batch.check().required_files)) == (2, ("mail",), 1)


class Scalar:
    """What numpy's scalars have in common."""

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> float:
        return self.value


def test_numbers_of_other_packages_are_numbers(files: Path) -> None:
    batch = d.python_batch("lab", "b", build="build.py")
    batch.job("x_{x}", "run.py", sweep={"x": [Scalar(7), Scalar(0.5)]})
    assert [job.sweep for job in batch.check().jobs] == [{"x": 7}, {"x": 0.5}]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0{}"), min_size=1)

NUMBERS = st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        TEXTS | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False), min_size=1
    )
)
def test_every_value_is_read_as_what_it_was(files: Path, values: list[Any]) -> None:
    batch = d.python_batch("lab", "b", build="build.py")
    batch.job("n_{n}", "run.py", sweep={"value": values, "n": range(len(values))}, zip=True)
    found = [job.sweep["value"] for job in batch.check().jobs if job.sweep]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


# --- the package ---


def test_what_is_published_has_types_and_both_names() -> None:
    told = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in told["package-data"]["distribute_ssh"]
    assert (PACKAGE / "py.typed").is_file()
    assert told["py-modules"] == ["distribute_compute_config"]
    assert all((folder / "__init__.py").is_file() for folder in [PACKAGE / "api", PACKAGE / "api" / "onnode"])


def test_the_names_that_type_checkers_see_are_those_that_are_there() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (seen,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = {alias.asname for node in seen.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(d.__all__) - {"__version__"}
    assert all(getattr(d, name) is not None for name in names)
    assert set(dir(d)) == set(d.__all__)


def test_importing_the_package_imports_nothing_else() -> None:
    heavy = "{'asyncio', 'asyncssh', 'pydantic', 'rich', 'sqlite3', 'yaml', 'concurrent.futures', 'cloudpickle'}"
    program = f"import sys, distribute_ssh; print(*sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.split() == []


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sumbit'"):
        _ = d.sumbit  # type: ignore[attr-defined]
