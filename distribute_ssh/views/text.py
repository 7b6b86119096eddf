"""Text for a terminal or a pipe: tables, cuts, colours, and foreign text that cannot play tricks on the reader."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36", "dim": "2", "bold": "1"}
_LEAST = 8  # a column that gives way keeps this much: "lab…mesh" still says which

# Colours of a solver's own output are welcome; whatever moves the cursor, sets titles or talks back is not.
_SGR = re.compile(r"\x1b\[[0-9;:]{0,40}m")
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def safe(text: str) -> str:
    """Text from a file, a node or a job on one line: whatever is not printable is shown as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def stripped(text: str) -> str:
    """A job's output for a terminal: newlines, tabs and colours stay, every other control character goes."""
    parts = _SGR.split(text)
    colours = [*_SGR.findall(text), ""]
    return "".join(_UNSAFE.sub("", part) + colour for part, colour in zip(parts, colours, strict=True))


def painted(text: str, colour: str | None) -> str:
    """`text` in a colour by name; as it is for None."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour and text.strip() else text


def cells(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def middle(text: str, width: int) -> str:
    """`text` in at most `width` columns, cut in its middle: names of a study differ at their ends."""
    if cells(text) <= width:
        return text
    if width < 3:
        return _head(text, width)
    left = _head(text, width // 2)
    right = _head(text[::-1], width - 1 - cells(left))[::-1]
    return f"{left}…{right}"


def _head(text: str, width: int) -> str:
    taken = 0
    for index, character in enumerate(text):
        taken += cells(character)
        if taken > width:
            return text[:index]
    return text


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    right: bool = False  # numbers
    gives: bool = False  # is cut where the table is too wide
    colour: Callable[[str], str | None] | None = None  # of a cell, by its text


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, width: int | None = None, colour: bool = False
) -> str:
    """A table without borders, headed in capitals; cells are made safe here.

    `width` is that of the terminal; None (a pipe) cuts nothing. Rows end without blanks, the text with a newline.
    """
    lines = [[safe(cell) for cell in row] for row in rows]
    widths = [max(map(cells, column), default=0) for column in zip(*lines, strict=True)] or [0] * len(columns)
    widths = [max(wide, len(column.title)) for wide, column in zip(widths, columns, strict=True)]
    if width is not None:
        _fit(widths, [column.gives for column in columns], width)
    out = [_row([column.title for column in columns], columns, widths, False)]
    out.extend(_row(line, columns, widths, colour) for line in lines)
    return "\n".join(out) + "\n"


def _fit(widths: list[int], gives: Sequence[bool], width: int) -> None:
    """Take from the widest column that may give way until the row fits, or none can give any more."""
    over = sum(widths) + 2 * (len(widths) - 1) - width
    while over > 0:
        able = [n for n, may in enumerate(gives) if may and widths[n] > _LEAST]
        if not able:
            return
        widest = max(able, key=lambda n: widths[n])
        next_widest = max((widths[n] for n in able if n != widest), default=_LEAST)
        taken = min(over, max(1, widths[widest] - max(next_widest, _LEAST)))
        widths[widest] -= taken
        over -= taken


def _row(line: Sequence[str], columns: Sequence[Column], widths: Sequence[int], colour: bool) -> str:
    shown = []
    for text, column, wide in zip(line, columns, widths, strict=True):
        cut = middle(text, wide)
        blank = " " * (wide - cells(cut))
        if colour and column.colour:
            cut = painted(cut, column.colour(text))
        shown.append(blank + cut if column.right else cut + blank)
    return "  ".join(shown).rstrip()


def count(number: int, word: str) -> str:
    """`1 job`, `2 jobs`, `3 batches`."""
    if number == 1:
        return f"1 {word}"
    return f"{number:,} {word}{'es' if word.endswith(('s', 'ch')) else 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """`a, b and c`; a long list ends in `and 12 more`."""
    shown = [safe(name) for name in names]
    if len(shown) > most:
        shown = [*shown[: most - 1], f"{len(shown) - most + 1:,} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
