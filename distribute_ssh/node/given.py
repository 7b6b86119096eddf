"""What an attempt was given of its node, and how its program is told: by variables of ours and of the drivers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from distribute_ssh.model.resources import Share
from distribute_ssh.node.probe import Gpu, Offer, slot_cores


@dataclass(frozen=True, slots=True)
class Given:
    """A part of a node, for one attempt."""

    cores: int
    memory_mb: int | None = None  # None: nobody knows how much there is
    gpus: tuple[Gpu, ...] = ()  # those it may use
    hides: bool = False  # the others are kept from it


def given(share: Share | None, offer: Offer, *, found: int, has_gpu: bool, foreign: Collection[int] = ()) -> Given:
    """What an attempt has of a node that offers this.

    Without a share it has a slot: its part of the cores and of the memory and, where its batch asks for `gpu`
    (`has_gpu`), every GPU that nobody else was seen to use (`foreign`, by number), or all where others use all of them.
    `found`: how many GPUs the node has, also those that the inventory leaves out.
    """
    if share is not None:
        chosen = tuple(gpu for gpu in offer.gpus if gpu.index in share.gpus)
        return Given(share.cores, share.memory_mb or None, chosen, hides=True)
    memory_mb = offer.memory_mb and offer.memory_mb // offer.slots
    cores = slot_cores(offer.cores, offer.slots)
    if not has_gpu:
        return Given(cores, memory_mb)
    free = tuple(gpu for gpu in offer.gpus if gpu.index not in foreign) or offer.gpus
    return Given(cores, memory_mb, free, hides=len(free) < max(found, len(offer.gpus)))


def environment(part: Given) -> dict[str, str]:
    """The variables that tell a program its part; `DISTRIBUTE_CPUS` and the threads are set beside it.

    Where nothing is hidden from it, the drivers are told nothing: it sees what the node has.
    """
    env = {}
    if part.memory_mb:
        env["DISTRIBUTE_MEMORY_MB"] = str(part.memory_mb)
    if part.gpus or part.hides:
        env["DISTRIBUTE_GPUS"] = str(len(part.gpus))
    if not part.hides:
        return env
    # A GPU that only the inventory knows may be of either kind.
    nvidia = [gpu for gpu in part.gpus if gpu.vendor != "amd"]
    amd = [gpu for gpu in part.gpus if gpu.vendor != "nvidia"]
    # An empty text hides every GPU: from CUDA, and from all that stands on ROCr.
    env |= {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order of nvidia-smi; CUDA's own is by speed
        "CUDA_VISIBLE_DEVICES": _names(nvidia),
        "NVIDIA_VISIBLE_DEVICES": _names(nvidia) or "void",  # of NVIDIA's container tools, which take no empty text
        "ROCR_VISIBLE_DEVICES": _names(amd),
    }
    if amd:
        # HIP counts what ROCr left it; without a word of its own it would read CUDA_VISIBLE_DEVICES.
        env["HIP_VISIBLE_DEVICES"] = ",".join(map(str, range(len(amd))))
    return env


def _names(gpus: Sequence[Gpu]) -> str:
    """By UUID, which stays the same when a card beside it dies; by number where one of them has none."""
    uuids = [gpu.uuid for gpu in gpus if gpu.uuid]
    return ",".join(uuids if len(uuids) == len(gpus) else (str(gpu.index) for gpu in gpus))
