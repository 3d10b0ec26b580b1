//! Changes of the keys, as the log tells of them.

use jiff::Timestamp;

use super::error::HeadError;
use super::{Ledger, LedgerError, audit, commit};
use crate::audit::{Entry, Event};
use crate::keys::Hand;

impl Ledger {
    /// Has the log go on under the next signing key ([`crate::keys::Keys::prepare_rotation`]): the entry that says so is
    /// signed by both keys, all later ones by the next alone. Gives the entry's position.
    ///
    /// From then on the log's head says that the next key is in force, whatever becomes of this
    /// process; a process that knows only the old key appends nothing any more.
    ///
    /// # Errors
    /// When there is no next key, it is in force already, or the database does not answer.
    pub async fn rotate_key(&self, now: Timestamp) -> Result<u64, LedgerError> {
        let next = self.keys.next_verifier().ok_or(HeadError::NoNextKey)?;
        let event = Event::KeyRotated {
            previous: self.keys.verifier().to_string(),
            current: next.to_string(),
        };
        let mut tx = self.begin().await?;
        let entry = Entry { at: now, event };
        let position = audit::append_rotation(&mut tx, &self.keys, &entry).await?;
        commit(tx).await?;
        Ok(position)
    }

    /// Whether the log goes on under the next signing key already.
    ///
    /// # Errors
    /// When the head is not one that these keys have signed, or the database does not answer.
    pub async fn is_rotated(&self) -> Result<bool, LedgerError> {
        let head = self.checkpoint().await?;
        let (_, hand) = self.keys.open_checkpoint(&head).map_err(HeadError::from)?;
        Ok(hand == Hand::Next)
    }

    /// Records that the commitment key was destroyed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn record_forgetting(&self, now: Timestamp) -> Result<(), LedgerError> {
        self.record(now, Event::CommitmentKeyDestroyed {}).await
    }
}
