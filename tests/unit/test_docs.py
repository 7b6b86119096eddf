"""The docs are true: links lead somewhere, drawings are current, what a newcomer is told to type works as told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute_ssh.cli.group import Family
from distribute_ssh.model import inventory
from distribute_ssh.model.job import AttemptState, BuildState, NodeState, State
from distribute_ssh.model.settings import Places
from tests.cli.test_documented import COMMANDS
from tests.support.drawing import DOCS, DRAWINGS, drawing, drawn

ROOT = DOCS.parent
PAGES = sorted(
    path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return FENCE.sub("", text)


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text) if found == language]


def section(text: str, title: str) -> str:
    _, _, rest = text.partition(f"\n## {title}\n")
    assert rest, f"there is no section {title!r}"
    return rest.partition("\n## ")[0]


# --- links ---


def anchors(page: Path) -> set[str]:
    """The fragments GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()) for title in titles)
    return {word.replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_or_a_heading_that_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{target} does not exist"
        assert there.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8"))
        waiting += [there for link in links if (there := (page.parent / link).resolve()) not in reached]
    assert set(PAGES) <= reached


# --- states ---


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_state_drawings_are_those_of_the_tables(name: str) -> None:
    page, wanted = DRAWINGS[name]
    assert drawn((DOCS / page).read_text(encoding="utf-8"), name) == wanted, "python -m tests.support.drawing"


def test_a_drawing_has_every_arrow_of_its_table_and_no_other() -> None:
    table = {
        AttemptState.PLACED: {AttemptState.STARTING, AttemptState.WIPED},
        AttemptState.STARTING: {AttemptState.WIPED, AttemptState.STALE},
        AttemptState.STALE: {AttemptState.PLACED},
        AttemptState.WIPED: {AttemptState.PLACED},
    }
    whole = drawing({**table, AttemptState.WIPED: set()}, AttemptState.PLACED).splitlines()
    assert whole[2:] == [
        "    [*] --> placed",
        "    placed --> starting",
        "    placed --> wiped",
        "    starting --> stale",
        "    starting --> wiped",
        "    stale --> placed",
        "    wiped --> [*]",
    ]
    ends = {AttemptState.STALE, AttemptState.WIPED}
    folded = drawing(table, AttemptState.PLACED, ends).splitlines()
    assert folded[3:] == [
        "    placed --> starting",
        "    placed --> ended: wiped",
        "    starting --> ended: stale, wiped",
        "    ended --> placed",
    ]


@pytest.mark.parametrize(
    ("title", "states"),
    [
        ("The states of a job", State),
        ("The states of a node", NodeState),
        ("The states of attempts and builds", [*AttemptState, *BuildState]),
    ],
)
def test_the_meaning_of_every_state_is_told(title: str, states: list[str]) -> None:
    text = section((DOCS / "what-happens-when.md").read_text(encoding="utf-8"), title)
    told = {name for line in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)}
    assert told == {str(state) for state in states}


# --- what is typed ---


OF_THE_ORIGINAL = {"distribute server", "distribute client", "distribute add --ip HEAD", "distribute add --dry"}
"""Its commands, where the two are compared."""


def shown(text: str) -> Iterator[str]:
    """Every command that a page shows, in its prose or as a line of a block, without what is said about it."""
    names = "|".join(path[1] for path in COMMANDS if len(path) == 2)
    for line in re.findall(rf"`(distribute [^`]*|(?:{names})(?: [^`]*)?)`", prose(text)):
        yield line if line.startswith("distribute ") else f"distribute {line}"
    for _, block in FENCE.findall(text):
        for line in re.findall(r"^(?:.*/)?(distribute [a-z-].*)", block, re.MULTILINE):
            yield re.split(r" #|  ", line)[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_long_option_that_is_shown_exists(page: Path) -> None:
    for line in set(shown(page.read_text(encoding="utf-8"))) - OF_THE_ORIGINAL:
        words = line.split()
        path: tuple[str, ...] = ()
        while words and (*path, words[0]) in COMMANDS:
            path = (*path, words.pop(0))
        takes_names = not isinstance(COMMANDS[path], Family)
        assert takes_names or not words or not words[0].islower() or words[0].startswith("-"), (
            f"no such command: {line}"
        )
        known = {name for each in COMMANDS[path].params for name in each.opts} | {"--help"}
        assert {word.rstrip(",.;") for word in words if re.match(r"--[a-z]", word)} <= known, line


def test_every_shell_block_of_the_docs_is_shell() -> None:
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "sh"):
            checked = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True, check=False, timeout=30)
            assert checked.returncode == 0, f"{page.name}: {checked.stderr}"


def test_the_readme_s_first_commands_are_there() -> None:
    first, *_ = blocks(README, "sh")
    for script in re.findall(r"^sh (\S+)", first, re.MULTILINE):
        assert (ROOT / script).is_file()


def test_the_readme_s_inventory_is_one(tmp_path: Path) -> None:
    [text] = blocks(section(README, "A lab of three machines"), "yaml")
    path = tmp_path / "inventory.yaml"
    path.write_text(text)
    read = inventory.read(path, Places.of({}, tmp_path))
    assert [node.name for node in read.nodes] == ["lab1", "lab2", "lab3"]


@pytest.mark.timeout(120)
def test_a_newcomer_who_types_the_readme_gets_what_it_says(tmp_path: Path) -> None:
    """The two sections after the quickstart, in one shell that stops at the first error, in an empty home."""
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "activate").write_text("PATH=$HOME/bin:$PATH\n")
    (home / "bin").mkdir(parents=True)
    command = home / "bin" / "distribute"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m distribute_ssh "$@"\n')
    command.chmod(0o755)
    told = [section(README, title) for title in ("Your first batch", "Looking, asking, mending")]
    script = "set -eu\n" + "".join(block for text in told for block in blocks(text, "sh"))
    # What holds without an inventory, but for the scratch folder: tests keep that to themselves.
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    own = home / ".config" / "distribute" / "inventory.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(f"nodes: [{{name: desk, connection: local, scratch: {scratch}}}]\n")
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh"], input=script, cwd=checkout, env=env, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = home / ".local" / "share" / "distribute" / "storage"
    layout = section(README, "Where the results are")
    for name in re.findall(r"^ +(\S+)", blocks(layout, "text")[0], re.MULTILINE):
        assert list(results.rglob(name.rstrip("/"))), f"{name} is not in storage"
    assert (results / "ana/pi/pi-1000/pi.txt").read_text().startswith("3.1405")
    assert "1000 terms" in done.stdout  # `logs`
    assert not list(scratch.glob("distribute-*/batches/*")), "the node was not wiped"
