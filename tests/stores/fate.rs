//! A batch lasts when it is committed and not before, and its fate can be told afterwards.

use expunged::anonymize::Strategy;
use expunged::rule::Rule;
use expunged::store::sql::{Access, Interrupted, Resolution, SurveyDepth};
use expunged::store::{Batch, Store, Target};
use expunged::types::{Key, KeyValue};

use crate::common::*;
use crate::support::{Kind, Pool, TestDatabase, fresh_postgres};

on_each_database! {
    what_is_not_committed_did_not_happen,
    the_fate_of_a_batch_is_told_by_the_store,
    the_fate_of_a_batch_is_told_by_its_records,
    a_batch_that_goes_on_is_not_called_over,
}

const ROWS: u32 = 1_200;

async fn people(database: &TestDatabase) {
    let at = moment_type(database);
    let cast = by_kind(database, "::timestamp", "", "");
    let numbers = numbers_below(ROWS);
    database
        .execute(&format!(
            "DROP TABLE IF EXISTS people;
             CREATE TABLE people (id integer PRIMARY KEY, email varchar(99), at {at});
             INSERT INTO people SELECT n, 'ann@example.com', '2020-01-01'{cast} FROM {numbers}"
        ))
        .await;
}

fn rules() -> [Rule; 2] {
    [rule("people"), anonymizing("people", &[("email", Strategy::Null)], None)]
}

async fn take(store: &Store, target: &Target) -> Batch {
    let mut walk = store.walk(target, bounds(), u64::from(ROWS), u64::from(ROWS)).unwrap();
    let mut pace = walk.pace();
    pace.width = 4_096;
    let batch = store.take(target, bounds(), &mut walk, &mut pace, &replace).await.unwrap();
    let batch = batch.expect("there is a window");
    assert_eq!(batch.keys.len(), ROWS as usize, "one batch holds them all");
    batch
}

async fn due(store: &Store, target: &Target) -> u64 {
    store.survey(target, bounds(), SurveyDepth::Due).await.unwrap().due
}

fn interrupted(batch: &Batch) -> Interrupted {
    let transaction_id = batch.transaction_id.clone();
    Interrupted { keys: batch.keys.clone(), identities: Vec::new(), transaction_id }
}

async fn what_is_not_committed_did_not_happen(database: TestDatabase) {
    for rule in rules() {
        people(&database).await;
        let store = open(&database, Access::ReadWrite);
        let target = store.target(&rule).await.unwrap();
        take(&store, &target).await.rollback().await.unwrap();
        assert_eq!(due(&store, &target).await, u64::from(ROWS));
        drop(take(&store, &target).await);
        assert_eq!(due(&store, &target).await, u64::from(ROWS));
        let untouched = "SELECT count(*) FROM people WHERE email = 'ann@example.com'";
        assert_eq!(database.count(untouched).await, i64::from(ROWS));
        take(&store, &target).await.commit().await.unwrap();
        assert_eq!(due(&store, &target).await, 0);
        assert_eq!(database.count(untouched).await, 0);
        store.close().await;
    }
}

async fn the_fate_of_a_batch_is_told_by_the_store(database: TestDatabase) {
    for rule in rules() {
        people(&database).await;
        let store = open(&database, Access::ReadWrite);
        let target = store.target(&rule).await.unwrap();
        let batch = take(&store, &target).await;
        let undone = interrupted(&batch);
        assert_eq!(undone.transaction_id.is_some(), database.kind == Kind::Postgres);
        batch.rollback().await.unwrap();
        assert_eq!(store.resolve(&target, &undone).await.unwrap(), Resolution::Undone);
        let batch = take(&store, &target).await;
        let done = interrupted(&batch);
        batch.commit().await.unwrap();
        assert_eq!(store.resolve(&target, &done).await.unwrap(), Resolution::Done);
        if database.kind == Kind::Postgres {
            // Whatever the records look like by now.
            assert_eq!(store.resolve(&target, &undone).await.unwrap(), Resolution::Undone);
        }
        store.close().await;
    }
}

async fn the_fate_of_a_batch_is_told_by_its_records(database: TestDatabase) {
    let ids = (0..ROWS).map(|id| Key(vec![KeyValue::Int(id.into())]));
    // An id of another history: the database was restored since.
    let transaction_id = by_kind(&database, Some("281474976710655".to_owned()), None, None);
    let identities = Vec::new();
    let all = Interrupted { keys: ids.collect(), identities, transaction_id };
    let keys = vec![Key(vec![KeyValue::Int(7)])];
    let one = Interrupted { keys, identities: Vec::new(), transaction_id: None };
    let again = "INSERT INTO people VALUES (7, 'bob@example.com', '2025-01-01 00:00:00')";
    let used = "UPDATE people SET at = '2025-01-01 00:00:00'";
    let store = open(&database, Access::ReadWrite);
    for rule in rules() {
        people(&database).await;
        let target = store.target(&rule).await.unwrap();
        let deletes = target.rows().unwrap().change_is_deletion();
        for (after, fate) in [
            ("SELECT 1", Resolution::Undone),
            ("DELETE FROM people WHERE id = 3", Resolution::Undone),
            // People came back, and their records are not due any more.
            (used, Resolution::Undone),
        ] {
            database.execute(after).await;
            assert_eq!(store.resolve(&target, &all).await.unwrap(), fate, "{after}");
            assert_eq!(store.resolve(&target, &one).await.unwrap(), fate, "{after}");
        }

        people(&database).await;
        take(&store, &target).await.commit().await.unwrap();
        assert_eq!(store.resolve(&target, &all).await.unwrap(), Resolution::Done);
        assert_eq!(store.resolve(&target, &one).await.unwrap(), Resolution::Done);
        let later = if deletes { again } else { "UPDATE people SET email = 'new' WHERE id = 7" };
        database.execute(later).await;
        assert_eq!(store.resolve(&target, &all).await.unwrap(), Resolution::Done, "but for one");
        database.execute(used).await;
        assert_eq!(store.resolve(&target, &all).await.unwrap(), Resolution::Done, "but for one");
    }
    store.close().await;
}

/// A record under an old key, by somebody whose transaction is older than the batch and ended later.
#[tokio::test]
async fn one_record_of_an_older_transaction_does_not_undo_a_batch() {
    let database = fresh_postgres().await;
    people(&database).await;
    let Pool::Postgres(pool) = &database.pool else { panic!("it is on PostgreSQL") };
    let mut older = pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT pg_current_xact_id()").execute(&mut *older).await.unwrap();
    let store = open(&database, Access::ReadWrite);
    let target = store.target(&rule("people")).await.unwrap();
    let batch = take(&store, &target).await;
    let done = interrupted(&batch);
    batch.commit().await.unwrap();
    let again = "INSERT INTO people VALUES (7, 'bob@example.com', '2025-01-01 00:00:00')";
    sqlx::raw_sql(again).execute(&mut *older).await.unwrap();
    older.commit().await.unwrap();
    assert_eq!(store.resolve(&target, &done).await.unwrap(), Resolution::Done);
    store.close().await;
}

async fn a_batch_that_goes_on_is_not_called_over(database: TestDatabase) {
    people(&database).await;
    let (store, other) = (open(&database, Access::ReadWrite), open(&database, Access::ReadWrite));
    let target = store.target(&rule("people")).await.unwrap();
    let batch = take(&store, &target).await;
    let intent = interrupted(&batch);
    match other.resolve(&target, &intent).await {
        Ok(resolution) => {
            assert_eq!(database.kind, Kind::Postgres);
            assert_eq!(resolution, Resolution::InProgress);
        }
        Err(error) => {
            assert_ne!(database.kind, Kind::Postgres);
            assert!(error.is_transient(), "{error}");
        }
    }
    batch.commit().await.unwrap();
    assert_eq!(other.resolve(&target, &intent).await.unwrap(), Resolution::Done);
}
