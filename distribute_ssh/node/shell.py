"""The script of one attempt or build: what is put in place, what runs, with which environment. Pure.

Every text that comes from a person passes through `quote`. The script is a file on the node; no part of it is ever in
a command line but `python3 run.py CORES`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from distribute_ssh.model.job import Attempt, Batch, Build, Input, Job
from distribute_ssh.model.layout import attempt_folder, blob, pristine_folder, slot_folder
from distribute_ssh.node.given import Given, environment

THREADS = (
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "JULIA_NUM_THREADS",
    "GOMAXPROCS",
    "PYTHON_CPU_COUNT",
    "TF_NUM_THREADS",
)
"""Each library has its own; all are set to the cores a job was given, so that none takes the whole machine."""

quote = shlex.quote


def _common(batch: Batch, node: str, token: str, folder: str, root: str, cores: int) -> dict[str, str]:
    return {
        # The tag by which every process of an attempt is found again, wherever it went.
        "DISTRIBUTE_ATTEMPT": token,
        "DISTRIBUTE_NAMESPACE": batch.namespace,
        "DISTRIBUTE_BATCH": batch.batch,
        "DISTRIBUTE_USER": batch.submitter,
        "DISTRIBUTE_NODE": node,
        "DISTRIBUTE_BUILD_DIR": f"{root}/{folder}",
        "DISTRIBUTE_INPUT_DIR": f"{root}/{folder}/input",
        "DISTRIBUTE_SAVE_DIR": f"{root}/{folder}/distribute_save",
        "DISTRIBUTE_SCRATCH": root,
        "DISTRIBUTE_CPUS": str(cores),
        "BATCH_SYSTEM": "distribute",
        **dict.fromkeys(THREADS, str(cores)),
    }


def build_environment(build: Build, batch: Batch, site: Mapping[str, str], cores: int, root: str) -> dict[str, str]:
    """What a build finds in its environment; `site` is what the inventory sets for the node."""
    return {
        **site,
        **batch.env,
        **_common(batch, build.node, build.token, slot_folder(build.batch_token, 0), root, cores),
    }


def job_environment(
    attempt: Attempt, job: Job, batch: Batch, site: Mapping[str, str], part: Given, root: str
) -> dict[str, str]:
    """What a job finds in its environment; its own `env:` wins over the node's, and ours over both."""
    folder = slot_folder(attempt.batch_token, attempt.slot)
    return {
        **site,
        **job.env,
        **_common(batch, attempt.node, attempt.token, folder, root, part.cores),
        "DISTRIBUTE_JOB_ID": str(job.id),
        "DISTRIBUTE_INPUT_HASH": job.input_hash,  # a queue made anew knows its attempts again by it
        "DISTRIBUTE_JOB_NAME": job.name,
        "DISTRIBUTE_ARRAY_INDEX": str(job.position),
        "DISTRIBUTE_ATTEMPT_NUMBER": str(attempt.number),
        "DISTRIBUTE_JOB_DIR": f"{root}/{folder}",
        # Goes with the attempt: what a killed solver leaves in TMPDIR does not fill the desk's disk.
        "TMPDIR": f"{root}/{attempt_folder(attempt.token)}/tmp",
        **environment(part),
    }


def put(item: Input, folder: str) -> list[str]:
    """Commands that put an input in place. Copies: a job may write into its inputs, never into our `files/`."""
    source, target = blob(item.sha256), quote(f"{folder}/{item.alias}")
    if item.kind == "tree":
        return [f"mkdir -p {target} && tar -xf {source} -C {target} || return 1"]
    lines = [f"cp {source} {target} || return 1"]
    if item.executable:
        lines.append(f"chmod 755 {target} || return 1")
    return lines


def exports(env: Mapping[str, str]) -> list[str]:
    """Commands that set the environment."""
    return [f"export {name}={quote(value)}" for name, value in env.items()]


def function(name: str, lines: Iterable[str]) -> str:
    """A shell function: the wrapper calls it by its name."""
    return f"{name}() {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


_IO_CLASSES = {"idle": "-c 3", "best-effort": "-c 2 -n 7"}


def gently(nice: int, ionice: str | None, cores: int | None) -> list[str]:
    """Commands that set $gently to what a program is to be run by; tools that a node lacks are left out."""
    lines = ["gently="]
    if nice:
        lines += [
            # Linux weighs sessions first and what is nice within them second: without this the desktop gains nothing.
            f"{{ echo {nice} > /proc/self/autogroup; }} 2>/dev/null",
            f'if nice -n {nice} true 2>/dev/null; then gently="nice -n {nice}"; fi',
        ]
    if ionice:
        by = f"ionice {_IO_CLASSES[ionice]}"
        lines.append(f'if {by} true 2>/dev/null; then gently="$gently {by}"; fi')
    if cores:
        # Whole cores, with all their threads; the last ones, as most devices bother the first.
        lines += [
            "cpus=$({ cat /sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list |",
            f"    LC_ALL=C sort -un | tail -n {cores} | tr '\\n' ','; }} 2>/dev/null)",
            'if taskset -c "${cpus%,}" true 2>/dev/null; then gently="$gently taskset -c ${cpus%,}"; fi',
        ]
    return lines if len(lines) > 1 else []


def becoming(program: str, lines: Sequence[str]) -> list[str]:
    """Commands that become the program, run as `gently` says."""
    return [*lines, f"exec {'$gently ' if lines else ''}{program}"]


def build_script(
    *,
    batch_token: str,
    script: Input,
    init: Sequence[Input],
    shared: bool,
    python: str,
    env: Mapping[str, str],
    gentle: Sequence[str] = (),
) -> str:
    """Set up a batch in slot 0: fresh folders, the inputs, `python3 build.py`.

    `shared`: its jobs may run beside each other. Then a copy is made before any of them ran, of which they make their
    own slots: each finds what the build left, not what a neighbour did.
    """
    slot = slot_folder(batch_token, 0)
    stage = [
        f"rm -rf batches/{batch_token} || return 1",
        f"mkdir -p {slot}/initial_files {slot}/input {slot}/distribute_save || return 1",
        *(line for item in init for line in put(item, f"{slot}/initial_files")),
        *([f"cp -pR {slot}/initial_files/. {slot}/input/ || return 1"] if init else []),
        *put(Input("build.py", script.sha256, script.size), slot),
    ]
    payload = [f"cd {slot} || exit 126", *exports(env), *becoming(f"{quote(python)} build.py", gentle)]
    copy = [f"cp -pR {slot} {pristine_folder(batch_token)} || return 1"]
    return (
        f"slot={slot}\n"
        + function("stage", stage)
        + function("payload", payload)
        + ("settles=1\n" + function("settle", copy) if shared else "")
    )


def _slot(batch_token: str, slot: int) -> list[str]:
    """Commands that make a slot when it is first needed; beside, then renamed, for we may be killed here."""
    folder, pristine, first = slot_folder(batch_token, slot), pristine_folder(batch_token), slot_folder(batch_token, 0)
    return [
        f"if [ ! -d {folder} ]; then",
        # Built before anybody said that jobs share this node: then the first slot is all there is.
        f"    from={pristine}; [ -d $from ] || from={first}",
        f"    rm -rf {folder}.new; cp -pR $from {folder}.new && mv {folder}.new {folder} || return 1",
        "fi",
    ]


def job_script(
    *,
    token: str,
    batch_token: str,
    slot: int,
    script: Input,
    init: Sequence[Input],
    inputs: Sequence[Input],
    cores: int,
    python: str,
    env: Mapping[str, str],
    time_limit: float | None = None,
    gentle: Sequence[str] = (),
) -> str:
    """Run a job in its slot: `input/` filled anew (the job's own files over the build's), `distribute_save/` empty."""
    folder = slot_folder(batch_token, slot)
    names = {item.alias for item in inputs}
    replaced = [item.alias for item in init if item.alias in names]
    # Removed, never written over: a job may have left a link in the place of run.py, or taken its own right to write.
    old = f"{folder}/input {folder}/distribute_save {folder}/run.py"
    stage = [
        *_slot(batch_token, slot),
        f"rm -rf {old} 2>/dev/null || {{ chmod -R u+rwX {old}; rm -rf {old}; }}",
        f"mkdir {folder}/input {folder}/distribute_save {attempt_folder(token)}/tmp || return 1",
        *([f"cp -pR {folder}/initial_files/. {folder}/input/ || return 1"] if init else []),
        *(f"rm -rf {quote(f'{folder}/input/{name}')} || return 1" for name in replaced),
        *(line for item in inputs for line in put(item, f"{folder}/input")),
        f"cp {blob(script.sha256)} {folder}/run.py || return 1",
    ]
    end = [f"export DISTRIBUTE_END_TIME=$(($(date +%s) + {int(time_limit)}))"] if time_limit else []
    payload = [f"cd {folder} || exit 126", *exports(env), *end, *becoming(f"{quote(python)} run.py {cores}", gentle)]
    return f"slot={folder}\nsave=1\n" + function("stage", stage) + function("payload", payload)
