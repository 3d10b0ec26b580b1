//! The promise about face photos, from end to end: a real daemon, a real database, real files. What an
//! application says is over is gone at once, whatever gets lost, comes twice, comes late or is killed.
#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../daemon/harness.rs"]
mod harness;

mod burst;
mod calm;
mod house;
mod kept;
mod lost;
mod shown;
mod speed;
mod stuck;
mod twice;
mod worked;
