//! A ledger of before events becomes one with them, and loses nothing.

use std::sync::Arc;

use expunged::audit::entry::Cause;
use expunged::clock;
use expunged::ledger::{Ledger, LedgerError};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, Connection, SqlSafeStr};

use crate::house::{House, name};
use crate::on_both;

on_both!(an_existing_ledger_keeps_its_rows_and_their_ties);

const SQLITE: [&str; 2] = [
    include_str!("../../migrations/sqlite/0001_ledger.sql"),
    include_str!("../../migrations/sqlite/0002_trust.sql"),
];
const POSTGRES: [&str; 2] = [
    include_str!("../../migrations/postgres/0001_ledger.sql"),
    include_str!("../../migrations/postgres/0002_trust.sql"),
];

/// Makes a ledger of version 2, with requests that runs and approvals point at.
async fn old_ledger(house: &House) {
    sqlx::any::install_default_drivers();
    let url = house.url.clone() + if house.is_sqlite() { "?mode=rwc" } else { "" };
    let mut connection = AnyConnection::connect(&url).await.unwrap();
    let texts = if house.is_sqlite() { SQLITE } else { POSTGRES };
    let names = ["ledger", "trust"];
    let migrations = (1..).zip(names.into_iter().zip(texts)).map(|(version, (name, text))| {
        Migration::new(version, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name("ledger_version");
    migrator.run(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let pool = house.pool().await;
    for n in 0..500 {
        let (state, cause) = if n == 7 { ("claimed", "continuous") } else { ("done", "slot") };
        pool.execute(&format!(
            "INSERT INTO request VALUES ('00000000-0000-0000-0000-{n:012}', 'photos', '{cause}', 's{n}', '{state}', \
             '2026-01-01T00:00:00.000000Z', NULL, 'note {n}'); \
             INSERT INTO run (id, request_id, rule, rule_digest, store, table_name, action, mode, cutoff, \
             state, records, started_at) VALUES ('00000000-0000-0000-0001-{n:012}', \
             '00000000-0000-0000-0000-{n:012}', 'photos', 'd', 'app', 't', 'delete', 'enforce', \
             '2026-01-01T00:00:00.000000Z', 'done', {n}, '2026-01-01T00:00:00.000000Z')"
        ))
        .await;
    }
    pool.execute(
        "INSERT INTO approval (run_id, request_id, rule, rule_digest, store, table_name, due, total, reason, \
         state, asked_at) VALUES ('00000000-0000-0000-0002-000000000000', \
         '00000000-0000-0000-0000-000000000003', 'photos', 'd', 'app', 't', 1, 2, 'r', 'waiting', \
         '2026-01-01T00:00:00.000000Z')",
    )
    .await;
    pool.close().await;
}

async fn an_existing_ledger_keeps_its_rows_and_their_ties(house: House) {
    old_ledger(&house).await;
    let columns =
        "id || rule || cause || slot || state || created_at || note || coalesce(closed_at, '-')";
    let rows = format!("SELECT {columns} FROM request ORDER BY id");
    let pool = house.pool().await;
    let before = pool.strings(&rows).await;
    pool.close().await;
    let read_only = Ledger::open_existing(&house.url, house.keys.clone()).await.unwrap_err();
    assert!(matches!(read_only, LedgerError::Older { found: 2, known: 8, .. }), "{read_only}");

    // Several at once, and one after the other.
    let opened = [house.ledger(), house.ledger(), house.ledger()];
    let [one, two, three] = opened;
    let (ledger, two, three) = tokio::join!(one, two, three);
    two.close().await;
    three.close().await;

    let pool = house.pool().await;
    assert_eq!(pool.strings(&rows).await, before);
    let tied = "SELECT count(*) FROM run JOIN request ON request.id = request_id";
    assert_eq!(pool.count(tied).await, 500);
    let open = ledger.open_requests().await.unwrap();
    assert_eq!((open.len(), open[0].cause), (1, Cause::Continuous));
    assert_eq!(ledger.approvals().await.unwrap().len(), 1);

    // What was guarded is guarded still: a slot is claimed once, nothing points at what is not there.
    let twice =
        "INSERT INTO request VALUES ('x', 'photos', 'slot', 's1', 'claimed', 't', NULL, NULL)";
    assert!(pool.try_execute(twice).await.is_err());
    let lost = "INSERT INTO request VALUES ('x', 'photos', 'slot', 'sx', 'lost', 't', NULL, NULL)";
    assert!(pool.try_execute(lost).await.is_err());
    let orphan = "UPDATE run SET request_id = 'nothing' WHERE records = 5";
    let guarded = if house.is_sqlite() {
        // SQLite asks of each connection that it wants that.
        let broken = "SELECT count(*) FROM pragma_foreign_key_check";
        assert_eq!(pool.count(broken).await, 0);
        pool.try_execute(&format!("PRAGMA foreign_keys = ON; {orphan}")).await
    } else {
        pool.try_execute(orphan).await
    };
    assert!(guarded.is_err());
    pool.close().await;

    // And it can do what it could not.
    let request = ledger.request(&name("photos"), Cause::Event, clock::now()).await.unwrap();
    assert!(ledger.is_open(&request).await.unwrap());
    ledger.close().await;
    let again = Ledger::open(&house.url, Arc::clone(&house.keys)).await.unwrap();
    again.close().await;
}
