//! What people see of notices, and what they do with them: list, show, have tried again, exempt.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::{Moved, receipts, take_step};
use crate::audit::{Entry, Event};
use crate::ledger::error::Doing;
use crate::ledger::row::Columns;
use crate::ledger::{Ledger, LedgerError, Transaction, audit, commit, to_text};
use crate::notice::{State, Step};
use crate::types::Name;

/// Notices that somebody acts on in one transaction.
const AT_ONCE: i64 = 500;

/// A notice, without whom it is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Notice {
    /// Its id.
    pub id: Uuid,
    /// Who is told.
    pub recipient: Name,
    /// The rule that took the records.
    pub rule: Name,
    /// The run that did.
    pub run: Uuid,
    /// Where it stands.
    pub state: State,
    /// Whether its due time has passed before it was over.
    pub overdue: bool,
    /// How many subjects or records it names.
    pub subjects: u64,
    /// When the deletion was recorded.
    pub created_at: Timestamp,
    /// When it must be over.
    pub due_at: Timestamp,
    /// When it is told, or asked about, next.
    pub next_at: Option<Timestamp>,
    /// Attempts in vain since the last one that was not.
    pub attempts: u64,
    /// When the recipient first received it.
    pub sent_at: Option<Timestamp>,
    /// When it was completed, denied, exempted, or given up.
    pub ended_at: Option<Timestamp>,
    /// The recipient's own name of the job.
    pub job: Option<String>,
    /// Why it was denied or exempted; these are the recipient's words, or somebody's here.
    pub reason: Option<String>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// Which notices are meant.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NoticeFilter {
    /// Only this one.
    pub id: Option<Uuid>,
    /// Only to this recipient.
    pub recipient: Option<Name>,
    /// Only of this rule.
    pub rule: Option<Name>,
    /// Only of this run.
    pub run: Option<Uuid>,
    /// Only in these states; in any where there are none.
    pub states: Vec<State>,
    /// Only those that are overdue.
    pub overdue: bool,
}

/// How a recipient does.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct RecipientState {
    /// Notices that are not over, by state.
    pub open: BTreeMap<State, u64>,
    /// Notices that are overdue.
    pub overdue: u64,
    /// Notices that it has completed.
    pub completed: u64,
    /// When the oldest notice that is not over was written.
    pub oldest: Option<Timestamp>,
    /// When it last answered well.
    pub answered_at: Option<Timestamp>,
    /// Since when it has not.
    pub failing_since: Option<Timestamp>,
    /// Since when it wants to be told nothing any more.
    pub stopped_at: Option<Timestamp>,
    /// What went wrong last.
    pub error: Option<String>,
}

impl RecipientState {
    /// Notices that are not over.
    pub fn waiting(&self) -> u64 {
        self.open.values().sum()
    }
}

const COLUMNS: &str = "seq, id, recipient, rule, run_id, state, overdue, subjects, created_at, due_at, next_at, \
                       attempts, sent_at, ended_at, job, reason, error";
/// The states of notices that the deletion waits for, for statements.
const OPEN: &str = "('pending', 'sent', 'accepted', 'denied', 'failed')";

impl NoticeFilter {
    /// The condition, with `$1` to `$4` for what [`NoticeFilter::values`] gives.
    fn condition(&self) -> String {
        let mut parts = Vec::new();
        let fields = ["id", "recipient", "rule", "run_id"];
        let given = self.values().into_iter().zip(fields).filter(|(value, _)| value.is_some());
        parts.extend(
            given.enumerate().map(|(place, (_, field))| format!("{field} = ${}", place + 1)),
        );
        if !self.states.is_empty() {
            let states: Vec<_> =
                self.states.iter().map(|state| format!("'{}'", state.as_str())).collect();
            parts.push(format!("state IN ({})", states.join(", ")));
        }
        if self.overdue {
            parts.push(format!("overdue = 1 AND state IN {OPEN}"));
        }
        if parts.is_empty() { "1 = 1".to_owned() } else { parts.join(" AND ") }
    }

    fn values(&self) -> [Option<String>; 4] {
        [
            self.id.map(|id| id.to_string()),
            self.recipient.as_ref().map(Name::to_string),
            self.rule.as_ref().map(Name::to_string),
            self.run.map(|run| run.to_string()),
        ]
    }

    /// The rows that are meant, `and` more of a condition, in the order they were written.
    async fn select(
        &self,
        tx: &mut Transaction<'_>,
        what: &'static str,
        and: &str,
        limit: i64,
    ) -> Result<Vec<AnyRow>, LedgerError> {
        // Put together from constants, words of this program and placeholders.
        let statement = format!(
            "SELECT {what} FROM notice WHERE {}{and} ORDER BY seq LIMIT {limit}",
            self.condition()
        );
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for value in self.values().into_iter().flatten() {
            query = query.bind(value);
        }
        query.fetch_all(&mut **tx).await.doing("reading notices")
    }
}

impl Ledger {
    /// The notices that are meant, in the order they were written, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn notices(
        &self,
        filter: &NoticeFilter,
        limit: u32,
    ) -> Result<Vec<Notice>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = filter.select(&mut tx, COLUMNS, "", i64::from(limit)).await?;
        rows.iter().map(|row| self.open_notice(row)).collect()
    }

    fn open_notice(&self, row: &AnyRow) -> Result<Notice, LedgerError> {
        let id = row.id("id")?;
        Ok(Notice {
            id,
            recipient: row.name("recipient")?,
            rule: row.name("rule")?,
            run: row.id("run_id")?,
            state: row.word("state", State::from_word)?,
            overdue: row.count("overdue")? > 0,
            subjects: row.count("subjects")?,
            created_at: row.moment("created_at")?,
            due_at: row.moment("due_at")?,
            next_at: row.optional_moment("next_at")?,
            attempts: row.count("attempts")?,
            sent_at: row.optional_moment("sent_at")?,
            ended_at: row.optional_moment("ended_at")?,
            job: self.open_text(id, "job", row)?,
            reason: self.open_text(id, "reason", row)?,
            error: row.optional_text("error")?,
        })
    }

    /// Has notices tried again that were denied, were given up, or of which nothing was heard; those that wait for
    /// their next attempt have it now. Gives how many.
    ///
    /// # Errors
    /// When the database does not answer; what was changed by then stays so.
    pub async fn retry_notices(
        &self,
        filter: &NoticeFilter,
        by: &str,
        now: Timestamp,
    ) -> Result<u64, LedgerError> {
        let (mut after, mut all) = (0, 0);
        loop {
            let mut tx = self.begin().await?;
            let and = format!(" AND state IN {OPEN} AND seq > {after}");
            let rows = filter.select(&mut tx, "seq, recipient", &and, AT_ONCE).await?;
            let Some(last) = rows.last() else { return Ok(all) };
            let before = after;
            after = last.optional_integer("seq")?.unwrap_or(i64::MAX);
            let mut retried: BTreeMap<Name, u64> = BTreeMap::new();
            for row in &rows {
                let seq = row.optional_integer("seq")?.unwrap_or_default();
                take_step(&mut tx, seq, Step::Retry, now).await?;
                sqlx::query(
                    "UPDATE notice SET next_at = $1, attempts = 0 WHERE seq = $2 AND state = 'pending'",
                )
                .bind(to_text(now))
                .bind(seq)
                .execute(&mut *tx)
                .await
                .doing("having a notice tried again")?;
                *retried.entry(row.name("recipient")?).or_default() += 1;
            }
            for (recipient, notices) in retried {
                receipts::forget(&mut tx, &recipient, (before, after)).await?;
                sqlx::query("UPDATE recipient SET stopped_at = NULL WHERE recipient = $1")
                    .bind(recipient.as_str())
                    .execute(&mut *tx)
                    .await
                    .doing("having a notice tried again")?;
                all += notices;
                let event = Event::NoticesRetried { recipient, notices, by: by.to_owned() };
                audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
            }
            commit(tx).await?;
        }
    }

    /// Records that a recipient need not carry out a notice, and why; whom it is about is forgotten. Says whether it
    /// was not over already; `None` where there is no such notice.
    ///
    /// # Errors
    /// When the database does not answer; nothing is changed then.
    pub async fn exempt_notice(
        &self,
        id: Uuid,
        reason: &str,
        by: &str,
        now: Timestamp,
    ) -> Result<Option<bool>, LedgerError> {
        let mut tx = self.begin().await?;
        let filter = NoticeFilter { id: Some(id), ..NoticeFilter::default() };
        let rows = filter.select(&mut tx, "seq, recipient, sent_at", "", 1).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (seq, recipient) =
            (row.optional_integer("seq")?.unwrap_or_default(), row.name("recipient")?);
        let moved: Option<Moved> = take_step(&mut tx, seq, Step::Exempt, now).await?;
        let Some((run, rule, _)) = moved else { return Ok(Some(false)) };
        // That somebody here exempts it does not mean that the recipient has heard of it.
        sqlx::query("UPDATE notice SET reason = $1, sent_at = $2 WHERE seq = $3")
            .bind(self.seal_text(id, "reason", reason))
            .bind(row.optional_text("sent_at")?)
            .bind(seq)
            .execute(&mut *tx)
            .await
            .doing("exempting a notice")?;
        let by = by.to_owned();
        let event = Event::NoticeExempted { run, rule, recipient, notice: id, by };
        audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        commit(tx).await?;
        Ok(Some(true))
    }

    /// Marks the notices that have become overdue, and tells the audit log. Gives how many, by recipient.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mark_overdue(&self, now: Timestamp) -> Result<BTreeMap<Name, u64>, LedgerError> {
        let doing = "looking for overdue notices";
        // Most of the time there are none, and then nothing is written.
        let mut tx = self.snapshot().await?;
        let some = sqlx::query(AssertSqlSafe(format!(
            "SELECT seq FROM notice WHERE overdue = 0 AND state IN {OPEN} AND due_at < $1 LIMIT 1"
        )));
        if some.bind(to_text(now)).fetch_optional(&mut *tx).await.doing(doing)?.is_none() {
            return Ok(BTreeMap::new());
        }
        drop(tx);
        let mut tx = self.begin().await?;
        let marked = sqlx::query(AssertSqlSafe(format!(
            "UPDATE notice SET overdue = 1 WHERE overdue = 0 AND state IN {OPEN} AND due_at < $1 \
             RETURNING run_id, rule, recipient"
        )));
        let rows = marked.bind(to_text(now)).fetch_all(&mut *tx).await.doing(doing)?;
        let (mut by_run, mut by_recipient) = (BTreeMap::new(), BTreeMap::new());
        for row in &rows {
            let place = (row.name("recipient")?, row.id("run_id")?, row.name("rule")?);
            *by_recipient.entry(place.0.clone()).or_default() += 1;
            *by_run.entry(place).or_default() += 1;
        }
        for ((recipient, run, rule), notices) in by_run {
            let event = Event::NoticesOverdue { run, rule, recipient, notices };
            audit::append(&mut tx, &self.keys, &Entry { at: now, event }).await?;
        }
        commit(tx).await?;
        Ok(by_recipient)
    }

    /// How each recipient does that was ever told anything.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn recipient_states(&self) -> Result<BTreeMap<Name, RecipientState>, LedgerError> {
        let doing = "reading how recipients do";
        let mut tx = self.snapshot().await?;
        let mut states: BTreeMap<Name, RecipientState> = BTreeMap::new();
        let rows = sqlx::query("SELECT * FROM recipient").fetch_all(&mut *tx).await.doing(doing)?;
        for row in &rows {
            let state = RecipientState {
                completed: row.count("completed")?,
                answered_at: row.optional_moment("answered_at")?,
                failing_since: row.optional_moment("failing_since")?,
                stopped_at: row.optional_moment("stopped_at")?,
                error: row.optional_text("error")?,
                ..RecipientState::default()
            };
            states.insert(row.name("recipient")?, state);
        }
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT recipient, state, count(*) AS notices, CAST(sum(overdue) AS BIGINT) AS overdue, \
             min(created_at) AS oldest FROM notice WHERE state IN {OPEN} GROUP BY recipient, state"
        )));
        for row in &rows.fetch_all(&mut *tx).await.doing(doing)? {
            let state = states.entry(row.name("recipient")?).or_default();
            state.open.insert(row.word("state", State::from_word)?, row.count("notices")?);
            state.overdue += row.count("overdue")?;
            let oldest = row.moment("oldest")?;
            state.oldest = Some(state.oldest.map_or(oldest, |known| known.min(oldest)));
        }
        Ok(states)
    }

    /// Where the notices of a run stand: how many by recipient and state.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn notices_of_run(
        &self,
        run: Uuid,
    ) -> Result<BTreeMap<Name, BTreeMap<State, u64>>, LedgerError> {
        self.notices_of(run, None).await
    }

    /// Where the notices of a batch stand: how many by recipient and state.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn notices_of_batch(
        &self,
        run: Uuid,
        batch: Uuid,
    ) -> Result<BTreeMap<Name, BTreeMap<State, u64>>, LedgerError> {
        self.notices_of(run, Some(batch)).await
    }

    async fn notices_of(
        &self,
        run: Uuid,
        batch: Option<Uuid>,
    ) -> Result<BTreeMap<Name, BTreeMap<State, u64>>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let of_batch = if batch.is_some() { " AND batch_id = $2" } else { "" };
        // Put together from constants.
        let mut query = sqlx::query(AssertSqlSafe(format!(
            "SELECT recipient, state, count(*) AS notices FROM notice WHERE run_id = $1{of_batch} \
             GROUP BY recipient, state"
        )));
        query = query.bind(run.to_string());
        if let Some(batch) = batch {
            query = query.bind(batch.to_string());
        }
        let rows = query.fetch_all(&mut *tx).await.doing("reading the notices of a run")?;
        let mut stand: BTreeMap<Name, BTreeMap<State, u64>> = BTreeMap::new();
        for row in &rows {
            let states = stand.entry(row.name("recipient")?).or_default();
            states.insert(row.word("state", State::from_word)?, row.count("notices")?);
        }
        Ok(stand)
    }

    /// Records how a recipient does; `stopped` when it wants to be told nothing any more. Since when it fails is kept.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn note_recipient(
        &self,
        recipient: &Name,
        error: Option<&str>,
        stopped: bool,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        let (now, is_well) = (to_text(now), error.is_none());
        sqlx::query(
            "INSERT INTO recipient (recipient, answered_at, failing_since, stopped_at, error) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (recipient) DO UPDATE SET \
             answered_at = coalesce(excluded.answered_at, recipient.answered_at), \
             failing_since = CASE WHEN excluded.failing_since IS NULL THEN NULL \
                             ELSE coalesce(recipient.failing_since, excluded.failing_since) END, \
             stopped_at = excluded.stopped_at, error = excluded.error",
        )
        .bind(recipient.as_str())
        .bind(is_well.then_some(&now))
        .bind((!is_well).then_some(&now))
        .bind(stopped.then_some(&now))
        .bind(error)
        .execute(&mut *tx)
        .await
        .doing("recording how a recipient does")?;
        commit(tx).await
    }
}
