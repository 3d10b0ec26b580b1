//! Which way a run takes through a table, and that each finds all that is due.

use std::collections::BTreeSet;

use expunged::clock;
use expunged::hold::{Hold, Order, Range, Scope, Terms};
use expunged::run::RunState;
use jiff::ToSpan;

use crate::house::House;
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

/// Places a hold on a person.
pub(crate) async fn hold_subject(house: &House, person: &str) -> Hold {
    let order = Order {
        authority: "District court".into(),
        reference: "12 Js 34/26".into(),
        ..Order::default()
    };
    let values = [person.to_owned()].into();
    let scope = Scope::Subjects { values, store: None, table: None };
    let terms =
        Terms { scope, range: Range::default(), order, broad: None, columns: BTreeSet::new() };
    let now = clock::now();
    let until = now.to_zoned(jiff::tz::TimeZone::UTC).checked_add(90.days()).unwrap().timestamp();
    let limit = std::time::Duration::from_secs(20);
    house.runner.place(terms, until, "ann", now, limit).await.unwrap().hold
}

/// `rows` rows with an index on their age, of which those are due where the condition on `n` holds; in the
/// order of `n`.
fn filled(store: &TestDatabase, rows: u32, due: &str) -> String {
    let (moment, numbers, more) = match store.kind {
        Kind::Postgres => {
            ("timestamptz", format!("generate_series(1, {rows}) AS n"), "; ANALYZE events")
        }
        Kind::MySql => (
            "datetime",
            format!("(SELECT seq AS n FROM seq_1_to_{rows}) numbers"),
            "; ANALYZE TABLE events",
        ),
        Kind::Sqlite => (
            "text",
            format!(
                "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) SELECT n FROM c)"
            ),
            "",
        ),
    };
    let (old, young) = match store.kind {
        Kind::Postgres => ("timestamptz '2020-06-01'", "now()"),
        Kind::MySql => ("'2020-06-01'", "now()"),
        Kind::Sqlite => ("'2020-06-01 00:00:00'", "datetime('now')"),
    };
    format!(
        "CREATE TABLE events (id integer PRIMARY KEY, person integer, at {moment}, note varchar(200));
         INSERT INTO events SELECT n, n, CASE WHEN {due} THEN {old} ELSE {young} END, 'a note of some length to fill pages' \
         FROM {numbers};
         CREATE INDEX events_at ON events (at){more}"
    )
}

/// What is due, the rule's lines, the path that is planned.
const CASES: [(&str, &str, &str); 7] = [
    ("n % 4 = 0", "", "ranges"),
    ("n % 5000 = 0", "", "index"),
    ("n % 4 = 0", "access = \"index\"", "index"),
    ("n % 5000 = 0", "access = \"ranges\"", "ranges"),
    ("n % 5000 = 0", "access = \"auto\"", "index"),
    // Together, at the front and far behind.
    ("n <= 9000", "access = \"index\"", "index"),
    ("n > 21000 OR n = 5", "access = \"ranges\"", "ranges"),
];

async fn each_path_takes_all_that_is_due(fresh: impl AsyncFn() -> TestDatabase) {
    for (due, more, path) in CASES {
        let store = fresh().await;
        let sql = filled(&store, 30_000, due);
        let house = House::new(store, &sql, more).await;
        let plan = house.plan().await;
        let access = plan.access.unwrap();
        assert_eq!(access.path.as_str(), path, "{due}, {more}: {}", access.why);
        assert_eq!(
            access.why == "the rule pins it",
            more.contains("index") || more.contains("ranges")
        );
        let run = house.run().await;
        assert_eq!((run.state, run.remaining), (RunState::Done, Some(0)), "{due}: {:?}", run.error);
        assert_eq!(run.records, plan.due, "{due}, {more}");
        let left = "SELECT count(*) FROM events WHERE at < '2021-01-01'";
        assert_eq!(house.store.count(left).await, 0, "{due}, {more}");
        let last = house.runner.ledger.last_run(&"old".parse().unwrap()).await.unwrap().unwrap();
        let noted = last.access.unwrap();
        assert!(noted.starts_with(path), "{due}, {more}: {noted}");
        house.assert_log_is_sound().await;
    }
}

#[tokio::test]
async fn each_path_takes_all_that_is_due_in_postgres() {
    Box::pin(each_path_takes_all_that_is_due(fresh_postgres)).await;
}

#[tokio::test]
async fn each_path_takes_all_that_is_due_in_mariadb() {
    Box::pin(each_path_takes_all_that_is_due(fresh_mysql)).await;
}

#[tokio::test]
async fn each_path_takes_all_that_is_due_in_sqlite() {
    Box::pin(each_path_takes_all_that_is_due(fresh_sqlite)).await;
}

/// Where nothing tells that due rows lie together far behind, a walk finds out.
#[tokio::test]
async fn a_sparse_stretch_leads_to_the_index() {
    let store = fresh_postgres().await;
    let sql = filled(&store, 60_000, "n > 40000")
        .replace(
            "note varchar(200))",
            "note varchar(200)) WITH (fillfactor = 10, autovacuum_enabled = off)",
        )
        .replace("; ANALYZE events", "");
    let house = House::new(store, &sql, "").await;
    let run = house.run().await;
    assert_eq!((run.state, run.records, run.remaining), (RunState::Done, 20_000, Some(0)));
    let last = house.runner.ledger.last_run(&"old".parse().unwrap()).await.unwrap().unwrap();
    let noted = last.access.unwrap();
    assert!(noted.starts_with("ranges: due rows lie in about"), "{noted}");
    assert!(
        noted.contains("; index: a stretch of") && noted.contains("pages held 0 due rows"),
        "{noted}"
    );
}

/// Statistics that are wrong lead a long way round, and to the same end.
#[tokio::test]
async fn wrong_statistics_cost_time_and_nothing_else() {
    // Taken while everything was due and lay together; then nearly all of it was renewed.
    let store = fresh_postgres().await;
    let sql = format!(
        "{};
         ALTER TABLE events SET (autovacuum_enabled = off);
         UPDATE events SET at = now() WHERE id % 1000 <> 0;
         UPDATE events SET at = '2019-01-01' WHERE id % 1000 = 500",
        filled(&store, 60_000, "n > 0")
    );
    let house = House::new(store, &sql, "").await;
    let run = house.run().await;
    assert_eq!((run.state, run.records, run.remaining), (RunState::Done, 120, Some(0)));
}
