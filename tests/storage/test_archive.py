"""Archiving, on every way results can take: what a job left is what lies in storage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tracemalloc
from pathlib import Path

import pytest

from distribute_ssh.errors import NodeError
from distribute_ssh.node.link import Link
from distribute_ssh.node.local import LocalLink
from distribute_ssh.node.probe import Facts
from distribute_ssh.storage.archive import Parcel, archive
from distribute_ssh.storage.check import verify
from tests.storage.places import ALL, MTIME, Node, Route, token, tree

HOSTILE = [
    b"with space", b'quote"', b"quote'", b"new\nline", b"semi;touch x", b"-rf", b"--checkpoint-action=exec=sh",
    b"back\\slash", b"\x1b[31mred", b"*", b"~", b"$(id)", b"`id`", b"\xff\xfe not text", b"\xc3", b"n" * 255, b"tab\t",
    b"=", b"#EOS", b"...", "\u00fcber \u202e".encode(), b"a\rb", b"\x7f", b"{}", b" ", b"|", b"&",
    b"job.json ", b".hidden", b".part-x",
]  # fmt: skip

FACTS = [
    pytest.param(ALL, id="tar and find"),
    pytest.param(Facts(find_printf=True), id="no tar"),
    pytest.param(Facts(has_tar=True), id="no find"),
    pytest.param(Facts(), id="neither"),
]


@pytest.mark.parametrize("facts", FACTS)
async def test_everything_a_job_saved_arrives_as_it_was(route: Route, facts: Facts) -> None:
    files = {b"a/b/c/" + name: b"contents of " + name for name in HOSTILE}
    files |= {name: os.urandom(len(name)) for name in HOSTILE}
    files |= {b"empty": b"", b"big": os.urandom(3_000_000), b"a/" + b"d" * 255 + b"/x": b"deep"}
    save = route.node.attempt("job", files)
    (save / "run.sh").write_text("#!/bin/sh\n")
    (save / "run.sh").chmod(0o755)
    (save / "no files").mkdir()
    [outcome] = await route.archive("job", facts=facts)
    assert outcome.published, outcome.reason
    assert tree(route.batch / "job") == tree(save)
    assert os.stat(route.batch / "job" / "big").st_mtime == MTIME
    assert await verify(route.storage, "ns", "batch", "job") == []
    assert sorted(path.name for path in route.batch.iterdir()) == ["job"]


@pytest.mark.parametrize("facts", FACTS)
async def test_links_are_stored_as_links_wherever_they_point(route: Route, tmp_path: Path, facts: Facts) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("not the job's")
    save = route.node.attempt("job", {b"in/file": b"x"})
    targets = {
        "absolute": str(outside), "escaping": "../../../../outside", "dangling": "nowhere", "loop": "loop",
        "here": ".", "folder": "in", "odd\n": "\n;x", "in/up": "..",
    }  # fmt: skip
    for name, target in targets.items():
        (save / name).symlink_to(target)
    [outcome] = await route.archive("job", facts=facts)
    assert outcome.published, outcome.reason
    assert tree(route.batch / "job") == tree(save)
    assert os.readlink(route.batch / "job" / "odd\n") == "\n;x"
    assert await verify(route.storage, "ns", "batch", "job") == []


async def test_a_name_of_255_bytes_passes_in_any_depth(route: Route) -> None:
    path = b"/".join([b"n" * 255] * 10)
    save = route.node.attempt("job", {path: b"x"})
    [outcome] = await route.archive("job")
    assert outcome.published, outcome.reason
    assert tree(route.batch / "job") == tree(save)


@pytest.mark.parametrize("facts", FACTS)
async def test_pipes_sockets_and_devices_are_left_out_and_named_in_the_record(
    route: Route, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = route.node.attempt("job", {b"file": b"x"})
    os.mkfifo(save / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(save)  # the path of a socket holds 107 bytes
        bound.bind("socket")
    [outcome] = await route.archive("job", facts=facts)
    assert outcome.published, outcome.reason
    assert set(tree(route.batch / "job")) == {b"file"}
    record = json.loads((route.batch / "job" / "job.json").read_text())
    assert [row["path"] for row in record["skipped"]] == ["pipe", "socket"]
    assert await verify(route.storage, "ns", "batch", "job") == []


@pytest.mark.parametrize("facts", FACTS)
async def test_hard_links_become_copies(route: Route, facts: Facts) -> None:
    save = route.node.attempt("job", {b"one": b"same", b"big": b"b" * 2_000_000})
    os.link(save / "one", save / "two")
    os.link(save / "big", save / "bigger")
    [outcome] = await route.archive("job", facts=facts)
    assert outcome.published, outcome.reason
    assert (route.batch / "job" / "two").read_bytes() == b"same"
    assert (route.batch / "job" / "two").stat().st_nlink == 1
    assert (route.batch / "job" / "bigger").stat().st_size == 2_000_000


async def test_set_id_bits_and_rights_of_others_to_write_are_not_taken_over(route: Route) -> None:
    save = route.node.attempt("job", {b"program": b"x", b"open": b"x", b"closed": b"x", b"folder/x": b""})
    (save / "program").chmod(0o6755)
    (save / "open").chmod(0o666)
    (save / "closed").chmod(0o400)
    (save / "folder").chmod(0o3777)
    [outcome] = await route.archive("job")
    assert outcome.published, outcome.reason
    modes = {path: entry[2] for path, entry in tree(route.batch / "job").items()}
    assert modes == {b"program": 0o755, b"open": 0o644, b"closed": 0o600, b"folder": 0o755, b"folder/x": 0o644}
    assert (route.batch / "job").stat().st_mode & 0o7777 == 0o755


async def test_the_record_tells_what_lies_beside_it(route: Route) -> None:
    save = route.node.attempt("job", {b"result.csv": b"1,2\n", b"\xff": b""}, output=b"hello\nlast words\n\n")
    (save / "link").symlink_to("result.csv")
    (save / "folder").mkdir()
    [outcome] = await route.archive("job")
    text = (route.batch / "job" / "job.json").read_bytes()
    record = json.loads(text)
    assert (record["schema"], record["token"], record["attempt"], record["node"]) == (1, token("job"), 1, "lab1")
    files = {row.get("path", row.get("path_b64")): row for row in record["files"]}
    assert files["result.csv"] == {
        "path": "result.csv", "size": 4, "mode": "0644", "mtime": "2020-09-13T12:26:40Z",
        "sha256": hashlib.sha256(b"1,2\n").hexdigest(),
    }  # fmt: skip
    assert set(files) == {"result.csv", "/w==", "job_output.txt"}
    assert record["links"] == [{"path": "link", "target": "result.csv"}]
    assert [row["path"] for row in record["folders"]] == ["folder"]
    assert (route.batch / "job" / "job_output.txt").read_bytes() == b"hello\nlast words\n\n"
    assert outcome.last_line == "last words"
    assert (outcome.files, outcome.bytes) == (3, 4 + 18)
    assert outcome.manifest_sha == hashlib.sha256(text).hexdigest()


async def test_our_own_files_win_their_names_and_the_jobs_are_kept_beside(route: Route) -> None:
    route.node.attempt("job", {
        b"job.json": b"mine", b"job.json.saved": b"mine too", b"job_output.txt/inner": b"a folder",
        b"x/job.json": b"free",
    })  # fmt: skip
    [outcome] = await route.archive("job")
    assert outcome.published, outcome.reason
    kept = {path: data for path, (kind, data, _) in tree(route.batch / "job").items() if kind == "file"}
    assert kept == {
        b"job.json.saved": b"mine too", b"job.json.saved.saved": b"mine", b"job_output.txt.saved/inner": b"a folder",
        b"x/job.json": b"free",
    }  # fmt: skip
    assert (route.batch / "job" / "job_output.txt").read_bytes() == b"done\n"


async def test_a_group_of_attempts_is_published_together_and_the_troubles_of_one_are_its_own(route: Route) -> None:
    names = [f"job{n:02}" for n in range(20)]
    for name in names:
        route.node.attempt(name, {b"result": name.encode()}, output=name.encode())
    deep = route.node.root / "attempts" / token("job07") / "save" / "/".join("d" * 130)
    deep.mkdir(parents=True)
    shutil.rmtree(route.node.root / "attempts" / token("job11"))
    outcomes = await route.archive(*names)
    troubled = {outcome.token: outcome.reason for outcome in outcomes if not outcome.published}
    assert set(troubled) == {token("job07"), token("job11")}
    assert "128 deep" in str(troubled[token("job07")])
    assert "nothing of this attempt is left" in str(troubled[token("job11")])
    assert [outcome.token for outcome in outcomes] == [token(name) for name in names]
    for outcome, name in zip(outcomes, names, strict=True):
        if outcome.published:
            assert (route.batch / name / "result").read_text() == name
            assert outcome.last_line == name


async def test_a_job_that_saved_and_printed_nothing_is_published_with_an_empty_output(route: Route) -> None:
    save = route.node.attempt("job", output=None)
    save.rmdir()
    [outcome] = await route.archive("job")
    assert outcome.published, outcome.reason
    assert (route.batch / "job" / "job_output.txt").read_bytes() == b""
    assert outcome.last_line is None


async def test_a_save_folder_that_became_a_link_is_not_followed(route: Route, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("x")
    save = route.node.attempt("job")
    save.rmdir()
    save.symlink_to(tmp_path / "outside")
    [outcome] = await route.archive("job")
    assert outcome.published, outcome.reason
    assert tree(route.batch / "job") == {}
    record = json.loads((route.batch / "job" / "job.json").read_text())
    assert record["skipped"] == [{"path": ".", "reason": "distribute_save is no folder any more"}]


async def test_ten_thousand_small_files_arrive_and_progress_only_grows(route: Route) -> None:
    files = {b"%02d/%04d.dat" % (n % 50, n): b"%d" % n * 40 for n in range(10_000)}
    save = route.node.attempt("job", files)
    came: list[tuple[int, int]] = []
    [outcome] = await route.archive("job", progress=lambda done, total: came.append((done, total)))
    assert outcome.published, outcome.reason
    assert tree(route.batch / "job") == tree(save)
    assert came == sorted(came)
    assert came[-1][0] == came[-1][1] == sum(map(len, files.values())) + len(b"done\n")


async def test_ten_thousand_small_files_arrive_without_tar(local: Route) -> None:
    save = local.node.attempt("job", {b"%02d/%04d.dat" % (n % 50, n): b"%d" % n * 40 for n in range(10_000)})
    [outcome] = await local.archive("job", facts=Facts())
    assert outcome.published, outcome.reason
    assert tree(local.batch / "job") == tree(save)


async def test_a_big_attempt_does_not_hold_up_small_ones(local: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distribute_ssh.storage.archive.BULK", 1_000_000)
    for name in ("big", "small", "tiny"):
        local.node.attempt(name, {b"x": bytes({"big": 3_000_000, "small": 500_000, "tiny": 10}[name])})
    seen: dict[int, set[str]] = {}

    def progress(done: int, total: int) -> None:
        seen[done] = {path.name for path in local.batch.iterdir()} if local.batch.exists() else set()

    monkeypatch.setattr("distribute_ssh.storage.intake.TELL_EVERY", 0.0)
    outcomes = await local.archive("big", "small", "tiny", progress=progress)
    assert all(outcome.published for outcome in outcomes)
    assert any({"small", "tiny"} <= names and "big" not in names for names in seen.values())


# --- builds ---


def _build(name: str = "build") -> Parcel:
    return Parcel(token(name), "ns", "batch", None, "batch_build_output-lab1.txt")


async def _archive_build(route: Route, name: str = "build") -> str | None:
    [outcome] = await archive(route.link, os.fsencode(route.node.root), [_build(name)], route.storage, facts=ALL)
    assert outcome.published, outcome.reason
    return outcome.last_line


async def test_of_a_build_only_its_output_is_kept(route: Route) -> None:
    route.node.attempt("build", {b"object.o": b"x"}, output=b"compiling\nok\n")
    assert await _archive_build(route) == "ok"
    assert {path.name: path.read_bytes() for path in route.batch.iterdir()} == {
        "batch_build_output-lab1.txt": b"compiling\nok\n"
    }
    assert await _archive_build(route) == "ok"
    assert len(list(route.batch.iterdir())) == 1


async def test_the_output_of_an_earlier_build_is_kept_beside(route: Route) -> None:
    for number, name in enumerate(("first", "second", "third")):
        route.node.attempt(name, output=b"%d\n" % number)
        await _archive_build(route, name)
    assert {path.name: path.read_text() for path in route.batch.iterdir()} == {
        "batch_build_output-lab1.txt": "2\n",
        "batch_build_output-lab1@1.txt": "0\n",
        "batch_build_output-lab1@2.txt": "1\n",
    }


# --- what the node's script does there ---


@pytest.mark.root
def test_files_that_the_job_made_unreadable_are_made_readable(tmp_path: Path) -> None:
    from distribute_ssh.storage.listing import Collector, FindReader
    from distribute_ssh.storage.source import WITH_FIND, request

    node = Node(tmp_path / "node")
    save = node.attempt("job", {b"file": b"secret", b"folder/inner": b"x"})
    (save / "file").chmod(0)
    (save / "folder").chmod(0)
    subprocess.run(["chown", "-R", "65534", node.root], check=True)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder.name.startswith(("pytest", "popen", "test")):
            folder.chmod(0o755)
    names = b"".join(f"{token('job')}/save/{name}\0".encode() for name in ("file", "folder/inner"))
    ended = subprocess.run(
        ["/bin/sh", "-c", WITH_FIND],
        input=request(os.fsencode(node.root / "attempts"), [token("job")]) + names,
        capture_output=True, user=65534, check=False,
    )  # fmt: skip
    first = FindReader(Collector("here", [token("job")]))
    first.feed(ended.stdout)
    assert first.ended
    assert b"secret" in first.rest, ended.stderr
    saved = first._collector.saved[token("job")].tree
    assert saved is not None
    assert {path: oct(item.mode) for path, item in saved.items()} == {
        b"file": "0o600", b"folder": "0o700", b"folder/inner": "0o644",
    }  # fmt: skip


BUSYBOX = shutil.which("busybox")


@pytest.mark.skipif(BUSYBOX is None, reason="left out: there is no busybox")
async def test_a_node_with_nothing_but_busybox_will_do(local: Route, tmp_path: Path) -> None:
    assert BUSYBOX is not None
    applets = tmp_path / "bin"
    applets.mkdir()
    for name in ("sh", "tar", "xargs", "find", "head", "sha256sum", "chmod", "printf"):
        (applets / name).symlink_to(BUSYBOX)
    link: Link = LocalLink("here", {"PATH": str(applets)})
    files = {b"a/" + name: b"contents of " + name for name in HOSTILE} | {b"big": os.urandom(3_000_000)}
    save = local.node.attempt("job", files)
    os.link(save / "big", save / "also big")
    for facts in (Facts(has_tar=True), Facts()):
        [outcome] = await local.archive("job", facts=facts, link=link)
        assert outcome.published, outcome.reason
        assert tree(local.batch / "job") == tree(save)
        shutil.rmtree(local.batch)


async def test_a_scratch_folder_that_is_gone_is_the_nodes_trouble(route: Route) -> None:
    shutil.rmtree(route.node.root)
    [outcome] = await route.archive("job")
    assert not outcome.published
    assert isinstance(outcome.error, NodeError)
    assert "scratch folder" in str(outcome.reason)


async def test_what_is_held_in_memory_does_not_grow_with_what_passes(local: Route) -> None:
    files = {b"%04d" % n: os.urandom(50_000) for n in range(1000)} | {b"big": os.urandom(60_000_000)}
    local.node.attempt("job", files)
    del files
    tracemalloc.start()
    try:
        [outcome] = await local.archive("job")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcome.published, outcome.reason
    assert peak < 35_000_000, f"{peak:,} bytes for {outcome.bytes:,}"
