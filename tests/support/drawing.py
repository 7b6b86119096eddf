"""The state drawings of the docs, made from the tables of `model.job`.

After a change to a table, `python -m tests.support.drawing` from the top of the repository draws them anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from distribute_ssh.model.job import (
    ATTEMPT_TRANSITIONS,
    BUILD_TRANSITIONS,
    OUTCOMES,
    TRANSITIONS,
    AttemptState,
    BuildState,
    State,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"
_S = TypeVar("_S", bound=StrEnum)


def drawing(table: Mapping[_S, Collection[_S]], start: _S, ends: Collection[_S] = ()) -> str:
    """A transition table as a mermaid drawing.

    The states `ends` become one box, and the arrows to it say which of them is meant; drawn one by one, they would
    cross the picture twenty times. What leads out of that box must be the same for all of them.
    """
    order = list(type(start))
    lines = ["stateDiagram-v2", "    direction TB", f"    [*] --> {start}"]
    for state in (state for state in order if state in table and state not in ends):
        followers = sorted(table[state], key=order.index)
        lines += [f"    {state} --> {to}" for to in followers if to not in ends]
        if outcomes := ", ".join(to for to in followers if to in ends):
            lines.append(f"    {state} --> ended: {outcomes}")
        if not followers:
            lines.append(f"    {state} --> [*]")
    if ends:
        ways_out = {frozenset(table[state]) for state in ends}
        assert len(ways_out) == 1, "the states that end go on in different ways: they cannot be one box"
        lines += [f"    ended --> {to}" for to in sorted(ways_out.pop(), key=order.index)]
    return "\n".join(lines) + "\n"


DRAWINGS = {
    "jobs": ("what-happens-when.md", drawing(TRANSITIONS, State.QUEUED, OUTCOMES)),
    "attempts": ("architecture.md", drawing(ATTEMPT_TRANSITIONS, AttemptState.PLACED)),
    "builds": ("architecture.md", drawing(BUILD_TRANSITIONS, BuildState.STARTING)),
}
"""By the name that stands in front of each: the page, and how it should be drawn."""


def frame(name: str) -> tuple[str, str]:
    """What stands before and after a drawing."""
    return f"<!-- drawn from the table: {name} -->\n```mermaid\n", "```\n"


def drawn(text: str, name: str) -> str:
    """The drawing of that name as a page has it. Raises ValueError if it has none."""
    before, after = frame(name)
    start = text.index(before) + len(before)
    return text[start : text.index(after, start)]


def main() -> None:
    """Draw all of them anew."""
    for name, (page, wanted) in DRAWINGS.items():
        before, _ = frame(name)
        path = DOCS / page
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(before + drawn(text, name), before + wanted), encoding="utf-8")


if __name__ == "__main__":
    main()
