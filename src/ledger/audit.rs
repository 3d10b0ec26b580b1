//! The audit log in the ledger: one per ledger, only ever appended to.
//!
//! The entries are rows; the head has the Merkle tree's frontier and the signed checkpoint. Both are
//! written in the transaction of what the entries tell of, so the log says neither more nor less
//! than what happened.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row};
use uuid::Uuid;

use super::error::{Doing, HeadError};
use super::row::{Columns, placeholders, to_integer};
use super::{Ledger, LedgerError, Transaction, to_text};
use crate::audit::tree::Frontier;
use crate::audit::{Checkpoint, Entry, Hash};
use crate::keys::{Hand, Keys};
use crate::types::Name;

const APPENDING: &str = "appending to the audit log";
const READING: &str = "reading the audit log";

/// Entries that one statement appends.
const ROWS: usize = 32;

/// Which entries of the audit log; the default is all of them, oldest first.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// About this rule.
    pub rule: Option<Name>,
    /// In this store.
    pub store: Option<Name>,
    /// Of this kind ([`crate::audit::Event::KINDS`]).
    pub kind: Option<String>,
    /// From this moment on.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// At most so many.
    pub limit: Option<u32>,
    /// The newest first.
    pub newest_first: bool,
}

/// Appends an entry and gives its position, counted from 0.
///
/// It becomes part of the log when the transaction is committed; until then all others who append
/// wait. The head is only built on when its checkpoint is one that these keys have signed: a head
/// that was tampered with must not get a good signature from us.
///
/// # Errors
/// When the entry is too long, the head is not as expunged left it, or the database does not answer.
/// The transaction must then be rolled back.
pub async fn append(
    transaction: &mut Transaction<'_>,
    keys: &Keys,
    entry: &Entry,
) -> Result<u64, LedgerError> {
    let (frontier, hand) = trusted_head(transaction, keys).await?;
    let entries = std::slice::from_ref(entry);
    extend(transaction, frontier, entries, |frontier| Some(sign(keys, frontier, hand))).await
}

/// Appends several entries, one after the other, under one signature.
///
/// # Errors
/// As for [`append`].
pub(super) async fn append_all(
    transaction: &mut Transaction<'_>,
    keys: &Keys,
    entries: &[Entry],
) -> Result<(), LedgerError> {
    if entries.is_empty() {
        return Ok(());
    }
    let (frontier, hand) = trusted_head(transaction, keys).await?;
    extend(transaction, frontier, entries, |frontier| Some(sign(keys, frontier, hand))).await?;
    Ok(())
}

/// Appends the entry that says that the signing key changes, with a checkpoint that the old key and the
/// new one sign; that checkpoint stays.
pub(super) async fn append_rotation(
    transaction: &mut Transaction<'_>,
    keys: &Keys,
    entry: &Entry,
) -> Result<u64, LedgerError> {
    let (frontier, _) = trusted_head(transaction, keys).await?;
    let by_both = |frontier: &Frontier| keys.sign_rotation(&statement(keys, frontier));
    let entries = std::slice::from_ref(entry);
    let position = extend(transaction, frontier, entries, by_both).await?;
    sqlx::query(
        "INSERT INTO audit_checkpoint (size, checkpoint) \
         SELECT size, checkpoint FROM audit_head WHERE id = 1",
    )
    .execute(&mut **transaction)
    .await
    .doing(APPENDING)?;
    Ok(position)
}

/// Writes entries at the end of the log, and the new head. Gives the position of the last.
async fn extend(
    transaction: &mut Transaction<'_>,
    mut frontier: Frontier,
    entries: &[Entry],
    sign: impl FnOnce(&Frontier) -> Option<String>,
) -> Result<u64, LedgerError> {
    let before = frontier.size();
    for entries in entries.chunks(ROWS) {
        // The text is put together from constants.
        let statement = AssertSqlSafe(insertion(transaction, entries.len()));
        let mut insert = sqlx::query(statement);
        for entry in entries {
            let json = entry.to_json()?;
            let leaf = Hash::leaf(json.as_bytes());
            let position = frontier.size();
            frontier.push(leaf);
            let event = &entry.event;
            insert = insert
                .bind(to_integer(position))
                .bind(to_text(entry.at))
                .bind(event.kind())
                .bind(event.rule().map(|rule| rule.as_str().to_owned()))
                .bind(event.store().map(|store| store.as_str().to_owned()))
                .bind(event.run().map(|run| run.to_string()))
                .bind(json)
                .bind(leaf.0.to_vec());
        }
        insert.execute(&mut **transaction).await.doing(APPENDING)?;
    }
    let checkpoint = sign(&frontier).ok_or(HeadError::NoNextKey)?;
    let moved = sqlx::query(
        "UPDATE audit_head SET size = $1, frontier = $2, checkpoint = $3 WHERE id = 1 AND size = $4",
    )
    .bind(to_integer(frontier.size()))
    .bind(frontier.to_bytes())
    .bind(checkpoint)
    .bind(to_integer(before))
    .execute(&mut **transaction)
    .await
    .doing(APPENDING)?;
    if moved.rows_affected() != 1 {
        return Err(HeadError::Missing.into());
    }
    Ok(frontier.size() - 1)
}

/// The statement that appends so many entries.
fn insertion(transaction: &Transaction<'_>, rows: usize) -> String {
    let values = placeholders(transaction, rows, 8);
    format!(
        "INSERT INTO audit_entry (position, at, kind, rule, store, run_id, entry, leaf_hash) VALUES {values}"
    )
}

/// Locks the head and gives its frontier if a checkpoint signed by these keys vouches for it, and the key
/// that goes on from there.
async fn trusted_head(
    transaction: &mut Transaction<'_>,
    keys: &Keys,
) -> Result<(Frontier, Hand), LedgerError> {
    // On SQLite the transaction itself excludes other writers.
    let query = if transaction.backend_name() == "PostgreSQL" {
        "SELECT size, frontier, checkpoint FROM audit_head WHERE id = 1 FOR UPDATE"
    } else {
        "SELECT size, frontier, checkpoint FROM audit_head WHERE id = 1"
    };
    let row = sqlx::query(query).fetch_optional(&mut **transaction).await.doing(APPENDING)?;
    let row = row.ok_or(HeadError::Missing)?;
    let frontier = Frontier::from_bytes(&row.bytes("frontier")?);
    let frontier = frontier.map_err(|_| HeadError::Disagrees)?;
    let (checkpoint, hand) =
        keys.open_checkpoint(&row.text("checkpoint")?).map_err(HeadError::from)?;
    let size = row.count("size")?;
    if checkpoint != statement(keys, &frontier) || size != frontier.size() {
        return Err(HeadError::Disagrees.into());
    }
    Ok((frontier, hand))
}

/// What a checkpoint says of a log with this frontier.
fn statement(keys: &Keys, frontier: &Frontier) -> Checkpoint {
    let origin = keys.origin().to_owned();
    Checkpoint { origin, size: frontier.size(), root: frontier.root() }
}

fn sign(keys: &Keys, frontier: &Frontier, hand: Hand) -> String {
    keys.sign_checkpoint(&statement(keys, frontier), hand)
}

/// Signs the empty log of a new ledger. A head that is missing from a ledger with a history was
/// removed, and is not made again.
pub(super) async fn begin_log(
    connection: &mut AnyConnection,
    keys: &Keys,
) -> Result<(), LedgerError> {
    let frontier = Frontier::new();
    sqlx::query(
        "INSERT INTO audit_head (id, size, frontier, checkpoint) \
         SELECT 1, 0, $1, $2 \
         WHERE NOT EXISTS (SELECT 1 FROM audit_entry) AND NOT EXISTS (SELECT 1 FROM rule_state) \
         AND NOT EXISTS (SELECT 1 FROM request) \
         ON CONFLICT DO NOTHING",
    )
    .bind(frontier.to_bytes())
    .bind(sign(keys, &frontier, Hand::Present))
    .execute(connection)
    .await
    .doing("beginning the audit log")?;
    Ok(())
}

impl Ledger {
    /// The entries that the filter lets through, each with its position.
    ///
    /// # Errors
    /// When an entry cannot be read, or the database does not answer.
    pub async fn audit_log(&self, filter: &AuditFilter) -> Result<Vec<(u64, Entry)>, LedgerError> {
        let (sql, values) = select(filter);
        // The text is put together from constants; values are bound.
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in values {
            query = query.bind(value);
        }
        let rows = query.fetch_all(&self.pool).await.doing(READING)?;
        let read = |row: &_| {
            let entry = Entry::from_json(&Columns::text(row, "entry")?)?;
            Ok((Columns::count(row, "position")?, entry))
        };
        rows.iter().map(read).collect()
    }

    /// The entry at a position; `None` where the log has none.
    ///
    /// # Errors
    /// When the database does not answer, or the entry is not one that this version knows.
    pub async fn audit_entry(&self, position: u64) -> Result<Option<Entry>, LedgerError> {
        let query = sqlx::query("SELECT entry FROM audit_entry WHERE position = $1");
        let row = query.bind(to_integer(position)).fetch_optional(&self.pool).await;
        let Some(row) = row.doing(READING)? else { return Ok(None) };
        Ok(Some(Entry::from_json(&Columns::text(&row, "entry")?)?))
    }

    /// The entries of a run, oldest first, each held against the hash that stands for it in the tree: a
    /// good proof of any one of them vouches for all.
    ///
    /// # Errors
    /// When an entry is not the one that was hashed, or the database does not answer.
    pub async fn run_log(&self, run: Uuid) -> Result<Vec<(u64, Entry)>, LedgerError> {
        let rows = sqlx::query(
            "SELECT position, entry, leaf_hash FROM audit_entry WHERE run_id = $1 ORDER BY position",
        );
        let rows = rows.bind(run.to_string()).fetch_all(&self.pool).await.doing(READING)?;
        let read = |row: &AnyRow| {
            let json = Columns::text(row, "entry")?;
            if Columns::bytes(row, "leaf_hash")? != Hash::leaf(json.as_bytes()).0 {
                let found = "the hash of another entry: verify the log";
                return Err(LedgerError::Damaged { column: "leaf_hash", found });
            }
            Ok((Columns::count(row, "position")?, Entry::from_json(&json)?))
        };
        rows.iter().map(read).collect()
    }

    /// The newest signed checkpoint of the audit log.
    ///
    /// # Errors
    /// When there is none, or the database does not answer.
    pub async fn checkpoint(&self) -> Result<String, LedgerError> {
        let row = sqlx::query("SELECT checkpoint FROM audit_head WHERE id = 1");
        let row = row.fetch_optional(&self.pool).await.doing(READING)?;
        row.ok_or(HeadError::Missing)?.try_get("checkpoint").doing(READING)
    }
}

/// Entries that are in memory at a time.
const PAGE: i64 = 500;

/// The entries from a position on, as they were written: a page of them, none at the end.
pub(crate) async fn read_page(
    snapshot: &mut Transaction<'_>,
    from: u64,
) -> Result<Vec<String>, LedgerError> {
    let rows = sqlx::query(
        "SELECT position, entry FROM audit_entry WHERE position >= $1 ORDER BY position LIMIT $2",
    )
    .bind(to_integer(from))
    .bind(PAGE)
    .fetch_all(&mut **snapshot)
    .await
    .doing(READING)?;
    let read = |(expected, row): (u64, &AnyRow)| {
        let is_next = Columns::count(row, "position")? == expected;
        let damaged = LedgerError::Damaged { column: "position", found: "a gap: verify the log" };
        if is_next { Columns::text(row, "entry") } else { Err(damaged) }
    };
    (from..).zip(&rows).map(read).collect()
}

/// The newest signed checkpoint, at the moment of the snapshot.
pub(crate) async fn read_head(snapshot: &mut Transaction<'_>) -> Result<String, LedgerError> {
    let row = sqlx::query("SELECT checkpoint FROM audit_head WHERE id = 1");
    let row = row.fetch_optional(&mut **snapshot).await.doing(READING)?;
    Columns::text(&row.ok_or(HeadError::Missing)?, "checkpoint")
}

/// The checkpoints that stay, by their sizes: one for each change of the signing key.
pub(crate) async fn read_bridges(
    snapshot: &mut Transaction<'_>,
) -> Result<BTreeMap<u64, String>, LedgerError> {
    let query = sqlx::query("SELECT size, checkpoint FROM audit_checkpoint ORDER BY size");
    let rows = query.fetch_all(&mut **snapshot).await.doing(READING)?;
    let read = |row: &AnyRow| Ok((Columns::count(row, "size")?, Columns::text(row, "checkpoint")?));
    rows.iter().map(read).collect()
}

/// The commitments of a batch as the ledger keeps them, if it does.
pub(crate) async fn read_commitments(
    snapshot: &mut Transaction<'_>,
    batch: Uuid,
) -> Result<Option<Vec<u8>>, LedgerError> {
    let query = "SELECT commitments FROM batch WHERE id = $1 AND commitments IS NOT NULL";
    let query = sqlx::query(query).bind(batch.to_string());
    let row = query.fetch_optional(&mut **snapshot).await.doing(READING)?;
    row.map(|row| Columns::bytes(&row, "commitments")).transpose()
}

/// The query of a filter, and the values to bind in it.
fn select(filter: &AuditFilter) -> (String, Vec<String>) {
    let conditions = [
        ("rule =", filter.rule.as_ref().map(ToString::to_string)),
        ("store =", filter.store.as_ref().map(ToString::to_string)),
        ("kind =", filter.kind.clone()),
        ("at >=", filter.since.map(to_text)),
        ("at <", filter.until.map(to_text)),
    ];
    let mut sql = String::from("SELECT position, entry FROM audit_entry");
    let mut values = Vec::new();
    for (condition, value) in conditions {
        let Some(value) = value else { continue };
        values.push(value);
        let word = if values.len() == 1 { "WHERE" } else { "AND" };
        sql.extend([" ", word, " ", condition, " $", &values.len().to_string()]);
    }
    let order = if filter.newest_first { " ORDER BY position DESC" } else { " ORDER BY position" };
    sql.push_str(order);
    if let Some(limit) = filter.limit {
        sql.extend([" LIMIT ", &limit.to_string()]);
    }
    (sql, values)
}
