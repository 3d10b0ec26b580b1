//! Receipts: what recipients say by themselves. What is not heeded changes nothing, and is recorded.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{count, take_step};
use crate::audit::{Entry, Event};
use crate::ledger::error::Doing;
use crate::ledger::row::{Columns, to_integer};
use crate::ledger::{Ledger, LedgerError, Transaction, audit, commit, to_text};
use crate::notice::{Receipt, Step};
use crate::types::Name;

/// How long receipts are remembered: far longer than their signatures are good for.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
/// How long the audit log is spared further entries on receipts that were not heeded.
const SPARED: SignedDuration = SignedDuration::from_mins(10);

/// What became of a receipt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// The notice has gone on by it.
    Heeded,
    /// It says what is known, or comes too late to change anything.
    Known,
    /// The same receipt was there before.
    Replayed,
    /// The recipient was never told anything under this id.
    Unknown,
}

impl Ledger {
    /// Takes a receipt in that is known to be the recipient's own.
    ///
    /// # Errors
    /// When the database does not answer; the recipient is to send it again.
    pub async fn receive_receipt(
        &self,
        recipient: &Name,
        receipt: &Receipt,
        now: Timestamp,
    ) -> Result<Received, LedgerError> {
        let doing = "taking a receipt in";
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM receipt WHERE received_at < $1")
            .bind(to_text(now - REMEMBERED))
            .execute(&mut *tx)
            .await
            .doing(doing)?;
        let new = sqlx::query(
            "INSERT INTO receipt (recipient, id, received_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(recipient.as_str())
        .bind(&receipt.id)
        .bind(to_text(now))
        .execute(&mut *tx)
        .await
        .doing(doing)?;
        if new.rows_affected() == 0 {
            return Ok(Received::Replayed);
        }
        let row = sqlx::query("SELECT seq FROM notice WHERE id = $1 AND recipient = $2")
            .bind(receipt.notice.to_string())
            .bind(recipient.as_str())
            .fetch_optional(&mut *tx)
            .await
            .doing(doing)?;
        let Some(seq) = row.map(|row| row.optional_integer("seq")).transpose()?.flatten() else {
            return Ok(Received::Unknown);
        };
        let moved = take_step(&mut tx, seq, receipt.step, now).await?;
        let Some(moved) = moved else {
            commit(tx).await?;
            return Ok(Received::Known);
        };
        if let Some(reason) = &receipt.reason
            && matches!(receipt.step, Step::Deny | Step::Exempt)
        {
            sqlx::query("UPDATE notice SET reason = $1 WHERE seq = $2")
                .bind(self.seal_text(receipt.notice, "reason", reason))
                .bind(seq)
                .execute(&mut *tx)
                .await
                .doing(doing)?;
        }
        let mut ended = BTreeMap::new();
        count(&mut ended, Some(moved));
        self.record_ended(&mut tx, recipient, ended, now).await?;
        commit(tx).await?;
        Ok(Received::Heeded)
    }

    /// Records that so many things which claimed to be receipts were not heeded, by recipient and reason, in one
    /// transaction. The audit log is told of the first at once and of more at intervals, so that nobody can flood it.
    ///
    /// # Errors
    /// When the database does not answer; nothing is recorded then.
    pub async fn refuse_receipts(
        &self,
        refused: &BTreeMap<(Name, &'static str), u64>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        let mut news = Vec::new();
        for ((recipient, reason), receipts) in refused {
            news.extend(refuse(&mut tx, recipient, reason, *receipts, now).await?);
        }
        for event in news {
            audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        }
        commit(tx).await
    }
}

/// Forgets the receipts of a recipient's notices that are told again, between two places of the queue: what says the same
/// of the next attempt is no replay. Those are meant whose id begins with their notice's, because they have none of their own.
pub(super) async fn forget(
    tx: &mut Transaction<'_>,
    recipient: &Name,
    (first, last): (i64, i64),
) -> Result<(), LedgerError> {
    sqlx::query(
        "DELETE FROM receipt WHERE recipient = $1 AND substr(id, 1, 36) IN \
         (SELECT id FROM notice WHERE recipient = $1 AND state = 'pending' AND seq BETWEEN $2 AND $3)",
    )
    .bind(recipient.as_str())
    .bind(first)
    .bind(last)
    .execute(&mut **tx)
    .await
    .doing("forgetting receipts")?;
    Ok(())
}

/// Counts receipts that were not heeded; gives what the audit log is to be told, where that is due.
async fn refuse(
    tx: &mut Transaction<'_>,
    recipient: &Name,
    reason: &'static str,
    receipts: u64,
    now: Timestamp,
) -> Result<Option<Event>, LedgerError> {
    let doing = "recording a receipt that was not heeded";
    let row = sqlx::query(
        "INSERT INTO refused_receipt (recipient, reason, untold, told_at) VALUES ($1, $2, $3, '') \
         ON CONFLICT (recipient, reason) DO UPDATE SET untold = refused_receipt.untold + excluded.untold \
         RETURNING untold, told_at",
    )
    .bind(recipient.as_str())
    .bind(reason)
    .bind(to_integer(receipts))
    .fetch_one(&mut **tx)
    .await
    .doing(doing)?;
    let (receipts, told_at) = (row.count("untold")?, row.text("told_at")?);
    if told_at >= to_text(now - SPARED) {
        return Ok(None);
    }
    sqlx::query(
        "UPDATE refused_receipt SET untold = 0, told_at = $1 WHERE recipient = $2 AND reason = $3",
    )
    .bind(to_text(now))
    .bind(recipient.as_str())
    .bind(reason)
    .execute(&mut **tx)
    .await
    .doing(doing)?;
    let (recipient, reason) = (recipient.clone(), reason.into());
    Ok(Some(Event::ReceiptsRefused { recipient, reason, receipts }))
}
