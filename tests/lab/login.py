"""A person at the console of a machine: a login with a terminal of its own, not by way of the network."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import TYPE_CHECKING

from tests.support.wait import wait_for

if TYPE_CHECKING:
    from tests.lab.machine import Machine


def console(user: str) -> list[str]:
    """What root runs in a machine to be that user on a new terminal, as `who` and `w` will show."""
    return ["env", "TERM=dumb", "script", "--quiet", "--return", "--command", f"login -f {user}", "/dev/null"]


class Login:
    """Somebody who is logged in. `terminal`: `pts/0`."""

    def __init__(self, machine: Machine, user: str) -> None:
        self.machine = machine
        self.user = user
        before = self._terminals()
        self._shown = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the session
        self._process = subprocess.Popen(
            machine.command(console(user)),
            stdin=subprocess.PIPE, stdout=self._shown, stderr=self._shown, start_new_session=True,
        )  # fmt: skip
        self.terminal = min(wait_for(lambda: self._terminals() - before, f"{user} is logged in at {machine.name}"))

    def _terminals(self) -> set[str]:
        listed = self.machine.exec(["ps", "-U", self.user, "-o", "tty="], check=False).stdout
        return set(listed.split()) - {"?"}

    def type(self, line: str) -> None:
        """Type a line and Enter."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def screen(self) -> str:
        """All that was shown so far, what was typed included."""
        # pread: the place in the file is shared with the terminal that writes there.
        shown = os.pread(self._shown.fileno(), os.fstat(self._shown.fileno()).st_size, 0)
        return shown.decode(errors="replace").replace("\r\n", "\n")

    def leave(self) -> None:
        """Log out; what runs in the foreground is to be ended before. Nothing happens where the session is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._shown.close()
