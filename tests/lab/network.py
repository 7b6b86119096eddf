"""The network of a lab: a bridge, and from it a cable to each machine that can be cut, mended and made slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.lab.process import Process, detach, run
from tests.support.wait import wait_for

RELAY = Path(__file__).with_name("relay.py")


def ip(*lines: str) -> None:
    """Do what the lines say, as `ip` would each of them."""
    run("ip", "-batch", "-", text="\n".join(lines) + "\n")


class Bridge:
    """10.77.NUMBER.0/24: the head is .1, machine I is .(10 + I). There is no way out of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"lab{number}"

    def address(self, index: int = 0) -> str:
        """The address of a machine; 0 is the head, this computer."""
        return f"10.77.{self.number}.{10 + index if index else 1}"

    def mac(self, index: int = 0) -> str:
        """Its hardware address, always the same: one that comes back with another is not found for seconds."""
        return f"02:0a:4d:{self.number:02x}:00:{index:02x}"

    def up(self) -> None:
        """Make it."""
        ip(
            f"link add {self.name} address {self.mac()} type bridge stp_state 0 forward_delay 0",
            f"link set {self.name} addrgenmode none up",
            f"address add {self.address()}/24 dev {self.name}",
        )

    def down(self) -> None:
        """Remove it and every end of a cable that is left, whatever made them."""
        names = {path.name for path in Path("/sys/class/net").iterdir()}
        for name in sorted(each for each in names if each.rstrip("0123456789") in (f"{self.name}n", f"{self.name}r")):
            _remove(name)
        if self.name in names:
            _remove(self.name)


class Cable:
    """The line between the bridge and one machine. Its files are in the machine's folder."""

    def __init__(self, folder: Path, bridge: Bridge, index: int) -> None:
        self.bridge = bridge
        self.index = index
        self.port = f"{bridge.name}n{index}"  # the end at the bridge; the machine's end is its eth0
        self._near, self._far = f"{bridge.name}r{index}", f"{bridge.name}s{index}"  # around the relay, where it is slow
        self._cut = folder / "cut"
        self._slow = folder / "slow"
        self._relay = folder / "relay"

    def plug(self, machine: Process) -> None:
        """Lay the cable to a machine that has none; one that was cut or slow is so again."""
        ip(
            f"link add {self.port} type veth peer name eth0 address {self.bridge.mac(self.index)} netns {machine.pid}",
            f"link set {self.port} addrgenmode none",
        )
        inside = f"address add {self.bridge.address(self.index)}/24 dev eth0\nlink set eth0 up\n"
        run("nsenter", "--target", str(machine.pid), "--net", "ip", "-batch", "-", text=inside)
        self._connect()
        if not self._cut.exists():
            self.mend()

    def unplug(self) -> None:
        """Take it away with both its ends: nothing the machine still wants to say is ever heard."""
        self._disconnect()
        _remove(self.port)

    def cut(self) -> None:
        """Cut it. Nothing is reset, on neither side: what is sent vanishes."""
        self._cut.touch()
        if self._is_plugged:
            ip(f"link set {self.port} down")

    def mend(self) -> None:
        """Undo `cut`."""
        self._cut.unlink(missing_ok=True)
        if self._is_plugged:
            ip(f"link set {self.port} up")

    def slow(self, milliseconds: float) -> None:
        """Let everything take that much longer, in each direction. 0: as fast as ever."""
        self._slow.write_text(str(milliseconds))
        if self._is_plugged:
            self._disconnect()
            self._connect()

    @property
    def _is_plugged(self) -> bool:
        """Whether there is a machine at its end; what is done to a cable without one shows when it is laid anew."""
        return Path("/sys/class/net", self.port).exists()

    def _connect(self) -> None:
        delay = float(self._slow.read_text()) if self._slow.exists() else 0.0
        if not delay:
            ip(f"link set {self.port} arp on master {self.bridge.name}")
            return
        # Out of the bridge and without ARP: this computer would answer for itself there, past the relay.
        ip(
            f"link set {self.port} arp off nomaster",
            f"link add {self._near} type veth peer name {self._far}",
            f"link set {self._near} arp off addrgenmode none up",
            f"link set {self._far} master {self.bridge.name} addrgenmode none up",
        )
        detach([sys.executable, "-I", "-S", RELAY, self.port, self._near, str(delay), self._relay])
        wait_for(lambda: Process.written(self._relay), f"the relay of {self.port} is at work")

    def _disconnect(self) -> None:
        if relay := Process.written(self._relay):
            relay.end()
            self._relay.unlink()
            _remove(self._near)


def _remove(interface: str) -> None:
    # Gone already is fine: one end of a pair takes the other with it.
    subprocess.run(["ip", "link", "delete", interface], check=False, capture_output=True, timeout=60)
