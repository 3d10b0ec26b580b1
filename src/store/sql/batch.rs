//! One batch: the due records of one window, taken inside an open transaction, predicate included.
//!
//! Nothing here commits. The caller writes the intent with the returned keys to the ledger first,
//! and only then commits; until then every effect can be undone.

use std::ops::Range;

use crate::anonymize::Strategy;
use crate::plan::DependentRows;
use crate::rule::Dialect;
use crate::types::{Key, KeyValue};

use super::Transaction;
use super::catalogue::{Column, Shape};
use super::dependents::{at_once, fitting, sweep};
use super::statement::{Statement, Value};
use super::target::{Bounds, Target};
use super::window::{Window, inside, read_key, read_value, select_key};
use super::{Cell, Row};

/// Keys that are asked for in one statement when an interrupted batch is resolved.
const RESOLVE_CHUNK: usize = 500;

/// The records that a transaction has deleted or changed, not committed yet.
#[derive(Default, Debug)]
pub struct Records {
    /// Their keys.
    pub keys: Vec<Key>,
    /// Of each, the values that recipients are told, as they were before; nothing where none is told.
    pub told: Vec<Vec<Option<String>>>,
    /// What went or changed along with them in other tables.
    pub dependents: Vec<DependentRows>,
    /// The transaction's own name in the store, where its fate can be asked later.
    pub transaction_id: Option<String>,
}

/// A batch whose process died between intent and outcome.
#[derive(Debug)]
pub struct Interrupted {
    /// The keys of its intent.
    pub keys: Vec<Key>,
    /// What tells each from another of the same key; nothing where the key is enough.
    pub identities: Vec<String>,
    /// The name of its transaction in the store.
    pub transaction_id: Option<String>,
}

/// What became of an interrupted batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// It was committed.
    Done,
    /// It was rolled back.
    Undone,
    /// Of files or objects: these are gone, by their place in the batch.
    Partly(Vec<usize>),
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
    /// Rows of a table point at one another further than is followed.
    #[error("rows of {table} point at one another in too many steps")]
    TooDeep {
        /// The table.
        table: String,
    },
    /// A row that would go along has a key that names no row (SQLite).
    #[error("a row of {table} has a key that names none")]
    Nameless {
        /// The table.
        table: String,
    },
}

/// The new value of a column that this process computes: strategy, column, old value.
pub type Replace<'a> = &'a (dyn Fn(&Strategy, &Column, Option<&str>) -> Option<String> + Sync);

/// A due record that is locked and not touched yet.
#[derive(Debug)]
pub struct Locked {
    /// Its key.
    pub key: Key,
    /// Its values of the columns that the rule carries along ([`Target::carry`]), as text.
    pub carried: Vec<Option<String>>,
    /// Its values of the columns that recipients are told, as text.
    told: Vec<Option<String>>,
    /// Its values of the columns whose new ones this process computes.
    old: Vec<Option<String>>,
    /// Its values of the columns that other rows point at ([`Dependents::columns`]).
    ///
    /// [`Dependents::columns`]: super::dependents::Dependents
    pub(super) values: Vec<Option<KeyValue>>,
}

/// Deletes or anonymizes the due records of a window, without committing, and returns their keys.
pub(crate) async fn take(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
    replace: Replace<'_>,
) -> Result<Records, TakeError> {
    let computed = target.change.as_ref().is_some_and(|change| !change.computed_here().is_empty());
    // What a record was before it changes, only a look before it can tell.
    let is_told_old = target.changes_what_is_told();
    let takes_along = target.takes_its_own_along();
    let returns_all = match target.dialect() {
        Dialect::Postgres => true,
        Dialect::Sqlite => !target.changes_its_own(),
        // MySQL returns nothing from a DELETE, and neither of them from an UPDATE: the due rows are locked and read first.
        // MariaDB returns a row right before it deletes it, and where one cannot go the whole statement fails.
        Dialect::Mysql => {
            target.table.returns_deleted && target.change.is_none() && !target.changes_its_own()
        }
    };
    if target.dependents.has_any() {
        let taken = take_fitting(tx, target, bounds, window, u64::MAX, replace).await;
        return taken.map(|(records, _)| records);
    }
    if computed || is_told_old || !returns_all {
        let rows = lock(tx, target, bounds, window).await?;
        let window = Some(window).filter(|_| !takes_along);
        return take_locked(tx, target, bounds, rows, window, replace).await;
    }
    let mut s = act(target, bounds.now);
    inside(&mut s, target, window);
    s.push(" AND ");
    target.due(&mut s, bounds);
    s.push(" RETURNING ");
    select_key(&mut s, &target.table.key);
    select_texts(&mut s, &target.told);
    let rows = tx.fetch(&s).await?;
    let first = target.table.key.len();
    let mut keys = Vec::with_capacity(rows.len());
    let mut told = Vec::new();
    for mut row in rows {
        keys.push(read_key(target.dialect(), &row, &target.table.key)?);
        if !target.told.is_empty() {
            told.push(take_texts(&mut row, first..first + target.told.len()));
        }
    }
    named(tx, keys, told, Vec::new()).await
}

/// Deletes due records of a window and, first, what goes along: so many rows in all at most, or one record with what goes
/// along with it. Says whether more of the window is due.
pub(crate) async fn take_fitting(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
    most: u64,
    replace: Replace<'_>,
) -> Result<(Records, bool), TakeError> {
    let mut rows = lock(tx, target, bounds, window).await?;
    let fit = if most == u64::MAX { rows.len() } else { fitting(tx, target, &rows, most).await? };
    let is_part = fit < rows.len();
    rows.truncate(fit);
    // Records that are not locked are looked at once more, one by one.
    let is_whole = !is_part && !target.takes_its_own_along() && target.may_lock();
    let window = Some(window).filter(|_| is_whole);
    let records = take_locked(tx, target, bounds, rows, window, replace).await?;
    Ok((records, is_part))
}

/// Appends columns as texts, each after a comma.
fn select_texts<'a>(s: &mut Statement, columns: impl IntoIterator<Item = &'a Column>) {
    for column in columns {
        s.push(", ").by_dialect("", "CAST(", "").name(&column.name);
        s.by_dialect("::text", " AS CHAR)", "");
    }
}

/// Reads such texts, which are not there any more then. SQLite keeps bytes in columns of any type: those that are no text
/// are told by their digits, as keys show them.
fn take_texts(row: &mut Row, places: Range<usize>) -> Vec<Option<String>> {
    let text = |place: usize| {
        row.take_scalar_text(place).or_else(|| match row.0.get(place) {
            Some(Cell::Bytes(bytes)) => Some(format!("0x{}", hex::encode(bytes))),
            _ => None,
        })
    };
    places.map(text).collect()
}

/// The records taken, with the name of the transaction that took them.
async fn named(
    tx: &mut Transaction,
    keys: Vec<Key>,
    told: Vec<Vec<Option<String>>>,
    dependents: Vec<DependentRows>,
) -> Result<Records, TakeError> {
    let transaction_id = match (tx.dialect(), keys.is_empty()) {
        (Dialect::Postgres, false) => Some(transaction_id(tx).await?),
        _ => None,
    };
    Ok(Records { keys, told, dependents, transaction_id })
}

/// The name of a transaction of PostgreSQL, by which its fate can be asked later.
pub(crate) async fn transaction_id(tx: &mut Transaction) -> Result<String, sqlx::Error> {
    let s = Statement::new(Dialect::Postgres, "SELECT pg_current_xact_id()::text");
    tx.fetch_row(&s).await?.text(0).ok_or(sqlx::Error::RowNotFound)
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

/// Deletes or anonymizes records that were locked, without committing: all that are due in the window,
/// where it is given, otherwise these. Exactly as many must be touched.
pub(crate) async fn take_locked(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    rows: Vec<Locked>,
    window: Option<&Window>,
    replace: Replace<'_>,
) -> Result<Records, TakeError> {
    let computed = target.change.as_ref().map(super::target::Change::computed_here);
    let computed = computed.filter(|columns| !columns.is_empty());
    if rows.is_empty() {
        return Ok(Records::default());
    }
    if target.has_condition()
        && target.dependents.has_any()
        && !are_still_due(tx, target, bounds, &rows).await?
    {
        return Err(TakeError::Moved);
    }
    let dependents = sweep(tx, target, &rows).await?;
    if let (Some(change), Some(computed)) = (&target.change, computed) {
        // Where this process computes values, each record gets its own UPDATE.
        for row in &rows {
            let old = computed.iter().zip(&row.old);
            let values: Vec<_> = old
                .map(|((column, strategy), old)| replace(strategy, column, old.as_deref()))
                .collect();
            let mut s = Statement::new(target.dialect(), "UPDATE ");
            s.table(&target.table).push(" SET ");
            change.assignments(&mut s, bounds.now, &values);
            s.push(" WHERE ");
            s.separated(" AND ", target.table.key.iter().zip(&row.key.0), |s, (column, value)| {
                s.name(&column.name).push(" = ").key_value(column, value);
            });
            s.push(" AND ");
            target.due(&mut s, bounds);
            if tx.execute(&s).await? != 1 {
                return Err(TakeError::Moved);
            }
        }
        let (keys, told) = keys_and_told(target, rows);
        return named(tx, keys, told, dependents).await;
    }
    let (keys, told) = keys_and_told(target, rows);
    let mut touched = 0;
    // A condition that asks for dependents holds no more once they are gone. Records that are locked are as they were when
    // it did.
    let is_settled = target.has_condition() && target.may_lock() && target.dependents.has_any();
    if let Some(window) = window.filter(|_| !is_settled) {
        let mut s = act(target, bounds.now);
        inside(&mut s, target, window);
        s.push(" AND ");
        target.due(&mut s, bounds);
        touched += tx.execute(&s).await?;
    } else {
        for keys in keys.chunks(at_once(target.dialect())) {
            let mut s = act(target, bounds.now);
            s.some_keys_in(&target.table.key, keys);
            s.push(" AND ");
            if is_settled {
                target.is_free(&mut s);
            } else {
                target.due(&mut s, bounds);
            }
            touched += tx.execute(&s).await?;
        }
    }
    let mut is_whole = usize::try_from(touched).is_ok_and(|touched| touched == keys.len());
    if !is_whole && target.takes_its_own_along() {
        // They are locked: what is not there any more went with another of them.
        let mut left = 0;
        for keys in keys.chunks(RESOLVE_CHUNK) {
            left += count(tx, target, keys, false).await?;
        }
        is_whole = left == 0;
    }
    if is_whole { named(tx, keys, told, dependents).await } else { Err(TakeError::Moved) }
}

/// Whether locked records are due yet, right before anything goes along with them: a condition may ask for rows of tables
/// that others change meanwhile, and once what goes along is gone it can be asked no more.
async fn are_still_due(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    rows: &[Locked],
) -> Result<bool, sqlx::Error> {
    let keys: Vec<Key> = rows.iter().map(|row| row.key.clone()).collect();
    let mut due = 0;
    for keys in keys.chunks(at_once(target.dialect())) {
        let mut s = Statement::new(target.dialect(), "SELECT count(*) FROM ");
        s.table(&target.table).push(" WHERE ").some_keys_in(&target.table.key, keys);
        s.push(" AND ");
        target.due(&mut s, bounds);
        due += tx.fetch_row(&s).await?.int(0).unwrap_or_default();
    }
    Ok(usize::try_from(due).is_ok_and(|due| due == keys.len()))
}

fn keys_and_told(target: &Target, rows: Vec<Locked>) -> (Vec<Key>, Vec<Vec<Option<String>>>) {
    let (keys, mut told): (_, Vec<_>) = rows.into_iter().map(|row| (row.key, row.told)).unzip();
    if target.told.is_empty() {
        told = Vec::new();
    }
    (keys, told)
}

/// Reads what is told, of no record.
pub(crate) async fn try_told(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
) -> Result<(), sqlx::Error> {
    let mut s = Statement::new(target.dialect(), "SELECT ");
    select_key(&mut s, &target.table.key);
    select_texts(&mut s, &target.told);
    s.push(" FROM ").table(&target.table).push(" WHERE ");
    target.due(&mut s, bounds);
    s.push(" LIMIT 0");
    tx.fetch(&s).await.map(drop)
}

/// Reads the due records of a window, and locks them.
pub(crate) async fn lock(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
) -> Result<Vec<Locked>, sqlx::Error> {
    let computed = target.change.as_ref().map(super::target::Change::computed_here);
    let computed = computed.unwrap_or_default();
    let old = computed.iter().map(|(column, _)| column);
    let mut s = Statement::new(target.dialect(), "SELECT ");
    select_key(&mut s, &target.table.key);
    select_texts(&mut s, old.chain(&target.carried).chain(&target.told));
    let pointed_at = &target.dependents.columns;
    if !pointed_at.is_empty() {
        s.push(", ");
        select_key(&mut s, pointed_at);
    }
    s.push(" FROM ").table(&target.table).push(" WHERE ");
    inside(&mut s, target, window);
    s.push(" AND ");
    target.due(&mut s, bounds);
    if target.may_lock() {
        // SQLite has one writer, which this transaction already is.
        s.by_dialect(" FOR UPDATE", " FOR UPDATE", "");
    }
    let rows = tx.fetch(&s).await?;
    let (first, second) = (target.table.key.len(), target.table.key.len() + computed.len());
    let third = second + target.carried.len();
    let fourth = third + target.told.len();
    let read = |mut row: Row| {
        Ok(Locked {
            key: read_key(target.dialect(), &row, &target.table.key)?,
            values: pointed_at
                .iter()
                .enumerate()
                .map(|(place, column)| read_value(target.dialect(), &row, fourth + place, column))
                .collect(),
            old: (first..second).map(|place| row.scalar_text(place)).collect(),
            carried: (second..third).map(|place| row.scalar_text(place)).collect(),
            told: take_texts(&mut row, third..fourth),
        })
    };
    rows.into_iter().map(read).collect()
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
