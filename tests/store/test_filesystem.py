from __future__ import annotations

from pathlib import Path

import pytest

from distribute_ssh.errors import StoreError
from distribute_ssh.store import filesystem
from distribute_ssh.store.filesystem import file_system, refusal, require_local
from distribute_ssh.store.queue import Queue

MOUNTS = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:25 / /home rw,relatime shared:5 - autofs systemd-1 rw,fd=31
31 30 0:50 / /home rw,relatime shared:9 - nfs4 server:/home rw,vers=4.2
32 21 0:51 / /mnt/two\040words rw shared:7 - cifs //server/share rw
33 21 0:52 / /mnt/laptop rw master:3 - fuse.sshfs ann@laptop:/ rw
34 21 8:2 / /srv rw,relatime - xfs /dev/sdb1 rw
35 34 0:53 / /srv/scratch rw - lustre mgs:/fs rw
36 21 0:54 / /strange rw - somethingfs none rw
37 21 0:55 / /merged rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/mnt/two\040words/up,workdir=/w
38 21 0:56 / /container rw - overlay overlay rw,lowerdir=/a,upperdir=/var/lib/docker/x/diff,workdir=/w
a line that is cut sh
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/var/lib/distribute", ("ext4", "/")),
        ("/", ("ext4", "/")),
        ("/home/ann", ("nfs4", "/home")),
        ("/homework", ("ext4", "/")),
        ("/mnt/two words/x", ("cifs", "/mnt/two words")),
        ("/srv", ("xfs", "/srv")),
        ("/srv/scratch/a/b", ("lustre", "/srv/scratch")),
        ("/container/x", ("overlay", "/container")),
        ("/merged/x", ("cifs", "/mnt/two words")),
    ],
)
def test_the_longest_mount_point_that_covers_a_path_tells_its_type(path: str, found: tuple[str, str]) -> None:
    assert file_system(MOUNTS, path) == found


def test_a_path_that_no_line_covers_is_not_judged() -> None:
    assert file_system("", "/x") is None
    assert refusal("", "/x") is None


@pytest.mark.parametrize("path", ["/var/lib", "/srv/q", "/container/q"])
def test_local_file_systems_are_accepted(path: str) -> None:
    assert refusal(MOUNTS, path) is None


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/home/ann", "nfs4, a network file system"),
        ("/mnt/two words", "cifs, a network file system"),
        ("/mnt/laptop/q", "fuse.sshfs, a FUSE file system"),
        ("/srv/scratch", "lustre, a network file system"),
        ("/merged/q", "cifs, a network file system"),
        ("/strange", "somethingfs, a file system not known"),
    ],
)
def test_network_and_unknown_file_systems_are_refused_by_name(path: str, word: str) -> None:
    told = refusal(MOUNTS, path)
    assert told is not None
    assert path in told
    assert word in told


def test_a_queue_on_a_network_file_system_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"{MOUNTS}50 21 0:99 / {tmp_path}/net rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(filesystem, "MOUNTINFO", mountinfo)
    (tmp_path / "net").mkdir()
    (tmp_path / "link").symlink_to("net")
    for folder in ("net", "net/not/yet/there", "link/there"):
        with pytest.raises(StoreError, match=r"(?s)nfs4.*DISTRIBUTE_HOME"):
            Queue.open(tmp_path / folder / "queue.db")
    assert list((tmp_path / "net").iterdir()) == []


def test_a_machine_without_mountinfo_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "MOUNTINFO", tmp_path / "none")
    require_local(tmp_path)
