"""A head for each test, or one for all of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.endtoend.site import Site
from tests.head.site import Head
from tests.support.lab import Lab


@contextmanager
def a_head(folder: Path, *config: str) -> Iterator[Head]:
    """A head with one node, itself, and the users ana and bob and the administrator eva; `config`: of its sshd."""
    lab = Lab(folder / "lab")
    with TemporaryDirectory(prefix="distribute-site-") as public:
        site = Site(folder / "site", lab, Path(public))
        made = Head(folder, lab, site, config)
        made.user("ana")
        made.user("bob")
        made.user("eva", "--admin")
        try:
            yield made
        finally:
            made.close()
            site.close()
            lab.close()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """A head."""
    with a_head(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head for tests that leave it as they found it."""
    with a_head(tmp_path_factory.mktemp("head")) as made:
        yield made
