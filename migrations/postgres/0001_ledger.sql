-- The ledger, in PostgreSQL. The same tables as in ../sqlite/0001_ledger.sql, column for column.
--
-- Times are RFC 3339 text in UTC with six digits of a second, so that they sort as text; ids are
-- UUIDs as text. Nothing but BIGINT, TEXT and BYTEA occurs: one SQL text then serves both databases.

-- What expunged knows of each rule beyond its configuration.
CREATE TABLE rule_state (
    rule       TEXT NOT NULL PRIMARY KEY,
    digest     TEXT NOT NULL,
    mode       TEXT NOT NULL CHECK (mode IN ('observe', 'enforce')),
    schedule   TEXT NOT NULL,
    first_seen TEXT NOT NULL,
    last_slot  TEXT,
    armed_at   TEXT
);

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
);
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
    records     BIGINT NOT NULL DEFAULT 0 CHECK (records >= 0),
    remaining   BIGINT CHECK (remaining >= 0),
    started_at  TEXT NOT NULL,
    finished_at TEXT,
    error       TEXT
);
CREATE INDEX run_by_request ON run (request_id);
CREATE INDEX run_by_rule ON run (rule, started_at);
CREATE INDEX run_open ON run (started_at) WHERE state = 'running';

-- One bounded, atomic step of a run. `transaction_id` is the target's, where it can be asked later
-- what became of it; `intent` holds the sealed keys until the batch is settled; `commitments` are
-- the leaves of the tree whose root the audit entry names.
CREATE TABLE batch (
    id             TEXT NOT NULL PRIMARY KEY,
    run_id         TEXT NOT NULL REFERENCES run (id),
    seq            BIGINT NOT NULL CHECK (seq >= 0),
    state          TEXT NOT NULL CHECK (state IN ('intended', 'done', 'undone')),
    records        BIGINT NOT NULL CHECK (records >= 0),
    transaction_id TEXT,
    intent         BYTEA,
    commitments    BYTEA,
    intended_at    TEXT NOT NULL,
    settled_at     TEXT,
    UNIQUE (run_id, seq),
    CHECK ((state = 'intended') = (settled_at IS NULL)),
    CHECK (state = 'intended' OR intent IS NULL)
);
CREATE INDEX batch_open ON batch (intended_at) WHERE state = 'intended';

-- The audit log. `entry` is the leaf of the Merkle tree; the columns before it repeat what it says,
-- to be looked up.
CREATE TABLE audit_entry (
    position  BIGINT NOT NULL PRIMARY KEY CHECK (position >= 0),
    at        TEXT NOT NULL,
    kind      TEXT NOT NULL,
    rule      TEXT,
    store     TEXT,
    run_id    TEXT,
    entry     TEXT NOT NULL,
    leaf_hash BYTEA NOT NULL CHECK (length(leaf_hash) = 32)
);
CREATE INDEX audit_entry_by_time ON audit_entry (at);
CREATE INDEX audit_entry_by_kind ON audit_entry (kind, position);
CREATE INDEX audit_entry_by_rule ON audit_entry (rule, position) WHERE rule IS NOT NULL;

-- A fence against mistakes. Against intent there is the signed checkpoint.
CREATE FUNCTION audit_entry_fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log only grows: its entries are never changed or removed';
END
$$;
CREATE TRIGGER audit_entry_keeps BEFORE UPDATE OR DELETE ON audit_entry
    FOR EACH ROW EXECUTE FUNCTION audit_entry_fence();
CREATE TRIGGER audit_entry_stays BEFORE TRUNCATE ON audit_entry
    FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_fence();

-- How far the audit log has come, and the signed statement of that.
CREATE TABLE audit_head (
    id         BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    size       BIGINT NOT NULL CHECK (size >= 0),
    frontier   BYTEA NOT NULL,
    checkpoint TEXT NOT NULL
);
