//! Rules on files and objects, and what belongs to rows, from the configuration to the audit log: the real
//! binary over real trees, databases and servers of objects.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../daemon/harness.rs"]
mod harness;

#[path = "../objects/house.rs"]
#[allow(dead_code, reason = "another binary's, of which a part is used here")]
mod servers;

#[path = "../support/notices.rs"]
mod told;

mod house;

mod acts;
mod attachments;
mod faults;
mod holds;
mod killed;
mod notices;
mod plans;
mod versions;
