-- How a run reached the due rows of its table, and why that way: for people.
ALTER TABLE run ADD COLUMN access TEXT;
