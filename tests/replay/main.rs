//! Restores and replays: data are deleted by rules, an older copy is put back, and it is noticed; then what came back goes
//! again, and nothing else does. The real binary over real databases, trees and servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../daemon/harness.rs"]
mod harness;

#[path = "../killed/server.rs"]
#[allow(dead_code, reason = "another binary's, of which a part is used here")]
mod server;

mod house;

mod acts;
mod killed;
mod noticed;
mod paths;
mod servers;
mod tombstones;
