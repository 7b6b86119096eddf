"""The jobs file: what a person asks for in YAML, checked to the last key, with every problem found at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distribute_ssh.errors import Problem, UsageError
from distribute_ssh.model import asked, capability, layout, mounts, names, sweep
from distribute_ssh.model.fileref import FileReader, FileRef, Fill, Listed, shown
from distribute_ssh.model.job import WARN_SIGNAL, OnNodeLoss, WarnSignal
from distribute_ssh.model.resources import Resources
from distribute_ssh.model.slurm import Slurm, read_block
from distribute_ssh.model.units import parse_duration
from distribute_ssh.model.yamltext import (
    MAX_BYTES,
    Checker,
    Node,
    Scalar,
    collecting_paused,
    is_null,
    join,
    load,
    quoted,
)
from distribute_ssh.model.yamltext import Mapping as YamlMapping

__all__ = ["BatchSpec", "FileRef", "JobSpec", "Slurm", "parse", "read", "reference"]

Kind = Literal["python", "apptainer"]

MAX_JOBS = 100_000
PARAMETER_PREFIX = "DISTRIBUTE_PARAM_"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job as asked for. What `meta` says for all jobs is filled in; `slurm` alone is only the job's own."""

    name: str
    file: FileRef | None  # the script of a python job; an apptainer job has none
    required_files: tuple[FileRef, ...] = ()
    slurm: Slurm | None = None
    env: Mapping[str, str] = field(default_factory=dict)  # a sweep's DISTRIBUTE_PARAM_<KEY> are in it
    time_limit: float | None = None  # seconds
    max_attempts: int = 1
    on_node_loss: OnNodeLoss = OnNodeLoss.RESCHEDULE
    resources: Resources | None = None  # None: a whole slot
    sweep: Mapping[str, sweep.Value] | None = None  # the values of this job


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """One batch as asked for."""

    namespace: str
    batch: str
    matrix: str | None
    capabilities: tuple[str, ...]  # sorted, each once
    kind: Kind
    script: FileRef  # build_file, or the image (sif)
    required_files: tuple[FileRef, ...]
    required_mounts: tuple[str, ...]  # folders inside the container
    jobs: tuple[JobSpec, ...]
    env: Mapping[str, str]  # for the build, and for every job (it is in theirs already)
    slurm: Slurm | None
    source: str  # the file as it was written
    folder: Path  # what relative paths start from
    warnings: tuple[str, ...] = ()
    notify: tuple[str, ...] = ()  # channels of the head, by name, each once
    private: bool = False  # its results and logs are for its submitter

    @property
    def name(self) -> str:
        """`NAMESPACE/BATCH`."""
        return f"{self.namespace}/{self.batch}"


def read(path: Path) -> BatchSpec:
    """Read a jobs file and check all of it, also that its files are there.

    Raises FileError with every problem, or UsageError where the file itself cannot be read.
    """
    return parse(_bytes(path), path)


def parse(text: bytes | str, path: Path, *, check_files: bool = True) -> BatchSpec:
    """Check the text of a jobs file; `path` names it in messages, and relative paths start from its folder.

    Without `check_files` the disk is left alone (and `is_dir` not known). Raises FileError with every problem.
    """
    with collecting_paused():
        root = load(text, str(path))
        source = text if isinstance(text, str) else text.decode("utf-8-sig")
        return _Reader(path, check_files).batch(root, source)


def reference(path: Path) -> tuple[str, str]:
    """Return (namespace, batch) of a jobs file that only stands for its batch; the rest of it may be wrong.

    Raises FileError where the two names are not there or wrong, UsageError where the file cannot be read.
    """
    check = Checker(str(path))
    root = load(_bytes(path), str(path))
    top = {key.text: node for key, node in check.entries(root, "")}
    meta = {key.text: node for key, node in check.entries(top.get("meta"), "meta")}
    for name in ("namespace", "batch_name"):
        if name not in meta:
            check.problem(top.get("meta", root), "meta", f"lacks the key `{name}`", f"add `{name}:`")
    namespace = _name(check, meta.get("namespace"), "meta.namespace")
    batch = _name(check, meta.get("batch_name"), "meta.batch_name")
    check.finish()
    assert namespace is not None, "there is a problem otherwise"
    assert batch is not None, "there is a problem otherwise"
    return namespace, batch


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = "`distribute template python` writes one to start from"
        raise UsageError(f"there is no jobs file {shown(path)}", hint=hint) from None
    except IsADirectoryError:
        raise UsageError(f"{shown(path)} is a folder", hint="name the jobs file in it") from None
    except OSError as error:
        raise UsageError(f"the jobs file {shown(path)} cannot be read: {error.strerror}") from None


def _name(check: Checker, node: Node | None, path: str) -> str | None:
    text = check.string(node, path)
    if node is not None and text is not None and (wrong := names.check_name(text)):
        check.problem(node, path, wrong)
        return None
    return text


# Keys people write out of habit, or from older manuals, and where they belong.
_TOP_HINTS = {
    "docker": "Docker images are not run; make a .sif of the image and write `apptainer`",
    "init": "write `python.initialize.build_file`",
    "build": "write `python.initialize.build_file`",
    "initialize": "it belongs under `python` or `apptainer`",
    "jobs": "it belongs under `python` or `apptainer`",
    **dict.fromkeys(("batch_name", "namespace", "capabilities", "matrix", "notify"), "it belongs under `meta`"),
}
_META_HINTS = dict.fromkeys(("name", "batch"), "did you mean `batch_name`?")
_INITIALIZE_HINTS = {
    "python": {"required_mounts": "only an apptainer batch has mounts", "sif": "an image needs `apptainer`"},
    "apptainer": {"build_file": "an apptainer batch has an image, `sif`, that is built beforehand"},
}
_JOB_HINTS = {
    "python": {"script": "did you mean `file`?"},
    "apptainer": {"file": "an apptainer job runs the app `distribute` of its image; its data go to `required_files`"},
}

_OPTIONS = ("env", "time_limit", "warn_signal", "max_attempts", "on_node_loss", "resources")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Options:
    """What a batch may say for all its jobs, and a job for itself; `env` is only what was said in this place."""

    env: Mapping[str, tuple[str, Node]] = field(default_factory=dict)
    time_limit: float | None = None
    warn_signal: str | None = None
    max_attempts: int = 1
    on_node_loss: OnNodeLoss = OnNodeLoss.RESCHEDULE
    resources: Resources | None = None


class _Reader:
    """Reads one jobs file; `check` gathers what is wrong with it."""

    def __init__(self, path: Path, check_files: bool) -> None:
        self.check = Checker(str(path))
        self.folder = path.parent.absolute()
        self.files = FileReader(self.check, self.folder, look=check_files)
        self.kind: Kind = "python"
        self.batch_name = ""
        self.common = _Options()
        self.env: dict[str, str] = {}
        self.taken: dict[str, Node] = {}  # names of jobs so far, and their places
        self.warnings: list[str] = []

    def batch(self, root: Node, source: str) -> BatchSpec:
        check = self.check
        kinds = ("python", "apptainer", "singularity")
        top = check.mapping(root, "", required=("meta",), optional=(*kinds, "slurm"), hints=_TOP_HINTS)
        required = ("namespace", "batch_name", "capabilities")
        optional = ("matrix", "notify", "private", *_OPTIONS)
        meta = check.mapping(top.get("meta"), "meta", required=required, optional=optional, hints=_META_HINTS)
        namespace = _name(check, meta.get("namespace"), "meta.namespace")
        batch = _name(check, meta.get("batch_name"), "meta.batch_name")
        capabilities = self._capabilities(meta.get("capabilities"))
        matrix = self._matrix(meta.get("matrix"))
        notify = self._notify(meta.get("notify"))
        private = check.boolean(meta.get("private"), "meta.private") or False
        slurm = read_block(check, top.get("slurm"), "slurm")
        self.common = self._options(meta, "meta", _Options())
        self.env = self._env(self.common, "meta", None)
        self.batch_name = batch or ""
        key = self._kind(root, [key for key in _keys(root) if key.text in kinds])
        work = check.mapping(top.get(key), key, required=("initialize", "jobs"))
        script, files, mounted = self._initialize(work.get("initialize"), f"{key}.initialize")
        jobs = self._jobs(work.get("jobs"), f"{key}.jobs")
        check.finish()
        assert namespace is not None, "there is a problem otherwise"
        assert batch is not None, "there is a problem otherwise"
        assert script is not None, "there is a problem otherwise"
        return BatchSpec(
            namespace=namespace,
            batch=batch,
            matrix=matrix,
            capabilities=capabilities,
            kind=self.kind,
            script=script,
            required_files=files,
            required_mounts=mounted,
            jobs=jobs,
            env=self.env,
            slurm=slurm,
            source=source,
            folder=self.folder,
            warnings=tuple(self.warnings),
            notify=notify,
            private=private,
        )

    def _kind(self, root: Node, given: Sequence[Scalar]) -> str:
        """Return the key that says what to run, and set the kind."""
        if not given:
            remedy = "add `python:` (scripts) or `apptainer:` (an image)"
            self.check.problem(root, "", "there is neither `python` nor `apptainer`, so nothing to run", remedy)
            return "python"
        key, *others = given
        for other in others:
            what = f"there is `{key.text}` too, and a batch is of one kind"
            self.check.problem(other, other.text, what, "put one of them into a file of its own")
        if key.text == "singularity":
            what = "is the old name of `apptainer`, and read as that"
            self.warnings.append(str(Problem(self.check.file, key.mark.line, key.mark.column, key.text, what)))
        self.kind = "python" if key.text == "python" else "apptainer"
        return key.text

    def _initialize(self, node: Node | None, path: str) -> tuple[FileRef | None, tuple[FileRef, ...], tuple[str, ...]]:
        script_key = "build_file" if self.kind == "python" else "sif"
        optional = ("required_files",) if self.kind == "python" else ("required_files", "required_mounts")
        hints = _INITIALIZE_HINTS[self.kind]
        keys = self.check.mapping(node, path, required=(script_key,), optional=optional, hints=hints)
        script = self.files.one(keys.get(script_key), f"{path}.{script_key}")
        files = self.files.many(keys.get("required_files"), f"{path}.required_files")
        mounted = mounts.read(self.check, keys.get("required_mounts"), f"{path}.required_mounts")
        return self._single(script), self.files.named(files), mounted

    def _single(self, listed: Listed | None, fill: Fill | None = None) -> FileRef | None:
        return next(iter(self.files.named([listed], fill)), None) if listed else None

    def _jobs(self, node: Node | None, path: str) -> tuple[JobSpec, ...]:
        check = self.check
        before = len(check.problems)
        jobs: list[JobSpec] = []
        listed = check.items(node, path)
        for here, item in listed:
            jobs.extend(self._entry(item, here))
            if len(jobs) > MAX_JOBS:
                check.problem(item, here, f"is beyond the {MAX_JOBS:,} jobs a batch can have", "make two batches of it")
                break
        if node is not None and len({job.resources for job in jobs}) > asked.MOST_KINDS:
            what = f"its jobs state more than {asked.MOST_KINDS} different `resources`"
            check.problem(node, path, what, "let jobs that are alike state the same")
        if node is not None and not listed and len(check.problems) == before:
            check.problem(node, path, "there is no job in it, so nothing to run", "add one: `- name: job_1` ...")
        return tuple(jobs)

    def _entry(self, node: Node, path: str) -> Iterator[JobSpec]:
        """Yield the job of one entry, or every job of its sweep."""
        check = self.check
        before = len(check.problems)
        required = ("name", "file") if self.kind == "python" else ("name",)
        optional = ("required_files", "slurm", "sweep", "zip", *_OPTIONS)
        keys = check.mapping(node, path, required=required, optional=optional, hints=_JOB_HINTS[self.kind])
        name = check.string(keys.get("name"), f"{path}.name")
        script = self.files.one(keys.get("file"), f"{path}.file")
        files = self.files.many(keys.get("required_files"), f"{path}.required_files")
        slurm = read_block(check, keys.get("slurm"), f"{path}.slurm")
        options = self._options(keys, path, self.common)
        if options.time_limit is None and not is_null(keys.get("warn_signal")):
            what = "there is no `time_limit` that it could warn of"
            check.problem(keys["warn_signal"], f"{path}.warn_signal", what, "add one, or remove this")
        plan = self._sweep(keys, path)
        if name is None or (plan is None and "sweep" in keys):
            return  # noted; without its values nothing can be filled in
        for point in plan.points() if plan else (None,):
            fill = self._filler(plan, point) if plan and point else None
            job = JobSpec(
                name=self._job_name(name, keys["name"], f"{path}.name", plan, fill),
                file=self._single(script, fill),
                required_files=self.files.named(files, fill, taken=(names.SWEEP_FILE,) if plan else ()),
                slurm=slurm,
                env=self.env | self._env(options, path, fill) | _parameters(point) | _warning(options),
                time_limit=options.time_limit,
                max_attempts=options.max_attempts,
                on_node_loss=options.on_node_loss,
                resources=options.resources,
                sweep=point.values if point else None,
            )
            if len(check.problems) > before:
                return  # the other jobs of a sweep would say the same
            yield job

    def _sweep(self, keys: Mapping[str, Node], path: str) -> sweep.Sweep | None:
        check = self.check
        zipped = None if is_null(keys.get("zip")) else check.boolean(keys["zip"], f"{path}.zip")
        if zipped is not None and "sweep" not in keys:
            check.problem(keys["zip"], f"{path}.zip", "there is no `sweep` beside it", "add one, or remove `zip`")
        plan = sweep.read(check, keys.get("sweep"), f"{path}.sweep", zipped=bool(zipped))
        if plan is not None and plan.count > MAX_JOBS:
            what = f"stands for {plan.count:,} jobs; a batch has at most {MAX_JOBS:,}"
            check.problem(keys["sweep"], f"{path}.sweep", what, "list fewer values, or pair them with `zip: true`")
            return None
        return plan

    def _filler(self, plan: sweep.Sweep, point: sweep.Point) -> Fill:
        def fill(text: str, node: Node, path: str) -> str:
            try:
                return plan.fill(text, point)
            except ValueError as error:
                self.check.problem(node, path, str(error))
                return text

        return fill

    def _job_name(self, text: str, node: Node, path: str, plan: sweep.Sweep | None, fill: Fill | None) -> str:
        check = self.check
        before = len(check.problems)
        name = fill(text, node, path) if fill else text
        if len(check.problems) > before:
            return name
        if wrong := names.check_name(name):
            check.problem(node, path, wrong + (f" (in {quoted(name)})" if fill else ""))
        elif _is_ours(name.lower(), self.batch_name.lower()):
            check.problem(node, path, f"{quoted(name)} is a name of ours in the batch's folder", "choose another one")
        elif (other := self.taken.get(names.key(name))) is None:
            self.taken[names.key(name)] = node
        elif other is node and plan is not None:
            wanted = "-".join([text, *(f"{{{key}}}" for key in plan.varying if f"{{{key}}}" not in text)])
            remedy = f"put what varies into the name: {quoted(wanted)}" if wanted != text else None
            check.problem(node, path, f"two jobs of this sweep would be called {quoted(name)}", remedy)
        else:
            line = other.mark.line
            what = f"{quoted(name)} is the name of the job in line {line} (upper and lower case are one)"
            check.problem(node, path, what, "choose another one")
        return name

    # --------------------------------------------------------------------------------------------------- smaller parts

    def _capabilities(self, node: Node | None) -> tuple[str, ...]:
        found = set()
        for path, item in self.check.items(node, "meta.capabilities"):
            text = self.check.string(item, path)
            if text is not None and (wrong := capability.check(text)):
                self.check.problem(item, path, wrong)
            elif text is not None:
                found.add(text)
        return capability.normalise(found)

    def _matrix(self, node: Node | None) -> str | None:
        if node is None or is_null(node):
            return None
        text = self.check.string(node, "meta.matrix")
        if text is not None and not names.is_matrix_id(text):
            what = f"{quoted(text)} is no Matrix user id"
            self.check.problem(node, "meta.matrix", what, 'write it as in "@name:server.org"')
        return text

    def _notify(self, node: Node | None) -> tuple[str, ...]:
        # One name needs no list around it; what may be done with a name was said to its head, with its secrets.
        one = [("meta.notify", node)] if isinstance(node, Scalar) and not is_null(node) else None
        found: dict[str, None] = {}
        for path, item in one or self.check.items(node, "meta.notify"):
            text = self.check.string(item, path)
            if text is not None and names.check_name(text):
                remedy = "a person on Matrix goes to `matrix`; an address or URL gets a name in the head's config file"
                self.check.problem(item, path, "is no name of a channel", remedy)
            elif text is not None:
                found[text] = None
        return tuple(found)

    def _options(self, keys: Mapping[str, Node], path: str, base: _Options) -> _Options:
        """Read the options among `keys`; those that are not there, or null, are as in `base` (but `env` is own)."""
        check = self.check
        given = {key: keys[key] for key in _OPTIONS if not is_null(keys.get(key))}
        limit = check.parsed(given.get("time_limit"), f"{path}.time_limit", _time_limit)
        warning = check.choice(given.get("warn_signal"), f"{path}.warn_signal", tuple(WarnSignal))
        attempts = check.integer(given.get("max_attempts"), f"{path}.max_attempts", low=1, high=100)
        loss = check.choice(given.get("on_node_loss"), f"{path}.on_node_loss", tuple(OnNodeLoss))
        env: dict[str, tuple[str, Node]] = {}
        for key, node in check.entries(given.get("env"), f"{path}.env"):
            here = join(f"{path}.env", key.text)
            text = check.string(node, here, empty=True)
            if not _VARIABLE.fullmatch(key.text):
                what = "the name of a variable is made of letters, digits and _, and begins with no digit"
                check.problem(key, here, what)
            elif key.text.startswith("DISTRIBUTE_"):
                check.problem(key, here, "variables that begin with DISTRIBUTE_ are ours", "give it another name")
            elif text is not None:
                env[key.text] = (text, node)
        return _Options(
            env,
            base.time_limit if limit is None else limit,
            base.warn_signal if warning is None else warning,
            base.max_attempts if attempts is None else attempts,
            base.on_node_loss if loss is None else OnNodeLoss(loss),
            asked.read(check, keys.get("resources"), f"{path}.resources", base.resources),
        )

    def _env(self, options: _Options, path: str, fill: Fill | None) -> dict[str, str]:
        return {
            key: fill(text, node, join(f"{path}.env", key)) if fill else text
            for key, (text, node) in options.env.items()
        }


def _is_ours(job: str, batch: str) -> bool:
    """Whether the folder of a batch may hold something else of that name; both in lower case."""
    build_output = layout.build_output(batch, "").removesuffix(".txt")
    aside = layout.aside("", 0).removesuffix("0")
    _, found, number = job.rpartition(aside)
    taken = (layout.BATCH_FILE, layout.BATCH_RECORD)
    return job in taken or job.startswith(build_output) or (bool(found) and number.isdigit())


def _keys(node: Node) -> list[Scalar]:
    return [key for key, _ in node.entries] if isinstance(node, YamlMapping) else []


def _time_limit(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError(f"`{text}` leaves no time to run: write 90s, 15m, 1h30m, 2d, or remove it")
    return seconds


def _warning(options: _Options) -> dict[str, str]:
    """Return what tells the job, and us, that it wants to be warned of its time limit."""
    return {WARN_SIGNAL: options.warn_signal} if options.warn_signal and options.time_limit else {}


def _parameters(point: sweep.Point | None) -> dict[str, str]:
    """Return what a job of a sweep finds in its environment: the values, written as they were in the file."""
    return {PARAMETER_PREFIX + key.upper(): text for key, text in point.texts.items()} if point else {}
