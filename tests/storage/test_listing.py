"""What a node says of its files: honest lists are read whole, and nothing that leads out of its folder gets by."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute_ssh.errors import NodeError
from distribute_ssh.storage import listing
from distribute_ssh.storage.listing import Collector, FindReader, Item, ListingError, Saved, printable

TOKEN = "tests0-job"


def line(path: bytes, kind: str = "f", *, size: int = 1, target: bytes = b"", mode: int = 0o644) -> bytes:
    """An entry as `find` prints it."""
    return b"%s %d 1700000000.5000000000 %o %s\0%s\0" % (kind.encode(), size, mode, path, target)


def read(data: bytes, piece: int = 1 << 20) -> tuple[Saved, FindReader]:
    """What a list says that comes in pieces of that size."""
    reader = FindReader(collector := Collector("lab1", [TOKEN]))
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
        if reader.ended:
            reader.rest += data[start + piece :]
            break
    return collector.saved[TOKEN], reader


HEAD = line(b"tests0-job", "d") + line(b"tests0-job/output", size=7) + line(b"tests0-job/save", "d")
BODY = (
    line(b"tests0-job/run.sh") + line(b"tests0-job/claim", "d")
    + line(b"tests0-job/save/a b\n", mode=0o6777) + line(b"tests0-job/save/d", "d")
    + line(b"tests0-job/save/d/\xff", size=2**40)
    + line(b"tests0-job/save/l", "l", target=b"/etc/passwd") + line(b"tests0-job/save/p", "p")
)  # fmt: skip


@pytest.mark.parametrize("piece", [1, 3, 64, 1 << 20])
def test_a_list_is_read_in_pieces_of_any_size(piece: int) -> None:
    saved, reader = read(HEAD + BODY + b"=\0\0rest\0of it", piece)
    at = 1_700_000_000_500_000_000
    assert saved.there
    assert saved.output == Item("f", 7, at, 0o644)
    assert saved.tree == {
        b"a b\n": Item("f", 1, at, 0o755),
        b"d": Item("d", 0, at, 0o744),
        b"d/\xff": Item("f", 2**40, at, 0o644),
        b"l": Item("l", target=b"/etc/passwd"),
    }
    assert saved.skipped == {b"p": "a named pipe"}
    assert reader.ended
    assert reader.rest == b"rest\0of it"


@pytest.mark.parametrize(
    "entry",
    [
        line(b"other0-job/save/x"),
        line(b"/etc/passwd"),
        line(b"tests0-job/save/../x"),
        line(b"tests0-job/save/./x"),
        line(b"tests0-job/save//x"),
        line(b"tests0-job/save/nowhere/x"),
        line(b"tests0-job/save/l", "l", target=b"/") + line(b"tests0-job/save/l/x"),
        line(b"tests0-job/save/f") + line(b"tests0-job/save/f/x"),
        line(b"tests0-job/save/x") + line(b"tests0-job/save/x", "l", target=b"/"),
        line(b"tests0-job/save/x", size=2**62 + 1),
        b"f -1 17.0 644 tests0-job/save/x\0\0",
        b"f 1 17.0 644\0\0",
        b"rubbish\0\0",
        b"f 1 1 999 tests0-job/save/x\0\0",
    ],
)
def test_an_entry_no_honest_node_sends_is_refused(entry: bytes) -> None:
    with pytest.raises(ListingError, match="lab1"):
        read(HEAD + entry)


def test_files_in_a_folder_that_was_not_announced_are_refused() -> None:
    with pytest.raises(ListingError):
        read(line(b"tests0-job", "d") + line(b"tests0-job/save/x"))


def test_times_no_file_system_holds_are_brought_to_the_nearest_one() -> None:
    saved, _ = read(HEAD + b"f 1 -99 644 tests0-job/save/old\0\0" + b"f 1 9999999999999 644 tests0-job/save/new\0\0")
    assert saved.tree is not None
    assert saved.tree[b"old"].mtime_ns == 0
    assert saved.tree[b"new"].mtime_ns == (2**32 - 1) * 10**9


def test_too_deep_too_long_and_too_many_are_that_attempts_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b"".join(line(b"tests0-job/save" + b"/d" * depth, "d") for depth in range(1, 200))
    assert "128 deep" in str(read(HEAD + deep)[0].trouble)
    assert "255 bytes" in str(read(HEAD + line(b"tests0-job/save/" + b"n" * 256))[0].trouble)
    monkeypatch.setattr(listing, "MOST_ENTRIES", 100)
    many = b"".join(line(b"tests0-job/save/%d" % number) for number in range(150))
    assert "more than 100 files" in str(read(HEAD + many)[0].trouble)


def test_a_list_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_ENTRIES", 100)
    with pytest.raises(NodeError, match="does not end"):
        read(HEAD + b"".join(line(b"tests0-job/save/%d" % number) for number in range(300)))
    with pytest.raises(NodeError, match="makes no sense"):
        read(HEAD + bytes([65]) * (5 << 20))


PARTS = st.sampled_from([b"tests0-job", b"save", b"output", b"a", b"b", b"..", b".", b"", b"/", b"other"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(PARTS, max_size=5), st.sampled_from("fdlps?")), max_size=12))
def test_whatever_is_said_every_path_lies_in_a_folder_of_its_own_tree(said: list[tuple[list[bytes], str]]) -> None:
    try:
        saved, _ = read(HEAD + b"".join(line(b"/".join(parts), kind) for parts, kind in said))
    except ListingError:
        return
    tree = saved.tree
    assert tree is not None
    for path in tree:
        parts = path.split(b"/")
        assert not {b"", b".", b".."} & set(parts)
        for depth in range(1, len(parts)):
            assert tree[b"/".join(parts[:depth])].kind == "d"


def test_names_are_shown_without_what_could_act_on_a_terminal() -> None:
    assert printable("ü\x1b[31m\n\u202e".encode() + b"\xff") == "ü\\x1b[31m\\n\\u202e\\xff"
