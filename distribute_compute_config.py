"""The configuration functions of the original `distribute`, for programs that import this name: the same calls work.

They describe a batch of apptainer jobs and write its jobs file, which both tools read. New programs have more with
`import distribute_ssh`: python batches, sweeps, resources, submitting and pulling.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distribute_ssh.api.batch import ApptainerBatch
from distribute_ssh.errors import DistributeError, FileError
from distribute_ssh.model.slurm import Slurm

__all__ = [
    "ApptainerConfig",
    "Description",
    "File",
    "Initialize",
    "Job",
    "Meta",
    "Slurm",
    "apptainer_config",
    "description",
    "file",
    "initialize",
    "job",
    "metadata",
    "slurm",
    "write_config_to_file",
]


@dataclass(frozen=True)
class Meta:
    """The names of a batch, what its nodes must have, and who is told at the end."""

    namespace: str
    batch_name: str
    capabilities: tuple[str, ...]
    matrix_username: str | None


@dataclass(frozen=True)
class File:
    """A file, and the name it gets on the node."""

    path: str
    alias: str | None = None


@dataclass(frozen=True)
class Initialize:
    """What all jobs share."""

    sif: File
    required_files: tuple[File, ...]
    required_mounts: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run of the image."""

    name: str
    required_files: tuple[File, ...]
    slurm: Slurm | None


@dataclass(frozen=True)
class Description:
    """What to run."""

    initialize: Initialize
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class ApptainerConfig:
    """A whole jobs file."""

    meta: Meta
    description: Description
    slurm: Slurm | None


def metadata(namespace: str, batch_name: str, capabilities: Sequence[str], matrix_username: str | None = None) -> Meta:
    """Name the batch. Raises ValueError for what is no Matrix user id."""
    if matrix_username is not None:
        _checked(ApptainerBatch("namespace", "batch", [], {"matrix": matrix_username}, sif="image.sif"), only="matrix")
    return Meta(namespace, batch_name, _several(capabilities, "capabilities"), matrix_username)


def file(path: str | os.PathLike[str], relative: bool = False, alias: str | None = None) -> File:
    """Name a file. With `relative` its path starts from where the jobs file will be, and is kept as it is.

    Otherwise it must be there (or ValueError is raised), and becomes absolute, without links.
    """
    text = os.fspath(path)
    if relative:
        return File(text, alias)
    try:
        return File(str(Path(text).resolve(strict=True)), alias)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"the file {text!r} cannot be found: {reason}; relative=True leaves that for later") from None


def initialize(
    sif: File | str | os.PathLike[str] | None = None,
    required_files: Sequence[File] = (),
    required_mounts: Sequence[str] = (),
    *,
    sif_path: File | str | os.PathLike[str] | None = None,
) -> Initialize:
    """Say which image all jobs run, with which files and mounts. Up to 0.12 `sif` was called `sif_path`, and a text."""
    image = sif if sif_path is None else sif_path
    if image is None or (sif is not None and sif_path is not None):
        raise TypeError("initialize() takes the image once: as sif, or as sif_path")
    named = image if isinstance(image, File) else File(os.fspath(image))
    return Initialize(named, _files(required_files), _several(required_mounts, "required_mounts"))


def job(name: str, required_files: Sequence[File] = (), slurm: Slurm | None = None) -> Job:
    """Describe one job."""
    return Job(name, _files(required_files), slurm)


def description(initialize: Initialize, jobs: Sequence[Job]) -> Description:
    """Put image and jobs together."""
    return Description(initialize, tuple(jobs))


def slurm(
    job_name: str | None = None,
    output: str | None = None,
    nodes: int | None = None,
    ntasks: int | None = None,
    cpus_per_task: int | None = None,
    mem_per_cpu: str | None = None,
    hint: str | None = None,
    time: str | None = None,
    partition: str | None = None,
    account: str | None = None,
    mail_user: str | None = None,
    mail_type: str | None = None,
) -> Slurm:
    """Say what Slurm is told, for one job or for all."""
    return Slurm(
        job_name=job_name,
        output=output,
        nodes=nodes,
        ntasks=ntasks,
        cpus_per_task=cpus_per_task,
        mem_per_cpu=mem_per_cpu,
        hint=hint,
        time=time,
        partition=partition,
        account=account,
        mail_user=mail_user,
        mail_type=mail_type,
    )


def apptainer_config(meta: Meta, description: Description, slurm: Slurm | None = None) -> ApptainerConfig:
    """Put everything together."""
    return ApptainerConfig(meta, description, slurm)


def write_config_to_file(config: ApptainerConfig, path: str | os.PathLike[str]) -> None:
    """Write the jobs file. Raises ValueError where it cannot be written, or would not be read by anybody."""
    meta, shared = config.meta, config.description.initialize
    batch = ApptainerBatch(
        meta.namespace,
        meta.batch_name,
        sorted(set(meta.capabilities)),
        folder=Path(path).parent.absolute(),
        sif=_pair(shared.sif),
        mounts=shared.required_mounts,
    )
    if meta.matrix_username is not None:
        batch.options["matrix"] = meta.matrix_username
    if shared.required_files:
        batch.options["required_files"] = [_pair(each) for each in shared.required_files]
    if config.slurm is not None:
        batch.options["slurm"] = config.slurm
    for each in config.description.jobs:
        files = [_pair(file) for file in each.required_files]
        if each.slurm is None:
            batch.job(each.name, required_files=files)
        else:
            batch.job(each.name, required_files=files, slurm=each.slurm)
    _checked(batch)
    try:
        Path(path).write_text(batch.yaml(), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{os.fspath(path)!r} cannot be written: {error.strerror}") from error


def _checked(batch: ApptainerBatch, only: str | None = None) -> None:
    """Raise ValueError for what is wrong in a batch; with `only`, in that part of it."""
    try:
        batch.check(files=False)
    except FileError as error:
        wrong = [problem for problem in error.problems if only is None or problem.key == only]
        if wrong:
            raise ValueError("\n".join(map(str, wrong))) from None
    except DistributeError as error:
        raise ValueError(str(error)) from None


def _several(texts: Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(texts, str):
        raise TypeError(f"{what} must be a list of texts, as in [{texts!r}]")
    return tuple(texts)


def _files(files: Sequence[File]) -> tuple[File, ...]:
    for each in files:
        if not isinstance(each, File):
            raise TypeError(f"required_files must be a list of what `file` returns, and has {each!r}")
    return tuple(files)


def _pair(file: File) -> tuple[str, str | None]:
    return file.path, file.alias
