//! One run in full, for certificates and for those who ask about a record.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::error::Doing;
use super::row::Columns;
use super::{Ledger, LedgerError};
use crate::audit::entry::{ActionKind, Cause, RunMode};
use crate::plan::Verification;
use crate::types::Name;

/// A run, with everything that the ledger knows of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RunReport {
    /// Its id.
    pub id: Uuid,
    /// Its rule.
    pub rule: Name,
    /// Which version of the rule.
    pub rule_digest: String,
    /// Its store.
    pub store: Name,
    /// Its table.
    pub table: String,
    /// What it did to records.
    pub action: ActionKind,
    /// Whether it acted.
    pub mode: RunMode,
    /// Why it ran.
    pub cause: Cause,
    /// `running`, `done`, `stopped`, `failed` or `observed`.
    pub state: String,
    /// Records whose starting point lay before it were due.
    pub cutoff: Timestamp,
    /// Records that it took.
    pub records: u64,
    /// Batches that were carried out.
    pub batches: u64,
    /// Batches whose outcome is not known.
    pub open_batches: u64,
    /// Records still due when expunged looked again.
    pub remaining: Option<u64>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The digest of the saved plan that it carried out.
    pub plan: Option<String>,
    /// What was seen of the records afterwards.
    pub verification: Option<Verification>,
}

impl Ledger {
    /// A run in full; `None` where there is none of this id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn run_report(&self, run: Uuid) -> Result<Option<RunReport>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let row = sqlx::query(
            "SELECT run.id, run.rule, run.rule_digest, run.store, run.table_name, run.action, run.mode, \
                    request.cause, run.state, run.cutoff, run.records, run.remaining, run.started_at, \
                    run.finished_at, run.plan, run.verification, \
                    (SELECT count(*) FROM batch WHERE run_id = run.id AND state = 'done') AS batches, \
                    (SELECT count(*) FROM batch WHERE run_id = run.id AND state = 'intended') AS open_batches \
             FROM run JOIN request ON request.id = run.request_id \
             WHERE run.id = $1",
        )
        .bind(run.to_string())
        .fetch_optional(&mut *tx)
        .await
        .doing("reading a run")?;
        let Some(row) = row else { return Ok(None) };
        let damaged = LedgerError::Damaged { column: "verification", found: "no verification" };
        let verification = row.optional_text("verification")?;
        let verification = verification.map(|json| serde_json::from_str(&json)).transpose();
        Ok(Some(RunReport {
            id: row.id("id")?,
            rule: row.name("rule")?,
            rule_digest: row.text("rule_digest")?,
            store: row.name("store")?,
            table: row.text("table_name")?,
            action: row.word("action", ActionKind::from_word)?,
            mode: row.word("mode", RunMode::from_word)?,
            cause: row.word("cause", Cause::from_word)?,
            state: row.text("state")?,
            cutoff: row.moment("cutoff")?,
            records: row.count("records")?,
            batches: row.count("batches")?,
            open_batches: row.count("open_batches")?,
            remaining: row.optional_count("remaining")?,
            started_at: row.moment("started_at")?,
            finished_at: row.optional_moment("finished_at")?,
            plan: row.optional_text("plan")?,
            verification: verification.map_err(|_| damaged)?,
        }))
    }

    /// How many records all runs of a rule have taken.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn records_taken(&self, rule: &Name) -> Result<u64, LedgerError> {
        let query = sqlx::query(
            "SELECT CAST(coalesce(sum(records), 0) AS BIGINT) AS number FROM run WHERE rule = $1",
        );
        let row = query.bind(rule.as_str()).fetch_one(&self.pool).await;
        row.doing("counting what a rule has taken")?.count("number")
    }

    /// How many batches there are whose outcome is not known.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open_batch_count(&self) -> Result<u64, LedgerError> {
        let query = sqlx::query("SELECT count(*) AS number FROM batch WHERE state = 'intended'");
        let row = query.fetch_one(&self.pool).await;
        row.doing("counting open batches")?.count("number")
    }

    /// How many entries the audit log has.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit_size(&self) -> Result<u64, LedgerError> {
        let row = sqlx::query("SELECT size FROM audit_head").fetch_one(&self.pool).await;
        row.doing("reading the size of the audit log")?.count("size")
    }
}
