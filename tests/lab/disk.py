"""What a new machine has on its disk beside what this computer has: users, keys, its name, its sshd's settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.process import PATH
from tests.support.sshd import SFTP_SERVERS, make_key, public

SERVICE = "distribute"
BIN = "/opt/lab/bin"  # first in PATH, for programs that are pretended
FIRST_UID = 7700


@dataclass(frozen=True)
class Disk:
    """`upper` is what the machine's overlay adds to this computer's root. Written before its first start only:
    a mounted overlay does not expect that."""

    upper: Path

    @property
    def host_key(self) -> Path:
        """The private host key."""
        return self.upper / "etc/ssh/lab_host_key"

    def write(
        self, name: str, hosts: Mapping[str, str], users: Mapping[str, str], key: Path, root: Path = Path("/")
    ) -> None:
        """Write it. `hosts`: addresses by name; `users`: login shells by name; `key` opens every account;
        `root`: what the overlay lies on."""
        self._folder("", 0o755)
        for folder in ("etc", "etc/ssh", "etc/pam.d", "opt", "opt/lab", BIN.strip("/")):
            self._folder(folder, 0o755)
        # Nobody's home is seen in a lab: without this the folders of this computer would shine through.
        for folder, mode in (("home", 0o755), ("root", 0o700)):
            os.setxattr(self._folder(folder, mode), "trusted.overlay.opaque", b"y")
        self._users(users, public(key), root)
        self._file("etc/hostname", [name])
        self._file("etc/hosts", ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in hosts.items())])
        # Whoever is let in by `login -f` is let in, whatever this computer asks of people.
        self._file("etc/pam.d/login", [f"{each} required pam_permit.so" for each in ("auth", "account", "session")])
        make_key(self.host_key)
        self._file("etc/ssh/lab_sshd_config", _sshd_config(root))

    def _users(self, users: Mapping[str, str], key: str, root: Path) -> None:
        passwd, group, shadow = (
            (root / "etc" / each).read_text().splitlines() for each in ("passwd", "group", "shadow")
        )
        taken = {int(line.split(":")[2]) for line in (*passwd, *group) if line.count(":") >= 3}
        free = (number for number in range(FIRST_UID, 65000) if number not in taken)
        passwd, group, shadow = (_without(users, lines) for lines in (passwd, group, shadow))
        for (name, shell), uid in zip(users.items(), free, strict=False):
            passwd.append(f"{name}:x:{uid}:{uid}:{name}:/home/{name}:{shell}")
            group.append(f"{name}:x:{uid}:")
            shadow.append(f"{name}:*:19000:0:99999:7:::")  # not `!`: without PAM sshd refuses who is locked
            home = self._folder(f"home/{name}", 0o700)
            ssh = self._folder(f"home/{name}/.ssh", 0o700)
            keys = self._file(f"home/{name}/.ssh/authorized_keys", [key], 0o600)
            for path in (home, ssh, keys):
                os.chown(path, uid, uid)
        self._file("etc/passwd", passwd)
        self._file("etc/group", group)
        self._file("etc/shadow", shadow, 0o600)

    def _folder(self, path: str, mode: int) -> Path:
        folder = self.upper / path
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)  # what mkdir is given, the umask changes
        return folder

    def _file(self, path: str, lines: Iterable[str], mode: int = 0o644) -> Path:
        file = self.upper / path
        file.write_text("".join(f"{line}\n" for line in lines))
        file.chmod(mode)
        return file


def _without(names: Iterable[str], lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.split(":", 1)[0] not in names]


def _sshd_config(root: Path) -> list[str]:
    """Whatever limits connections and sessions stays at its default: users will have that."""
    sftp = next((path for path in SFTP_SERVERS if (root / path.lstrip("/")).exists()), "internal-sftp")
    return [
        "HostKey /etc/ssh/lab_host_key",
        "PidFile none",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "LogLevel VERBOSE",
        f"SetEnv PATH={BIN}:{PATH}",
        f"Subsystem sftp {sftp}",
    ]
