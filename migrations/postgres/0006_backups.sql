-- Backups, in PostgreSQL. The same tables as in ../sqlite/0006_backups.sql, column for column.

-- Sets of backups. `stores` is a JSON list of the stores that it covers, `standing` is what its listings have proven, as
-- JSON; `clear_before` repeats of it the moment before which deletions are clear, to be looked up. `doubt` is why the
-- last listing proves nothing, `doubt_kind` the same in the words of the audit log, and `doubted_since` since when that
-- is so. A set that is no longer configured stays, with what is owed to it, until somebody forgets it; then it covers
-- nothing.
CREATE TABLE backup_set (
    backup        TEXT NOT NULL PRIMARY KEY,
    stores        TEXT NOT NULL,
    declared      BIGINT NOT NULL CHECK (declared IN (0, 1)),
    configured    BIGINT NOT NULL CHECK (configured IN (0, 1)),
    added_at      TEXT NOT NULL,
    tried_at      TEXT,
    listed_at     TEXT,
    clear_before  TEXT,
    standing      TEXT NOT NULL,
    doubt         TEXT,
    doubt_kind    TEXT,
    doubted_since TEXT,
    stalled_since TEXT,
    forgotten_at  TEXT,
    forgotten_by  TEXT,
    forgotten_why TEXT
);

-- What could come back from a backup: the keys of records that a batch took, sealed, by store, until no backup can bring
-- them back. Deletions that events brought about are `by_event`: their records were taken whatever their age.
CREATE TABLE tombstone (
    seq        BIGSERIAL NOT NULL PRIMARY KEY,
    batch_id   TEXT NOT NULL REFERENCES batch (id),
    run_id     TEXT NOT NULL REFERENCES run (id),
    rule       TEXT NOT NULL,
    store      TEXT NOT NULL,
    table_name TEXT NOT NULL,
    attached   BIGINT NOT NULL CHECK (attached IN (0, 1)),
    by_event   BIGINT NOT NULL CHECK (by_event IN (0, 1)),
    records    BIGINT NOT NULL CHECK (records > 0),
    gone_at    TEXT NOT NULL,
    sealed     BYTEA NOT NULL
);
CREATE INDEX tombstone_by_store ON tombstone (store, gone_at);

-- Stores that seem to have been restored: their rules do not run until somebody has replayed, or said that all is well.
CREATE TABLE frozen_store (
    store       TEXT NOT NULL PRIMARY KEY,
    noticed_at  TEXT NOT NULL,
    evidence    TEXT NOT NULL,
    restored_to TEXT
);

-- By what a store is known to be the one it was: the identity and the timeline of its server, and the marker that was
-- last written into it. `pending` is the marker that is about to be written. What was deleted before `released_at` is no
-- reason to freeze the store when it is there: somebody has said so, and `release` is why, sealed.
CREATE TABLE store_identity (
    store       TEXT NOT NULL PRIMARY KEY,
    server      TEXT,
    timeline    BIGINT,
    marker      BIGINT,
    marked_at   TEXT,
    pending     BIGINT,
    seen_at     TEXT NOT NULL,
    released_at TEXT,
    release     BYTEA
);
