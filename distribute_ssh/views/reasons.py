"""What a reason says to somebody who may not read what the job printed: a job's last line is a part of its log."""

from __future__ import annotations


def without_output(reason: str | None) -> str | None:
    """Our own words alone: `exit 3` of `exit 3: what it printed last`.

    They end at the first colon. Behind it stands what somebody else said: the job, its build, a node, a disk.
    """
    if not reason:
        return reason
    ours, colon, _ = reason.partition(": ")
    return f"trouble with {ours}" if colon and " " not in ours else ours  # `lab3: no such file` is about lab3
