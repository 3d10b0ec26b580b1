//! What every SQL store must do, held against PostgreSQL, MariaDB and SQLite: one body per promise,
//! run on each.

// What fails here fails a test, and says where.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod common;

mod anonymize;
mod catalogue;
mod conditions;
mod dependents;
mod errors;
mod fate;
mod keys;
mod lag;
mod properties;
mod read_only;
mod starts;
mod told;
mod walks;
