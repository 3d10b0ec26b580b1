//! What an application's own table tells has happened: rows whose status says so, found by the moment
//! since which it does.

use jiff::Timestamp;

use super::catalogue::{Column, Shape, Table};
use super::start::StartColumn;
use super::statement::{Statement, Value};
use super::target::{Mismatch, find};
use super::window::{read_key, select_key};
use super::{Database, Listener, Row};
use crate::config::SourceConfig;
use crate::types::Key;

/// A table in which an application writes down what has happened.
#[derive(Clone, Debug)]
pub struct Watched {
    table: Table,
    status: Column,
    changed_at: StartColumn,
    values: Vec<Column>,
    words: Vec<String>,
}

/// One row that says that something has happened.
#[derive(Clone, PartialEq, Eq)]
pub struct Happened {
    /// The row's key.
    pub key: Key,
    /// Since when its status says so.
    pub at: Timestamp,
    /// The status.
    pub status: String,
    /// The values that go with the event, in the order of the source's.
    pub values: Vec<Option<String>>,
}

/// Shows neither key nor values, which may say who somebody is.
impl std::fmt::Debug for Happened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Happened").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Watched {
    /// Holds a source against its table.
    ///
    /// # Errors
    /// Every way in which they do not fit.
    pub fn new(source: &SourceConfig, table: Table) -> Result<Watched, Vec<Mismatch>> {
        if table.shape == Shape::Unsupported {
            return Err(vec![Mismatch::NotATable]);
        }
        let mut mismatches = Vec::new();
        if table.key.is_empty() {
            mismatches.push(Mismatch::NoKey);
        }
        let status = find(&table, &source.status, "status", &mut mismatches);
        let mut find = |name: &str| find(&table, name, "values", &mut mismatches);
        let values: Vec<Column> = source.values.iter().filter_map(|name| find(name)).collect();
        let changed_at =
            StartColumn::new(&table, &source.changed_at, "changed_at", &mut mismatches);
        match (status, changed_at) {
            (Some(status), Some(changed_at)) if mismatches.is_empty() => {
                let words = source.events.keys().cloned().collect();
                Ok(Watched { table, status, changed_at, values, words })
            }
            _ => Err(mismatches),
        }
    }
}

/// The rows whose status says that something has happened, since a moment or from the beginning, in the
/// order in which it has; at most so many.
pub(crate) async fn happened(
    database: &Database,
    watched: &Watched,
    since: Option<Timestamp>,
    limit: u32,
) -> Result<Vec<Happened>, sqlx::Error> {
    watched.read(&database.read(&watched.look(since, limit)).await?)
}

impl Listener {
    /// The same on the connection that hears notifications: one of the pool would have to be waited for.
    ///
    /// # Errors
    /// When the connection is lost, or the table is another by now.
    pub async fn happened(
        &mut self,
        watched: &Watched,
        since: Timestamp,
        limit: u32,
    ) -> Result<Vec<Happened>, sqlx::Error> {
        watched.read(&self.fetch(&watched.look(Some(since), limit)).await?)
    }
}

impl Watched {
    fn look(&self, since: Option<Timestamp>, limit: u32) -> Statement {
        let Watched { table, status, changed_at, values, words } = self;
        let mut s = Statement::new(table.dialect, "SELECT ");
        select_key(&mut s, &table.key);
        s.push(", ");
        changed_at.micros(&mut s, "");
        for column in std::iter::once(status).chain(values) {
            s.push(", ").by_dialect("", "CAST(", "").name(&column.name);
            s.by_dialect("::text", " AS CHAR)", "");
        }
        s.push(" FROM ").table(table).push(" WHERE ");
        s.by_dialect("", "CAST(", "").name(&status.name).by_dialect("::text", " AS CHAR)", "");
        s.push(" IN (").separated(", ", words, |s, word| {
            s.bind(Value::Text(word.clone()));
        });
        s.push(") AND ");
        changed_at.is_since(&mut s, since.unwrap_or(Timestamp::UNIX_EPOCH));
        s.push(" ORDER BY ").column(table, &changed_at.column.name);
        s.push(" LIMIT ").bind(Value::Int(limit.into()));
        s
    }

    fn read(&self, rows: &[Row]) -> Result<Vec<Happened>, sqlx::Error> {
        let Watched { table, changed_at, values, .. } = self;
        let first = table.key.len();
        let read = |row: &Row| {
            let at = row.int(first).and_then(|micros| changed_at.read_micros(micros));
            let status = row.scalar_text(first + 1);
            // What cannot be read says nothing.
            let (Some(at), Some(status)) = (at, status) else { return Ok(None) };
            let key = read_key(table.dialect, row, &table.key)?;
            let values =
                (0..values.len()).map(|place| row.scalar_text(first + 2 + place)).collect();
            Ok(Some(Happened { key, at, status, values }))
        };
        rows.iter().filter_map(|row| read(row).transpose()).collect()
    }
}
