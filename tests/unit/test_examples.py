"""The examples keep the contract of a node and their numbers are right: built and run here by hand, without a node."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="the cavity needs a C compiler"
)


class Slot:
    """The folder in which a node builds a batch and runs its jobs, filled as the jobs file asks."""

    def __init__(self, folder: Path, example: Path) -> None:
        batch = yaml.safe_load((example / "jobs.yaml").read_text())["python"]
        (self.entry,) = batch["jobs"]
        self.folder = folder
        for name in ("initial_files", "input", "distribute_save"):
            (folder / name).mkdir(parents=True)
        for file in batch["initialize"].get("required_files", []):
            shutil.copy(example / file["path"], folder / "initial_files")
        shutil.copy(example / batch["initialize"]["build_file"], folder / "build.py")
        shutil.copy(example / self.entry["file"], folder / "run.py")

    def python(self, *args: str) -> str:
        """What the script printed; its failure fails the test."""
        done = subprocess.run([sys.executable, *args], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def job(self, parameters: Mapping[str, float]) -> tuple[Path, str]:
        """Runs one job on one core; returns what it saved and what it printed."""
        for name in ("input", "distribute_save"):
            shutil.rmtree(self.folder / name)
            (self.folder / name).mkdir()
        for file in (self.folder / "initial_files").iterdir():
            shutil.copy(file, self.folder / "input")
        (self.folder / "input/sweep.json").write_text(json.dumps(parameters))
        printed = self.python("run.py", "1")
        return self.folder / "distribute_save", printed


def numbers(path: Path) -> list[list[float]]:
    with path.open(newline="") as file:
        return [[float(field) for field in row] for row in list(csv.reader(file))[1:]]


@pytest.fixture(scope="module")
def burgers(tmp_path_factory: pytest.TempPathFactory) -> Slot:
    slot = Slot(tmp_path_factory.mktemp("burgers"), EXAMPLES / "quickstart")
    slot.python("build.py")
    return slot


def test_the_quickstart_varies_one_parameter_over_four_jobs(burgers: Slot) -> None:
    assert {key: len(values) for key, values in burgers.entry["sweep"].items()} == {"viscosity": 4}
    assert "{viscosity}" in burgers.entry["name"]


def test_a_quickstart_job_saves_two_tables_and_a_picture_and_says_what_it_found(burgers: Slot) -> None:
    saved, printed = burgers.job({"viscosity": 0.03})
    assert sorted(path.name for path in saved.iterdir()) == ["picture.svg", "profiles.csv", "slope.csv"]
    assert len({len(row) for row in numbers(saved / "profiles.csv")}) == 1
    assert ElementTree.parse(saved / "picture.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert printed.startswith("viscosity 0.03: steepest slope 12.5")
    assert float(printed.split()[-1]) < 1e-4, "error against the exact solution"


def test_the_quickstart_finds_the_published_steepest_slope(burgers: Slot) -> None:
    """Basdevant and others (Computers & Fluids 14, 1986, 23-41): 152.00516 at pi t = 1.6037 for viscosity 0.01 / pi."""
    saved, _ = burgers.job({"viscosity": 0.01 / math.pi})
    slope, time = max((slope, time) for time, slope in numbers(saved / "slope.csv"))
    assert slope == pytest.approx(152.00516, rel=0.01)
    assert math.pi * time == pytest.approx(1.6037, abs=0.005)


# Coarser than the example's own, so that all three take a few seconds and still are within its 2 %.
GRIDS = {100: 64, 400: 96, 1000: 112}


@pytest.fixture(scope="module")
def cavity(tmp_path_factory: pytest.TempPathFactory) -> Slot:
    slot = Slot(tmp_path_factory.mktemp("cavity"), EXAMPLES / "cavity")
    slot.python("build.py")
    return slot


@pytest.fixture(scope="module")
def archived(cavity: Slot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch's folder as the archive leaves it."""
    batch = tmp_path_factory.mktemp("archive")
    for reynolds, cells in GRIDS.items():
        saved, _ = cavity.job({"reynolds": reynolds, "cells": cells})
        shutil.copytree(saved, batch / f"re-{reynolds}")
    return batch


@pytest.fixture
def compare(tmp_path: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    def run(batch: Path) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str(EXAMPLES / "cavity/compare.py"),
            str(batch),
            "--figures",
            str(tmp_path / "figures"),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@needs_compiler
def test_the_cavity_meets_the_published_table_and_is_drawn(
    archived: Path, compare: Callable[[Path], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = compare(archived)
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert drawn == ["centre_lines.svg", "flow_re_100.svg", "flow_re_1000.svg", "flow_re_400.svg"]
    for name in drawn:
        ElementTree.parse(tmp_path / "figures" / name)


@needs_compiler
def test_only_the_misprint_is_left_out_of_the_judgement_and_it_is_shown(
    archived: Path, compare: Callable[[Path], subprocess.CompletedProcess[str]]
) -> None:
    lines = compare(archived).stdout.splitlines()
    points = {int(words[0]): int(words[2]) for words in map(str.split, lines) if words and words[0].isdigit()}
    assert points == {100: 34, 400: 33, 1000: 34}
    assert [line for line in lines if line.startswith("not judged")] != []


@needs_compiler
def test_a_flow_that_misses_the_table_is_refused(
    cavity: Slot, archived: Path, compare: Callable[[Path], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    batch = shutil.copytree(archived, tmp_path / "batch")
    saved, _ = cavity.job({"reynolds": 400, "cells": 48})
    shutil.copytree(saved, batch / "re-400", dirs_exist_ok=True)
    done = compare(batch)
    assert done.returncode == 1
    assert "ABOVE 2%" in done.stdout


@needs_compiler
def test_each_last_step_of_the_cavity_squares_the_one_before(archived: Path) -> None:
    """Newton's method with the right derivative; a slip in either half of the equations would make it linear."""
    changes = [row[3] for row in numbers(archived / "re-400/history.csv")]
    assert changes[-1] < 1e-8
    assert changes[-1] < 1e3 * changes[-2] ** 2


@needs_compiler
def test_a_cavity_without_a_steady_answer_on_its_grid_fails_and_says_what_to_do(cavity: Slot, tmp_path: Path) -> None:
    command = ["./cavity", "100000", "16", "1", str(tmp_path)]
    done = subprocess.run(command, cwd=cavity.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "take more cells" in done.stderr
    assert not (tmp_path / "line_u.csv").exists()


def test_the_cavity_build_fails_and_says_what_to_install_where_there_is_no_compiler(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "slot", EXAMPLES / "cavity")
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "build.py"], cwd=slot.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "apt-get install gcc" in done.stderr


@pytest.mark.parametrize("script", ["tests/venv.sh", "examples/quickstart/run.sh"])
def test_a_machine_without_a_recent_python_is_told_what_to_type(script: str, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cat", "cksum", "dirname"):
        program = shutil.which(name)
        assert program, name
        (tools / name).symlink_to(program)
    environment = {"PATH": str(tools), "DISTRIBUTE_VENV": str(tmp_path / "venv")}
    done = subprocess.run(
        [tools / "sh", ROOT / script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "type: sudo apt-get install python3" in done.stderr
    assert not os.path.lexists(tmp_path / "venv")
