//! Where a run stands by what the ledger says, and what comes next: the one door to
//! [`transition::next`] for all that writes runs and batches.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;
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

/// Where a run stands, and its batches without an outcome, by their ids.
pub(super) struct Standing {
    pub(super) state: State,
    pub(super) open: BTreeMap<Uuid, u64>,
    /// The epoch of the legal holds. On PostgreSQL it may be another by now, unless it is locked.
    pub(super) epoch: Option<u64>,
}

/// Where a run stands. Nobody else moves it before the transaction ends: on PostgreSQL its row is
/// locked, on SQLite the transaction is the one writer.
pub(super) async fn standing(tx: &mut Transaction<'_>, run: Uuid) -> Result<Standing, LedgerError> {
    const DOING: &str = "looking where a run stands";
    if tx.backend_name() == "PostgreSQL" {
        run_end(tx, run, " FOR UPDATE").await?;
    }
    // A run has thousands of batches: what the last and the open ones say is enough for one step, and both are found in an
    // index. The open ones of all runs are few; by its `run_id` as it stands SQLite would look through all of this run.
    let rows = sqlx::query(
        "SELECT run.state AS state, (SELECT max(seq) FROM batch WHERE run_id = $1) AS last, seq, \
                batch.id AS batch, (SELECT epoch FROM hold_epoch WHERE id = 1) AS epoch \
         FROM run LEFT JOIN batch ON batch.run_id || '' = run.id AND batch.state = 'intended' \
         WHERE run.id = $1",
    )
    .bind(run.to_string())
    .fetch_all(&mut **tx)
    .await
    .doing(DOING)?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound).doing(DOING)?;
    let epoch = first.optional_count("epoch")?;
    if let Some(end) = read_end(first)? {
        return Ok(Standing { state: State::Ended(end), open: BTreeMap::new(), epoch });
    }
    let mut open = BTreeMap::new();
    for row in &rows {
        if let Some(sequence) = row.optional_count("seq")? {
            open.insert(row.id("batch")?, sequence);
        }
    }
    let next = first.optional_count("last")?.map_or(0, |last| last + 1);
    let state = State::Running { next, open: open.values().copied().collect() };
    Ok(Standing { state, open, epoch })
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
    read_end(&row)
}

fn read_end(row: &AnyRow) -> Result<Option<RunEnd>, LedgerError> {
    row.word("state", |word| match word {
        "running" => Some(None),
        word => RunEnd::from_word(word).map(Some),
    })
}
