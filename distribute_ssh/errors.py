"""Every error a user can meet: what happened, what to do next, the exit code, and whether trying again can help.

    DistributeError
    |-- UsageError              2   the request is wrong; fix it and ask again
    |   |-- FileError           2   a YAML file is wrong: every problem in it, each with its place
    |   |-- DeniedError         2   it is not theirs to do
    |   |-- LimitError          2   more than one person may have here
    |   `-- NoMatchError        3   nothing has that name
    |-- NoNodeError             4   no node can ever run this
    |-- BusyError               5   another coordinator drives this queue
    |-- StoreError              1   the queue cannot be used
    |-- HeadError               6   the head does not do what it should, or is of another version
    |   `-- OvertakenError      6   the same file is being sent twice (trying again helps)
    |-- NodeError               6   a node does not do what it should
    |   |-- UnreachableError    6   no answer; its jobs are untouched (trying again helps)
    |   |-- HostKeyError        6   the host key is unknown or another one (never retried by itself)
    |   |-- LoginError          6   the node refuses us (never retried by itself)
    |   `-- ScratchError        6   the node has no room or no right to write
    |-- StorageError            6   storage cannot be reached or written (trying again helps)
    |-- JobError                1   a function that ran as a job gave nothing back
    `-- NotifyError             6   a message was not taken (trying again may help)

A job that fails is a result, not an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class DistributeError(Exception):
    """Root of all errors we raise on purpose; the text is one or more sentences for a person."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class UsageError(DistributeError):
    """The request itself is wrong; nothing was changed."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a YAML file: where (line and column from 1), the key's path, what, and what would be right."""

    file: str
    line: int
    column: int
    key: str
    what: str
    remedy: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        key = f"{self.key}: " if self.key else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return where + key + self.what + remedy


class FileError(UsageError):
    """A jobs file or an inventory is wrong; carries every problem found, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column)))
        super().__init__("\n".join(str(p) for p in self.problems))


class NoMatchError(UsageError):
    """A batch, job or node of that name does not exist."""

    exit_code = 3


class DeniedError(UsageError):
    """Whoever asks may not do that."""


class LimitError(UsageError):
    """What is asked for is more than one person may have on this head."""


class NoNodeError(DistributeError):
    """No node in the inventory can ever run this."""

    exit_code = 4


class BusyError(DistributeError):
    """Another coordinator holds the queue."""

    exit_code = 5
    retryable = True


class StoreError(DistributeError):
    """The queue's database cannot be used as it is."""


class HeadError(DistributeError):
    """The head does not do what it should, or speaks another version."""

    exit_code = 6


class OvertakenError(HeadError):
    """Another submission of the same person goes on with the file that was being sent."""


class NodeError(DistributeError):
    """A node does not do what it should."""

    exit_code = 6


class UnreachableError(NodeError):
    """The node does not answer. That says nothing about its jobs."""

    retryable = True


class HostKeyError(NodeError):
    """The host key is unknown, or not the one we know."""


class LoginError(NodeError):
    """The node refuses our key or our user."""


class ScratchError(NodeError):
    """The node's scratch folder cannot be used: no room, no right, no such folder."""

    retryable = True


class StorageError(DistributeError):
    """Storage cannot be reached or written; nothing was lost, the node still has the files."""

    exit_code = 6
    retryable = True


class JobError(DistributeError):
    """A function was to run as a job, and the job ended without giving anything back."""


class NotifyError(DistributeError):
    """A message was not taken; `retry_after`: seconds that whoever refused it wants to be left alone."""

    exit_code = 6
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
