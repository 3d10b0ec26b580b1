//! What people see of notices and recipients, and the receipts that recipients send: by the real program, on both
//! ledgers where it matters.
#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../daemon/harness.rs"]
mod harness;

// Somebody who speaks HTTP.
#[path = "../events/house.rs"]
#[allow(dead_code)]
mod house;

mod certificate;
mod commands;
mod place;
mod receipts;
mod recipients;
mod shown;
