//! What past runs of a rule tell: for `status`, for what is overdue, and for forecasts.

use jiff::Timestamp;
use uuid::Uuid;

use super::error::Doing;
use super::row::Columns;
use super::{Ledger, LedgerError};
use crate::audit::entry::Cause;
use crate::types::Name;

/// What `status` shows of a rule's runs.
#[derive(Clone, PartialEq, Debug)]
pub struct LastRun {
    /// The run's id.
    pub id: Uuid,
    /// `running`, `done`, `stopped`, `failed` or `observed`.
    pub state: String,
    /// Records that it took.
    pub records: u64,
    /// Records still due afterwards, or, for one that observed, that were due.
    pub remaining: Option<u64>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What went wrong.
    pub error: Option<String>,
    /// Why it ran.
    pub cause: Cause,
    /// How it reached the due rows, and why that way, where it had a choice.
    pub access: Option<String>,
}

impl Ledger {
    /// The latest run of a rule.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn last_run(&self, rule: &Name) -> Result<Option<LastRun>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query(
            "SELECT run.id, run.state, records, remaining, started_at, finished_at, error, cause, access \
             FROM run JOIN request ON request.id = run.request_id \
             WHERE run.rule = $1 ORDER BY started_at DESC LIMIT 1",
        )
        .bind(rule.as_str())
        .fetch_optional(&mut *tx)
        .await
        .doing("reading the last run")?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(LastRun {
            id: row.id("id")?,
            state: row.text("state")?,
            records: row.count("records")?,
            remaining: row.optional_count("remaining")?,
            started_at: row.moment("started_at")?,
            finished_at: row.optional_moment("finished_at")?,
            error: row.optional_text("error")?,
            cause: row.word("cause", Cause::from_word)?,
            access: row.optional_text("access")?,
        }))
    }

    /// When the latest run of a rule began that answered its slot: it went to its end, or observed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn last_complete_run(&self, rule: &Name) -> Result<Option<Timestamp>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query(
            "SELECT max(started_at) AS latest FROM run \
             WHERE rule = $1 AND state IN ('done', 'observed')",
        )
        .bind(rule.as_str())
        .fetch_one(&mut *tx)
        .await
        .doing("reading the last complete run")?;
        row.optional_moment("latest")
    }

    /// How many records runs of a rule have taken by a saved plan.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn taken_by_plan(&self, rule: &Name, digest: &str) -> Result<u64, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query(
            "SELECT CAST(coalesce(sum(records), 0) AS BIGINT) AS taken FROM run \
             WHERE rule = $1 AND plan = $2",
        )
        .bind(rule.as_str())
        .bind(digest)
        .fetch_one(&mut *tx)
        .await
        .doing("reading what a plan has taken")?;
        row.count("taken")
    }

    /// Records per second in the latest runs of a rule, where there is enough to tell.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn pace(&self, rule: &Name) -> Result<Option<f64>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let rows = sqlx::query(
            "SELECT records, started_at, finished_at FROM run \
             WHERE rule = $1 AND state IN ('done', 'stopped') AND records >= 1000 \
             ORDER BY started_at DESC LIMIT 5",
        )
        .bind(rule.as_str())
        .fetch_all(&mut *tx)
        .await
        .doing("reading the pace of earlier runs")?;
        let (mut records, mut seconds) = (0.0, 0.0);
        for row in &rows {
            let Some(finished) = row.optional_moment("finished_at")? else { continue };
            #[expect(clippy::cast_precision_loss, reason = "a forecast needs no more")]
            let taken = row.count("records")? as f64;
            records += taken;
            seconds += finished.duration_since(row.moment("started_at")?).as_secs_f64();
        }
        Ok((seconds > 0.0).then(|| records / seconds))
    }
}
