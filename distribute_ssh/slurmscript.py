"""The scripts that run a batch on a Slurm cluster without us: one of each job, one that submits them all. Pure.

They are bash, as `#SBATCH` scripts are. Every text that comes from a person passes through `quote`. Paths in them are
relative to where a script is submitted, so the folder they lie in may be moved, and may have any name; `cd` is told so
with `./`, as who has a CDPATH would be taken elsewhere. A variable of ours is set only where no `env` of a job comes
after it, and none where a job still needs its own of that name: hence `DISTRIBUTE_CPUS`, and `$@` for what runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from distribute_ssh.model.job import WARN_BEFORE, WARN_SIGNAL, OnNodeLoss
from distribute_ssh.model.jobsfile import BatchSpec, JobSpec
from distribute_ssh.model.slurm import Slurm, clock, directive, directives, effective
from distribute_ssh.node.shell import THREADS, exports, quote

Runtime = Literal["apptainer", "singularity"]

JOB_SCRIPT = "slurm_input.sl"
SCHEDULE = "schedule_jobs.sh"
UPLOAD = "rsync_upload.sh"
DOWNLOAD = "rsync_download.sh"
IMAGE = "apptainer.sif"
INPUT = "input"
BUILD = "build"
BUILD_SCRIPT = "build.sl"
BUILT = ".built"

ARRAY_SIZE = 1000
"""Tasks of one array: clusters allow 1,001 unless somebody changed MaxArraySize."""

_SLURM_PATTERN = re.compile(r"%[0-9]*[A-Za-z]", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the folder is sent to. Raises ValueError for what ssh or a shell could take for something else."""

    user: str
    address: str  # a name or an address as ssh takes it; of IPv6 in brackets
    destination: str  # a folder there, from the home folder on unless it begins with /

    def __post_init__(self) -> None:
        if not _USER.fullmatch(self.user):
            raise ValueError(f"{self.user!r} is no name of an account")
        if not _ADDRESS.fullmatch(self.address):
            raise ValueError(f"{self.address!r} is no name of a machine; an IPv6 address is put into brackets")
        if not self.destination or not self.destination.isprintable():
            raise ValueError("the destination must be one line of text")
        if self.destination.startswith(":"):
            raise ValueError("a destination that begins with : is a service of rsync, not a folder")
        if self.destination.startswith("~") and not self.destination.startswith("~/") and self.destination != "~":
            raise ValueError(f"{self.destination!r}: write the whole path of somebody else's home")

    @property
    def folder(self) -> str:
        """The destination as rsync takes it: where its server starts is the home folder, and `~` would stay `~`."""
        return self.destination.removeprefix("~").lstrip("/") or "." if self._is_home else self.destination

    @property
    def _is_home(self) -> bool:
        return self.destination == "~" or self.destination.startswith("~/")

    @property
    def login(self) -> str:
        """As rsync and ssh take it."""
        return f"{self.user}@{self.address}"


@dataclass(frozen=True, slots=True)
class Choices:
    """What a jobs file does not say about a cluster."""

    runtime: Runtime = "apptainer"
    modules: tuple[str, ...] | None = None  # loaded before anything runs; None: the runtime's, where it is not there
    build_at_login: bool = False  # where there is a network, and often a compiler
    array: bool = False
    cluster: Cluster | None = None


def effective_slurm(spec: BatchSpec, job: JobSpec) -> Slurm:
    """What Slurm is told of a job."""
    return effective(spec.slurm, job.slurm, job.name, time_limit=job.time_limit, resources=job.resources)


def cores(slurm: Slurm) -> str:
    """What a job is given as its argument, as bash reads it.

    The original tool gave `ntasks` and nothing else, and `mpirun -np $1` relies on it. One task with many cores is
    told of its cores; where nothing was said, it is what Slurm gave.
    """
    if slurm.ntasks is not None and (slurm.ntasks > 1 or slurm.cpus_per_task is None):
        return str(slurm.ntasks)
    if slurm.cpus_per_task is not None:
        return str(slurm.cpus_per_task)
    return "${SLURM_CPUS_ON_NODE:-1}"


def doubts(spec: BatchSpec) -> list[str]:
    """What a batch has on our nodes and will not have on a cluster, as sentences."""
    if "gpu" not in spec.capabilities:
        return []
    without = [job.name for job in spec.jobs if not _asks_for_gpu(effective_slurm(spec, job))]
    if not without:
        return []
    which = ", ".join(without[:3]) + (", ..." if without[3:] else "")
    return [
        f"Slurm gives a GPU only to who asks: add `slurm: {{gres: gpu:1}}` (the batch needs `gpu`; without: {which})"
    ]


def _asks_for_gpu(slurm: Slurm) -> bool:
    return slurm.gpus is not None or "gpu" in (slurm.gres or "")


# ---------------------------------------------------------------------------------------------------------------- a job

_FAIL = 'fail() { echo "$2" >&2; exit "$1"; }\n'

_RENEW = """\
# Empties a folder, also one that a job made read-only.
renew() {
    rm -rf "$1" 2>/dev/null || { chmod -R u+rwX "$1"; rm -rf "$1"; }
    mkdir -p "$1" || exit 2
}
# Copies what is in a folder.
copy() {
    local files
    shopt -s dotglob nullglob
    files=("$1"/*)
    shopt -u dotglob nullglob
    [ ${#files[@]} = 0 ] || cp -pR -- "${files[@]}" "$2/" || exit 2
}
"""

_KEEP = """\
# What an earlier start saved is kept beside what this one will save.
if [ -d output ] && [ -n "$(ls -A output)" ]; then
    mv output "output.before-${SLURM_JOB_ID:-$$}.${SLURM_RESTART_COUNT:-0}" || exit 2
fi
mkdir -p output || exit 2
"""


def job_script(spec: BatchSpec, job: JobSpec, position: int, choices: Choices, build_key: str = "") -> str:
    """The script of one job, to be submitted in its folder; `build_key` names the built folder of a python batch."""
    slurm = effective_slurm(spec, job)
    lines = [*directives(slurm), *_losses(job), *_warning(job)]
    body = _apptainer(spec, choices) if spec.kind == "apptainer" else _python(spec, job, build_key)
    name = quote(job.name)
    return (
        _head(lines, f"One job of {spec.name}. Submitted in its own folder: ../{SCHEDULE} does it.")
        + f'[ "${{PWD##*/}}" = {name} ] || fail 2 "submit this in the folder "{name}\n'
        + _modules(spec, choices)
        + f"\n{_follow(spec, _RENEW)}\n{_KEEP}\n"
        + _exports(dict(job.env) | _job_environment(spec, job, position))
        + f'export DISTRIBUTE_CPUS="{cores(slurm)}" DISTRIBUTE_NODE="${{HOSTNAME:-}}"\n'
        + "export DISTRIBUTE_ATTEMPT_NUMBER=$((${SLURM_RESTART_COUNT:-0} + 1))\n"
        + _threads(slurm)
        + _end(job, slurm)
        + f"\n{body}\n"
        + _tell(job.env.get(WARN_SIGNAL))
        + _finish(spec)
    )


def _head(lines: Iterable[str], what: str) -> str:
    return "#!/bin/bash\n" + "".join(f"{line}\n" for line in lines) + f"\n# {what}\n{_FAIL}"


def _losses(job: JobSpec) -> list[str]:
    return ["#SBATCH --no-requeue"] if job.on_node_loss is OnNodeLoss.WAIT else []


def _warning(job: JobSpec) -> list[str]:
    """The signal before the end; Slurm gives it to this script (B:), which hands it on."""
    signal = job.env.get(WARN_SIGNAL)
    if not signal or not job.time_limit:
        return []
    return [directive("signal", f"B:{signal}@{int(min(WARN_BEFORE, job.time_limit / 2))}")]


def _modules(spec: BatchSpec, choices: Choices) -> str:
    if choices.modules:
        return f"\nmodule load {' '.join(map(quote, choices.modules))} || exit 2\n"
    if choices.modules is None and spec.kind == "apptainer":
        return f"\ncommand -v {choices.runtime} >/dev/null || module load {choices.runtime}\n"
    return ""


def _job_environment(spec: BatchSpec, job: JobSpec, position: int) -> dict[str, str]:
    return _batch_environment(spec) | {"DISTRIBUTE_JOB_NAME": job.name, "DISTRIBUTE_ARRAY_INDEX": str(position)}


def _batch_environment(spec: BatchSpec) -> dict[str, str]:
    return {"DISTRIBUTE_NAMESPACE": spec.namespace, "DISTRIBUTE_BATCH": spec.batch, "BATCH_SYSTEM": "distribute"}


def _exports(env: Mapping[str, str]) -> str:
    return "".join(f"{line}\n" for line in exports(env))


def _threads(slurm: Slurm) -> str:
    """Each library's own variable. Many tasks, and no word about their cores: that is MPI, which knows by itself."""
    if slurm.cpus_per_task is not None:
        count = str(slurm.cpus_per_task)
    elif slurm.ntasks is None or slurm.ntasks == 1:
        count = '"$DISTRIBUTE_CPUS"'
    else:
        return ""
    return "export " + " ".join(f"{name}={count}" for name in THREADS) + "\n"


def _end(job: JobSpec, slurm: Slurm) -> str:
    if not job.time_limit or slurm.time != clock(job.time_limit):
        return ""  # the end that Slurm was told of is another one
    return f"export DISTRIBUTE_END_TIME=$(($(date +%s) + {int(job.time_limit)}))\n"


def _follow(spec: BatchSpec, functions: str) -> str:
    """What all jobs of an image share is linked to in their folders, and a link out of a container leads nowhere."""
    return functions.replace("cp -pR ", "cp -pRH ") if spec.kind == "apptainer" else functions


def _apptainer(spec: BatchSpec, choices: Choices) -> str:
    mounts = [(f"mnt_{number:02d}", place) for number, place in enumerate(spec.required_mounts)]
    binds = ",".join([f"run/{INPUT}:/{INPUT}", "output:/distribute_save", *(f"{own}:{to}" for own, to in mounts)])
    return "\n".join(
        [
            f"command -v {choices.runtime} >/dev/null || fail 127 'there is no {choices.runtime} here'",
            f"renew run; renew run/{INPUT}; copy {INPUT} run/{INPUT}",
            *(f"renew {own}" for own, _ in mounts),
            f"export DISTRIBUTE_INPUT_DIR=/{INPUT} DISTRIBUTE_SAVE_DIR=/distribute_save",
            "set --",
            "if [ -e /dev/nvidiactl ]; then set -- --nv; elif [ -e /dev/kfd ]; then set -- --rocm; fi",
            f'set -- {choices.runtime} run "$@" --app distribute --bind {quote(binds)} ../{IMAGE} "$DISTRIBUTE_CPUS"',
        ]
    )


def _python(spec: BatchSpec, job: JobSpec, build_key: str) -> str:
    built = f"../{BUILD}/{build_key}"
    own = {ref.alias for ref in job.required_files}
    replaced = [f"run/{INPUT}/{ref.alias}" for ref in spec.required_files if ref.alias in own]
    return "\n".join(
        [
            f"[ -e {built}/{BUILT} ] || fail 2 'the build is not there: ../{SCHEDULE} submits it first'",
            # The job gets a copy: others run at the same time, and each is to find what the build left.
            f"renew run; copy {built} run",
            f"renew run/{INPUT}; copy run/initial_files run/{INPUT}",
            *(f"rm -rf {quote(place)}" for place in replaced),
            f"copy {INPUT} run/{INPUT}",
            "cp run.py run/run.py && cd ./run || exit 2",
            # So that what was saved is there, however the job ends.
            "rm -rf distribute_save; ln -s ../output distribute_save || exit 2",
            f'export DISTRIBUTE_BUILD_DIR="$PWD" DISTRIBUTE_JOB_DIR="$PWD" DISTRIBUTE_INPUT_DIR="$PWD/{INPUT}"',
            'export DISTRIBUTE_SAVE_DIR="$PWD/distribute_save"',
            'set -- python3 run.py "$DISTRIBUTE_CPUS"',
        ]
    )


def _tell(signal: str | None) -> str:
    if not signal:
        return '"$@"; code=$?\n'
    # bash hears a signal only between two commands, but at once while it waits.
    return (
        '"$@" & child=$!\ntold=1\n'
        f"trap 'told=1; kill -s {signal} \"$child\" 2>/dev/null' {signal}\n"
        'while [ -n "$told" ]; do told=; wait "$child"; code=$?; done\n'
    )


def _finish(spec: BatchSpec) -> str:
    saved = "[ -L distribute_save ] || cp -pR distribute_save/. ../output/\ncd ..\n" if spec.kind == "python" else ""
    return saved + '[ "$code" != 0 ] || rm -rf run      # after a failure it stays, to be looked at\nexit "$code"\n'


# ------------------------------------------------------------------------------------------------------------ the build


def build_script(spec: BatchSpec, choices: Choices, build_key: str) -> str:
    """The script that sets up a python batch once; the folder has the name of its inputs' hash."""
    slurm = effective(spec.slurm, None, spec.batch)
    lines = [
        directive("job-name", f"{spec.batch}-build-{build_key}"),
        "#SBATCH --dependency=singleton",  # somebody may schedule twice; the second one finds it built
        *directives(slurm, without=("job_name", "output")),
    ]
    return (
        _head(lines, f"The build of {spec.name}. Submitted in its own folder: ../{SCHEDULE} does it.")
        + f'[ "${{PWD##*/}}" = {BUILD} ] || fail 2 "submit this in the folder {BUILD}"\n'
        + f"[ ! -e {build_key}/{BUILT} ] || exit 0\n"
        + _modules(spec, choices)
        + f"\n{_RENEW}\n"
        + f"renew {build_key}; renew {build_key}/{INPUT}; renew {build_key}/initial_files\n"
        + f"renew {build_key}/distribute_save\n"
        + f"copy ../{INPUT} {build_key}/{INPUT}; copy ../{INPUT} {build_key}/initial_files\n"
        + f"cp build.py {build_key}/build.py && cd ./{build_key} || exit 2\n"
        + _exports(dict(spec.env) | _batch_environment(spec))
        + f'export DISTRIBUTE_CPUS="{cores(slurm)}" DISTRIBUTE_BUILD_DIR="$PWD"\n'
        + _threads(slurm)
        + f"\npython3 build.py || exit\n: > {BUILT}\n"
    )


# ------------------------------------------------------------------------------------------------------------- arrays


@dataclass(frozen=True, slots=True)
class Array:
    """Jobs of which Slurm is told the same, as one array: its script, and the list of their names beside it."""

    jobs: tuple[str, ...]
    script: str  # file name
    names: str  # file name
    text: str


def arrays(spec: BatchSpec) -> list[Array]:
    """All jobs as arrays, as few as there can be, each in the order of the file."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for job in spec.jobs:
        slurm = effective_slurm(spec, job)
        lines = (*directives(slurm, without=("job_name", "output")), *_output(slurm), *_losses(job), *_warning(job))
        alike.setdefault(lines, []).append(job.name)
    parts = [
        (lines, tuple(names[start : start + ARRAY_SIZE]))
        for lines, names in alike.items()
        for start in range(0, len(names), ARRAY_SIZE)
    ]
    return [_array(spec, number, *part) for number, part in enumerate(parts)]


def _output(slurm: Slurm) -> list[str]:
    """Where the tasks print to. They are submitted in one folder, so a name without a pattern would be one file."""
    if slurm.output is None:
        return []
    return [directive("output", slurm.output if "%" in slurm.output else f"{slurm.output}-%a")]


def _array(spec: BatchSpec, number: int, lines: tuple[str, ...], jobs: tuple[str, ...]) -> Array:
    script, names = f"array_{number:02d}.sl", f"array_{number:02d}.txt"
    head = [directive("job-name", spec.batch), directive("array", f"0-{len(jobs) - 1}"), *lines]
    text = (
        _head(head, f"Jobs of {spec.name}, one a line of {names}. Submitted in this folder: {SCHEDULE} does it.")
        + f'job=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {names}) && [ -n "$job" ] || fail 2 "no job"\n'
        + f'echo "job $job"\ncd "./$job" && exec bash {JOB_SCRIPT}\n'
    )
    return Array(jobs, script, names, text)


# ------------------------------------------------------------------------------------------------ submitting, bringing

_OWN_FOLDER = 'here=$(unset CDPATH; cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit\n'


_QUEUED = """\
# The folders of what is in Slurm's queue: one job twice at a time would take its own folder away.
declare -A queued
while IFS= read -r folder; do queued[$folder]=1; done < <(squeue -h -u "$(id -un)" -o %Z 2>/dev/null | grep .)
"""


def schedule_script(spec: BatchSpec, choices: Choices, build_key: str = "") -> str:
    """The script that submits the build and, behind it, the jobs: all of them or those that are named."""
    submitted = (
        [f"submit . {each.script}" for each in arrays(spec)]
        if choices.array
        else [f"submit {quote(job.name)} {JOB_SCRIPT}" for job in spec.jobs]
    )
    return (
        f"#!/bin/bash\n# Submits the jobs of {spec.name}, or those that are named:  bash {SCHEDULE} [JOB]...\n"
        f"# Prints the name of each, and its number in Slurm.\n{_FAIL}{_OWN_FOLDER}{_QUEUED}after=()\n"
        + (_schedule_build(choices, build_key) if spec.kind == "python" else "")
        + "\nsubmit() {\n"
        + '    [ -e "$here/$1/$2" ] || fail 3 "there is no job $1"\n'
        + '    local id\n    if [ -n "${queued[$(cd -- "$here/$1" && pwd -P)]}" ]; then\n'
        + '        echo "$1 is in the queue of Slurm, and was not submitted again" >&2\n        return\n    fi\n'
        + '    id=$(cd -- "$here/$1" && sbatch --parsable "${after[@]}" "$2") || '
        + 'fail 1 "$1 was not submitted, nor what follows it"\n'
        + '    if [ "$1" = . ]; then echo "$2 ${id%%;*}"; else echo "$1 ${id%%;*}"; fi\n}\n'
        + f'\nif [ $# -gt 0 ]; then\n    for job; do submit "$job" {JOB_SCRIPT}; done\n    exit\nfi\n'
        + "".join(f"{line}\n" for line in submitted)
    )


def _schedule_build(choices: Choices, build_key: str) -> str:
    here = f'cd -- "$here/{BUILD}"'
    if choices.build_at_login:
        act = f"    ({here} && bash {BUILD_SCRIPT}) >&2 || fail 1 'the build failed: nothing was submitted'\n"
    else:
        act = (
            f'    id=$({here} && sbatch --parsable {BUILD_SCRIPT}) || exit 1\n    echo "{BUILD} ${{id%%;*}}"\n'
            # Of jobs that wait for a build that failed, Slurm would say for ever that they wait.
            '    after=(--dependency="afterok:${id%%;*}" --kill-on-invalid-dep=yes)\n'
        )
    return f'if [ ! -e "$here/{BUILD}/{build_key}/{BUILT}" ]; then\n{act}fi\n'


def upload_script(spec: BatchSpec, cluster: Cluster) -> str:
    """The script that sends the folder; again, it sends what changed, and leaves what jobs left there alone."""
    built = [f"- /*/{BUILD}/*/"] if spec.kind == "python" else []
    printed = _printed(spec)
    left = ["output", "output.before-*", "run", *printed]
    rules = [f"+ /*/{INPUT}/***", *built, *(f"- /*/*/{name}" for name in left), *(f"- /*/{name}" for name in printed)]
    return (
        f"#!/bin/bash\n# Sends this folder to {cluster.login}; again, it sends what changed.\n{_OWN_FOLDER}"
        f"rsync -rltE --safe-links -s {_filters(rules)} -- \\\n"
        f'    "$here" {quote(f"{cluster.login}:{cluster.folder}")}\n'
    )


def _printed(spec: BatchSpec) -> list[str]:
    """The files that jobs print into, as rsync's patterns, from where they were submitted on."""
    found = {"slurm-*.out": None}
    for output in dict.fromkeys(effective_slurm(spec, job).output for job in spec.jobs):
        if output and not output.startswith("/") and ".." not in output.split("/"):
            name = _SLURM_PATTERN.sub("*", output.removeprefix("./"))
            found |= dict.fromkeys([name] if "*" in name else [name, f"{name}-*"])
    return list(found)


def download_script(spec: BatchSpec, cluster: Cluster) -> str:
    """The script that brings what the jobs saved and printed into the same folders here."""
    printed = [f"{start}/{name}" for name in _printed(spec) for start in ("/*", "")]
    above = [f"{folder}/" for name in printed for folder in PurePosixPath(name).parents if len(folder.parts) > 1]
    brought = ["/*/", "/*/output/***", "/*/output.before-*/***", *dict.fromkeys([*above, *printed])]
    rules = [f"- /{INPUT}/", *(f"+ {name}" for name in brought), "- *"]
    source = f"{cluster.login}:{cluster.folder.rstrip('/')}/"
    return (
        f"#!/bin/bash\n# Brings here what the jobs saved and printed on {cluster.login}.\n{_OWN_FOLDER}"
        f"rsync -rltE --safe-links -m -s {_filters(rules)} -- \\\n"
        f'    {quote(source)}"${{here##*/}}/" "$here/"\n'
    )


def _filters(rules: Iterable[str]) -> str:
    return " ".join(f"--filter={quote(rule)}" for rule in rules)
