"""Frames: what goes in comes out, however it is cut up, and what is no frame is an error."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute_ssh.errors import (
    DeniedError,
    DistributeError,
    FileError,
    HeadError,
    HostKeyError,
    NoMatchError,
    NoNodeError,
    Problem,
    UsageError,
)
from distribute_ssh.head import frames
from distribute_ssh.head.frames import MAX_DATA, MAX_HEADER, Body, Decoder, Frame, FrameError, encode, failed, failure
from distribute_ssh.model.actor import COMMANDS, Actor, Role


@given(st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=99), st.text(max_size=99))), st.integers(1, 99))
def test_frames_come_out_as_they_went_in_however_the_line_cuts_them(
    said: list[tuple[str, bytes, str]], cut: int
) -> None:
    line = b"".join(encode(kind, data, field=text) for kind, data, text in said)
    decoder = Decoder()
    heard = [frame for start in range(0, len(line), cut) for frame in decoder.feed(line[start : start + cut])]
    assert [(frame.kind, frame.data, frame.text("field")) for frame in heard] == said


@given(st.binary(max_size=300))
def test_garbage_is_an_error_or_not_yet_a_frame(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        list(Decoder().feed(data))


@pytest.mark.parametrize(
    "line",
    [b"[]\n", b"{}\n", b'{"is": 1}\n', b"x" * MAX_HEADER, b"[" * 60_000 + b"\n", b'{"is": "a", "bytes": "1"}\n',
     b'{"is": "a", "bytes": %d}\n' % (MAX_DATA + 1), b"\xff\n"],
)  # fmt: skip
def test_what_is_no_frame_is_refused_at_once(line: bytes) -> None:
    with pytest.raises(FrameError):
        list(Decoder().feed(line))


def test_fields_of_another_type_are_refused() -> None:
    frame = Frame("f", {"text": 1, "number": True, "flag": "yes", "texts": ["a\0"], "long": "x" * 50})
    for ask in (
        lambda: frame.text("text"), lambda: frame.text("missing"), lambda: frame.text("long", 49),
        lambda: frame.number("number"), lambda: frame.number("text", 0), lambda: frame.flag("flag"),
        lambda: frame.texts("texts"), lambda: frame.texts("text"),
    ):  # fmt: skip
        with pytest.raises(FrameError):
            ask()
    assert frame.flag("missing") is False


@given(st.integers(0, 3 * MAX_DATA + 7))
def test_a_long_text_comes_in_pieces_and_is_whole_at_the_last(size: int) -> None:
    body, found = Body("b", size), None
    for piece in frames.pieces("b", b"x" * size):
        assert found is None
        (frame,) = Decoder().feed(piece)
        found = body.add(frame)
    assert found == b"x" * size


@pytest.mark.parametrize(
    "frame",
    [Frame("b", {"total": 11}, b"x"), Frame("b", {"total": 2}, b"xxx"), Frame("b", {"total": 2}), Frame("c"),
     Frame("b", {}, b"x")],
)  # fmt: skip
def test_pieces_that_do_not_fit_are_refused(frame: Frame) -> None:
    with pytest.raises(FrameError):
        Body("b", 10).add(frame)


@pytest.mark.parametrize(
    "error",
    [
        DistributeError("x"),
        UsageError("a\nb", hint="h"),
        NoMatchError("n"),
        NoNodeError("n", hint="h"),
        DeniedError("d"),
        HostKeyError("k"),
        FileError([Problem("/jobs.yaml", 3, 4, "meta.x", "is wrong", "mend it"), Problem("/jobs.yaml", 1, 1, "", "w")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_on_the_other_side(error: DistributeError) -> None:
    (frame,) = Decoder().feed(failure(error))
    found = failed(frame)
    assert (type(found), str(found), found.exit_code) == (type(error), str(error), error.exit_code)
    assert getattr(found, "problems", ()) == getattr(error, "problems", ())


def test_an_error_with_ten_thousand_problems_still_fits_and_keeps_the_first() -> None:
    problems = [Problem("/jobs.yaml", n, 1, "meta", "is wrong " * 9) for n in range(1, 10_000)]
    (frame,) = Decoder().feed(failure(FileError(problems)))
    assert str(failed(frame)).startswith("/jobs.yaml:1:1: meta: is wrong")


@pytest.mark.parametrize("told", [None, [], {}, {"message": 1}, {"message": "m", "kind": "file", "problems": [1]}])
def test_an_error_that_is_none_is_one_of_the_head(told: object) -> None:
    frame = Frame("error", json.loads(json.dumps({"error": told})))
    try:
        assert type(failed(frame)) is HeadError
    except FrameError:
        assert not isinstance(told, dict) or "kind" not in told


def test_what_a_submitter_may_run_an_administrator_may_too() -> None:
    assert COMMANDS[Role.SUBMITTER] < COMMANDS[Role.ADMIN] == COMMANDS[Role.OWNER]
    assert COMMANDS[Role.NODE] < COMMANDS[Role.ADMIN]


def test_an_actor_is_told_to_a_command_as_it_is() -> None:
    for actor in (Actor(), Actor(Role.ADMIN, "eva"), Actor(Role.NODE, "desk", "lab3")):
        assert Actor.of({"DISTRIBUTE_ACTOR": actor.text()}) == actor
    assert Actor.of({}) is None
    with pytest.raises(UsageError):
        Actor.of({"DISTRIBUTE_ACTOR": "admin"})
