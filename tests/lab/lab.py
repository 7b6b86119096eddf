"""A lab: several really separate machines on this computer, and all that can happen to them.

Each is a process tree in namespaces of its own, on this computer's root file system (what it writes stays its own),
with a host name, an address, users, and sshd as its first process. Kernel, cores and memory are common to all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.access import Access
from tests.lab.claim import Claim, used
from tests.lab.disk import SERVICE
from tests.lab.login import Login
from tests.lab.machine import Machine
from tests.lab.network import Bridge, Cable
from tests.lab.process import detach, run

CHECKOUT = Path(__file__).parents[2]
USERS = {SERVICE: "/bin/sh", "ana": "/bin/bash"}


class Lab:
    """The lab of a number, there or to be made; its verbs can be said from any process of root's."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.folder = claim.folder
        self.bridge = Bridge(claim.number)
        self.access = Access(self.folder / "access")
        self.window = self.folder / "window"  # every machine has it too, under this very path: for what jobs note
        self.machines: dict[str, Machine] = {}
        self.cables: dict[str, Cable] = {}
        while (self.folder / f"node{len(self.machines) + 1}").exists():
            self._add()

    def _add(self) -> None:
        index = len(self.machines) + 1
        name = f"node{index}"
        self.machines[name] = Machine(self.folder / name, self.bridge.address(index))
        self.cables[name] = Cable(self.folder / name, self.bridge, index)

    # --- all of it ---

    @classmethod
    def up(
        cls,
        count: int,
        *,
        users: Mapping[str, str] | None = None,
        scratch: str = "256m",
        ssh: Iterable[str] = (),
        keep: bool = False,
        root: Path = Path("/"),
    ) -> Self:
        """Bring up `node1` ... `nodeCOUNT`; returns when every sshd listens.

        `users`: login shells by name, over the usual ones; `scratch`: the size of every /var/tmp; `ssh`: lines for
        every block of the ssh config; `keep`: it stays, where else it ends with this process, whatever way that ends;
        `root`: what the machines are like, if not this computer (`trixie.trixie()`).
        """
        take_down_leftovers()
        lab = cls(Claim.first())
        try:
            lab._make(count, {**USERS, **(users or {})}, scratch, keep, root)
            lab.access.write(lab.machines.values(), ssh)
        except BaseException:  # also a Ctrl-C: there would be half a lab
            lab.down()
            raise
        if keep:
            lab.claim.release()
        return lab

    def _make(self, count: int, users: Mapping[str, str], scratch: str, keep: bool, root: Path) -> None:
        self.folder.mkdir()
        if not keep:
            detach([sys.executable, "-m", "tests.lab", "attend", str(self.claim.number)], cwd=CHECKOUT)
        # A file system of its own: an overlay on `/` cannot have its upper folder in there.
        run("mount", "-t", "tmpfs", "-o", "mode=755", self.bridge.name, self.folder)
        if keep:
            self.claim.keep()
        self.access.make_key()
        self.window.mkdir()
        self.bridge.up()
        for _ in range(count):
            self._add()
        hosts = {"head": self.bridge.address()} | {name: each.address for name, each in self.machines.items()}
        for name, machine in self.machines.items():
            machine.build(hosts, users, self.access.key, scratch, root)
            self.cables[name].plug(machine.start())
        for machine in self.machines.values():
            machine.ready()

    def down(self) -> None:
        """Take down all of it, or what there is of it."""
        for name, machine in self.machines.items():
            self.cables[name].unplug()
            machine.kill()
        self.bridge.down()
        # All that is mounted below, from the innermost on. Lazily: a machine that another lab starts just now has
        # copies of these mounts for some milliseconds.
        mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for place in reversed([each for each in mounted if Path(each).is_relative_to(self.folder)]):
            run("umount", "--lazy", place)
        if self.folder.exists():
            self.folder.rmdir()
        self.machines.clear()
        self.cables.clear()
        self.claim.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- what can happen to a machine ---

    def cut(self, node: str) -> None:
        """Pull its network cable. Nothing is reset, on neither side: what is sent vanishes."""
        self.cables[node].cut()

    def mend(self, node: str) -> None:
        """Put the cable back in."""
        self.cables[node].mend()

    def slow(self, node: str, milliseconds: float) -> None:
        """Let all that is sent to it and by it take that much longer, each way; 0 ends it."""
        self.cables[node].slow(milliseconds)

    def crash(self, node: str) -> None:
        """Pull its power cable: everything in it ends at once, nobody is told, its files stay."""
        self.cables[node].unplug()
        self.machines[node].kill()

    def start(self, node: str) -> None:
        """Switch it on after a crash, with another boot id; a cable that was cut or slow still is."""
        machine = self.machines[node]
        self.cables[node].plug(machine.start())
        machine.ready()

    def reboot(self, node: str) -> None:
        """Press its reset button."""
        self.crash(node)
        self.start(node)

    def fill(self, node: str) -> None:
        """Leave no free byte on its /var/tmp."""
        self.machines[node].fill()

    def unfill(self, node: str) -> None:
        """Give it its room back."""
        self.machines[node].unfill()

    def login(self, node: str, user: str = "ana") -> Login:
        """Let a person sit down at it and log in."""
        return self.machines[node].login(user)

    def exec(
        self, node: str, argv: Sequence[str], user: str = "root", *, text: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in it, past its network and sshd; `text` is its input. `check`: it is to end with 0."""
        return self.machines[node].exec(argv, user, text=text, check=check)

    def pretend(self, node: str, name: str, script: str) -> None:
        """Put a program before all others of that name: an `nvidia-smi` that shows a GPU nobody has."""
        self.machines[node].pretend(name, script)

    # --- from the head ---

    def ssh(self, node: str, *command: str, user: str = SERVICE) -> list[str]:
        """What to run for a command over ssh."""
        return ["ssh", "-F", str(self.access.ssh_config), "-l", user, node, *command]

    def inventory(self, storage: Path, *, defaults: Mapping[str, Any] | None = None, **settings: Any) -> str:
        """Text of an inventory with all machines. `defaults`: settings of all nodes; `settings`: of the whole file."""
        return self.access.describe(self.machines, storage, defaults or {}, settings)


def labs(number: int | None = None) -> list[Lab]:
    """All there are, or the one of a number."""
    return [Lab(Claim(each)) for each in used() if number in (None, each)]


def take_down_leftovers() -> None:
    """Take down every lab whose maker is gone, but those that are kept."""
    for lab in labs():
        if not lab.claim.is_kept and lab.claim.take():
            lab.down()


def attend(number: int) -> None:
    """Wait for the end of a lab's maker, and take the lab down if that did not."""
    claim = Claim(number)
    claim.take(wait=True)
    if claim.is_used and not claim.is_kept:
        Lab(claim).down()
    claim.release()
