//! Walks take exactly the due records in bounded batches, whichever way they go and whoever else is
//! at work.

use std::time::Duration;

use expunged::store::sql::{Access, WalkKind};
use expunged::store::{Store, Target, Walk};

use crate::common::*;
use crate::support::{Kind, TestDatabase, fresh_postgres};

on_each_database! {
    exactly_the_due_records_go,
    a_walk_along_an_index_goes_on_beyond_what_it_looks_up_at_once,
    the_way_follows_from_what_is_known,
    what_changes_during_a_walk_is_seen,
    what_others_hold_is_taken_later_and_nothing_is_lost,
    what_others_change_while_a_batch_waits_is_kept,
}

const ROWS: u32 = 12_000;

/// Ways to lay a table out: what stands between the columns and the end of `CREATE TABLE`, and after.
fn layouts(database: &TestDatabase) -> Vec<(&'static str, &'static str, &'static str)> {
    match database.kind {
        Kind::Postgres => vec![
            ("heap", "PRIMARY KEY (id))", ""),
            ("heap of two", "PRIMARY KEY (region, id))", ""),
            (
                "partitioned",
                "PRIMARY KEY (id)) PARTITION BY HASH (id)",
                "CREATE TABLE {t}_0 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            ),
            ("inherited", "PRIMARY KEY (id))", "CREATE TABLE {t}_child () INHERITS ({t})"),
        ],
        Kind::MySql => vec![
            ("clustered", "PRIMARY KEY (id))", ""),
            ("clustered by two", "PRIMARY KEY (region, id))", ""),
            ("partitioned", "PRIMARY KEY (id)) PARTITION BY HASH (id) PARTITIONS 3", ""),
        ],
        Kind::Sqlite => vec![
            ("rowid", "PRIMARY KEY (id))", ""),
            ("rowid apart", "PRIMARY KEY (region, id))", ""),
            ("without rowid", "PRIMARY KEY (id)) WITHOUT ROWID", ""),
            ("without rowid, two", "PRIMARY KEY (region, id)) WITHOUT ROWID", ""),
        ],
    }
}

/// Which of the numbers below `ROWS` are due: scattered, together, and together after a long stretch
/// of nothing, over which windows have grown wide.
const PATTERNS: [&str; 4] =
    ["(n * 7919) % 10 < 4", "n BETWEEN 3000 AND 8500", "n >= 6500", "n % 997 = 0"];

/// Fills a table: every third whole number is a key, and there is a wide gap.
async fn fill(database: &TestDatabase, table: &str, due: &str) {
    let cast = by_kind(database, "::timestamp", "", "");
    let region = by_kind(database, "(n % 7)::text", "n % 7", "n % 7");
    let numbers = numbers_below(ROWS);
    let into = if database.kind == Kind::Postgres
        && database
            .count(&format!("SELECT count(*) FROM pg_class WHERE relname = '{table}_child'"))
            .await
            > 0
    {
        format!("{table}_child")
    } else {
        table.to_owned()
    };
    database
        .execute(&format!(
            "INSERT INTO {into} SELECT {region}, n * 3 + CASE WHEN n > 7000 THEN 5000000 ELSE 0 END, \
             CASE WHEN {due} THEN '2020-01-01 00:00:00' ELSE '2025-01-01 00:00:00' END{cast}, \
             'padding that makes rows a little longer than their keys' FROM {numbers} ORDER BY n"
        ))
        .await;
}

async fn create(database: &TestDatabase, table: &str, end: &str, more: &str) {
    let at = moment_type(database);
    let more = more.replace("{t}", table);
    database
        .execute(&format!(
            "CREATE TABLE {table} (region varchar(3) NOT NULL, id bigint NOT NULL, at {at} NOT NULL, \
             pad varchar(99), {end}; {more}"
        ))
        .await;
}

/// The keys that are due, by a query of this test's own.
async fn due_ids(database: &TestDatabase, table: &str) -> Vec<i64> {
    ids(database, "id", &format!("{table} WHERE at < '2024-01-01 00:00:00'")).await
}

async fn all_ids(database: &TestDatabase, table: &str) -> Vec<i64> {
    ids(database, "id", table).await
}

fn last_numbers(walked: &Walked) -> Vec<i64> {
    let texts = texts(&walked.keys);
    let last = |key: &String| key.rsplit(", ").next().unwrap().parse().unwrap();
    let mut numbers: Vec<i64> = texts.iter().map(last).collect();
    numbers.sort_unstable();
    numbers
}

async fn exactly_the_due_records_go(database: TestDatabase) {
    let store = open(&database, Access::ReadWrite);
    let mut number = 0;
    for (layout, end, more) in layouts(&database) {
        for due in PATTERNS {
            for kind in [WalkKind::Ranges, WalkKind::Index] {
                // Along an index one dense pattern is like another.
                if kind == WalkKind::Index && due.contains("BETWEEN") {
                    continue;
                }
                number += 1;
                let table = format!("walked_{number}");
                let what = format!("{layout}, {due}, {kind:?}");
                create(&database, &table, end, more).await;
                if kind == WalkKind::Index {
                    database.execute(&format!("CREATE INDEX {table}_at ON {table} (at)")).await;
                }
                fill(&database, &table, due).await;
                let (before, expected) =
                    (all_ids(&database, &table).await, due_ids(&database, &table).await);
                let mut target = store.target(&rule(&table)).await.unwrap();
                if kind == WalkKind::Index {
                    pretend_large(&mut target);
                }
                assert_eq!(way(&target, 1, 1), kind);

                let walked = walk(&store, &target).await;

                assert_eq!(last_numbers(&walked), expected, "{what}");
                let left: Vec<_> =
                    before.into_iter().filter(|id| expected.binary_search(id).is_err()).collect();
                assert_eq!(all_ids(&database, &table).await, left, "{what}");
                // Wide windows over nothing are what makes a long walk short.
                assert!(walked.batches.len() < 60, "{} batches: {what}", walked.batches.len());
                let again = walk(&store, &target).await;
                assert_eq!((again.keys.len(), again.survey.due), (0, 0), "{what}");
                database.execute(&format!("DROP TABLE {table}{}", cascade(&database))).await;
            }
        }
    }
}

fn cascade(database: &TestDatabase) -> &'static str {
    by_kind(database, " CASCADE", "", "")
}

async fn a_walk_along_an_index_goes_on_beyond_what_it_looks_up_at_once(database: TestDatabase) {
    let at = moment_type(&database);
    let cast = by_kind(&database, "::timestamp", "", "");
    let numbers = numbers_below(45_000);
    database
        .execute(&format!(
            "CREATE TABLE events (id integer PRIMARY KEY, at {at});
             CREATE INDEX events_at ON events (at);
             INSERT INTO events SELECT n, '2020-01-01'{cast} FROM {numbers}"
        ))
        .await;
    let store = open(&database, Access::ReadWrite);
    let mut target = store.target(&rule("events")).await.unwrap();
    pretend_large(&mut target);
    let walked = walk(&store, &target).await;
    assert_eq!(walked.keys.len(), 45_000);
    assert_eq!(database.count("SELECT count(*) FROM events").await, 0);
}

async fn the_way_follows_from_what_is_known(database: TestDatabase) {
    let (_, end, more) = layouts(&database)[0];
    create(&database, "events", end, more).await;
    fill(&database, "events", "n = 9000").await;
    let store = open(&database, Access::ReadOnly);
    let target = store.target(&rule("events")).await.unwrap();
    assert_eq!(way(&target, 1, 12_000), WalkKind::Ranges, "there is no index");
    database.execute("CREATE INDEX events_at ON events (at)").await;
    let analyze = by_kind(&database, "ANALYZE events", "ANALYZE TABLE events", "ANALYZE");
    database.execute(analyze).await;
    let target = store.target(&rule("events")).await.unwrap();
    assert_eq!(way(&target, 1, 12_000), WalkKind::Index);
    assert_eq!(way(&target, 6_000, 12_000), WalkKind::Ranges, "half of all rows");
}

/// The way through a table of which so much is due.
fn way(target: &Target, due: u64, total: u64) -> WalkKind {
    expunged::store::sql::Walk::new(target.rows().unwrap(), due, total).kind
}

/// A table of `rows` due records, and a walk over it of this kind.
async fn due_table(database: &TestDatabase, rows: u32, kind: WalkKind) -> (Store, Target, Walk) {
    let at = moment_type(database);
    let cast = by_kind(database, "::timestamp", "", "");
    let numbers = numbers_below(rows);
    let index = if kind == WalkKind::Index { "CREATE INDEX events_at ON events (at);" } else { "" };
    database
        .execute(&format!(
            "DROP TABLE IF EXISTS events;
             CREATE TABLE events (id integer PRIMARY KEY, at {at}, pad varchar(200)); {index}
             INSERT INTO events SELECT n, '2020-01-01'{cast}, 'some more' FROM {numbers} ORDER BY n"
        ))
        .await;
    let store = open(database, Access::ReadWrite);
    let mut target = store.target(&rule("events")).await.unwrap();
    if kind == WalkKind::Index {
        pretend_large(&mut target);
    }
    let walk = store.walk(&target, bounds(), u64::from(rows), u64::from(rows)).unwrap();
    assert_eq!(way(&target, u64::from(rows), u64::from(rows)), kind);
    (store, target, walk)
}

async fn what_changes_during_a_walk_is_seen(database: TestDatabase) {
    for kind in [WalkKind::Ranges, WalkKind::Index] {
        let (store, target, mut walk) = due_table(&database, 9_000, kind).await;
        let mut pace = walk.pace();
        let take = store.take(&target, bounds(), &mut walk, &mut pace, &replace).await.unwrap();
        let first = take.expect("there is a first window");
        walk.advance(first.window.as_ref(), first.keys.len() as u64);
        let gone = numbers(&first.keys);
        assert!(gone.len() < 6_000 && !gone.contains(&8_000), "{kind:?}");
        first.commit().await.unwrap();
        // Behind the walk's back, in windows that it may have chosen already.
        database
            .execute(
                "UPDATE events SET at = '2025-01-01 00:00:00' WHERE id = 8000;
                 UPDATE events SET at = NULL WHERE id = 8001;
                 UPDATE events SET at = '2021-01-01 00:00:00' WHERE id = 8002;
                 DELETE FROM events WHERE id = 8003;
                 INSERT INTO events VALUES (20000, '2025-01-01 00:00:00', 'young')",
            )
            .await;
        let (keys, _) = finish(&store, &target, bounds(), &mut walk).await;
        let taken = [gone, numbers(&keys)].concat();
        assert_eq!(all_ids(&database, "events").await, [8_000, 8_001, 20_000], "{kind:?}");
        assert_eq!(taken.len(), 9_000 - 3, "{kind:?}: each was taken once");
        assert!(taken.contains(&8_002) && !taken.contains(&8_003), "{kind:?}");
        store.close().await;
    }
}

async fn what_others_hold_is_taken_later_and_nothing_is_lost(database: TestDatabase) {
    for kind in [WalkKind::Ranges, WalkKind::Index] {
        let (store, target, mut walk) = due_table(&database, 300, kind).await;
        let mut pace = walk.pace();
        let held = "UPDATE events SET pad = 'in use' WHERE id = 150";
        let mut session = Session::in_the_middle(&database, held).await;

        let taken = store.take(&target, bounds(), &mut walk, &mut pace, &replace).await;
        let error = taken.err().expect("the record is held by someone else");
        assert!(error.is_transient(), "{kind:?}: {error}");
        assert_eq!(database.count("SELECT count(*) FROM events").await, 300, "{kind:?}");
        pace.back_off();
        session.execute("ROLLBACK").await;

        let (keys, _) = finish(&store, &target, bounds(), &mut walk).await;
        assert_eq!(keys.len(), 300, "{kind:?}");
        assert_eq!(database.count("SELECT count(*) FROM events").await, 0, "{kind:?}");
        store.close().await;
    }
}

async fn what_others_change_while_a_batch_waits_is_kept(database: TestDatabase) {
    for kind in [WalkKind::Ranges, WalkKind::Index] {
        let (store, target, mut walk) = due_table(&database, 300, kind).await;
        let mut pace = walk.pace();
        let change = "UPDATE events SET at = '2025-01-01 00:00:00' WHERE id IN (7, 150, 299)";
        let mut session = Session::in_the_middle(&database, change).await;

        let take = store.take(&target, bounds(), &mut walk, &mut pace, &replace);
        let commit = async {
            // SQLite tells nobody who waits: whether the batch asks before or after, it must see it.
            if database.kind != Kind::Sqlite {
                someone_waits(&database).await;
            }
            session.execute("COMMIT").await;
        };
        let (taken, ()) = tokio::join!(take, commit);
        let batch = taken.unwrap().expect("there is a window");
        assert!(batch.keys.len() <= 297, "{kind:?}");
        let rows = batch.keys.len() as u64;
        walk.advance(batch.window.as_ref(), rows);
        batch.commit().await.unwrap();
        pace.note(Duration::from_millis(1), rows);

        finish(&store, &target, bounds(), &mut walk).await;
        assert_eq!(all_ids(&database, "events").await, [7, 150, 299], "{kind:?}");
        store.close().await;
    }
}

/// Over pages that are empty windows grow wide, and a page holds next to nothing on average. A batch may take more than it
/// should where that is not known before, but no more than a few times as much.
#[tokio::test]
async fn full_pages_behind_empty_ones_are_counted_before_they_are_taken() {
    // Some dozens of rows in a page, and as many as it holds.
    for (pad, gone, left) in [(150, 42_000, 24_000), (1, 190_000, 60_000)] {
        let database = fresh_postgres().await;
        database
            .execute(&format!(
                "CREATE TABLE events (id integer PRIMARY KEY, at timestamp, pad text) WITH (autovacuum_enabled = off);
                 INSERT INTO events SELECT n, '2020-01-01', repeat('x', {pad}) FROM generate_series(1, {gone} + {left}) n;
                 DELETE FROM events WHERE id <= {gone};
                 ANALYZE events"
            ))
            .await;
        let store = open(&database, Access::ReadWrite);
        let target = store.target(&rule("events")).await.unwrap();
        assert_eq!(way(&target, left, left), WalkKind::Ranges);
        let mut walk = store.walk(&target, bounds(), left, left).unwrap();
        let mut pace = walk.pace();
        let mut batches = Vec::new();
        while let Some(batch) =
            store.take(&target, bounds(), &mut walk, &mut pace, &replace).await.unwrap()
        {
            let rows = batch.rows();
            walk.advance(batch.window.as_ref(), rows);
            batch.commit().await.unwrap();
            pace.note(Duration::from_millis(1), rows);
            batches.push(rows);
        }
        store.close().await;
        assert_eq!(batches.iter().sum::<u64>(), left);
        assert!(batches.iter().filter(|rows| **rows == 0).count() > 5, "it grew wide: {batches:?}");
        assert!(batches.iter().all(|rows| *rows <= 2 * pace.most_rows()), "{batches:?}");
    }
}
