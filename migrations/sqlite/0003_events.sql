-- Events, in SQLite. The same tables as in ../postgres/0003_events.sql, column for column.

-- What applications say has happened, once for each rule that listens, until the rule has worked it off:
-- then its row is removed. `sealed` holds its values. One that could not be opened is `unreadable`, and
-- out of the way of others until the daemon starts anew.
CREATE TABLE event (
    id          TEXT NOT NULL,
    rule        TEXT NOT NULL,
    name        TEXT NOT NULL,
    sealed      BLOB NOT NULL,
    received_at TEXT NOT NULL,
    unreadable  INTEGER NOT NULL DEFAULT 0 CHECK (unreadable IN (0, 1)),
    PRIMARY KEY (id, rule)
) STRICT;
CREATE INDEX event_pending ON event (rule, received_at, id) WHERE unreadable = 0;

-- The causes of a request are no longer listed here: the program decides which words it knows. SQLite
-- can only make the table anew. Runs and approvals point at its rows; while nobody looks (foreign keys
-- are checked when the transaction ends) all of them are taken away and put back.
PRAGMA defer_foreign_keys = ON;
CREATE TEMPORARY TABLE request_kept AS SELECT * FROM request;
DROP TABLE request;
CREATE TABLE request (
    id         TEXT NOT NULL PRIMARY KEY,
    rule       TEXT NOT NULL,
    cause      TEXT NOT NULL,
    slot       TEXT,
    state      TEXT NOT NULL CHECK (state IN ('pending', 'claimed', 'done', 'abandoned')),
    created_at TEXT NOT NULL,
    closed_at  TEXT,
    note       TEXT,
    UNIQUE (rule, slot)
) STRICT;
INSERT INTO request (id, rule, cause, slot, state, created_at, closed_at, note)
    SELECT id, rule, cause, slot, state, created_at, closed_at, note FROM request_kept;
DROP TABLE request_kept;
CREATE INDEX request_open ON request (created_at) WHERE state IN ('pending', 'claimed');

-- Whoever leaves an event makes sure that there is a request which nobody has begun to work off; one is
-- enough for each rule.
CREATE UNIQUE INDEX request_event ON request (rule) WHERE cause = 'event' AND state = 'pending';
