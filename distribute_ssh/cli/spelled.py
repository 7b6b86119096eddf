"""A parsed command, written as a command line again: what is passed on is what was understood, not what was typed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from distribute_ssh.cli.app import App


def spelled(context: click.Context, app: App) -> list[str]:
    """The arguments of a command: its name, the options that were given, and its arguments behind `--`."""
    command = context.command
    found = context.command_path.split()[1:]
    found += [flag for flag, given in (("--json", app.json), ("--quiet", app.quiet)) if given]
    values: list[str] = []
    for parameter in command.params:
        value = context.params.get(parameter.name or "")
        if not parameter.expose_value or value is None:
            continue
        if isinstance(parameter, click.Argument):
            values += [str(each) for each in (value if isinstance(value, tuple) else (value,))]
        elif isinstance(parameter, click.Option) and _is_given(context, parameter):
            found += _option(parameter, value)
    return [*found, "--", *values] if values else found


def _is_given(context: click.Context, option: click.Option) -> bool:
    source = context.get_parameter_source(option.name or "")
    return source not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def _option(option: click.Option, value: Any) -> Iterator[str]:
    name = max(option.opts, key=len)
    for each in value if option.multiple else (value,):
        if option.is_flag:
            yield from [name] if each else option.secondary_opts[:1]
        else:
            yield f"{name}={each}"
