//! What goes with a proof: the entry itself, and for one record the way from its commitment to the entry.
//!
//! It travels in the `extra` line of a [`Proof`], as JSON. Nothing vouches for that line by itself: the
//! entry is good because its hash is the proven leaf, the commitment because its path leads to the root
//! that the entry names.

use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::entry::{Entry, EntryError, Event};
use super::note::{NoteError, Verifier};
use super::proof::{self, Proof, ProofError};
use super::tree::Hash;

/// What goes with a proof.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// The entry: the bytes of its leaf.
    pub entry: String,
    /// The record, where the proof is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordProof>,
}

/// That a commitment is in a batch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordProof {
    /// The keyed commitment to the record; not a hash of anything, although it is written like one.
    pub commitment: Hash,
    /// Its place among the batch's commitments.
    pub index: u64,
    /// The hashes from its sibling up.
    pub path: Vec<Hash>,
}

/// What a proof was found to show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The entry's position.
    pub position: u64,
    /// The entry.
    pub entry: Entry,
    /// The commitment to the record that its batch took, where the proof is about one.
    pub commitment: Option<Hash>,
    /// The checkpoint that signs it.
    pub checkpoint: Checkpoint,
}

/// Why a proof shows nothing.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The entry is not in the signed log.
    #[error("the entry is not proven: {0}")]
    Inclusion(#[from] ProofError),
    /// The checkpoint is not one of the log.
    #[error("the proof's checkpoint is not good: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// There is no entry to check.
    #[error("the proof carries no entry: name the file that holds it with `--entry`")]
    NoEntry,
    /// What goes with the proof is not expunged's.
    #[error("what goes with the proof is not of a kind that this version reads")]
    Attachment,
    /// The entry cannot be read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The record is not in the batch.
    #[error("the record is not in the batch that the entry tells of: {0}")]
    Record(ProofError),
    /// The entry tells of no batch.
    #[error("the entry tells of no batch, so no record can be in it")]
    NoBatch,
}

impl ShowError {
    /// Whether something was changed; otherwise it could not be checked.
    pub fn is_tampering(&self) -> bool {
        // Where no signature is by the key, it may be one by a newer key.
        const UNSIGNED: CheckpointError = CheckpointError::Note(NoteError::Unsigned);
        match self {
            ShowError::NoEntry | ShowError::Attachment | ShowError::Entry(_) => false,
            ShowError::Checkpoint(error) => *error != UNSIGNED,
            ShowError::Inclusion(_) | ShowError::Record(_) | ShowError::NoBatch => true,
        }
    }
}

impl Attachment {
    /// The bytes for the proof's `extra` line.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Texts, numbers and hashes: serializing them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Checks a proof against the keys of its log. `entry` is taken instead of the one that comes along.
///
/// # Errors
/// When it does not prove what it says.
pub fn show(proof: &Proof, keys: &[Verifier], entry: Option<&str>) -> Result<Shown, ShowError> {
    let checkpoint = open(&proof.checkpoint, keys)?;
    let attached = proof.extra.as_deref().map(serde_json::from_slice::<Attachment>);
    let attached = match (attached, entry) {
        (Some(Ok(attached)), _) => Some(attached),
        (Some(Err(_)), None) => return Err(ShowError::Attachment),
        (Some(Err(_)) | None, _) => None,
    };
    let text = entry.or(attached.as_ref().map(|attached| attached.entry.as_str()));
    let text = text.ok_or(ShowError::NoEntry)?;
    let leaf = Hash::leaf(text.as_bytes());
    proof::verify_inclusion(leaf, proof.index, checkpoint.size, &proof.path, checkpoint.root)?;
    let entry = Entry::from_json(text)?;
    let commitment = match attached.and_then(|attached| attached.record) {
        Some(record) => Some(in_batch(&record, &entry)?),
        None => None,
    };
    Ok(Shown { position: proof.index, entry, commitment, checkpoint })
}

/// Checks that the batch of the entry took the record.
fn in_batch(record: &RecordProof, entry: &Entry) -> Result<Hash, ShowError> {
    let Event::BatchDone { records, attachments, commitments, .. } = &entry.event else {
        return Err(ShowError::NoBatch);
    };
    let leaf = Hash::leaf(&record.commitment.0);
    let size = records.saturating_add(*attachments);
    let shown = proof::verify_inclusion(leaf, record.index, size, &record.path, *commitments);
    shown.map_err(ShowError::Record)?;
    Ok(record.commitment)
}

fn open(note: &str, keys: &[Verifier]) -> Result<Checkpoint, CheckpointError> {
    let mut opened = Err(NoteError::Unsigned.into());
    for key in keys.iter().rev() {
        opened = Checkpoint::open(note, key);
        if opened.is_ok() {
            break;
        }
    }
    opened
}
