"""What holds for every command: help, names, errors, exit codes, streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distribute_ssh.cli.app import App
from distribute_ssh.cli.program import program
from distribute_ssh.errors import DistributeError, HostKeyError, NoMatchError, StorageError, UnreachableError
from distribute_ssh.store.queue import Queue
from tests.cli.conftest import Call
from tests.store.makes import submitted


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distribute_ssh", *arguments]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_command_the_help_is_shown(call: Call) -> None:
    assert call().out == call("--help").out
    assert call().code == 0


def test_the_help_names_every_command_and_every_exit_code(call: Call) -> None:
    text = call("--help").out
    for name in program.list_commands(program.make_context("distribute", ["--help"], resilient_parsing=True)):
        assert f"\n  {name} " in text
    for code in (0, 1, 2, 3, 4, 5, 6, 130):
        assert f" {code}  " in text


@pytest.mark.parametrize(("typed", "meant"), [("statsu", "status"), ("explian", "explain"), ("node", "nodes")])
def test_an_unknown_command_is_answered_with_the_nearest(call: Call, typed: str, meant: str) -> None:
    answer = call(typed)
    assert (answer.code, answer.out) == (2, "")
    assert f"Did you mean {meant}" in answer.err


def test_an_unknown_option_is_answered_with_the_usage(call: Call) -> None:
    answer = call("status", "--wach")
    assert answer.code == 2
    assert "--watch" in answer.err
    assert "distribute status --help" in answer.err


@pytest.mark.parametrize("command", ["status", "history --user", "history --node", "pull", "explain lab/study"])
def test_a_name_that_is_no_text_is_a_mistake_and_no_bug(call: Call, queue: Queue, command: str) -> None:
    submitted(queue, "a")
    assert call(*command.split(), os.fsdecode(b"a\xff")).code in (2, 3)


def test_options_for_every_command_stand_before_it_or_after(call: Call) -> None:
    assert call("--json", "status").json == call("status", "--json").json == {"schema": 1, "batches": []}


def test_the_version_is_printed(call: Call) -> None:
    from distribute_ssh import __version__

    assert call("--version").out == f"distribute {__version__}\n"


@pytest.mark.parametrize("arguments", [["statsu"], ["status", "--nope"], ["run"], ["template", "docker"]])
def test_wrong_arguments_are_an_error_document_for_who_asked_for_json(call: Call, arguments: list[str]) -> None:
    answer = call(*arguments, "--json")
    assert answer.code == 2
    assert answer.json["error"]["kind"] == "usage"
    assert answer.json["error"]["message"] in answer.err


def test_json_after_two_dashes_is_a_name(call: Call) -> None:
    answer = call("status", "--", "--json")
    assert answer.code == 3
    assert answer.out == ""


ERRORS: list[tuple[Exception, int, str]] = [
    (NoMatchError("no such batch", hint="try demo"), 3, "no-match"),
    (UnreachableError("lab1: no answer"), 6, "unreachable"),
    (StorageError("full"), 6, "storage"),
    (ExceptionGroup("tasks", [HostKeyError("changed")]), 6, "host-key"),
    (DistributeError("something else"), 1, "error"),
    (OSError(28, "No space left on device", "/srv/x"), 1, "system"),
    (ZeroDivisionError("by zero"), 1, "bug"),
]


@pytest.mark.parametrize(("error", "code", "kind"), ERRORS)
def test_every_error_becomes_a_message_an_exit_code_and_a_document(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, kind: str
) -> None:
    def fail(_app: App) -> bool:
        raise error

    monkeypatch.setattr(App, "has_queue", property(fail))
    answer = call("status", "--json")
    assert answer.code == code
    assert answer.json["error"]["kind"] == kind
    assert answer.err.startswith("distribute: ")
    assert "Traceback" not in answer.err


def test_a_hint_is_printed_below_its_message(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_app: App) -> bool:
        raise NoMatchError("no such batch", hint="try demo")

    monkeypatch.setattr(App, "has_queue", property(fail))
    assert call("status").err == "distribute: no such batch\n  try demo\n"


def test_what_nobody_expected_is_called_a_bug_and_shown_in_full_with_debug(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_app: App) -> bool:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(App, "has_queue", property(fail))
    assert "--debug shows the traceback" in call("status").err
    assert "Traceback" in call("status", "--debug").err


def test_an_interrupt_ends_with_130(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_app: App) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(App, "has_queue", property(fail))
    assert call("status").code == 130


def test_a_reader_that_has_seen_enough_is_no_error(home: Path) -> None:
    script = f"{sys.executable} -m distribute_ssh template python --output - | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() in ("0", "141")
    assert done.stderr == ""


def test_the_module_is_the_program(home: Path) -> None:
    done = run("where", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["where"]["state"] == str(home / "state")


def test_a_home_that_is_not_absolute_is_refused(home: Path) -> None:
    done = run("status", DISTRIBUTE_HOME="relative")
    assert done.returncode == 2
    assert "DISTRIBUTE_HOME" in done.stderr


def test_words_go_to_stderr_and_data_to_stdout(call: Call) -> None:
    answer = call("status")
    assert answer.out == ""
    assert "no batches yet" in answer.err


def test_quiet_is_names_only(call: Call) -> None:
    answer = call("nodes", "-q")
    assert (answer.out, answer.err) == ("lab1\nlab2\nhere\n", "")


def test_colours_are_for_who_asks_for_them_on_a_pipe(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in call("nodes").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" in call("nodes").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in call("nodes").out
