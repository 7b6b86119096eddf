"""A slow line: what comes in at one network interface goes out at the other some time later, in both directions.

`python relay.py INTERFACE INTERFACE MILLISECONDS FILE`, by its path and with the standard library alone; it puts its
/proc/self/stat into FILE when it is at work. In place of the kernel's netem, which many kernels lack. Below TCP:
connections that are open already become slow too.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_VNET_HDR = 15  # frames come with what is still to be done to them: checksums, cutting to size
PACKET_IGNORE_OUTGOING = 23
LARGEST = 1 << 17
SO_RCVBUFFORCE = 33
BUFFER = 16 << 20
LOOK = 1.0  # seconds between looks whether the cable is there at all, when nothing comes


def tap(interface: str) -> socket.socket:
    """All frames that come in at an interface, and a way out of it."""
    side = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    side.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    side.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    side.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    side.bind((interface, 0))
    return side


def is_there(side: socket.socket) -> bool:
    """Whether its interface exists, up or down."""
    return bool(side.getsockname()[0])


def relay(one: socket.socket, other: socket.socket, delay: float) -> None:
    """Pass frames on, `delay` seconds after they came, as long as there are both interfaces."""
    beyond = {one: other, other: one}
    held: deque[tuple[float, socket.socket, bytes]] = deque()
    while True:
        pause = max(0.0, held[0][0] - time.monotonic()) if held else LOOK
        ready = select.select(beyond, [], [], pause)[0]
        # Whoever lays a cable may be killed before it knows our number: then nobody else ends us.
        if not ready and not held and not all(map(is_there, beyond)):
            return
        for side in ready:
            with contextlib.suppress(OSError):  # ENETDOWN, once: the cable was cut. It works again when mended.
                held.append((time.monotonic() + delay, beyond[side], side.recv(LARGEST)))
        while held and held[0][0] <= time.monotonic():
            _, side, frame = held.popleft()
            with contextlib.suppress(OSError):  # a frame that cannot go out is lost, as on any line
                side.send(frame)


if __name__ == "__main__":
    sides = tap(sys.argv[1]), tap(sys.argv[2])
    ready = Path(sys.argv[4])
    # Written beside and renamed: whoever sees the file sees all of it.
    beside = ready.with_name(ready.name + ".new")
    beside.write_text(Path("/proc/self/stat").read_text())
    os.replace(beside, ready)
    relay(*sides, float(sys.argv[3]) / 1000)
