//! Sets of backups: what their listings prove, on both ledgers, and what people see of it, by the real program.
#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../daemon/harness.rs"]
mod harness;

mod place;
mod proven;
mod shown;
