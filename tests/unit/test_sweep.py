"""Sweeps: which combinations there are, what their values are, and how texts are filled."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute_ssh.errors import FileError
from distribute_ssh.model import sweep
from distribute_ssh.model.sweep import Point, Sweep
from distribute_ssh.model.yamltext import Checker, Mark, Scalar, load

PLACE = Mark(1, 1)


def make(parameters: dict[str, list[str]], *, zipped: bool = False) -> Sweep:
    return Sweep({key: tuple(Scalar(v, True, PLACE) for v in values) for key, values in parameters.items()}, zipped)


def read(text: str, *, zipped: bool = False) -> Sweep:
    check = Checker("f.yaml")
    found = sweep.read(check, load(text, "f.yaml"), "sweep", zipped=zipped)
    check.finish()
    assert found is not None
    return found


def test_all_combinations_come_in_the_order_written_the_last_key_fastest() -> None:
    plan = read("{re: [100, 400], mesh: [a, b, c]}")
    assert plan.count == 6
    assert [tuple(point.texts.values()) for point in plan.points()] == [
        ("100", "a"), ("100", "b"), ("100", "c"), ("400", "a"), ("400", "b"), ("400", "c"),
    ]  # fmt: skip


def test_zipped_lists_are_gone_through_side_by_side() -> None:
    plan = read("{dt: [0.1, 0.01], steps: [10, 100]}", zipped=True)
    assert plan.count == 2
    assert [dict(point.values) for point in plan.points()] == [{"dt": 0.1, "steps": 10}, {"dt": 0.01, "steps": 100}]


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.integers(1, 4), min_size=1, max_size=4))
def test_there_are_as_many_points_as_counted_and_no_two_are_equal(lengths: dict[str, int]) -> None:
    plan = make({key: [f"{key}{n}" for n in range(length)] for key, length in lengths.items()})
    points = [tuple(point.texts.items()) for point in plan.points()]
    assert len(points) == len(set(points)) == plan.count
    assert points == list(
        itertools.product(*([(key, f"{key}{n}") for n in range(length)] for key, length in lengths.items()))
    )
    assert plan.varying == tuple(key for key, length in lengths.items() if length > 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100", 100), ("-1", -1), ("0.5", 0.5), ("1.0", 1.0), ("1e3", 1000.0), ("-2E-2", -0.02), ("0", 0),
        ("true", True), ("True", True), ("FALSE", False),
        ("010", "010"), ("+1", "+1"), (".5", ".5"), ("1.", "1."), ("1_000", "1_000"), ("0x10", "0x10"),
        ("1:30", "1:30"), ("no", "no"), ("2023-01-01", "2023-01-01"), (".inf", ".inf"), ("NaN", "NaN"),
        ("Infinity", "Infinity"), ("1e999", "1e999"), ("9" * 5000, "9" * 5000), ("x", "x"), ("²", "²"),
    ],
)  # fmt: skip
def test_a_value_is_what_json_would_take_it_for_and_else_text(text: str, value: sweep.Value) -> None:
    found = sweep.value(Scalar(text, True, PLACE))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["100", "true", "0.5", ""])
def test_in_quotes_a_value_is_text(text: str) -> None:
    assert sweep.value(Scalar(text, False, PLACE)) == text


@settings(deadline=None)
@given(st.text(alphabet="0123456789.eE+-", max_size=30))
def test_every_value_comes_back_from_json(text: str) -> None:
    value = sweep.value(Scalar(text, True, PLACE))
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert not isinstance(value, float) or math.isfinite(value)


def test_texts_are_filled_as_they_were_written() -> None:
    plan = make({"re": ["1e3"], "mesh": ["010"]})
    (point,) = plan.points()
    assert plan.fill("re_{re}-{mesh}-{re}", point) == "re_1e3-010-1e3"
    assert plan.fill("no braces", point) == "no braces"


def test_doubled_braces_are_braces() -> None:
    plan = make({"a": ["1"]})
    (point,) = plan.points()
    assert plan.fill('{{"k": {a}}}', point) == '{"k": 1}'
    assert plan.fill("{{a}} {{{a}}}", point) == "{a} {1}"


@settings(deadline=None)
@given(st.text(alphabet="ab{} ", max_size=20))
def test_escaped_text_comes_out_as_it_went_in(text: str) -> None:
    point = Point({"a": "1"}, {"a": 1})
    assert make({"a": ["1"]}).fill(text.replace("{", "{{").replace("}", "}}"), point) == text


@settings(deadline=None)
@given(st.text(alphabet="{}a", max_size=12), st.text(max_size=5), st.text(max_size=5))
def test_whether_a_text_can_be_filled_does_not_depend_on_the_values(text: str, one: str, two: str) -> None:
    plan = make({"a": [one, two]})
    outcomes = []
    for value in (one, two):
        try:
            plan.fill(text, Point({"a": value}, {"a": value}))
            outcomes.append("filled")
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{b}", "has '{b}', which is no parameter of the sweep; it can be {re}, {mesh}; write {{ and }} for braces"),
        ("{mes}", "has '{mes}', which is no parameter of the sweep; did you mean `mesh`?"),
        ("{}", "has '{}', which is no parameter of the sweep; it can be {re}, {mesh}; write {{ and }} for braces"),
        ("{re", "has a single {; write {{ for a { that is text"),
        ("re}", "has a single }; write }} for a } that is text"),
    ],
)
def test_what_cannot_be_filled_says_what_to_write(text: str, wrong: str) -> None:
    plan = make({"re": ["1"], "mesh": ["2"]})
    (point,) = plan.points()
    with pytest.raises(ValueError, match="has") as caught:
        plan.fill(text, point)
    assert str(caught.value) == wrong


@pytest.mark.parametrize(
    ("text", "zipped", "message"),
    [
        ("~", False, "1:1: sweep: has no parameters; write them as lists, as in `mesh: [64, 128]`"),
        ("a: []", False, "1:4: sweep.a: has no values; list at least one, as in [1, 2, 3]"),
        ("a: 1", False, "1:4: sweep.a: must be a list, not '1'; write it as a list: [1]"),
        ("a: [~]", False, '1:5: sweep.a[0]: has no value; quote it if you mean the text: "~"'),
        ("a: [{b: c}]", False, "1:5: sweep.a[0]: must be text, not a mapping; quote text that begins with"),
        ("a-b: [1]", False, "1:1: sweep.a-b: a parameter's name is made of letters, digits and _, and begins with no"),
        ("a: [1]\nA: [1]", False, "2:1: sweep.A: would share the environment variable DISTRIBUTE_PARAM_A with `a`; "),
        ("a: [1, 2]\nb: [1]", True, "1:1: sweep: its lists must be of equal length with `zip: true` (a 2, b 1); list"),
    ],
)
def test_a_wrong_sweep_is_told_with_its_place(text: str, zipped: bool, message: str) -> None:
    with pytest.raises(FileError) as caught:
        read(text, zipped=zipped)
    assert str(caught.value).startswith(f"f.yaml:{message}")
    assert len(caught.value.problems) == 1


def test_a_sweep_that_is_not_there_is_none() -> None:
    assert sweep.read(Checker("f"), None, "sweep", zipped=False) is None


def test_counting_a_sweep_of_billions_takes_no_time() -> None:
    plan = make({chr(97 + n): ["x"] * 1000 for n in range(10)})
    assert plan.count == 1000**10
