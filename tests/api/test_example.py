"""The example of the API runs as it stands, and its numbers are right."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def study(home: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "sweep_api" / "sweep.py")]
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)


def test_the_sweep_makes_the_table_of_the_published_periods_and_again_runs_nothing_twice(home: Path) -> None:
    """The period at damping 1 is known to be 6.6632869, and the amplitude stays near 2 for all."""
    ran = study(home)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with (home / "results" / "periods.csv").open(newline="") as file:
        rows = {float(row["damping"]): row for row in csv.DictReader(file)}
    assert list(rows) == [0.1, 0.5, 1, 2, 4, 8]
    assert float(rows[1]["period"]) == pytest.approx(6.6632869, abs=1e-5)
    assert float(rows[0.1]["period"]) == pytest.approx(float(rows[0.1]["limit"]), rel=1e-4)
    assert all(2 <= float(row["amplitude"]) < 2.03 for row in rows.values())
    assert "damping-1 is done on here" in ran.stdout
    began = {path: path.stat().st_mtime_ns for path in (home / "storage").rglob("job.json")}
    assert study(home).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (home / "storage").rglob("job.json")} == began
