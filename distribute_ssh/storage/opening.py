"""The storage an inventory names, opened by who comes for a moment: with a connection of its own where it needs one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from distribute_ssh.storage.folder import Storage, open_storage

if TYPE_CHECKING:
    from distribute_ssh.model.inventory import Inventory
    from distribute_ssh.model.settings import Places
    from distribute_ssh.node.link import Link


@asynccontextmanager
async def open_named(inventory: Inventory, places: Places) -> AsyncIterator[Storage]:
    """Open the inventory's storage. Raises StorageError, and what `open_storage` does."""
    if not inventory.storage.startswith("sftp://"):  # the SSH library is slow to import
        async with open_storage(inventory.storage) as storage:
            yield storage
        return
    from distribute_ssh.node.connection import Connector, KnownHosts

    connector = Connector(KnownHosts(places.known_hosts), inventory.ssh_config)

    async def connect(host: str, *, user: str | None, port: int | None) -> Link:
        return await connector.open("storage", host, user=user, port=port)

    try:
        async with open_storage(inventory.storage, connect) as storage:
            yield storage
    finally:
        await connector.close()
