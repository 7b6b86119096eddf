"""What several files of pure tests ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from distribute_ssh.store.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty one."""
    return Spool(tmp_path / "spool")
