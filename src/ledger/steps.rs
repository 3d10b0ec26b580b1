//! Where a run stands by what the ledger says, and what comes next: the one door to
//! [`transition::next`] for all that writes runs and batches.

use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::error::Doing;
use super::row::Columns;
use super::{Ledger, LedgerError, Run, Transaction};
use crate::audit::entry::RunEnd;
use crate::transition::{self, BatchEnd, BatchState, State, Step};

impl Ledger {
    /// Replays what is recorded of a run, step by step, and gives where it stands.
    ///
    /// # Errors
    /// When no run leaves such records behind, or the database does not answer.
    pub async fn replay(&self, run: &Run) -> Result<State, LedgerError> {
        let mut tx = self.snapshot().await?;
        let end = run_end(&mut tx, run.id, "").await?;
        let rows = sqlx::query("SELECT seq, state FROM batch WHERE run_id = $1 ORDER BY seq")
            .bind(run.id.to_string())
            .fetch_all(&mut *tx)
            .await
            .doing("replaying a run")?;
        let batches = rows.iter().map(|row| {
            let end = row.word("state", |word| match word {
                "intended" => Some(None),
                "done" => Some(Some(BatchEnd::Done)),
                "undone" => Some(Some(BatchEnd::Undone)),
                _ => None,
            })?;
            Ok(BatchState { sequence: row.count("seq")?, end })
        });
        let batches = batches.collect::<Result<Vec<_>, LedgerError>>()?;
        transition::replay(batches, end)
            .map_err(|source| LedgerError::Impossible { run: run.id, source })
    }
}

/// The state after a step of a run, where the step is legal.
pub(super) fn step(run: Uuid, state: State, step: Step) -> Result<State, LedgerError> {
    transition::next(state, step).map_err(|source| LedgerError::Illegal { run, source })
}

/// Where a run stands. Nobody else moves it before the transaction ends: on PostgreSQL its row is
/// locked, on SQLite the transaction is the one writer.
pub(super) async fn standing(tx: &mut Transaction<'_>, run: Uuid) -> Result<State, LedgerError> {
    let lock = if tx.backend_name() == "PostgreSQL" { " FOR UPDATE" } else { "" };
    if let Some(end) = run_end(tx, run, lock).await? {
        return Ok(State::Ended(end));
    }
    // A run has thousands of batches: what the last and the open ones say is enough for one step, and
    // both are found in an index.
    let rows = sqlx::query(
        "SELECT (SELECT max(seq) FROM batch WHERE run_id = $1) AS last, seq FROM run \
         LEFT JOIN batch ON run_id = run.id AND batch.state = 'intended' WHERE run.id = $1",
    )
    .bind(run.to_string())
    .fetch_all(&mut **tx)
    .await
    .doing("looking where a run stands")?;
    let (mut next, mut open) = (0, BTreeSet::new());
    for row in &rows {
        next = row.optional_count("last")?.map_or(0, |last| last + 1);
        open.extend(row.optional_count("seq")?);
    }
    Ok(State::Running { next, open })
}

/// How a run ended; `None` while it is running.
async fn run_end(
    tx: &mut Transaction<'_>,
    run: Uuid,
    lock: &'static str,
) -> Result<Option<RunEnd>, LedgerError> {
    // The text is put together from constants.
    let query = AssertSqlSafe(format!("SELECT state FROM run WHERE id = $1{lock}"));
    let row = sqlx::query(query)
        .bind(run.to_string())
        .fetch_one(&mut **tx)
        .await
        .doing("looking where a run stands")?;
    row.word("state", |word| match word {
        "running" => Some(None),
        word => RunEnd::from_word(word).map(Some),
    })
}

/// The number of a batch without an outcome; `None` when it has one, or is none of the run's.
pub(super) async fn open_sequence(
    tx: &mut Transaction<'_>,
    run: Uuid,
    batch: Uuid,
) -> Result<Option<u64>, LedgerError> {
    let row =
        sqlx::query("SELECT seq FROM batch WHERE id = $1 AND run_id = $2 AND state = 'intended'")
            .bind(batch.to_string())
            .bind(run.to_string())
            .fetch_optional(&mut **tx)
            .await
            .doing("settling a batch")?;
    row.map(|row| row.count("seq")).transpose()
}
