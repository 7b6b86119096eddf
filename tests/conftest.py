"""What every test may ask for, and what has to be left out on this machine, said plainly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import Lab
from tests.support.sshd import PROGRAM


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what cannot run here; tests/run.sh installs it where root allows that."""
    missing = {}
    if PROGRAM is None:
        missing["sshd"] = "left out: there is no sshd (apt-get install openssh-server)"
    if os.geteuid() != 0:
        missing["root"] = "left out: needs root"
    if os.environ.get("DISTRIBUTE_TESTS_COMPLETE") and missing:
        pytest.exit(f"nothing may be left out, but: {'; '.join(missing.values())}", returncode=1)
    for item in items:
        for mark, why in missing.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An empty lab; `lab.add(NAME)` starts a node in it."""
    made = Lab(tmp_path / "lab")
    yield made
    made.close()


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with the node `lab1`, for tests that leave it as they found it."""
    made = Lab(tmp_path_factory.mktemp("shared") / "lab")
    made.add("lab1")
    yield made
    made.close()
