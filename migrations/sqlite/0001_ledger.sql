-- The ledger, in SQLite. The same tables as in ../postgres/0001_ledger.sql, column for column.
--
-- Times are RFC 3339 text in UTC with six digits of a second, so that they sort as text; ids are
-- UUIDs as text. Nothing but INTEGER, TEXT and BLOB occurs: one SQL text then serves both databases.

-- What expunged knows of each rule beyond its configuration.
CREATE TABLE rule_state (
    rule       TEXT NOT NULL PRIMARY KEY,
    digest     TEXT NOT NULL,
    mode       TEXT NOT NULL CHECK (mode IN ('observe', 'enforce')),
    schedule   TEXT NOT NULL,
    first_seen TEXT NOT NULL,
    last_slot  TEXT,
    armed_at   TEXT
) STRICT;

-- Wishes for a run: whatever wakes a rule leaves one here. A slot is claimed once by being inserted.
CREATE TABLE request (
    id         TEXT NOT NULL PRIMARY KEY,
    rule       TEXT NOT NULL,
    cause      TEXT NOT NULL CHECK (cause IN ('slot', 'command', 'continuous', 'restart')),
    slot       TEXT,
    state      TEXT NOT NULL CHECK (state IN ('pending', 'claimed', 'done', 'abandoned')),
    created_at TEXT NOT NULL,
    closed_at  TEXT,
    note       TEXT,
    UNIQUE (rule, slot)
) STRICT;
CREATE INDEX request_open ON request (created_at) WHERE state IN ('pending', 'claimed');

-- One execution of one rule.
CREATE TABLE run (
    id          TEXT NOT NULL PRIMARY KEY,
    request_id  TEXT NOT NULL REFERENCES request (id),
    rule        TEXT NOT NULL,
    rule_digest TEXT NOT NULL,
    store       TEXT NOT NULL,
    table_name  TEXT NOT NULL,
    action      TEXT NOT NULL CHECK (action IN ('delete', 'anonymize')),
    mode        TEXT NOT NULL CHECK (mode IN ('observe', 'enforce')),
    cutoff      TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('running', 'done', 'stopped', 'failed', 'observed')),
    records     INTEGER NOT NULL DEFAULT 0 CHECK (records >= 0),
    remaining   INTEGER CHECK (remaining >= 0),
    started_at  TEXT NOT NULL,
    finished_at TEXT,
    error       TEXT
) STRICT;
CREATE INDEX run_by_request ON run (request_id);
CREATE INDEX run_by_rule ON run (rule, started_at);
CREATE INDEX run_open ON run (started_at) WHERE state = 'running';

-- One bounded, atomic step of a run. `transaction_id` is the target's, where it can be asked later
-- what became of it; `intent` holds the sealed keys until the batch is settled; `commitments` are
-- the leaves of the tree whose root the audit entry names.
CREATE TABLE batch (
    id             TEXT NOT NULL PRIMARY KEY,
    run_id         TEXT NOT NULL REFERENCES run (id),
    seq            INTEGER NOT NULL CHECK (seq >= 0),
    state          TEXT NOT NULL CHECK (state IN ('intended', 'done', 'undone')),
    records        INTEGER NOT NULL CHECK (records >= 0),
    transaction_id TEXT,
    intent         BLOB,
    commitments    BLOB,
    intended_at    TEXT NOT NULL,
    settled_at     TEXT,
    UNIQUE (run_id, seq),
    CHECK ((state = 'intended') = (settled_at IS NULL)),
    CHECK (state = 'intended' OR intent IS NULL)
) STRICT;
CREATE INDEX batch_open ON batch (intended_at) WHERE state = 'intended';

-- The audit log. `entry` is the leaf of the Merkle tree; the columns before it repeat what it says,
-- to be looked up.
CREATE TABLE audit_entry (
    position  INTEGER NOT NULL PRIMARY KEY CHECK (position >= 0),
    at        TEXT NOT NULL,
    kind      TEXT NOT NULL,
    rule      TEXT,
    store     TEXT,
    run_id    TEXT,
    entry     TEXT NOT NULL,
    leaf_hash BLOB NOT NULL CHECK (length(leaf_hash) = 32)
) STRICT;
CREATE INDEX audit_entry_by_time ON audit_entry (at);
CREATE INDEX audit_entry_by_kind ON audit_entry (kind, position);
CREATE INDEX audit_entry_by_rule ON audit_entry (rule, position) WHERE rule IS NOT NULL;

-- A fence against mistakes. Against intent there is the signed checkpoint.
CREATE TRIGGER audit_entry_keeps BEFORE UPDATE ON audit_entry
BEGIN
    SELECT RAISE(ABORT, 'the audit log only grows: its entries are never changed');
END;
CREATE TRIGGER audit_entry_stays BEFORE DELETE ON audit_entry
BEGIN
    SELECT RAISE(ABORT, 'the audit log only grows: its entries are never removed');
END;

-- How far the audit log has come, and the signed statement of that.
CREATE TABLE audit_head (
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    size       INTEGER NOT NULL CHECK (size >= 0),
    frontier   BLOB NOT NULL,
    checkpoint TEXT NOT NULL
) STRICT;
