//! Killed while rows of other tables go along: what the log says went is what is not there.

use serde_json::Value;

use crate::faults::die_once;
use crate::harness::{Place, rule};
use crate::random::side_by_side;
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

/// Accounts that are due, and orders of each.
const ACCOUNTS: i64 = 600;
const ORDERS: i64 = 3;

async fn die_with_dependents(store: TestDatabase) {
    let moment = match store.kind {
        Kind::Postgres => "timestamptz",
        Kind::MySql => "datetime(6)",
        Kind::Sqlite => "text",
    };
    store
        .execute(&format!(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, last_seen {moment});
             CREATE TABLE orders (id bigint PRIMARY KEY, account bigint NOT NULL, \
                 FOREIGN KEY (account) REFERENCES accounts (id))"
        ))
        .await;
    let place = Place::new();
    place.configure(
        &(place.store("app", &store) + &rule("nightly", "app", "0 3 * * *", "with = [\"orders\"]")),
    );
    assert_eq!(place.start().stop().code(), Some(0));
    let count = async |table: &str| store.count(&format!("SELECT count(*) FROM {table}")).await;
    let mut added = 0;
    for point in ["batch.intended", "batch.committed", "batch.settling"] {
        let values: Vec<_> =
            (added..added + ACCOUNTS).map(|id| format!("({id}, '2020-01-01 00:00:00')")).collect();
        store.execute(&format!("INSERT INTO accounts VALUES {}", values.join(", "))).await;
        let orders = (added * ORDERS..(added + ACCOUNTS) * ORDERS)
            .map(|id| format!("({id}, {})", id / ORDERS));
        let orders: Vec<_> = orders.collect();
        store.execute(&format!("INSERT INTO orders VALUES {}", orders.join(", "))).await;
        added += ACCOUNTS;
        die_once(&place, "run", point).await;
        assert_eq!(count("orders").await, count("accounts").await * ORDERS, "after {point}");
    }
    let run = place.json(&["run"]);
    assert_eq!(run[0]["state"], "done", "{run}");
    assert_eq!((count("accounts").await, count("orders").await), (0, 0));
    let audit = place.audit();
    let sum = |key: &dyn Fn(&Value) -> i64| {
        audit.iter().filter(|entry| entry["kind"] == "batch_done").map(key).sum::<i64>()
    };
    assert_eq!(sum(&|entry| entry["records"].as_i64().unwrap()), added);
    let along = |entry: &Value| {
        assert_eq!(entry["dependents"][0]["table"], "orders");
        entry["dependents"][0]["records"].as_i64().unwrap()
    };
    assert_eq!(sum(&along), added * ORDERS, "each is counted once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_goes_along_is_counted_once_whatever_is_killed() {
    side_by_side([
        die_with_dependents(fresh_postgres().await),
        die_with_dependents(fresh_mysql().await),
        die_with_dependents(fresh_sqlite().await),
    ])
    .await;
}
