//! Recipients, each by its protocol: against what others have written (the packages `standardwebhooks` of PyPI and
//! npm, openssl, the databases), against servers that misbehave, and against fakes that follow a specification.
//!
//! What is told is always the same few people; what must never be shown is their names and the secrets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod hostile;
mod house;
mod opendsr;
mod own;
mod tables;
mod webhooks;
