//! Looking without touching: how many records are due, how many are kept and why.

use jiff::Timestamp;

use crate::plan::{Access, Dependents, Partition, Survey};
use crate::rule::{AccessPath, Dialect, Facts};
use crate::types::Key;

use super::catalogue::Table;
use super::dependents;
use super::partitions::partitions;
use super::statement::{Statement, Value};
use super::target::{Bounds, Target};
use super::walk::facts;
use super::window::{read_key, select_key};
use super::{Row, Transaction};

/// From this on the store's own estimate of a table's size is used instead of counting.
const COUNT_EXACTLY_BELOW: u64 = 1_000_000;
/// The same for a run, which counts as far as the number matters.
const COUNT_FOR_RUNS_BELOW: u64 = 10_000;

/// How much a survey finds out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SurveyDepth {
    /// Only how many records are due: what is left after a run.
    Left,
    /// Also of about how many: what a run needs.
    Due,
    /// Also what is kept and why, subjects, and what a deletion takes along.
    Full,
}

/// Counts what is due and what is kept.
pub(crate) async fn survey(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    depth: SurveyDepth,
) -> Result<Survey, sqlx::Error> {
    if target.is_calm() && target.dialect() == Dialect::Postgres {
        // Workers that read beside it would leave others no core.
        let alone = "SET LOCAL max_parallel_workers_per_gather = 0";
        tx.execute(&Statement::new(Dialect::Postgres, alone)).await?;
    }
    let mut survey = Survey::default();
    count_due(tx, target, bounds, depth, &mut survey).await?;
    if let Some(exactly_below) = match depth {
        SurveyDepth::Left => None,
        SurveyDepth::Due => Some(COUNT_FOR_RUNS_BELOW),
        SurveyDepth::Full => Some(COUNT_EXACTLY_BELOW),
    } {
        count_total(tx, target, exactly_below, &mut survey).await?;
    }
    if depth == SurveyDepth::Full {
        count_kept(tx, target, bounds, &mut survey).await?;
        if target.change.is_none() && survey.due > 0 {
            for way in target.dependents.paths() {
                let Some(last) = way.last() else { continue };
                if last.table.privileges.select == Some(false) {
                    continue;
                }
                let rows = dependents::count(tx, target, bounds, &way).await?;
                let (table, on_delete) =
                    (last.name_beside(&target.table), last.reference.on_delete);
                survey.dependents.push(Dependents { table, on_delete, rows });
            }
        }
        if survey.due > 0 {
            survey.access = Some(access(tx, target, bounds, (survey.due, survey.total)).await?);
        }
    }
    Ok(survey)
}

/// How a run would reach so many due rows of so many.
async fn access(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    (due, total): (u64, u64),
) -> Result<Access, sqlx::Error> {
    let found = partitions(tx, target, bounds, super::Access::ReadOnly).await?;
    let whole = found.iter().filter(|partition| partition.spared.is_none()).count();
    let facts = Facts { whole_partitions: whole as u64, ..facts(target, due, total) };
    let (path, why) = AccessPath::choose(&facts);
    let planned = |partition: super::Partition| Partition {
        name: partition.display_name(),
        rows: partition.rows,
        spared: partition.spared,
    };
    Ok(Access {
        path,
        why: why.in_words(),
        partitions: found.into_iter().map(planned).collect(),
        keeps_partitions: target.keeps_partitions().filter(|_| target.table.partitioned),
    })
}

/// Runs the due clauses over no rows: the store parses and plans them.
pub(crate) async fn try_condition(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
) -> Result<(), sqlx::Error> {
    let mut s = Statement::new(target.dialect(), "SELECT 1 FROM ");
    s.table(&target.table).push(" WHERE ");
    target.due(&mut s, bounds);
    s.push(" LIMIT 0");
    tx.fetch(&s).await.map(drop)
}

fn positive(count: Option<i64>) -> u64 {
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default()
}

async fn count_due(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    depth: SurveyDepth,
    survey: &mut Survey,
) -> Result<(), sqlx::Error> {
    let mut s = Statement::new(target.dialect(), "SELECT count(*), ");
    target.start.micros(&mut s, "min");
    s.push(", ");
    target.start.micros(&mut s, "max");
    let subject = target.subject.as_ref().filter(|_| depth == SurveyDepth::Full);
    if let Some(subject) = subject {
        s.push(", count(DISTINCT ").name(&subject.name).push(")");
    }
    s.push(" FROM ").table(&target.table).push(" WHERE ");
    target.due(&mut s, bounds);
    let row = tx.fetch_row(&s).await?;
    survey.due = positive(row.int(0));
    survey.oldest = row.int(1).and_then(|micros| target.start.read_micros(micros));
    survey.newest = row.int(2).and_then(|micros| target.start.read_micros(micros));
    survey.subjects = subject.map(|_| positive(row.int(3)));
    Ok(())
}

async fn count_total(
    tx: &mut Transaction,
    target: &Target,
    exactly_below: u64,
    survey: &mut Survey,
) -> Result<(), sqlx::Error> {
    if let Some(rows) = target.table.statistics.rows.filter(|rows| *rows >= exactly_below) {
        // An estimate may be old; what was just counted is not.
        survey.total = rows.max(survey.due);
        survey.total_is_estimate = true;
    } else {
        survey.total = count_rows(tx, &target.table).await?;
    }
    Ok(())
}

/// How many records the table has; no further than to `most`, where that is given.
pub(crate) async fn count(
    tx: &mut Transaction,
    target: &Target,
    most: Option<u64>,
) -> Result<u64, sqlx::Error> {
    let Some(most) = most else { return count_rows(tx, &target.table).await };
    let mut s = Statement::new(target.dialect(), "SELECT count(*) FROM (SELECT 1 AS one FROM ");
    s.table(&target.table).push(" LIMIT ");
    s.bind(Value::Int(i64::try_from(most).unwrap_or(i64::MAX))).push(") AS counted");
    Ok(positive(tx.fetch_row(&s).await?.int(0)))
}

/// How many rows a table has, exactly.
pub(crate) async fn count_rows(tx: &mut Transaction, table: &Table) -> Result<u64, sqlx::Error> {
    let mut s = Statement::new(table.dialect, "SELECT count(*) FROM ");
    s.table(table);
    Ok(positive(tx.fetch_row(&s).await?.int(0)))
}

/// One sub-select per reason, so that each can use the index on the starting point.
async fn count_kept(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    survey: &mut Survey,
) -> Result<(), sqlx::Error> {
    let mut s = Statement::new(target.dialect(), "SELECT ");
    // What the rule's condition leaves out was never its own to decide on.
    let reasons: [&dyn Fn(&mut Statement); 8] = [
        &|s| {
            target.start.is_missing(s);
            target.meets_condition(s);
        },
        &|s| {
            target.start.is_unreadable(s);
            target.meets_condition(s);
        },
        &|s| {
            target.start.is_placeholder(s);
            target.meets_condition(s);
        },
        &|s| {
            target.start.is_in_future(s, bounds.now);
            target.meets_condition(s);
        },
        &|s| {
            target.start.is_before_cutoff(s, bounds);
            target.fails_condition(s);
        },
        &|s| {
            target.start.is_before_cutoff(s, bounds);
            target.meets_condition(s);
            target.is_anonymized(s);
        },
        &|s| {
            target.start.is_before_cutoff(s, bounds);
            target.meets_condition(s);
            target.is_fresh(s);
            target.has_no_name(s);
        },
        &|s| target.due_but_held(s, bounds),
    ];
    s.separated(", ", reasons, |s, reason| {
        s.push("(SELECT count(*) FROM ").table(&target.table).push(" WHERE ");
        reason(s);
        s.push(")");
    });
    let row = tx.fetch_row(&s).await?;
    survey.no_start = positive(row.int(0));
    survey.unreadable_start = positive(row.int(1));
    survey.placeholder_start = positive(row.int(2));
    survey.future_start = positive(row.int(3));
    survey.excluded = positive(row.int(4));
    survey.anonymized = positive(row.int(5));
    survey.no_key = positive(row.int(6));
    survey.held = positive(row.int(7));
    Ok(())
}

/// Some due records, the oldest first: their keys and starting points.
pub(crate) async fn sample(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    limit: u32,
) -> Result<Vec<(Key, Option<Timestamp>)>, sqlx::Error> {
    let mut s = Statement::new(target.dialect(), "SELECT ");
    select_key(&mut s, &target.table.key);
    s.push(", ");
    target.start.micros(&mut s, "");
    s.push(" FROM ").table(&target.table).push(" WHERE ");
    target.due(&mut s, bounds);
    s.push(" ORDER BY ").column(&target.table, &target.start.column.name).push(" LIMIT ");
    s.bind(Value::Int(i64::from(limit)));
    let columns = &target.table.key;
    tx.fetch(&s)
        .await?
        .iter()
        .map(|row| {
            let micros = row.int(columns.len());
            Ok((
                read_key(target.dialect(), row, columns)?,
                micros.and_then(|micros| target.start.read_micros(micros)),
            ))
        })
        .collect()
}

/// The starting point of the record that falls due next, after those that are due already; a day's
/// is its end, from which it counts.
pub(crate) async fn next_start(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let mut s = Statement::new(target.dialect(), "SELECT ");
    target.start.micros(&mut s, "");
    s.push(" FROM ").table(&target.table).push(" WHERE ");
    target.start.is_at_or_after(&mut s, bounds);
    target.meets_condition(&mut s);
    target.is_fresh(&mut s);
    s.push(" ORDER BY ").column(&target.table, &target.start.column.name).push(" LIMIT 1");
    let rows = tx.fetch(&s).await?;
    let start = rows.first().and_then(|row| row.int(0));
    Ok(start.and_then(|micros| target.start.counts_from_micros(micros)))
}

/// The keys of all due records, in the order of the key.
pub(crate) async fn each_key(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    each: &mut (dyn FnMut(Key) + Send),
) -> Result<(), sqlx::Error> {
    let dialect = target.dialect();
    let columns = &target.table.key;
    let mut s = Statement::new(dialect, "SELECT ");
    select_key(&mut s, columns);
    s.push(" FROM ").table(&target.table).push(" WHERE ");
    target.due(&mut s, bounds);
    s.push(" ORDER BY ").separated(", ", columns, |s, column| {
        s.column(&target.table, &column.name);
    });
    let mut each = |row: Row| {
        each(read_key(dialect, &row, columns)?);
        Ok(())
    };
    tx.fetch_each(&s, &mut each).await
}

/// How many records are due in the first sense, and not in the second.
pub(crate) async fn count_only_in(
    tx: &mut Transaction,
    (first, first_bounds): (&Target, Bounds),
    (second, second_bounds): (&Target, Bounds),
) -> Result<u64, sqlx::Error> {
    let mut s = Statement::new(first.dialect(), "SELECT count(*) FROM ");
    s.table(&first.table).push(" WHERE ");
    first.due(&mut s, first_bounds);
    s.push(" AND (");
    second.due(&mut s, second_bounds);
    s.push(") IS NOT TRUE");
    Ok(positive(tx.fetch_row(&s).await?.int(0)))
}
