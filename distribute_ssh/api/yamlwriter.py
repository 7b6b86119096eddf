"""Data as the text of a jobs file: block style, and quotes wherever a text could be taken for something else."""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

Tree = dict[str, Any]
"""Keys in the order written; values are trees, lists and scalars."""

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+=-]*|[0-9]+[A-Za-z][A-Za-z0-9]*", re.ASCII)
_NUMBER = re.compile(r"[0-9]+[eE][0-9]+", re.ASCII)
_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n", "."))
_ESCAPED = re.compile('["\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]')


class Written(str):
    """A number or word as somebody wrote it in a jobs file, without quotes: `0.10` stays `0.10`."""

    __slots__ = ()


def lines(data: Any, indent: int = 0) -> list[str]:
    """The lines of a mapping or a list; an empty one has none that would be its own."""
    pad = " " * indent
    found: list[str] = []
    if isinstance(data, dict):
        for key, value in data.items():
            name = f"{pad}{scalar(key)}:"
            if isinstance(value, (dict, list)) and value:
                found += [name, *lines(value, indent + 2)]
            else:
                found.append(f"{name} {_empty(value)}")
        return found
    for item in data:
        if isinstance(item, (dict, list)) and item:
            first, *rest = lines(item, indent + 2)
            found += [f"{pad}- {first.lstrip()}", *rest]
        else:
            found.append(f"{pad}- {_empty(item)}")
    return found


def _empty(value: Any) -> str:
    if isinstance(value, dict):
        return "{}"
    return "[]" if isinstance(value, list) else scalar(value)


def scalar(value: object) -> str:
    """One value, so that it is read as what it is."""
    if value is None:
        return "~"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Written) and "\n" not in value:
        return str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}, and a jobs file holds texts, numbers, true and false")


def sweep_value(value: object, key: str) -> str | int | float | bool:
    """A value of a sweep as plain data; numbers of numpy become Python's. Raises TypeError, ValueError."""
    if isinstance(value, (str, bool)):
        return value
    if not isinstance(value, (int, float)) and hasattr(value, "item"):  # numpy's scalars
        return sweep_value(value.item(), key)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"sweep[{key!r}] has {number}, which is no number a job could read")
        return number
    raise TypeError(f"sweep[{key!r}] has {value!r}: it can vary texts, numbers, True and False")


def _text(text: str) -> str:
    # Everything in doubt is quoted: what `no` or `1e3` means is a question of the reader and its version of YAML.
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and not _NUMBER.fullmatch(text):
        return text
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in '"\\':
        return "\\" + character
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"
