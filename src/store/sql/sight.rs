//! A look at a database: whether it is the one that it was. The server says who it is and on which timeline, and a
//! marker that expunged keeps in a table of the operator's says how far the data have come.

use jiff::Timestamp;

use super::catalogue::Table;
use super::statement::{Statement, Value};
use super::{Access, Database, Transaction};
use crate::restore::Mark;
use crate::rule::Dialect;

/// The columns of the marker's table.
pub(crate) const MARKER_COLUMNS: [&str; 3] = ["id", "number", "written_at"];

/// The server's own name and its timeline, as far as it tells them. A replica tells no timeline: what it shows of that may
/// be of any age.
pub(crate) async fn server(
    database: &Database,
) -> Result<(Option<String>, Option<i64>), sqlx::Error> {
    if !matches!(database, Database::Postgres(_)) {
        return Ok((None, None));
    }
    let server = told(database, "SELECT system_identifier::text FROM pg_control_system()").await?;
    // The log that is being written tells at once, the control file only after the next checkpoint.
    let log = "SELECT CASE WHEN NOT pg_is_in_recovery() \
               THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int::text END";
    let mut timeline = told(database, log).await?;
    if timeline.is_none() {
        let file = "SELECT CASE WHEN NOT pg_is_in_recovery() \
                    THEN (SELECT timeline_id::text FROM pg_control_checkpoint()) END";
        timeline = told(database, file).await?;
    }
    Ok((server, timeline.and_then(|timeline| timeline.parse().ok())))
}

/// What PostgreSQL answers, in a transaction of its own because a refusal ends it. A managed server may not have, or not
/// allow, what is asked: then it is not known.
async fn told(database: &Database, query: &'static str) -> Result<Option<String>, sqlx::Error> {
    let mut tx = database.begin(Access::ReadOnly).await?;
    match tx.fetch(&Statement::new(Dialect::Postgres, query)).await {
        Ok(rows) => Ok(rows.first().and_then(|row| row.text(0))),
        // Insufficient privilege, undefined function, not supported, not in the prerequisite state.
        Err(sqlx::Error::Database(error))
            if matches!(error.code().as_deref(), Some("42501" | "42883" | "0A000" | "55000")) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The marker in its table.
pub(crate) async fn mark(tx: &mut Transaction, table: &Table) -> Result<Mark, sqlx::Error> {
    let mut s = Statement::new(tx.dialect(), "SELECT ");
    s.name("number").push(", ").by_dialect("", "CAST(", "").name("written_at");
    s.by_dialect("::text", " AS CHAR)", "").push(" FROM ").table(table);
    s.push(" WHERE ").name("id").push(" = 1");
    let rows = tx.fetch(&s).await?;
    let Some(row) = rows.first() else { return Ok(Mark::NoRow) };
    let number = row.scalar_text(0).and_then(|number| number.parse().ok());
    let unreadable = || sqlx::Error::Decode("the marker's number is none".into());
    let written_at = row.text(1).and_then(|text| text.parse().ok());
    Ok(Mark::There { number: number.ok_or_else(unreadable)?, written_at })
}

/// Writes the marker, unless a greater one is there.
pub(crate) async fn write_mark(
    tx: &mut Transaction,
    table: &Table,
    number: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let written_at = || Value::Text(now.to_string());
    let mut s = Statement::new(tx.dialect(), "UPDATE ");
    s.table(table).push(" SET ").name("number").push(" = ").bind(Value::Int(number)).push(", ");
    s.name("written_at").push(" = ").bind(written_at());
    s.push(" WHERE ")
        .name("id")
        .push(" = 1 AND ")
        .name("number")
        .push(" < ")
        .bind(Value::Int(number));
    if tx.execute(&s).await? > 0 || mark(tx, table).await? != Mark::NoRow {
        return Ok(());
    }
    let mut s = Statement::new(tx.dialect(), "INSERT INTO ");
    s.table(table).push(" (").names(MARKER_COLUMNS).push(") VALUES (1, ");
    s.bind(Value::Int(number)).push(", ").bind(written_at()).push(")");
    tx.execute(&s).await.map(drop)
}
