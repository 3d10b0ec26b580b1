//! Others are at work on a partition while it is being dropped: no row of theirs is ever lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use expunged::run::RunState;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::house::{House, MONTHS};
use crate::support::{TestDatabase, fresh_postgres};

pub(crate) async fn session(store: &TestDatabase) -> PgConnection {
    PgConnection::connect(&store.url).await.unwrap()
}

pub(crate) async fn say(session: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(session).await.unwrap();
}

/// Rows that are to stay, and what is due, come into months that are about to go, by way of the whole table and
/// directly. What an inserter was told to be there is there, or was due and is recorded; and a month goes only
/// if none of its rows was to stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_row_that_comes_meanwhile_is_lost() {
    for round in 0..3_i64 {
        let house = House::new(fresh_postgres().await, MONTHS, "where = \"note <> 'keep'\"").await;
        house.approve().await;
        let (over, kept, due) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicI64::new(0)),
            Arc::new(AtomicI64::new(0)),
        );
        let mut tasks = Vec::new();
        for worker in 0..2_i64 {
            let mut session = session(&house.store).await;
            let (over, kept, due) = (over.clone(), kept.clone(), due.clone());
            tasks.push(tokio::spawn(async move {
                let mut number = 0;
                while !over.load(Ordering::SeqCst) {
                    number += 1;
                    // Few of those that are due: of many more than when the run began it would ask.
                    let is_kept = (number + worker) % (round + 2) != 0 || number > 400;
                    let table = if number % 2 == 0 { "events" } else { "events_2020_02" };
                    let note = if is_kept { "keep" } else { "new" };
                    let id = 100_000 * (worker + 1) + number;
                    let sql = format!(
                        "INSERT INTO {table} VALUES ({id}, 1, '2020-02-10 00:00+00', '{note}')"
                    );
                    // Where the month is gone there is no place for it, and nobody was told otherwise: what falls
                    // into the default partition is there.
                    if sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.is_ok() {
                        (if is_kept { &kept } else { &due }).fetch_add(1, Ordering::SeqCst);
                    }
                }
            }));
        }
        let run = house.run().await;
        over.store(true, Ordering::SeqCst);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(run.state, RunState::Done, "{:?}", run.error);
        let (kept, due) = (kept.load(Ordering::SeqCst), due.load(Ordering::SeqCst));
        assert_eq!(house.rows("note = 'keep'").await, kept, "rows that were to stay");
        let left = house.rows("note <> 'keep' AND at < '2021-01-01'").await;
        let records: u64 = house.done().await.iter().map(|(records, _)| records).sum();
        assert_eq!(i64::try_from(records).unwrap() + left, 600 + due, "each was taken once");
        assert!(house.dropped().await.len() >= 2, "the months that nobody touched went whole");
        house.assert_log_is_sound().await;
    }
}

/// A row that comes between the look at a partition and its end keeps all of it.
#[tokio::test]
async fn what_comes_after_the_keys_were_read_keeps_the_partition() {
    let house = House::new(fresh_postgres().await, MONTHS, "").await;
    let rule = house.rule();
    let store = house.runner.stores.get(&rule.store, expunged::store::Access::ReadWrite).unwrap();
    let target = store.target(rule).await.unwrap();
    let (target, tables) = (target.rows().unwrap(), store.tables().unwrap());
    let now = expunged::clock::now();
    let bounds = expunged::store::sql::Bounds { cutoff: rule.cutoff(now), now };
    for change in [
        "INSERT INTO events VALUES (9001, 1, '2020-01-10 00:00+00', 'as due as the others')",
        "DELETE FROM events WHERE id = 3",
        // As many as before, and not the same.
        "DELETE FROM events WHERE id = 4; INSERT INTO events VALUES (9002, 1, '2020-01-10 00:00+00', 'another')",
        "UPDATE events SET id = 9003 WHERE id = 5",
    ] {
        let found = tables.partitions(target, bounds).await.unwrap();
        let mut dropping =
            tables.begin_drop(target, bounds, found[0].clone()).await.unwrap().unwrap();
        while !dropping.next_keys(target, 50).await.unwrap().is_empty() {}
        house.store.execute(change).await;
        let dropped = dropping.detach_and_drop(target, bounds).await.unwrap();
        assert_eq!(dropped, Err("its partition changed meanwhile"), "{change}");
        dropping.rollback().await.unwrap();
    }
    assert_eq!(house.partitions().await.len(), 5);

    // What a deletion would set off, and a drop would not.
    let found = tables.partitions(target, bounds).await.unwrap();
    let mut dropping = tables.begin_drop(target, bounds, found[0].clone()).await.unwrap().unwrap();
    while !dropping.next_keys(target, 50).await.unwrap().is_empty() {}
    house.store.execute("CREATE PUBLICATION late FOR TABLE events").await;
    let dropped = dropping.detach_and_drop(target, bounds).await.unwrap();
    assert_eq!(dropped, Err("its partition may not be dropped any more"));
    dropping.rollback().await.unwrap();
    house.store.execute("DROP PUBLICATION late").await;

    // A writer who has not committed: neither waits for the other for long, and the writer wins.
    let found = tables.partitions(target, bounds).await.unwrap();
    let mut dropping = tables.begin_drop(target, bounds, found[0].clone()).await.unwrap().unwrap();
    while !dropping.next_keys(target, 50).await.unwrap().is_empty() {}
    let mut writer = session(&house.store).await;
    say(&mut writer, "BEGIN; INSERT INTO events VALUES (9004, 1, '2020-01-10 00:00+00', 'open')")
        .await;
    let dropped = dropping.detach_and_drop(target, bounds).await.unwrap();
    assert_eq!(dropped, Err("others were at work on its partition"));
    dropping.rollback().await.unwrap();
    say(&mut writer, "COMMIT").await;
    let begun = tables.begin_drop(target, bounds, found[0].clone()).await.unwrap();
    assert!(begun.is_some(), "it is free again");
}
