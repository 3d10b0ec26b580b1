-- Attachments, in SQLite. The same columns as in ../postgres/0004_attachments.sql.

-- How many files and objects went with a batch's records; their commitments are among the batch's.
ALTER TABLE batch ADD COLUMN attachments INTEGER NOT NULL DEFAULT 0;

-- How far a rule has come with an application's table in which events are found.
CREATE TABLE event_source (
    rule    TEXT NOT NULL,
    source  TEXT NOT NULL,
    reached TEXT NOT NULL,
    PRIMARY KEY (rule, source)
) STRICT;
