"""What became of a batch: how each of its jobs ended, and where its results lie here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from distribute_ssh.errors import NoMatchError
from distribute_ssh.model.job import OUTCOMES, State

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job, as it was when it was looked at."""

    name: str
    state: State
    node: str | None = None
    attempt: int = 0
    exit_code: int | None = None
    reason: str | None = None  # why it failed, or waits
    started_at: datetime | None = None
    finished_at: datetime | None = None
    sweep: Mapping[str, Value] = field(default_factory=dict)  # its values, where the batch was made here

    @property
    def is_done(self) -> bool:
        """Whether it ended well, and its results are in storage."""
        return self.state is State.DONE

    @property
    def has_ended(self) -> bool:
        """Whether it ended, well or not."""
        return self.state in OUTCOMES


@dataclass(frozen=True, slots=True, repr=False)
class Outcome(Mapping[str, JobStatus]):
    """A batch and its jobs by name, in the order of the file."""

    batch: str  # NAMESPACE/BATCH
    jobs: Mapping[str, JobStatus]

    def __getitem__(self, name: str) -> JobStatus:
        return self.jobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        counts = Counter(str(job.state) for job in self.jobs.values())
        return f"<{self.batch}: {', '.join(f'{count} {state}' for state, count in counts.items())}>"

    @property
    def is_done(self) -> bool:
        """Whether every job is done."""
        return all(job.is_done for job in self.jobs.values())

    @property
    def failed(self) -> list[JobStatus]:
        """The jobs that ended otherwise than done."""
        return [job for job in self.jobs.values() if job.has_ended and not job.is_done]


@dataclass(frozen=True, slots=True)
class Pulled(Mapping[str, Path]):
    """Results that are here: each job's folder, by its name."""

    batch: str  # NAMESPACE/BATCH
    folder: Path  # the batch's, in which those of the jobs are
    files: tuple[Path, ...]  # what was asked for and is here, now or from before; sorted
    unfinished: tuple[str, ...]  # jobs that have not ended, so that nothing of them could come

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        if "/" in name or name in (".", "..") or not path.is_dir():
            raise KeyError(name)
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(path.relative_to(self.folder).parts[0] for path in self._of_jobs()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _of_jobs(self) -> Iterator[Path]:
        return (path for path in self.files if path.parent != self.folder)


def status_of(told: Mapping[str, Any], sweeps: Mapping[str, Mapping[str, Value]]) -> Outcome:
    """Read the document of `status --json` for one batch. Raises KeyError, ValueError for what is none."""
    (batch,) = told["batches"]
    jobs = {
        job["name"]: JobStatus(
            name=job["name"],
            state=State(job["state"]),
            node=job["node"],
            attempt=job["attempt"],
            exit_code=job["exit_code"],
            reason=job["reason"],
            started_at=_time(job["started_at"]),
            finished_at=_time(job["finished_at"]),
            sweep=sweeps.get(job["name"], {}),
        )
        for job in batch["jobs"]
    }
    return Outcome(f"{batch['namespace']}/{batch['batch']}", jobs)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def no_job(batch: str, name: str) -> NoMatchError:
    """There is no job of that name."""
    return NoMatchError(f"there is no job named {name!r} in {batch}")
