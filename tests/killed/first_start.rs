//! Killed while it makes its keys and its ledger.

use std::process::Stdio;

use sqlx::{Connection, Executor, SqliteConnection};

use crate::harness::{Place, rule};
use crate::random::{Random, length};
use crate::support::{fresh_postgres, fresh_sqlite};

/// Folders that are begun, and how often each is killed.
const PLACES: u32 = 8;
const KILLS: u32 = 4;

async fn kill_the_first_start(on_postgres: bool) {
    let store = fresh_sqlite().await;
    let mut random = Random::new();
    for _ in 0..PLACES * length() {
        let ledger = if on_postgres { Some(fresh_postgres().await) } else { None };
        let place = ledger.as_ref().map_or_else(Place::new, Place::on);
        place.configure(&(place.store("app", &store) + &rule("nightly", "app", "0 3 * * *", "")));
        for _ in 0..KILLS {
            let mut command = place.command(&["daemon"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = command.spawn().unwrap();
            random.pause(60).await;
            process.kill().unwrap();
            process.wait().unwrap();
        }
        assert_eq!(place.start().stop().code(), Some(0));
        assert!(place.entries("daemon_stopped") >= 1);
    }
    let kills = PLACES * length() * KILLS;
    crate::support::tell(&format!(
        "kill suite, first start: {kills} kills, and every ledger and its keys came to be"
    ));
}

#[tokio::test]
async fn a_first_start_that_is_killed_is_made_up_for_by_the_next() {
    tokio::join!(kill_the_first_start(false), kill_the_first_start(true));
}

/// What a kill in the middle of SQLite's very first write leaves behind: a file, and beside it a journal
/// by which it is to be rolled back. Who only reads cannot do that.
#[tokio::test]
async fn a_ledger_with_a_hot_journal_is_rolled_back_and_used() {
    let store = fresh_sqlite().await;
    let place = Place::new();
    place.configure(&(place.store("app", &store) + &rule("nightly", "app", "0 3 * * *", "")));
    let draft = place.path("draft.db");
    let url = format!("sqlite://{}?mode=rwc", draft.display());
    let mut writer = SqliteConnection::connect(&url).await.unwrap();
    let half_written = "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; \
                        CREATE TABLE t (a); DROP TABLE t; BEGIN IMMEDIATE; CREATE TABLE t (a); \
                        WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 500) \
                        INSERT INTO t SELECT randomblob(4000) FROM n";
    writer.execute(half_written).await.unwrap();
    for suffix in ["", "-journal"] {
        let from = place.path(&format!("draft.db{suffix}"));
        std::fs::copy(from, place.path(&format!("ledger.db{suffix}"))).unwrap();
    }
    writer.close().await.unwrap();
    assert_eq!(place.start().stop().code(), Some(0));
    assert_eq!(place.entries("daemon_stopped"), 1);
}
