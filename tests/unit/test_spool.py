"""The spool: content in, whole or not at all; folders as archives; batches staged, and what their hashes are of."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distribute_ssh.errors import StoreError, UsageError
from distribute_ssh.model.job import Input
from distribute_ssh.model.jobsfile import BatchSpec, parse
from distribute_ssh.store import tree
from distribute_ssh.store.spool import GRACE, Blob, Spool, StagedBatch, Tick, stage


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def content(spool: Spool) -> list[str]:
    """Every file in the spool but its lock."""
    return sorted(path.name for path in spool.root.rglob("*") if path.is_file() and path.name != "lock")


# ------------------------------------------------------------------------------------------------------ single files


def test_content_lies_under_its_hash_read_only_in_a_private_folder(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    (tmp_path / "f").chmod(0o755)
    blob = spool.add_file(tmp_path / "f")
    assert blob == Blob(sha(b"data"), 4, 0o755)
    kept = spool.path_of(blob.sha256)
    assert kept == spool.root / blob.sha256[:2] / blob.sha256
    assert kept.read_bytes() == b"data"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o400
    assert stat.S_IMODE(spool.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_every_size_is_kept_as_it_is(size: int, spool: Spool, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    blob = spool.add_file(tmp_path / "f")
    assert (blob.sha256, blob.size) == (sha(data), size)
    assert spool.path_of(blob.sha256).read_bytes() == data


def test_equal_content_is_kept_once_and_not_written_again(spool: Spool, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    first = spool.add_file(tmp_path / "a")
    inode = spool.path_of(first.sha256).stat().st_ino
    assert spool.add_file(tmp_path / "b") == first == spool.add_bytes(b"same")
    assert spool.path_of(first.sha256).stat().st_ino == inode
    assert content(spool) == [first.sha256]


def test_a_link_to_a_file_is_followed(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"data")
    (tmp_path / "link").symlink_to("real")
    assert spool.add_file(tmp_path / "link").sha256 == sha(b"data")


def test_a_file_that_changes_meanwhile_is_refused_and_nothing_kept(spool: Spool, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before")
    with pytest.raises(UsageError, match="changed while it was read"):
        spool.add_file(path, lambda count: path.write_bytes(b"after!"))
    assert content(spool) == []


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "socket", "dangling", "below a file"])
def test_what_is_no_file_is_refused_at_once(kind: str, spool: Spool, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "below a file":
        (tmp_path / "y").touch()
        path = tmp_path / "y" / "z"
    with pytest.raises(UsageError) as caught:
        spool.add_file(path)
    assert repr(str(path)) in str(caught.value)
    assert content(spool) == []


@pytest.mark.parametrize("name", ["../x", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "", "a" * 64 + "\n"])
def test_only_a_hash_is_made_a_path(name: str, spool: Spool) -> None:
    with pytest.raises(ValueError, match="is no sha256"):
        spool.path_of(name)


def test_progress_counts_each_byte_twice_whether_it_was_known_or_not(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    for _ in range(2):
        ticks: list[int] = []
        spool.add_file(tmp_path / "f", ticks.append)
        assert sum(ticks) == 6_000_000


# ------------------------------------------------------------------------------------------- whole, or not at all


def test_what_is_added_together_appears_together(spool: Spool) -> None:
    with spool.together():
        one = spool.add_bytes(b"1")
        assert spool.add_bytes(b"1") == one
        two = spool.add_bytes(b"2")
        assert not spool.path_of(one.sha256).exists()
    assert content(spool) == sorted([one.sha256, two.sha256])


def test_when_one_cannot_be_added_none_is(spool: Spool, tmp_path: Path) -> None:
    def add_both() -> None:
        with spool.together():
            spool.add_bytes(b"1")
            spool.add_file(tmp_path / "missing")

    with pytest.raises(UsageError):
        add_both()
    assert content(spool) == []
    assert spool.path_of(spool.add_bytes(b"1").sha256).exists()


def test_a_spool_without_room_is_said_to_be_so_and_keeps_nothing(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from distribute_ssh.errors import StoreError
from distribute_ssh.store.spool import Spool
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Spool(Path(sys.argv[1])).add_bytes(b"x" * 100_000)
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "s"], capture_output=True, text=True, check=True)
    assert "the spool" in done.stdout
    assert "cannot be written: File too large" in done.stdout
    assert content(Spool(tmp_path / "s")) == []


def test_a_spool_that_cannot_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        Spool(tmp_path / "file" / "spool").add_bytes(b"x")


def test_killed_at_any_point_it_leaves_nothing_half_written_in_place(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from distribute_ssh.store.spool import Spool
spool = Spool(Path(sys.argv[1]))
with spool.together():
    spool.add_bytes(b"whole")
    print("ready", flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    spool = Spool(tmp_path / "s")
    assert not spool.path_of(sha(b"whole")).exists()
    (leftover,) = content(spool)
    assert leftover.startswith("new-")
    assert spool.remove_unused(set(), now=time.time() + GRACE + 1) == 5
    assert content(spool) == []


def test_two_processes_may_add_the_same_at_once(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from distribute_ssh.store.spool import Spool
spool = Spool(Path(sys.argv[1]))
for n in range(50):
    spool.add_bytes(b"%d" % n)
"""
    children = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "s"]) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    spool = Spool(tmp_path / "s")
    assert content(spool) == sorted(sha(b"%d" % n) for n in range(50))


# ---------------------------------------------------------------------------------------------------------- removal


def test_only_what_nobody_needs_and_nobody_just_added_is_removed(spool: Spool) -> None:
    keep, drop = spool.add_bytes(b"keep"), spool.add_bytes(b"drop this")
    assert spool.remove_unused({keep.sha256}) == 0
    later = time.time() + GRACE + 1
    assert spool.remove_unused({keep.sha256}, now=later) == len(b"drop this")
    assert content(spool) == [keep.sha256]
    assert not spool.path_of(drop.sha256).exists()


def test_content_that_is_needed_again_has_its_hour_again(spool: Spool) -> None:
    blob = spool.add_bytes(b"x")
    old = time.time() - 10 * GRACE
    os.utime(spool.path_of(blob.sha256), (old, old))
    spool.add_bytes(b"x")
    assert spool.remove_unused(set()) == 0
    assert content(spool) == [blob.sha256]


def test_nothing_is_removed_while_somebody_adds(spool: Spool) -> None:
    spool.add_bytes(b"x")
    later = time.time() + GRACE + 1
    other = Spool(spool.root)
    with other.together():
        assert spool.remove_unused(set(), now=later) == 0
    assert spool.remove_unused(set(), now=later) == 1


def test_a_spool_that_is_not_there_has_nothing_to_remove(tmp_path: Path) -> None:
    assert Spool(tmp_path / "none").remove_unused(set()) == 0
    assert not (tmp_path / "none").exists()


# ------------------------------------------------------------------------------------------------------------- trees

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


# ----------------------------------------------------------------------------------------------------------- staging

STUDY = """
meta: {batch_name: b, namespace: n, capabilities: [], env: {A: 1}}
python:
  initialize: {build_file: build.py, required_files: [common.dat, folder]}
  jobs:
    - {name: one, file: run.py, required_files: [{path: one.json, alias: config.json}], time_limit: 1m}
    - {name: two, file: run.py, required_files: [{path: two.json, alias: config.json}, folder], env: {B: 2}}
    - {name: "s{x}", file: run.py, sweep: {x: [1, 2]}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    (root / "folder").mkdir(parents=True)
    for name in ("build.py", "run.py", "common.dat", "one.json", "two.json", "folder/mesh"):
        (root / name).write_text(f"content of {name}")
    (root / "common.dat").chmod(0o755)
    (root / "jobs.yaml").write_text(STUDY)
    return root


def spec_of(study: Path, text: str = STUDY) -> BatchSpec:
    return parse(text, study / "jobs.yaml")


def test_every_file_of_a_batch_is_in_the_spool_when_it_is_staged(study: Path, spool: Spool) -> None:
    staged = stage(spec_of(study), spool)
    assert staged.script == Input("build.py", sha(b"content of build.py"), 19)
    common, folder = staged.init
    assert common == Input("common.dat", sha(b"content of common.dat"), 21, executable=True)
    assert (folder.alias, folder.kind, folder.executable) == ("folder", "tree", False)
    one, two, s1, s2 = staged.jobs
    assert (one.name, one.script, one.time_limit) == ("one", Input("run.py", sha(b"content of run.py"), 17), 60.0)
    assert one.inputs == (Input("config.json", sha(b"content of one.json"), 19),)
    assert [each.alias for each in two.inputs] == ["config.json", "folder"]
    assert two.inputs[1] == folder
    assert (dict(one.env), dict(two.env)) == ({"A": "1"}, {"A": "1", "B": "2"})
    assert dict(s2.env) == {"A": "1", "DISTRIBUTE_PARAM_X": "2"}
    needed = [staged.script, *staged.init, *(x for job in staged.jobs for x in (*job.inputs, job.script) if x)]
    for each in needed:
        assert spool.path_of(each.sha256).stat().st_size == each.size
        assert sha(spool.path_of(each.sha256).read_bytes()) == each.sha256
    assert set(content(spool)) == {each.sha256 for each in needed}
    assert s1.input_hash != s2.input_hash


def test_the_values_of_a_sweep_are_an_input_like_any_other(study: Path, spool: Spool) -> None:
    text = STUDY.replace("{x: [1, 2]}", "{x: [1.50], name: [ü], flag: [true]}").replace("s{x}", "s")
    job = stage(spec_of(study, text), spool).jobs[2]
    (values,) = job.inputs
    assert (values.alias, values.kind) == ("sweep.json", "file")
    assert json.loads(spool.path_of(values.sha256).read_text()) == {"x": 1.5, "name": "ü", "flag": True} == job.sweep


def test_an_apptainer_batch_is_staged_without_scripts(study: Path, spool: Spool) -> None:
    text = "meta: {batch_name: b, namespace: n, capabilities: []}\n"
    text += "apptainer: {initialize: {sif: build.py, required_mounts: [/x]}, jobs: [{name: a}]}"
    staged = stage(spec_of(study, text), spool)
    assert staged.jobs[0].script is None
    other = stage(spec_of(study, text.replace("[/x]", "[/y]")), spool)
    assert other.build_hash != staged.build_hash
    assert other.jobs[0].input_hash != staged.jobs[0].input_hash


def test_staging_again_changes_and_writes_nothing(study: Path, spool: Spool) -> None:
    first = stage(spec_of(study), spool)
    inodes = {path: path.stat().st_ino for path in spool.root.rglob("*")}
    assert stage(spec_of(study), spool) == first
    assert {path: path.stat().st_ino for path in spool.root.rglob("*")} == inodes


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("one.json", {"one"}),
        ("run.py", {"one", "two", "s1", "s2"}),
        ("build.py", {"one", "two", "s1", "s2"}),
        ("common.dat", {"one", "two", "s1", "s2"}),
        ("folder/mesh", {"one", "two", "s1", "s2"}),
    ],
)
def test_another_content_changes_the_hash_of_the_jobs_that_use_it(
    name: str, changed: set[str], study: Path, spool: Spool
) -> None:
    before = stage(spec_of(study), spool)
    (study / name).write_text("something else")
    assert differing(before, stage(spec_of(study), spool)) == changed


EVERY = {"one", "two", "s1", "s2"}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("alias: config.json}], time", "alias: other.json}], time", {"one"}),
        ("env: {B: 2}", "env: {B: 3}", {"two"}),
        ("env: {B: 2}", "env: {C: 2}", {"two"}),
        ("env: {A: 1}", "env: {A: 2}", EVERY),
        ("required_files: [common.dat, folder]", "required_files: [common.dat]", EVERY),
        ("time_limit: 1m", "time_limit: 2m, max_attempts: 3, on_node_loss: wait", set()),
        ("[common.dat, folder]", "[folder, common.dat]", set()),
        ("capabilities: []", "capabilities: [gpu]", set()),
        ("namespace: n", "namespace: m", set()),
        ("build_file: build.py", "build_file: {path: build.py, alias: x}", set()),
        ("x: [1, 2]", "x: [2, 1]", set()),
        ("x: [1, 2]", "x: ['1', 2]", {"s1"}),
        ("name: one", "name: uno", set()),
    ],
)  # fmt: skip
def test_a_hash_is_of_what_a_job_can_see_and_of_nothing_else(
    old: str, new: str, changed: set[str], study: Path, spool: Spool
) -> None:
    before = stage(spec_of(study), spool)
    assert STUDY.count(old) == 1
    after = stage(spec_of(study, STUDY.replace(old, new)), spool)
    assert differing(before, after) == changed


def differing(before: StagedBatch, after: StagedBatch) -> set[str]:
    renamed = {"uno": "one"}
    hashes = {job.name: job.input_hash for job in before.jobs}
    return {job.name for job in after.jobs if hashes[renamed.get(job.name, job.name)] != job.input_hash}


def test_whether_an_input_can_be_executed_counts(study: Path, spool: Spool) -> None:
    before = stage(spec_of(study), spool)
    (study / "one.json").chmod(0o755)
    assert differing(before, stage(spec_of(study), spool)) == {"one"}


def test_hashes_are_the_same_on_every_machine_and_in_every_version(study: Path, spool: Spool) -> None:
    """Jobs that are done are kept by it: a version that counts otherwise would run everything again."""
    staged = stage(spec_of(study), spool)
    assert staged.build_hash[:16] == "3e53e262b804b7e2"
    assert [job.input_hash[:16] for job in staged.jobs] == [
        "40d4b840a16d56d7",
        "6f0ed896a8b6332a",
        "8509482a4f75cfc9",
        "b63502078ee48c7c",
    ]


def test_each_path_is_read_once_however_many_jobs_use_it(
    study: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def noting(add: Callable[[Spool, Path, Tick | None], Blob]) -> Callable[[Spool, Path, Tick | None], Blob]:
        def noted(self: Spool, path: Path, tick: Tick | None) -> Blob:
            read.append(path)
            return add(self, path, tick)

        return noted

    monkeypatch.setattr(Spool, "add_file", noting(Spool.add_file))
    monkeypatch.setattr(Spool, "add_tree", noting(Spool.add_tree))
    stage(spec_of(study), spool)
    assert sorted(path.name for path in read) == sorted(
        ["build.py", "common.dat", "folder", "run.py", "one.json", "two.json"]
    )


def note(told: list[tuple[int, int]], done: int, total: int) -> None:
    told.append((done, total))


def test_progress_grows_to_its_end(study: Path, spool: Spool) -> None:
    (study / "run.py").write_bytes(b"x" * 5_000_000)
    for _ in range(2):  # the second time all of it is known
        told: list[tuple[int, int]] = []
        stage(spec_of(study), spool, partial(note, told))
        assert told == sorted(told)
        assert told[-1][0] == told[-1][1] > 5_000_000
        assert len({total for _, total in told}) == 1
        assert any(0 < done < total for done, total in told)


def test_a_file_that_vanished_since_it_was_checked_stages_nothing(study: Path, spool: Spool) -> None:
    spec = spec_of(study)
    (study / "two.json").unlink()
    with pytest.raises(UsageError, match=r"two\.json' cannot be read: No such file"):
        stage(spec, spool, lambda done, total: None)
    assert content(spool) == []


def test_a_staged_batch_knows_what_its_spec_said(study: Path, spool: Spool) -> None:
    spec = spec_of(study)
    staged = stage(spec, spool)
    assert staged.env == {"A": "1"}
    assert [job.name for job in staged.jobs] == [job.name for job in spec.jobs]
    assert stage(replace(spec, jobs=()), spool).build_hash == staged.build_hash
