"""The folder that goes to a Slurm cluster: what lies where in it, and bringing it to that, again and again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distribute_ssh import slurmscript
from distribute_ssh.errors import UsageError
from distribute_ssh.model import names
from distribute_ssh.model.fileref import FileRef, around, shown
from distribute_ssh.model.jobsfile import BatchSpec, JobSpec
from distribute_ssh.slurmscript import (
    BUILD,
    BUILD_SCRIPT,
    DOWNLOAD,
    IMAGE,
    INPUT,
    JOB_SCRIPT,
    SCHEDULE,
    UPLOAD,
    Choices,
)

MARKER = ".distribute-slurm.json"
"""Says that the folder is ours, of which batch, and what in it: nothing else is ever changed or removed."""

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Text:
    """A file that is ours to write."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class File:
    """A file of the person's, as it is now."""

    path: str
    source: Path
    image: bool = False  # large, and replaced as a whole when it changes: it need not be copied


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder, empty unless something else lies in it."""

    path: str


Entry = Text | File | Link | Folder


@dataclass(frozen=True, slots=True)
class Written:
    """What came of it, as numbers of files."""

    changed: int
    same: int
    removed: int


def _entries(spec: BatchSpec, choices: Choices) -> list[Entry]:
    """All that is to lie in the folder."""
    _check_names(spec, choices)
    key = build_key(spec) if spec.kind == "python" else ""
    found: list[Entry] = [Folder(INPUT)]
    for ref in spec.required_files:
        found += _put(ref, INPUT)
    if spec.kind == "apptainer":
        found.append(File(IMAGE, spec.script.path, image=True))
    else:
        found += [
            File(f"{BUILD}/build.py", spec.script.path),
            Text(f"{BUILD}/{BUILD_SCRIPT}", slurmscript.build_script(spec, choices, key)),
        ]
    for position, job in enumerate(spec.jobs):
        found += _job(spec, job)
        found.append(Text(f"{job.name}/{JOB_SCRIPT}", slurmscript.job_script(spec, job, position, choices, key)))
    found.append(Text(SCHEDULE, slurmscript.schedule_script(spec, choices, key)))
    if choices.array:
        for output in dict.fromkeys(slurmscript.effective_slurm(spec, job).output for job in spec.jobs):
            found += _printing(output, ".")
        for each in slurmscript.arrays(spec):
            found += [Text(each.script, each.text), Text(each.names, "".join(f"{name}\n" for name in each.jobs))]
    if choices.cluster is not None:
        found.append(Text(UPLOAD, slurmscript.upload_script(spec, choices.cluster)))
        found.append(Text(DOWNLOAD, slurmscript.download_script(spec, choices.cluster)))
    return found


def build_key(spec: BatchSpec) -> str:
    """A short name for what a build is made of: another script, input or variable, and it is another build."""
    digest = hashlib.sha256(json.dumps(sorted(spec.env.items())).encode())
    for entry in [
        File("build.py", spec.script.path),
        *(each for ref in spec.required_files for each in _put(ref, ".")),
    ]:
        digest.update(repr((type(entry).__name__, entry.path)).encode())
        if isinstance(entry, File):
            with _readable(entry.source), entry.source.open("rb") as file:
                executable = os.fstat(file.fileno()).st_mode & 0o111 != 0
                digest.update(repr((executable, hashlib.file_digest(file, "sha256").digest())).encode())
        elif isinstance(entry, Link):
            digest.update(os.fsencode(entry.target))
    return digest.hexdigest()[:12]


def write(out: Path, spec: BatchSpec, choices: Choices) -> Written:
    """Bring the folder `out` to what a batch is now; results that jobs left there, and files of others, stay.

    Raises UsageError where it is not ours, of another batch, or among the inputs, where a job has a name of ours, and
    where something cannot be read or written.
    """
    refs = [*spec.required_files, *(ref for job in spec.jobs for ref in job.required_files)]
    if outer := around(out, dict.fromkeys(refs)):
        raise UsageError(
            f"{shown(out)} lies in {shown(outer.path)}, which the jobs get", hint="name a folder outside of it"
        )
    wanted = _entries(spec, choices)
    out = Path(os.path.realpath(out)) if out.is_symlink() else out  # results on another disk; links below are not ours
    batch = spec.name
    old = _take(out, batch)
    ours = _ours(wanted)
    try:
        # Before anything else: whatever is written from now on can be told as ours, wherever we are stopped.
        _mark(out, batch, old | ours)
        # From the deepest to the outermost.
        removed = sum(_remove(out, path) for path in sorted(old - ours, reverse=True))
        changed = sum(_bring(out, entry) for entry in wanted)
        _mark(out, batch, ours)
    except OSError as error:
        where = f" in {shown(Path(error.filename))}" if isinstance(error.filename, str) else ""
        raise UsageError(f"{shown(out)} cannot be written: {error.strerror}{where}") from None
    files = sum(not isinstance(entry, Folder) for entry in wanted)
    return Written(changed, files - changed, removed)


def _ours(wanted: list[Entry]) -> set[str]:
    """What is to be there, from the folder on; folders end in a slash."""
    found = set()
    for entry in wanted:
        found.add(f"{entry.path}/" if isinstance(entry, Folder) else entry.path)
        found.update(f"{folder}/" for folder in PurePosixPath(entry.path).parents[:-1])
    return found


def _check_names(spec: BatchSpec, choices: Choices) -> None:
    taken = {INPUT, IMAGE, BUILD, SCHEDULE, UPLOAD, DOWNLOAD}
    if choices.array:
        taken |= {name for each in slurmscript.arrays(spec) for name in (each.script, each.names)}
    for job in spec.jobs:
        if names.key(job.name) in taken:
            raise UsageError(f"the job {job.name!r} has a name of ours in that folder", hint="give it another name")


def _job(spec: BatchSpec, job: JobSpec) -> Iterator[Entry]:
    """What lies in the folder of one job, but for its script."""
    yield Folder(f"{job.name}/output")
    yield Folder(f"{job.name}/{INPUT}")
    own = {ref.alias for ref in job.required_files}
    for ref in job.required_files:
        yield from _put(ref, f"{job.name}/{INPUT}")
    if job.sweep is not None:
        values = json.dumps(job.sweep, ensure_ascii=False, sort_keys=True) + "\n"
        yield Text(f"{job.name}/{INPUT}/{names.SWEEP_FILE}", values)
        own.add(names.SWEEP_FILE)
    if job.file is not None:
        yield File(f"{job.name}/run.py", job.file.path)
    if spec.kind == "apptainer":
        for ref in spec.required_files:
            if ref.alias not in own:
                yield Link(f"{job.name}/{INPUT}/{ref.alias}", f"../../{INPUT}/{ref.alias}")
        for number in range(len(spec.required_mounts)):
            yield Folder(f"{job.name}/mnt_{number:02d}")
    yield from _printing(slurmscript.effective_slurm(spec, job).output, job.name)


def _printing(output: str | None, folder: str) -> Iterator[Entry]:
    """The folder a job prints into: Slurm makes none, and a job whose output has no place ends without a word."""
    place = PurePosixPath(output or "").parent
    if not place.is_absolute() and ".." not in place.parts and "%" not in str(place) and place != PurePosixPath("."):
        yield Folder(str(PurePosixPath(folder) / place))


def _put(ref: FileRef, folder: str) -> Iterator[Entry]:
    """A file under its name, or all that is in a folder."""
    top = f"{folder}/{ref.alias}"
    if not ref.is_dir:
        yield File(top, ref.path)
        return
    yield Folder(top)
    for path in sorted(ref.path.rglob("*")):
        here = f"{top}/{path.relative_to(ref.path).as_posix()}"
        with _readable(path):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                yield Link(here, os.readlink(path))
            elif stat.S_ISDIR(mode):
                yield Folder(here)
            elif stat.S_ISREG(mode):
                yield File(here, path)
            else:
                raise UsageError(f"{shown(path)} is a device, a pipe or a socket", hint="remove it from the folder")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{shown(path)} cannot be read: {error.strerror}") from None


# ---------------------------------------------------------------------------------------------------------- the folder


def _take(out: Path, batch: str) -> set[str]:
    """Make the folder, or find it to be ours; the files of ours in it."""
    try:
        out.mkdir()
    except FileNotFoundError:
        raise UsageError(f"there is no folder {shown(out.parent)} to make {out.name!r} in") from None
    except FileExistsError:
        pass
    except OSError as error:
        raise UsageError(f"the folder {shown(out)} cannot be made: {error.strerror}") from None
    else:
        return set()
    another = "name a folder that is not there yet"
    try:
        if not any(out.iterdir()):
            return set()
        record = json.loads((out / MARKER).read_text(encoding="utf-8"))
        owner, ours = record["batch"], {str(path) for path in record["ours"]}
    except NotADirectoryError:
        raise UsageError(f"{shown(out)} is no folder", hint=another) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{shown(out)} holds files that are not ours", hint=another) from None
    if owner != batch:
        raise UsageError(f"{shown(out)} is the folder of {owner}, not of {batch}", hint=another)
    return {path for path in ours if _is_inside(path)}


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _mark(out: Path, batch: str, ours: set[str]) -> None:
    record = {"schema": _SCHEMA, "batch": batch, "ours": sorted(ours)}
    _replace(out / MARKER, (json.dumps(record, indent=1) + "\n").encode("utf-8", "surrogateescape"))


def _remove(out: Path, path: str) -> bool:
    """Remove what was ours; whether it was a file. A folder that holds anything, as results, stays."""
    place = out / path
    if any((out / folder).is_symlink() for folder in PurePosixPath(path).parents):
        return False  # somebody put a link in the place of a folder: what lies behind it is not ours
    if path.endswith("/"):
        with contextlib.suppress(OSError):
            place.rmdir()
        return False
    try:
        place.unlink()
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def _bring(out: Path, entry: Entry) -> bool:
    """Put one thing in its place; whether a file had to be written."""
    place = out / entry.path
    if isinstance(entry, Folder):
        _make_folder(out, place)
        return False
    _make_folder(out, place.parent)
    if isinstance(entry, Text):
        data = entry.text.encode("utf-8", "surrogateescape")
        if not place.is_symlink() and place.is_file() and place.read_bytes() == data:
            return False
        _replace(place, data)
    elif isinstance(entry, Link):
        if place.is_symlink() and os.readlink(place) == entry.target:
            return False
        with _replaced(place) as beside:
            beside.symlink_to(entry.target)
    else:
        return _copy(entry, place)
    return True


def _make_folder(out: Path, folder: Path) -> None:
    for part in reversed((folder, *folder.parents)):
        # A link would lead elsewhere, and a file that stands there is not ours: ours are gone by now.
        if part.is_relative_to(out) and (part.is_symlink() or not part.is_dir()):
            part.mkdir()


def _copy(entry: File, place: Path) -> bool:
    with _readable(entry.source):
        source = entry.source.stat()
    if not stat.S_ISREG(source.st_mode):
        raise UsageError(f"{shown(entry.source)} is not a regular file")
    mode = 0o755 if source.st_mode & 0o111 else 0o644
    with contextlib.suppress(FileNotFoundError):
        there = place.lstat()
        same = (there.st_size, there.st_mtime_ns) == (source.st_size, source.st_mtime_ns)
        if stat.S_ISREG(there.st_mode) and same and (entry.image or stat.S_IMODE(there.st_mode) == mode):
            return False
    with _replaced(place) as beside:
        if not (entry.image and _linked(entry.source.resolve(), beside)):
            with _readable(entry.source):
                file = entry.source.open("rb")
            with file, beside.open("wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
            beside.chmod(mode)
            os.utime(beside, ns=(source.st_atime_ns, source.st_mtime_ns))
    return True


def _linked(source: Path, place: Path) -> bool:
    """Make a second name of a file; False where it lies on another disk."""
    try:
        place.hardlink_to(source)
    except OSError:
        return False
    return True


def _replace(place: Path, data: bytes) -> None:
    with _replaced(place) as beside:
        beside.write_bytes(data)


@contextlib.contextmanager
def _replaced(place: Path) -> Iterator[Path]:
    """A name to write to; what is there in the end takes the place: never through a link, never half."""
    beside = place.with_name(f".part-{os.urandom(6).hex()}")
    try:
        yield beside
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)  # also because a rename between two names of one file does nothing
