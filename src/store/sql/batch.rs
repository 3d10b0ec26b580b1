//! One batch: the due records of one window, taken inside an open transaction, predicate included.
//!
//! Nothing here commits. The caller writes the intent with the returned keys to the ledger first,
//! and only then commits; until then every effect can be undone.

use crate::anonymize::Strategy;
use crate::rule::Dialect;
use crate::types::Key;

use super::Row;
use super::Transaction;
use super::catalogue::{Column, Shape};
use super::statement::{Statement, Value};
use super::target::{Bounds, Target};
use super::window::{Window, inside, read_key, select_key};

/// Keys that are asked for in one statement when an interrupted batch is resolved.
const RESOLVE_CHUNK: usize = 500;

/// The records that a transaction has deleted or changed, not committed yet.
#[derive(Debug)]
pub struct Records {
    /// Their keys.
    pub keys: Vec<Key>,
    /// The transaction's own name in the store, where its fate can be asked later.
    pub transaction_id: Option<String>,
}

/// A batch whose process died between intent and outcome.
#[derive(Debug)]
pub struct Interrupted {
    /// The keys of its intent.
    pub keys: Vec<Key>,
    /// The name of its transaction in the store.
    pub transaction_id: Option<String>,
}

/// What became of an interrupted batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// It was committed.
    Done,
    /// It was rolled back.
    Undone,
    /// The store has not ended the transaction yet: ask again.
    InProgress,
}

/// Why records could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// Rows changed between looking and acting: roll back and try again.
    #[error("rows changed while the batch was at work")]
    Moved,
}

/// The new value of a column that this process computes: strategy, column, old value.
pub type Replace<'a> = &'a (dyn Fn(&Strategy, &Column, Option<&str>) -> Option<String> + Sync);

/// Deletes or anonymizes the due records of a window, without committing, and returns their keys.
pub(crate) async fn take(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
    replace: Replace<'_>,
) -> Result<Records, TakeError> {
    let computed = target.change.as_ref().is_some_and(|change| !change.computed_here().is_empty());
    let keys = if computed {
        take_one_by_one(tx, target, bounds, window, replace).await?
    } else if target.dialect() == Dialect::Mysql {
        take_in_two_steps(tx, target, bounds, window).await?
    } else {
        let mut s = act(target, bounds.now);
        inside(&mut s, target, window);
        s.push(" AND ");
        target.due(&mut s, bounds);
        s.push(" RETURNING ");
        select_key(&mut s, &target.table.key);
        read_keys(&tx.fetch(&s).await?, target)?
    };
    let transaction_id = match (tx.dialect(), keys.is_empty()) {
        (Dialect::Postgres, false) => {
            let s = Statement::new(Dialect::Postgres, "SELECT pg_current_xact_id()::text");
            tx.fetch_row(&s).await?.text(0)
        }
        _ => None,
    };
    Ok(Records { keys, transaction_id })
}

/// `DELETE FROM … WHERE ` or `UPDATE … SET … WHERE `.
fn act(target: &Target, now: jiff::Timestamp) -> Statement {
    let mut s = Statement::new(target.dialect(), "");
    match &target.change {
        None => {
            s.push("DELETE FROM ").table(&target.table);
        }
        Some(change) => {
            s.push("UPDATE ").table(&target.table).push(" SET ");
            change.assignments(&mut s, now, &[]);
        }
    }
    s.push(" WHERE ");
    s
}

fn read_keys(rows: &[Row], target: &Target) -> Result<Vec<Key>, sqlx::Error> {
    rows.iter().map(|row| read_key(target.dialect(), row, &target.table.key)).collect()
}

/// MySQL returns nothing from a DELETE: the due rows are locked and read first, and the statement
/// must then touch exactly as many.
async fn take_in_two_steps(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
) -> Result<Vec<Key>, TakeError> {
    let keys = read_keys(&lock(tx, target, bounds, window, &[]).await?, target)?;
    if keys.is_empty() {
        return Ok(keys);
    }
    let mut s = act(target, bounds.now);
    inside(&mut s, target, window);
    s.push(" AND ");
    target.due(&mut s, bounds);
    let touched = tx.execute(&s).await?;
    if usize::try_from(touched).is_ok_and(|touched| touched == keys.len()) {
        Ok(keys)
    } else {
        Err(TakeError::Moved)
    }
}

/// Where this process computes values, each record gets its own UPDATE, after all were locked.
async fn take_one_by_one(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
    replace: Replace<'_>,
) -> Result<Vec<Key>, TakeError> {
    let Some(change) = &target.change else { return Ok(Vec::new()) };
    let computed = change.computed_here();
    let columns: Vec<_> = computed.iter().map(|(column, _)| column.clone()).collect();
    let rows = lock(tx, target, bounds, window, &columns).await?;
    let mut keys = Vec::with_capacity(rows.len());
    for row in &rows {
        let key = read_key(target.dialect(), row, &target.table.key)?;
        let first = target.table.key.len();
        let values: Vec<_> = computed
            .iter()
            .enumerate()
            .map(|(place, (column, strategy))| {
                let old = row.scalar_text(first + place);
                replace(strategy, column, old.as_deref())
            })
            .collect();
        let mut s = Statement::new(target.dialect(), "UPDATE ");
        s.table(&target.table).push(" SET ");
        change.assignments(&mut s, bounds.now, &values);
        s.push(" WHERE ");
        s.separated(" AND ", target.table.key.iter().zip(&key.0), |s, (column, value)| {
            s.name(&column.name).push(" = ").key_value(column, value);
        });
        s.push(" AND ");
        target.due(&mut s, bounds);
        if tx.execute(&s).await? != 1 {
            return Err(TakeError::Moved);
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Reads the keys (and some columns as text) of the due records of a window and locks them.
async fn lock(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
    columns: &[Column],
) -> Result<Vec<Row>, sqlx::Error> {
    let mut s = Statement::new(target.dialect(), "SELECT ");
    select_key(&mut s, &target.table.key);
    for column in columns {
        s.push(", ").by_dialect("", "CAST(", "").name(&column.name);
        s.by_dialect("::text", " AS CHAR)", "");
    }
    s.push(" FROM ").table(&target.table).push(" WHERE ");
    inside(&mut s, target, window);
    s.push(" AND ");
    target.due(&mut s, bounds);
    // SQLite has one writer, which this transaction already is.
    s.by_dialect(" FOR UPDATE", " FOR UPDATE", "");
    tx.fetch(&s).await
}

/// Finds out what became of an interrupted batch.
///
/// PostgreSQL remembers the fate of a transaction, as long as it has not crashed. The others do not; there, a batch was atomic, so
/// its records were either all taken or all left. They are read with locks, which waits
/// for a transaction that the server has not ended yet.
pub(crate) async fn resolve(
    tx: &mut Transaction,
    target: &Target,
    interrupted: &Interrupted,
) -> Result<Resolution, sqlx::Error> {
    if let (Dialect::Postgres, Some(id)) = (tx.dialect(), &interrupted.transaction_id) {
        // An id that lies ahead is of another history of this database, before a restore: asking
        // for its fate would be an error.
        let mut s = Statement::new(Dialect::Postgres, "SELECT CASE WHEN $1::text::xid8 < ");
        s.push("pg_current_xact_id() THEN pg_xact_status($1::text::xid8) END");
        s.set_values(vec![Value::Text(id.clone())]);
        match tx.fetch_row(&s).await?.text(0).as_deref() {
            Some("committed") if target.table.shape == Shape::Heap => {
                let stands = touched_none_of(tx, target, &interrupted.keys, id).await?;
                return Ok(if stands { Resolution::Undone } else { Resolution::Done });
            }
            Some("aborted") => return Ok(Resolution::Undone),
            Some("in progress") => return Ok(Resolution::InProgress),
            // Too old to be remembered, or in a table whose rows do not tell: ask for the records.
            _ => {}
        }
    }
    let (mut found, mut fresh) = (0, 0);
    for keys in interrupted.keys.chunks(RESOLVE_CHUNK) {
        found += count(tx, target, keys, false).await?;
        if target.change.is_some() {
            fresh += count(tx, target, keys, true).await?;
        }
    }
    // What the records look like decides, not whether they are still due: they may have been used
    // since. One by one they may also have gone or come back, so the greater part speaks for all.
    let taken = match target.change {
        None => interrupted.keys.len().saturating_sub(found) > found,
        Some(_) => found.saturating_sub(fresh) > fresh || found == 0,
    };
    Ok(if taken { Resolution::Done } else { Resolution::Undone })
}

/// Whether the transaction of this id is none that took these records: the greater part of them is still
/// there as it was before that transaction. One alone may be another's, begun before and written after.
///
/// A server that crashes forgets the transactions which it had not written to its log yet, and gives
/// their ids out again. What such an id's second owner did says nothing of the first.
async fn touched_none_of(
    tx: &mut Transaction,
    target: &Target,
    keys: &[Key],
    id: &str,
) -> Result<bool, sqlx::Error> {
    let mut older = 0;
    for keys in keys.chunks(RESOLVE_CHUNK) {
        let mut s = Statement::new(Dialect::Postgres, "SELECT 1 FROM ");
        s.table(&target.table).push(" WHERE ").key_in(&target.table.key, keys);
        s.push(" AND age(xmin) > age(").bind(Value::Text(id.to_owned()));
        s.push("::text::xid8::xid)");
        older += tx.fetch(&s).await?.len();
    }
    Ok(keys.len().saturating_sub(older) <= older)
}

async fn count(
    tx: &mut Transaction,
    target: &Target,
    keys: &[Key],
    only_fresh: bool,
) -> Result<usize, sqlx::Error> {
    let mut s = Statement::new(target.dialect(), "SELECT ");
    select_key(&mut s, &target.table.key);
    s.push(" FROM ").table(&target.table).push(" WHERE ").key_in(&target.table.key, keys);
    if only_fresh {
        target.is_fresh(&mut s);
    }
    // MySQL may still be ending the transaction: locking waits for that. PostgreSQL has said that it
    // is over, and a lock there would need a right to UPDATE that a rule which deletes does not.
    s.by_dialect("", " FOR UPDATE", "");
    Ok(tx.fetch(&s).await?.len())
}
