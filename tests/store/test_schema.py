from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from distribute_ssh.errors import StoreError
from distribute_ssh.model.job import State
from distribute_ssh.model.layout import is_token
from distribute_ssh.model.resources import Resources
from distribute_ssh.store import schema
from distribute_ssh.store.migrations import queue_migrations
from distribute_ssh.store.queue import Queue
from tests.store.makes import brought, new_job, submitted

RACERS = 4


def raw(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, isolation_level=None))


def run(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_the_number_of_the_schema_counts_the_migrations() -> None:
    assert len(queue_migrations._migrations) == schema.SCHEMA


@pytest.mark.parametrize(
    ("version", "mode"),
    [((3, 40, 1), "truncate"), ((3, 51, 2), "truncate"), ((3, 51, 3), "wal"), ((3, 52, 0), "wal"), ((4, 0), "wal")],
)
def test_wal_is_used_only_by_libraries_that_cannot_damage_it(version: tuple[int, ...], mode: str) -> None:
    assert schema.journal_mode(version) == mode


def test_the_pragmas_are_what_durability_needs(path: Path) -> None:
    with closing(schema.open_database(path)) as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas]
    assert found == [schema.journal_mode(sqlite3.sqlite_version_info), 2, 1, 30_000]


def test_file_and_folder_are_for_the_owner_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        Queue.open(path).close()
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()} == {0o600}
    path.chmod(0o644)
    Queue.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_others_may_write_is_refused(path: Path) -> None:
    Queue.open(path).close()
    path.parent.chmod(0o770)
    with pytest.raises(StoreError, match=r"(?s)others may write.*chmod go-w"):
        Queue.open(path)


@pytest.mark.root
def test_the_queue_of_another_user_is_refused_also_by_root(path: Path) -> None:
    Queue.open(path).close()
    os.chown(path, 65534, 65534)
    with pytest.raises(StoreError, match="user id 65534"):
        Queue.open(path)


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Queue.open(path).close()
    with raw(path) as connection:
        connection.execute(f"PRAGMA user_version = {schema.SCHEMA + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"schema {schema.SCHEMA + 1}; this one knows {schema.SCHEMA}"):
        Queue.open(path)
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with raw(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreError, match="another program"):
        Queue.open(path)
    with raw(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("not a database, but long enough to be looked at as one " * 20)
    with pytest.raises(StoreError, match="not a database"):
        Queue.open(path)


def test_a_link_or_a_folder_in_the_place_of_the_file_is_refused(path: Path) -> None:
    Queue.open(path).close()
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    with pytest.raises(StoreError, match="regular file"):
        Queue.open(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="regular file"):
        Queue.open(path)


def test_damage_is_found_when_the_coordinator_opens(path: Path) -> None:
    with closing(Queue.open(path)) as queue:
        submitted(queue, *[f"job{number}" for number in range(300)])
        page = queue._connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs_ready'").fetchone()[0]
    Queue.open(path, check=True).close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096 + 8)
        file.write(b"\xff" * 64)
    with pytest.raises(StoreError, match="damaged"):
        Queue.open(path, check=True)


def test_an_up_to_date_queue_opens_without_the_heavy_packages(path: Path) -> None:
    Queue.open(path).close()
    code = (
        "import sys; from pathlib import Path; from distribute_ssh.store.queue import Queue;"
        "queue = Queue.open(Path(sys.argv[1])); queue.status(); queue.close();"
        "print(sorted({'sqlite_utils', 'click', 'yaml', 'pydantic', 'asyncssh', 'rich'} & sys.modules.keys()))"
    )
    with run(code, path) as process:
        assert process.communicate()[0] == b"[]\n"


def test_every_queue_has_its_own_id_for_ever_and_gives_legal_tokens(tmp_path: Path) -> None:
    ids = set()
    for name in ("a", "b"):
        for _ in range(2):
            with closing(Queue.open(tmp_path / name / "queue.db")) as queue:
                ids.add(queue.id)
                token = queue.new_token()
                assert token.startswith(f"{queue.id}-")
                assert is_token(token)
                assert token != queue.new_token()
    assert len(ids) == 2
    assert all(len(each) == 8 and set(each) <= set("0123456789abcdef") for each in ids)


FIRST_OPEN = """
import sys
from pathlib import Path
import sqlite_utils
from distribute_ssh.store.queue import Queue
print("ready", flush=True)
sys.stdin.read()
queue = Queue.open(Path(sys.argv[1]))
print(queue.id)
queue.close()
"""


def race(code: str, path: Path) -> list[bytes]:
    """What racers say that were let go at the same moment."""
    racers = [run(code, path) for _ in range(RACERS)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
    said = []
    for racer in racers:
        assert racer.stdout is not None
        said.append(racer.stdout.read())
        racer.stdout.close()
        assert racer.wait() == 0
    return said


@pytest.mark.parametrize("turn", range(6))
def test_first_starts_that_race_make_one_queue(path: Path, turn: int) -> None:
    assert len(set(race(FIRST_OPEN, path))) == 1
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM _sqlite_migrations").fetchone() == (schema.SCHEMA,)
        assert connection.execute("SELECT count(*) FROM coordinator").fetchone() == (1,)
    assert not list(path.parent.glob("*.before-*"))


SECOND_MIGRATION = """
from distribute_ssh.store import migrations, schema
@migrations.queue_migrations()
def m999_test(db):
    db.execute("ALTER TABLE nodes ADD COLUMN color TEXT")
schema.SCHEMA += 1
"""


@pytest.mark.parametrize("turn", range(4))
def test_migrations_that_race_run_once_and_leave_a_whole_copy_of_before(path: Path, turn: int) -> None:
    with closing(Queue.open(path)) as queue:
        batch_id = submitted(queue, "a", "b").batch_id
    assert len(set(race(SECOND_MIGRATION + FIRST_OPEN, path))) == 1
    copies = list(path.parent.glob("*.before-*"))
    assert [copy.name for copy in copies] == [f"queue.db.before-{schema.SCHEMA + 1}"]
    assert copies[0].stat().st_mode & 0o777 == 0o600
    with raw(path) as connection:
        assert connection.execute("SELECT count(color) FROM nodes").fetchone() == (0,)
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA + 1,)
    # The copy is a queue of the old schema again.
    with closing(Queue.open(copies[0])) as old:
        assert [job.name for job in old.jobs(batch_id)] == ["a", "b"]


def test_the_copies_of_the_last_two_migrations_are_kept(path: Path) -> None:
    Queue.open(path).close()
    for earlier in (schema.SCHEMA - 1, schema.SCHEMA):
        path.with_name(f"queue.db.before-{earlier}").touch()
    path.with_name("queue.db.before-holidays").touch()
    with run(SECOND_MIGRATION + FIRST_OPEN, path) as process:
        process.communicate(b"")
    kept = sorted(each.name.removeprefix("queue.db.before-") for each in path.parent.glob("queue.db.before-*"))
    assert kept == sorted([str(schema.SCHEMA), str(schema.SCHEMA + 1), "holidays"]), (
        "and what is not ours is left alone"
    )
    assert path.with_name(f"queue.db.before-{schema.SCHEMA + 1}").stat().st_size > 0


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    with closing(Queue.open(path)) as queue:
        batch_id = submitted(queue, "a").batch_id
    code = (
        SECOND_MIGRATION.replace("db.execute(", "db.execute('DROP TABLE usage'); db.execute(").replace(
            "nodes", "missing"
        )
        + FIRST_OPEN
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert b"no such table: missing" in process.communicate()[1]
    with closing(Queue.open(path)) as queue:
        assert [job.name for job in queue.jobs(batch_id)] == ["a"]
        assert queue.usage(0.0) == {}


OLD = Path(__file__).parent / "old"


@pytest.mark.parametrize("dump", sorted(OLD.glob("schema-*.sql")), ids=lambda dump: dump.stem)
def test_queues_of_every_schema_that_was_released_still_load(path: Path, dump: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with raw(path) as connection:
        connection.executescript(dump.read_text())
    with closing(Queue.open(path, check=True)) as queue:
        batch = queue.batch("lab/study")
        assert batch is not None
        jobs = queue.jobs(batch.id)
        assert {job.state for job in jobs} == {State.DONE, State.RUNNING, State.QUEUED, State.FAILED}
        assert queue.status("lab/study")["batches"][0]["counts"] == {"done": 1, "failed": 1, "queued": 1, "running": 1}
        assert len(queue.live_attempts()) == 1
        assert submitted(queue, *[job.name for job in jobs], "new", replace=True, now=2e9).new == 1


def test_what_waited_for_an_attempt_to_end_before_there_were_resources_still_follows_it(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with raw(path) as connection:
        connection.executescript((OLD / "schema-3.sql").read_text())
        connection.execute(
            "UPDATE jobs SET request = 'kill', successor = json_array(position, name, 'other', script, inputs, env,"
            " time_limit, max_attempts, on_node_loss) WHERE state = 'running'"
        )
    with closing(Queue.open(path)) as queue:
        (runs,) = queue.active_jobs()
        with queue.transaction() as change:
            assert change.job(runs.id, State.RUNNING, State.QUEUED, 2e9)
        job = queue.job_by_id(runs.id)
        assert job is not None
        assert (job.state, job.input_hash, job.inputs, job.resources) == (State.QUEUED, "other", runs.inputs, None)


def test_there_is_an_old_queue_of_every_schema() -> None:
    assert [dump.stem for dump in sorted(OLD.glob("*.sql"))] == [f"schema-{n + 1}" for n in range(schema.SCHEMA)]


def dump_of_now(folder: Path) -> str:
    """How the files in `old/` are made: run once, when a schema is released."""
    shutil.rmtree(folder, ignore_errors=True)
    with closing(Queue.open(folder / "queue.db")) as queue:
        batch_id = submitted(queue, "a", "b", "c", new_job("d", resources=Resources(2, gpus=1))).batch_id
        for job, state in zip(queue.jobs(batch_id), (State.DONE, State.RUNNING, State.FAILED), strict=False):
            brought(queue, job.id, state)
        with queue.transaction() as change:
            change.node("n1", facts={"cores": 8}, last_seen=1.0)
            change.add_usage("ann", 60.0, 1.0)
        pragmas = [
            f"PRAGMA {name} = {value};"
            for name, value in (("application_id", schema.APPLICATION), ("user_version", schema.SCHEMA))
        ]
        return "\n".join([*queue._connection.iterdump(), *pragmas]) + "\n"
