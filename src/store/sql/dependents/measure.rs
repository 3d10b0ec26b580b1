//! How much goes along with records, before it does.

use std::collections::BTreeMap;

use crate::types::Key;

use super::super::Transaction;
use super::super::batch::Locked;
use super::super::statement::Statement;
use super::super::target::{Bounds, Target};
use super::super::window::{read_key, select_key};
use super::sweep::at_once;
use super::{DEEPEST, Dependent};

/// What tables are called within a statement, one for each step from the rule's own, which keeps its name: the operator's
/// condition may use that.
const ALIASES: [&str; DEEPEST] = [
    "expunged_rows_1",
    "expunged_rows_2",
    "expunged_rows_3",
    "expunged_rows_4",
    "expunged_rows_5",
    "expunged_rows_6",
    "expunged_rows_7",
    "expunged_rows_8",
];

/// Records whose dependents are counted first; twice as many follow, and so on.
const FIRST: usize = 32;

/// How many of locked records, from the first on, make a batch of so many rows together with all that goes or changes
/// along; one at least, whatever goes with it.
pub(crate) async fn fitting(
    tx: &mut Transaction,
    target: &Target,
    records: &[Locked],
    most: u64,
) -> Result<usize, sqlx::Error> {
    let (mut fit, mut rows, mut some) = (0, 0, FIRST);
    while fit < records.len() {
        let next = &records[fit..(fit + some).min(records.len())];
        for along in count_each(tx, target, next).await? {
            rows += along + 1;
            if rows > most && fit > 0 {
                return Ok(fit);
            }
            fit += 1;
        }
        some *= 2;
    }
    Ok(fit)
}

/// How many rows go or change with each of the records. Rows of a table that point at others of it count once.
async fn count_each(
    tx: &mut Transaction,
    target: &Target,
    records: &[Locked],
) -> Result<Vec<u64>, sqlx::Error> {
    let mut counts = vec![0; records.len()];
    for dependent in target.dependents.below.iter().filter(|dependent| dependent.counts()) {
        let mut places: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (place, record) in records.iter().enumerate() {
            if let Some(key) = dependent.link.key(&record.values) {
                places.entry(key).or_default().push(place);
            }
        }
        let keys: Vec<Key> = places.keys().cloned().collect();
        let columns = &dependent.link.columns;
        for keys in keys.chunks(at_once(tx.dialect())) {
            let mut s = Statement::new(tx.dialect(), "SELECT ");
            select_key(&mut s, columns);
            s.push(", count(*)");
            if dependent.below.iter().any(Dependent::counts) {
                s.push(" + ").by_dialect("sum(", "CAST(sum(", "sum(");
                let table = &dependent.table;
                add_below(&mut s, dependent, 0, &|s, column| {
                    s.column(table, column);
                });
                s.by_dialect(")::bigint", ") AS SIGNED)", ")");
            }
            s.push(" FROM ").table(&dependent.table).push(" WHERE ");
            dependent.link.points_at(&mut s, keys);
            s.push(" GROUP BY ").names(columns.iter().map(|column| column.name.as_str()));
            for row in tx.fetch(&s).await? {
                let rows = row.int(columns.len()).and_then(|rows| u64::try_from(rows).ok());
                let key = read_key(tx.dialect(), &row, columns)?;
                // A key that the store takes for another one, such as without regard to case, counts for nobody.
                for place in places.get(&key).into_iter().flatten() {
                    counts[*place] += rows.unwrap_or_default();
                }
            }
        }
    }
    Ok(counts)
}

/// Appends how many rows go or change with a row, which `above` names a column of.
fn add_below(
    s: &mut Statement,
    dependent: &Dependent,
    depth: usize,
    above: &dyn Fn(&mut Statement, &str),
) {
    let own = ALIASES[depth];
    s.separated(" + ", dependent.below.iter().filter(|next| next.counts()), |s, next| {
        let reference = &next.reference;
        s.push("(SELECT count(*)");
        if next.below.iter().any(Dependent::counts) {
            s.push(" + coalesce(sum(");
            add_below(s, next, depth + 1, &|s, column| {
                s.push(own).push(".").name(column);
            });
            s.push("), 0)");
        }
        s.push(" FROM ").table(&next.table).push(" AS ").push(own).push(" WHERE ");
        let pairs = reference.columns.iter().zip(&reference.target_columns);
        s.separated(" AND ", pairs, |s, (from, to)| {
            s.push(own).push(".").name(from).push(" = ");
            above(s, to);
        });
        s.push(")");
    });
}

/// How many rows at the end of the way point, through the others of it, at due records.
pub(crate) async fn count(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    way: &[&Dependent],
) -> Result<u64, sqlx::Error> {
    let mut s = Statement::new(target.dialect(), "SELECT count(*) FROM ");
    for (place, (dependent, alias)) in way.iter().zip(ALIASES).enumerate().rev() {
        if place + 1 == way.len() {
            s.table(&dependent.table).push(" AS ").push(alias).push(" WHERE ");
        }
        s.push("EXISTS (SELECT 1 FROM ");
        if let Some(above) = place.checked_sub(1) {
            s.table(&way[above].table).push(" AS ").push(ALIASES[above]).push(" WHERE ");
            points(&mut s, dependent, alias, &|s, column| {
                s.push(ALIASES[above]).push(".").name(column);
            });
            s.push(" AND ");
        } else {
            s.table(&target.table).push(" WHERE ");
            points(&mut s, dependent, alias, &|s, column| {
                s.column(&target.table, column);
            });
            s.push(" AND ");
            target.due(&mut s, bounds);
        }
    }
    for _ in way {
        s.push(")");
    }
    let row = tx.fetch_row(&s).await?;
    Ok(row.int(0).and_then(|rows| u64::try_from(rows).ok()).unwrap_or_default())
}

fn points(
    s: &mut Statement,
    dependent: &Dependent,
    alias: &'static str,
    above: &dyn Fn(&mut Statement, &str),
) {
    let reference = &dependent.reference;
    let pairs = reference.columns.iter().zip(&reference.target_columns);
    s.separated(" AND ", pairs, |s, (from, to)| {
        above(s, to);
        s.push(" = ").push(alias).push(".").name(from);
    });
}
