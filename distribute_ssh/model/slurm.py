"""What a jobs file says to Slurm: the keys of `slurm:`, which of two blocks wins, and the lines sbatch reads. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from distribute_ssh.model.resources import Resources

if TYPE_CHECKING:
    from distribute_ssh.model.yamltext import Checker, Node

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NEEDS_QUOTES = re.compile(r"[\s#\"'\\]")


@dataclass(frozen=True, slots=True)
class Slurm:
    """One `slurm:` block, texts as they were written; None: not set. The order is that of the lines for `sbatch`."""

    job_name: str | None = None
    output: str | None = None
    nodes: int | None = None
    ntasks: int | None = None
    cpus_per_task: int | None = None
    mem_per_cpu: str | None = None
    hint: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    mail_user: str | None = None
    mail_type: str | None = None
    # The original tool knew the twelve above.
    mem: str | None = None
    gres: str | None = None
    gpus: str | None = None
    qos: str | None = None
    constraint: str | None = None


KEYS = tuple(key.name for key in fields(Slurm))
_NUMBERS = ("nodes", "ntasks", "cpus_per_task")
_MEMORY = frozenset(("mem", "mem_per_cpu"))  # sbatch takes one of the two


def read_block(check: Checker, node: Node | None, path: str) -> Slurm | None:
    """Read a `slurm:` block; None where there is none. An empty one, `{}`, is one."""
    from distribute_ssh.model.yamltext import is_null  # needs PyYAML, and who asks `effective` has no YAML in hand

    if node is None or is_null(node):
        return None
    keys = check.mapping(node, path, optional=KEYS)
    given = {key: value for key, value in keys.items() if not is_null(value)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        values[key] = (check.integer if key in _NUMBERS else check.line)(value, f"{path}.{key}")
    if given.keys() >= _MEMORY:
        check.problem(given["mem"], f"{path}.mem", "there is `mem_per_cpu` too", "remove one of the two")
    return Slurm(**values)


def effective(
    batch: Slurm | None,
    job: Slurm | None,
    name: str,
    *,
    time_limit: float | None = None,
    resources: Resources | None = None,
) -> Slurm:
    """What holds for the job `name`: its own block key by key, then the batch's, then what else the job says.

    * `job_name` is the job's name unless a block says another. A job with a block of its own, even an empty one, is
      never called what the batch's block says: that is how the original tool had it, and files rely on it.
    * A job that says one of `mem` and `mem_per_cpu` is not given the other by the batch.
    * `time_limit` (seconds) and `resources` stand in for what neither block says.
    """
    merged = batch or Slurm()
    if job is not None:
        own: dict[str, Any] = {key: value for key in KEYS if (value := getattr(job, key)) is not None}
        if own.keys() & _MEMORY:
            own = dict.fromkeys(_MEMORY) | own
        merged = replace(merged, **({"job_name": name} | own))
    rest: dict[str, Any] = {}
    if merged.job_name is None:
        rest["job_name"] = name
    if merged.time is None and time_limit:
        rest["time"] = clock(time_limit)
    if resources is not None:
        if merged.ntasks is None and merged.cpus_per_task is None:
            rest["cpus_per_task"] = resources.cores
        if merged.mem is None and merged.mem_per_cpu is None and resources.memory_mb:
            rest["mem"] = f"{resources.memory_mb}M"
        if resources.gpus and merged.gpus is None and "gpu" not in (merged.gres or ""):
            rest["gres"] = ",".join(filter(None, (merged.gres, f"gpu:{resources.gpus}")))
    return replace(merged, **rest)


def clock(seconds: float) -> str:
    """A length of time as Slurm writes it, `[DAYS-]HH:MM:SS`, never shorter than it is."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hour:02d}:{minute:02d}:{second:02d}"


def directives(slurm: Slurm, *, without: Iterable[str] = ()) -> tuple[str, ...]:
    """The lines `#SBATCH --option=value` of all that is set, but for the keys in `without`.

    Raises ValueError where a value does not fit into one line; the jobs file's reader lets none of those through.
    """
    left_out = frozenset(without)
    return tuple(
        directive(key.replace("_", "-"), value)
        for key in KEYS
        if key not in left_out and (value := getattr(slurm, key)) is not None
    )


def directive(option: str, value: str | int) -> str:
    """One line `#SBATCH --option=value`, in which sbatch reads back the value as it is. Raises ValueError as above."""
    text = str(value)
    if not text or _UNPRINTABLE.search(text):
        raise ValueError(f"--{option}={text!r}: what goes to Slurm must be one line without control characters")
    if _NEEDS_QUOTES.search(text):
        # sbatch's own rules: a backslash speaks for itself inside both kinds of quotes, unlike in a shell.
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{option}={text}"
