"""A node that is a cluster, as the inventory has it: `kind: slurm`, how jobs get there, what `overflow:` sends it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from distribute_ssh.model.names import key
from distribute_ssh.model.slurm import KEYS as BLOCK_KEYS
from distribute_ssh.model.slurm import Slurm, effective, read_block
from distribute_ssh.model.units import parse_duration
from distribute_ssh.model.yamltext import Checker, Node, Scalar, is_null

KEYS = ("kind", "slurm", "build", "prologue")
SLOTS = 100
"""Jobs of ours that are in Slurm at once, if the inventory does not say."""

_DESK = ("owner", "owners", "hours", "gentle", "max_pause")  # of a machine that somebody sits at
OF_A_DESK = ("pause_when_active", "move_after", "watch", "ignore", "hours", "nice", "ionice", "core_cap", "owners")
"""Settings of a machine that somebody sits at, by their names in NodeEntry: `defaults:` may say them for all nodes."""

_OURS = {"job_name": "jobs are named by their attempts", "output": "what a job prints is kept with its results"}


@dataclass(frozen=True)
class Cluster:
    """How jobs get to a cluster whose login machine is the node."""

    slurm: Slurm = field(default_factory=Slurm)  # what Slurm is told unless the jobs file says otherwise
    build: Literal["job", "login"] = "job"  # where a batch is built
    prologue: str | None = None  # a line of shell that comes before every program: `module load gcc`


def read(check: Checker, keys: Mapping[str, Node], path: str) -> dict[str, Any]:
    """The settings of a node that make it a cluster, by their names in NodeEntry; nothing where it is a machine."""
    kind = check.choice(keys.get("kind"), f"{path}.kind", ("machine", "slurm"))
    if kind != "slurm":
        for each in KEYS[1:]:
            if each in keys:
                check.problem(keys[each], f"{path}.{each}", "is of a cluster", "add `kind: slurm`, or remove it")
        return {}
    for each in _DESK:
        if each in keys:
            what = "means nothing with `kind: slurm`: a cluster has no owner whose desk it is"
            check.problem(keys[each], f"{path}.{each}", what, "remove it")
    if keys.get("scratch") is None:
        at = keys["kind"]
        check.problem(at, path, "lacks the key `scratch`", "name a folder that all nodes of the cluster share")
    slurm = read_block(check, keys.get("slurm"), f"{path}.slurm") or Slurm()
    for each, why in _OURS.items():
        if getattr(slurm, each) is not None:
            check.problem(keys["slurm"], f"{path}.slurm.{each}", f"is not yours to say here: {why}", "remove it")
    build = check.choice(keys.get("build"), f"{path}.build", ("job", "login")) or "job"
    prologue = check.line(keys.get("prologue"), f"{path}.prologue")
    cluster = Cluster(slurm, "login" if build == "login" else "job", prologue)
    found: dict[str, Any] = {"cluster": cluster}
    if keys.get("slots") is None:
        found["slots"] = SLOTS
    return found


def recorded(values: Mapping[str, Any]) -> Cluster:
    """The cluster whose fields, as `asdict` gave them, were kept; what another version of us knew is left out."""
    known: dict[str, Any] = {each: values[each] for each in ("build", "prologue") if each in values}
    return Cluster(block(values.get("slurm")), **known)


def kept(batch: Slurm | None, job: Slurm | None) -> dict[str, str | int] | None:
    """What the queue keeps of the two `slurm:` blocks of a job; None where there is none. `block` reads it again.

    A cluster of the inventory has names and places of its own for jobs and what they print.
    """
    if batch is None and job is None:
        return None
    values = asdict(effective(batch, job, ""))
    return {name: value for name, value in values.items() if value is not None and name not in _OURS}


def block(values: Mapping[str, Any] | None) -> Slurm:
    """A `slurm:` block whose fields were kept; what another version of us knew is left out."""
    return Slurm(**{each: value for each, value in (values or {}).items() if each in BLOCK_KEYS})


def read_overflow(check: Checker, node: Node | None, nodes: Collection[str]) -> dict[str, float]:
    """`overflow: {to: cluster, after: 30m}`: by node, for how many seconds jobs wait before they may go there."""
    if node is None or is_null(node):
        return {}
    keys = check.mapping(node, "overflow", required=("to", "after"))
    after = check.parsed(keys.get("after"), "overflow.after", _wait)
    known = {key(name): name for name in nodes}
    found = {}
    to = keys.get("to")
    for where, item in [("overflow.to", to)] if isinstance(to, Scalar) else check.items(to, "overflow.to"):
        text = check.line(item, where)
        if text is not None and key(text) not in known:
            check.problem(item, where, f"no node is named {text!r}", f"nodes: {', '.join(nodes) or 'none'}")
        elif text is not None:
            found[known[key(text)]] = after or 0.0
    return found


def _wait(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < 1:
        raise ValueError(f"`{text}` is no time to wait: write 30m")
    return seconds
