"""`job.json` and the journal: what goes in comes out, and what was damaged is not believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute_ssh.storage import manifest
from distribute_ssh.storage.listing import Item
from distribute_ssh.storage.manifest import Contents, ManifestError

NAMES = st.binary(min_size=1, max_size=20)
AT = 1_600_000_000 * 10**9


@given(files=st.sets(NAMES), links=st.dictionaries(NAMES, NAMES))
def test_every_name_there_can_be_comes_back_from_the_record(files: set[bytes], links: dict[bytes, bytes]) -> None:
    contents = Contents(
        files={name: (Item("f", 1, AT, 0o644), "ab" * 32) for name in files},
        folders={name: Item("d", 0, AT, 0o755) for name in files},
        links=links,
        skipped=dict.fromkeys(files, "a pipe"),
    )
    text = manifest.build("tests0-job", {"attempt": 1}, contents)
    assert manifest.parse(text) == contents
    assert text.isascii()


def test_the_record_is_the_callers_with_ours_in_front_and_behind() -> None:
    text = manifest.build("tests0-job", {"node": "lab1", "schema": 9, "attempt": 3, "nested": {"a": [1]}}, Contents())
    assert list(json.loads(text)) == [
        "schema", "token", "attempt", "node", "nested", "files", "folders", "links", "skipped"
    ]  # fmt: skip
    assert json.loads(text)["schema"] == 1


def test_the_first_bytes_tell_whose_record_it_is() -> None:
    files = {b"%d" % number: (Item("f", 1, AT, 0o644), "ab" * 32) for number in range(1000)}
    text = manifest.build("tests0-job", {"attempt": 12, "node": "lab1"}, Contents(files=files))
    assert manifest.head(text[: manifest.HEAD_BYTES]) == ("tests0-job", 12)
    assert manifest.head(manifest.build("tests0-job", {}, Contents())) == ("tests0-job", None)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"\xff\xfe", b'{"schema": 1}', b"[" * 5000, b'{"token": "../x", "attempt": 1}']
)
def test_a_record_that_is_not_ours_is_nobodys(text: bytes) -> None:
    assert manifest.head(text) is None
    with pytest.raises(ManifestError):
        manifest.parse(text)


def test_a_torn_journal_counts_up_to_its_last_whole_line() -> None:
    lines = [
        manifest.journal_line(name, Item("f", 5, AT + 1, 0o600), "cd" * 32) for name in (b"one", b"\xff\n", b"three")
    ]
    whole = b"".join(lines)
    for cut in range(len(whole) + 1):
        files, good = manifest.read_journal(whole[:cut])
        expected = [
            name for name, end in ((b"one", 1), (b"\xff\n", 2), (b"three", 3)) if cut >= len(b"".join(lines[:end]))
        ]
        assert list(files) == expected
        assert good == len(b"".join(lines[: len(expected)]))
    assert files[b"\xff\n"] == (Item("f", 5, AT + 1, 0o600), "cd" * 32)


@pytest.mark.parametrize("rubbish", [b"\0" * 50 + b"\n", b"{}\n", b"[]\n", b'{"path": 1}\n', b"nonsense\n"])
def test_a_journal_is_believed_up_to_the_first_line_that_is_none(rubbish: bytes) -> None:
    line = manifest.journal_line(b"one", Item("f", 5, AT, 0o600), "cd" * 32)
    files, good = manifest.read_journal(line + rubbish + manifest.journal_line(b"two", Item("f"), ""))
    assert list(files) == [b"one"]
    assert good == len(line)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"", None),
        (b"\n \n\t\n", None),
        (b"first\nlast\n\n", "last"),
        (b"no end of line", "no end of line"),
        (b"10%\r50%\r100%\n", "100%"),
        (b"\x1b[1;31mError\x1b[0m: \x07x\n", "Error:  x"),
        (b"\x1b]0;title\x07text\n", "text"),
        (b"\xff\xfe odd\n", "\ufffd\ufffd odd"),
        ("\u202egnp.exe\n".encode(), "gnp.exe"),
        (b"x" * 500, "x" * 199 + "…"),
    ],
)
def test_the_last_line_is_fit_for_a_terminal(printed: bytes, shown: str | None) -> None:
    assert manifest.last_line(printed) == shown
