//! Events: what is taken and what is refused in which words, that what was acknowledged is durable
//! whatever is killed, and who may send any.
#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../daemon/harness.rs"]
mod harness;

mod burst;
mod daemon;
mod door;
mod house;
mod intake;
mod json;
mod ledger;
mod migration;
mod settings;
