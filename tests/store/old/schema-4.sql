BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'queue','m001_queue','2026-11-23 04:50:16.069629+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'queue','m002_activity','2026-11-23 04:50:16.070414+00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'queue','m003_outbox','2026-11-23 04:50:16.073829+00:00');
INSERT INTO "_sqlite_migrations" VALUES(4,'queue','m004_resources','2026-11-23 04:50:16.081960+00:00');
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
    paused_seconds REAL NOT NULL DEFAULT 0, share TEXT, resources TEXT,
    UNIQUE (job_id, number)
) STRICT;
INSERT INTO "attempts" VALUES(1,'10e18834-b11978b797c8662a',1,1,'10e18834-d3ee3314bf515c70',1,'n1',0,'wiped',NULL,1795000000.0,1795000000.0,1795000000.0,NULL,NULL,0.0,NULL,NULL);
INSERT INTO "attempts" VALUES(2,'10e18834-455a548aaf03a8e8',2,1,'10e18834-d3ee3314bf515c70',1,'n2',0,'placed',NULL,1795000000.0,NULL,NULL,NULL,NULL,0.0,NULL,NULL);
INSERT INTO "attempts" VALUES(3,'10e18834-fa30e1af2ad97926',3,1,'10e18834-d3ee3314bf515c70',1,'n3',0,'wiped',NULL,1795000000.0,1795000000.0,1795000000.0,NULL,NULL,0.0,NULL,NULL);
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
    recorded_at REAL, notify TEXT NOT NULL DEFAULT '[]', private INTEGER NOT NULL DEFAULT 0,                 -- when batch.json was last written to storage; NULL: it is due
    UNIQUE (namespace, batch)
) STRICT;
INSERT INTO "batches" VALUES(1,'10e18834-d3ee3314bf515c70','lab','study','ann',1795000000.0,'python','["gcc", "python3"]',NULL,'[["build.dat","44575cf5b28512d75644bf54a517dcef304ff809fd511747621b4d64f19aac66",5,"file",false]]','[["mesh.dat","d30ca7a7a32bf5772dc5eb2a2e7bd35737eff795ad74f2479b359716b59abdfa",4,"file",false]]','[]','build-1','{}','meta: {}
',NULL,NULL,NULL,'[]',0);
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
CREATE TABLE coordinator (            -- one row: this queue, and who drives it
    id INTEGER PRIMARY KEY CHECK (id = 1),
    queue TEXT NOT NULL,              -- first part of every token we give
    epoch INTEGER NOT NULL,
    host TEXT, boot_id TEXT, pid INTEGER, starttime INTEGER, since REAL
) STRICT;
INSERT INTO "coordinator" VALUES(1,'10e18834',0,NULL,NULL,NULL,NULL,NULL);
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
, node TEXT) STRICT;
INSERT INTO "history" VALUES(1,1795000000.0,'ann',1,NULL,NULL,NULL,NULL,NULL,'submitted: 4 jobs',NULL);
INSERT INTO "history" VALUES(2,1795000000.0,'distribute',1,1,'a',1,'queued','staging',NULL,NULL);
INSERT INTO "history" VALUES(3,1795000000.0,'distribute',1,1,'a',1,'staging','running',NULL,NULL);
INSERT INTO "history" VALUES(4,1795000000.0,'distribute',1,1,'a',1,'running','archiving',NULL,NULL);
INSERT INTO "history" VALUES(5,1795000000.0,'distribute',1,1,'a',1,'archiving','done',NULL,NULL);
INSERT INTO "history" VALUES(6,1795000000.0,'distribute',1,2,'b',1,'queued','staging',NULL,NULL);
INSERT INTO "history" VALUES(7,1795000000.0,'distribute',1,2,'b',1,'staging','running',NULL,NULL);
INSERT INTO "history" VALUES(8,1795000000.0,'distribute',1,3,'c',1,'queued','staging',NULL,NULL);
INSERT INTO "history" VALUES(9,1795000000.0,'distribute',1,3,'c',1,'staging','running',NULL,NULL);
INSERT INTO "history" VALUES(10,1795000000.0,'distribute',1,3,'c',1,'running','archiving',NULL,NULL);
INSERT INTO "history" VALUES(11,1795000000.0,'distribute',1,3,'c',1,'archiving','failed',NULL,NULL);
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
    successor TEXT, resources TEXT, slurm TEXT,                   -- JSON: what it becomes once its attempt is over; 'null': nothing, it goes
    UNIQUE (batch_id, name)
) STRICT;
INSERT INTO "jobs" VALUES(1,1,0,'a','done','a-1','[["run.dat","acba25512100f80b56fc3ccd14c65be55d94800cda77585c5f41a887e398f9be",3,"file",false]]','[["a1.dat","f55ff16f66f43360266b95db6f8fec01d76031054306ae4a4b380598f6cfd114",2,"file",false]]','{}',NULL,1,'reschedule',NULL,NULL,NULL,1,0,0,'n1',NULL,1795000000.0,1795000000.0,0.0,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(2,1,1,'b','running','b-1','[["run.dat","acba25512100f80b56fc3ccd14c65be55d94800cda77585c5f41a887e398f9be",3,"file",false]]','[["b1.dat","7dc96f776c8423e57a2785489a3f9c43fb6e756876d6ad9a9cac4aa4e72ec193",2,"file",false]]','{}',NULL,1,'reschedule',NULL,NULL,NULL,1,0,0,'n2',NULL,1795000000.0,NULL,0.0,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(3,1,2,'c','failed','c-1','[["run.dat","acba25512100f80b56fc3ccd14c65be55d94800cda77585c5f41a887e398f9be",3,"file",false]]','[["c1.dat","d0f631ca1ddba8db3bcfcb9e057cdc98d0379f1bee00e75a545147a27dadd982",2,"file",false]]','{}',NULL,1,'reschedule',NULL,NULL,NULL,1,0,0,'n3',NULL,1795000000.0,1795000000.0,0.0,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(4,1,3,'d','queued','d-1','[["run.dat","acba25512100f80b56fc3ccd14c65be55d94800cda77585c5f41a887e398f9be",3,"file",false]]','[["d1.dat","8b53639f152c8fc6ef30802fde462ba0be9cf085f7580dc69efd72e002abbb35",2,"file",false]]','{}',NULL,1,'reschedule',NULL,NULL,NULL,0,0,0,NULL,NULL,NULL,NULL,0.0,NULL,'{"cores":2,"gpus":1}',NULL);
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
, activity TEXT) STRICT;
INSERT INTO "nodes" VALUES('n1','{"cores": 8}',NULL,1.0,NULL,NULL,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL);
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
CREATE TABLE tally (
    batch_id INTEGER NOT NULL,
    state TEXT NOT NULL,
    resources TEXT NOT NULL,
    count INTEGER NOT NULL,
    seconds REAL NOT NULL,
    squares REAL NOT NULL,
    PRIMARY KEY (batch_id, state, resources)
) STRICT, WITHOUT ROWID;
INSERT INTO "tally" VALUES(1,'archiving','',0,0.0,0.0);
INSERT INTO "tally" VALUES(1,'done','',1,0.0,0.0);
INSERT INTO "tally" VALUES(1,'failed','',1,0.0,0.0);
INSERT INTO "tally" VALUES(1,'queued','',0,0.0,0.0);
INSERT INTO "tally" VALUES(1,'queued','{"cores":2,"gpus":1}',1,0.0,0.0);
INSERT INTO "tally" VALUES(1,'running','',1,0.0,0.0);
INSERT INTO "tally" VALUES(1,'staging','',0,0.0,0.0);
CREATE TABLE usage (
    submitter TEXT PRIMARY KEY,
    seconds REAL NOT NULL,            -- decayed up to `at`
    at REAL NOT NULL
) STRICT;
INSERT INTO "usage" VALUES('ann',60.0,1.0);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX jobs_active ON jobs (batch_id)
    WHERE state IN ('staging', 'building', 'running', 'paused', 'archiving');
CREATE INDEX attempts_live ON attempts (node) WHERE state <> 'wiped';
CREATE UNIQUE INDEX attempts_slot ON attempts (node, slot) WHERE state IN ('placed', 'starting', 'running');
CREATE INDEX builds_batch ON builds (batch_id);
CREATE INDEX builds_there ON builds (node) WHERE state <> 'wiped';
CREATE UNIQUE INDEX builds_live ON builds (node, batch_id) WHERE state NOT IN ('stale', 'wiped');
CREATE INDEX history_batch ON history (batch_id);
CREATE INDEX history_job ON history (job_id);
CREATE INDEX outbox_waiting ON outbox (next_at) WHERE state = 'waiting';
CREATE INDEX jobs_ready ON jobs (batch_id, resources, position) WHERE state = 'queued' AND request IS NULL;
CREATE INDEX jobs_later ON jobs (batch_id, resources, not_before) WHERE state = 'queued' AND not_before > 0;
CREATE INDEX attempts_batch ON attempts (batch_id, resources);
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
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('batches',1);
INSERT INTO "sqlite_sequence" VALUES('jobs',4);
INSERT INTO "sqlite_sequence" VALUES('attempts',3);
COMMIT;
PRAGMA application_id = 1684632436;
PRAGMA user_version = 4;
