"""The spool: the submitter's files by content, each kept once, whole and unchanged, for as long as they are needed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from distribute_ssh.errors import StoreError, UsageError
from distribute_ssh.model.job import Input, OnNodeLoss
from distribute_ssh.model.names import SWEEP_FILE
from distribute_ssh.model.resources import Resources
from distribute_ssh.store import tree

if TYPE_CHECKING:  # they bring the YAML reader along, which a coordinator has no use for
    from distribute_ssh.model.fileref import FileRef
    from distribute_ssh.model.jobsfile import BatchSpec, JobSpec
    from distribute_ssh.model.sweep import Value

_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)

# What no batch needs any more is wanted again next week: an image of 8 GB is not to be sent twice for that.
GRACE = 30 * 86_400.0

# Where room is short it goes sooner; but who has just been told that it is here may not have said so to the queue yet.
SHORT_GRACE = 3600.0
SHORT = 20 << 30  # bytes that are free then

# A laptop that was closed in the middle of sending comes back the next day.
UNCLAIMED = 2 * 86_400.0

Tick = Callable[[int], object]
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Blob:
    """Content in the spool: its name, its size in bytes, and the permission bits its file had."""

    sha256: str
    size: int
    mode: int


class Spool:
    """Content under `root`, each piece in a file that is named by its hash; made when it is first needed.

    Many processes may use it at once; one object of this class is for one thread.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pending: dict[str, Path] | None = None  # written, but not in its place yet; None: nothing is being added

    def path_of(self, sha256: str) -> Path:
        """Where that content lies, if it is here. Raises ValueError for what is no hash: it becomes a path."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no sha256")
        return self.root / sha256[:2] / sha256

    def add_file(self, path: Path, tick: Tick | None = None) -> Blob:
        """Keep the content of a file (links are followed); `tick` is told of bytes dealt with, each of them twice.

        Raises UsageError when it cannot be read, is no file or changes meanwhile; StoreError when we cannot write.
        """
        mode = 0

        def produce(sink: tree.Sink) -> None:
            nonlocal mode
            mode = pour_file(path, sink)

        sha256, size = self._add(produce, path, tick)
        return Blob(sha256, size, mode)

    def add_tree(self, path: Path, tick: Tick | None = None) -> Blob:
        """Keep a folder as one tar archive, the same for the same content; errors as of `add_file` and `tree.pack`."""
        sha256, size = self._add(lambda sink: tree.pack(os.fsencode(path), sink), path, tick)
        return Blob(sha256, size, 0o755)

    def add_bytes(self, data: bytes) -> Blob:
        """Keep what we made ourselves."""
        sha256, size = self._add(lambda sink: sink.write(data), self.root, None)
        return Blob(sha256, size, 0o644)

    def has(self, sha256: str) -> bool:
        """Whether that content is here; it stays for another hour at least. Raises ValueError for what is no hash."""
        return self._known(sha256)

    def adopt(self, path: Path, sha256: str) -> None:
        """Keep a file of this file system whose content is known to have that hash; it stays where it is as well."""
        with self.together():
            if self._known(sha256):
                return
            assert self._pending is not None, "we are inside together()"
            temporary = self.root / f"new-{os.urandom(8).hex()}"
            os.link(path, temporary)
            os.utime(temporary)
            self._pending[sha256] = temporary

    @contextmanager
    def together(self) -> Iterator[None]:
        """Add many at once: when the block ends all are in place and survive a power cut; when it fails, none is.

        One by one, a thousand small files would wait for the disk two thousand times.
        """
        if self._pending is not None:
            yield
            return
        pending: dict[str, Path] = {}
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock(fcntl.LOCK_SH):
                self._pending = pending
                yield
                self._commit(pending)
        except OSError as error:
            raise StoreError(f"the spool {str(self.root)!r} cannot be written: {error.strerror}") from error
        finally:
            self._pending = None
            for temporary in pending.values():
                temporary.unlink(missing_ok=True)

    def remove_unused(self, keep: set[str], now: float | None = None) -> int:
        """Remove content that was not asked for lately, but `keep`; return how many bytes that freed.

        "Lately" is 30 days, or an hour where room is short.
        It never waits for somebody who is adding: then nothing is removed this time.
        """
        if not self.root.is_dir():
            return 0
        freed = 0
        grace = SHORT_GRACE if shutil.disk_usage(self.root).free < SHORT else GRACE
        before = (time.time() if now is None else now) - grace
        try:
            with self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
                for file in [*self.root.glob("[0-9a-f][0-9a-f]/*"), *self.root.glob("new-*")]:
                    status = file.lstat()
                    if file.name not in keep and status.st_mtime < before:
                        file.unlink()
                        freed += status.st_size
                # What was sent to the gateway, and never became part of a batch.
                for file in self.root.glob("incoming/*/*"):
                    with contextlib.suppress(FileNotFoundError):
                        if file.lstat().st_mtime < before + grace - UNCLAIMED:
                            file.unlink()
        except BlockingIOError:
            return 0
        return freed

    def _add(self, produce: Callable[[_Sink], None], path: Path, tick: Tick | None) -> tuple[str, int]:
        """Read for the hash, and again to keep it if the content is new: what is known takes no writing and no room.

        Both readings must agree, which finds a file that somebody is still writing.
        """
        with self.together():
            first = _Sink(None, tick)
            produce(first)
            if self._known(first.sha256):
                if tick:
                    tick(first.size)
                return first.sha256, first.size
            fd, name = tempfile.mkstemp(prefix="new-", dir=self.root)
            temporary = Path(name)
            try:
                with open(fd, "wb") as file:
                    second = _Sink(file, tick)
                    produce(second)
                    file.flush()
                    os.fchmod(fd, 0o400)
                    # Writing to the disk begins now, so that waiting for it at the end is short.
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                if second.sha256 != first.sha256:
                    raise tree.changed(os.fsencode(path))
            except BaseException:
                temporary.unlink()
                raise
            assert self._pending is not None, "we are inside together()"
            self._pending[first.sha256] = temporary
            return first.sha256, first.size

    def _known(self, sha256: str) -> bool:
        if self._pending and sha256 in self._pending:
            return True
        try:
            os.utime(self.path_of(sha256))  # needed again: its hour begins anew
        except FileNotFoundError:
            return False
        return True

    def _commit(self, pending: dict[str, Path]) -> None:
        for temporary in pending.values():
            _sync(temporary)
        places = {sha256: self.path_of(sha256) for sha256 in pending}
        folders = {place.parent for place in places.values()}
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
        for sha256, place in places.items():
            pending[sha256].rename(place)
            del pending[sha256]
        for folder in (*folders, self.root):
            _sync(folder)

    @contextmanager
    def _lock(self, how: int) -> Iterator[None]:
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)


def pour_file(path: Path, sink: tree.Sink) -> int:
    """Read a file into a sink (links are followed); return its permission bits. Raises UsageError, as `add_file`."""
    with tree.reading(os.fsencode(path), follow=True) as (fd, status):
        while data := os.read(fd, _CHUNK):
            sink.write(data)
        return stat.S_IMODE(status.st_mode)


def pour(ref: FileRef, sink: tree.Sink) -> int:
    """Read a file, or a folder as the archive it becomes, into a sink; return its permission bits."""
    if not ref.is_dir:
        return pour_file(ref.path, sink)
    tree.pack(os.fsencode(ref.path), sink)
    return 0o755


def measure(ref: FileRef, tick: Tick | None = None) -> Input:
    """What a file or folder would be as an input; nothing is kept. Raises UsageError, as `Spool.add_file`."""
    sink = _Sink(None, tick)
    mode = pour(ref, sink)
    return _input(ref, Blob(sink.sha256, sink.size, mode))


class _Sink:
    """Where content flows to: into the hash, and into `file` if there is one."""

    def __init__(self, file: BinaryIO | None, tick: Tick | None) -> None:
        self._file = file
        self._tick = tick
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        if self._file is not None:
            try:
                self._file.write(data)
            except OSError as error:  # told apart from a failure to read, which is the submitter's to mend
                raise StoreError(f"the spool cannot be written: {error.strerror}") from error
        if self._tick is not None:
            self._tick(len(data))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------------------------------- staging


@dataclass(frozen=True, slots=True)
class StagedJob:
    """A job whose files are all in the spool. `input_hash` is of everything its result depends on."""

    name: str
    script: Input | None
    inputs: tuple[Input, ...]
    env: Mapping[str, str]
    time_limit: float | None  # seconds
    max_attempts: int
    on_node_loss: OnNodeLoss
    resources: Resources | None
    sweep: Mapping[str, Value] | None
    input_hash: str


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """A batch whose files are all in the spool. `build_hash` is of everything its build depends on."""

    script: Input
    init: tuple[Input, ...]
    env: Mapping[str, str]
    jobs: tuple[StagedJob, ...]
    build_hash: str


def stage(spec: BatchSpec, spool: Spool, progress: Progress | None = None) -> StagedBatch:
    """Bring every file of a batch into the spool, each path once; `progress` gets bytes done and bytes in all.

    Raises UsageError for a file that cannot be read or sent, StoreError when the spool cannot be written.
    """
    refs = references(spec)
    paths = {(ref.path, ref.is_dir): ref for ref in refs}
    total = sum(_size_of(ref) for ref in paths.values()) if progress else 0
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(min(done // 2, total), total)  # each byte is dealt with twice

    with spool.together():
        blobs = {
            key: spool.add_tree(ref.path, tick) if ref.is_dir else spool.add_file(ref.path, tick)
            for key, ref in paths.items()
        }
        staged = assemble(spec, spool, {ref: _input(ref, blobs[ref.path, ref.is_dir]) for ref in refs})
    if progress:
        progress(total, total)
    return staged


def references(spec: BatchSpec) -> list[FileRef]:
    """Every file and folder that a batch names, each once."""
    refs = dict.fromkeys([spec.script, *spec.required_files])
    for job in spec.jobs:
        refs.update(dict.fromkeys([*([job.file] if job.file else []), *job.required_files]))
    return list(refs)


def assemble(spec: BatchSpec, spool: Spool, inputs: Mapping[FileRef, Input]) -> StagedBatch:
    """Put together a batch whose files are in the spool already; what is ours to write is written there."""
    with spool.together():
        script = inputs[spec.script]
        init = tuple(inputs[ref] for ref in spec.required_files)
        build_hash = _digest(spec.kind, script.sha256, _facts(init), spec.required_mounts, sorted(spec.env.items()))
        jobs = tuple(_stage_job(job, spool, inputs, build_hash) for job in spec.jobs)
    return StagedBatch(script, init, spec.env, jobs, build_hash)


def _stage_job(job: JobSpec, spool: Spool, known: Mapping[FileRef, Input], build_hash: str) -> StagedJob:
    script = known[job.file] if job.file else None
    inputs = tuple(known[ref] for ref in job.required_files)
    if job.sweep is not None:
        text = json.dumps(job.sweep, ensure_ascii=False, sort_keys=True) + "\n"
        blob = spool.add_bytes(text.encode())
        inputs += (Input(alias=SWEEP_FILE, sha256=blob.sha256, size=blob.size),)
    return StagedJob(
        name=job.name,
        script=script,
        inputs=inputs,
        env=job.env,
        time_limit=job.time_limit,
        max_attempts=job.max_attempts,
        on_node_loss=job.on_node_loss,
        resources=job.resources,
        sweep=job.sweep,
        input_hash=_digest(build_hash, script.sha256 if script else None, _facts(inputs), sorted(job.env.items())),
    )


def _input(ref: FileRef, blob: Blob) -> Input:
    kind = "tree" if ref.is_dir else "file"
    executable = kind == "file" and bool(blob.mode & 0o111)
    return Input(alias=ref.alias, sha256=blob.sha256, size=blob.size, kind=kind, executable=executable)


def _facts(inputs: tuple[Input, ...]) -> list[tuple[str, str, str, bool]]:
    """What a job can see of its inputs; their order it cannot."""
    return sorted((each.alias, each.sha256, each.kind, each.executable) for each in inputs)


def _digest(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, ensure_ascii=True).encode()).hexdigest()


def _size_of(ref: FileRef) -> int:
    """About how many bytes there will be to read; it is for the progress shown, so nothing is raised."""
    try:
        return tree.packed_size(os.fsencode(ref.path)) if ref.is_dir else ref.path.stat().st_size
    except (OSError, UsageError):
        return 0  # reading it will say what is wrong
