"""Calls as files: a function and its arguments by cloudpickle, each content once; and what came back of them."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from distribute_ssh.api import onnode
from distribute_ssh.api.batch import File
from distribute_ssh.errors import UsageError

if TYPE_CHECKING:
    from distribute_ssh.api.outcome import JobStatus

BIG = 16 << 10  # bytes from which on an argument is a file of its own, so that it travels once

SCRIPTS = Path(onnode.__file__).parent
RESULT = "result.pickle"


class RemoteTraceback(Exception):  # noqa: N818  # it is not raised, but shown as the cause
    """The traceback of an error as it was on the node."""

    def __init__(self, job: str, text: str) -> None:
        super().__init__(job, text)
        self._told = f"on the node, in the job {job}:\n\n{text}"

    def __str__(self) -> str:
        return self._told


class Packer:
    """Writes calls into a folder. Raises UsageError where there is no cloudpickle."""

    def __init__(self, folder: Path, modules: Sequence[ModuleType]) -> None:
        self.folder = folder
        self._pickle = cloudpickle()
        self._modules = modules
        (folder / "python").write_text(f"{sys.version_info[0]}.{sys.version_info[1]}\n", encoding="ascii")
        # What reads functions there. Its sources alone: a node has bytecode of its own.
        library = folder / "cloudpickle"
        library.mkdir()
        for source in sorted(Path(self._pickle.__file__ or "").parent.glob("*.py")):
            shutil.copyfile(source, library / source.name)

    @property
    def common(self) -> tuple[File, ...]:
        """The files that every call needs."""
        return (self.folder / "python", self.folder / "cloudpickle")

    def function(self, function: Callable[..., Any]) -> Path:
        """Write a function. Raises TypeError where it cannot be sent."""
        return self._kept(self._dumped(function, f"the function {_name(function)!r}"))

    def call(self, function: Path, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[File, ...]:
        """Write a call; returns its files, with their names on the node. Raises TypeError for what cannot be sent."""
        files: dict[str, Path] = {}

        def packed(value: Any, what: str) -> tuple[bytes | None, str]:
            data = self._dumped(value, what)
            if len(data) < BIG:
                return data, ""
            path = self._kept(data)
            files[path.name] = path
            return None, path.name

        positions = [packed(value, f"argument {number}") for number, value in enumerate(arguments, 1)]
        names = {key: packed(value, f"argument {key!r}") for key, value in keywords.items()}
        call = self._kept(pickle.dumps((positions, names)))
        big = ((path, name) for name, path in files.items())
        return ((function, "function.pickle"), (call, "call.pickle"), *big)

    def _kept(self, data: bytes) -> Path:
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}.pickle"
        if not path.exists():
            path.write_bytes(data)
        return path

    def _dumped(self, value: Any, what: str) -> bytes:
        try:
            with self._by_value():
                data: bytes = self._pickle.dumps(value)
        except Exception as error:  # whatever somebody's __reduce__ raises
            kind = f" (a {type(value).__name__})" if "argument" in what else ""
            raise TypeError(f"{what}{kind} cannot be sent to a node: {error}") from error
        return data

    @contextmanager
    def _by_value(self) -> Iterator[None]:
        """Write functions of these modules whole, and not as names that a node would have to know."""
        known = self._pickle.list_registry_pickle_by_value()
        ours = [module for module in self._modules if module.__name__ not in known]
        for module in ours:
            self._pickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in ours:
                self._pickle.unregister_pickle_by_value(module)


def cloudpickle() -> Any:
    """The library that writes functions. Raises UsageError where it is not installed."""
    try:
        import cloudpickle as found
    except ImportError:
        hint = 'pip install "distribute-ssh[executor]"'
        raise UsageError("an Executor needs the package cloudpickle, which is not installed", hint=hint) from None
    return found


def opened(path: Path, job: JobStatus) -> tuple[Any, BaseException | None]:
    """What a call came to: its value, or its error. Runs what the file says: it must be of a job of our own."""
    try:
        is_value, value, text = pickle.loads(path.read_bytes())
    except BaseException as unknown:  # its classes may not be known here; SystemExit would end the engine for everybody
        return None, unknown
    if is_value:
        return value, None
    error = value if isinstance(value, BaseException) else RuntimeError(text.strip().splitlines()[-1])
    error.__cause__ = RemoteTraceback(job.name, text)
    return None, error


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__
