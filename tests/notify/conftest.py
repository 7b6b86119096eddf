from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import site
from tests.support.synapse import NotInstalled, Synapse

__all__ = ["site"]


@pytest.fixture(scope="session")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """A real homeserver; tests register people of their own."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all workers
    try:
        with Synapse.shared(base / "synapse") as made:
            yield made
    except NotInstalled as error:
        pytest.skip(f"left out: Synapse cannot be installed here: {error}")
