//! Looking again: whether records that were reported gone are gone, and what the store still holds of
//! them physically.

use std::fmt::Write;

use crate::plan::Residue;
use crate::rule::Dialect;
use crate::types::Key;

use super::Transaction;
use super::statement::{Statement, Value};
use super::target::{Bounds, Target};
use super::window::select_key;

/// Keys that are asked for in one statement.
const CHUNK: usize = 500;

/// How many of the records are still there as they were: under their key, with a starting point from
/// before the cutoff, and not anonymized. A new record under an old key is another one.
pub(crate) async fn still_there(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    keys: &[Key],
) -> Result<u64, sqlx::Error> {
    let mut found = 0;
    for keys in keys.chunks(CHUNK) {
        let mut s = Statement::new(target.dialect(), "SELECT ");
        select_key(&mut s, &target.table.key);
        s.push(" FROM ").table(&target.table).push(" WHERE ");
        s.key_in(&target.table.key, keys).push(" AND ");
        target.start.is_before_cutoff(&mut s, bounds);
        target.is_fresh(&mut s);
        found += tx.fetch(&s).await?.len() as u64;
    }
    Ok(found)
}

/// What the store still holds of the records that were taken, and how that is known. `folded` says
/// whether SQLite's log was just folded into its file.
pub(crate) async fn residue(
    tx: &mut Transaction,
    target: &Target,
    folded: bool,
) -> Result<(Residue, String), sqlx::Error> {
    match target.dialect() {
        Dialect::Postgres => postgres(tx, target).await,
        Dialect::Mysql => mysql(tx).await,
        Dialect::Sqlite => sqlite(tx, folded).await,
    }
}

/// Dead rows stay in their pages until VACUUM, and VACUUM leaves what an old snapshot could still see
/// (https://www.postgresql.org/docs/current/routine-vacuuming.html).
async fn postgres(tx: &mut Transaction, target: &Target) -> Result<(Residue, String), sqlx::Error> {
    let mut s = Statement::new(
        Dialect::Postgres,
        "SELECT (SELECT n_dead_tup FROM pg_stat_all_tables WHERE schemaname = $1 AND relname = $2), \
                (SELECT count(*) FROM pg_replication_slots), \
                (SELECT max(extract(epoch FROM clock_timestamp() - xact_start))::bigint \
                 FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid())",
    );
    let schema = target.table.schema.clone().map_or(Value::Null, Value::Text);
    s.set_values(vec![schema, Value::Text(target.table.name.clone())]);
    let row = tx.fetch_row(&s).await?;
    let mut detail = match row.int(0) {
        Some(dead) => format!("about {dead} dead rows in the table until VACUUM"),
        None => "dead rows in the table until VACUUM".to_owned(),
    };
    if let Some(slots) = row.int(1).filter(|slots| *slots > 0) {
        // Writing to a string cannot fail.
        let _ = write!(detail, "; {slots} replication slots may hold back its log");
    }
    if let Some(age) = row.int(2).filter(|age| *age > 60) {
        let _ = write!(detail, "; a transaction of {age} s holds VACUUM back");
    }
    detail.push_str("; its write-ahead log and archive keep copies by their own expiry");
    Ok((Residue::PendingVacuum, detail))
}

/// InnoDB's purge removes a deleted row once no view needs it, and the binary log keeps row images by
/// its own expiry (https://dev.mysql.com/doc/refman/8.4/en/innodb-multi-versioning.html).
async fn mysql(tx: &mut Transaction) -> Result<(Residue, String), sqlx::Error> {
    let s = Statement::new(Dialect::Mysql, "SELECT @@log_bin, CAST(@@expire_logs_days AS SIGNED)");
    let binary_log = match tx.fetch_row(&s).await {
        Ok(row) if row.int(0) == Some(0) => "there is no binary log".to_owned(),
        Ok(row) => match row.int(1).filter(|days| *days > 0) {
            Some(days) => format!("the binary log keeps copies for {days} days"),
            None => "the binary log keeps copies until it is purged".to_owned(),
        },
        Err(_) => "the binary log may keep copies".to_owned(),
    };
    Ok((Residue::LogicallyDeleted, format!("InnoDB purges by itself; {binary_log}")))
}

/// With `secure_delete` what is deleted is overwritten with zeros, in WAL mode once the log is folded
/// into the file (https://sqlite.org/pragma.html#pragma_secure_delete). That is true of the database file
/// alone: a rollback journal is unlinked and a log is cut off, and neither is overwritten before.
async fn sqlite(tx: &mut Transaction, folded: bool) -> Result<(Residue, String), sqlx::Error> {
    let s = Statement::new(
        Dialect::Sqlite,
        "SELECT (SELECT secure_delete FROM pragma_secure_delete), \
                (SELECT journal_mode FROM pragma_journal_mode)",
    );
    let row = tx.fetch_row(&s).await?;
    if row.int(0) != Some(1) {
        return Ok((Residue::LogicallyDeleted, "secure_delete is off".to_owned()));
    }
    let is_wal = row.text(1).is_some_and(|mode| mode.eq_ignore_ascii_case("wal"));
    Ok(if is_wal && !folded {
        let detail = "its write-ahead log keeps copies until nobody reads and it is folded in";
        (Residue::LogicallyDeleted, detail.to_owned())
    } else {
        let (journal, left) = if is_wal { ("log", "cut off") } else { ("journal", "removed") };
        let detail = format!(
            "overwritten in the database file (secure_delete); its {journal} was {left} and not overwritten, \
             so the file system may keep blocks of it"
        );
        (Residue::PhysicallyPurged, detail)
    })
}
