"""A jobs file becomes a batch in the queue: who could run it, what would be sent, and then the sending itself."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distribute_ssh.errors import NoNodeError
from distribute_ssh.model import capability
from distribute_ssh.model.cluster import kept
from distribute_ssh.model.fileref import FileRef
from distribute_ssh.model.jobsfile import BatchSpec
from distribute_ssh.model.resources import Resources
from distribute_ssh.plan.schedule import never_reason
from distribute_ssh.plan.snapshot import NodeView
from distribute_ssh.store import submission
from distribute_ssh.store.queue import Queue
from distribute_ssh.store.spool import Spool, StagedBatch, references, stage
from distribute_ssh.store.submission import NewJob, Submission, Submitted

Progress = Callable[[int, int], None]
"""Called with the bytes read and the bytes in all."""

LARGEST = 5


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a node could run jobs of a batch: what it lacks for all of them; None: it was never asked."""

    node: str
    missing: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Outline:
    """What submitting a batch would do; nothing of it is done."""

    name: str
    jobs: int
    needs: tuple[str, ...]
    asked: tuple[tuple[int, Resources, tuple[str, ...]], ...]  # how many jobs state these, and which nodes can run them
    fits: tuple[Fit, ...]
    files: int
    size: int  # bytes
    largest: tuple[tuple[Path, int], ...]  # path and bytes, the largest first

    def as_data(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {
            "batch": self.name,
            "jobs": self.jobs,
            "needs": list(self.needs),
            "resources": [
                {"jobs": number, **asdict(asked), "nodes": list(names)} for number, asked, names in self.asked
            ],
            "nodes": [
                {"name": fit.node, "fits": None if fit.missing is None else not fit.missing, "missing": fit.missing}
                for fit in self.fits
            ],
            "files": self.files,
            "bytes": self.size,
            "largest": [{"path": str(path), "bytes": size} for path, size in self.largest],
        }


def needs(spec: BatchSpec, resources: Resources | None = None) -> frozenset[str]:
    """Everything a node must have to run this batch, or those of its jobs that ask for this."""
    return frozenset(capability.needed(spec.kind, spec.capabilities, resources))


def kinds(spec: BatchSpec) -> Counter[Resources | None]:
    """What jobs of a batch ask for, and how many do, in file order."""
    return Counter(job.resources for job in spec.jobs)


def fits(spec: BatchSpec, nodes: Sequence[NodeView]) -> tuple[Fit, ...]:
    """Every node, and what it lacks to run any job of this."""
    return tuple(Fit(node.name, _lacks(spec, node) if node.probed else None) for node in nodes)


def _able(spec: BatchSpec, asked: Resources, nodes: Sequence[NodeView]) -> tuple[str, ...]:
    """The nodes that could run jobs that ask for this."""
    wanted = needs(spec, asked)
    return tuple(node.name for node in nodes if never_reason([node], wanted, None, asked) is None)


def _lacks(spec: BatchSpec, node: NodeView) -> tuple[str, ...]:
    lacks: tuple[str, ...] = ()
    for asked in kinds(spec):
        wanted = needs(spec, asked)
        reason = never_reason([node], wanted, None, asked)
        if reason is None:
            return ()
        lacks = lacks or capability.missing(wanted, node.capabilities) or (reason.text,)
    return lacks


def require_node(spec: BatchSpec, nodes: Sequence[NodeView]) -> None:
    """Raise NoNodeError, with what every node lacks, if none can ever run this. One never reached may have anything."""
    for asked, number in kinds(spec).items():
        wanted = needs(spec, asked)
        if reason := never_reason(nodes, wanted, None, asked):
            which = f"{number} of the {len(spec.jobs)} jobs of {spec.name}" if number < len(spec.jobs) else spec.name
            missing = ((node.name, capability.missing(wanted, node.capabilities)) for node in nodes)
            lacks = [f"{node} has no {', '.join(names)}" for node, names in missing if names]
            raise NoNodeError(
                f"{which} can run nowhere: {reason.text}",
                hint="; ".join([*lacks, "`distribute nodes probe` looks again"]),
            )


def outline(spec: BatchSpec, nodes: Sequence[NodeView]) -> Outline:
    """Say what `submit` would do. Raises OSError for a file that cannot be looked at."""
    sizes = sorted(_sizes(references(spec)), key=lambda file: (-file[1], file[0]))
    return Outline(
        name=spec.name,
        jobs=len(spec.jobs),
        needs=tuple(sorted(frozenset[str]().union(*(needs(spec, asked) for asked in kinds(spec))))),
        asked=tuple((number, asked, _able(spec, asked, nodes)) for asked, number in kinds(spec).items() if asked),
        fits=fits(spec, nodes),
        files=len(sizes),
        size=sum(size for _, size in sizes),
        largest=tuple(sizes[:LARGEST]),
    )


def submit(
    queue: Queue,
    spool: Spool,
    spec: BatchSpec,
    nodes: Sequence[NodeView],
    *,
    who: str,
    now: float,
    fresh: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
) -> Submitted:
    """Put all files of a batch into the spool and the batch into the queue; durable when this returns.

    Raises NoNodeError if no node can ever run it, UsageError if a file cannot be sent or the batch still works,
    StoreError if spool or queue cannot be written. The queue is unchanged then.
    """
    require_node(spec, nodes)
    staged = stage(spec, spool, progress)
    return enter(queue, spec, staged, who=who, now=now, fresh=fresh, replace=replace)


def enter(
    queue: Queue,
    spec: BatchSpec,
    staged: StagedBatch,
    *,
    who: str,
    now: float,
    fresh: bool = False,
    replace: bool = False,
    most_waiting: int | None = None,
) -> Submitted:
    """Put a batch into the queue whose files are in the spool; errors as of `store.submission.submit`."""
    slurm = {job.name: kept(spec.slurm, job.slurm) for job in spec.jobs}
    asked = Submission(
        namespace=spec.namespace,
        batch=spec.batch,
        kind=spec.kind,
        capabilities=needs(spec),
        matrix=spec.matrix,
        notify=spec.notify,
        private=spec.private,
        script=staged.script,
        init=staged.init,
        mounts=spec.required_mounts,
        build_hash=staged.build_hash,
        source=spec.source,
        env=staged.env,
        jobs=[
            NewJob(
                name=job.name,
                script=job.script,
                inputs=job.inputs,
                input_hash=job.input_hash,
                env=job.env,
                time_limit=job.time_limit,
                max_attempts=job.max_attempts,
                on_node_loss=job.on_node_loss,
                resources=job.resources,
                slurm=slurm[job.name],
            )
            for job in staged.jobs
        ],
    )
    return submission.submit(queue, asked, who=who, now=now, fresh=fresh, replace=replace, most_waiting=most_waiting)


def _sizes(named: Iterable[FileRef]) -> Iterable[tuple[Path, int]]:
    for ref in {ref.path: ref for ref in named}.values():  # one may have several names on the node
        if not ref.is_dir:
            yield ref.path, ref.path.stat().st_size
            continue
        for folder, _, names in os.walk(ref.path):
            for name in names:
                path = Path(folder, name)
                yield path, path.lstat().st_size
