//! The audit log in the ledger: one per ledger, only ever appended to.
//!
//! The entries are rows; the head has the Merkle tree's frontier and the signed checkpoint. Both are
//! written in the transaction of what the entries tell of, so the log says neither more nor less
//! than what happened.

use jiff::Timestamp;
use sqlx::{AnyConnection, AssertSqlSafe, Row};

use super::error::{Doing, HeadError};
use super::row::{Columns, to_integer};
use super::{Ledger, LedgerError, Transaction, to_text};
use crate::audit::tree::Frontier;
use crate::audit::{Checkpoint, Entry, Hash};
use crate::keys::Keys;
use crate::types::Name;

const APPENDING: &str = "appending to the audit log";
const READING: &str = "reading the audit log";

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
    let json = entry.to_json()?;
    let leaf = Hash::leaf(json.as_bytes());
    let mut frontier = trusted_head(transaction, keys).await?;
    let position = frontier.size();
    frontier.push(leaf);
    let event = &entry.event;
    sqlx::query(
        "INSERT INTO audit_entry (position, at, kind, rule, store, run_id, entry, leaf_hash) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(to_integer(position))
    .bind(to_text(entry.at))
    .bind(event.kind())
    .bind(event.rule().map(Name::as_str))
    .bind(event.store().map(Name::as_str))
    .bind(event.run().map(|run| run.to_string()))
    .bind(json)
    .bind(leaf.0.as_slice())
    .execute(&mut **transaction)
    .await
    .doing(APPENDING)?;
    let moved = sqlx::query(
        "UPDATE audit_head SET size = $1, frontier = $2, checkpoint = $3 WHERE id = 1 AND size = $4",
    )
    .bind(to_integer(frontier.size()))
    .bind(frontier.to_bytes())
    .bind(sign(keys, &frontier))
    .bind(to_integer(position))
    .execute(&mut **transaction)
    .await
    .doing(APPENDING)?;
    if moved.rows_affected() == 1 { Ok(position) } else { Err(HeadError::Missing.into()) }
}

/// Locks the head and gives its frontier if a checkpoint signed by these keys vouches for it.
async fn trusted_head(
    transaction: &mut Transaction<'_>,
    keys: &Keys,
) -> Result<Frontier, LedgerError> {
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
    let checkpoint = keys.open_checkpoint(&row.text("checkpoint")?).map_err(HeadError::from)?;
    let size = row.count("size")?;
    if checkpoint != statement(keys, &frontier) || size != frontier.size() {
        return Err(HeadError::Disagrees.into());
    }
    Ok(frontier)
}

/// What a checkpoint says of a log with this frontier.
fn statement(keys: &Keys, frontier: &Frontier) -> Checkpoint {
    let origin = keys.origin().to_owned();
    Checkpoint { origin, size: frontier.size(), root: frontier.root() }
}

fn sign(keys: &Keys, frontier: &Frontier) -> String {
    keys.sign_checkpoint(&statement(keys, frontier))
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
    .bind(sign(keys, &frontier))
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
