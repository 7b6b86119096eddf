"""Bytes on their way: a line now and then on a pipe, and nothing for who wants to hear nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from distribute_ssh.cli.app import App
from distribute_ssh.cli.meter import SAYS_EVERY, Meter


def test_on_a_pipe_it_says_now_and_then_how_far_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for quiet, said in ((False, ["sending  30 MiB of 100 MiB  1 MiB/s  1m10s left"]), (True, [])):
        app = App()
        app.quiet = quiet
        with Meter(app) as shown:
            shown.tell("sending", 0, 100 << 20)
            now += SAYS_EVERY
            shown.tell("sending", 30 << 20, 100 << 20)
            now += SAYS_EVERY / 2
            shown.tell("sending", 60 << 20, 100 << 20)
        assert capfd.readouterr().err.splitlines() == said
