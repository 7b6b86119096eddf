"""Real OpenSSH servers on loopback: each with keys, a config and a log of its own, none of them the machine's."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support import processes
from tests.support.wait import wait_for

PROGRAM = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")


def make_key(path: Path, kind: str = "ed25519") -> Path:
    """A fresh private key without a passphrase; its public half lies beside it as `.pub`."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", path.name, "-f", path], check=True, timeout=30)
    return path


def public(key: Path) -> str:
    """`TYPE KEY` of a private key's public half."""
    return " ".join(key.with_name(key.name + ".pub").read_text().split()[:2])


def fingerprint(key: Path) -> str:
    """What a person compares: `SHA256:...`."""
    shown = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True, timeout=30).stdout
    return shown.split()[1]


class Sshd:
    """One sshd. `folder` holds all it needs; `client_key` opens the account of whoever runs the tests."""

    def __init__(
        self, folder: Path, client_key: Path, config: Sequence[str] = (), *, within: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.config = list(config)
        self.sftp = next((path for path in SFTP_SERVERS if Path(path).exists()), "internal-sftp")
        self.within = list(within)  # a command that runs it, as `unshare` does
        self.port = 0
        self.host_key = folder / "host_key"
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "authorized_keys").write_text(public(client_key) + "\n")
        if not self.host_key.exists():
            make_key(self.host_key)

    @property
    def known_hosts_line(self) -> str:
        """What a person who trusts it has in known_hosts."""
        return f"[127.0.0.1]:{self.port} {public(self.host_key)}"

    def start(self) -> None:
        """Start it and return when it listens; a port it had before is taken again."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        wanted = self.port
        for _ in range(20):
            self.port = wanted or _free_port()
            if self._listens():
                return
        raise AssertionError(f"sshd did not start: {self.log.read_text()}")

    def stop(self) -> None:
        """End it and every connection to it; what was started over them goes on."""
        if self._process is not None:
            sessions = self._sessions()
            self._process.kill()
            self._process.wait()
            self._process = None
            _kill(sessions)

    def kill_sessions(self) -> int:
        """`kill -9` every connection, as a crash or a cut would end it; how many processes that were."""
        return _kill(self._sessions())

    def sessions(self) -> int:
        """How many connections are open."""
        assert self._process is not None
        return len([each for each in processes.children(self._process.pid) if _is_sshd(each.pid)])

    def freeze(self) -> None:
        """Stop every connection as a machine that swaps would: open, and silent."""
        for pid in self._sessions():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        for pid in self._sessions():
            os.kill(pid, signal.SIGCONT)

    def _sessions(self) -> list[int]:
        # An unprivileged login has two processes one below the other. The commands below them are none of ours.
        assert self._process is not None
        found: list[int] = []
        above = [self._process.pid]
        while above:
            above = [each.pid for pid in above for each in processes.children(pid) if _is_sshd(each.pid)]
            found += above
        return found

    def _listens(self) -> bool:
        config = self.folder / "sshd_config"
        config.write_text(
            "\n".join(
                [
                    *self.config,  # the first value of a keyword is the one that counts
                    f"Port {self.port}",
                    "ListenAddress 127.0.0.1",
                    f"HostKey {self.host_key}",
                    # The second is for accounts that may not look into a folder of root's.
                    f"AuthorizedKeysFile {self.folder}/authorized_keys .ssh/authorized_keys",
                    f"PidFile {self.folder}/pid",
                    f"Subsystem sftp {self.sftp}",
                    "UsePAM no",
                    "StrictModes no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "LogLevel VERBOSE",
                    "",
                ]
            )
        )
        start = self.log.stat().st_size if self.log.exists() else 0
        # Tests that are killed leave no server behind: the kernel ends it with the process that started it.
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*guard, *self.within, str(PROGRAM), "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

        def decided() -> bool:
            # Its own word, not a probe of the port: newer ones punish whoever connects and leaves.
            return process.poll() is not None or b"Server listening" in self.log.read_bytes()[start:]

        wait_for(decided, "sshd listens")
        if process.poll() is not None:
            assert b"in use" in self.log.read_bytes()[start:], self.log.read_text()
            return False
        self._process = process
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_sshd(pid: int) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/exe")).name.startswith("sshd")
    except OSError:
        return False


def _kill(pids: list[int]) -> int:
    done = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            done += 1
    return done


def host_block(alias: str, port: int, key: Path, known_hosts: Path, *lines: str, user: str | None = None) -> str:
    """What a person would write in ~/.ssh/config for it."""
    block = [
        f"Host {alias}",
        "HostName 127.0.0.1",
        f"Port {port}",
        f"User {user or getpass.getuser()}",
        f"IdentityFile {key}",
        "IdentitiesOnly yes",
        f"UserKnownHostsFile {known_hosts}",
        *lines,
    ]
    return "\n    ".join(block) + "\n"
