//! What is seen when expunged looks again after a run.

use serde::{Deserialize, Serialize};

/// What a store still holds of records that were taken, in the words that auditors use: the weakest
/// that can be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residue {
    /// No query finds them; what lies on the disk is not known.
    LogicallyDeleted,
    /// Their bytes were overwritten in the file that holds the data. Of its former journal the file system
    /// may keep blocks.
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

/// What a replica shows of records that were taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replica {
    /// It could not be asked.
    NotAsked,
    /// It still has records that its primary has no more.
    Behind,
    /// It has followed: what was looked for is gone there too.
    Gone,
}

impl Replica {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Replica::NotAsked => "not_asked",
            Replica::Behind => "behind",
            Replica::Gone => "gone",
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
    /// What the replica shows, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Replica>,
    /// How many are still there on the replica, where it could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present_on_replica: Option<u64>,
    /// What the store still holds physically.
    pub residue: Residue,
    /// How that is known.
    pub detail: String,
}

impl Verification {
    /// Whether records that were reported gone are there. A replica that has not followed says nothing of
    /// that.
    pub fn came_back(&self) -> bool {
        self.present > 0
    }

    /// Whether all that was looked for is gone, wherever there may be a copy of it.
    pub fn is_good(&self) -> bool {
        !self.came_back() && self.replica_open().is_none()
    }

    /// What is not known of the replica, in words; `None` where there is nothing to say.
    pub fn replica_open(&self) -> Option<String> {
        match self.replica? {
            Replica::Gone => None,
            Replica::NotAsked => {
                Some("its replica could not be asked, which may still have records".to_owned())
            }
            Replica::Behind => Some(format!(
                "its replica has not followed: {} of {} records that were looked for are still there",
                self.present_on_replica.unwrap_or_default(),
                self.checked
            )),
        }
    }
}
