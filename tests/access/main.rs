//! Access paths: which way a run takes through a table, and partitions that go whole with nothing in them
//! that is to stay.

#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

#[path = "../daemon/harness.rs"]
mod harness;
#[path = "../support/mod.rs"]
mod support;

mod concurrent;
mod house;
mod partitions;
mod paths;
mod shown;
mod speed;
