"""What submitting would do (`run --plan`): who could run it, and what would be sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distribute_ssh.model.resources import Resources
from distribute_ssh.model.units import format_size
from distribute_ssh.views.text import Column, count, safe, table

SHOWN = 5  # nodes that can run jobs of one kind


def plan_text(plan: Mapping[str, Any], width: int | None = None) -> str:
    """The plan of a document, for people."""
    columns = [Column("NODE", gives=True), Column("RUNS IT"), Column("LACKS", gives=True)]
    nodes = table(columns, [_fit(node) for node in plan["nodes"]], width=width)
    lines = [f"{plan['batch']}: {count(plan['jobs'], 'job')}; needs {', '.join(plan['needs'])}"]
    for asked in plan["resources"]:
        words = Resources(**{key: value for key, value in asked.items() if key not in ("jobs", "nodes")}).words
        where = ", ".join([*asked["nodes"][:SHOWN], *(["..."] if len(asked["nodes"]) > SHOWN else [])])
        lines.append(f"  {count(asked['jobs'], 'job')} with {words}: {where or 'no node'}")
    lines += ["", nodes.rstrip("\n")]
    lines += ["", f"{count(plan['files'], 'file')}, {format_size(plan['bytes'])}; the largest:"]
    lines += [f"{format_size(each['bytes']):>10}  {safe(each['path'])}" for each in plan["largest"]]
    return "\n".join(lines) + "\n"


def _fit(node: Mapping[str, Any]) -> tuple[str, str, str]:
    if node["fits"] is None:
        return node["name"], "perhaps", "it was never asked: distribute nodes probe"
    return node["name"], "yes" if node["fits"] else "no", ", ".join(node["missing"])
