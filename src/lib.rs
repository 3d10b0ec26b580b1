//! expunged makes data end on time.
#![warn(clippy::pedantic)]
#![allow(clippy::module_name_repetitions, clippy::must_use_candidate)]
#![allow(clippy::doc_markdown, reason = "PostgreSQL, MariaDB and SQLite are names, not code")]

pub mod anonymize;
pub mod audit;
pub mod clock;
pub mod keys;
pub mod ledger;
pub mod rule;
pub mod schedule;
pub mod types;
