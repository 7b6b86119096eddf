"""The tables of the queue, one migration per schema version; the only module that needs sqlite-utils.

A migration that was released is never edited: old queues must load for ever. Each runs in the transaction that
`schema.open_database` holds, so its statements must be such as may run in one (no VACUUM, no PRAGMA journal_mode).
"""

from __future__ import annotations

import secrets

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

queue_migrations = Migrations("queue")


@queue_migrations()
def m001_queue(db: Database) -> None:
    """The first tables, their indexes, and the tally with its triggers."""
    for statements in (_TABLES, _INDEXES, _TALLY):
        db.executescript(statements)
    db.execute("INSERT INTO coordinator (id, queue, epoch) VALUES (1, ?, 0)", [secrets.token_hex(4)])


@queue_migrations()
def m002_activity(db: Database) -> None:
    """What was seen of the owners of nodes."""
    db.execute("ALTER TABLE nodes ADD COLUMN activity TEXT")  # JSON


@queue_migrations()
def m003_outbox(db: Database) -> None:
    """Whom to tell of a batch's end, and what is still to be told; whose results are nobody else's."""
    db.execute("ALTER TABLE batches ADD COLUMN notify TEXT NOT NULL DEFAULT '[]'")  # JSON: names of channels
    db.execute("ALTER TABLE history ADD COLUMN node TEXT")  # of what was done to a node, not to a job
    db.execute("ALTER TABLE batches ADD COLUMN private INTEGER NOT NULL DEFAULT 0")
    db.executescript(_OUTBOX)


@queue_migrations()
def m004_resources(db: Database) -> None:
    """What jobs ask of a node and what attempts were given of it; jobs are counted, and found, by what they ask for."""
    db.execute("ALTER TABLE jobs ADD COLUMN resources TEXT")  # JSON; NULL: a whole slot
    db.execute("ALTER TABLE jobs ADD COLUMN slurm TEXT")  # JSON: what Slurm is told
    db.execute("ALTER TABLE attempts ADD COLUMN share TEXT")  # JSON; NULL: a whole slot
    db.execute("ALTER TABLE attempts ADD COLUMN resources TEXT")  # what its job asked for when it was placed
    # A successor is a definition, and those have two columns more now.
    db.execute(
        "UPDATE jobs SET successor = json_insert(json_insert(successor, '$[#]', NULL), '$[#]', NULL)"
        " WHERE successor <> 'null'"
    )
    db.executescript(_GROUPS)


# AUTOINCREMENT: a number that history or an attempt still mentions is never given to something else.
_TABLES = """
CREATE TABLE coordinator (            -- one row: this queue, and who drives it
    id INTEGER PRIMARY KEY CHECK (id = 1),
    queue TEXT NOT NULL,              -- first part of every token we give
    epoch INTEGER NOT NULL,
    host TEXT, boot_id TEXT, pid INTEGER, starttime INTEGER, since REAL
) STRICT;

CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL COLLATE NOCASE,
    batch TEXT NOT NULL COLLATE NOCASE,
    submitter TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    kind TEXT NOT NULL,
    capabilities TEXT NOT NULL,       -- JSON
    matrix TEXT,
    script TEXT NOT NULL,             -- JSON, as all inputs
    init TEXT NOT NULL,
    mounts TEXT NOT NULL,
    build_hash TEXT NOT NULL,
    env TEXT NOT NULL,                -- JSON, of the build
    source TEXT NOT NULL,             -- the jobs file as submitted
    finished_at REAL,
    moved_from TEXT,                  -- its folder in storage still has this name
    recorded_at REAL,                 -- when batch.json was last written to storage; NULL: it is due
    UNIQUE (namespace, batch)
) STRICT;

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    batch_id INTEGER NOT NULL REFERENCES batches (id),
    position INTEGER NOT NULL,
    name TEXT NOT NULL COLLATE NOCASE,
    state TEXT NOT NULL,
    input_hash TEXT NOT NULL,
    script TEXT,
    inputs TEXT NOT NULL,
    env TEXT NOT NULL,
    time_limit REAL,
    max_attempts INTEGER NOT NULL,
    on_node_loss TEXT NOT NULL,
    request TEXT,
    requested_by TEXT,
    reason TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    node TEXT,
    exit_code INTEGER,
    started_at REAL,
    finished_at REAL,
    not_before REAL NOT NULL DEFAULT 0,
    successor TEXT,                   -- JSON: what it becomes once its attempt is over; 'null': nothing, it goes
    UNIQUE (batch_id, name)
) STRICT;

CREATE TABLE attempts (               -- outlive their job: a node may still hold something of one that was dropped
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    job_id INTEGER NOT NULL,
    batch_id INTEGER NOT NULL REFERENCES batches (id),
    batch_token TEXT NOT NULL,        -- of the folder it runs in; the batch's own may have changed since
    number INTEGER NOT NULL,
    node TEXT NOT NULL,
    slot INTEGER NOT NULL,
    state TEXT NOT NULL,
    boot_id TEXT,
    placed_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    exit TEXT,
    ending TEXT,
    paused_seconds REAL NOT NULL DEFAULT 0,
    UNIQUE (job_id, number)
) STRICT;

CREATE TABLE builds (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    batch_id INTEGER NOT NULL REFERENCES batches (id),
    batch_token TEXT NOT NULL,
    node TEXT NOT NULL,
    build_hash TEXT NOT NULL,
    state TEXT NOT NULL,
    boot_id TEXT,
    started_at REAL,
    ended_at REAL,
    exit TEXT,
    reason TEXT,
    log_kept INTEGER NOT NULL DEFAULT 0  -- what it printed is in storage
) STRICT;

CREATE TABLE nodes (
    name TEXT PRIMARY KEY,
    facts TEXT NOT NULL DEFAULT '{}', -- JSON: what the probe found
    boot_id TEXT,
    last_seen REAL,
    unreachable_since REAL,
    unreachable_reason TEXT,
    drained TEXT,                     -- why; NULL: it is not
    drained_until REAL,               -- NULL: until somebody says so
    probation_until REAL,
    failures TEXT NOT NULL DEFAULT '[]',
    request TEXT,                     -- JSON: a pause or a resume that was asked for and is not so yet
    lease TEXT,                       -- JSON: the pause that stood there when it was last asked
    entry TEXT                        -- JSON: what the inventory said of it; one that left it may still hold jobs
) STRICT;

CREATE TABLE history (                -- refers to jobs by number and by name: it outlives them
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    who TEXT NOT NULL,
    batch_id INTEGER,                 -- NULL: of what belonged to no batch we know
    job_id INTEGER,                   -- NULL: of the batch as a whole
    job TEXT,
    attempt INTEGER,
    "from" TEXT,
    "to" TEXT,
    reason TEXT
) STRICT;

CREATE TABLE usage (
    submitter TEXT PRIMARY KEY,
    seconds REAL NOT NULL,            -- decayed up to `at`
    at REAL NOT NULL
) STRICT;
"""

# Partial ones stay as small as what they speak of: a hundred thousand ended jobs cost the scheduler nothing.
_INDEXES = """
CREATE INDEX jobs_ready ON jobs (batch_id, position) WHERE state = 'queued' AND request IS NULL;
CREATE INDEX jobs_later ON jobs (batch_id, not_before) WHERE state = 'queued' AND not_before > 0;
CREATE INDEX jobs_active ON jobs (batch_id)
    WHERE state IN ('staging', 'building', 'running', 'paused', 'archiving');
CREATE INDEX jobs_requested ON jobs (batch_id) WHERE request IS NOT NULL;
CREATE INDEX attempts_live ON attempts (node) WHERE state <> 'wiped';
CREATE INDEX attempts_batch ON attempts (batch_id);
CREATE UNIQUE INDEX attempts_slot ON attempts (node, slot) WHERE state IN ('placed', 'starting', 'running');
CREATE INDEX builds_batch ON builds (batch_id);
CREATE INDEX builds_there ON builds (node) WHERE state <> 'wiped';
CREATE UNIQUE INDEX builds_live ON builds (node, batch_id) WHERE state NOT IN ('stale', 'wiped');
CREATE INDEX history_batch ON history (batch_id);
CREATE INDEX history_job ON history (job_id);
"""

# Its key names a message to those who take it, so that a second try is not a second message. A number would not do: a
# queue that was brought back from storage has the name of the lost one, and begins with 1 again.
_OUTBOX = """
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    at REAL NOT NULL,                 -- when the batch ended
    notice TEXT NOT NULL,             -- JSON: how it ended
    recipient TEXT,                   -- NULL: not addressed yet
    state TEXT NOT NULL DEFAULT 'waiting',
    tries INTEGER NOT NULL DEFAULT 0,
    since REAL,                       -- of the first try
    next_at REAL NOT NULL,
    trouble TEXT,                     -- what came of the last try
    ended_at REAL                     -- when it was sent or given up
) STRICT;
CREATE INDEX outbox_waiting ON outbox (next_at) WHERE state = 'waiting';
"""

# `status` of a hundred thousand jobs reads these few rows. Run times are summed per state as well, so that the ETA
# needs no pass over the jobs either.
_TALLY = """
CREATE TABLE tally (
    batch_id INTEGER NOT NULL,
    state TEXT NOT NULL,
    count INTEGER NOT NULL,
    seconds REAL NOT NULL,
    squares REAL NOT NULL,
    PRIMARY KEY (batch_id, state)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER tally_insert AFTER INSERT ON jobs BEGIN
    INSERT INTO tally VALUES (new.batch_id, new.state, 1,
        coalesce(new.finished_at - new.started_at, 0.0),
        coalesce((new.finished_at - new.started_at) * (new.finished_at - new.started_at), 0.0))
    ON CONFLICT DO UPDATE SET count = count + 1, seconds = seconds + excluded.seconds,
        squares = squares + excluded.squares;
END;

CREATE TRIGGER tally_delete AFTER DELETE ON jobs BEGIN
    UPDATE tally SET count = count - 1,
        seconds = seconds - coalesce(old.finished_at - old.started_at, 0.0),
        squares = squares
            - coalesce((old.finished_at - old.started_at) * (old.finished_at - old.started_at), 0.0)
    WHERE batch_id = old.batch_id AND state = old.state;
END;

CREATE TRIGGER tally_update AFTER UPDATE OF batch_id, state, started_at, finished_at ON jobs BEGIN
    UPDATE tally SET count = count - 1,
        seconds = seconds - coalesce(old.finished_at - old.started_at, 0.0),
        squares = squares
            - coalesce((old.finished_at - old.started_at) * (old.finished_at - old.started_at), 0.0)
    WHERE batch_id = old.batch_id AND state = old.state;
    INSERT INTO tally VALUES (new.batch_id, new.state, 1,
        coalesce(new.finished_at - new.started_at, 0.0),
        coalesce((new.finished_at - new.started_at) * (new.finished_at - new.started_at), 0.0))
    ON CONFLICT DO UPDATE SET count = count + 1, seconds = seconds + excluded.seconds,
        squares = squares + excluded.squares;
END;
"""

# The same again, with what jobs ask for as a part of the key ('': a whole slot). Nothing asks for jobs_requested.
_GROUPS = """
DROP TRIGGER tally_insert;
DROP TRIGGER tally_delete;
DROP TRIGGER tally_update;
DROP TABLE tally;
DROP INDEX jobs_requested;
DROP INDEX jobs_ready;
DROP INDEX jobs_later;
DROP INDEX attempts_batch;
CREATE INDEX jobs_ready ON jobs (batch_id, resources, position) WHERE state = 'queued' AND request IS NULL;
CREATE INDEX jobs_later ON jobs (batch_id, resources, not_before) WHERE state = 'queued' AND not_before > 0;
CREATE INDEX attempts_batch ON attempts (batch_id, resources);

CREATE TABLE tally (
    batch_id INTEGER NOT NULL,
    state TEXT NOT NULL,
    resources TEXT NOT NULL,
    count INTEGER NOT NULL,
    seconds REAL NOT NULL,
    squares REAL NOT NULL,
    PRIMARY KEY (batch_id, state, resources)
) STRICT, WITHOUT ROWID;

INSERT INTO tally SELECT batch_id, state, '', count(*), total(finished_at - started_at),
    total((finished_at - started_at) * (finished_at - started_at)) FROM jobs GROUP BY batch_id, state;

CREATE TRIGGER tally_insert AFTER INSERT ON jobs BEGIN
    INSERT INTO tally VALUES (new.batch_id, new.state, coalesce(new.resources, ''), 1,
        coalesce(new.finished_at - new.started_at, 0.0),
        coalesce((new.finished_at - new.started_at) * (new.finished_at - new.started_at), 0.0))
    ON CONFLICT DO UPDATE SET count = count + 1, seconds = seconds + excluded.seconds,
        squares = squares + excluded.squares;
END;

CREATE TRIGGER tally_delete AFTER DELETE ON jobs BEGIN
    UPDATE tally SET count = count - 1,
        seconds = seconds - coalesce(old.finished_at - old.started_at, 0.0),
        squares = squares
            - coalesce((old.finished_at - old.started_at) * (old.finished_at - old.started_at), 0.0)
    WHERE batch_id = old.batch_id AND state = old.state AND resources = coalesce(old.resources, '');
END;

CREATE TRIGGER tally_update AFTER UPDATE OF batch_id, state, resources, started_at, finished_at ON jobs BEGIN
    UPDATE tally SET count = count - 1,
        seconds = seconds - coalesce(old.finished_at - old.started_at, 0.0),
        squares = squares
            - coalesce((old.finished_at - old.started_at) * (old.finished_at - old.started_at), 0.0)
    WHERE batch_id = old.batch_id AND state = old.state AND resources = coalesce(old.resources, '');
    INSERT INTO tally VALUES (new.batch_id, new.state, coalesce(new.resources, ''), 1,
        coalesce(new.finished_at - new.started_at, 0.0),
        coalesce((new.finished_at - new.started_at) * (new.finished_at - new.started_at), 0.0))
    ON CONFLICT DO UPDATE SET count = count + 1, seconds = seconds + excluded.seconds,
        squares = squares + excluded.squares;
END;
"""
