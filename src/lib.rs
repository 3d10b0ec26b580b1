//! expunged makes data end on time.
#![warn(clippy::pedantic)]
#![allow(clippy::module_name_repetitions, clippy::must_use_candidate)]

pub mod anonymize;
pub mod clock;
pub mod config;
pub mod rule;
pub mod schedule;
pub mod types;
