"""Every command and option is in docs/commands.md, and nothing is there that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from distribute_ssh.cli.group import Family
from distribute_ssh.cli.program import program
from tests.cli.conftest import Call

DOCS = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
SHARED = {"--inventory", "--head", "--json", "-q", "--quiet", "--debug", "-h", "--help"}


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, Family):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*path, name))


COMMANDS = dict(walk(program, ("distribute",)))
LEAVES = {path: command for path, command in COMMANDS.items() if len(path) > 1}


def section(path: tuple[str, ...]) -> str:
    title = re.escape(" ".join(path))
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert found, f"docs/commands.md has no section `{' '.join(path)}`"
    return found[1]


def options(command: click.Command) -> set[str]:
    names = (name for each in command.params if isinstance(each, click.Option) for name in each.opts)
    return {name for name in names if name not in SHARED}


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_a_section_with_each_of_its_options(path: tuple[str, ...]) -> None:
    text = section(path)
    for name in options(LEAVES[path]):
        assert re.search(rf"{re.escape(name)}\b", text), f"{name} is not in the section of {' '.join(path)}"


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_the_docs_show_no_option_that_a_command_does_not_take(path: tuple[str, ...]) -> None:
    table = [line for line in section(path).splitlines() if line.startswith("| `-")]
    shown = {name for line in table for name in re.findall(r"`(--?[a-z-]+)", line.split("|")[1])}
    assert shown <= options(LEAVES[path])


def test_every_section_of_a_command_is_about_one_that_exists() -> None:
    shown = {tuple(title.split()) for title in re.findall(r"^## (distribute .*)$", DOCS, re.MULTILINE)}
    assert shown == set(LEAVES)


def test_the_options_of_every_command_are_in_the_docs() -> None:
    for name in SHARED:
        assert f"`{name}" in DOCS


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_and_takes_the_options_for_every_command(call: Call, path: tuple[str, ...]) -> None:
    answer = call(*path[1:], "--help")
    assert answer.code == 0
    assert COMMANDS[path].help
    for name in ("--inventory", "--json", "--quiet", "--debug"):
        assert name in answer.out


@pytest.mark.parametrize("path", [path for path, each in COMMANDS.items() if isinstance(each, Family)], ids=" ".join)
def test_the_line_about_a_command_is_one_sentence_that_fits(path: tuple[str, ...]) -> None:
    family = COMMANDS[path]
    assert isinstance(family, Family)
    for commands in family.sections.values():
        for _, line in commands.values():
            assert line.endswith(".")
            assert len(line) <= 60


def test_every_link_within_the_docs_leads_somewhere() -> None:
    titles = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^##? (.*)$", DOCS, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", DOCS)) <= titles
