//! The audit log's formats: pure functions over bytes, no database, no clock, no secret of its own.
//!
//! Read in this order: an [`Entry`] is one line of JSON, a leaf of a Merkle [`tree`]; the root of the
//! tree stands in a [`checkpoint`], which is signed as a [`note`]. Anyone who has the verifier key and
//! the entries can check the log with these formats and no other part of expunged: all of it in a
//! [`review`], from an exported folder of [`tiles`], or one entry by its [`proof`], which for a
//! [`record`] goes on to the commitment within the entry's batch.

pub mod checkpoint;
pub mod commitments;
pub mod entry;
pub mod note;
pub mod proof;
pub mod record;
pub mod review;
pub mod tiles;
pub mod tree;

pub use checkpoint::Checkpoint;
pub use commitments::Commitments;
pub use entry::{Entry, Event};
pub use tree::Hash;
