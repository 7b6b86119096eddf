"""`required_mounts:` of a jobs file: folders inside the container that a job may write to."""

from __future__ import annotations

from distribute_ssh.model.yamltext import Checker, Node, quoted

# An empty folder in the place of the last three stops every program.
_THERE = ("input", "distribute_save", "dev", "proc", "sys")
# What apptainer's --bind takes for the end of a path; it also takes off spaces.
_ENDS = frozenset(":,^")


def read(check: Checker, node: Node | None, path: str) -> tuple[str, ...]:
    """The folders as they were written, in their order."""
    found: dict[tuple[str, ...], str] = {}
    for here, item in check.items(node, path):
        text = check.line(item, here)
        if text is None:
            continue
        parts = tuple(part for part in text.split("/") if part not in ("", "."))
        odd = text.endswith(" ") or any(each in text for each in _ENDS)
        if not text.startswith("/") or ".." in parts or odd:
            what = f"{quoted(text)} must be a folder inside the container, from / on"
            check.problem(item, here, f"{what} and without ':', ',', '^', '..' and a space at its end")
        elif not parts or parts[0] in _THERE:
            check.problem(item, here, f"{quoted(text)} belongs to what every container has already", "remove it")
        elif parts in found:
            check.problem(item, here, f"{quoted(text)} is listed twice", "remove one of the two")
        else:
            found[parts] = text
    return tuple(found.values())
