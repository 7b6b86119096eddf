"""`distribute`: a lab's workstations as one compute pool, over nothing but ssh.

A Python program uses it as `import distribute_ssh as d`; what there is stands in docs/python.md. Each name is imported
when it is used: the command line, which imports this too, must start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distribute_ssh.api import aio as aio
    from distribute_ssh.api.batch import ApptainerBatch as ApptainerBatch
    from distribute_ssh.api.batch import Batch as Batch
    from distribute_ssh.api.batch import PythonBatch as PythonBatch
    from distribute_ssh.api.batch import Resources as Resources
    from distribute_ssh.api.batch import apptainer_batch as apptainer_batch
    from distribute_ssh.api.batch import python_batch as python_batch
    from distribute_ssh.api.batch import read as read
    from distribute_ssh.api.batch import write as write
    from distribute_ssh.api.executor import Executor as Executor
    from distribute_ssh.api.handle import Handle as Handle
    from distribute_ssh.api.handle import find as find
    from distribute_ssh.api.handle import submit as submit
    from distribute_ssh.api.outcome import JobStatus as JobStatus
    from distribute_ssh.api.outcome import Outcome as Outcome
    from distribute_ssh.api.outcome import Pulled as Pulled
    from distribute_ssh.errors import DistributeError as DistributeError
    from distribute_ssh.errors import FileError as FileError
    from distribute_ssh.errors import JobError as JobError
    from distribute_ssh.model.slurm import Slurm as Slurm

__version__ = "0.1.0"

_HOMES = {
    "api": ("aio",),
    "api.batch": (
        *("ApptainerBatch", "Batch", "PythonBatch", "Resources"),
        *("apptainer_batch", "python_batch", "read", "write"),
    ),
    "api.executor": ("Executor",),
    "api.handle": ("Handle", "find", "submit"),
    "api.outcome": ("JobStatus", "Outcome", "Pulled"),
    "errors": ("DistributeError", "FileError", "JobError"),
    "model.slurm": ("Slurm",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604  # names of the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name == "aio":
        return importlib.import_module(f"{__name__}.api.aio")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
