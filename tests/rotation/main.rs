//! Sets of backups: what their listings prove, on both ledgers, and what people see of it, by the real program.
#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../daemon/harness.rs"]
mod harness;

// Servers and tools.
#[path = "../backups/house.rs"]
#[allow(dead_code, reason = "only a part of it is used here")]
mod house;

#[path = "../backups/server.rs"]
mod server;

#[path = "../backups/stanza.rs"]
mod stanza;

mod place;
mod proven;
mod shown;
mod whole;
