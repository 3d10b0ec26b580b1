-- Events, in PostgreSQL. The same tables as in ../sqlite/0003_events.sql, column for column.

-- What applications say has happened, once for each rule that listens, until the rule has worked it off:
-- then its row is removed. `sealed` holds its values. One that could not be opened is `unreadable`, and
-- out of the way of others until the daemon starts anew.
CREATE TABLE event (
    id          TEXT NOT NULL,
    rule        TEXT NOT NULL,
    name        TEXT NOT NULL,
    sealed      BYTEA NOT NULL,
    received_at TEXT NOT NULL,
    unreadable  BIGINT NOT NULL DEFAULT 0 CHECK (unreadable IN (0, 1)),
    PRIMARY KEY (id, rule)
);
CREATE INDEX event_pending ON event (rule, received_at, id) WHERE unreadable = 0;

-- The causes of a request are no longer listed here: the program decides which words it knows.
ALTER TABLE request DROP CONSTRAINT request_cause_check;

-- Whoever leaves an event makes sure that there is a request which nobody has begun to work off; one is
-- enough for each rule.
CREATE UNIQUE INDEX request_event ON request (rule) WHERE cause = 'event' AND state = 'pending';
