//! Checks the audit log against its signed checkpoint, entry by entry.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;
use uuid::Uuid;

use super::error::Doing;
use super::row::Columns;
use super::{Ledger, LedgerError, Transaction, audit, to_text};
use crate::audit::review::{Evidence, Problem, Review, Verification};
use crate::audit::tree::Frontier;
use crate::audit::{Commitments, Entry, Event, Hash};
use crate::keys::Hand;
use crate::types::Name;

const VERIFYING: &str = "verifying the audit log";
/// Entries that are in memory at a time.
const PAGE: i64 = 500;

/// The head as far as it could be read.
#[derive(Default)]
struct Head {
    size: Option<u64>,
    frontier: Option<Vec<u8>>,
    checkpoint: Option<String>,
}

/// The state of a walk through the log.
struct Walk {
    review: Review,
    /// Where the next entry should be.
    expected: i64,
    rows: i64,
}

impl Ledger {
    /// Reads the whole audit log in order and reports whatever is not as expunged wrote it: entries
    /// that were changed, removed, inserted or put in another order, looked-up columns and hashes
    /// that do not fit, a root, size or signature that is wrong.
    ///
    /// It sees one moment, while others go on appending. What it cannot see is that the whole ledger
    /// was put back to an earlier state: for that a checkpoint must be kept elsewhere.
    ///
    /// # Errors
    /// When the log could not be checked; what is wrong with it is not an error.
    pub async fn verify_audit(&self) -> Result<Verification, LedgerError> {
        self.verify_audit_since(Vec::new()).await
    }

    /// As [`Ledger::verify_audit`], and holds the log against signed checkpoints that were kept
    /// elsewhere: with one that is newer than what the ledger was put back to, that is found too.
    ///
    /// # Errors
    /// When the log could not be checked; what is wrong with it is not an error.
    pub async fn verify_audit_since(&self, kept: Vec<String>) -> Result<Verification, LedgerError> {
        let mut snapshot = self.snapshot().await?;
        let mut problems = Vec::new();
        let head = read_head(&mut snapshot, &mut problems).await?;
        let bridges = match audit::read_bridges(&mut snapshot).await {
            Err(LedgerError::Damaged { .. }) => BTreeMap::new(),
            Err(LedgerError::Database { source, .. }) if is_undecodable(&source) => BTreeMap::new(),
            read => read?,
        };
        let checkpoint = head.checkpoint.clone();
        let opened = self.keys.open_checkpoint(checkpoint.as_deref().unwrap_or_default());
        let keys = self.keys.verifiers(opened.map_or(Hand::Present, |(_, hand)| hand));
        let evidence = Evidence { keys, head: checkpoint, bridges, kept };
        let mut walk = Walk { review: Review::new(evidence), expected: 0, rows: 0 };
        for problem in problems {
            walk.review.report(problem);
        }
        let mut from = i64::MIN;
        loop {
            let page = read_page(&mut snapshot, from).await?;
            let Some((last, _)) = page.last() else { break };
            let next = last.checked_add(1);
            for (position, row) in page {
                if let Some(Event::BatchDone { batch, commitments, .. }) = walk.step(position, row)
                    && !is_kept(&mut snapshot, batch, commitments).await?
                {
                    let position = u64::try_from(position).unwrap_or_default();
                    walk.review.report(Problem::Commitments { position });
                }
            }
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_entry")
            .fetch_one(&mut *snapshot)
            .await
            .doing(VERIFYING)?;
        snapshot.open.rollback().await.doing(VERIFYING)?;
        Ok(walk.finish(&head, rows))
    }
}

/// Whether the commitments of a batch, where the ledger keeps them, are those that its entry names.
async fn is_kept(
    snapshot: &mut Transaction<'_>,
    batch: Uuid,
    root: Hash,
) -> Result<bool, LedgerError> {
    match audit::read_commitments(snapshot, batch).await {
        Ok(None) => Ok(true),
        Ok(Some(bytes)) => {
            let commitments = Commitments::from_bytes(&bytes);
            Ok(commitments.is_ok_and(|commitments| commitments.root() == root))
        }
        Err(LedgerError::Database { source, .. }) if is_undecodable(&source) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn read_head(
    snapshot: &mut Transaction<'_>,
    problems: &mut Vec<Problem>,
) -> Result<Head, LedgerError> {
    let query = sqlx::query("SELECT size, frontier, checkpoint FROM audit_head LIMIT 2");
    let rows = match query.fetch_all(&mut **snapshot).await {
        Err(error) if is_undecodable(&error) => Vec::new(),
        rows => rows.doing(VERIFYING)?,
    };
    let [row] = rows.as_slice() else {
        problems.push(Problem::Head);
        return Ok(Head::default());
    };
    Ok(Head {
        size: row.count("size").ok(),
        frontier: row.bytes("frontier").ok(),
        // What is no text is no checkpoint either, and is reported as that.
        checkpoint: Some(row.text("checkpoint").unwrap_or_default()),
    })
}

/// The next rows of the log, each with its position; a row that does not even decode is `None`.
///
/// The table may have been rebuilt without its constraints. Hence the upper bound and the cast:
/// SQLite would let a position be text, which sorts after all numbers, or a fraction. Rows that
/// this leaves out show in the count.
async fn read_page(
    snapshot: &mut Transaction<'_>,
    from: i64,
) -> Result<Vec<(i64, Option<AnyRow>)>, LedgerError> {
    let query = sqlx::query(
        "SELECT CAST(position AS BIGINT) AS position, at, kind, rule, store, run_id, entry, leaf_hash \
         FROM audit_entry WHERE position BETWEEN $1 AND $2 ORDER BY audit_entry.position LIMIT $3",
    );
    let rows = query.bind(from).bind(i64::MAX).bind(PAGE).fetch_all(&mut **snapshot).await;
    match rows {
        Ok(rows) => {
            let with_position = |row: AnyRow| Ok((position(&row)?, Some(row)));
            rows.into_iter().map(with_position).collect()
        }
        Err(error) if is_undecodable(&error) => read_page_singly(snapshot, from).await,
        Err(error) => Err(error).doing(VERIFYING),
    }
}

/// As [`read_page`], row by row, so that one that does not decode does not hide the others.
async fn read_page_singly(
    snapshot: &mut Transaction<'_>,
    from: i64,
) -> Result<Vec<(i64, Option<AnyRow>)>, LedgerError> {
    let positions: Vec<i64> = sqlx::query_scalar(
        "SELECT CAST(position AS BIGINT) FROM audit_entry WHERE position BETWEEN $1 AND $2 \
         ORDER BY audit_entry.position LIMIT $3",
    )
    .bind(from)
    .bind(i64::MAX)
    .bind(PAGE)
    .fetch_all(&mut **snapshot)
    .await
    .doing(VERIFYING)?;
    let mut page = Vec::new();
    for position in positions {
        let query = sqlx::query(
            "SELECT at, kind, rule, store, run_id, entry, leaf_hash FROM audit_entry \
             WHERE position = $1",
        );
        match query.bind(position).fetch_optional(&mut **snapshot).await {
            Ok(row) => page.push((position, row)),
            Err(error) if is_undecodable(&error) => page.push((position, None)),
            Err(error) => return Err(error).doing(VERIFYING),
        }
    }
    Ok(page)
}

fn is_undecodable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
}

fn position(row: &AnyRow) -> Result<i64, LedgerError> {
    let position = row.optional_integer("position")?;
    position.ok_or(LedgerError::Damaged { column: "position", found: "nothing" })
}

impl Walk {
    /// Looks at the next row; gives what its entry says, if it can be read.
    fn step(&mut self, position: i64, row: Option<AnyRow>) -> Option<Event> {
        self.rows += 1;
        if position < self.expected {
            self.review.report(Problem::Misplaced { position });
        } else {
            if position > self.expected {
                let (first, last) = (self.expected, position - 1);
                self.review.report(Problem::Missing { first, last });
            }
            self.expected = position.saturating_add(1);
        }
        let entry = row.as_ref().and_then(|row| row.text("entry").ok());
        let (Some(row), Some(json)) = (row, entry) else {
            self.review.report(Problem::Unreadable { position });
            self.review.push(Hash::empty_root(), None);
            return None;
        };
        let leaf = Hash::leaf(json.as_bytes());
        if row.bytes("leaf_hash").ok().as_deref() != Some(&leaf.0) {
            self.review.report(Problem::LeafHash { position });
        }
        let entry = Entry::from_json(&json).ok();
        match &entry {
            Some(entry) => compare_columns(position, &row, entry, &mut self.review),
            None => self.review.report(Problem::Unreadable { position }),
        }
        self.review.push(leaf, entry.as_ref());
        entry.map(|entry| entry.event)
    }

    fn finish(mut self, head: &Head, rows: i64) -> Verification {
        if rows != self.rows {
            self.review.report(Problem::Count { rows, found: self.rows });
        }
        let (mut found, signed) = self.review.finish();
        let Some(signed) = signed else { return found };
        if head.size != Some(signed.size) {
            found.report(Problem::HeadColumn { column: "size" });
        }
        let frontier = head.frontier.as_deref().and_then(|bytes| Frontier::from_bytes(bytes).ok());
        let vouched =
            frontier.is_some_and(|own| own.size() == signed.size && own.root() == signed.root);
        if !vouched {
            found.report(Problem::HeadColumn { column: "frontier" });
        }
        found
    }
}

/// Reports each column that does not repeat what the entry says.
fn compare_columns(position: i64, row: &AnyRow, entry: &Entry, review: &mut Review) {
    let event = &entry.event;
    let expected = [
        ("at", Some(to_text(entry.at))),
        ("kind", Some(event.kind().to_owned())),
        ("rule", event.rule().map(Name::to_string)),
        ("store", event.store().map(Name::to_string)),
        ("run_id", event.run().map(|run| run.to_string())),
    ];
    for (column, value) in expected {
        if row.optional_text(column).ok() != Some(value) {
            review.report(Problem::Column { position, column });
        }
    }
}
