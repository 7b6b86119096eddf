"""The folder that `run --local` leaves its results in: made, and removed only where it is ours and nobody needs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from distribute_ssh.errors import UsageError
from distribute_ssh.model.fileref import around, shown
from distribute_ssh.model.jobsfile import BatchSpec
from distribute_ssh.store.spool import references

ROOM = ".distribute-run"
"""Our folder in the one for the results: what nodes have in theirs."""

_ATTEMPTS = "attempts"


def make(folder: Path, spec: BatchSpec, jobs: Path, *, clean: bool) -> None:
    """Make the folder for the results of the jobs file `jobs`; `clean`: also where one of ours is there, which is
    removed with all in it.

    Raises UsageError where something else is there, it cannot be made, or it and what the jobs need lie in each other.
    """
    refs = references(spec)
    if outer := around(folder, refs):
        raise UsageError(
            f"the folder {shown(folder)} lies in {shown(outer.path)}, which the jobs get",
            hint="choose a --save-dir outside of it",
        )
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise UsageError(f"{shown(folder)} is there, and is no folder", hint="choose another --save-dir")
        if folder.exists():
            if not clean:
                raise UsageError(
                    f"the folder {shown(folder)} is there already",
                    hint="--clean-save removes it first, --save-dir names another",
                )
            _check_removable(folder, [Path.cwd(), jobs, *(ref.path for ref in refs)])
            remove(folder)
        (folder / ROOM).mkdir(mode=0o700, parents=True)
        (folder / ROOM / _ATTEMPTS).mkdir()
    except OSError as error:
        raise UsageError(f"the folder {shown(folder)} cannot be made: {error.strerror}") from error


def _check_removable(folder: Path, needed: Iterable[Path]) -> None:
    """Raise UsageError where it was not made here, or something that is still needed lies in it."""
    # By what lies in ours: who named a folder for results like it has one of that name, and his own files beside it.
    if not (folder / ROOM / _ATTEMPTS).is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"{shown(folder)} was not made by `distribute run --local`, so it is not removed",
            hint="choose another --save-dir",
        )
    for record in (folder / ROOM / _ATTEMPTS).glob("*/pid"):
        if (pid := _at_work(record)) is not None:
            raise UsageError(
                f"{shown(folder)} is not removed: a job runs in it, process {pid}",
                hint="wait for it, or choose another --save-dir",
            )
    here = os.path.realpath(folder)
    for path in needed:
        if Path(os.path.realpath(path)).is_relative_to(here):
            what = "you are in it" if path == Path.cwd() else f"{shown(path)}, which is needed, lies in it"
            raise UsageError(f"{shown(folder)} is not removed: {what}", hint="choose another --save-dir")


def _at_work(record: Path) -> str | None:
    """The process that the wrapper wrote down, if it still runs: of another terminal, or of a run that was killed."""
    try:
        pid, start, *_ = record.read_text().split()
        stat = Path("/proc", pid, "stat").read_text()
    except (OSError, ValueError):  # it has just ended, or never began
        return None
    return pid if stat.rpartition(")")[2].split()[19] == start else None


def remove(folder: Path) -> None:
    """Remove a folder with all in it, as far as it is ours. Raises OSError."""
    folder.chmod(0o700)
    for place, names, _ in os.walk(folder):
        for name in names:  # before it goes in there: a job may have taken its own rights away
            if not (path := Path(place, name)).is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder)
