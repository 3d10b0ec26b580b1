//! expunged makes data end on time.
#![warn(clippy::pedantic)]
#![allow(clippy::module_name_repetitions, clippy::must_use_candidate)]
#![allow(clippy::doc_markdown, reason = "PostgreSQL, MariaDB and SQLite are names, not code")]

pub mod anonymize;
pub mod audit;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod keys;
pub mod ledger;
pub mod lifecycle;
pub mod plan;
pub mod rule;
pub mod run;
pub mod schedule;
pub mod store;
pub mod telemetry;
pub mod types;
