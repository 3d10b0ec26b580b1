//! Dependents are deleted before what they point at: by one statement for each table where nothing points at its rows
//! in turn, otherwise some at once, with what points at those.
//!
//! Nothing is kept in memory but the keys of some rows of each table on the way; of a table that points at itself, those of all
//! that go with these. What is counted is what the statements have deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use crate::plan::DependentRows;
use crate::rule::Dialect;
use crate::types::{Key, KeyValue};

use super::super::Transaction;
use super::super::batch::{Locked, TakeError};
use super::super::catalogue::Table;
use super::super::statement::{Statement, Value};
use super::super::target::Target;
use super::super::window::{read_value, select_key};
use super::{Dependent, Link};

/// Rows that something points at, and which are read at once.
const AT_ONCE: usize = 2_000;
/// Values in one statement, where each is a parameter of its own. For 200 and more (`eq_range_index_dive_limit`) MySQL does not
/// look into the index, but trusts statistics, by which it reads the whole table rather than so many small parts.
const VALUES: usize = 150;
/// Rows of one table that point at one another, from the first to the last.
const LONGEST: usize = 50;

/// The values of a row that others may point at; `None` for NULL.
pub(super) type Values = Vec<Option<KeyValue>>;

/// Rows by their keys.
type Rows = BTreeMap<Key, Values>;

type Sweeping<'a> = Pin<Box<dyn Future<Output = Result<(), TakeError>> + Send + 'a>>;

/// Deletes what goes with locked records, and counts what the deletion of these will change.
pub(crate) async fn sweep(
    tx: &mut Transaction,
    target: &Target,
    records: &[Locked],
) -> Result<Vec<DependentRows>, TakeError> {
    let is_own = |dependent: &Dependent| super::is_same(&dependent.table, &target.table);
    let points_at_itself = target.dependents.below.iter().any(is_own);
    let keys = || records.iter().map(|record| record.key.clone()).collect();
    let due = if points_at_itself { keys() } else { BTreeSet::new() };
    let mut sweep = Sweep { tx, root: &target.table, due, rows: BTreeMap::new() };
    let values: Vec<&Values> = records.iter().map(|record| &record.values).collect();
    sweep.all(&target.dependents.below, &values).await?;
    let rows = sweep.rows.into_iter().filter(|(_, (records, changed))| records + changed > 0);
    Ok(rows.map(|(table, (records, changed))| DependentRows { table, records, changed }).collect())
}

struct Sweep<'a> {
    tx: &'a mut Transaction,
    root: &'a Table,
    /// The keys of the records, where rows of their own table may go with them.
    due: BTreeSet<Key>,
    /// By table, how many rows went and how many change.
    rows: BTreeMap<String, (u64, u64)>,
}

impl Sweep<'_> {
    /// What goes and what changes with rows of these values. Counted last is what changes: some of it may go.
    async fn all(&mut self, below: &[Dependent], values: &[&Values]) -> Result<(), TakeError> {
        for dependent in below.iter().filter(|dependent| dependent.goes()) {
            let keys = dependent.link.keys(values);
            if dependent.acts {
                self.remove(dependent, keys).await?;
            } else if dependent.table.privileges.select != Some(false) {
                let rows = self.count(dependent, &keys).await?;
                self.entry(dependent).0 += rows;
            }
        }
        for dependent in below.iter().filter(|dependent| dependent.changes()) {
            if dependent.table.privileges.select != Some(false) {
                let rows = self.count(dependent, &dependent.link.keys(values)).await?;
                self.entry(dependent).1 += rows;
            }
        }
        Ok(())
    }

    fn entry(&mut self, dependent: &Dependent) -> &mut (u64, u64) {
        self.rows.entry(dependent.name_beside(self.root)).or_default()
    }

    /// Deletes the rows that point at these keys, and before them what points at those.
    fn remove<'s>(&'s mut self, dependent: &'s Dependent, keys: Vec<Key>) -> Sweeping<'s> {
        Box::pin(async move {
            for keys in keys.chunks(at_once(self.tx.dialect())) {
                if dependent.below.is_empty() && dependent.own.is_empty() {
                    let mut s = Statement::new(self.tx.dialect(), "DELETE FROM ");
                    s.table(&dependent.table).push(" WHERE ");
                    dependent.link.points_at(&mut s, keys);
                    dependent.is_free(&mut s);
                    let gone = self.tx.execute(&s).await?;
                    self.entry(dependent).0 += gone;
                    continue;
                }
                loop {
                    let rows = self.read(dependent, &dependent.link, keys, Some(AT_ONCE)).await?;
                    let is_all = rows.len() < AT_ONCE;
                    let gone = self.remove_these(dependent, rows).await?;
                    // Whoever keeps rows from going, such as a trigger, would keep this going on.
                    if is_all || gone == 0 {
                        break;
                    }
                }
            }
            Ok(())
        })
    }

    /// Deletes these rows, and before them what points at those; says how many went.
    async fn remove_these(&mut self, dependent: &Dependent, rows: Rows) -> Result<u64, TakeError> {
        let mut steps = vec![rows];
        if !dependent.own.is_empty() {
            self.follow(dependent, &mut steps).await?;
        }
        let found: BTreeSet<&Key> = steps.iter().flat_map(Rows::keys).collect();
        let is_root = super::is_same(&dependent.table, self.root);
        let counted = found.iter().filter(|key| !is_root || !self.due.contains(*key)).count();
        let all = found.len();
        let (mut gone, mut later) = (0, BTreeSet::new());
        // A row that is met again further on goes there.
        while let Some(mut step) = steps.pop() {
            step.retain(|key, _| later.insert(key.clone()));
            let values: Vec<&Values> = step.values().collect();
            Box::pin(self.all(&dependent.below, &values)).await?;
            let keys: Vec<Key> = step.into_keys().collect();
            for keys in keys.chunks(at_once(self.tx.dialect())) {
                let mut s = Statement::new(self.tx.dialect(), "DELETE FROM ");
                s.table(&dependent.table).push(" WHERE ").some_keys_in(&dependent.table.key, keys);
                dependent.is_free(&mut s);
                gone += self.tx.execute(&s).await?;
            }
        }
        // Of rows that point at one another in a circle, the database takes some along.
        let is_exact = dependent.own.is_empty() || !dependent.keep.is_nothing();
        if gone != all as u64 && (is_exact || self.are_some_left(dependent, later).await?) {
            return Err(TakeError::Moved);
        }
        self.entry(dependent).0 += counted as u64;
        Ok(gone)
    }

    /// Whether some of these rows are still there, such as where a trigger keeps them.
    async fn are_some_left(
        &mut self,
        dependent: &Dependent,
        keys: BTreeSet<Key>,
    ) -> Result<bool, TakeError> {
        let keys: Vec<Key> = keys.into_iter().collect();
        for keys in keys.chunks(at_once(self.tx.dialect())) {
            let mut s = Statement::new(self.tx.dialect(), "SELECT count(*) FROM ");
            s.table(&dependent.table).push(" WHERE ").some_keys_in(&dependent.table.key, keys);
            if self.tx.fetch_row(&s).await?.int(0) != Some(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Finds the rows of the same table that point at the last of these, and those that point at them, and so on.
    async fn follow(
        &mut self,
        dependent: &Dependent,
        steps: &mut Vec<Rows>,
    ) -> Result<(), TakeError> {
        while let Some(last) = steps.last().filter(|last| !last.is_empty()) {
            if steps.len() > LONGEST {
                // In a circle nothing new is met: the database takes the rest along, or refuses.
                let (last, before) = (last, &steps[..steps.len() - 1]);
                let is_new = |key: &Key| !before.iter().any(|step| step.contains_key(key));
                return if last.keys().any(is_new) {
                    Err(TakeError::TooDeep { table: dependent.table.display_name() })
                } else {
                    Ok(())
                };
            }
            let values: Vec<&Values> = last.values().collect();
            let mut next = Rows::new();
            for own in &dependent.own {
                for keys in own.keys(&values).chunks(at_once(self.tx.dialect())) {
                    next.extend(self.read(dependent, own, keys, None).await?);
                }
            }
            steps.push(next);
        }
        Ok(())
    }

    /// Reads, and locks, rows that point at these keys: at most so many, or, of rows of their own table, all.
    async fn read(
        &mut self,
        dependent: &Dependent,
        link: &Link,
        keys: &[Key],
        most: Option<usize>,
    ) -> Result<Rows, TakeError> {
        let Dependent { table, columns, .. } = dependent;
        let dialect = self.tx.dialect();
        let mut s = Statement::new(dialect, "SELECT ");
        select_key(&mut s, columns);
        s.push(" FROM ").table(table).push(" WHERE ");
        link.points_at(&mut s, keys);
        if most.is_none() {
            // One that points at itself is met already.
            let pairs = link.columns.iter().zip(&link.places);
            s.push(" AND NOT (").separated(" AND ", pairs, |s, (from, to)| {
                s.name(&from.name).push(" = ").name(&columns[*to].name);
            });
            s.push(")");
        }
        if let Some(most) = most.and_then(|most| i64::try_from(most).ok()) {
            s.push(" LIMIT ").literal(&Value::Int(most));
        }
        lock(&mut s, table);
        let rows = self.tx.fetch(&s).await?;
        let values = rows.iter().map(|row| {
            let places = columns.iter().enumerate();
            let values: Values =
                places.map(|(place, column)| read_value(dialect, row, place, column)).collect();
            let key = values.iter().take(table.key.len()).cloned();
            // In SQLite a key may hold what names no row: then nothing goes.
            match key.collect::<Option<Vec<_>>>() {
                Some(key) => Ok((Key(key), values)),
                None => Err(TakeError::Nameless { table: table.display_name() }),
            }
        });
        values.collect()
    }

    async fn count(&mut self, dependent: &Dependent, keys: &[Key]) -> Result<u64, sqlx::Error> {
        let is_root = super::is_same(&dependent.table, self.root);
        let due: Vec<Key> = if is_root { self.due.iter().cloned().collect() } else { Vec::new() };
        let mut rows = 0;
        for keys in keys.chunks(at_once(self.tx.dialect())) {
            let mut s = Statement::new(self.tx.dialect(), "SELECT count(*) FROM ");
            s.table(&dependent.table).push(" WHERE ");
            dependent.link.points_at(&mut s, keys);
            // A record that goes itself is not changed.
            if !due.is_empty() {
                s.push(" AND NOT ").key_in(&dependent.table.key, &due);
            }
            let count = self.tx.fetch_row(&s).await?.int(0);
            rows += count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default();
        }
        Ok(rows)
    }
}

/// PostgreSQL takes a list as one parameter.
pub(in super::super) fn at_once(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Postgres => usize::MAX,
        Dialect::Mysql | Dialect::Sqlite => VALUES,
    }
}

/// Appends that the rows read are locked. PostgreSQL wants a right to UPDATE for that; SQLite has one writer, which this
/// transaction is.
pub(in super::super) fn lock(s: &mut Statement, table: &Table) {
    let may = table.dialect != Dialect::Postgres || table.privileges.update != Some(false);
    if may {
        s.by_dialect(" FOR UPDATE", " FOR UPDATE", "");
    }
}

impl Link {
    /// What it is in rows above that have these values, each once; a row with a NULL there is pointed at by nothing.
    pub(super) fn keys(&self, values: &[&Values]) -> Vec<Key> {
        let keys: BTreeSet<Key> = values.iter().filter_map(|values| self.key(values)).collect();
        keys.into_iter().collect()
    }

    pub(super) fn key(&self, values: &Values) -> Option<Key> {
        let value = |place: &usize| values.get(*place).cloned().flatten();
        self.places.iter().map(value).collect::<Option<Vec<_>>>().map(Key)
    }

    /// Appends that a row points at one of these.
    pub(super) fn points_at(&self, s: &mut Statement, keys: &[Key]) {
        s.some_keys_in(&self.columns, keys);
        if self.is_exact {
            s.push(" AND ").exactly(&self.columns, keys);
        }
    }
}
