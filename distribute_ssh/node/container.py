"""The scripts of an apptainer batch: its image is put in place and looked into once, its app `distribute` run. Pure.

Nothing is built on the node. The build proves that the image can be run there at all, so that a bad image, or a node
where people may run none, costs one build and not every job.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from posixpath import normpath

from distribute_ssh.model.job import Input
from distribute_ssh.model.layout import attempt_folder, batch_folder, blob, slot_folder
from distribute_ssh.node.probe import Gpu
from distribute_ssh.node.shell import becoming, exports, function, put, quote

APP = "distribute"
IMAGE = "image.sif"
_LIBRARY = '. "$lib/image.sh"'
_OWN = "container"  # apptainer's own files, in the attempt's folder: what it leaves behind when killed goes with that
_NOT_INSIDE = ("DISTRIBUTE_BUILD_DIR", "DISTRIBUTE_JOB_DIR", "DISTRIBUTE_SCRATCH")


def program(tools: Collection[str]) -> str:
    """What runs images on a node where these tools answered: apptainer, or singularity where only that is there."""
    return "singularity" if "singularity" in tools and "apptainer" not in tools else "apptainer"


def environment(env: Mapping[str, str], *, token: str, root: str, program: str) -> dict[str, str]:
    """`env` as it has to be for a container: its folders have other names inside, or none."""
    inside = {name: value for name, value in env.items() if name not in _NOT_INSIDE}
    own = f"{root}/{attempt_folder(token)}/{_OWN}"
    return {
        **inside,
        "DISTRIBUTE_INPUT_DIR": "/input",
        "DISTRIBUTE_SAVE_DIR": "/distribute_save",
        "TMPDIR": "/tmp",  # where the attempt's own is mounted
        # It makes a folder in the home, where it is not told of another.
        **{f"{program.upper()}_{what}DIR": own for what in ("CACHE", "CONFIG", "TMP")},
    }


def command(
    *, token: str, program: str, cores: int, mounts: Sequence[str] = (), gpus: Collection[Gpu] = ()
) -> list[str]:
    """The words that run a job, in its slot. The paths are relative: who named our scratch may have used a comma."""
    places = {place: _mount(number) for number, place in enumerate(_plain(mounts))}
    # The node's /tmp, which is in every container, is nobody's to leave things in.
    places.setdefault("/tmp", f"../../../{attempt_folder(token)}/tmp")
    # By name: a folder comes before what is mounted inside it.
    inside = {"/distribute_save": "distribute_save", "/input": "input"} | dict(sorted(places.items()))
    binds = ",".join(f"{source}:{place}:rw" for place, source in inside.items())
    # Of a GPU that only the inventory knows nobody knows the vendor; where it is another's, --nv does no harm.
    options = [
        *(["--nv"] if any(gpu.vendor != "amd" for gpu in gpus) else []),
        *(["--rocm"] if any(gpu.vendor == "amd" for gpu in gpus) else []),
    ]
    return [program, "run", *options, "--app", APP, "--bind", binds, f"../{IMAGE}", str(cores)]


def build_script(
    *,
    token: str,
    batch_token: str,
    image: Input,
    init: Sequence[Input],
    mounts: Sequence[str],
    program: str,
    env: Mapping[str, str],
    gentle: Sequence[str] = (),
) -> str:
    """Put the image and the common inputs in place, once for all slots, and look whether jobs can run."""
    folder = batch_folder(batch_token)
    target = f"{folder}/{IMAGE}"
    stage = [
        f"rm -rf {folder} || return 1",
        f"mkdir -p {folder}/initial_files {attempt_folder(token)}/{_OWN} || return 1",
        # Images are big and only read. The link also keeps this one here when another head makes room in `files/`.
        f"ln {blob(image.sha256)} {target} 2>/dev/null || cp {blob(image.sha256)} {target} || return 1",
        *(line for item in init for line in put(item, f"{folder}/initial_files")),
    ]
    looking = ["look_into", IMAGE, repr(image.alias), program, *_plain(mounts)]
    payload = [
        _LIBRARY,
        f"cd {folder} || exit 126",
        *exports(env),
        *(gentle or ["gently="]),  # which a batch may have among its variables
        " ".join(map(quote, looking)),
    ]
    return f"slot={folder}\n" + function("stage", stage) + function("payload", payload)


def job_script(
    *,
    token: str,
    batch_token: str,
    slot: int,
    init: Sequence[Input],
    inputs: Sequence[Input],
    mounts: Sequence[str],
    cores: int,
    gpus: Collection[Gpu],
    program: str,
    env: Mapping[str, str],
    time_limit: float | None = None,
    gentle: Sequence[str] = (),
) -> str:
    """Run a job in a slot that is made anew: nothing of an earlier job is in its folders, mounts included."""
    folder, batch = slot_folder(batch_token, slot), batch_folder(batch_token)
    names = {item.alias for item in inputs}
    replaced = [item.alias for item in init if item.alias in names]
    made = [f"{folder}/{each}" for each in ("input", "distribute_save", *map(_mount, range(len(mounts))))]
    own = [f"{attempt_folder(token)}/{each}" for each in ("tmp", _OWN)]
    stage = [
        f"rm -rf {folder} 2>/dev/null || {{ chmod -R u+rwX {folder}; rm -rf {folder}; }}",
        f"mkdir {' '.join([folder, *made, *own])} || return 1",
        *([f"cp -pR {batch}/initial_files/. {folder}/input/ || return 1"] if init else []),
        *(f"rm -rf {quote(f'{folder}/input/{name}')} || return 1" for name in replaced),
        *(line for item in inputs for line in put(item, f"{folder}/input")),
    ]
    end = [f"export DISTRIBUTE_END_TIME=$(($(date +%s) + {int(time_limit)}))"] if time_limit else []
    words = command(token=token, program=program, cores=cores, mounts=mounts, gpus=gpus)
    payload = [f"cd {folder} || exit 126", *exports(env), *end, *becoming(" ".join(map(quote, words)), gentle)]
    remark = [_LIBRARY, f"explain_failure {attempt_folder(token)}/output {batch}/hidden"]
    return (
        f"slot={folder}\nsave=1\n"
        + function("stage", stage)
        + function("payload", payload)
        + function("remark", remark)
    )


def _mount(number: int) -> str:
    return f"_bind_path_{number}"


def _plain(mounts: Sequence[str]) -> list[str]:
    return [normpath(f"/{place.lstrip('/')}") for place in mounts]
