//! The kill suite: real processes that are killed at random moments, at every step between intent and
//! outcome, together with the database server, and at their first start. Whatever happened: exactly
//! the due rows are gone or anonymized, and each is covered by exactly one audit entry.
//!
//! Each test prints what it did. `EXPUNGED_LONG=1` kills ten times as often; `EXPUNGED_SEED=…`
//! repeats the choices of another time, though not its timing.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::print_stdout, reason = "what was done is part of the result")]

mod support;

#[path = "daemon/harness.rs"]
mod harness;

#[path = "support/notices.rs"]
mod notices;

#[path = "killed/house.rs"]
mod house;

#[path = "killed/dependents.rs"]
mod dependents;
#[path = "killed/faults.rs"]
mod faults;
#[path = "killed/first_start.rs"]
mod first_start;
#[path = "killed/full_disk.rs"]
mod full_disk;
#[path = "killed/partitions.rs"]
mod partitions;
#[path = "killed/random.rs"]
mod random;
#[path = "killed/server.rs"]
mod server;
#[path = "killed/servers.rs"]
mod servers;
