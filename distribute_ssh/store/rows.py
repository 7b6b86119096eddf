"""Rows to nouns and back: the columns of a noun are its fields, lists and mappings are JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from distribute_ssh.model.job import (
    Attempt,
    AttemptState,
    Batch,
    Build,
    BuildState,
    Input,
    Job,
    OnNodeLoss,
    Request,
    State,
)
from distribute_ssh.model.lease import Lease, NodeRequest
from distribute_ssh.model.owner import Activity
from distribute_ssh.model.resources import Resources, Share

Noun = TypeVar("Noun")


@dataclass(frozen=True, slots=True)
class NodeRow:
    """What the queue remembers of a node; what it is, the inventory says."""

    name: str
    facts: Mapping[str, Any]  # what the probe found
    boot_id: str | None
    last_seen: float | None
    unreachable_since: float | None
    unreachable_reason: str | None
    drained: str | None  # why; None: it is not
    drained_until: float | None  # None: until somebody says so
    probation_until: float | None
    failures: tuple[int, ...]  # ids of the batches whose builds failed here since one succeeded
    request: NodeRequest | None  # a pause or a resume that was asked for and is not so yet
    lease: Lease | None  # the pause that stood there when it was last asked; it may be over by now
    entry: Mapping[str, Any] | None  # what the inventory said of it
    activity: Activity | None  # what was seen of its owner


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One thing that happened: to a job, or, without one, to a batch."""

    at: float
    who: str
    batch_id: int
    job_id: int | None
    job: str | None  # its name, also when the job is gone from its batch
    attempt: int | None
    before: State | None
    after: State | None
    reason: str | None


@dataclass(frozen=True)
class Reader(Generic[Noun]):
    """Makes one kind of noun from rows."""

    noun: type[Noun]
    decode: Mapping[str, Callable[[Any], Any]]
    renamed: Mapping[str, str]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its columns, in the order of its fields."""
        return tuple(self.renamed.get(field.name, field.name) for field in fields(self.noun))  # type: ignore[arg-type]

    @cached_property
    def columns(self) -> str:
        """Its columns, for SELECT."""
        return ", ".join(self.names)

    @cached_property
    def _decoders(self) -> tuple[Callable[[Any], Any] | None, ...]:
        return tuple(self.decode.get(name) for name in self.names)

    def __call__(self, row: Sequence[Any]) -> Noun:
        """The noun of a row that was selected with `columns`."""
        return self.noun(
            *(
                cell if cell is None or decode is None else decode(cell)
                for cell, decode in zip(row, self._decoders, strict=True)
            )
        )


@lru_cache(maxsize=4096)  # most jobs of a batch share their script, many their inputs
def inputs_text(inputs: tuple[Input, ...]) -> str:
    """Inputs as the queue keeps them."""
    return json.dumps([[i.alias, i.sha256, i.size, i.kind, i.executable] for i in inputs], separators=(",", ":"))


@lru_cache(maxsize=4096)
def _inputs(text: str) -> tuple[Input, ...]:
    return tuple(Input(*cells) for cells in json.loads(text))


@lru_cache(maxsize=2048)  # asked for at every tick, another one only after a probe
def _facts(text: str) -> Mapping[str, Any]:
    return MappingProxyType(json.loads(text))


def input_text(one: Input | None) -> str | None:
    """One input as the queue keeps it."""
    return None if one is None else inputs_text((one,))


def _input(text: str) -> Input:
    return _inputs(text)[0]


def env_text(env: Mapping[str, str]) -> str:
    """An environment as the queue keeps it."""
    return json.dumps(dict(env), sort_keys=True) if env else "{}"


def resources_text(asked: Resources | None) -> str | None:
    """What a job asks for as the queue keeps it; the same is always the same text, since jobs are counted by it."""
    return None if asked is None else _sparse(asked)


def share_text(share: Share | None) -> str | None:
    """What an attempt was given as the queue keeps it."""
    return None if share is None else _sparse(share)


def _sparse(noun: Resources | Share) -> str:
    # What is as when nothing is said is left out: a field that comes later changes no text of today.
    given = {each.name: getattr(noun, each.name) for each in fields(noun)}
    return json.dumps({name: value for name, value in given.items() if value}, separators=(",", ":"))


@lru_cache(maxsize=1024)
def resources_row(text: str | None) -> Resources | None:
    """What a job asks for, from the queue."""
    return None if text is None else Resources(**json.loads(text))


def _share(text: str) -> Share:
    cells = json.loads(text)
    return Share(**cells | {"gpus": tuple(cells.get("gpus", ()))})


def settings_text(settings: Mapping[str, str | int] | None) -> str | None:
    """What Slurm is told of a job as the queue keeps it."""
    return None if settings is None else json.dumps(dict(settings), sort_keys=True)


def names_text(names: Sequence[str] | frozenset[str]) -> str:
    """Capabilities or mounts as the queue keeps them; a set in one order always."""
    return json.dumps(sorted(names) if isinstance(names, frozenset) else list(names))


batch_row = Reader(
    Batch,
    {
        "capabilities": lambda text: frozenset(json.loads(text)),
        "script": _input,
        "init": _inputs,
        "mounts": lambda text: tuple(json.loads(text)),
        "env": json.loads,
        "notify": lambda text: tuple(json.loads(text)),
        "private": bool,
    },
    {},
)

job_row = Reader(
    Job,
    {
        "state": State,
        "script": _input,
        "inputs": _inputs,
        "env": json.loads,
        "on_node_loss": OnNodeLoss,
        "request": Request,
        "resources": resources_row,
        "slurm": json.loads,
    },
    {},
)

attempt_row = Reader(Attempt, {"state": AttemptState, "ending": State, "share": _share}, {})

build_row = Reader(Build, {"state": BuildState, "log_kept": bool}, {})


def _lease(text: str) -> Lease:
    cells = json.loads(text)
    return Lease(**cells | {"left": tuple(cells["left"])})


node_row = Reader(
    NodeRow,
    {
        "facts": _facts,
        "failures": lambda text: tuple(json.loads(text)),
        "request": lambda text: NodeRequest(**json.loads(text)),
        "lease": _lease,
        "entry": json.loads,
        "activity": lambda text: Activity.from_json(json.loads(text)),
    },
    {},
)

history_row = Reader(HistoryRow, {'"from"': State, '"to"': State}, {"before": '"from"', "after": '"to"'})

DEFINITION = (
    "position", "name", "input_hash", "script", "inputs", "env", "time_limit", "max_attempts", "on_node_loss",
    "resources", "slurm",
)  # fmt: skip
"""The columns of a job that its submitter decides; the others tell how far it is."""


def one_of(states: Collection[State]) -> str:
    """SQL: the job is in one of these states. Always in one order, so that the partial indexes are recognised."""
    return f"state IN ({', '.join(repr(state.value) for state in State if state in states)})"


def node_cell(column: str, value: Any) -> Any:
    """A field of NodeRow as the queue keeps it."""
    if value is None or column not in node_row.decode:
        return printable(value)
    # Everything from outside in it is escaped: no text that SQLite refuses is left.
    return json.dumps(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value)


def printable(value: Any) -> Any:
    """The value as SQLite takes it: text from a file name that is no UTF-8 holds characters it refuses."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
