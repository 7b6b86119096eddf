"""Both kinds of link, under one name: what is promised of a link is promised of each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink

BOTH = [pytest.param("local", id="local"), pytest.param("ssh", id="ssh", marks=pytest.mark.sshd)]


@pytest.fixture(params=BOTH)
async def link(request: pytest.FixtureRequest) -> AsyncIterator[Link]:
    """A link to this machine, without and with sshd in between."""
    if request.param == "local":
        opened: Link = LocalLink("here")
        yield opened
        await opened.close()
        return
    lab = request.getfixturevalue("shared_lab")
    connector = lab.connector()
    opened = await connector.open("lab1", "lab1")
    yield opened
    await opened.close()
    await connector.close()
