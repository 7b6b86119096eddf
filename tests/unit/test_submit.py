"""What submitting promises before anything is sent: who could run it, and what there is to send."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distribute_ssh import submitting
from distribute_ssh.errors import NoNodeError
from distribute_ssh.model import jobsfile
from distribute_ssh.model.job import NodeState
from distribute_ssh.model.jobsfile import BatchSpec
from distribute_ssh.model.resources import Resources
from distribute_ssh.plan.snapshot import GpuView, NodeView

JOBS = """
meta: {batch_name: b, namespace: ns, capabilities: [gfortran]}
python:
  initialize: {build_file: build.py, required_files: [mesh, build.py]}
  jobs:
    - {name: a, file: run.py}
    - {name: b, file: run.py, required_files: [big.dat]}
"""


def node(name: str, *capabilities: str, probed: bool = True) -> NodeView:
    return NodeView(name, NodeState.UP, frozenset(capabilities), 4, 8000, 1, (0,), probed=probed)


@pytest.fixture
def spec(tmp_path: Path) -> BatchSpec:
    for name, size in {"build.py": 10, "run.py": 20, "big.dat": 5000, "mesh/a": 300, "mesh/deep/b": 400}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "jobs.yaml").write_text(JOBS)
    return jobsfile.read(tmp_path / "jobs.yaml")


def test_a_python_batch_needs_python_whether_its_author_says_so_or_not(spec: BatchSpec) -> None:
    assert submitting.needs(spec) == {"gfortran", "python3"}


def test_a_batch_that_no_node_can_run_is_refused_with_what_each_of_them_lacks(spec: BatchSpec) -> None:
    with pytest.raises(NoNodeError) as refused:
        submitting.require_node(spec, [node("lab1", "python3"), node("lab2")])
    assert "gfortran" in refused.value.message
    assert refused.value.hint is not None
    assert "lab1 has no gfortran" in refused.value.hint
    assert "lab2 has no gfortran, python3" in refused.value.hint


def test_a_node_that_was_never_reached_may_have_anything(spec: BatchSpec) -> None:
    submitting.require_node(spec, [node("lab1", "python3"), node("lab2", probed=False)])


def test_one_capable_node_is_enough(spec: BatchSpec) -> None:
    submitting.require_node(spec, [node("lab1"), node("lab2", "gfortran", "python3", "gcc")])


def test_without_any_node_nothing_can_run(spec: BatchSpec) -> None:
    with pytest.raises(NoNodeError):
        submitting.require_node(spec, [])


def test_the_outline_counts_every_file_once_and_looks_into_folders(spec: BatchSpec, tmp_path: Path) -> None:
    found = submitting.outline(spec, [node("lab1", "gfortran", "python3"), node("lab2"), node("lab3", probed=False)])
    assert (found.name, found.jobs, found.files, found.size) == ("ns/b", 2, 5, 5730)
    assert found.largest[0] == (tmp_path / "big.dat", 5000)
    assert [size for _, size in found.largest] == [5000, 400, 300, 20, 10]
    assert [fit.missing for fit in found.fits] == [(), ("gfortran", "python3"), None]


def test_the_outline_is_plain_data(spec: BatchSpec) -> None:
    data = submitting.outline(spec, [node("lab1", "python3"), node("lab3", probed=False)]).as_data()
    assert data["nodes"] == [
        {"name": "lab1", "fits": False, "missing": ("gfortran",)},
        {"name": "lab3", "fits": None, "missing": None},
    ]
    assert data["needs"] == ["gfortran", "python3"]


ASKING = """
meta: {batch_name: b, namespace: ns, capabilities: [], resources: {cores: 2}}
python:
  initialize: {build_file: build.py}
  jobs:
    - {name: a, file: run.py}
    - {name: b, file: run.py, resources: {cores: 16}}
    - {name: c, file: run.py, resources: {gpus: 1}}
"""


def asking(text: str = ASKING) -> BatchSpec:
    return jobsfile.parse(text, Path("/study/jobs.yaml"), check_files=False)


def test_jobs_that_ask_for_gpus_need_the_capability_and_the_others_of_the_batch_do_not() -> None:
    spec = asking()
    assert submitting.needs(spec) == {"python3"}
    assert submitting.needs(spec, spec.jobs[2].resources) == {"python3", "gpu"}


def test_a_batch_is_refused_where_some_of_its_jobs_fit_nowhere() -> None:
    big = replace(node("big", "python3", "gpu"), cores=32, gpus=(GpuView(0),))
    submitting.require_node(asking(), [big, node("lab1", "python3")])
    with pytest.raises(NoNodeError) as refused:
        submitting.require_node(asking(), [node("lab1", "python3")])
    assert refused.value.message.startswith("1 of the 3 jobs of ns/b can run nowhere: ")


def test_a_node_that_can_run_some_jobs_of_a_batch_fits_and_the_outline_says_what_is_asked_for() -> None:
    spec = asking(ASKING.replace("{cores: 2}", "{cores: 8}"))
    found = submitting.fits(spec, [replace(node("lab1", "python3"), cores=12), node("lab2", "python3"), node("lab3")])
    assert found[0].missing == ()
    assert found[1].missing is not None
    assert "8" in " ".join(found[1].missing)
    assert found[2].missing == ("python3",)
    assert submitting.kinds(spec) == {Resources(8): 1, Resources(16): 1, Resources(8, gpus=1): 1}
