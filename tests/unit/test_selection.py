"""What is chosen of a batch, as a pure question; and the words in which a pull is told."""

from __future__ import annotations

import pytest

from distribute_ssh.errors import UsageError
from distribute_ssh.storage.selection import Selection, text_of, wrong_name
from distribute_ssh.views import pulling
from distribute_ssh.views.moving import moving_line


def wanted(selection: Selection, *paths: bytes) -> list[bytes]:
    return [path for path in paths if selection.verdict(path).wanted]


PATHS = (b"re_1/u.h5", b"re_1/out/p.h5", b"re_2/run.log", b"batch.json")


@pytest.mark.parametrize(
    ("include", "exclude", "jobs", "found"),
    [
        ((), (), (), PATHS),
        ((r"\.h5$",), (), (), PATHS[:2]),
        (("^re_2", "u"), (), (), (b"re_1/u.h5", b"re_1/out/p.h5", b"re_2/run.log")),
        ((), ("h5", "json"), (), (b"re_2/run.log",)),
        (("h5",), ("out/",), (), (b"re_1/u.h5",)),
        ((".",), (".",), (), ()),
        ((), (), ("RE_1",), PATHS[:2]),
        (("h5",), (), ("re_2",), ()),
        (("^(?!re_1)",), (), (), (b"re_2/run.log", b"batch.json")),
    ],
)
def test_expressions_are_searched_in_the_path_and_exclude_wins(
    include: tuple[str, ...], exclude: tuple[str, ...], jobs: tuple[str, ...], found: tuple[bytes, ...]
) -> None:
    assert wanted(Selection(include, exclude, jobs), *PATHS) == list(found)


def test_an_odd_byte_is_one_character_to_an_expression() -> None:
    assert wanted(Selection(["^a.b$"]), b"a\xffb", "aöb".encode(), b"a\nb", b"ab") == [b"a\xffb", "aöb".encode()]
    assert text_of(b"\xff").encode("utf-8", "surrogateescape") == b"\xff"


@pytest.mark.parametrize("pattern", ["(", "[", "*", "(?P<a>.)(?P<a>.)", "a{2,1}", "\\"])
def test_what_is_no_expression_is_told_with_its_option(pattern: str) -> None:
    with pytest.raises(UsageError) as told:
        Selection([pattern], [pattern])
    assert told.value.message.count(repr(pattern)) == 2
    assert "--include" in told.value.message
    assert "--exclude" in told.value.message


@pytest.mark.parametrize("batch", ["sweep", "sweep@20250101T000000Z", "x" * 100, "x" * 100 + "@20250101T000000Z"])
def test_a_batch_that_was_moved_away_has_a_name_too(batch: str) -> None:
    assert wrong_name("lab", batch) is None


@pytest.mark.parametrize("batch", ["", "..", "a/b", "x" * 101, "@20250101T000000Z", "a/../b@20250101T000000Z", "a\n"])
def test_what_can_name_no_batch_is_refused(batch: str) -> None:
    assert wrong_name("lab", batch)
    assert wrong_name(batch, "sweep")


def test_bytes_on_their_way_are_told_with_rate_and_time_left() -> None:
    line = moving_line("3 of 2,000 files", 25 << 20, 100 << 20, 5.0)
    assert line == "3 of 2,000 files  25 MiB of 100 MiB  5 MiB/s  15s left"
    assert "left" not in moving_line("0 of 1 file", 0, 100, 0.0)
    assert moving_line("reading", 25 << 20, None, 5.0) == "reading  25 MiB  5 MiB/s"
    resumed = moving_line("sending", 80 << 20, 100 << 20, 10.0, before=60 << 20)
    assert resumed == "sending  80 MiB of 100 MiB  2 MiB/s  10s left"


def test_a_long_list_of_what_is_not_here_is_cut_and_says_so() -> None:
    refused = [{"path": f"a/{n}\x1b[31m", "why": "is missing"} for n in range(100)]
    text = pulling.refused_text(refused, "not here")
    assert text.startswith("not here:\n  a/0\\x1b[31m  is missing\n")
    assert text.endswith("... and 80 more; --json names all")
    assert pulling.refused_text([], "not here") == ""


def test_an_unfinished_batch_is_named_with_its_jobs() -> None:
    assert pulling.unfinished_text("d/s", []) == ""
    one = pulling.unfinished_text("d/s", [{"job": "a", "state": "running"}])
    assert one == "d/s is not finished: a has not ended; pull again later"
    many = pulling.unfinished_text("d/s", [{"job": str(n), "state": "queued"} for n in range(9)])
    assert "and 5 more have not ended" in many


def test_what_would_come_is_told_with_a_reason_for_every_file_and_last() -> None:
    def entry(path: str, fate: str, why: str, size: int = 1 << 10, kind: str = "file") -> dict[str, object]:
        return {"path": path, "fate": fate, "why": why, "size": size, "kind": kind}

    entries = [
        entry("a/u", "comes", "matches --include u"), entry("a/x\x1b", "left out", "matches no --include"),
        entry("b/l", "refused", "is a link that may lead out of the batch: /etc", 0, "link"),
        entry("b/u", "comes", "matches --include u"), entry("b/z", "left out", "matches no --include"),
    ]  # fmt: skip
    assert pulling.fates_text(entries).splitlines() == [
        "refused: is a link that may lead out of the batch: /etc: 1 file, 0 B",
        "        link  b/l",
        "left out: matches no --include: 2 files, 2 KiB",
        "       1 KiB  a/x\\x1b",
        "       1 KiB  b/z",
        "comes: matches --include u: 2 files, 2 KiB",
        "       1 KiB  a/u",
        "       1 KiB  b/u",
    ]
