"""YAML as its author wrote it: texts, places, limits, and messages that help."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute_ssh.errors import FileError
from distribute_ssh.model import yamltext
from distribute_ssh.model.yamltext import Checker, Mapping, Mark, Node, Scalar, Sequence, is_null, join, load, quoted


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(FileError) as caught:
        load(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


def plain(node: Node | None) -> object:
    """The tree as simple Python objects."""
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    assert isinstance(node, Mapping)
    return {key.text: plain(value) for key, value in node.entries}


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML may have been built without libyaml; both of its parsers must do."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML without libyaml")
    monkeypatch.setattr(yamltext, "_LOADER", getattr(yaml, request.param))


TEXTS = [
    *(
        "10:00:00",
        "1:30",
        "010",
        "001",
        "1_000",
        "0x1F",
        "0o17",
        "0b11",
        "1e3",
        "1.0",
        "+1",
        ".inf",
        ".nan",
        "2023-01-01",
    ),
    *("no", "yes", "on", "off", "y", "True", "true", "=", "a#b", "a b", "größe", "日本語", "\U0001f600"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_scalar_is_what_was_written(text: str, loader: None) -> None:
    node = load(f"key: {text}", "f")
    assert isinstance(node, Mapping)
    assert node.get("key") == Scalar(text, True, Mark(1, 6))


@settings(deadline=None)
@given(st.text())
def test_quoted_text_of_any_kind_comes_back_as_it_was(text: str) -> None:
    escaped = "".join(f"\\U{ord(character):08x}" for character in text)
    node = load(f'key: "{escaped}"', "f")
    assert isinstance(node, Mapping)
    value = node.get("key")
    assert isinstance(value, Scalar)
    assert value.text == text
    assert not value.plain


@settings(deadline=None)
@given(st.text() | st.binary())
def test_whatever_the_bytes_there_is_a_tree_or_a_file_error(text: str | bytes) -> None:
    found: Any
    try:
        found = load(text, "f")
    except FileError as error:
        found = error.problems
    assert isinstance(found, Scalar | Sequence | Mapping) or all(p.line >= 1 and p.column >= 1 for p in found)
    assert found


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,? \n\t~<0", max_size=60))
def test_both_parsers_agree_on_what_yaml_is(text: str) -> None:
    """Where both accept a text they read the same; what YAML forbids neither takes without saying so."""
    read: list[object] = []
    for name in ("CSafeLoader", "SafeLoader"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yamltext, "_LOADER", getattr(yaml, name))
            try:
                read.append(plain(load(text, "f")))
            except FileError:
                return
    assert read[0] == read[1]


def test_every_node_knows_its_place(loader: None) -> None:
    node = load("a:\n  - x\n  - {k: 'v'}\n", "f")
    assert isinstance(node, Mapping)
    assert node.mark == Mark(1, 1)
    items = node.get("a")
    assert isinstance(items, Sequence)
    assert items.mark == Mark(2, 3)
    assert items.items[0] == Scalar("x", True, Mark(2, 5))
    inner = items.items[1]
    assert isinstance(inner, Mapping)
    assert inner.mark == Mark(3, 5)
    assert inner.entries == ((Scalar("k", True, Mark(3, 6)), Scalar("v", False, Mark(3, 9))),)
    assert node.get("b") is None


@pytest.mark.parametrize("text", ["", "~", "null", "Null", "NULL"])
def test_null_is_null_only_without_quotes(text: str) -> None:
    node = load(f"[{text or ' ~'}, '{text}']", "f")
    assert isinstance(node, Sequence)
    bare, in_quotes = node.items
    assert is_null(bare)
    assert not is_null(in_quotes)
    assert is_null(None)


def test_aliases_stand_for_their_anchors(loader: None) -> None:
    assert plain(load("a: &x [1, 2]\nb: *x\nc: [*x, *x]", "f")) == {
        "a": ["1", "2"],
        "b": ["1", "2"],
        "c": [["1", "2"], ["1", "2"]],
    }


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(loader: None) -> None:
    assert plain(load(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "f")) == {"a": "1", "b": "2"}


MESSAGES = [
    ("a:\n\tb: 1\n", "f.yaml:2:1: a tab cannot indent YAML; use spaces"),
    ("a:\n  b: 1\n\tc: 2\n", "f.yaml:3:1: a tab cannot indent YAML; use spaces"),
    ("a:\n - b\n\t- c\n", "f.yaml:3:1: a tab cannot indent YAML; use spaces"),
    ("m: @me:x.org # x", 'f.yaml:1:4: unquoted text cannot begin with @; put it into quotes: "@me:x.org"'),
    ("[`x`]", 'f.yaml:1:2: unquoted text cannot begin with `; put it into quotes: "`x`"'),
    ("a: %x", 'f.yaml:1:4: unquoted text cannot begin with %; put it into quotes: "%x"'),
    ("a: *x", 'f.yaml:1:4: no anchor &x comes before this alias; quote it if it is text: "*x"'),
    ("a: &x [*x]", 'f.yaml:1:8: no anchor &x comes before this alias; quote it if it is text: "*x"'),
    ("", "f.yaml:1:1: the file is empty"),
    ("# only a comment\n", "f.yaml:1:1: the file is empty"),
    ("--- a\n--- b\n", "f.yaml:2:1: a second document begins here; put it into a file of its own"),
    ("a: !x b", "f.yaml:1:4: the tag '!x' is not supported; remove it; quote what is text"),
    ("a: !!int 7", "f.yaml:1:4: the tag 'tag:yaml.org,2002:int' is not supported; remove it; quote what is text"),
    ("? [1]\n: 2", "f.yaml:1:3: a key must be plain text; quote text that begins with { or ["),
    ("<<: {a: 1}", "f.yaml:1:1: the merge key << is not supported; write the keys out"),
    ("a: 1\nb: 2\na: 3", "f.yaml:3:1: the key 'a' is there already, in line 1; remove one of the two"),
    ("a: 1\n'a': 3", "f.yaml:2:1: the key 'a' is there already, in line 1; remove one of the two"),
    (b"a: 1\nb: \xff", "f.yaml:2:4: the byte 0xff is not UTF-8; save the file as UTF-8"),
    ("a: \x1b[31m", "f.yaml:1:4: the character U+001B is not allowed in YAML; remove it"),
    ("a: \x00", "f.yaml:1:4: the character U+0000 is not allowed in YAML; remove it"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MESSAGES)
def test_a_mistake_is_told_with_its_place_and_its_remedy(text: str | bytes, message: str, loader: None) -> None:
    assert problems(text) == [message]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: b: c", "1:5"),
        ("alias: {key}.json", "1:13"),
        ("a: [1, 2\nb: 3", "2:2"),
        ("a: 'x", "1:6"),
        ("- a\nb: 2", "2:1"),
        (" a: 1\nb: 2", "2:1"),
        ('a: "\\ud800"', "1:"),
        ('a: "\\q"', "1:"),
    ],
)
def test_what_is_no_yaml_at_all_is_said_with_its_place(text: str, place: str) -> None:
    (message,) = problems(text)
    assert message.startswith(f"f.yaml:{place}")
    assert "this is not valid YAML: " in message


def test_an_error_of_the_syntax_leads_to_quotes_and_to_where_it_began() -> None:
    (message,) = problems("a: 1\nb: [1, 2\nc: 3")
    assert "in what begins in line 2" in message
    assert "quote text" in message


def test_all_problems_of_the_text_are_told_at_once() -> None:
    text = "a:\n  k: 1\n  k: 2\n  <<: *y\nb: !t x\nc: [\n"
    assert [line.split(":")[1] for line in problems(text)] == ["3", "4", "4", "5", "7"]


def test_after_a_hundred_problems_the_rest_is_counted() -> None:
    told = problems("\n".join(["a: 1"] * 351))
    assert len(told) == 101
    assert told[-1] == "f.yaml:102:1: and 250 more problems from here on"


def test_a_bomb_of_aliases_is_refused_in_a_moment(loader: None) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 20))
    begun = time.process_time()
    assert problems(bomb) == [
        "f.yaml:6:5: there are more than 2,000,000 values, counting what aliases stand for",
    ]
    assert time.process_time() - begun < 5


def test_a_chain_of_aliases_is_as_deep_as_what_it_stands_for(loader: None) -> None:
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))
    assert problems(chain)[0].endswith("this is nested more than 40 levels deep")


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "{a: "])
def test_nesting_without_end_is_refused_and_kills_nobody(opening: str) -> None:
    """In a process of its own: PyYAML's C loader is known to die of it by a segmentation fault."""
    program = f"""
import yaml
from distribute_ssh.errors import FileError
from distribute_ssh.model import yamltext
for yamltext._LOADER in {{getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader}}:
    try:
        yamltext.load({opening!r} * 100_000, "f")
    except FileError as error:
        assert "nested more than 40" in str(error), str(error)[:200]
    else:
        raise SystemExit("accepted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_forty_levels_are_enough_for_anybody(loader: None) -> None:
    load("[" * 40 + "]" * 40, "f")
    assert "f.yaml:1:41: this is nested" in problems("[" * 41 + "]" * 41)[0]


def test_a_file_over_eight_mebibytes_is_refused() -> None:
    filler = "#" * (8 * 1024 * 1024 - 5)
    assert plain(load(f"a: 1\n{filler}", "f")) == {"a": "1"}
    assert problems(f"a: 1\n{filler}#") == ["f.yaml:1:1: the file is larger than 8 MiB; split it into several"]


def test_garbage_is_collected_again_after_a_load() -> None:
    load("a: 1", "f")
    assert gc.isenabled()
    problems("[")
    assert gc.isenabled()


# ------------------------------------------------------------------------------------------------------------- Checker


def read(text: str) -> tuple[Checker, dict[str, Node]]:
    check = Checker("f.yaml")
    return check, {key.text: node for key, node in check.entries(load(text, "f.yaml"), "")}


def told(check: Checker) -> list[str]:
    with pytest.raises(FileError) as caught:
        check.finish()
    return [str(problem).removeprefix("f.yaml:") for problem in caught.value.problems]


def test_the_verbs_return_what_is_there() -> None:
    check, top = read("s: 010\ni: 12\nb: True\nc: wait\nl: [x]\nm: {k: v}\nd: '7'\ne: ''")
    assert check.string(top["s"], "s") == "010"
    assert check.string(top["e"], "e", empty=True) == ""
    assert check.line(top["s"], "s") == "010"
    assert check.integer(top["i"], "i", low=12, high=12) == 12
    assert check.boolean(top["b"], "b") is True
    assert check.choice(top["c"], "c", ("wait", "go")) == "wait"
    assert [(path, plain(item)) for path, item in check.items(top["l"], "l")] == [("l[0]", "x")]
    assert [(key.text, plain(node)) for key, node in check.entries(top["m"], "m")] == [("k", "v")]
    assert check.parsed(top["d"], "d", int) == 7
    assert list(check.mapping(top["m"], "m", required=("k",), optional=("l",))) == ["k"]
    check.finish()


def test_what_is_not_there_is_nothing_and_no_problem() -> None:
    check = Checker("f.yaml")
    assert check.string(None, "x") is None
    assert check.line(None, "x") is None
    assert check.integer(None, "x") is None
    assert check.boolean(None, "x") is None
    assert check.choice(None, "x", ("a",)) is None
    assert check.parsed(None, "x", int) is None
    assert check.items(None, "x") == []
    assert check.entries(None, "x") == []
    assert check.mapping(None, "x", required=("a",)) == {}
    check.finish()


def test_null_is_empty_for_lists_and_free_mappings_and_wrong_elsewhere() -> None:
    check, top = read("n: ~\ne:")
    assert check.items(top["n"], "n") == []
    assert check.entries(top["e"], "e") == []
    check.finish()
    check.string(top["n"], "n")
    check.string(top["e"], "e")
    check.mapping(top["e"], "e", required=("a",))
    assert told(check) == [
        '1:4: n: has no value; quote it if you mean the text: "~"',
        "2:3: e: has no value; write a value, or remove the key",
        "2:3: e: must be a mapping, not empty; write `key: value` lines under it; keys: a",
    ]


@pytest.mark.parametrize(
    "number", ["01", "1.0", "1_0", "0x1", "+1", "-0.5", "1e3", "1:30", "'1'", "x", "[1]", "~", "²"]
)
def test_a_whole_number_is_written_plainly(number: str) -> None:
    check, top = read(f"n: {number}")
    assert check.integer(top["n"], "n") is None
    assert told(check)[0].startswith("1:4: n: must be a whole number of at least 0, not ")


def test_a_number_of_a_thousand_digits_is_a_problem_and_no_crash() -> None:
    check, top = read("n: " + "9" * 5000)
    assert check.integer(top["n"], "n") is None
    (message,) = told(check)
    assert len(message) < 200


def test_limits_of_numbers_are_told() -> None:
    check, top = read("a: -1\nb: 101")
    check.integer(top["a"], "a")
    check.integer(top["b"], "b", low=1, high=100)
    assert told(check) == [
        "1:4: a: must be a whole number of at least 0, not -1",
        "2:4: b: must be a whole number from 1 to 100, not 101",
    ]


@pytest.mark.parametrize("text", [r"a\nb", r"a\eb", r"\x7f", r"\u2028", r"\u0085"])
def test_a_line_is_one_line_and_leaves_the_terminal_alone(text: str) -> None:
    check, top = read(f's: "{text}"')
    assert check.line(top["s"], "s") is None
    (message,) = told(check)
    assert message == "1:4: s: must be one line without control characters"
    assert message.isprintable()


def test_nothing_shown_to_a_person_can_drive_the_terminal() -> None:
    check, top = read('"\\e[31m": 1\nc: "\\e[2J\\n"')
    check.mapping(load('{"\\e[31m\\n": 1}', "f.yaml"), "", optional=("a",))
    check.choice(top["c"], "c", ("a",))
    check.boolean(top["c"], join("c", "\x1b\n"))
    assert all(message.isprintable() for message in told(check))
    assert quoted("x" * 1000) == repr("x" * 57 + "...")


def test_an_unknown_key_leads_to_the_right_one() -> None:
    check = Checker("f.yaml")
    node = load("requred: 1\ncpus-per-task: 2\nNAME: 3\ndocker: 4\nqqq: 5", "f.yaml")
    check.mapping(node, "x", optional=("required", "cpus_per_task", "name"), hints={"docker": "use the other thing"})
    assert told(check) == [
        "1:1: x.requred: is not a key known here; did you mean `required`?",
        "2:1: x.cpus-per-task: is not a key known here; did you mean `cpus_per_task`?",
        "3:1: x.NAME: is not a key known here; did you mean `name`?",
        "4:1: x.docker: is not a key known here; use the other thing",
        "5:1: x.qqq: is not a key known here; keys are required, cpus_per_task, name",
    ]


def test_a_required_key_that_is_misspelt_is_one_problem() -> None:
    check = Checker("f.yaml")
    check.mapping(load("nam: 1", "f.yaml"), "", required=("name", "host"))
    assert told(check) == [
        "1:1: nam: is not a key known here; did you mean `name`?",
        "1:1: lacks the key `host`; add `host:`",
    ]


def test_a_value_that_cannot_be_parsed_is_told_in_the_words_of_the_parser() -> None:
    def never(text: str) -> int:
        raise ValueError(f"`{text}` will not do")

    check, top = read("a: 1\nb: [1]")
    assert check.parsed(top["a"], "a", never) is None
    assert check.parsed(top["b"], "b", never) is None
    assert told(check) == [
        "1:4: a: `1` will not do",
        "2:4: b: must be text, not a list; quote text that begins with { or [",
    ]
