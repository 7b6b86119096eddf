"""How the head reaches the machines of a lab: a key, their host keys, an ssh config and an inventory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.lab.disk import SERVICE
from tests.lab.machine import Machine
from tests.support.sshd import make_key


class Access:
    """The files of it, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "id_lab"
        self.known_hosts = folder / "known_hosts"
        self.ssh_config = folder / "ssh_config"
        self.inventory = folder / "inventory.yaml"
        self.storage = folder / "storage"  # of that inventory
        self.home = folder / "home"  # a $DISTRIBUTE_HOME for those who play

    def make_key(self) -> None:
        """Make the folder, and in it the key that opens every account."""
        self.folder.mkdir(mode=0o700)
        make_key(self.key)

    def write(self, machines: Iterable[Machine], ssh: Iterable[str]) -> None:
        """Write the rest. `ssh`: lines for every machine's block of the ssh config."""
        machines = list(machines)
        self.known_hosts.write_text("".join(f"{each.name},{each.address} {each.host_key}\n" for each in machines))
        common = [
            f"User {SERVICE}",
            f"IdentityFile {self.key}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.known_hosts}",
            "StrictHostKeyChecking yes",
            *ssh,
        ]
        blocks = [[f"Host {each.name}", f"HostName {each.address}", *common] for each in machines]
        self.ssh_config.write_text("\n".join("\n    ".join(block) + "\n" for block in blocks))
        self.storage.mkdir()
        self.inventory.write_text(self.describe((each.name for each in machines), self.storage, {}, {}))
        # Who said `sudo python -m tests.lab up` goes on without sudo.
        owner = int(os.environ.get("SUDO_UID", "0"))
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, owner, -1)

    def describe(
        self, names: Iterable[str], storage: Path, defaults: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> str:
        """Text of an inventory. `defaults`: settings of all nodes; `settings`: of the whole file."""
        top = {"storage": str(storage), "ssh_config": str(self.ssh_config), **settings}
        top |= {"defaults": {"scratch": "/var/tmp", **defaults}, "nodes": list(names)}
        return "".join(f"{name}: {json.dumps(value)}\n" for name, value in top.items())
