"""The JSON side of every command: one document with a version inside."""

from __future__ import annotations

import json
import re
from typing import Any

from distribute_ssh.errors import DistributeError, FileError

SCHEMA = 1
Document = dict[str, Any]


def document(**content: Any) -> Document:
    """Return the document of one command. What is in it stays in it; later versions only add."""
    return {"schema": SCHEMA, **content}


def error_document(kind: str, message: str, hint: str | None = None, **more: Any) -> Document:
    """Return the document of a command that could not do what it was asked."""
    return document(error={"kind": kind, "message": message, "hint": hint, **more})


def of_error(error: DistributeError) -> Document:
    """Return the document of one of our errors; of a YAML file, with the place of every problem."""
    if isinstance(error, FileError):
        problems = [
            {"file": p.file, "line": p.line, "column": p.column, "key": p.key, "what": p.what, "remedy": p.remedy}
            for p in error.problems
        ]
        return error_document(kind(error), error.message, error.hint, problems=problems)
    return error_document(kind(error), error.message, error.hint)


def kind(error: DistributeError) -> str:
    """Name the error's class as programs compare it: `no-match`, `host-key`, `unreachable`."""
    return kind_of(type(error))


def kind_of(error: type[DistributeError]) -> str:
    """Name a class of errors."""
    if error is DistributeError:
        return "error"
    return "-".join(re.findall(r"[A-Z][a-z]*", error.__name__.removesuffix("Error"))).lower()


def dump(content: Document) -> str:
    """One line, UTF-8 as it is; a name in another encoding stays readable to every JSON parser."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    # A lone surrogate (a file name that is no UTF-8) cannot be printed: those are escaped.
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
