"""What lies in a spool, and under which name."""

from __future__ import annotations

import hashlib

from distribute_ssh.store.spool import Spool


def sha(data: bytes) -> str:
    """The name of content."""
    return hashlib.sha256(data).hexdigest()


def content(spool: Spool) -> list[str]:
    """Every file in the spool but its lock."""
    return sorted(path.name for path in spool.root.rglob("*") if path.is_file() and path.name != "lock")
