"""A site whose nodes are the machines of a lab: one head with its queue and storage, and the real command."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

from tests.endtoend.site import Site
from tests.lab.lab import Lab
from tests.support import lab as loopback

# A machine that is silent is given up after two seconds, not after 48: the tests have less patience than people.
IMPATIENT = ("ServerAliveInterval 1", "ServerAliveCountMax 1")
# What lies in our folder on a node when nothing of ours goes on there.
FURNITURE = ("files", "attempts", "batches", "room", "lib-", "helm.")


class LabSite(Site):
    """Jobs note what they do, and wait at gates, in the window that the lab has to its machines."""

    def __init__(self, folder: Path, machines: Lab, **settings: Any) -> None:
        self.machines = machines
        super().__init__(folder, cast(loopback.Lab, machines.access), machines.window)
        for name in machines.machines:
            self.enter(name, scratch="/var/tmp", **settings)

    def room(self, node: str) -> Path:
        """Our folder on a machine, as seen from here whether it runs or not."""
        (found,) = self.machines.machines[node].scratch.glob("distribute-*")
        return found

    def remains(self) -> list[str]:
        """All that is left of any batch: files and folders on the machines, and processes in them but for sshd's."""
        rooms = [room for each in self.machines.machines.values() for room in each.scratch.glob("distribute-*")]
        odd = [str(path) for room in rooms for path in room.iterdir() if not path.name.startswith(FURNITURE)]
        return [*self.left(*rooms), *odd, *self.running()]

    def running(self) -> list[str]:
        """What runs on the machines beside sshd: jobs, and the shells that serve us."""
        return [
            f"{name}: {' '.join(each.command)}"
            for name, machine in self.machines.machines.items()
            for each in machine.processes()
            if each.command and "sshd" not in each.command[0]
        ]

    def nothing_runs_on(self, node: str) -> bool:
        """Whether no build and no job runs on a machine."""
        here = {each.pid for each in self.machines.machines[node].processes()}
        return not any(pid in here for pid, _ in self.processes())

    def is_unreachable(self, node: str) -> bool:
        """Whether a coordinator has written down that a machine does not answer."""
        return self.select("SELECT unreachable_since FROM nodes WHERE name = ?", node) not in ([], [(None,)])

    def is_connected(self, node: str) -> bool:
        """Whether a machine has answered, and since then was not found silent."""
        query = "SELECT last_seen, unreachable_since FROM nodes WHERE name = ?"
        return any(seen is not None and since is None for seen, since in self.select(query, node))

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """The queue, to be changed behind everybody's back: what nobody has the time to wait for."""
        with closing(sqlite3.connect(self.state / "queue.db", timeout=20)) as queue, queue:
            yield queue
