"""A lab: several sshd as nodes, each with a scratch folder of its own, one ssh config and one inventory for all."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from distribute_ssh.errors import NodeError
from distribute_ssh.node.connection import Connector, KnownHosts, SshLink
from tests.support.sshd import Sshd, host_block, make_key


@dataclass(frozen=True)
class LabNode:
    """One of them."""

    name: str
    sshd: Sshd
    scratch: Path

    @property
    def room(self) -> Path:
        """Our folder on it."""
        return self.scratch / f"distribute-{os.getuid()}"


class Lab:
    """Nodes on loopback. Everything lies below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, LabNode] = {}
        self.ssh_config = folder / "ssh_config"
        self.known_hosts = folder / "known_hosts"
        self.own_known_hosts = folder / "own_known_hosts"
        self.blocks: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.key = make_key(folder / "id_lab")
        self.ssh_config.touch()

    def add(
        self,
        name: str,
        config: Sequence[str] = (),
        *,
        known: bool = True,
        ssh: Sequence[str] = (),
        within: Sequence[str] = (),
    ) -> LabNode:
        """Start a node.

        `config`: lines for its sshd; `ssh`: lines for its block; `known`: its host key is trusted; `within`: a command
        that runs its sshd.
        """
        sshd = Sshd(self.folder / name / "sshd", self.key, config, within=within)
        node = LabNode(name, sshd, self.folder / name / "scratch")
        node.scratch.mkdir()
        node.sshd.start()
        self.nodes[name] = node
        if known:
            self.know(node.sshd.known_hosts_line)
        self.block(name, host_block(name, node.sshd.port, self.key, self.known_hosts, *ssh))
        return node

    def know(self, line: str) -> None:
        """Put a line into known_hosts."""
        with self.known_hosts.open("a") as file:
            file.write(line + "\n")

    def block(self, name: str, text: str) -> None:
        """Put a `Host` block into the ssh config, in place of one of that name."""
        self.blocks[name] = text
        self.ssh_config.write_text("\n".join(self.blocks.values()))

    def inventory(self, storage: Path, *, slots: int = 1) -> str:
        """Text of an inventory with all of them."""
        nodes = [f"  - {{name: {n.name}, scratch: {n.scratch}, slots: {slots}}}" for n in self.nodes.values()]
        return "\n".join([f"storage: {storage}", f"ssh_config: {self.ssh_config}", "nodes:", *nodes, ""])

    def connector(self) -> Connector:
        """A connector that knows this lab."""
        return Connector(KnownHosts(self.own_known_hosts), config=self.ssh_config)

    @asynccontextmanager
    async def link(self, name: str) -> AsyncIterator[SshLink]:
        """A link to one node."""
        connector = self.connector()
        link = await connector.open(name, name)
        try:
            yield link
        finally:
            await link.close()
            await connector.close()

    async def works(self, name: str = "lab1") -> bool:
        """Whether a node can be reached and runs what it is told."""
        async with self.link(name) as link:
            return (await link.run("echo hello")).stdout == b"hello\n"

    async def refusal(self, name: str = "lab1") -> NodeError:
        """Why a node cannot be reached."""
        with pytest.raises(NodeError) as caught:
            await self.works(name)
        return caught.value

    def close(self) -> None:
        """Stop every server."""
        for node in self.nodes.values():
            node.sshd.stop()
