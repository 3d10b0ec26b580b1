//! Others at work on the same rows: a run waits briefly, makes its batches smaller, passes over what it cannot have and
//! goes on.

use std::time::Duration;

use expunged::audit::Event;
use expunged::clock::Stopwatch;
use expunged::run::RunState;

use crate::house::{House, RULES};
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres};

const GENTLE: &str = "[rule.inactive]\npace = \"gentle\"\n";

fn gentle() -> String {
    RULES.replace("[rule.inactive]\n", GENTLE)
}

/// A row that somebody changes, and does not let go of, until the transaction is dropped.
async fn hold_row(store: &TestDatabase, id: u32) -> sqlx::Transaction<'static, sqlx::Any> {
    begin(store, &format!("UPDATE accounts SET name = 'in use' WHERE id = {id}")).await
}

async fn begin(store: &TestDatabase, sql: &str) -> sqlx::Transaction<'static, sqlx::Any> {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&store.url).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut *transaction).await.unwrap();
    transaction
}

#[tokio::test]
async fn rows_that_others_hold_are_left_and_everything_else_goes_on_postgres() {
    left_and_taken_later(fresh_postgres().await).await;
}

#[tokio::test]
async fn rows_that_others_hold_are_left_and_everything_else_goes_on_mysql() {
    left_and_taken_later(fresh_mysql().await).await;
}

async fn left_and_taken_later(store: TestDatabase) {
    let house = House::with(store, false, &gentle()).await;
    house.copy(20).await;
    let table = if house.store.kind == Kind::MySql { "TABLE accounts" } else { "accounts" };
    house.store.execute(&format!("ANALYZE {table}")).await;
    let due = 490 * 21;
    house.approve("inactive").await;
    let mine = hold_row(&house.store, 100).await;

    let result = house.ask("inactive").await;

    assert_eq!(result.state, RunState::Done, "{:?}", result.error);
    let left = result.remaining.unwrap();
    assert!((1..=100).contains(&left), "{left} are left");
    assert_eq!(result.records + left, due);
    assert!(result.error.unwrap().contains("others held locks"));
    assert_eq!(house.ids("id = 100").await, 1, "it is somebody else's");
    let finished = house.events("run_finished").await;
    let Some(Event::RunFinished { reason: Some(reason), remaining, .. }) = finished.last() else {
        panic!("{finished:?}");
    };
    assert_eq!((reason.as_str(), *remaining), ("records that others held were left", Some(left)));

    mine.rollback().await.unwrap();
    let result = house.run("inactive").await;
    assert_eq!((result.state, result.records), (RunState::Done, left));
    assert_eq!((result.remaining, result.error), (Some(0), None));
    house.assert_log_is_sound().await;
}

/// It neither waits for ever nor tries each window of the table.
#[tokio::test]
async fn a_table_that_is_locked_as_a_whole_ends_the_run_soon() {
    let house = House::with(fresh_postgres().await, false, &gentle()).await;
    house.copy(20).await;
    house.approve("inactive").await;
    let lock = begin(&house.store, "LOCK TABLE accounts IN EXCLUSIVE MODE").await;
    let watch = Stopwatch::start();

    let result = house.ask("inactive").await;

    assert_eq!((result.state, result.records), (RunState::Failed, 0), "{:?}", result.error);
    assert!(watch.elapsed() < Duration::from_secs(30), "{:?}", watch.elapsed());
    lock.rollback().await.unwrap();
    assert_eq!(house.run("inactive").await.records, 490 * 21);
    house.assert_log_is_sound().await;
}
