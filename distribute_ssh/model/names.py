"""Names people give: of namespaces, batches and jobs, and of files on the node (aliases). What may be a name at all."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._\-+=@,]*", re.ASCII)
_FOREIGN = re.compile(r"[^A-Za-z0-9._\-+=@,]", re.ASCII)
_MATRIX = re.compile(r"@[\x21-\x39\x3b-\x7e]+:([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
NAME_BYTES = 100
ALIAS_BYTES = 255  # what file systems hold in one name

SWEEP_FILE = "sweep.json"
"""A job of a sweep finds its values in this file among its inputs."""


def check_name(text: str) -> str | None:
    """What is wrong with the name of a namespace, batch or job, or None. It becomes a folder in storage."""
    if not text:
        return "a name cannot be empty"
    if foreign := _FOREIGN.search(text):
        return f"a name is made of letters, digits and ._-+=@, only, without {foreign[0]!r}"
    # `fullmatch`, because `match` with `$` lets a final line break through.
    if _NAME.fullmatch(text) is None:
        return f"a name begins with a letter, a digit or _, not with {text[0]!r}"
    if ".." in text:
        return "a name cannot hold '..'"
    if len(text) > NAME_BYTES:
        return f"a name has at most {NAME_BYTES} bytes, not {len(text)}"
    return None


def check_alias(text: str) -> str | None:
    """What is wrong with a file's name on the node, or None. Anything that is one path component will do."""
    if text in ("", ".", ".."):
        return f"{text!r} cannot be a file's name"
    if "/" in text or "\0" in text:
        return "a file's name on the node is one name, without '/'"
    if len(text.encode()) > ALIAS_BYTES:
        return f"a file's name has at most {ALIAS_BYTES} bytes, not {len(text.encode())}"
    return None


def is_matrix_id(text: str) -> bool:
    """Whether this is a Matrix user id, as `@name:server.org`."""
    return _MATRIX.fullmatch(text) is not None and len(text) <= 255


def key(name: str) -> str:
    """Two names that differ only in case are one: some file systems, and some people, do not tell them apart."""
    return name.casefold()
