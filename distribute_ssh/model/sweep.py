"""Sweeps: one entry of a jobs file that stands for many jobs, by lists of values and `{key}` in its texts."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from distribute_ssh.model.yamltext import Checker, Node, Scalar, did_you_mean, join, quoted

Value = str | int | float | bool

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Point:
    """One job of a sweep: the text of each parameter as it was written, and the value it stands for."""

    texts: Mapping[str, str]
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Sweep:
    """The parameters of one entry, in the order written."""

    parameters: Mapping[str, tuple[Scalar, ...]]
    zipped: bool

    @property
    def count(self) -> int:
        """How many jobs it stands for."""
        lengths = [len(values) for values in self.parameters.values()]
        return lengths[0] if self.zipped else math.prod(lengths)

    @property
    def varying(self) -> tuple[str, ...]:
        """The parameters with more than one value."""
        return tuple(key for key, values in self.parameters.items() if len(values) > 1)

    def points(self) -> Iterator[Point]:
        """Yield every combination, the last key varying fastest; or, zipped, the first values, the second ones, ..."""
        columns = self.parameters.values()
        rows = zip(*columns, strict=True) if self.zipped else itertools.product(*columns)
        for row in rows:
            pairs = list(zip(self.parameters, row, strict=True))
            yield Point({key: node.text for key, node in pairs}, {key: value(node) for key, node in pairs})

    def fill(self, template: str, point: Point) -> str:
        """Put the texts of `point` where `template` says `{key}`; `{{` and `}}` stand for braces.

        Raises ValueError, for every point alike, with a sentence that says what to write instead.
        """

        def replace(match: re.Match[str]) -> str:
            found = match[0]
            if found in ("{{", "}}"):
                return found[0]
            if match[1] is None:
                raise ValueError(f"has a single {found}; write {found * 2} for a {found} that is text")
            if match[1] not in point.texts:
                known = ", ".join(f"{{{key}}}" for key in point.texts)
                near = did_you_mean(match[1], point.texts) or f"it can be {known}; write {{{{ and }}}} for braces"
                raise ValueError(f"has {quoted(found)}, which is no parameter of the sweep; {near}")
            return point.texts[match[1]]

        return _BRACES.sub(replace, template)


def value(node: Scalar) -> Value:
    """Return what a job reads in its `sweep.json`: a number, true or false where that was written, else the text."""
    if node.plain:
        if node.text in ("true", "True", "TRUE", "false", "False", "FALSE"):
            return node.text.lower() == "true"
        # What a JSON reader could not give back (a thousand digits, 1e999) stays text.
        if len(node.text) <= 400 and _NUMBER.fullmatch(node.text):
            number: int | float = json.loads(node.text)
            if math.isfinite(number):
                return number
    return node.text


def read(check: Checker, node: Node | None, path: str, *, zipped: bool) -> Sweep | None:
    """Read the mapping of lists at `path`; None when it is not there or wrong (and noted)."""
    if node is None:
        return None
    before = len(check.problems)
    parameters: dict[str, tuple[Scalar, ...]] = {}
    variables: dict[str, str] = {}
    for key, listed in check.entries(node, path):
        here = join(path, key.text)
        so_far = len(check.problems)
        variable = key.text.upper()
        if not _KEY.fullmatch(key.text):
            check.problem(key, here, "a parameter's name is made of letters, digits and _, and begins with no digit")
        elif variable in variables:
            what = f"would share the environment variable DISTRIBUTE_PARAM_{variable} with `{variables[variable]}`"
            check.problem(key, here, what, "give it another name")
        variables[variable] = key.text
        values = [
            item for place, item in check.items(listed, here) if check.string(item, place, empty=True) is not None
        ]
        parameters[key.text] = tuple(item for item in values if isinstance(item, Scalar))
        if not values and len(check.problems) == so_far:
            check.problem(listed, here, "has no values", "list at least one, as in [1, 2, 3]")
    if not parameters and len(check.problems) == before:
        check.problem(node, path, "has no parameters", "write them as lists, as in `mesh: [64, 128]`")
    lengths = {key: len(values) for key, values in parameters.items()}
    if zipped and len(set(lengths.values())) > 1 and len(check.problems) == before:
        counted = ", ".join(f"{key} {length}" for key, length in lengths.items())
        remedy = "list as many of each, or drop `zip` to have all combinations"
        check.problem(node, path, f"its lists must be of equal length with `zip: true` ({counted})", remedy)
    return None if len(check.problems) > before else Sweep(parameters, zipped)
