"""A site for each test, on nodes that are real sshd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.endtoend.site import Site
from tests.support.lab import Lab


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A head without nodes; `site.node` and `site.local` add them."""
    lab = Lab(tmp_path / "lab")
    with TemporaryDirectory(prefix="distribute-site-") as public:
        made = Site(tmp_path / "site", lab, Path(public))
        yield made
        made.close()
    lab.close()
