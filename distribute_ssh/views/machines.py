"""What `nodes` and its verbs show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distribute_ssh.model.job import NodeState
from distribute_ssh.model.units import format_size
from distribute_ssh.views.text import Column, painted, safe, table
from distribute_ssh.views.times import ago, seconds

_COLOURS: dict[str, str] = {
    NodeState.UP: "green",
    NodeState.UNREACHABLE: "red",
    NodeState.DRAINED: "yellow",
    NodeState.PAUSED: "yellow",
    NodeState.PROBATION: "yellow",
}
_MARKS = {True: "ok", False: "NO", None: "!"}
_MARK_COLOURS = {"ok": "green", "NO": "red", "!": "yellow"}


def nodes_table(
    nodes: Sequence[Mapping[str, Any]], now: float, *, width: int | None = None, colour: bool = False
) -> str:
    """The nodes of a document, a line each."""
    columns = [
        Column("NODE", gives=True),
        Column("STATE", colour=_COLOURS.get),
        Column("JOBS", right=True),
        Column("CORES", right=True),
        Column("MEM", right=True),
        Column("GPU", gives=True),
        Column("LAST SEEN", right=True),
        Column("REASON", gives=True),
        Column("CAPABILITIES", gives=True),
    ]
    rows = [
        [
            node["name"],
            node["state"],
            f"{len(node['running'])}/{node['slots']}",
            str(node["cores"] or "?") if node["probed"] else "?",
            format_size(node["memory_mb"] << 20) if node["memory_mb"] else "?",
            gpus(node["gpus"]),
            ago(seconds(node["last_seen"]), now),
            node["reason"] or "",
            ",".join(node["capabilities"]),
        ]
        for node in nodes
    ]
    return table(columns, rows, width=width, colour=colour)


def gpus(found: Sequence[Mapping[str, Any]]) -> str:
    """`2x NVIDIA A100 80GB, 1 used`, by others; `-` for none."""
    if not found:
        return "-"
    models = {gpu["model"] or "GPU" for gpu in found}
    used = sum(gpu.get("used_by") is not None for gpu in found)
    return f"{len(found)}x {models.pop() if len(models) == 1 else 'GPU'}" + (f", {used} used" if used else "")


def probed_text(answers: Mapping[str, str | None]) -> str:
    """What came of a probe, a line for each node."""
    wide = max(map(len, answers), default=0)
    lines = []
    for name, error in answers.items():
        first, *more = (error or "ok").splitlines()
        lines += [f"{name:{wide}}  {safe(first)}", *(f"{'':{wide}}  {safe(line)}" for line in more)]
    return "".join(f"{line}\n" for line in lines)


def check_line(node: str, step: str, ok: bool | None, text: str, remedy: str | None, *, colour: bool = False) -> str:
    """One check of `nodes doctor`, with what to do about it."""
    mark = painted(f"{_MARKS[ok]:2}", _MARK_COLOURS[_MARKS[ok]] if colour else None)
    line = f"{safe(node)}  {mark}  {step}: {safe(text)}\n"
    return line + (f"    {safe(remedy)}\n" if remedy else "")
