//! What the catalogues of backups list: real repositories of restic, pgBackRest, Borg and barman, made here and asked
//! here; files, and objects on moto, a mock of S3 which `tests/run` starts; programs of one's own.
//!
//! What is deleted counts as clear when the last copy of it is gone, and not one listing earlier: that is tried on
//! the repositories themselves, by looking for the data.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "only its moto is used here")]
#[path = "../objects/house.rs"]
mod objects;

mod barman;
mod borg;
mod house;
mod paths;
mod pgbackrest;
mod programs;
mod restic;
mod server;
mod stanza;
