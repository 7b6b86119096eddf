"""What `recover` says before it asks."""

from __future__ import annotations

from typing import Any

from distribute_ssh.views.text import Column, safe, table


def plan_text(content: dict[str, Any], aside: str | None) -> str:
    """The batches that come back with how far their jobs are, and those that do not, with the reason.

    `aside`: what the queue that is there will be called.
    """
    rows = [
        (batch["name"], ", ".join(f"{number} {state}" for state, number in sorted(batch["counts"].items())))
        for batch in content["batches"]
    ]
    lines = [f"the queue {safe(content['queue'])}, as storage tells of it:\n"]
    lines.append(table([Column("BATCH"), Column("JOBS")], rows))
    lines += [f"not brought back: {safe(one['name'])}: {safe(one['reason'])}\n" for one in content["left"]]
    if any("lost" in batch["counts"] for batch in content["batches"]):
        lines.append("lost: a batch whose files are not here any more is to be submitted again\n")
    if aside:
        lines.append(f"the file that is there now is kept as {safe(aside)}\n")
    return "".join(lines)
