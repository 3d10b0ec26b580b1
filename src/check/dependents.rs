//! What goes or changes along with the records of a rule, and what that costs.

use super::Finding;
use crate::plan::OnDelete;
use crate::rule::{Dialect, Rule};
use crate::store::sql::catalogue::Table;
use crate::store::sql::{Dependent, Target, create_index, index_bytes};
use crate::store::{StoreError, Tables};

/// Looks at the tables that are reached by foreign keys or named in `with`.
pub(super) async fn examine(
    rule: &Rule,
    tables: &Tables,
    table: &Table,
) -> Result<Vec<Finding>, StoreError> {
    // What else does not fit was found.
    if Target::new(rule, table.clone()).is_err() {
        return Ok(Vec::new());
    }
    let target = match tables.target_in(rule, table.clone()).await {
        Ok(target) => target,
        Err(StoreError::Mismatch { mismatches, .. }) => {
            let wrong =
                mismatches.iter().map(|mismatch| Finding::error("with", mismatch.to_string()));
            return Ok(wrong.collect());
        }
        Err(error) => return Err(error),
    };
    let mut findings = Vec::new();
    for way in target.dependents.paths() {
        let Some((last, before)) = way.split_last() else { continue };
        findings.push(effect(table, last, before));
        findings.extend(rights(table, last));
        if !last.reference.indexed {
            let rows = tables.rows_of(&last.table).await?;
            findings.push(price(table, last, rows));
        }
    }
    let goes = target.dependents.paths().iter().any(|way| way.iter().all(|one| one.goes()));
    if goes && table.dialect == Dialect::Postgres && table.privileges.update == Some(false) {
        let message = "the url's user may not UPDATE, which PostgreSQL asks of whoever locks a record: \
                       rows that others add to it meanwhile may go along uncounted";
        let help =
            format!("grant it, for one column: GRANT UPDATE (…) ON {} TO …;", table.display_name());
        findings.push(Finding::warning("privileges", message).help(help));
    }
    Ok(findings)
}

/// What becomes of the rows.
fn effect(table: &Table, dependent: &Dependent, before: &[&Dependent]) -> Finding {
    let child = dependent.name_beside(table);
    let columns = dependent.reference.columns.join(", ");
    let through: Vec<_> = before.iter().map(|one| one.name_beside(table)).collect();
    let through = match through.as_slice() {
        [] => String::new(),
        names => format!(", through {}", names.join(" and ")),
    };
    let message = match dependent.reference.on_delete {
        OnDelete::Cascade if !dependent.reference.declared => format!(
            "deleting a record deletes the rows of {child} whose {columns} is its {}, by `with`",
            dependent.reference.target_columns.join(", ")
        ),
        OnDelete::Cascade => {
            let by = if dependent.is_named { ", by `with`" } else { "" };
            format!(
                "deleting a record deletes the rows of {child} that point at it ({columns}){through}{by}"
            )
        }
        OnDelete::SetNull => {
            format!("deleting a record sets {columns} of {child} to NULL{through}")
        }
        OnDelete::SetDefault => {
            format!("deleting a record sets {columns} of {child} to its default{through}")
        }
        OnDelete::Refuse => format!(
            "a record cannot be deleted while rows of {child} point at it ({columns}){through}"
        ),
    };
    match dependent.reference.on_delete {
        OnDelete::Refuse => Finding::warning("foreign key", message).help(format!(
            "to have them go with it, add them to the rule: `with = [\"{child}\"]`; or write a rule that ends them earlier, or \
             exclude such records by `where`"
        )),
        OnDelete::Cascade if dependent.is_named => Finding::fine("with", message),
        _ => Finding::warning("foreign key", message),
    }
}

/// What the user may not do with them.
fn rights(table: &Table, dependent: &Dependent) -> Option<Finding> {
    let child = dependent.name_beside(table);
    let privileges = dependent.table.privileges;
    let grant = |right| format!("grant it: GRANT {right} ON {child} TO …;");
    if privileges.select == Some(false) {
        let message =
            format!("the url's user may not SELECT from {child}, so its rows are not counted");
        return Some(Finding::warning("privileges", message).help(grant("SELECT")));
    }
    if !dependent.goes() || privileges.delete != Some(false) {
        return None;
    }
    let message = format!("the url's user may not DELETE from {child}");
    Some(if dependent.is_named {
        Finding::error("privileges", message).help(grant("DELETE"))
    } else {
        let message = format!(
            "{message}: the database deletes its rows, one by one, and what points at them is not counted"
        );
        Finding::warning("privileges", message).help(grant("DELETE"))
    })
}

/// What a missing index costs, and what it would.
fn price(table: &Table, dependent: &Dependent, rows: u64) -> Finding {
    let child = dependent.name_beside(table);
    let reference = &dependent.reference;
    let columns = reference.columns.join(", ");
    // The database itself looks for rows that point at a record, for each that goes.
    let each = if reference.declared { "each record that goes" } else { "each batch" };
    let size = index_bytes(&dependent.table, &reference.columns, rows);
    Finding::warning(
        "foreign key",
        format!(
            "no index starts with {columns} of {child}: {each} reads all of its rows, about {rows}; an index would take about \
             {}, and each write to {child} a little longer",
            in_words(size)
        ),
    )
    .help(create_index(
        dependent.table.dialect,
        dependent.table.schema.as_deref(),
        &dependent.table.name,
        &reference.columns,
    ))
}

fn in_words(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1_000).max(1)),
        1_000_000..10_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        _ => format!("{} GB", bytes.div_ceil(1_000_000_000)),
    }
}
