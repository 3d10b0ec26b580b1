//! Checks the audit log against its signed checkpoint, entry by entry.

use std::fmt;

use serde::Serialize;
use sqlx::any::AnyRow;

use super::error::Doing;
use super::row::Columns;
use super::{Ledger, LedgerError, Transaction, to_text};
use crate::audit::tree::Frontier;
use crate::audit::{Checkpoint, Entry, Hash};
use crate::types::Name;

const VERIFYING: &str = "verifying the audit log";
/// Entries that are in memory at a time.
const PAGE: i64 = 500;
/// Problems that are told one by one; the rest is counted.
const MAX_PROBLEMS: usize = 1_000;

/// What a look at the whole audit log has found.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// How many entries there are.
    pub entries: u64,
    /// The root of the Merkle tree over them.
    pub root: Hash,
    /// The signed checkpoint that the ledger holds.
    pub checkpoint: Option<String>,
    /// What is wrong, in the order of the log; the first thousand.
    pub problems: Vec<Problem>,
    /// How many more problems there are.
    pub omitted: u64,
}

impl Verification {
    /// Whether every entry is as it was written, and none is missing.
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    fn report(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.omitted += 1;
        }
    }
}

/// One thing that is wrong with the audit log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// Entries are missing.
    Missing {
        /// The position of the first.
        first: i64,
        /// The position of the last.
        last: i64,
    },
    /// An entry is at a position where none can be, or where one already is.
    Misplaced {
        /// Where.
        position: i64,
    },
    /// A row cannot be read as an entry.
    Unreadable {
        /// Where.
        position: i64,
    },
    /// An entry does not have the hash that is stored with it.
    LeafHash {
        /// Where.
        position: i64,
    },
    /// A column that is looked up does not say what the entry says.
    Column {
        /// Where.
        position: i64,
        /// Which.
        column: &'static str,
    },
    /// There are entries after the end that the checkpoint signs.
    Unsigned {
        /// The position of the first.
        first: u64,
        /// How many.
        count: u64,
    },
    /// There are fewer entries than the checkpoint signs.
    Truncated {
        /// How many the checkpoint signs.
        signed: u64,
        /// How many there are.
        found: u64,
    },
    /// The entries are not those that the checkpoint signs.
    Root {
        /// What the checkpoint signs.
        signed: Hash,
        /// What the entries give.
        computed: Hash,
    },
    /// The head of the log is missing or unreadable, or there are several.
    Head,
    /// The checkpoint is not one that this log's key has signed.
    Checkpoint {
        /// Why.
        reason: String,
    },
    /// A column of the head does not say what the checkpoint says.
    HeadColumn {
        /// Which.
        column: &'static str,
    },
    /// The number of rows is not the number of entries that were found: some cannot be reached.
    Count {
        /// How many rows the table has.
        rows: i64,
        /// How many of them were found.
        found: i64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing { first, last } if first == last => {
                write!(f, "entry {first} is missing")
            }
            Problem::Missing { first, last } => write!(f, "entries {first} to {last} are missing"),
            Problem::Misplaced { position } => write!(f, "an entry does not belong at {position}"),
            Problem::Unreadable { position } => write!(f, "entry {position} cannot be read"),
            Problem::LeafHash { position } => write!(f, "entry {position} was changed"),
            Problem::Column { position, column } => {
                write!(f, "column `{column}` of entry {position} was changed")
            }
            Problem::Unsigned { first, count } => {
                write!(
                    f,
                    "{count} entries from {first} on are not covered by the signed checkpoint"
                )
            }
            Problem::Truncated { signed, found } => {
                write!(f, "the signed checkpoint covers {signed} entries, and there are {found}")
            }
            Problem::Root { signed, computed } => write!(
                f,
                "the entries are not the signed ones: their root is {computed}, and {signed} was signed"
            ),
            Problem::Head => {
                write!(f, "the head of the log is missing or unreadable, or there are several")
            }
            Problem::Checkpoint { reason } => write!(f, "the checkpoint is not good: {reason}"),
            Problem::HeadColumn { column } => {
                write!(f, "column `{column}` of the log's head was changed")
            }
            Problem::Count { rows, found } => {
                write!(f, "the log has {rows} rows, and {found} of them could be read in order")
            }
        }
    }
}

/// The head as far as it could be read.
#[derive(Default)]
struct Head {
    size: Option<u64>,
    frontier: Option<Vec<u8>>,
    checkpoint: Option<Checkpoint>,
}

/// The state of a walk through the log.
struct Walk {
    /// The tree over all entries so far.
    all: Frontier,
    /// The root over as many entries as the checkpoint signs, once there are so many.
    signed: Option<Hash>,
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
        let mut snapshot = self.snapshot().await?;
        let mut found = Verification {
            entries: 0,
            root: Hash::empty_root(),
            checkpoint: None,
            problems: Vec::new(),
            omitted: 0,
        };
        let head = self.read_head(&mut snapshot, &mut found).await?;
        let signed_size = head.checkpoint.as_ref().map(|checkpoint| checkpoint.size);
        let mut walk = Walk { all: Frontier::new(), signed: None, expected: 0, rows: 0 };
        walk.mark(signed_size);
        let mut from = i64::MIN;
        loop {
            let page = read_page(&mut snapshot, from).await?;
            let Some((last, _)) = page.last() else { break };
            let next = last.checked_add(1);
            for (position, row) in page {
                walk.step(position, row, &mut found);
                walk.mark(signed_size);
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
        walk.finish(&head, rows, &mut found);
        snapshot.rollback().await.doing(VERIFYING)?;
        Ok(found)
    }

    async fn read_head(
        &self,
        snapshot: &mut Transaction<'_>,
        found: &mut Verification,
    ) -> Result<Head, LedgerError> {
        let query = sqlx::query("SELECT size, frontier, checkpoint FROM audit_head LIMIT 2");
        let rows = match query.fetch_all(&mut **snapshot).await {
            Err(error) if is_undecodable(&error) => Vec::new(),
            rows => rows.doing(VERIFYING)?,
        };
        let [row] = rows.as_slice() else {
            found.report(Problem::Head);
            return Ok(Head::default());
        };
        found.checkpoint = row.text("checkpoint").ok();
        let opened = self.keys.open_checkpoint(found.checkpoint.as_deref().unwrap_or_default());
        let checkpoint = match opened {
            Ok(checkpoint) => Some(checkpoint),
            Err(error) => {
                found.report(Problem::Checkpoint { reason: error.to_string() });
                None
            }
        };
        Ok(Head { size: row.count("size").ok(), frontier: row.bytes("frontier").ok(), checkpoint })
    }
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
    /// Notes the root when the walk has come as far as the checkpoint signs.
    fn mark(&mut self, signed_size: Option<u64>) {
        if signed_size == Some(self.all.size()) && self.signed.is_none() {
            self.signed = Some(self.all.root());
        }
    }

    fn step(&mut self, position: i64, row: Option<AnyRow>, found: &mut Verification) {
        self.rows += 1;
        if position < self.expected {
            found.report(Problem::Misplaced { position });
        } else {
            if position > self.expected {
                found.report(Problem::Missing { first: self.expected, last: position - 1 });
            }
            self.expected = position.saturating_add(1);
        }
        let entry = row.as_ref().and_then(|row| row.text("entry").ok());
        let (Some(row), Some(entry)) = (row, entry) else {
            found.report(Problem::Unreadable { position });
            self.all.push(Hash::empty_root());
            return;
        };
        let leaf = Hash::leaf(entry.as_bytes());
        self.all.push(leaf);
        if row.bytes("leaf_hash").ok().as_deref() != Some(&leaf.0) {
            found.report(Problem::LeafHash { position });
        }
        match Entry::from_json(&entry) {
            Ok(entry) => compare_columns(position, &row, &entry, found),
            Err(_) => found.report(Problem::Unreadable { position }),
        }
    }

    fn finish(self, head: &Head, rows: i64, found: &mut Verification) {
        found.entries = self.all.size();
        found.root = self.all.root();
        if rows != self.rows {
            found.report(Problem::Count { rows, found: self.rows });
        }
        let Some(checkpoint) = &head.checkpoint else { return };
        if found.entries < checkpoint.size {
            found.report(Problem::Truncated { signed: checkpoint.size, found: found.entries });
        }
        if found.entries > checkpoint.size {
            let (first, count) = (checkpoint.size, found.entries - checkpoint.size);
            found.report(Problem::Unsigned { first, count });
        }
        let computed = self.signed.unwrap_or(found.root);
        if computed != checkpoint.root {
            found.report(Problem::Root { signed: checkpoint.root, computed });
        }
        if head.size != Some(checkpoint.size) {
            found.report(Problem::HeadColumn { column: "size" });
        }
        let frontier = head.frontier.as_deref().and_then(|bytes| Frontier::from_bytes(bytes).ok());
        let vouched = frontier
            .is_some_and(|own| own.size() == checkpoint.size && own.root() == checkpoint.root);
        if !vouched {
            found.report(Problem::HeadColumn { column: "frontier" });
        }
    }
}

/// Reports each column that does not repeat what the entry says.
fn compare_columns(position: i64, row: &AnyRow, entry: &Entry, found: &mut Verification) {
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
            found.report(Problem::Column { position, column });
        }
    }
}
