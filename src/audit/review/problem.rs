//! What can be wrong with a log.

use std::fmt;

use serde::Serialize;

use crate::audit::tree::Hash;

/// One thing that is wrong with the audit log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// Entries are missing.
    Missing {
        /// The position of the first.
        first: i64,
        /// The position of the last.
        last: i64,
    },
    /// An entry is at a position where none can be, or where one already is.
    Misplaced {
        /// Where.
        position: i64,
    },
    /// A row cannot be read as an entry.
    Unreadable {
        /// Where.
        position: i64,
    },
    /// An entry does not have the hash that is stored with it.
    LeafHash {
        /// Where.
        position: i64,
    },
    /// A column that is looked up does not say what the entry says.
    Column {
        /// Where.
        position: i64,
        /// Which.
        column: &'static str,
    },
    /// There are entries after the end that the checkpoint signs.
    Unsigned {
        /// The position of the first.
        first: u64,
        /// How many.
        count: u64,
    },
    /// There are fewer entries than the checkpoint signs.
    Truncated {
        /// How many the checkpoint signs.
        signed: u64,
        /// How many there are.
        found: u64,
    },
    /// The entries are not those that the checkpoint signs.
    Root {
        /// What the checkpoint signs.
        signed: Hash,
        /// What the entries give.
        computed: Hash,
    },
    /// The head of the log is missing or unreadable, or there are several.
    Head,
    /// The checkpoint is not one that this log's key has signed.
    Checkpoint {
        /// Why.
        reason: String,
    },
    /// A column of the head does not say what the checkpoint says.
    HeadColumn {
        /// Which.
        column: &'static str,
    },
    /// A change of the signing key is not vouched for by both keys.
    Rotation {
        /// The position of the entry that tells of it.
        position: u64,
        /// Why not.
        reason: String,
    },
    /// The log leads to no change to a key that signed it once.
    Key {
        /// The verifier key.
        key: String,
    },
    /// A checkpoint is kept for a change of the key that never was.
    StrayCheckpoint {
        /// Its size.
        size: u64,
    },
    /// There are fewer entries than a checkpoint that was kept elsewhere signs.
    RolledBack {
        /// How many the checkpoint signs.
        kept: u64,
        /// How many there are.
        found: u64,
    },
    /// The first entries are not those that a checkpoint that was kept elsewhere signs.
    Forked {
        /// How many entries the checkpoint signs.
        size: u64,
    },
    /// The commitments of a batch are not those that its entry names.
    Commitments {
        /// The entry's position.
        position: u64,
    },
    /// A file of an exported log is not what its entries make it.
    File {
        /// The file, below the log's folder.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The number of rows is not the number of entries that were found: some cannot be reached.
    Count {
        /// How many rows the table has.
        rows: i64,
        /// How many of them were found.
        found: i64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing { first, last } if first == last => {
                write!(f, "entry {first} is missing")
            }
            Problem::Missing { first, last } => write!(f, "entries {first} to {last} are missing"),
            Problem::Misplaced { position } => write!(f, "an entry does not belong at {position}"),
            Problem::Unreadable { position } => write!(f, "entry {position} cannot be read"),
            Problem::LeafHash { position } => write!(f, "entry {position} was changed"),
            Problem::Column { position, column } => {
                write!(f, "column `{column}` of entry {position} was changed")
            }
            Problem::Unsigned { first, count } => {
                write!(
                    f,
                    "{count} entries from {first} on are not covered by the signed checkpoint"
                )
            }
            Problem::Truncated { signed, found } => {
                write!(f, "the signed checkpoint covers {signed} entries, and there are {found}")
            }
            Problem::Root { signed, computed } => write!(
                f,
                "the entries are not the signed ones: their root is {computed}, and {signed} was signed"
            ),
            Problem::Head => {
                write!(f, "the head of the log is missing or unreadable, or there are several")
            }
            Problem::Checkpoint { reason } => write!(f, "the checkpoint is not good: {reason}"),
            Problem::HeadColumn { column } => {
                write!(f, "column `{column}` of the log's head was changed")
            }
            Problem::Rotation { position, reason } => {
                write!(f, "the change of the signing key at {position} is not good: {reason}")
            }
            Problem::Key { key } => write!(
                f,
                "the log tells of no change to the key {key}: it was put back to before that, or the key is of something else"
            ),
            Problem::StrayCheckpoint { size } => write!(
                f,
                "a checkpoint of {size} entries is kept as if the key had changed there, and it did not"
            ),
            Problem::RolledBack { kept, found } => write!(
                f,
                "the log was put back: a checkpoint that was kept elsewhere covers {kept} entries, and there are {found}"
            ),
            Problem::Forked { size } => write!(
                f,
                "the first {size} entries are not those of a checkpoint that was kept elsewhere: the log was rewritten"
            ),
            Problem::Commitments { position } => {
                write!(f, "the commitments of the batch of entry {position} were changed")
            }
            Problem::File { path, what } => write!(f, "`{path}` {what}"),
            Problem::Count { rows, found } => {
                write!(f, "the log has {rows} rows, and {found} of them could be read in order")
            }
        }
    }
}
