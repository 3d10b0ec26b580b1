//! Records that were taken and are there again, by their keys.

use uuid::Uuid;

use super::catalogue::{Column, ColumnKind, Table};
use super::statement::Statement;
use super::target::{Bounds, Target};
use super::window::{Window, inside, read_key, select_key};
use super::{Row, Transaction};
use crate::rule::Dialect;
use crate::types::{Key, KeyValue};

/// Keys that are asked for in one statement.
const CHUNK: usize = 500;

/// What becomes of a record that is there again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It goes again.
    Goes,
    /// A legal hold keeps it.
    Held,
    /// It is another one of that key: its starting point lies after the bound, or cannot be read.
    Newer,
    /// The rule does not mean it as it is now.
    Changed,
}

impl Target {
    /// The records of these keys, letter by letter.
    pub fn window_of_keys(&self, keys: &[Key]) -> Window {
        Window::Matching { columns: self.table.key.clone(), keys: keys.to_vec() }
    }

    /// Whether keys can be keys of the table: it may be another one by now, or have another key.
    pub(crate) fn fits_keys(&self, keys: &[Key]) -> bool {
        fits(&self.table, keys)
    }

    /// Whether a record that was anonymized says so by itself, so that one which does not is as it was before.
    pub(crate) fn tells_when_undone(&self) -> bool {
        self.change.as_ref().is_none_or(|change| change.marker.is_some())
    }
}

fn fits(table: &Table, keys: &[Key]) -> bool {
    let fits = |(value, column): (&KeyValue, &Column)| match (column.kind, value) {
        // There any column holds any type.
        _ if table.dialect == Dialect::Sqlite => true,
        (ColumnKind::Integer, KeyValue::Text(text)) => text.parse::<i128>().is_ok(),
        (ColumnKind::Integer, value) => matches!(value, KeyValue::Int(_)),
        (ColumnKind::Uuid, KeyValue::Text(text)) => text.parse::<Uuid>().is_ok(),
        (ColumnKind::Uuid, value) => !matches!(value, KeyValue::Int(_)),
        _ => true,
    };
    let has_its_values =
        |key: &Key| key.0.len() == table.key.len() && key.0.iter().zip(&table.key).all(fits);
    keys.iter().all(has_its_values)
}

/// Those of these keys that are there again, with what becomes of each. Of anonymized records, those that are as they were
/// before.
pub(crate) async fn again(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    keys: &[Key],
) -> Result<Vec<(Key, Fate)>, sqlx::Error> {
    let columns = &target.table.key;
    let mut found = Vec::new();
    for keys in keys.chunks(CHUNK) {
        let mut s = Statement::new(target.dialect(), "SELECT ");
        select_key(&mut s, columns);
        s.push(", CASE WHEN ");
        target.due(&mut s, bounds);
        s.push(" THEN 1 ELSE 0 END, CASE WHEN ");
        target.due_but_held(&mut s, bounds);
        s.push(" THEN 1 ELSE 0 END, CASE WHEN ");
        target.start.is_before_cutoff(&mut s, bounds);
        s.push(" THEN 1 ELSE 0 END FROM ").table(&target.table).push(" WHERE ");
        inside(&mut s, target, &target.window_of_keys(keys));
        target.is_fresh(&mut s);
        let read = |row: &Row| {
            let says = |place: usize| row.int(columns.len() + place) == Some(1);
            let fate = match (says(0), says(1), says(2)) {
                (true, ..) => Fate::Goes,
                (false, true, _) => Fate::Held,
                (false, false, false) => Fate::Newer,
                (false, false, true) => Fate::Changed,
            };
            Ok::<_, sqlx::Error>((read_key(target.dialect(), row, columns)?, fate))
        };
        for row in tx.fetch(&s).await? {
            found.push(read(&row)?);
        }
    }
    Ok(found)
}

/// How many rows of a table have one of these keys, whatever they are. Where the keys are not of this table's kind, all of
/// them count: in doubt they are there.
pub(crate) async fn present(
    tx: &mut Transaction,
    table: &Table,
    keys: &[Key],
) -> Result<u64, sqlx::Error> {
    if !fits(table, keys) {
        return Ok(keys.len() as u64);
    }
    let mut found = 0;
    for keys in keys.chunks(CHUNK) {
        let mut s = Statement::new(tx.dialect(), "SELECT count(*) FROM ");
        s.table(table).push(" WHERE ").key_in(&table.key, keys);
        found += tx.fetch_row(&s).await?.int(0).unwrap_or_default();
    }
    Ok(u64::try_from(found).unwrap_or_default())
}
