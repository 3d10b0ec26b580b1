//! Trees of files on a real file system: what is meant goes, what is not stays, and nothing leads out of
//! the root.

#![allow(clippy::print_stdout, reason = "its figures are worth seeing")]
#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

#[path = "../support/mod.rs"]
mod support;

mod acts;
mod hostile;
mod properties;
mod speed;
mod tree;
mod uploads;
