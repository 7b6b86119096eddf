"""A root of Debian trixie with apptainer, for machines unlike this computer. Made once, in two minutes, and kept."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from pathlib import Path

PLACE = Path("/var/cache/distribute-lab")
NAME = "trixie-1"  # another number for other contents
NEEDS = "openssh-server,python3-minimal,procps,iproute2,ca-certificates,make,gcc,libc6-dev"
ADDED = ("apptainer/sid", "squashfuse", "busybox-static")  # apptainer is in no stable release
LIMIT = 900.0  # seconds, for a mirror far away


def trixie() -> Path:
    """The root's folder, made where it is not there yet. Raises AssertionError with what went wrong.

    It is the lower folder of machines' overlays: nothing is ever written into it.
    """
    root = PLACE / NAME
    PLACE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several at once would make several
        if not root.exists():
            made = PLACE / f"{NAME}.new"
            if made.exists():
                shutil.rmtree(made)
            _make(made)
            made.rename(root)
    return root


def _make(root: Path) -> None:
    mirror = _mirror()
    _run("debootstrap", "--variant=minbase", f"--include={NEEDS}", "trixie", str(root), mirror)
    # A mirror that lags is older than apt would have it; its signature is checked all the same.
    (root / "etc/apt/sources.list.d/sid.list").write_text(f"deb [check-valid-until=no] {mirror} sid main\n")
    (root / "etc/apt/preferences.d/sid").write_text("Package: *\nPin: release a=unstable\nPin-Priority: 100\n")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    install = "apt-get -qq -o Dpkg::Use-Pty=0"
    added = f"{install} update && {install} install -y --no-install-recommends {' '.join(ADDED)}"
    _run("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", added)
    shutil.rmtree(root / "var/cache/apt")


def _mirror() -> str:
    """Where this computer's own packages come from."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "".join(file.read_text() for file in files if file.is_file())
    found = re.findall(r"^(?:URIs:|deb(?: \[.*\])?) *(\S+/debian)/?\s", text, re.MULTILINE)
    return found[0] if found else "http://deb.debian.org/debian"


def _run(*command: str) -> None:
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False)
    said = (ended.stdout + ended.stderr).decode(errors="replace")[-2000:]
    assert ended.returncode == 0, f"{' '.join(command)}: exit {ended.returncode}\n{said}"
