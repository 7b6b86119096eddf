"""The one seam to a machine: a `Link` runs our fixed little shell program there and moves bytes.

Two implementations, `connection.SshLink` and `local.LocalLink`, keep the same promises (`tests/node/test_link.py`
runs on both). No user string ever is part of a command: what runs is the constant `BOOTSTRAP`, which reads one of
our own scripts from stdin up to the line `#EOS`; everything after that line is data for the script.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from distribute_ssh.node.files import Files

# Byte-wise `read` leaves stdin exactly behind the marker, which `sh -s` does not: dash and ash read ahead and would
# run the data as commands. Free of single quotes and `!`, so that fish and tcsh pass it on unharmed.
BOOTSTRAP = (
    'exec /bin/sh -c \'eval "$(while IFS= read -r l; do [ "$l" = "#EOS" ] && break; printf "%s\\n" "$l"; done)"\''
)
END_OF_SCRIPT = b"#EOS\n"


@dataclass(frozen=True, slots=True)
class Finished:
    """How a short command ended. `status` None: the line was lost and nobody knows; it is not success."""

    status: int | None
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether it ran to its end and said so."""
        return self.status == 0


class Process(Protocol):
    """A command under way at the far end, with flow control in both directions."""

    noise: bytes
    """The first that the account's start-up files printed before it began."""

    async def write(self, data: bytes) -> None:
        """Send to its stdin; waits while the far end is slow. Raises UnreachableError."""

    def write_eof(self) -> None:
        """Close its stdin."""

    async def read(self, size: int) -> bytes:
        """Up to `size` bytes of its stdout; b"" at the end. Raises UnreachableError."""

    async def readline(self) -> bytes:
        """One line with its newline, at most 64 KiB; a last piece without one means the end."""

    async def wait(self, limit: float) -> Finished:
        """Its end (stdout empty: it was read here; stderr's last 8 KiB)."""

    async def close(self) -> None:
        """End it: TERM, then KILL; never leaves a session slot taken."""


class Link(Protocol):
    """A way to one machine that is open until `close`."""

    node: str

    async def run(self, script: str, *, stdin: bytes = b"", limit: float = 30.0) -> Finished:
        """Run one of our scripts to its end. Raises UnreachableError when the line is lost or `limit` seconds pass.

        Whatever the account's rc files print before the script starts is cut off stdout.
        """

    def process(self, script: str) -> AbstractAsyncContextManager[Process]:
        """Start one of our scripts and talk to it; rc noise is cut off. It is ended when the block is left."""

    def files(self) -> AbstractAsyncContextManager[Files]:
        """The machine's files (SFTP, or this machine's own), for big files and where there is no tar."""

    @property
    def is_open(self) -> bool:
        """False once the machine was found to be gone."""

    async def close(self) -> None:
        """Close the connection; what runs on the node keeps running."""


def framed(script: str) -> tuple[bytes, bytes]:
    """Return the bytes that start `script` through BOOTSTRAP, and the marker of the line after which its stdout begins.

    Behind the marker stands the shell's process id. An rc file may print without a final newline: hence the newline
    before it.
    """
    marker = secrets.token_hex(12)
    head = f"printf '\\n%s %s\\n' {marker} $$\n{script}\n".encode()
    return head + END_OF_SCRIPT, marker.encode() + b" "


async def lines(process: Process) -> AsyncIterator[bytes]:
    """Every whole line a process prints; a torn last piece is dropped."""
    while (line := await process.readline()).endswith(b"\n"):
        yield line
