//! Entries: what the audit log says happened, one line of JSON each.
//!
//! An append-only log cannot forget, so nothing goes in that could be personal data: no key, no
//! subject, no condition, no text of an error that may quote a value. Reasons are [`Reason`]s, which
//! are words from expunged's own source.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::tree::Hash;
use crate::notice;
use crate::plan::DependentRows;
use crate::types::Name;

pub mod moment;
mod words;

pub use words::{ActionKind, Cause, HoldScope, RunEnd, RunMode};

/// The longest entry in bytes: the limit of tlog-tiles, whose entries carry a 16-bit length.
pub const MAX_BYTES: usize = 65_535;

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When, to the microsecond.
    #[serde(with = "moment")]
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Why an entry cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Longer than [`MAX_BYTES`].
    #[error("an audit entry of kind `{kind}` has {bytes} bytes, and {MAX_BYTES} is the most")]
    TooLong {
        /// The kind of the entry.
        kind: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// Not JSON, or of a kind that this version does not know.
    #[error("this is not an audit entry that this version can read")]
    Json(#[from] serde_json::Error),
}

impl Entry {
    /// The entry as one line of JSON, without a newline: the bytes of its leaf. The same entry gives
    /// the same bytes: `at`, `kind`, then the fields of the event in the order they are declared in.
    ///
    /// # Errors
    /// When it would be longer than [`MAX_BYTES`].
    pub fn to_json(&self) -> Result<String, EntryError> {
        let json = serde_json::to_string(self)?;
        if json.len() > MAX_BYTES {
            return Err(EntryError::TooLong { kind: self.event.kind(), bytes: json.len() });
        }
        Ok(json)
    }

    /// Reads what [`Entry::to_json`] wrote.
    ///
    /// # Errors
    /// When it is not an entry that this version knows.
    pub fn from_json(json: &str) -> Result<Self, EntryError> {
        Ok(serde_json::from_str(json)?)
    }
}

/// What happened; `kind` in JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields say what they are; a batch and a run are ids")]
pub enum Event {
    /// The daemon runs.
    DaemonStarted { version: String },
    /// The daemon ends.
    DaemonStopped { reason: Reason },
    /// A configuration took effect; `digest` is over all of it.
    ConfigurationLoaded { digest: String, rules: u64, stores: u64, version: String },
    /// A configuration was not taken; the one before stays.
    ConfigurationRefused { reason: Reason },
    /// A rule is new in the configuration.
    RuleAdded { rule: Name, digest: String },
    /// What a rule takes or does with it has changed.
    RuleChanged { rule: Name, digest: String, previous: String },
    /// A rule is gone from the configuration.
    RuleRemoved { rule: Name, digest: String },
    /// A rule may act from now on; `by` is the account that allowed it, where one did.
    RuleArmed {
        rule: Name,
        digest: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A rule only watches from now on.
    RuleDisarmed { rule: Name },
    /// A plan was made; `digest` is the saved plan's.
    PlanMade {
        rule: Name,
        rule_digest: String,
        #[serde(with = "moment")]
        cutoff: Timestamp,
        due: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// A saved plan was not carried out, for this rule or at all.
    PlanRefused {
        digest: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Name>,
        reason: Reason,
    },
    /// A run stands still before its first record until somebody approves it.
    ApprovalAwaited {
        run: Uuid,
        rule: Name,
        rule_digest: String,
        store: Name,
        table: String,
        due: u64,
        total: u64,
        reason: Reason,
    },
    /// Somebody approved a run that stood still; `by` is their account. Their reason is in the ledger.
    RunApproved { run: Uuid, rule: Name, store: Name, by: String },
    /// A rule begins to run; `plan` is the digest of the saved plan that it carries out, if any.
    RunStarted {
        run: Uuid,
        rule: Name,
        rule_digest: String,
        store: Name,
        table: String,
        action: ActionKind,
        #[serde(with = "moment")]
        cutoff: Timestamp,
        cause: Cause,
        mode: RunMode,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
    },
    /// A batch is deleted or anonymized. `commitments` is the root of the Merkle tree over the keyed
    /// commitments to its records; `pseudonymized` names columns whose new value still tells
    /// persons apart.
    BatchDone {
        run: Uuid,
        batch: Uuid,
        rule: Name,
        store: Name,
        table: String,
        action: ActionKind,
        records: u64,
        /// Files and objects that belonged to the records and went with them.
        #[serde(default, skip_serializing_if = "is_zero")]
        attachments: u64,
        /// Rows of other tables of the store that went or changed along with the records.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        dependents: Vec<DependentRows>,
        commitments: Hash,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pseudonymized: Vec<String>,
        /// How many notices tell each recipient of the records.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        notices: BTreeMap<Name, u64>,
        /// The partition that held them, and was dropped whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        partition: Option<String>,
    },
    /// An intended batch was found not to be carried out.
    BatchUndone { run: Uuid, batch: Uuid, rule: Name, store: Name, reason: Reason },
    /// A run is over; `remaining` records were still due when expunged looked again.
    RunFinished {
        run: Uuid,
        rule: Name,
        store: Name,
        state: RunEnd,
        records: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remaining: Option<u64>,
        batches: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
    },
    /// A rule that only watches has counted: `due` records would go, `undecided` ones have no usable
    /// starting point and stay.
    RunObserved {
        run: Uuid,
        rule: Name,
        rule_digest: String,
        store: Name,
        table: String,
        #[serde(with = "moment")]
        cutoff: Timestamp,
        due: u64,
        undecided: u64,
    },
    /// A rule should have run and was not let to.
    RunRefused { rule: Name, reason: Reason },
    /// After a run expunged looked for the records that it had reported gone: `checked` of `of` were
    /// looked for, `present` were there. `replica` is what the replica showed, where there is one;
    /// `state` is what the store still holds of them physically.
    RunVerified {
        run: Uuid,
        rule: Name,
        store: Name,
        checked: u64,
        of: u64,
        present: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replica: Option<Reason>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        present_on_replica: Option<u64>,
        state: Reason,
    },
    /// A deletion certificate was issued; `digest` is the SHA-256 of its JSON.
    CertificateIssued { run: Uuid, rule: Name, store: Name, digest: String },
    /// The wall clock and a clock that cannot be set disagree by so much: nothing runs.
    ClockJumped { seconds: i64 },
    /// A legal hold is in force. What it covers is in the ledger, sealed.
    HoldPlaced {
        hold: Uuid,
        scope: HoldScope,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        store: Option<Name>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Name>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<String>,
        #[serde(with = "moment")]
        until: Timestamp,
        broad: bool,
    },
    /// A legal hold lasts longer, by an act of its own.
    HoldExtended {
        hold: Uuid,
        #[serde(with = "moment")]
        until: Timestamp,
    },
    /// A legal hold was released before its end.
    HoldReleased { hold: Uuid },
    /// A legal hold has come to its end.
    HoldExpired { hold: Uuid },
    /// So many notices of a run to one recipient are over, or go on no further by themselves, in this state.
    NoticesSettled { run: Uuid, rule: Name, recipient: Name, state: notice::State, notices: u64 },
    /// So many notices of a run to one recipient have passed their due time without being over.
    NoticesOverdue { run: Uuid, rule: Name, recipient: Name, notices: u64 },
    /// Somebody said that a recipient need not carry out a notice; `by` is their account. Their reason is in
    /// the ledger.
    NoticeExempted { run: Uuid, rule: Name, recipient: Name, notice: Uuid, by: String },
    /// Somebody had notices tried again; `by` is their account.
    NoticesRetried { recipient: Name, notices: u64, by: String },
    /// What claimed to be a receipt of a recipient was not heeded: so many since the last entry that says so.
    ReceiptsRefused { recipient: Name, reason: Reason, receipts: u64 },
    /// A set of backups is new, or covers other stores than before; `assumed` where it has no catalogue.
    BackupSetAdded { backup: Name, stores: Vec<Name>, rotation: String, assumed: bool },
    /// Somebody said that a set of backups is no more; `by` is their account. Their reason is in the ledger.
    BackupSetForgotten { backup: Name, by: String },
    /// The listing of a set failed, or proves nothing. Said once, until it is something else.
    BackupsDoubted { backup: Name, reason: Reason },
    /// A set is listed again.
    BackupsListed { backup: Name, backups: u64 },
    /// Somebody said that the next listing of a set may be much shorter; `by` is their account.
    BackupsConfirmed { backup: Name, by: String },
    /// What was deleted before this moment is in no backup of the set.
    BackupsCleared {
        backup: Name,
        #[serde(with = "moment")]
        before: Timestamp,
    },
    /// An older backup came to light: what was deleted from this moment on may be in the set.
    BackupsReopened {
        backup: Name,
        #[serde(with = "moment")]
        before: Timestamp,
    },
    /// A backup should have rotated away by this moment, and has not.
    RotationStalled {
        backup: Name,
        #[serde(with = "moment")]
        since: Timestamp,
    },
    /// The kept keys of records that were deleted before this moment are destroyed: no backup can bring the records back.
    TombstonesDestroyed {
        store: Name,
        #[serde(with = "moment")]
        before: Timestamp,
        records: u64,
    },
    /// A store seems to have been restored: its rules are frozen.
    RestoreNoticed {
        store: Name,
        evidence: Reason,
        #[serde(default, skip_serializing_if = "Option::is_none", with = "moment::optional")]
        restored_to: Option<Timestamp>,
    },
    /// What was deleted from a store after the moment it was restored to is being deleted again; `by` is the account of
    /// whoever said so. `records` were still known by their keys.
    ReplayStarted {
        store: Name,
        #[serde(default, skip_serializing_if = "Option::is_none", with = "moment::optional")]
        restored_to: Option<Timestamp>,
        records: u64,
        by: String,
    },
    /// That is over: so many records were there again and are gone, so many were left.
    ReplayFinished { store: Name, records: u64, left: u64 },
    /// The rules of a store run again; `by` is the account of whoever said so, where it was not the replay.
    StoreReleased {
        store: Name,
        reason: Reason,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// The audit log goes on under another signing key; both are verifier keys.
    KeyRotated { previous: String, current: String },
    /// Nothing in the log can be tied to a record any more.
    CommitmentKeyDestroyed {},
}

impl Event {
    /// Every kind, in the order of the variants.
    pub const KINDS: [&str; 46] = [
        "daemon_started",
        "daemon_stopped",
        "configuration_loaded",
        "configuration_refused",
        "rule_added",
        "rule_changed",
        "rule_removed",
        "rule_armed",
        "rule_disarmed",
        "plan_made",
        "plan_refused",
        "approval_awaited",
        "run_approved",
        "run_started",
        "batch_done",
        "batch_undone",
        "run_finished",
        "run_observed",
        "run_refused",
        "run_verified",
        "certificate_issued",
        "clock_jumped",
        "hold_placed",
        "hold_extended",
        "hold_released",
        "hold_expired",
        "notices_settled",
        "notices_overdue",
        "notice_exempted",
        "notices_retried",
        "receipts_refused",
        "backup_set_added",
        "backup_set_forgotten",
        "backups_doubted",
        "backups_listed",
        "backups_confirmed",
        "backups_cleared",
        "backups_reopened",
        "rotation_stalled",
        "tombstones_destroyed",
        "restore_noticed",
        "replay_started",
        "replay_finished",
        "store_released",
        "key_rotated",
        "commitment_key_destroyed",
    ];

    /// The kind, as JSON names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::DaemonStarted { .. } => "daemon_started",
            Event::DaemonStopped { .. } => "daemon_stopped",
            Event::ConfigurationLoaded { .. } => "configuration_loaded",
            Event::ConfigurationRefused { .. } => "configuration_refused",
            Event::RuleAdded { .. } => "rule_added",
            Event::RuleChanged { .. } => "rule_changed",
            Event::RuleRemoved { .. } => "rule_removed",
            Event::RuleArmed { .. } => "rule_armed",
            Event::RuleDisarmed { .. } => "rule_disarmed",
            Event::PlanMade { .. } => "plan_made",
            Event::PlanRefused { .. } => "plan_refused",
            Event::ApprovalAwaited { .. } => "approval_awaited",
            Event::RunApproved { .. } => "run_approved",
            Event::RunStarted { .. } => "run_started",
            Event::BatchDone { .. } => "batch_done",
            Event::BatchUndone { .. } => "batch_undone",
            Event::RunFinished { .. } => "run_finished",
            Event::RunObserved { .. } => "run_observed",
            Event::RunRefused { .. } => "run_refused",
            Event::RunVerified { .. } => "run_verified",
            Event::CertificateIssued { .. } => "certificate_issued",
            Event::ClockJumped { .. } => "clock_jumped",
            Event::HoldPlaced { .. } => "hold_placed",
            Event::HoldExtended { .. } => "hold_extended",
            Event::HoldReleased { .. } => "hold_released",
            Event::HoldExpired { .. } => "hold_expired",
            Event::NoticesSettled { .. } => "notices_settled",
            Event::NoticesOverdue { .. } => "notices_overdue",
            Event::NoticeExempted { .. } => "notice_exempted",
            Event::NoticesRetried { .. } => "notices_retried",
            Event::ReceiptsRefused { .. } => "receipts_refused",
            Event::BackupSetAdded { .. } => "backup_set_added",
            Event::BackupSetForgotten { .. } => "backup_set_forgotten",
            Event::BackupsDoubted { .. } => "backups_doubted",
            Event::BackupsListed { .. } => "backups_listed",
            Event::BackupsConfirmed { .. } => "backups_confirmed",
            Event::BackupsCleared { .. } => "backups_cleared",
            Event::BackupsReopened { .. } => "backups_reopened",
            Event::RotationStalled { .. } => "rotation_stalled",
            Event::TombstonesDestroyed { .. } => "tombstones_destroyed",
            Event::RestoreNoticed { .. } => "restore_noticed",
            Event::ReplayStarted { .. } => "replay_started",
            Event::ReplayFinished { .. } => "replay_finished",
            Event::StoreReleased { .. } => "store_released",
            Event::KeyRotated { .. } => "key_rotated",
            Event::CommitmentKeyDestroyed {} => "commitment_key_destroyed",
        }
    }

    /// The rule that it is about.
    pub fn rule(&self) -> Option<&Name> {
        match self {
            Event::DaemonStarted { .. }
            | Event::DaemonStopped { .. }
            | Event::ConfigurationLoaded { .. }
            | Event::ConfigurationRefused { .. }
            | Event::ClockJumped { .. }
            | Event::HoldExtended { .. }
            | Event::HoldReleased { .. }
            | Event::HoldExpired { .. }
            | Event::NoticesRetried { .. }
            | Event::ReceiptsRefused { .. }
            | Event::BackupSetAdded { .. }
            | Event::BackupSetForgotten { .. }
            | Event::BackupsDoubted { .. }
            | Event::BackupsListed { .. }
            | Event::BackupsConfirmed { .. }
            | Event::BackupsCleared { .. }
            | Event::BackupsReopened { .. }
            | Event::RotationStalled { .. }
            | Event::TombstonesDestroyed { .. }
            | Event::RestoreNoticed { .. }
            | Event::ReplayStarted { .. }
            | Event::ReplayFinished { .. }
            | Event::StoreReleased { .. }
            | Event::KeyRotated { .. }
            | Event::CommitmentKeyDestroyed {} => None,
            Event::HoldPlaced { rule, .. } | Event::PlanRefused { rule, .. } => rule.as_ref(),
            Event::RuleAdded { rule, .. }
            | Event::RuleChanged { rule, .. }
            | Event::RuleRemoved { rule, .. }
            | Event::RuleArmed { rule, .. }
            | Event::RuleDisarmed { rule }
            | Event::PlanMade { rule, .. }
            | Event::ApprovalAwaited { rule, .. }
            | Event::RunApproved { rule, .. }
            | Event::RunVerified { rule, .. }
            | Event::CertificateIssued { rule, .. }
            | Event::NoticesSettled { rule, .. }
            | Event::NoticesOverdue { rule, .. }
            | Event::NoticeExempted { rule, .. }
            | Event::RunStarted { rule, .. }
            | Event::BatchDone { rule, .. }
            | Event::BatchUndone { rule, .. }
            | Event::RunFinished { rule, .. }
            | Event::RunObserved { rule, .. }
            | Event::RunRefused { rule, .. } => Some(rule),
        }
    }

    /// The store that it happened in.
    pub fn store(&self) -> Option<&Name> {
        match self {
            Event::HoldPlaced { store, .. } => store.as_ref(),
            Event::ApprovalAwaited { store, .. }
            | Event::RunApproved { store, .. }
            | Event::RunStarted { store, .. }
            | Event::BatchDone { store, .. }
            | Event::BatchUndone { store, .. }
            | Event::RunFinished { store, .. }
            | Event::RunObserved { store, .. }
            | Event::RunVerified { store, .. }
            | Event::CertificateIssued { store, .. }
            | Event::TombstonesDestroyed { store, .. }
            | Event::RestoreNoticed { store, .. }
            | Event::ReplayStarted { store, .. }
            | Event::ReplayFinished { store, .. }
            | Event::StoreReleased { store, .. } => Some(store),
            _ => None,
        }
    }

    /// The run that it belongs to.
    pub fn run(&self) -> Option<Uuid> {
        match self {
            Event::ApprovalAwaited { run, .. }
            | Event::RunApproved { run, .. }
            | Event::RunStarted { run, .. }
            | Event::BatchDone { run, .. }
            | Event::BatchUndone { run, .. }
            | Event::RunFinished { run, .. }
            | Event::RunObserved { run, .. }
            | Event::RunVerified { run, .. }
            | Event::CertificateIssued { run, .. }
            | Event::NoticesSettled { run, .. }
            | Event::NoticesOverdue { run, .. }
            | Event::NoticeExempted { run, .. } => Some(*run),
            _ => None,
        }
    }
}

/// A reason in expunged's own words.
///
/// It can only be made from text in the source (or read back from the log), so no value from a
/// database or from the text of an error can slip in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reason(Cow<'static, str>);

impl Reason {
    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&'static str> for Reason {
    fn from(words: &'static str) -> Self {
        Reason(Cow::Borrowed(words))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
