//! How far a replica lags behind.

use std::time::Duration;

use crate::rule::Dialect;

use super::statement::Statement;
use super::{Access, Database, Transaction, mysql};

/// How far a replica lags behind; `None` where it does not follow at all, or is none: then nobody knows.
///
/// PostgreSQL: where all that was received is replayed, not at all; otherwise since the commit that was replayed last. It
/// has to be receiving, as one that does not has replayed everything, however old that is. MySQL and MariaDB tell it in
/// whole seconds, to users with the right to monitor replication.
pub(in crate::store) async fn lag(database: &Database) -> Result<Option<Duration>, sqlx::Error> {
    let mut tx = database.begin(Access::ReadOnly).await?;
    let milliseconds = match &mut tx {
        Transaction::Postgres(_) => {
            let s = Statement::new(
                Dialect::Postgres,
                "SELECT CASE \
                   WHEN NOT pg_is_in_recovery() OR NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver) THEN NULL \
                   WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 \
                   ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000 END::bigint",
            );
            tx.fetch_row(&s).await?.int(0)
        }
        Transaction::Mysql(tx) => mysql::seconds_behind(tx).await?.map(|seconds| seconds * 1_000),
        Transaction::Sqlite(_) => None,
    };
    // Two clocks that do not quite agree may show less than nothing.
    Ok(milliseconds.map(|lag| Duration::from_millis(lag.max(0).unsigned_abs())))
}
