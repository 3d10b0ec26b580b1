-- Notices, in SQLite. The same tables as in ../postgres/0005_notices.sql, column for column.

-- What recipients are told: one message each, written with the outcome of the batch that it is about. `sealed` says
-- whom, and `job` under which name the recipient knows it, until the recipient has done it; `commitment` is the root over keyed commitments to it, which stays. Of two
-- notices to one recipient in the same `lane` the earlier one goes first. `next_at` is when it is told, or asked,
-- next; without one it waits for others.
CREATE TABLE notice (
    seq        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    recipient  TEXT NOT NULL,
    rule       TEXT NOT NULL,
    run_id     TEXT NOT NULL REFERENCES run (id),
    batch_id   TEXT NOT NULL REFERENCES batch (id),
    state      TEXT NOT NULL
               CHECK (state IN ('pending', 'sent', 'accepted', 'completed', 'denied', 'exempt', 'failed')),
    subjects   INTEGER NOT NULL CHECK (subjects > 0),
    lane       BLOB NOT NULL,
    sealed     BLOB,
    commitment BLOB NOT NULL CHECK (length(commitment) = 32),
    created_at TEXT NOT NULL,
    due_at     TEXT NOT NULL,
    next_at    TEXT,
    attempts   INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    sent_at    TEXT,
    ended_at   TEXT,
    overdue    INTEGER NOT NULL DEFAULT 0 CHECK (overdue IN (0, 1)),
    job        BLOB,
    reason     BLOB,
    error      TEXT
) STRICT;
CREATE INDEX notice_pending ON notice (recipient, lane, seq) WHERE state = 'pending';
CREATE INDEX notice_queue ON notice (recipient, seq) WHERE state = 'pending';
CREATE INDEX notice_put_off ON notice (recipient, next_at) WHERE state = 'pending' AND attempts > 0;
CREATE INDEX notice_told ON notice (recipient, state, next_at)
    WHERE state IN ('sent', 'accepted', 'denied', 'failed');
CREATE INDEX notice_due ON notice (due_at)
    WHERE overdue = 0 AND state IN ('pending', 'sent', 'accepted', 'denied', 'failed');
CREATE INDEX notice_by_run ON notice (run_id, recipient, state);

-- How each recipient does. `stopped_at` is since when it wants to be told nothing any more.
CREATE TABLE recipient (
    recipient     TEXT NOT NULL PRIMARY KEY,
    completed     INTEGER NOT NULL DEFAULT 0 CHECK (completed >= 0),
    answered_at   TEXT,
    failing_since TEXT,
    stopped_at    TEXT,
    error         TEXT
) STRICT;

-- Receipts that were heeded lately, so that one which comes again is known.
CREATE TABLE receipt (
    recipient   TEXT NOT NULL,
    id          TEXT NOT NULL,
    received_at TEXT NOT NULL,
    PRIMARY KEY (recipient, id)
) STRICT;
CREATE INDEX receipt_by_time ON receipt (received_at);

-- Receipts that were not heeded, and how many of them the audit log has not been told.
CREATE TABLE refused_receipt (
    recipient TEXT NOT NULL,
    reason    TEXT NOT NULL,
    untold    INTEGER NOT NULL CHECK (untold >= 0),
    told_at   TEXT NOT NULL,
    PRIMARY KEY (recipient, reason)
) STRICT;
