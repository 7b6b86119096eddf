"""Opening the queue's database: who may, on what disk, with which pragmas, at which schema; errors said for people."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from distribute_ssh.errors import StoreError
from distribute_ssh.store import filesystem

SCHEMA = 4
"""How many migrations there are. Kept here so that a database that is current opens without sqlite-utils (100 ms)."""

APPLICATION = 0x64697374
"""SQLite's application id of our databases: another program's is never migrated."""

KEPT = 2
"""How many copies are kept of what migrations found."""

BUSY_TIMEOUT = 30.0
"""Seconds to wait for another process's transaction; ours take milliseconds, a submission of 100,000 jobs seconds."""


def journal_mode(version: tuple[int, ...]) -> str:
    """The journal for this SQLite library.

    Up to 3.51.2 a WAL can be reset while another process still writes to it, which damages the database; a rollback
    journal that is truncated costs half the commits per second, still far more than jobs are started.
    """
    return "wal" if version >= (3, 51, 3) else "truncate"


def open_database(path: Path, *, check: bool = False) -> sqlite3.Connection:
    """A connection to the queue at `path`, made or brought to the present schema first where needed.

    `check` reads the whole file for damage. Autocommit is on: whoever writes says BEGIN IMMEDIATE. The connection may
    be used from another thread than this one, but only from one at a time. Raises StoreError.
    """
    filesystem.require_local(path.parent)
    _make_private(path)
    with plain_errors(path):
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            _set_journal(connection, path)
            connection.execute("PRAGMA synchronous = FULL")
            if _version(connection, path) < SCHEMA:
                _migrate(connection, path)
            # Only now: a migration may have to rebuild a table others refer to.
            connection.execute("PRAGMA foreign_keys = ON")
            if check:
                _check(connection)
        except BaseException:
            connection.close()
            raise
    return connection


_RESTORE = "Put a backup in its place, or have it made anew from what storage tells: distribute recover."

_PLAIN = {
    sqlite3.SQLITE_FULL: ("the disk is full", "Make room there; nothing was changed, and work goes on by itself."),
    sqlite3.SQLITE_BUSY: (f"another process kept it locked for {BUSY_TIMEOUT:.0f} s", "Try again."),
    sqlite3.SQLITE_CORRUPT: ("it is damaged", _RESTORE),
    sqlite3.SQLITE_NOTADB: ("it is not a database", _RESTORE),
    sqlite3.SQLITE_READONLY: ("it cannot be written", "Check owner and mode of the file and its folder."),
    sqlite3.SQLITE_PERM: ("we have no right to it", "Check owner and mode of the file and its folder."),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "Check owner and mode of the file and its folder."),
    sqlite3.SQLITE_IOERR: ("the disk gave an error", "Look at the disk (dmesg) before anything else."),
}


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's troubles with its surroundings into StoreError; a wrong statement stays what it is: our bug."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        told = None if code is None else _PLAIN.get(code & 0xFF)
        if told is None:
            raise
        raise StoreError(f"the queue {path} cannot be used: {told[0]}", hint=told[1]) from error


def is_full(error: BaseException) -> bool:
    """Whether this StoreError says that the disk is full."""
    return getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def is_busy(error: BaseException) -> bool:
    """Whether this StoreError says that another process kept the database locked."""
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def is_damaged(error: BaseException) -> bool:
    """Whether this StoreError says that what lies there can be read no more as a database."""
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _check(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        # Some damage SQLite raises, some it tells: one error for both.
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _make_private(path: Path) -> None:
    """Make folder (0700) and file (0600) if missing; refuse those that belong to somebody else or let others write."""
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # O_EXCL: opening a database that exists beside SQLite, and closing it, would drop SQLite's locks on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        place, file = folder.stat(), path.lstat()
    except OSError as error:
        raise StoreError(f"the queue {path} cannot be made: {error.strerror}", hint="Set DISTRIBUTE_HOME.") from error
    if not stat.S_ISREG(file.st_mode):
        raise StoreError(f"the queue {path} is not a regular file", hint="Move it away, or set DISTRIBUTE_HOME.")
    if file.st_uid != os.geteuid():
        raise StoreError(
            f"the queue {path} belongs to user id {file.st_uid}, and only its owner may open it",
            hint="Run distribute as that user, or set DISTRIBUTE_HOME.",
        )
    if place.st_mode & 0o022:
        raise StoreError(
            f"others may write in {folder}, and so could put another queue there",
            hint=f"chmod go-w {folder}",
        )
    if file.st_mode & 0o077:
        path.chmod(0o600)


def _set_journal(connection: sqlite3.Connection, path: Path) -> None:
    wanted = journal_mode(sqlite3.sqlite_version_info)
    try:
        (got,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
    except sqlite3.OperationalError:
        # Somebody else has it open, and changing to or from WAL needs it alone. What it is in stays.
        (got,) = connection.execute("PRAGMA journal_mode").fetchone()
    if got == "wal" and wanted != "wal":
        raise StoreError(
            f"the queue {path} is in use by a program with a newer SQLite than ours ({sqlite3.sqlite_version})",
            hint="Use the same Python for every distribute command on this machine, or stop the other one first.",
        )


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version; 0: an empty file. Raises StoreError if it is another program's, or of a newer one of ours."""
    # One statement: a first start elsewhere must not commit between two of ours.
    version, application, used = connection.execute(
        "SELECT user_version, application_id, EXISTS (SELECT 1 FROM sqlite_master)"
        " FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if used and application != APPLICATION:
        raise StoreError(f"{path} is a database of another program", hint="Move it away, or set DISTRIBUTE_HOME.")
    if version > SCHEMA:
        raise StoreError(
            f"the queue {path} was written by a newer distribute (schema {version}; this one knows {SCHEMA})",
            hint="Install the newer version again; an older one must not touch this queue.",
        )
    return int(version)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the database to SCHEMA, whole or not at all, after keeping a copy of it."""
    from sqlite_utils import Database

    from distribute_ssh.store.migrations import queue_migrations

    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: of several first starts one migrates, the others find it done.
        version = _version(connection, path)
        if version < SCHEMA:
            if version > 0:
                copy(path, path.with_name(f"{path.name}.before-{SCHEMA}"))
            queue_migrations.apply(Database(connection, recursive_triggers=False, execute_plugins=False))
            if broken := connection.execute("PRAGMA foreign_key_check").fetchone():
                raise StoreError(f"the queue {path} cannot be migrated: {broken[0]} refers to what is not there")
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    for old in _copies(path)[:-KEPT]:
        old.unlink(missing_ok=True)


def _copies(path: Path) -> list[Path]:
    """The copies that migrations left, oldest first."""
    prefix = f"{path.name}.before-"
    numbers = (each.name.removeprefix(prefix) for each in path.parent.glob(f"{prefix}*"))
    return [path.with_name(prefix + number) for number in sorted(filter(str.isdigit, numbers), key=int)]


def copy(path: Path, target: Path) -> None:
    """A whole copy of the database as it is at one moment, whoever works on it: beside first, durable, then in place.

    What is at `target` is replaced. Raises OSError, sqlite3.Error.
    """
    # By a connection of its own: a migration holds the write lock meanwhile, and nobody can slip a row in between.
    fresh = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    fd = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)) as reader:
            reader.execute("VACUUM INTO ?", [str(fresh)])
        os.fsync(fd)
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    folder = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
