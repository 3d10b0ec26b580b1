//! Deletions reach their recipients: a real daemon, a real database, recipients on the loopback that are well, slow,
//! broken or gone, and a daemon that is killed while it tells them.
#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../daemon/harness.rs"]
mod harness;

mod house;
mod killed;
mod order;
mod receiver;
mod speed;
mod troubled;
