"""Which batch and which files of it somebody wants: by job, by what a path shall match, and shall not. PURE"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from distribute_ssh.errors import UsageError
from distribute_ssh.model.names import check_name

_ASIDE = re.compile(r"@\d{8}T\d{6}Z\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a file is wanted, and why, in words for a person."""

    wanted: bool
    why: str


class Selection:
    """`include`, `exclude`: Python regular expressions, searched in the path inside the batch; `exclude` wins.

    Nothing to include, and no job: everything. Raises UsageError with every expression that is none.
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = (), jobs: Iterable[str] = ()) -> None:
        wrong: list[str] = []
        self._include = _compiled("--include", include, wrong)
        self._exclude = _compiled("--exclude", exclude, wrong)
        self._jobs = {name.casefold() for name in jobs}
        if wrong:
            raise UsageError(
                "\n".join(wrong), hint=r"a dot is written \. and a bracket \[; `--include .` is everything"
            )

    def of_job(self, path: bytes) -> bool:
        """Whether it belongs to a job that is wanted."""
        return not self._jobs or text_of(path.partition(b"/")[0]).casefold() in self._jobs

    def verdict(self, path: bytes) -> Verdict:
        """Whether the file or link at `path` is wanted."""
        if not self.of_job(path):
            return Verdict(False, "is of no job that was named")
        text = text_of(path)
        for pattern in self._exclude:
            if pattern.search(text):
                return Verdict(False, f"matches --exclude {pattern.pattern}")
        if not self._include:
            return Verdict(True, "everything is wanted" if not self._jobs else "is of a job that was named")
        for pattern in self._include:
            if pattern.search(text):
                return Verdict(True, f"matches --include {pattern.pattern}")
        return Verdict(False, "matches no --include")


def wrong_name(namespace: str, batch: str) -> str | None:
    """What is wrong with the name of a batch in storage, or None; `--fresh` puts a time behind the name it moves."""
    return check_name(namespace) or check_name(_ASIDE.sub("", batch))


def text_of(path: bytes) -> str:
    """A path as expressions see it; bytes that are no UTF-8 are one odd character each."""
    return path.decode("utf-8", "surrogateescape")


def _compiled(option: str, patterns: Iterable[str], wrong: list[str]) -> list[re.Pattern[str]]:
    found = []
    for text in patterns:
        try:
            found.append(re.compile(text))
        except (re.error, RecursionError, OverflowError) as error:
            wrong.append(f"{option} {text!r} is no regular expression: {error}")
    return found
