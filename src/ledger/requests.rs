//! Requests: whatever wakes a rule leaves one, and the one pass that runs rules works them off.

use std::collections::BTreeSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::error::Doing;
use super::row::Columns;
use super::{Ledger, LedgerError, Transaction, commit, to_text};
use crate::audit::entry::Cause;
use crate::clock;
use crate::types::Name;

/// A wish for a run of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Its id.
    pub id: Uuid,
    /// The rule to run.
    pub rule: Name,
    /// Why.
    pub cause: Cause,
    /// Whether it is for a saved plan: nobody else goes on with that, least of all with whatever is due.
    pub planned: bool,
}

/// What stands in the ledger of a request for a saved plan.
const PLANNED: &str = "a saved plan";

impl Request {
    fn new(rule: &Name, cause: Cause) -> Request {
        Request { id: clock::new_id(), rule: rule.clone(), cause, planned: false }
    }
}

impl Ledger {
    /// Claims a slot of a rule; `None` when it was claimed before, by this process or another.
    ///
    /// # Errors
    /// When the database does not answer; the slot is not claimed then.
    pub async fn claim_slot(
        &self,
        rule: &Name,
        slot: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Request>, LedgerError> {
        let mut tx = self.begin().await?;
        let request = Request::new(rule, Cause::Slot);
        if !insert(&mut tx, &request, Some(slot), now).await? {
            return Ok(None);
        }
        sqlx::query("UPDATE rule_state SET last_slot = $1 WHERE rule = $2")
            .bind(to_text(slot))
            .bind(rule.as_str())
            .execute(&mut *tx)
            .await
            .doing("claiming a slot")?;
        commit(tx).await?;
        Ok(Some(request))
    }

    /// Leaves a request that its maker works off itself.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn request(
        &self,
        rule: &Name,
        cause: Cause,
        now: Timestamp,
    ) -> Result<Request, LedgerError> {
        let mut tx = self.begin().await?;
        let request = Request::new(rule, cause);
        insert(&mut tx, &request, None, now).await?;
        commit(tx).await?;
        Ok(request)
    }

    /// Leaves a request for a saved plan, which its maker works off itself.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn request_for_plan(
        &self,
        rule: &Name,
        now: Timestamp,
    ) -> Result<Request, LedgerError> {
        let mut tx = self.begin().await?;
        let request = Request { planned: true, ..Request::new(rule, Cause::Command) };
        insert(&mut tx, &request, None, now).await?;
        commit(tx).await?;
        Ok(request)
    }

    /// The requests for which no run was finished: their process ended, or the rule was busy. The
    /// oldest comes first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open_requests(&self) -> Result<Vec<Request>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query(
            "SELECT id, rule, cause, note FROM request WHERE state IN ('pending', 'claimed') \
             ORDER BY created_at",
        )
        .fetch_all(&mut *tx)
        .await
        .doing("reading open requests")?;
        rows.iter()
            .map(|row| {
                Ok(Request {
                    id: row.id("id")?,
                    rule: row.name("rule")?,
                    cause: row.word("cause", Cause::from_word)?,
                    planned: row.optional_text("note")?.as_deref() == Some(PLANNED),
                })
            })
            .collect()
    }

    /// The rules with something left behind: requests that nobody has worked off although they were
    /// made at or before a moment, and runs that were never ended, unless they are under way.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn left_behind(&self, before: Timestamp) -> Result<BTreeSet<Name>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query(
            "SELECT rule FROM request WHERE state IN ('pending', 'claimed') AND created_at <= $1 \
             UNION SELECT rule FROM run WHERE state = 'running'",
        )
        .bind(to_text(before))
        .fetch_all(&mut *tx)
        .await
        .doing("looking for what was left behind")?;
        rows.iter().map(|row| row.name("rule")).collect()
    }

    /// Whether a request still waits to be worked off. Asked under the rule's lock, the answer holds
    /// until that is given up.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_open(&self, request: &Request) -> Result<bool, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query("SELECT state FROM request WHERE id = $1")
            .bind(request.id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .doing("looking at a request")?;
        let Some(row) = row else { return Ok(false) };
        Ok(matches!(&*row.text("state")?, "pending" | "claimed"))
    }

    /// Gives up on a request, with a word on why.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn abandon_request(
        &self,
        request: &Request,
        why: &'static str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        close(&mut tx, request.id, "abandoned", Some(why), now).await?;
        commit(tx).await
    }
}

async fn insert(
    tx: &mut Transaction<'_>,
    request: &Request,
    slot: Option<Timestamp>,
    now: Timestamp,
) -> Result<bool, LedgerError> {
    let inserted = sqlx::query(
        "INSERT INTO request (id, rule, cause, slot, state, created_at, note) \
         VALUES ($1, $2, $3, $4, 'claimed', $5, $6) ON CONFLICT (rule, slot) DO NOTHING",
    )
    .bind(request.id.to_string())
    .bind(request.rule.as_str())
    .bind(request.cause.as_str())
    .bind(slot.map(to_text))
    .bind(to_text(now))
    .bind(request.planned.then_some(PLANNED))
    .execute(&mut **tx)
    .await
    .doing("leaving a request")?;
    Ok(inserted.rows_affected() == 1)
}

/// Closes a request that is still open.
pub(super) async fn close(
    tx: &mut Transaction<'_>,
    request: Uuid,
    state: &'static str,
    note: Option<&'static str>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    sqlx::query(
        "UPDATE request SET state = $1, closed_at = $2, note = $3 \
         WHERE id = $4 AND state IN ('pending', 'claimed')",
    )
    .bind(state)
    .bind(to_text(now))
    .bind(note)
    .bind(request.to_string())
    .execute(&mut **tx)
    .await
    .doing("closing a request")?;
    Ok(())
}

/// Closes the request of a run that was stopped, unless it is to go on later: what a person asked for
/// has ended before their eyes, and nobody goes on with a rule that is gone.
pub(super) async fn close_stopped(
    tx: &mut Transaction<'_>,
    request: Uuid,
    now: Timestamp,
) -> Result<(), LedgerError> {
    sqlx::query(
        "UPDATE request SET state = 'done', closed_at = $1 WHERE id = $2 AND state IN ('pending', 'claimed') \
         AND (cause IN ('command', 'replay') OR NOT EXISTS (SELECT 1 FROM rule_state WHERE rule_state.rule = request.rule))",
    )
    .bind(to_text(now))
    .bind(request.to_string())
    .execute(&mut **tx)
    .await
    .doing("closing a stopped request")?;
    Ok(())
}

/// Gives up on the requests of a rule that is gone, but for one that is at work.
pub(super) async fn abandon_all(
    tx: &mut Transaction<'_>,
    rule: &Name,
    now: Timestamp,
) -> Result<(), LedgerError> {
    sqlx::query(
        "UPDATE request SET state = 'abandoned', closed_at = $1, note = 'its rule is gone' \
         WHERE rule = $2 AND state IN ('pending', 'claimed') \
         AND NOT EXISTS (SELECT 1 FROM run WHERE request_id = request.id AND state = 'running')",
    )
    .bind(to_text(now))
    .bind(rule.as_str())
    .execute(&mut **tx)
    .await
    .doing("giving up on the requests of a rule")?;
    Ok(())
}
