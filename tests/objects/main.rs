//! Object stores, against servers that speak S3's protocol: s3s-fs, a real server over files, in this
//! process; and moto, a mock that knows versions and Object Lock, which `tests/run` starts.
//!
//! A proxy stands in front of s3s-fs where a server has to misbehave: what it does is made up, and what it
//! lets through is real.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod faults;
mod house;
mod speed;
mod versions;
