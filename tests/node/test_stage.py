"""Inputs reach a node by content: whole, once, whatever is in them, and cut ones are completed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from distribute_ssh.model.job import Input
from distribute_ssh.node.channel import open_channel
from distribute_ssh.node.link import Link
from distribute_ssh.node.process import SMALL, TINY, Blob, Room, evict

CONTENTS = [
    b"", b" ", b"   a  ", b"\n\n", b"no newline", b"\\", b"-n", b"* ?", b"%s %d \\n \\0 \\c tail ",
    bytes(range(256)) * 4, b"x" * TINY, b"y" * (TINY + 1), b"\x00" * 70_000, b"z" * (SMALL + 1),
]  # fmt: skip


class Contents:
    """Some contents as inputs, and where they lie here."""

    def __init__(self, folder: Path, contents: list[bytes]) -> None:
        self.folder = folder
        self.by_hash = {hashlib.sha256(data).hexdigest(): data for data in contents}
        for sha256, data in self.by_hash.items():
            self.path(sha256).write_bytes(data)
        self.inputs = [Input("any", sha256, len(data)) for sha256, data in self.by_hash.items()]

    def path(self, sha256: str) -> Path:
        return self.folder / sha256


@asynccontextmanager
async def opened(link: Link, scratch: Path, *, has_tar: bool = True, has_sha256sum: bool = True) -> AsyncIterator[Room]:
    async with open_channel(link, str(scratch), lambda _: None) as channel:
        yield Room(link, channel, queue_id="testqueue", has_tar=has_tar, has_sha256sum=has_sha256sum)


async def stage(room: Room, contents: Contents) -> list[int]:
    """Stage them; the totals that were announced."""
    totals: list[int] = []
    await room.stage(contents.inputs, contents.path, keep=(), progress=lambda _, total: totals.append(total))
    return totals


@pytest.mark.parametrize(("has_tar", "has_sha256sum"), [(True, True), (False, True), (True, False)])
async def test_every_content_arrives_as_it_is_and_is_never_sent_again(
    link: Link, tmp_path: Path, has_tar: bool, has_sha256sum: bool
) -> None:
    (spool := tmp_path / "spool").mkdir()
    (scratch := tmp_path / "scratch").mkdir()
    contents = Contents(spool, CONTENTS)
    async with opened(link, scratch, has_tar=has_tar, has_sha256sum=has_sha256sum) as room:
        assert await stage(room, contents)
        files = Path(room.channel.root, "files")
        assert {path.name: path.read_bytes() for path in files.iterdir()} == contents.by_hash
        assert await stage(room, contents) == []
    async with opened(link, scratch) as room:  # another connection looks what is there
        assert await stage(room, contents) == []


async def test_what_was_cut_short_is_sent_again_and_a_big_one_goes_on_where_it_was(link: Link, tmp_path: Path) -> None:
    (spool := tmp_path / "spool").mkdir()
    (scratch := tmp_path / "scratch").mkdir()
    contents = Contents(spool, [b"tiny one", b"b" * (SMALL + 100)])
    (tiny, big) = contents.by_hash
    async with opened(link, scratch) as room:
        files = Path(room.channel.root, "files")
        (files / tiny).write_bytes(b"tin")
        (files / f".part-testqueue-{big}").write_bytes(b"b" * SMALL)
        done: list[int] = []
        await room.stage(contents.inputs, contents.path, keep=(), progress=lambda now, _: done.append(now))
        assert {path.name: path.read_bytes() for path in files.iterdir()} == contents.by_hash
        assert SMALL in [after - before for before, after in zip([0, *done], done, strict=False)]  # not sent


async def test_a_beginning_of_something_else_is_not_completed_but_replaced(link: Link, tmp_path: Path) -> None:
    (spool := tmp_path / "spool").mkdir()
    (scratch := tmp_path / "scratch").mkdir()
    contents = Contents(spool, [b"b" * (SMALL + 100)])
    (big,) = contents.by_hash
    async with opened(link, scratch) as room:
        files = Path(room.channel.root, "files")
        (files / f".part-testqueue-{big}").write_bytes(b"?" * SMALL)
        with pytest.raises(Exception, match="damaged"):
            await stage(room, contents)
        assert not list(files.iterdir())
        await stage(room, contents)
        assert (files / big).read_bytes() == contents.by_hash[big]


def test_room_is_made_by_the_least_recently_used_and_never_by_what_is_needed() -> None:
    blobs = [Blob("a", 10), Blob("b", 20), Blob("c", 30)]
    assert [blob.sha256 for blob in evict(blobs, {"a"}, 15)] == ["b"]
    assert [blob.sha256 for blob in evict(blobs, (), 25)] == ["a", "b"]
    assert evict(blobs, (), -5) == []
    assert [blob.sha256 for blob in evict(blobs, {"a", "b", "c"}, 99)] == []
