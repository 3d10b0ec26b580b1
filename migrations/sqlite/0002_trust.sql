-- Approvals and legal holds, in SQLite. The same tables as in ../postgres/0002_trust.sql.

-- Runs that stand still before their first record until somebody approves them. Of one rule there is
-- one at most that is waiting or approved; it becomes a run under the same id.
CREATE TABLE approval (
    run_id      TEXT NOT NULL PRIMARY KEY,
    request_id  TEXT NOT NULL REFERENCES request (id),
    rule        TEXT NOT NULL,
    rule_digest TEXT NOT NULL,
    store       TEXT NOT NULL,
    table_name  TEXT NOT NULL,
    due         INTEGER NOT NULL CHECK (due >= 0),
    total       INTEGER NOT NULL CHECK (total >= 0),
    reason      TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'approved', 'used', 'withdrawn')),
    asked_at    TEXT NOT NULL,
    decided_at  TEXT,
    decided_by  TEXT,
    why         TEXT,
    CHECK ((state IN ('waiting', 'withdrawn')) OR decided_at IS NOT NULL)
) STRICT;
CREATE UNIQUE INDEX approval_open ON approval (rule) WHERE state IN ('waiting', 'approved');

-- Which saved plan a run carried out, and what expunged saw when it looked again.
ALTER TABLE run ADD COLUMN plan TEXT;
ALTER TABLE run ADD COLUMN verification TEXT;

-- Legal holds. `sealed` holds the subjects, the predicate, the date range and what the order says of
-- itself; `hold_act` holds each act: placing, extending, releasing. `epoch` is the one at which it came
-- into force, so that what is new since an epoch can be read alone.
CREATE TABLE hold (
    id         TEXT NOT NULL PRIMARY KEY,
    scope      TEXT NOT NULL CHECK (scope IN ('subjects', 'rule', 'table', 'store')),
    store      TEXT,
    rule       TEXT,
    table_name TEXT,
    broad      INTEGER NOT NULL CHECK (broad IN (0, 1)),
    sealed     BLOB NOT NULL,
    epoch      INTEGER NOT NULL CHECK (epoch >= 1),
    placed_at  TEXT NOT NULL,
    until      TEXT NOT NULL,
    ended_at   TEXT
) STRICT;
CREATE INDEX hold_in_force ON hold (epoch) WHERE ended_at IS NULL;

CREATE TABLE hold_act (
    id      TEXT NOT NULL PRIMARY KEY,
    hold_id TEXT NOT NULL REFERENCES hold (id),
    act     TEXT NOT NULL CHECK (act IN ('place', 'extend', 'release')),
    at      TEXT NOT NULL,
    by_whom TEXT NOT NULL,
    until   TEXT,
    sealed  BLOB NOT NULL
) STRICT;
CREATE INDEX hold_act_by_hold ON hold_act (hold_id, at);

-- Raised whenever more is held. An intent names the epoch at which its exclusions were read, and is
-- refused when that is over.
CREATE TABLE hold_epoch (
    id    INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL CHECK (epoch >= 0)
) STRICT;
INSERT INTO hold_epoch (id, epoch) VALUES (1, 0);
ALTER TABLE batch ADD COLUMN hold_epoch INTEGER NOT NULL DEFAULT 0;

-- Checkpoints of the audit log that stay: where its signing key was changed, signed by both keys.
CREATE TABLE audit_checkpoint (
    size       INTEGER NOT NULL PRIMARY KEY CHECK (size > 0),
    checkpoint TEXT NOT NULL
) STRICT;
