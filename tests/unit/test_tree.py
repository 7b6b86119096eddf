"""Folders as archives: the same content is the same bytes, and no link leads out."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distribute_ssh.errors import UsageError
from distribute_ssh.store import tree
from distribute_ssh.store.spool import Spool
from tests.support.spools import content

Shape = dict[bytes, tuple[str, bytes]]
"""A tree as data: name to (kind, content or target)."""


def shape(root: Path) -> Shape:
    found: Shape = {}
    base = os.fsencode(root)
    for folder, folders, files in os.walk(base):
        for name in folders + files:
            path = os.path.join(folder, name)
            key = os.path.relpath(path, base)
            if os.path.islink(path):
                found[key] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                found[key] = ("folder", b"")
            else:
                mode = "program" if os.stat(path).st_mode & 0o100 else "file"
                with open(path, "rb") as file:
                    found[key] = (mode, file.read())
    return found


def packed(root: Path) -> bytes:
    out = io.BytesIO()
    tree.pack(os.fsencode(root), out)
    return out.getvalue()


def odd_tree(root: Path) -> None:
    base = os.fsencode(root)
    os.makedirs(base + b"/sub/empty folder")
    names = [b"plain", b"with space", b"new\nline", b"-rf", b"quo'te\"", b"back\\slash", b"; touch HACKED", b"star*"]
    names += [b"\xff\xfe not utf-8", b"\xc3\xa9", b".hidden", b"tab\there", b"x" * 255, b"sub/" + b"y" * 200]
    for name in names:
        with open(base + b"/" + name, "wb") as file:
            file.write(name * 3)
    deep = base
    for _ in range(60):
        deep += b"/deep folder"
        os.mkdir(deep)
    with open(deep + b"/leaf", "wb") as file:
        file.write(b"leaf")
    os.chmod(base + b"/plain", 0o4751)
    os.symlink(b"../with space", base + b"/sub/link")
    os.symlink(b"not there", base + b"/dangling")
    os.symlink(b"loop", base + b"/loop")
    os.symlink(b".", base + b"/self")
    os.symlink(b"\xff\xfe not utf-8", base + b"/link \xff")
    os.symlink(b"sub/" + b"y" * 200, base + b"/long link")


@pytest.mark.parametrize("program", ["tar", "busybox"])
def test_a_folder_comes_out_of_tar_as_it_went_in(program: str, spool: Spool, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}")
    root = tmp_path / "tree"
    root.mkdir()
    odd_tree(root)
    blob = spool.add_tree(root)
    assert blob.size == spool.path_of(blob.sha256).stat().st_size
    out = tmp_path / "out"
    out.mkdir()
    command = [program] if program == "tar" else [program, "tar"]
    subprocess.run([*command, "-xf", spool.path_of(blob.sha256), "-C", out], check=True, capture_output=True)
    assert shape(out) == shape(root)
    assert stat.S_IMODE((out / "plain").stat().st_mode) == 0o755


def test_the_same_content_is_the_same_archive_wherever_and_whenever(tmp_path: Path) -> None:
    for n, name in enumerate(("one", "two")):
        root = tmp_path / name
        root.mkdir()
        for file in ("a", "b", "c") if n else ("c", "b", "a"):
            (root / file).write_text(file)
            os.utime(root / file, (n * 1000, n * 1000))
        (root / "a").chmod(0o600 if n else 0o644)
        (root / "folder").mkdir(mode=0o700 if n else 0o755)
    assert packed(tmp_path / "one") == packed(tmp_path / "two")


@pytest.mark.parametrize("change", ["content", "name", "executable", "folder", "link"])
def test_other_content_is_another_archive(change: str, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "a").write_text("a")
    before = packed(root)
    if change == "content":
        (root / "a").write_text("b")
    elif change == "name":
        (root / "a").rename(root / "b")
    elif change == "executable":
        (root / "a").chmod(0o755)
    elif change == "folder":
        (root / "empty").mkdir()
    else:
        (root / "l").symlink_to("a")
    assert packed(root) != before


def test_an_archive_says_nothing_of_owners_and_times(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "f").touch()
    with tarfile.open(fileobj=io.BytesIO(packed(root))) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["sub", "sub/f"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 946684800)}


def test_an_empty_folder_is_an_empty_archive_that_tar_accepts(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    listed = subprocess.run(["tar", "-tf", "-"], input=packed(tmp_path / "tree"), capture_output=True, check=True)
    assert listed.stdout == b""


def test_a_folder_named_by_a_link_is_what_the_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("x")
    (tmp_path / "link").symlink_to("tree")
    assert packed(tmp_path / "link") == packed(tmp_path / "tree")


@pytest.mark.parametrize(
    ("links", "fine"),
    [
        ({"sub/l": "../f"}, True),
        ({"l": "nowhere"}, True),
        ({"l": "."}, True),
        ({"sub/l": ".."}, True),
        ({"l": "sub/../sub/./../f"}, True),
        ({"l": "l"}, True),
        ({"a": "b", "b": "a"}, True),
        ({"sub/up": "..", "l": "sub/up/sub/up/f"}, True),
        ({"l": ".."}, False),
        ({"l": "/etc/passwd"}, False),
        ({"l": "../outside"}, False),
        ({"l": "../tree/f"}, False),
        ({"sub/l": "../../outside"}, False),
        ({"l": "nowhere/../../outside"}, False),
        ({"sub/up": "..", "sub/l": "up/../outside"}, False),
        ({"sub/up": "..", "l": "sub/up/.."}, False),
    ],
)
def test_links_stay_links_if_they_stay_inside(links: dict[str, str], fine: bool, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "f").touch()
    (tmp_path / "outside").touch()
    for name, target in links.items():
        (root / name).symlink_to(target)
    if fine:
        with tarfile.open(fileobj=io.BytesIO(packed(root))) as archive:
            assert {m.name: m.linkname for m in archive if m.issym()} == links
    else:
        with pytest.raises(UsageError, match=r"the link .* leads out of") as caught:
            packed(root)
        assert "relative link that stays inside" in str(caught.value)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_a_link_is_taken_for_inside_only_if_the_kernel_finds_it_there(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever links there are: where all of them are accepted, none of them leads out of a copy elsewhere."""
    root = tmp_path_factory.mktemp("links") / "deep" / "tree"
    (root / "a" / "b").mkdir(parents=True)
    step = st.sampled_from(["..", "a", "b", "l", "m", "n", "."])
    for name in ("l", "a/m", "a/b/n"):
        (root / name).symlink_to("/".join(data.draw(st.lists(step, min_size=1, max_size=5))))
    try:
        archive = packed(root)
    except UsageError:
        return
    copy = root.parent.parent / "other" / "name"
    copy.mkdir(parents=True)
    subprocess.run(["tar", "-xf", "-", "-C", copy], input=archive, check=True)
    for name in ("l", "a/m", "a/b/n"):
        with contextlib.suppress(OSError):  # a loop, or nothing: the kernel finds no other place there
            assert Path(os.path.realpath(copy / name, strict=True)).is_relative_to(copy)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_cannot_be_sent_is_named(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    odd = root / "sub" / "odd\n\x1b[31m"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(odd))
    with pytest.raises(UsageError, match="is a device, a pipe or a socket") as caught:
        packed(root)
    assert repr(str(odd)) in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()


class Meddler(io.BytesIO):
    """Does something to the tree as soon as the first bytes of it arrive."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def write(self, data: object, /) -> int:
        self.act()
        return super().write(data)  # type: ignore[arg-type]


def test_a_file_that_becomes_shorter_while_it_is_packed_is_said_to_have_changed(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    big = root / "big"
    big.write_bytes(b"x" * 1_000_000)
    with pytest.raises(UsageError, match=r"big' changed while it was read"):
        tree.pack(os.fsencode(root), Meddler(lambda: os.truncate(big, 10)))


def test_a_tree_that_changes_between_the_readings_is_refused(spool: Spool, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "f").write_text("before")
    with pytest.raises(UsageError, match=r"tree' changed while it was read"):
        spool.add_tree(root, lambda count: (root / "f").write_text("after!"))
    assert content(spool) == []


def test_the_size_of_an_archive_is_known_beforehand_but_for_long_names(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for n in range(50):
        (root / f"f{n}").write_bytes(b"x" * n * 100)
    size = len(packed(root))
    assert size - 11 * 1024 <= tree.packed_size(os.fsencode(root)) <= size
