"""The command line. `main` is the one funnel: every error becomes a message and an exit code here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from distribute_ssh.cli.app import App, write
from distribute_ssh.cli.program import program
from distribute_ssh.errors import DistributeError
from distribute_ssh.views.document import dump, error_document, of_error

INTERRUPTED = 130
BROKEN_PIPE = 141  # what the shell would say had SIGPIPE ended us


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see `distribute --help`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "_DISTRIBUTE_COMPLETE" in os.environ:
        program.main(given, prog_name="distribute", obj=App())  # click's own completion; it exits
    app = App()
    # Wrong arguments are found before `--json` among them is read; who asked for JSON gets JSON all the same.
    app.json = "--json" in given[: given.index("--")] if "--" in given else "--json" in given
    app.debug = "--debug" in given
    try:
        code = _invoke(given or ["--help"], app)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return _fail(app, error_document("interrupted", "interrupted"), INTERRUPTED)
    except click.ClickException as error:
        return _fail(app, error_document("usage", error.format_message(), _usage(error)), 2)
    except Exception as error:  # the last gate: nothing may leave as a traceback
        if app.debug:
            import traceback

            traceback.print_exc()
        return _answer(app, error)
    finally:
        app.close()


def _invoke(arguments: list[str], app: App) -> int:
    try:
        with program.make_context("distribute", arguments, obj=app) as context:
            if app.debug:
                import logging

                logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s: %(message)s")
            return program.invoke(context) or 0
    except click.exceptions.Exit as end:
        return end.exit_code


def _answer(app: App, error: Exception) -> int:
    if isinstance(error, ExceptionGroup):
        return _answer(app, error.exceptions[0])  # of tasks that ended together, the first is the cause
    if isinstance(error, DistributeError):
        return _fail(app, of_error(error), error.exit_code)
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return _fail(app, error_document("system", where + (error.strerror or str(error))), 1)
    if isinstance(error, UnicodeEncodeError) and isinstance(error.object, str):
        # Bytes that are no UTF-8 come in as names only, from the command line; the queue keeps text.
        return _fail(app, error_document("usage", f"{error.object[:60]!a} is no UTF-8, and so no name of ours"), 2)
    message = f"{type(error).__name__}: {error}"
    return _fail(app, error_document("bug", message, "this is a bug in distribute; --debug shows the traceback"), 1)


def _usage(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"{context.get_usage()}; more: {context.command_path} --help" if context else None


def _fail(app: App, content: dict[str, object], code: int) -> int:
    error = content["error"]
    assert isinstance(error, dict)
    hint = f"\n  {error['hint']}" if error["hint"] else ""
    try:
        write(sys.stderr, f"distribute: {error['message']}{hint}\n")
        if app.json:
            write(sys.stdout, dump(content) + "\n")
    except BrokenPipeError:
        return BROKEN_PIPE
    return code
