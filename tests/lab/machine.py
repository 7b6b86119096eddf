"""One machine of a lab: started, crashed, filled, and with programs and people in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.disk import BIN, Disk
from tests.lab.login import Login
from tests.lab.process import PATH, Process, detach, run
from tests.support import processes
from tests.support.sshd import public
from tests.support.wait import wait_for

BOOT = Path(__file__).with_name("boot.sh")
NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc")


class Machine:
    """All of it lies in `folder`, so that any process can take it up from there."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.name = folder.name
        self.address = address
        self.disk = Disk(folder / "upper")
        self.scratch = folder / "scratch"  # its /var/tmp, as seen from this computer, whether it runs or not
        self.log = folder / "log"  # its sshd's
        self._logins: list[Login] = []

    def build(
        self, hosts: Mapping[str, str], users: Mapping[str, str], key: Path, scratch: str, root: Path = Path("/")
    ) -> None:
        """Give it a disk over `root`, and a /var/tmp of `scratch` bytes (`256m`)."""
        for each in (self.folder, self.disk.upper, self.folder / "work", self.folder / "root", self.scratch):
            each.mkdir(mode=0o700)
        self.disk.write(self.name, hosts, users, key, root)
        (self.folder / "lower").write_text(str(root))
        (self.folder / "size").write_text(scratch)
        run("mount", "-t", "tmpfs", "-o", f"mode=1777,size={scratch}", self.name, self.scratch)
        # One page is always taken, as on every real file system: a tmpfs that is filled at size 0 would have no limit.
        (self.scratch / "lost+found").write_bytes(b"\0")
        (self.scratch / "lost+found").chmod(0o600)

    @property
    def host_key(self) -> str:
        """`TYPE KEY` of its public host key."""
        return public(self.disk.host_key)

    @property
    def boot_id(self) -> str:
        """The one of its last start."""
        return (self.folder / "boot_id").read_text().strip()

    # --- power ---

    @property
    def first(self) -> Process:
        """Its first process. Raises AssertionError where it does not run."""
        first = Process.written(self.folder / "first")
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        assert first is not None, f"{self.name} does not run: {said}"
        assert first.is_alive, f"{self.name} does not run: {said}"
        return first

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        first = Process.written(self.folder / "first")
        return first is not None and first.is_alive

    def start(self) -> Process:
        """Start it with a new boot id; returns its first process. `ready` waits for its sshd."""
        assert not self.is_up, f"{self.name} runs"
        (self.folder / "first").unlink(missing_ok=True)
        (self.folder / "on").touch()
        # A new file, not an empty one: what started it last time may have a last word, about its sudden end.
        self.log.unlink(missing_ok=True)
        self.log.touch()
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (self.folder / "boot_id").chmod(0o444)
        detach(
            [
                "unshare",
                *NAMESPACES,
                "--fork",
                "--propagation",
                "private",
                "sh",
                BOOT,
                self.folder,
                self.name,
                (self.folder / "lower").read_text(),
            ],
            self.log,
        )
        # What it says before that is a complaint.
        wait_for(lambda: (self.folder / "first").exists() or self.log.stat().st_size, f"{self.name} starts")
        return self.first

    def ready(self) -> None:
        """Wait until its sshd listens: by its own word, since newer ones punish whoever connects and leaves."""

        def decided() -> bool:
            return not self.is_up or b"Server listening" in self.log.read_bytes()

        wait_for(decided, f"the sshd of {self.name} listens")
        assert self.is_up, f"{self.name} did not start: {self.log.read_text(errors='replace')}"

    def kill(self) -> None:
        """End everything in it at once. Its files stay."""
        (self.folder / "on").unlink(missing_ok=True)
        if first := Process.written(self.folder / "first"):
            first.end()
        for login in self._logins:
            login.leave()
        self._logins.clear()

    # --- what is in it ---

    @property
    def root(self) -> Path:
        """Its root folder as seen from this computer. Absolute links in it lead astray."""
        return Path(f"/proc/{self.first.pid}/root")

    def command(self, argv: Sequence[str], user: str = "root") -> list[str]:
        """What to run on this computer for a program to run in there, past its network and sshd."""
        enter = ["nsenter", "--target", str(self.first.pid), *NAMESPACES]
        become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--reset-env"]
        return [*enter, *become, "env", f"PATH={BIN}:{PATH}", *argv]

    def exec(
        self, argv: Sequence[str], user: str = "root", *, text: str = "", check: bool = True, limit: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in there to its end, `text` being its input. `check`: it is to end with 0."""
        ended = subprocess.run(
            self.command(argv, user), check=False, input=text, capture_output=True, text=True, timeout=limit
        )
        said = f"{self.name}: {' '.join(argv)}: exit {ended.returncode}: {ended.stderr.strip()}"
        assert ended.returncode == 0 or not check, said
        return ended

    def processes(self) -> list[processes.Running]:
        """Everything that runs in it, by the numbers this computer has for it."""
        if not self.is_up:
            return []
        inside = os.readlink(f"/proc/{self.first.pid}/ns/pid")
        found = []
        for each in processes.everything():
            with contextlib.suppress(OSError):  # it has just ended
                if os.readlink(f"/proc/{each.pid}/ns/pid") == inside:
                    found.append(each)
        return found

    def pretend(self, name: str, script: str) -> None:
        """Put a program before all others of that name: an `nvidia-smi` that shows a GPU nobody has."""
        path = self.root / BIN.strip("/") / name
        path.write_text(script)
        path.chmod(0o755)

    def login(self, user: str) -> Login:
        """Let a person log in at its console; the session stays until `leave`, or until the machine crashes."""
        login = Login(self, user)
        self._logins.append(login)
        return login

    # --- its disk ---

    def fill(self) -> None:
        """Leave no free byte on its /var/tmp, by making that as small as what is in it."""

        def shrunk() -> bool:
            now = os.statvfs(self.scratch)
            return self._resize(str((now.f_blocks - now.f_bfree) * now.f_frsize))

        # It is refused where a job has written more between the look and the act.
        wait_for(shrunk, f"{self.name} is full")

    def unfill(self) -> None:
        """Undo `fill`."""
        assert self._resize((self.folder / "size").read_text())

    def _resize(self, size: str) -> bool:
        argv = ["mount", "-o", f"remount,size={size}", str(self.scratch)]
        return subprocess.run(argv, check=False, capture_output=True, timeout=60).returncode == 0


def missing() -> str | None:
    """Why this computer cannot have such machines, or None."""
    if os.geteuid() != 0:
        return "needs root"
    programs = ("ip", "unshare", "nsenter", "setsid", "setpriv", "script", "login", "sshd", "ssh", "ssh-keygen")
    if absent := [each for each in programs if shutil.which(each, path=PATH) is None]:
        return f"lacks {', '.join(absent)}"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], check=False, capture_output=True, timeout=60)
    return f"is not allowed to make namespaces: {tried.stderr.decode().strip()}" if tried.returncode else None
