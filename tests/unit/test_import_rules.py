"""Imports fall one way, decisions touch nothing of the outside, and the command starts without heavy packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "distribute_ssh"
# Each may import those of the lines before its own, and itself. What lies at the top and is not named here stands
# where `coordination` does.
LAYERS = [
    *({"errors"}, {"model"}, {"plan", "views"}, {"store", "node"}, {"storage"}),
    *({"coordination"}, {"cli", "api"}, {"__main__"}),
]
OUTSIDE = {"asyncio", "asyncssh", "click", "os", "rich", "socket", "sqlite3", "sqlite_utils", "subprocess", "time"}
PURE = [
    *("errors", "model", "plan", "views", "slurmscript"),
    *("node/wire", "node/shell", "node/container", "node/script", "node/probe", "node/activity"),
]
# They look for files and for the places where files are; live.py draws on a terminal.
IMPURE = {"model/fileref.py": {"os"}, "model/settings.py": {"os"}, "views/live.py": {"rich"}}
PLAIN = ["errors.py", "model/job.py", "model/layout.py", "model/names.py", "plan"]
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imported(module: str) -> Iterator[str]:
    """The full names of all that a module imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relative to itself"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(part: str) -> int:
    known = [number for number, names in enumerate(LAYERS) if part in names]
    return known[0] if known else layer("coordination")


def is_in(module: str, places: list[str]) -> bool:
    return any(module == place or module.startswith((f"{place}/", f"{place}.")) for place in places)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__.py"])
def test_imports_fall_one_way(module: str) -> None:
    own = module.partition("/")[0].removesuffix(".py")
    for name in imported(module):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if (
            package != "distribute_ssh"
            or other == own
            or not ((ROOT / other).is_dir() or (ROOT / f"{other}.py").exists())
        ):
            continue
        beside = layer(other) == layer(own) == layer("coordination")
        assert beside or layer(other) < layer(own), f"{module} must not import {name}"


@pytest.mark.parametrize("module", [module for module in MODULES if is_in(module, PURE)])
def test_decisions_and_words_touch_nothing_of_the_outside(module: str) -> None:
    found = {name.partition(".")[0] for name in imported(module)} & OUTSIDE
    assert found <= IMPURE.get(module, set())


@pytest.mark.parametrize("module", [module for module in MODULES if is_in(module, PLAIN)])
def test_nouns_and_decisions_need_the_standard_library_alone(module: str) -> None:
    found = {name.partition(".")[0] for name in imported(module)}
    assert found <= {*sys.stdlib_module_names, "distribute_ssh"}


def test_the_command_starts_without_heavy_packages() -> None:
    heavy = "{'asyncssh', 'asyncio', 'pydantic', 'rich', 'sqlite3', 'sqlite_utils', 'yaml'}"
    program = f"import sys, distribute_ssh.cli; print(*sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
