"""What a job asks of a node for itself, and what it was given of one."""

from __future__ import annotations

from dataclasses import dataclass

from distribute_ssh.model.units import format_size


@dataclass(frozen=True, slots=True, order=True)
class Resources:
    """What one job asks for. A job that asks for nothing gets a whole slot, which is the machine unless it has more."""

    cores: int = 1
    memory_mb: int = 0  # 0: it does not say
    gpus: int = 0
    gpu_memory_mb: int = 0  # that each of its GPUs must have
    disk_mb: int = 0  # free in the node's scratch

    @property
    def words(self) -> str:
        """`4 cores, 16 GiB of memory, 1 GPU with 24 GiB`."""
        said = [_count(self.cores, "core")]
        if self.memory_mb:
            said.append(f"{format_size(self.memory_mb << 20)} of memory")
        if self.gpus:
            size = f" with {format_size(self.gpu_memory_mb << 20)}" if self.gpu_memory_mb else ""
            said.append(_count(self.gpus, "GPU") + size)
        if self.disk_mb:
            said.append(f"{format_size(self.disk_mb << 20)} of scratch")
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class Share:
    """What an attempt was given of its node; nobody else gets it meanwhile."""

    cores: int
    memory_mb: int = 0
    gpus: tuple[int, ...] = ()  # by their numbers on the node
    disk_mb: int = 0

    @property
    def words(self) -> str:
        """`4 cores, 16 GiB of memory, GPU 1 and 2`."""
        said = Resources(self.cores, self.memory_mb).words
        return said + (f", GPU {' and '.join(map(str, self.gpus))}" if self.gpus else "")


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
