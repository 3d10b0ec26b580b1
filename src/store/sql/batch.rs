//! One batch: the due records of one window, taken inside an open transaction, predicate included.
//!
//! Nothing here commits. The caller writes the intent with the returned keys to the ledger first,
//! and only then commits; until then every effect can be undone.

use crate::anonymize::Strategy;
use crate::rule::StoreKind;
use crate::types::{Key, KeyValue};

use super::Transaction;
use super::catalogue::{Column, ColumnKind, Shape, Table};
use super::statement::{Statement, Value};
use super::target::{Bounds, Target};
use super::walk::{Pace, Position, Walk, WalkKind};
use super::{Cell, Row};

/// Due records that are looked up along an index at once, before they are put into physical order.
const COLLECT: u64 = 20_000;

/// Values in one statement: SQLite takes 32,766, and a window's keys are not all that it holds.
const MOST_VALUES: usize = 30_000;

/// Keys that are asked for in one statement when an interrupted batch is resolved.
const RESOLVE_CHUNK: usize = 500;

/// A part of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Window {
    /// Pages of a heap, from the first up to, not including, the second.
    Pages {
        /// First page.
        from: u64,
        /// The page after the last.
        to: u64,
    },
    /// Rows in key or rowid order, after the first up to and including the second.
    Span {
        /// The row before the first; from the start of the table where `None`.
        after: Option<Key>,
        /// The last row; to the end of the table where `None`.
        upto: Option<Key>,
    },
    /// These rows, by where they lie.
    Rows(Vec<Key>),
}

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

/// How a table's rows are named while walking.
enum Locator {
    Ctid,
    Columns(Vec<Column>),
}

impl Locator {
    fn of(table: &Table) -> Locator {
        match table.shape {
            Shape::Heap => Locator::Ctid,
            Shape::Rowid => {
                let taken = |name: &str| {
                    table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name))
                };
                let free = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !taken(name));
                Locator::Columns(vec![Column {
                    name: free.unwrap_or("rowid").to_owned(),
                    type_name: "INTEGER".to_owned(),
                    kind: ColumnKind::Integer,
                    nullable: false,
                }])
            }
            Shape::Keyed | Shape::Unsupported => Locator::Columns(table.key.clone()),
        }
    }
}

impl Walk {
    /// Starts a walk over a table of which `due` records are due.
    pub fn new(target: &Target, due: u64, total: u64) -> Walk {
        let table = &target.table;
        // Where the store does not tell, forty rows to a page is a fair guess.
        let pages = table.statistics.pages.filter(|pages| *pages > 0).unwrap_or(total / 40);
        let kind = WalkKind::choose(due, pages, table.index_on(&target.start.name).is_some());
        let position = match (kind, table.shape) {
            (WalkKind::Index, _) => {
                Position::Index { collected: Vec::new(), rounds: due / COLLECT + 2 }
            }
            // The last page may have grown since: one more costs nothing.
            (WalkKind::Ranges, Shape::Heap) => Position::Page { next: 0, end: pages + 1 },
            (WalkKind::Ranges, _) => Position::Row { after: None, done: false },
        };
        Walk { kind, position }
    }

    /// The pace that suits its steps.
    pub fn pace(&self) -> Pace {
        Pace::new(matches!(self.position, Position::Page { .. }))
    }

    /// How far it has come, from 0 to 1, where that can be told.
    pub fn progress(&self) -> Option<f64> {
        match &self.position {
            #[expect(clippy::cast_precision_loss, reason = "a progress bar needs no more")]
            Position::Page { next, end } => Some(*next as f64 / (*end).max(1) as f64),
            _ => None,
        }
    }

    /// Moves on past a window.
    pub fn advance(&mut self, window: &Window, taken: u64) {
        match (&mut self.position, window) {
            (Position::Page { next, .. }, Window::Pages { to, .. }) => *next = *to,
            (Position::Row { after, done }, Window::Span { upto, .. }) => {
                *done = upto.is_none();
                after.clone_from(upto);
            }
            (Position::Index { collected, rounds }, _) => {
                collected.pop();
                // Rows that were found and then were not there to take: others are at work on
                // them. Looking again at once could go on forever.
                if taken == 0 && collected.is_empty() {
                    *rounds = 0;
                }
            }
            _ => {}
        }
    }
}

/// The next window, or `None` at the end of the walk. Its due records are at most `pace.rows`, or
/// what one step holds.
pub(crate) async fn next_window(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    walk: &mut Walk,
    pace: &mut Pace,
) -> Result<Option<Window>, sqlx::Error> {
    if let Position::Index { collected, rounds } = &mut walk.position {
        if collected.is_empty() && *rounds > 0 {
            *collected = collect(tx, target, bounds, pace.rows).await?;
            *rounds = if collected.is_empty() { 0 } else { *rounds - 1 };
        }
        return Ok(collected.last().cloned());
    }
    loop {
        let window = match &walk.position {
            Position::Page { next, end } if next < end => {
                Window::Pages { from: *next, to: (next + pace.width).min(*end) }
            }
            Position::Row { after, done: false } => {
                let upto = boundary(tx, target, after.as_ref(), pace.width).await?;
                Window::Span { after: after.clone(), upto }
            }
            _ => return Ok(None),
        };
        if pace.width <= pace.certain_width()
            || !overflows(tx, target, bounds, &window, pace).await?
        {
            return Ok(Some(window));
        }
        pace.width = (pace.width / 4).max(pace.certain_width());
    }
}

/// Whether a wide window holds more due records than a batch may take.
async fn overflows(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
    pace: &Pace,
) -> Result<bool, sqlx::Error> {
    let most = i64::try_from(pace.most_rows()).unwrap_or(i64::MAX);
    let mut s = Statement::new(target.dialect(), "SELECT count(*) FROM (SELECT 1 AS due FROM ");
    s.table(&target.table).push(" WHERE ");
    inside(&mut s, target, window);
    s.push(" AND ");
    target.due(&mut s, bounds);
    s.push(" LIMIT ").bind(Value::Int(most + 1)).push(") AS counted");
    Ok(tx.fetch_row(&s).await?.int(0).unwrap_or_default() > most)
}

/// The row that ends a window of `width` rows after `after`; `None` when fewer are left.
async fn boundary(
    tx: &mut Transaction,
    target: &Target,
    after: Option<&Key>,
    width: u64,
) -> Result<Option<Key>, sqlx::Error> {
    let Locator::Columns(columns) = Locator::of(&target.table) else { return Ok(None) };
    let mut s = Statement::new(target.dialect(), "SELECT ");
    select_key(&mut s, &columns);
    s.push(" FROM ").table(&target.table);
    if let Some(after) = after {
        s.push(" WHERE ").key_beyond(&columns, after, false);
    }
    let offset = i64::try_from(width.saturating_sub(1)).unwrap_or(i64::MAX);
    s.push(" ORDER BY ").separated(", ", &columns, |s, column| {
        s.column(&target.table, &column.name);
    });
    s.push(" LIMIT 1 OFFSET ").bind(Value::Int(offset));
    tx.fetch(&s).await?.first().map(|row| read_key(target.dialect(), row, &columns)).transpose()
}

/// Due rows found along the index, in physical order, cut into windows of `rows`; the first window
/// is the last element.
async fn collect(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    rows: u64,
) -> Result<Vec<Window>, sqlx::Error> {
    let locator = Locator::of(&target.table);
    let mut s = Statement::new(target.dialect(), "SELECT ");
    match &locator {
        Locator::Ctid => {
            s.push("ctid::text");
        }
        Locator::Columns(columns) => select_key(&mut s, columns),
    }
    s.push(" FROM ").table(&target.table).push(" WHERE ");
    target.due(&mut s, bounds);
    s.push(" ORDER BY ").column(&target.table, &target.start.name).push(" LIMIT ");
    s.bind(Value::Int(i64::try_from(COLLECT).unwrap_or(i64::MAX)));
    let found = tx.fetch(&s).await?;
    let mut rows_found = found
        .iter()
        .map(|row| match &locator {
            Locator::Ctid => read_ctid(row),
            Locator::Columns(columns) => read_key(target.dialect(), row, columns),
        })
        .collect::<Result<Vec<_>, _>>()?;
    rows_found.sort_unstable();
    let names = match &locator {
        Locator::Ctid => 1,
        Locator::Columns(columns) => columns.len(),
    };
    let size = usize::try_from(rows).unwrap_or(1_000).min(MOST_VALUES / names).max(1);
    Ok(rows_found.chunks(size).rev().map(|chunk| Window::Rows(chunk.to_vec())).collect())
}

/// Appends that a row lies inside the window.
fn inside(s: &mut Statement, target: &Target, window: &Window) {
    let columns = match Locator::of(&target.table) {
        Locator::Ctid => Vec::new(),
        Locator::Columns(columns) => columns,
    };
    match window {
        Window::Pages { from, to } => {
            s.push("ctid >= ").bind(Value::Text(format!("({from},0)"))).push("::text::tid");
            s.push(" AND ctid < ").bind(Value::Text(format!("({to},0)"))).push("::text::tid");
        }
        Window::Span { after, upto } => {
            s.push("1 = 1");
            if let Some(after) = after {
                s.push(" AND ").key_beyond(&columns, after, false);
            }
            if let Some(upto) = upto {
                s.push(" AND ").key_beyond(&columns, upto, true);
            }
        }
        Window::Rows(rows) if columns.is_empty() => {
            let texts = rows.iter().map(|row| format!("({row})").replace(' ', "")).collect();
            s.push("ctid = ANY (").bind(Value::Texts(texts)).push("::text[]::tid[])");
        }
        Window::Rows(rows) => {
            s.key_in(&columns, rows);
        }
    }
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
    let keys = if computed {
        take_one_by_one(tx, target, bounds, window, replace).await?
    } else {
        match target.dialect() {
            StoreKind::Postgres => take_as_arrays(tx, target, bounds, window).await?,
            StoreKind::Mysql => take_in_two_steps(tx, target, bounds, window).await?,
            StoreKind::Sqlite => {
                let mut s = Statement::new(StoreKind::Sqlite, "");
                act(&mut s, target, bounds, window);
                s.push(" RETURNING ");
                select_key(&mut s, &target.table.key);
                read_keys(&tx.fetch(&s).await?, target)?
            }
        }
    };
    let transaction_id = match (tx.dialect(), keys.is_empty()) {
        (StoreKind::Postgres, false) => {
            let s = Statement::new(StoreKind::Postgres, "SELECT pg_current_xact_id()::text");
            tx.fetch_row(&s).await?.text(0)
        }
        _ => None,
    };
    Ok(Records { keys, transaction_id })
}

/// Appends `DELETE FROM … WHERE …` or `UPDATE … SET … WHERE …`.
fn act(s: &mut Statement, target: &Target, bounds: Bounds, window: &Window) {
    match &target.change {
        None => {
            s.push("DELETE FROM ").table(&target.table);
        }
        Some(change) => {
            s.push("UPDATE ").table(&target.table).push(" SET ");
            change.assignments(s, bounds.now, &[]);
        }
    }
    s.push(" WHERE ");
    inside(s, target, window);
    s.push(" AND ");
    target.due(s, bounds);
}

/// PostgreSQL answers with one array for each column of the key, not with a row for each key.
async fn take_as_arrays(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    window: &Window,
) -> Result<Vec<Key>, sqlx::Error> {
    let columns = &target.table.key;
    let letters = || ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().take(columns.len());
    let mut s = Statement::new(StoreKind::Postgres, "WITH taken (");
    s.separated(", ", letters(), |s, letter| {
        s.push(letter);
    });
    s.push(") AS (");
    act(&mut s, target, bounds, window);
    s.push(" RETURNING ");
    select_key(&mut s, columns);
    s.push(") SELECT ").separated(", ", letters(), |s, letter| {
        s.push("array_agg(").push(letter).push(")");
    });
    s.push(" FROM taken");
    let row = tx.fetch_row(&s).await?;
    let mut arrays: Vec<_> = (0..columns.len()).map(|place| row.texts(place).into_iter()).collect();
    let mut keys = Vec::new();
    while arrays.iter().all(|array| array.len() > 0) {
        let cells = arrays.iter_mut().filter_map(Iterator::next).map(Cell::Text).collect();
        keys.push(read_key(StoreKind::Postgres, &Row(cells), columns)?);
    }
    Ok(keys)
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
    let mut s = Statement::new(StoreKind::Mysql, "");
    act(&mut s, target, bounds, window);
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
/// PostgreSQL remembers the fate of a transaction. The others do not; there, a batch was atomic, so
/// its records were either all taken or all left. They are read with locks, which waits
/// for a transaction that the server has not ended yet.
pub(crate) async fn resolve(
    tx: &mut Transaction,
    target: &Target,
    interrupted: &Interrupted,
) -> Result<Resolution, sqlx::Error> {
    if let (StoreKind::Postgres, Some(id)) = (tx.dialect(), &interrupted.transaction_id) {
        // An id that lies ahead is of another history of this database, before a restore: asking
        // for its fate would be an error.
        let mut s = Statement::new(StoreKind::Postgres, "SELECT CASE WHEN $1::text::xid8 < ");
        s.push("pg_current_xact_id() THEN pg_xact_status($1::text::xid8) END");
        s.set_values(vec![Value::Text(id.clone())]);
        match tx.fetch_row(&s).await?.text(0).as_deref() {
            Some("committed") => return Ok(Resolution::Done),
            Some("aborted") => return Ok(Resolution::Undone),
            Some("in progress") => return Ok(Resolution::InProgress),
            // Too old to be remembered: ask for the records.
            _ => {}
        }
    }
    let (mut found, mut fresh) = (0, 0);
    for keys in interrupted.keys.chunks(RESOLVE_CHUNK) {
        found += count_locked(tx, target, keys, false).await?;
        if target.change.is_some() {
            fresh += count_locked(tx, target, keys, true).await?;
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

async fn count_locked(
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
    s.by_dialect(" FOR UPDATE", " FOR UPDATE", "");
    Ok(tx.fetch(&s).await?.len())
}

/// Appends the key's columns in a form that [`read_key`] reads.
pub(super) fn select_key(s: &mut Statement, columns: &[Column]) {
    s.separated(", ", columns, |s, column| {
        let bytes = column.kind == ColumnKind::Bytes;
        match s.dialect() {
            StoreKind::Postgres => s.name(&column.name).push("::text"),
            StoreKind::Mysql if !bytes => s.push("CAST(").name(&column.name).push(" AS CHAR)"),
            _ => s.name(&column.name),
        };
    });
}

/// Reads a key from the first columns of a row.
pub(super) fn read_key(
    dialect: StoreKind,
    row: &Row,
    columns: &[Column],
) -> Result<Key, sqlx::Error> {
    let sqlite = dialect == StoreKind::Sqlite;
    let values = columns.iter().enumerate().map(|(place, column)| {
        let unreadable = || {
            sqlx::Error::Decode(
                format!("a value of the key column `{}` is not readable", column.name).into(),
            )
        };
        let value = match (row.0.get(place), column.kind) {
            // SQLite's columns hold any type; the value's own is the one that finds it again.
            (Some(Cell::Text(text)), _) if sqlite => Some(KeyValue::Text(text.clone())),
            (Some(Cell::Int(number)), _) => Some(KeyValue::Int(i128::from(*number))),
            (Some(Cell::Text(text)), ColumnKind::Integer) => text.parse().ok().map(KeyValue::Int),
            (Some(Cell::Text(text)), ColumnKind::Uuid) => text.parse().ok().map(KeyValue::Uuid),
            (Some(Cell::Text(text)), ColumnKind::Bytes) => {
                hex::decode(text.strip_prefix("\\x").unwrap_or(text)).ok().map(KeyValue::Bytes)
            }
            (Some(Cell::Text(text)), _) => Some(KeyValue::Text(text.clone())),
            (Some(Cell::Bytes(bytes)), _) => Some(KeyValue::Bytes(bytes.clone())),
            _ => None,
        };
        value.ok_or_else(unreadable)
    });
    values.collect::<Result<Vec<_>, _>>().map(Key)
}

/// A ctid as a key of page and place, so that it sorts by where it lies.
fn read_ctid(row: &Row) -> Result<Key, sqlx::Error> {
    let unreadable = || sqlx::Error::Decode("a ctid is not readable".into());
    let text = row.text(0).ok_or_else(unreadable)?;
    let (page, place) = text.trim_matches(['(', ')']).split_once(',').ok_or_else(unreadable)?;
    let number = |text: &str| text.parse().map(KeyValue::Int).map_err(|_| unreadable());
    Ok(Key(vec![number(page)?, number(place)?]))
}
