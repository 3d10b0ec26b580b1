//! Rows of a recipient's table, removed by the subjects that they are about.
//!
//! A row is a subject's where each of the columns has its value, letter by letter; a subject that lacks one of the
//! values names no row. Rows that legal holds cover stay, and so do those that a held row points at.

use std::collections::BTreeMap;

use crate::hold::Holds;
use crate::notice::Identities;
use crate::rule::Dialect;
use crate::types::{Key, Name};

use super::Transaction;
use super::catalogue::{Column, ColumnKind, Shape, Table};
use super::keep::{Keep, KeepError, keep_of_table};
use super::statement::{Statement, Value};
use super::target::column_value;
use super::window::Locator;

/// So many rows go in one statement.
const ROWS: i64 = 5_000;
/// So many values are looked for in one statement.
const VALUES: usize = 1_000;

/// A recipient's table, and the columns that name subjects in it.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    table: Table,
    /// The columns, each with the name of its identity.
    columns: Vec<(Column, String)>,
    keep: Keep,
}

impl Removal {
    /// Holds what is configured against the live table.
    ///
    /// # Errors
    /// With everything that does not fit.
    pub(crate) fn new(table: Table, columns: &BTreeMap<String, String>) -> Result<Removal, String> {
        let mut wrong = Vec::new();
        if table.shape == Shape::Unsupported {
            wrong.push("it is not a table that rows can be deleted from".to_owned());
        }
        let mut found = Vec::new();
        for (identity, name) in columns {
            match table.column(name) {
                None => {
                    let all = table.columns.iter().map(|column| column.name.as_str());
                    let all = all.collect::<Vec<_>>().join(", ");
                    wrong.push(format!("there is no column `{name}`; the table has {all}"));
                }
                Some(column) if !is_nameable(column, table.dialect) => wrong.push(format!(
                    "the column `{name}` is of type {}, and subjects are named by text, integers and UUIDs alone",
                    column.type_name
                )),
                Some(column) => found.push((column.clone(), identity.clone())),
            }
        }
        if columns.is_empty() {
            wrong.push("no column is configured to name subjects".to_owned());
        }
        if wrong.is_empty() {
            Ok(Removal { table, columns: found, keep: Keep::default() })
        } else {
            Err(wrong.join("; "))
        }
    }

    /// What the connected user may not do, if that is known.
    pub(crate) fn lacks_right(&self) -> Option<&'static str> {
        let privileges = self.table.privileges;
        if privileges.delete == Some(false) {
            Some("DELETE")
        } else if privileges.select == Some(false) {
            Some("SELECT")
        } else {
            None
        }
    }

    /// Keeps what legal holds claim of the table.
    pub(crate) async fn hold_back(
        &mut self,
        tx: &mut Transaction,
        store: &Name,
        holds: &Holds,
    ) -> Result<(), KeepError> {
        self.keep = keep_of_table(tx, store, &self.table, holds).await?;
        Ok(())
    }

    /// Whether rows stay because of rows of other tables.
    pub(crate) fn keeps_referenced(&self) -> bool {
        self.keep.has_referrers()
    }

    /// What subjects are called in the table, in lists that fit a statement each. One that can be no value of its
    /// column is nobody there.
    pub(crate) fn keys(&self, about: &[Identities]) -> Vec<Vec<Key>> {
        let dialect = self.table.dialect;
        let key = |identities: &Identities| {
            let value = |(column, identity): &(Column, String)| {
                let text = identities.0.get(identity).filter(|text| !text.trim().is_empty())?;
                column_value(dialect, column, text)
            };
            self.columns.iter().map(value).collect::<Option<Vec<_>>>().map(Key)
        };
        let mut keys: Vec<Key> = about.iter().filter_map(key).collect();
        keys.sort();
        keys.dedup();
        let at_once = (VALUES / self.columns.len()).max(1);
        keys.chunks(at_once).map(<[Key]>::to_vec).collect()
    }

    fn are_theirs(&self, s: &mut Statement, keys: &[Key]) {
        let columns: Vec<Column> = self.columns.iter().map(|(column, _)| column.clone()).collect();
        s.key_in(&columns, keys).push(" AND ").exactly(&columns, keys);
    }

    /// Theirs, and not kept by a hold.
    fn may_go(&self, s: &mut Statement, keys: &[Key]) {
        self.are_theirs(s, keys);
        if !self.keep.is_nothing() {
            s.push(" AND NOT ");
            self.keep.is_held_in(s, &self.table);
        }
    }

    /// Removes some rows of these subjects; none when none is left that may go.
    pub(crate) async fn remove(
        &self,
        tx: &mut Transaction,
        keys: &[Key],
    ) -> Result<u64, sqlx::Error> {
        let mut s = Statement::new(self.table.dialect, "DELETE FROM ");
        s.table(&self.table).push(" WHERE ");
        if self.table.dialect == Dialect::Mysql {
            self.may_go(&mut s, keys);
            s.push(" LIMIT ").literal(&Value::Int(ROWS));
            return tx.execute(&s).await;
        }
        let some = |s: &mut Statement| {
            s.push(" FROM ").table(&self.table).push(" WHERE ");
            self.may_go(s, keys);
            s.push(" LIMIT ").literal(&Value::Int(ROWS));
        };
        match Locator::of(&self.table) {
            Locator::Ctid => {
                s.push("ctid = ANY (ARRAY(SELECT ctid");
                some(&mut s);
                s.push(")) AND ");
            }
            Locator::Columns(columns) if !columns.is_empty() => {
                let names = || columns.iter().map(|column| column.name.as_str());
                s.push("(").names(names()).push(") IN (SELECT ").names(names());
                some(&mut s);
                s.push(") AND ");
            }
            // Without a key rows can be counted off by nothing.
            Locator::Columns(_) => {}
        }
        // Once more: a row that has changed since it was found may be another's, or held.
        self.may_go(&mut s, keys);
        tx.execute(&s).await
    }

    /// How many rows of these subjects there are, held or not.
    pub(crate) async fn count(
        &self,
        tx: &mut Transaction,
        keys: &[Key],
    ) -> Result<u64, sqlx::Error> {
        let mut s = Statement::new(self.table.dialect, "SELECT count(*) FROM ");
        s.table(&self.table).push(" WHERE ");
        self.are_theirs(&mut s, keys);
        let count = tx.fetch_row(&s).await?.int(0);
        count.and_then(|count| u64::try_from(count).ok()).ok_or(sqlx::Error::RowNotFound)
    }
}

/// Whether a text names a value of the column exactly. SQLite's columns hold any type.
fn is_nameable(column: &Column, dialect: Dialect) -> bool {
    dialect == Dialect::Sqlite
        || matches!(column.kind, ColumnKind::Text | ColumnKind::Integer | ColumnKind::Uuid)
}
