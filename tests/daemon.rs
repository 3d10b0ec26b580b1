//! The daemon, as a real process: what systemd hears, slots, continuous rules, every way to stop it or
//! have it killed, reload, stores that are down, what its logs give away, and what it costs when idle.
//!
//! What is waited for are its own log lines and datagrams. The databases are only polled, with a
//! deadline, where nothing else tells.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

#[path = "daemon/harness.rs"]
mod harness;

#[path = "daemon/checkpoints.rs"]
mod checkpoints;
#[path = "daemon/clock.rs"]
mod clock;
#[path = "daemon/continuous.rs"]
mod continuous;
#[path = "daemon/idle.rs"]
mod idle;
#[path = "daemon/killed.rs"]
mod killed;
#[path = "daemon/ledger.rs"]
mod ledger;
#[path = "daemon/privacy.rs"]
mod privacy;
#[path = "daemon/reload.rs"]
mod reload;
#[path = "daemon/replica.rs"]
mod replica;
#[path = "killed/server.rs"]
#[allow(dead_code, reason = "another binary's, of which a part is used here")]
mod server;
#[path = "daemon/slots.rs"]
mod slots;
#[path = "daemon/stop.rs"]
mod stop;
#[path = "daemon/systemd.rs"]
mod systemd;
#[path = "daemon/windows.rs"]
mod windows;
