"""How commands are found and told apart: by name and one line of help, imported only when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import click

EXIT_CODES = """\b
Exit codes:
    0  done; of `run`: every job is done
    1  some jobs failed, or the command did
    2  the request, the jobs file or the inventory is wrong
    3  nothing has that name
    4  no node can ever run this
    5  another coordinator drives the queue
    6  a node, the head or storage cannot be reached
  130  interrupted; what runs keeps running"""


def everywhere() -> list[click.Parameter]:
    """Options that every command takes, before its name or after."""
    return [
        click.Option(
            ["--inventory"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            expose_value=False,
            callback=_remember,
            help="Nodes and storage; else $DISTRIBUTE_INVENTORY, the config folder, /etc.",
        ),
        click.Option(
            ["--head"],
            metavar="USER@HOST",
            expose_value=False,
            callback=_remember,
            help="Act on that head; else $DISTRIBUTE_HEAD, the config file. none: here.",
        ),
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_remember, help="Print one JSON document on stdout."
        ),
        click.Option(
            ["-q", "--quiet"], is_flag=True, expose_value=False, callback=_remember, help="Print names, and no chat."
        ),
        click.Option(
            ["--debug"], is_flag=True, expose_value=False, callback=_remember, help="Show tracebacks and the log."
        ),
    ]


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name is not None and context.obj is not None:
        setattr(context.obj, parameter.name, value)


_SHARED = ("inventory", "head", "json", "quiet", "debug")


Sections = Mapping[str, Mapping[str, tuple[str, str]]]


class Verb(click.Command):
    """A command; its own options first in its help, those of all commands after them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(everywhere())
        if self.callback is not None:
            self.callback = partial(self.act, self.callback)

    def act(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do it: here, or on the head if there is one."""
        context = click.get_current_context()
        if context.invoked_subcommand is None and context.obj is not None and (head := context.obj.away):
            from distribute_ssh.cli.away import act

            return act(context.obj, head, context)
        return callback(*args, **kwargs)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the two groups of options."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                (shared if parameter.name in _SHARED else own).append(record)
        for title, records in (("Options", own), ("For every command", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Here(Verb):
    """A command about this machine, whatever head there is."""

    def act(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do it here."""
        return callback(*args, **kwargs)


class Family(Verb, click.Group):
    """A group of commands known by name before they are imported.

    `sections` maps a title to {name: (module below this package, one line of help)}; each module has one object named
    after the command, with `_` for `-`, and one more behind it where Python has something of that name.
    """

    sections: ClassVar[Sections] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Names in the order of the help."""
        return [name for commands in self.sections.values() for name in commands]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """Import the command of that name."""
        for commands in self.sections.values():
            if name in commands:
                module, _ = commands[name]
                holder = importlib.import_module(f"{__package__}.{module}")
                own = name.replace("-", "_")
                found = getattr(holder, own, None) or getattr(holder, f"{own}_")
                assert isinstance(found, click.Command)
                return found
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a name that does not exist is answered with the nearest ones."""
        name = args[0]
        if not name.startswith("-") and name not in (names := self.list_commands(ctx)):
            import difflib

            near = difflib.get_close_matches(name, names, 3, 0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"See {ctx.command_path} --help."
            raise click.UsageError(f"There is no command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options: who asks for help looks for a verb."""
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in commands.items()])
        super().format_options(ctx, formatter)
