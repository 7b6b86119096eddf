"""Accounts with other login shells, made for a test and removed after it, also after one that was killed."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.sshd import public
from tests.support.wait import wait_for

PREFIX = "dstest-"


@dataclass(frozen=True)
class Account:
    """One of them."""

    name: str
    home: Path

    def write(self, name: str, text: str) -> None:
        """Put a file into its home."""
        path = self.home / name
        missing = [each for each in path.parents if not each.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        entry = pwd.getpwnam(self.name)
        for each in (path, *missing):
            os.chown(each, entry.pw_uid, entry.pw_gid)


@contextmanager
def account(shell: str, authorized: Path) -> Iterator[Account]:
    """An account whose login shell is the program `shell`; the key `authorized` opens it on every sshd of a lab."""
    name = f"{PREFIX}{Path(shell).name}-{os.getpid()}"
    # `*` in the place of a password: without PAM, sshd takes `!` for a locked account.
    subprocess.run(
        ["useradd", "-m", "-k", "/nonexistent", "-p", "*", "-s", shell, name], check=True, capture_output=True
    )
    made = Account(name, Path(pwd.getpwnam(name).pw_dir))
    try:
        made.write(".ssh/authorized_keys", public(authorized) + "\n")
        yield made
    finally:
        _remove(name)


def remove_leftovers() -> None:
    """Remove the accounts of runs that are no more."""
    if os.geteuid() != 0 or shutil.which("userdel") is None:
        return
    for entry in pwd.getpwall():
        if entry.pw_name.startswith(PREFIX) and not Path("/proc", entry.pw_name.rpartition("-")[2]).exists():
            _remove(entry.pw_name)


def _remove(name: str) -> None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return

    def gone() -> bool:
        found = [
            int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _owner(path) == entry.pw_uid
        ]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    wait_for(gone, f"nothing of {name} runs")
    # userdel has words for a mail spool that was never there.
    subprocess.run(["userdel", "-r", name], check=False, capture_output=True)


def _owner(path: Path) -> int | None:
    try:
        state = (path / "stat").read_text(errors="replace").rpartition(") ")[2][:1]
        return None if state in "ZX" else path.stat().st_uid
    except OSError:
        return None


def _remove_own() -> None:
    for entry in pwd.getpwall():
        if entry.pw_name.startswith(PREFIX) and entry.pw_name.endswith(f"-{os.getpid()}"):
            _remove(entry.pw_name)


atexit.register(_remove_own)
