//! What every SQL store must do, held against PostgreSQL, MariaDB and SQLite: one body per promise,
//! run on each.

#[path = "../support/mod.rs"]
mod support;

mod common;

mod anonymize;
mod catalogue;
mod conditions;
mod errors;
mod fate;
mod keys;
mod properties;
mod read_only;
mod starts;
mod walks;
