"""Which file system a path lies on, and whether SQLite's locks and our own can be trusted there.

SQLite does not fail loudly on a network file system: on sshfs, locks and inserts all seem to work, and NFS homes have
lost whole databases. So the type is looked up before anything is written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from distribute_ssh.errors import StoreError

MOUNTINFO = Path("/proc/self/mountinfo")

LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "ramfs", "tmpfs", "xfs", "zfs"})

NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
        "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "wekafs",
    }
)  # fmt: skip


def file_system(mountinfo: str, path: str) -> tuple[str, str] | None:
    """Type and mount point of what `path` (absolute, without links) lies on; None when no line covers it.

    `mountinfo` is the text of `/proc/self/mountinfo`.
    """
    best: tuple[str, str, str] | None = None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if not separator or len(left) < 5 or len(right) < 3:
            continue
        point = _unescape(left[4])
        # A later mount hides an earlier one of the same point (autofs and the NFS below it), hence <=.
        if _covers(point, path) and (best is None or len(best[1]) <= len(point)):
            best = (right[0], point, right[2])
    if best is None:
        return None
    kind, point, options = best
    if kind == "overlay" and (upper := re.search(r"(?:^|,)upperdir=([^,]+)", options)):
        # What is written to an overlay lands in its upper folder. In a container that folder is mostly out of sight.
        below = file_system("\n".join(_without_overlays(mountinfo)), _unescape(upper[1]))
        if below is not None and _distrusted(below[0]):
            return below
    return kind, point


def refusal(mountinfo: str, path: str) -> str | None:
    """Why the queue may not lie at `path`, in one sentence; None when it may."""
    found = file_system(mountinfo, path)
    if found is None or not _distrusted(found[0]):
        return None
    kind, point = found
    if kind in NETWORK:
        what = "a network file system, where two heads could write at once and the queue would be damaged"
    elif kind.startswith("fuse"):
        what = "a FUSE file system, whose locks protect nothing when another machine writes too"
    else:
        what = "a file system not known to keep SQLite's locks and writes safe"
    return f"the queue cannot be kept in {path}: {point} is {kind}, {what}"


def require_local(path: Path) -> None:
    """Raise StoreError unless the folder `path`, which need not exist yet, is on a local file system."""
    place = Path(os.path.realpath(path))
    while not place.exists():  # looking also makes the automounter mount what the list shall show
        place = place.parent
    try:
        mountinfo = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # no Linux, or no /proc: nothing to judge by
    if why := refusal(mountinfo, str(place)):
        raise StoreError(why, hint="Set DISTRIBUTE_HOME to a folder on a local disk, for example /var/lib/distribute.")


def _distrusted(kind: str) -> bool:
    return kind not in LOCAL and kind != "overlay"


def _covers(point: str, path: str) -> bool:
    return point in ("/", path) or path.startswith(point + "/")


def _without_overlays(mountinfo: str) -> list[str]:
    return [line for line in mountinfo.splitlines() if " - overlay " not in line]


def _unescape(text: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
