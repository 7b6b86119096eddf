"""The lines between a channel and its resident."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distribute_ssh.model.layout import is_token
from distribute_ssh.node import wire
from distribute_ssh.node.wire import End, Event, Hello, Refusal, Row

N = "nonce12"
SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]
# Whatever a file on a Unix machine may hold but NUL, which no shell can carry.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
BYTES = st.binary(max_size=300).map(lambda data: data.replace(b"\0", b"\x01").decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@settings(max_examples=60, deadline=None)
@given(text=TEXT | BYTES)
@example(text="\\n \\\\ \\0101 \\c %s '\"`$(id) \t\n\n")
@example(text="- -e -n\\")
def test_any_text_comes_back_from_the_shell_s_own_printf(shell: list[str], text: str) -> None:
    """Read and printed by the very words of the resident."""
    words = "while IFS=' ' read -r verb number rest; do printf '%b' \"${rest#* }\"; done"
    line = wire.request("start", 7, "token", wire.escape(text) + ".")
    ran = subprocess.run([*shell, "-c", words], input=line, capture_output=True, check=True)
    assert ran.stdout == text.encode("utf-8", "surrogateescape") + b"."
    assert ran.stderr == b""


@given(TEXT | BYTES)
def test_an_escaped_text_is_one_line_of_printable_ascii(text: str) -> None:
    spelled = wire.escape(text)
    assert spelled.isascii()
    assert spelled.isprintable() or spelled == ""


@given(TEXT | BYTES, st.integers(10, 200))
def test_a_word_is_one_word_within_its_room_and_reads_as_it_was_or_as_its_beginning(text: str, room: int) -> None:
    spelled = wire.word(text, room)
    assert " " not in spelled
    assert len(spelled) <= room
    shown = text.encode("utf-8", "surrogateescape")
    assert shown.startswith(wire.unword(spelled).encode()) or "\ufffd" in wire.unword(spelled)
    if len(wire.escape(text)) + 4 * text.count(" ") <= room:
        assert wire.unword(spelled) == shown.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{N} hello 1 boot-id 77 r1 /scratch/distribute-0\n", Hello("boot-id", 77, "r1", "/scratch/distribute-0")),
        (f"{N} hello 1 boot-id 77 r1 /my disk/distribute-0\n", Hello("boot-id", 77, "r1", "/my disk/distribute-0")),
        (f"{N} scratch /no where\n", Refusal("scratch", "/no where")),
        (f"{N} full /scratch\n", Refusal("full", "/scratch")),
        (f"{N} started queue1-abcdef\n", Event("started", "queue1-abcdef", "")),
        (f"{N} exit queue1-abcdef 137\n", Event("exit", "queue1-abcdef", "137")),
        (f"{N} sight 5 queue1-abcdef ended 0\n", Row(5, "sight", ("queue1-abcdef", "ended", "0"))),
        (f"{N} done 5\n", End(5, True, "")),
        (f"{N} done 5 3\n", End(5, True, "3")),
        (f"{N} fail 6 full\n", End(6, False, "full")),
    ],
)
def test_a_line_of_ours_is_understood(line: str, said: object) -> None:
    assert wire.read(line.encode(), N) == said


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "Welcome to the lab!\n",
        "done 5\n",
        f"{N}\n",
        f"{N} done\n",
        "other done 5\n",
        f"{N}x done 5\n",
        f" {N} done 5\n",
        f"{N}  done 5\n",
        f"{N} done five\n",
        f"{N} done -5\n",
        f"{N} done ²\n",
        f"{N} dance 5\n",
        f"{N} hello 1 boot 77 relative/folder\n",
        f"{N} hello 1 boot ² /scratch\n",
        f"{N} hello 1 boot {'9' * 5000} /scratch\n",
        f"{N} hello 1 boot -7 /scratch\n",
        f"{N} hello 1 boot\n",
        f"{N} exit ../../etc 0\n",
        f"{N} exit * 0\n",
        f"{N} sight 5 QUEUE1-ABCDEF ended 0\n",
        f"{N} sight 5\n",
        f"{N} sight {'9' * 400} queue1-abcdef ended {'0' * 200}\n",
    ],
)
def test_everything_else_is_passed_over(line: str) -> None:
    assert wire.read(line.encode(), N) is None


LINES = st.one_of(
    st.binary(max_size=700),
    st.builds(
        lambda words, end: N.encode() + b" " + b" ".join(words) + end,
        st.lists(
            st.sampled_from([b"hello", b"exit", b"sight", b"done", b"fail", b"1", b"queue1-abcdef", b"/x", b"lease"])
            | st.binary(max_size=30)
            | st.integers().map(lambda number: str(number).encode()),
            max_size=8,
        ),
        st.sampled_from([b"\n", b"", b"\r\n", b"\n\n"]),
    ),
)


@given(LINES)
def test_no_line_raises_and_none_carries_a_name_that_we_could_not_have_given(line: bytes) -> None:
    said = wire.read(line, N)
    if isinstance(said, Event):
        assert is_token(said.token)
    if isinstance(said, Row):
        assert is_token(said.fields[0])
    if isinstance(said, Hello):
        assert said.root.startswith("/")
        assert said.pid >= 0


@given(LINES)
def test_without_the_nonce_nothing_is_believed(line: bytes) -> None:
    assert wire.read(line, "another") is None or line.startswith(b"another ")
