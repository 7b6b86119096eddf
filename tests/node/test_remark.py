"""What a script remarks on the failure of its payload: a last line, where it failed by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from distribute_ssh.node.link import Link
from tests.support.resident import Resident, job, new_token, resident
from tests.support.wait import until

REMARK = 'remark() { . "$lib/image.sh"; told "that was no good"; }\n'


@pytest.fixture
async def here(shell_link: Link, tmp_path: Path) -> AsyncIterator[Resident]:
    """A resident under each kind of /bin/sh that a node may have."""
    async with resident(shell_link, tmp_path) as opened:
        yield opened


async def test_a_remark_is_the_last_line_of_what_failed_and_changes_no_exit_code(here: Resident) -> None:
    for code, last in ((0, "hello"), (3, "distribute: that was no good")):
        token = new_token()
        assert await here.run(job(f"echo hello; exit {code}") + REMARK, token) == f"ended {code}"
        assert (here.home(token) / "output").read_text().splitlines()[-1] == last


async def test_who_was_killed_gets_no_remark(here: Resident) -> None:
    token = new_token()
    await here.start(token, job("echo hello; exec sleep 100", token=token) + REMARK)
    output = here.home(token) / "output"
    await until(lambda: output.exists() and output.read_text() == "hello\n", "it runs")
    assert await here.kill(token, grace=1) == "0"
    await here.event("exit", token)
    assert output.read_text() == "hello\n"
