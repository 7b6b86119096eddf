"""Labs for tests, and their leaving out, by name, where this computer cannot have one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.machine import missing
from tests.lab.site import IMPATIENT, LabSite

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave them out where they cannot run; CI lets nothing be left out."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if not ours or (why := missing()) is None:
        return
    if os.environ.get("DISTRIBUTE_TESTS_COMPLETE"):
        pytest.exit(f"nothing may be left out, but for a lab this computer {why}", returncode=1)
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=f"left out: for a lab this computer {why}"))


@pytest.fixture
def lab() -> Iterator[Callable[..., Lab]]:
    """`lab(3)` brings one up, as `Lab.up` does; it is taken down after the test."""
    with contextlib.ExitStack() as made:
        yield lambda *count, **options: made.enter_context(Lab.up(*count, **options))


@pytest.fixture
def site(lab: Callable[..., Lab], tmp_path: Path) -> Iterator[Callable[..., LabSite]]:
    """`site(3)` is a head with three machines, like `root`; further settings are those of every node."""
    with contextlib.ExitStack() as made:

        def make(count: int, *, root: Path = Path("/"), **settings: Any) -> LabSite:
            new = LabSite(tmp_path / "site", lab(count, ssh=IMPATIENT, root=root), **settings)
            made.callback(new.close)
            return new

        yield make
