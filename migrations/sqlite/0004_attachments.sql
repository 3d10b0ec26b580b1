-- Attachments, in SQLite. The same columns as in ../postgres/0004_attachments.sql.

-- How many files and objects went with a batch's records; their commitments are among the batch's.
ALTER TABLE batch ADD COLUMN attachments INTEGER NOT NULL DEFAULT 0;
