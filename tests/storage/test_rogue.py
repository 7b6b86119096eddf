"""Nodes that lie: whatever a listing or a tar stream says, nothing is written but what was listed, below `.part-`."""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distribute_ssh.node.link import Finished, Process
from distribute_ssh.node.local import LocalLink
from distribute_ssh.node.probe import Facts
from distribute_ssh.storage.archive import Outcome, archive
from distribute_ssh.storage.check import verify
from distribute_ssh.storage.disk import LocalStorage
from tests.storage.places import ALL, Route, parcel, token, tree

TOKEN = token("job").encode()
HEAD = b"d 4 1.0 755 %s\0\0f 5 1.0 644 %s/output\0\0d 4 1.0 755 %s/save\0\0" % (TOKEN, TOKEN, TOKEN)
END = b"=\0\0"


class RogueLink:
    """A node that answers every command with the same bytes."""

    node = "rogue"
    is_open = True

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    async def run(self, script: str, *, stdin: bytes = b"", limit: float = 30.0) -> Finished:
        return Finished(0, b"", b"")

    @asynccontextmanager
    async def process(self, script: str) -> AsyncIterator[Process]:
        yield _Answer(self.answer)

    @asynccontextmanager
    async def files(self) -> AsyncIterator[_NoFiles]:
        yield _NoFiles()

    async def close(self) -> None:
        return


class _Answer:
    noise = b""

    def __init__(self, answer: bytes) -> None:
        self._answer = BytesIO(answer)

    async def write(self, data: bytes) -> None:
        return

    def write_eof(self) -> None:
        return

    async def read(self, size: int) -> bytes:
        return self._answer.read(700)

    async def readline(self) -> bytes:
        return b""

    async def wait(self, limit: float) -> Finished:
        return Finished(0, b"", b"")

    async def close(self) -> None:
        return


class _NoFiles:
    def __getattr__(self, name: str) -> Callable[..., object]:
        async def gone(path: bytes) -> None:
            raise FileNotFoundError(2, "no such file", path)

        return gone


def member(name: bytes, data: bytes, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """One member of a tar stream."""
    info = tarfile.TarInfo(os.fsdecode(name))
    info.size, info.type, info.linkname = len(data), kind, link
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def archived(answer: bytes, folder: Path) -> tuple[Outcome, LocalStorage]:
    """What comes of a node that answers so."""
    (folder / "store").mkdir()
    (folder / "outside").mkdir()
    storage = LocalStorage(folder / "store")
    [outcome] = asyncio.run(
        archive(RogueLink(answer), b"/nowhere", [parcel("job")], storage, facts=ALL)  # type: ignore[arg-type]
    )
    assert list((folder / "outside").iterdir()) == []
    assert {path.name for path in folder.iterdir()} == {"store", "outside"}
    for path in (folder / "store").rglob("*"):
        assert path.relative_to(folder / "store").parts[:2] in {("ns",), ("ns", "batch")}
    return outcome, storage


LIST = HEAD + b"f 3 1.0 644 %s/save/a\0\0" % TOKEN
OUTPUT = member(TOKEN + b"/output", b"hello")
GOOD = member(TOKEN + b"/save/a", b"abc")


def test_an_honest_stream_is_published(tmp_path: Path) -> None:
    outcome, storage = archived(LIST + END + OUTPUT + GOOD + bytes(1024) + b"=" + LIST + END, tmp_path)
    assert outcome.published, outcome.reason
    assert asyncio.run(verify(storage, "ns", "batch", "job")) == []


@pytest.mark.parametrize(
    "extra",
    [
        member(b"../../outside/x", b"abc"),
        member(b"/tmp/distribute-rogue", b"abc"),
        member(TOKEN + b"/save/../../../../outside/x", b"abc"),
        member(TOKEN + b"/save/unasked", b"abc"),
        member(TOKEN + b"/save/link", b"", tarfile.SYMTYPE, "../../../../outside")
        + member(TOKEN + b"/save/link/x", b"abc"),
        member(TOKEN + b"/save/hard", b"", tarfile.LNKTYPE, "/etc/passwd"),
        member(TOKEN + b"/save/dev", b"", tarfile.CHRTYPE),
        member(TOKEN + b"/save/a", b"", tarfile.SYMTYPE, "/etc/passwd"),
        GOOD + member(TOKEN + b"/save/a", b"xyz"),
        member(b"x" * 5000, b"abc"),
    ],
)
def test_members_that_nobody_asked_for_are_passed_over(extra: bytes, tmp_path: Path) -> None:
    outcome, storage = archived(LIST + END + OUTPUT + extra + GOOD + bytes(1024) + b"=" + LIST + END, tmp_path)
    assert outcome.published, outcome.reason
    assert tree(tmp_path / "store" / "ns" / "batch" / "job") == {b"a": ("file", b"abc", 0o644)}
    assert asyncio.run(verify(storage, "ns", "batch", "job")) == []
    assert not Path("/tmp/distribute-rogue").exists()


@pytest.mark.parametrize(
    "stream",
    [
        OUTPUT + member(TOKEN + b"/save/a", b"abcd"),
        OUTPUT + member(TOKEN + b"/save/a", b""),
        OUTPUT,
        b"",
        b"rubbish" * 1000,
        OUTPUT + GOOD[:514],
        GOOD + bytes([1]) * 512,
        bytes(30_000_000),
        OUTPUT + member(TOKEN + b"/save/big", bytes(20_000_000)),
    ],
)
def test_a_file_that_did_not_come_as_listed_is_never_published(stream: bytes, tmp_path: Path) -> None:
    outcome, _ = archived(LIST + END + stream + b"=" + LIST + END, tmp_path)
    assert not outcome.published
    assert not (tmp_path / "store" / "ns" / "batch" / "job").exists()


@pytest.mark.parametrize(
    "listing",
    [
        b"f 3 1.0 644 %s/save/../../../outside/x\0\0" % TOKEN,
        b"l 3 1.0 644 %s/save/l\0../../../../outside\0f 3 1.0 644 %s/save/l/x\0\0" % (TOKEN, TOKEN),
        b"d 3 1.0 644 %s/save/l\0\0l 3 1.0 644 %s/save/l\0/etc\0" % (TOKEN, TOKEN),
        b"f 9999999999999999999 1.0 644 %s/save/x\0\0" % TOKEN,
        b"f 4611686018427387904 1.0 644 %s/save/x\0\0" % TOKEN,
        b"d 3 1.0 644 %s/save/%s\0\0" % (TOKEN, b"n" * 300),
        b"rubbish",
        b"",
    ],
)
def test_a_listing_that_lies_brings_nothing(listing: bytes, tmp_path: Path) -> None:
    whole = HEAD + listing + (END if listing else b"")
    outcome, _ = archived(whole + OUTPUT + GOOD + b"=" + whole, tmp_path)
    assert not outcome.published
    assert outcome.reason
    assert not (tmp_path / "store" / "ns" / "batch" / "job").exists()


HONEST = LIST + END + OUTPUT + GOOD + bytes(1024) + b"=" + LIST + END
SNIPPETS = [
    b"../", b"/", b"\0", b"=", b"..", TOKEN, b"l 3 1.0 644 ", b"f 3 1.0 644 %s/save/l/x\0\0" % TOKEN, GOOD, OUTPUT, END,
    b"l 3 1.0 644 %s/save/l\0../../../../outside\0" % TOKEN, member(b"../../outside/x", b"abc"), bytes(512),
]  # fmt: skip

CUTS = st.tuples(st.integers(0, len(HONEST)), st.integers(0, 40), st.sampled_from(SNIPPETS) | st.binary(max_size=9))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CUTS, max_size=6))
def test_no_damage_to_an_answer_makes_us_write_elsewhere(cuts: list[tuple[int, int, bytes]]) -> None:
    answer = HONEST
    for at, length, inserted in cuts:
        answer = answer[:at] + inserted + answer[at + length :]
    with TemporaryDirectory() as folder:
        outcome, storage = archived(answer, Path(folder))
        if outcome.published:
            assert asyncio.run(verify(storage, "ns", "batch", "job")) == []


# --- a tar that is honest, but not well ---

TARS = {
    "dies in the middle": '/usr/bin/tar "$@" | head -c 70000',
    "dies at once": "exit 2",
    "is not there": "exec /nowhere/tar",
    "says something else": "echo 'tar: command not found'",
    "ends in the middle of a header": '/usr/bin/tar "$@" | head -c 700',
    "leaves a file out": 'for last; do :; done; /usr/bin/tar --exclude "$last" "$@"',
    "sends all twice": '/usr/bin/tar "$@"; /usr/bin/tar "$@"',
}


@pytest.mark.parametrize("words", TARS)
async def test_what_tar_does_not_bring_comes_another_way(local: Route, tmp_path: Path, words: str) -> None:
    program = tmp_path / "bin" / "tar"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{TARS[words]}\n")
    program.chmod(0o755)
    link = LocalLink("here", {"PATH": f"{program.parent}:/usr/bin:/bin"})
    # Small enough for the bytes behind a tar that died to fill it up.
    save = local.node.attempt(
        "job", {b"%03d" % n: b"%d" % n * 300 for n in range(120)} | {b"big": os.urandom(3_000_000)}
    )
    [outcome] = await local.archive("job", link=link)
    assert outcome.published, outcome.reason
    assert tree(local.batch / "job") == tree(save)
    assert await verify(local.storage, "ns", "batch", "job") == []


async def test_a_node_that_lost_its_tools_is_not_taken_for_one_that_lost_its_files(
    local: Route, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    link = LocalLink("here", {"PATH": str(tmp_path / "bin")})
    save = local.node.attempt("job", {b"x": b"1"})
    [outcome] = await local.archive("job", link=link)
    assert not outcome.published
    assert "find" in str(outcome.reason)
    [outcome] = await local.archive("job", link=link, facts=Facts())
    assert outcome.published, outcome.reason
    assert tree(local.batch / "job") == tree(save)
