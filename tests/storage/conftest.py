"""The ways results can take: from this machine or over sshd, into a folder or into an SFTP server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from distribute_ssh.node.files import LocalFiles
from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink
from distribute_ssh.storage.disk import LocalStorage
from distribute_ssh.storage.folder import Storage, open_storage
from distribute_ssh.storage.remote import SftpStorage
from tests.storage.places import Node, Route, connecting

ROUTES = [
    pytest.param("local-folder", id="local to a folder"),
    pytest.param("local-files", id="local to one file at a time"),
    pytest.param("ssh-folder", id="ssh to a folder", marks=pytest.mark.sshd),
    pytest.param("ssh-sftp", id="ssh to sftp", marks=pytest.mark.sshd),
]


@pytest.fixture(params=ROUTES)
async def route(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Route]:
    """What is promised of archiving is promised on each."""
    source, target = request.param.split("-")
    node, store = Node(tmp_path / "node"), tmp_path / "store"
    (node.root / "attempts").mkdir(parents=True)
    store.mkdir()
    async with AsyncExitStack() as opened:
        link: Link = LocalLink("here")
        if source == "ssh":
            connect = await opened.enter_async_context(connecting(request.getfixturevalue("shared_lab")))
            link = await connect("lab1", user=None, port=None)
        opened.push_async_callback(link.close)
        storage: Storage = LocalStorage(store)
        if target == "files":
            storage = SftpStorage(LocalFiles(), str(store).encode(), str(store))
        elif target == "sftp":
            storage = await opened.enter_async_context(open_storage(f"sftp://lab1{store}", connect))
        yield Route(link, node, storage, store)


@pytest.fixture
def local(tmp_path: Path) -> Route:
    """The shortest way, where the way does not matter."""
    node, store = Node(tmp_path / "node"), tmp_path / "store"
    (node.root / "attempts").mkdir(parents=True)
    store.mkdir()
    return Route(LocalLink("here"), node, LocalStorage(store), store)
