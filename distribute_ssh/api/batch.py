"""A batch as Python says it. It is written as a jobs file and read by the reader of those: one grammar, one check."""

from __future__ import annotations

import os
import re
import sys
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, Unpack

from distribute_ssh.api.yamlwriter import Tree, lines, sweep_value
from distribute_ssh.errors import FileError, Problem
from distribute_ssh.model.slurm import Slurm

if TYPE_CHECKING:
    from distribute_ssh.model.jobsfile import BatchSpec

JOBS_FILE = "distribute-jobs.yaml"

StrPath = str | os.PathLike[str]
File = StrPath | tuple[StrPath, str | None]
"""A file of this machine; with a second text, its name on the node."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job asks of its node, as `resources:` of the jobs file; sizes as texts: `16G`. None: not said."""

    cores: int | None = None
    memory: str | None = None
    gpus: int | None = None
    gpu_memory: str | None = None  # of each GPU
    disk: str | None = None  # free in the node's scratch


class Options(TypedDict, total=False):
    """What a batch may say for all its jobs, and a job for itself. The keys are those of the jobs file."""

    env: Mapping[str, str | int | float]
    time_limit: float | str | timedelta
    """Seconds, or a text such as `1h30m`."""
    warn_signal: Literal["USR1", "USR2", "HUP", "INT", "TERM"]
    max_attempts: int
    on_node_loss: Literal["reschedule", "wait"]
    resources: Resources | None
    """None: a whole slot, also where the batch says otherwise."""
    slurm: Slurm
    required_files: Iterable[File]


class BatchOptions(Options, total=False):
    """What a batch may say beside that."""

    matrix: str
    notify: str | Iterable[str]
    private: bool
    folder: StrPath
    """What relative paths start from; else the folder this process is in when the batch is made."""


_IN_META = ("matrix", "notify", "private")
_OPTIONS = ("env", "time_limit", "warn_signal", "max_attempts", "on_node_loss", "resources")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in somebody's program something was said."""

    file: str
    line: int

    @classmethod
    def here(cls) -> Place:
        """The line that called us."""
        frame = sys._getframe(1)
        while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS:
            frame = frame.f_back
        return cls(frame.f_code.co_filename, frame.f_lineno)


_OURS = ("distribute_ssh", "distribute_compute_config")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of `jobs`: a job, or with a `sweep` many."""

    name: str
    keys: Tree
    place: Place


@dataclass
class Batch(ABC):
    """What is built once on each node, and the jobs that run there afterwards. Add jobs with `job`."""

    namespace: str
    name: str
    capabilities: Sequence[str]
    options: BatchOptions = field(default_factory=BatchOptions)
    folder: Path = field(default_factory=Path.cwd)
    entries: list[Entry] = field(default_factory=list)
    place: Place = field(default_factory=Place.here, repr=False, compare=False)

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        _check(self.options, BatchOptions, f"{self.kind}_batch")
        if isinstance(self.capabilities, str):
            raise TypeError(f"capabilities must be a list of words, as in [{self.capabilities!r}]")
        if (files := self.options.get("required_files")) is not None:
            self.options["required_files"] = files = _once(files)
            _files(files)  # what is no list is refused now, where it was said
        if (notify := self.options.get("notify")) is not None:
            self.options["notify"] = _once(notify)

    def yaml(self) -> str:
        """The text of its jobs file, in the long form."""
        return "\n".join(self._written()[0]) + "\n"

    def check(self, *, files: bool = True) -> BatchSpec:
        """Read it as a jobs file is read. Raises FileError with every problem, at the line of your program.

        Without `files` it is not asked whether the files it names are there.
        """
        from distribute_ssh.model import jobsfile

        written, starts = self._written()
        try:
            return jobsfile.parse("\n".join(written) + "\n", self.folder / JOBS_FILE, check_files=files)
        except FileError as error:
            raise FileError([self._told(problem, starts) for problem in error.problems]) from None

    @abstractmethod
    def _initialize(self) -> Tree:
        """The first keys of `initialize`."""

    def _add(self, name: str, keys: Tree, options: Mapping[str, Any]) -> None:
        _check(options, _JobOptions, "job")
        files = options.get("required_files")
        slurm = options.get("slurm")
        more: Tree = {"required_files": _files(files)} if files else {}
        more |= {"slurm": _said(slurm)} if slurm is not None else {}
        self.entries.append(Entry(name, {"name": name, **keys, **more, **_options(options)}, Place.here()))

    def _written(self) -> tuple[list[str], list[int]]:
        """The lines of the jobs file, and at which of them each entry begins, from 1."""
        said = self.options
        meta: Tree = {
            "namespace": self.namespace,
            "batch_name": self.name,
            "capabilities": list(self.capabilities),
            **{key: said[key] for key in _IN_META if key in said},  # type: ignore[literal-required]  # they are
            **_options(said),
        }
        if isinstance(meta.get("notify"), tuple):
            meta["notify"] = list(meta["notify"])
        initialize = self._initialize()
        if files := said.get("required_files"):
            initialize["required_files"] = _files(files)
        written = lines({"meta": meta, self.kind: {"initialize": initialize, "jobs": [{}]}})[:-1]
        starts = []
        for entry in self.entries:
            starts.append(len(written) + 1)
            written += lines([entry.keys], indent=4)
        if not self.entries:
            written[-1] += " []"
        if (slurm := said.get("slurm")) is not None:
            written += lines({"slurm": _said(slurm)})
        return written, starts

    def _told(self, problem: Problem, starts: Sequence[int]) -> Problem:
        """The same problem, in words of who wrote Python."""
        place, key = self.place, problem.key
        if found := re.match(rf"{self.kind}\.jobs\[(\d+)\]\.?", key):
            entry = self.entries[int(found[1])]
            place, key = entry.place, f"job({entry.name!r})" + (f".{key[found.end() :]}" if key[found.end() :] else "")
        for ours, theirs in _NAMES:
            key = re.sub(ours, theirs, key)

        def line(match: re.Match[str]) -> str:
            at = bisect_right(starts, int(match[1]))
            return f"in line {self.entries[at - 1].place.line if at else self.place.line}"

        return Problem(place.file, place.line, 1, key, re.sub(r"in line (\d+)", line, problem.what), problem.remedy)


_NAMES = (
    (r"^meta\.batch_name", "name"),
    (r"^meta\.", ""),
    (r"^python\.initialize\.build_file", "build"),
    (r"^apptainer\.initialize\.required_mounts", "mounts"),
    (r"^(python|apptainer)\.initialize\.", ""),
    (r"\.path$", ""),
)


class _JobOptions(Options, total=False):
    sweep: Mapping[str, Iterable[Any]]
    zip: bool


@dataclass
class PythonBatch(Batch):
    """A batch of scripts: one that builds, and one for each job."""

    kind: ClassVar[str] = "python"
    build: File = "build.py"

    def job(
        self,
        name: str,
        file: File,
        *,
        sweep: Mapping[str, Iterable[Any]] | None = None,
        zip: bool = False,  # noqa: A002  # the jobs file's word
        **options: Unpack[Options],
    ) -> None:
        """Add a job that runs `file`; with `sweep` one for every combination of the values (`zip`: side by side).

        `{key}` in the name, in aliases and in values of `env` is replaced by the value.
        """
        self._add(name, {"file": _file(file), **_sweep(sweep, zip)}, options)

    def _initialize(self) -> Tree:
        return {"build_file": _file(self.build)}


@dataclass
class ApptainerBatch(Batch):
    """A batch of runs of one image."""

    kind: ClassVar[str] = "apptainer"
    sif: File = "image.sif"
    mounts: Sequence[str] = ()

    def job(
        self,
        name: str,
        *,
        sweep: Mapping[str, Iterable[Any]] | None = None,
        zip: bool = False,  # noqa: A002  # the jobs file's word
        **options: Unpack[Options],
    ) -> None:
        """Add a run of the image's app `distribute`; the rest is as for `PythonBatch.job`."""
        self._add(name, _sweep(sweep, zip), options)

    def _initialize(self) -> Tree:
        mounts: Tree = {"required_mounts": list(self.mounts)} if self.mounts else {}
        return {"sif": _file(self.sif), **mounts}


def python_batch(
    namespace: str,
    name: str,
    *,
    build: File,
    capabilities: Sequence[str] = ("python3",),
    **options: Unpack[BatchOptions],
) -> PythonBatch:
    """Begin a batch of scripts; `build` is run once on each node. Nothing is looked at before it is written or sent."""
    return PythonBatch(namespace, name, capabilities, options, _folder(options), build=build)


def apptainer_batch(
    namespace: str,
    name: str,
    *,
    sif: File,
    mounts: Sequence[str] = (),
    capabilities: Sequence[str] = ("apptainer",),
    **options: Unpack[BatchOptions],
) -> ApptainerBatch:
    """Begin a batch of runs of an image; `mounts` are folders inside the container that jobs write to."""
    return ApptainerBatch(namespace, name, capabilities, options, _folder(options), sif=sif, mounts=mounts)


def write(batch: Batch, path: StrPath) -> Path:
    """Write a batch as a jobs file; returns its path. The files it names stay the same, wherever the jobs file lies.

    Raises FileError for what is wrong in it, OSError. Whether its files are there is asked when it is submitted.
    """
    from distribute_ssh.api.yamlreader import moved

    batch.check(files=False)
    target = Path(path)
    target.write_text(moved(batch, target.parent.absolute()).yaml(), encoding="utf-8")
    return target


def read(path: StrPath) -> PythonBatch | ApptainerBatch:
    """Read a jobs file, whoever wrote it, and check all of it. Raises FileError, UsageError."""
    from distribute_ssh.api.yamlreader import read as read_file

    return read_file(Path(path))


# ---------------------------------------------------------------------------------------------------------------- parts


def _once(several: Any) -> Any:
    """The same, of what can be gone through only once; a text stays one."""
    return several if isinstance(several, (str, os.PathLike)) else tuple(several)


def _folder(options: BatchOptions) -> Path:
    return Path(options.get("folder", ".")).absolute()


def _check(options: Mapping[str, Any], known: type, call: str) -> None:
    """Raise TypeError for a keyword nobody knows, as Python would."""
    for key in options:
        if key not in (names := known.__annotations__.keys() | Options.__annotations__.keys()):
            import difflib

            near = difflib.get_close_matches(key, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{call}() has no argument {key!r}{hint}")


def _file(file: File) -> Tree:
    path, alias = file if isinstance(file, tuple) else (file, None)
    return {"path": os.fspath(path), "alias": alias}


def _files(files: Iterable[File]) -> list[Tree]:
    if isinstance(files, (str, os.PathLike)):
        raise TypeError(f"required_files must be a list, as in [{os.fspath(files)!r}]")
    return [_file(each) for each in files]


def _said(record: Resources | Slurm) -> Tree:
    return {each.name: value for each in fields(record) if (value := getattr(record, each.name)) is not None}


def _options(options: Mapping[str, Any]) -> Tree:
    found: Tree = {}
    for key in _OPTIONS:
        value = options.get(key)
        if key == "resources" and key in options:
            found[key] = None if value is None else _said(value)
        elif isinstance(value, timedelta):
            found[key] = value.total_seconds()
        elif key == "env" and value is not None:
            found[key] = {name: str(text) for name, text in value.items()}
        elif value is not None:
            found[key] = value
    return found


def _sweep(sweep: Mapping[str, Iterable[Any]] | None, zipped: bool) -> Tree:
    if sweep is None:
        return {"zip": True} if zipped else {}
    values: Tree = {}
    for key, listed in sweep.items():
        if isinstance(listed, (str, bytes)) or not isinstance(listed, Iterable):
            raise TypeError(f"sweep[{key!r}] must be a list of values, as in [{listed!r}]")
        values[key] = [sweep_value(value, key) for value in listed]
    return {"sweep": values, **({"zip": True} if zipped else {})}
