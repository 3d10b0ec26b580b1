//! What is seen when expunged looks again after a run.

use serde::{Deserialize, Serialize};

/// What a store still holds of records that were taken, in the words that auditors use: the weakest
/// that can be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residue {
    /// No query finds them; what lies on the disk is not known.
    LogicallyDeleted,
    /// Their bytes were overwritten in the store's own files.
    PhysicallyPurged,
    /// Their bytes stay until the store's own cleaning.
    PendingVacuum,
    /// The store could not be asked.
    Unknown,
}

impl Residue {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Residue::LogicallyDeleted => "logically_deleted",
            Residue::PhysicallyPurged => "physically_purged",
            Residue::PendingVacuum => "pending_vacuum",
            Residue::Unknown => "unknown",
        }
    }
}

/// What expunged saw when it looked again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verification {
    /// How many records were looked for.
    pub checked: u64,
    /// How many were taken.
    pub of: u64,
    /// How many of those that were looked for are still there as they were.
    pub present: u64,
    /// The same on the replica, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present_on_replica: Option<u64>,
    /// What the store still holds physically.
    pub residue: Residue,
    /// How that is known.
    pub detail: String,
}

impl Verification {
    /// Whether all that was looked for is gone, wherever it was looked for.
    pub fn is_good(&self) -> bool {
        self.present == 0 && self.present_on_replica.unwrap_or_default() == 0
    }
}
