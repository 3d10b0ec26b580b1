-- Attachments, in PostgreSQL. The same columns as in ../sqlite/0004_attachments.sql.

-- How many files and objects went with a batch's records; their commitments are among the batch's.
ALTER TABLE batch ADD COLUMN attachments BIGINT NOT NULL DEFAULT 0;
