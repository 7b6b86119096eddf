"""What was asked for with a batch, as its record in storage keeps it: the rows of the queue, column by column.

So what submitters ask for in a later version is kept and comes back too, without anybody having thought of it here.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distribute_ssh.model.job import Input
from distribute_ssh.model.layout import is_token
from distribute_ssh.model.names import check_name
from distribute_ssh.store.rows import DEFINITION

_KNOWN = ("id", "namespace", "batch", "submitted_at", "source", "finished_at", "moved_from", "recorded_at")
"""Columns of a batch that its name, its files and its times in storage tell."""

_FIRST = frozenset(DEFINITION) - {"resources", "slurm"}
"""Columns of a job that every version wrote."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)

Select = Callable[..., sqlite3.Cursor]


@dataclass(frozen=True, slots=True)
class Definition:
    """What was asked for with a batch, as rows of the queue."""

    batch: Mapping[str, Any]  # by column
    jobs: Sequence[Mapping[str, Any]]  # by column, each

    @property
    def queue(self) -> str:
        """Whose batch it was."""
        return str(self.batch["token"]).partition("-")[0]


def define(select: Select, batch_id: int) -> dict[str, Any]:
    """The definition of a batch, for its record in storage."""
    found = select("SELECT * FROM batches WHERE id = ?", (batch_id,))
    row = dict(zip((column[0] for column in found.description), found.fetchone(), strict=True))
    rows = select(f"SELECT {', '.join(DEFINITION)} FROM jobs WHERE batch_id = ? ORDER BY position, id", (batch_id,))
    return {
        "batch": {column: value for column, value in row.items() if column not in _KNOWN},
        "columns": list(DEFINITION),
        "jobs": [list(each) for each in rows],
    }


def read(told: Any, source: str) -> Definition:
    """What `define` wrote, looked through: it lay where others may write. Raises ValueError."""
    try:
        columns = [str(column) for column in told["columns"]]
        rows = [dict(zip(columns, cells, strict=True)) for cells in told["jobs"]]
        definition = Definition({**told["batch"], "source": source}, rows)
        sound = (
            _FIRST <= set(columns) <= set(DEFINITION)
            and is_token(definition.batch["token"])
            and not any(check_name(row["name"]) for row in rows)
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"its definition is not as we wrote it: {error!r}") from error
    if not sound:
        raise ValueError("its definition is not as we wrote it")
    if alien := [each for each in needed(definition) if not _SHA256.fullmatch(each)]:
        raise ValueError(f"its definition has an input that is none: {alien[0]!r}")
    return definition


def needed(definition: Definition, job: Mapping[str, Any] | None = None) -> set[str]:
    """Hashes of the inputs that one job needs, the build's included, or all of them. Raises ValueError."""
    rows = definition.jobs if job is None else [job]
    try:
        texts = [definition.batch["script"], definition.batch["init"]]
        texts += [row[column] for row in rows for column in ("script", "inputs") if row[column] is not None]
        return {Input(*cells).sha256 for text in dict.fromkeys(texts) for cells in json.loads(text)}
    except (KeyError, TypeError) as error:
        raise ValueError(f"its definition is not as we wrote it: {error}") from error
