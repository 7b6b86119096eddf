"""`resources:` of a jobs file: what a batch, or one of its jobs, asks of a node."""

from __future__ import annotations

from distribute_ssh.model.resources import Resources
from distribute_ssh.model.units import parse_size
from distribute_ssh.model.yamltext import Checker, Node, is_null

MOST_KINDS = 200
"""Different `resources` in one batch: who runs next is decided for each of them, not for each job."""

_KEYS = ("cores", "memory", "gpus", "gpu_memory", "disk")
_HINTS = {
    **dict.fromkeys(("cpus", "cpu", "ncpus", "threads", "cpus_per_task", "ntasks"), "write `cores: 4`"),
    **dict.fromkeys(("mem", "ram", "memory_mb", "mem_per_cpu"), "write `memory: 16G`, for the whole job"),
    **dict.fromkeys(("gpu", "ngpus", "gres", "cuda"), "write `gpus: 1`"),
    **dict.fromkeys(("vram", "gpu_mem", "gpu_ram"), "write `gpu_memory: 16G`, for each GPU"),
    **dict.fromkeys(("scratch", "storage", "tmp"), "write `disk: 50G`, which is to be free in the node's scratch"),
    **dict.fromkeys(("time", "walltime"), "`time_limit` stands beside `resources`, not in it"),
    "slots": "how many jobs share a node is said in the inventory; a job says `cores: 4`",
}


def read(check: Checker, node: Node | None, path: str, base: Resources | None) -> Resources | None:
    """What is asked for; keys that are not said are as in `base`. Null asks for nothing: a whole slot."""
    if node is None:
        return base
    if is_null(node):
        return None
    keys = {
        key: value
        for key, value in check.mapping(node, path, optional=_KEYS, hints=_HINTS).items()
        if not is_null(value)
    }
    old = base or Resources()
    cores = check.integer(keys.get("cores"), f"{path}.cores", low=1)
    memory = check.parsed(keys.get("memory"), f"{path}.memory", _mebibytes)
    gpus = check.integer(keys.get("gpus"), f"{path}.gpus")
    gpu_memory = check.parsed(keys.get("gpu_memory"), f"{path}.gpu_memory", _mebibytes)
    disk = check.parsed(keys.get("disk"), f"{path}.disk", _mebibytes)
    wanted = old.gpus if gpus is None else gpus
    if gpu_memory and not wanted:
        check.problem(keys["gpu_memory"], f"{path}.gpu_memory", "is of a GPU, and none is asked for", "add `gpus: 1`")
    return Resources(
        cores=old.cores if cores is None else cores,
        memory_mb=old.memory_mb if memory is None else memory,
        gpus=wanted,
        gpu_memory_mb=(old.gpu_memory_mb if gpu_memory is None else gpu_memory) if wanted else 0,
        disk_mb=old.disk_mb if disk is None else disk,
    )


def _mebibytes(text: str) -> int:
    size = parse_size(text)
    if 0 < size < 1 << 20:
        raise ValueError(f"`{text}` is less than a megabyte: write 512M, 16G")
    return -(-size >> 20)
