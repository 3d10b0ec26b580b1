//! Legal holds on each database: what they cover stays, whatever a rule says, from the moment at which
//! placing one returns until the last one ends.

#![allow(clippy::print_stdout, reason = "its figures are worth seeing")]
#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

#[path = "../support/mod.rs"]
mod support;

mod acts;
mod cascades;
mod command;
mod coverage;
mod house;
mod speed;
mod storm;
