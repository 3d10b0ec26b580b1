//! A million rows of which 400,000 are due, on each database: planned and purged by one
//! configuration, exactly the due rows go, memory stays flat, and a second run finds nothing.

#![allow(clippy::print_stdout, reason = "its figures are worth seeing")]
#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

mod support;
use support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

const ROWS: u64 = 1_000_000;
const DUE: u64 = 400_000;
/// The most that the process may hold in memory, in KiB.
const MEMORY: u64 = 64 * 1024;

#[tokio::test]
async fn a_million_rows_on_postgres() {
    let store = fresh_postgres().await;
    store
        .execute(
            "CREATE TABLE events (id bigint PRIMARY KEY, user_id bigint, created_at timestamptz, email text, payload text);
             INSERT INTO events SELECT i, i % 5000,
                 now() - CASE WHEN (i::bigint * 7919) % 10 < 4 THEN interval '3 years' ELSE interval '1 year' END
                       - (i % 300) * interval '1 hour',
                 'user' || i || '@example.org', repeat('x', 200)
             FROM generate_series(1, 1000000) AS s (i);
             CREATE INDEX events_created ON events (created_at);
             ANALYZE events",
        )
        .await;
    purge(store).await;
}

#[tokio::test]
async fn a_million_rows_on_mysql() {
    let store = fresh_mysql().await;
    store
        .execute(
            "CREATE TABLE events (id bigint PRIMARY KEY, user_id bigint, created_at timestamp NULL, email varchar(99), payload text);
             INSERT INTO events SELECT seq, seq % 5000,
                 now() - INTERVAL CASE WHEN (seq * 7919) % 10 < 4 THEN 36 ELSE 12 END MONTH
                       - INTERVAL (seq % 300) HOUR,
                 CONCAT('user', seq, '@example.org'), REPEAT('x', 200)
             FROM seq_1_to_1000000;
             CREATE INDEX events_created ON events (created_at);
             ANALYZE TABLE events",
        )
        .await;
    purge(store).await;
}

#[tokio::test]
async fn a_million_rows_on_sqlite() {
    let store = fresh_sqlite().await;
    store
        .execute(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE events (id integer PRIMARY KEY, user_id integer, created_at text, email text, payload text);
             WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 1000000)
             INSERT INTO events SELECT i, i % 5000,
                 datetime('now', CASE WHEN (i * 7919) % 10 < 4 THEN '-36 months' ELSE '-12 months' END, '-' || (i % 300) || ' hours'),
                 'user' || i || '@example.org', printf('%.200c', 'x')
             FROM s;
             CREATE INDEX events_created ON events (created_at)",
        )
        .await;
    purge(store).await;
}

/// Plans, runs, and runs again, with the real program.
async fn purge(store: TestDatabase) {
    let folder = tempfile::tempdir().unwrap();
    let kind = match store.kind {
        Kind::Postgres => "postgres",
        Kind::MySql => "mysql",
        Kind::Sqlite => "sqlite",
    };
    let config = format!(
        r#"
        [ledger]
        url = "sqlite:ledger.db"
        [store.app]
        kind = "{kind}"
        url = {{ env = "APP_URL" }}
        [rule.old-events]
        store = "app"
        table = "events"
        where = "email LIKE 'user%'"
        starting_point = "created_at"
        retention = "2 years"
        action = "delete"
        subject = "user_id"
        mode = "enforce"
        "#
    );
    std::fs::write(folder.path().join("expunged.toml"), config).unwrap();
    let due = match store.kind {
        Kind::Postgres => "created_at < now() - interval '30 months'",
        Kind::MySql => "created_at < now() - INTERVAL 30 MONTH",
        Kind::Sqlite => "created_at < datetime('now', '-30 months')",
    };
    let count = async |what: &str, condition: &str| {
        let sql = match store.kind {
            Kind::MySql => format!("SELECT CAST({what} AS SIGNED) FROM events WHERE {condition}"),
            Kind::Postgres => format!("SELECT ({what})::bigint FROM events WHERE {condition}"),
            Kind::Sqlite => format!("SELECT {what} FROM events WHERE {condition}"),
        };
        u64::try_from(store.count(&sql).await).unwrap()
    };
    assert_eq!(count("count(*)", "1 = 1").await, ROWS);
    assert_eq!(count("count(*)", due).await, DUE);
    let survivors = count("sum(id)", &format!("NOT ({due})")).await;

    let (code, plan, _) = expunged(&folder, &store, &["plan", "--json"]);
    assert_eq!(code, 2, "something is due");
    assert_eq!(plan[0]["due"], DUE);
    assert_eq!(count("count(*)", "1 = 1").await, ROWS, "a plan touches nothing");

    let (code, run, _) = expunged(&folder, &store, &["run", "--json"]);
    assert_eq!((code, &run[0]["state"]), (1, &Value::from("waiting")), "{run}");
    let approve = ["approve", "old-events", "--why", "it is a test", "--json"];
    assert_eq!(expunged(&folder, &store, &approve).0, 0);
    let (code, run, memory) = expunged(&folder, &store, &["run", "--json"]);
    // Shown by `tests/run --test scale -- --nocapture`.
    println!("{kind}: {} s, peak memory {memory} KiB", run[0]["seconds"]);
    assert_eq!((code, &run[0]["state"]), (0, &Value::from("done")), "{run}");
    assert_eq!((&run[0]["records"], &run[0]["remaining"]), (&DUE.into(), &0.into()));
    assert!(memory < MEMORY, "peak memory was {memory} KiB");
    assert_eq!(count("count(*)", "1 = 1").await, ROWS - DUE);
    assert_eq!(count("sum(id)", "1 = 1").await, survivors, "exactly the others are left");

    let (code, again, _) = expunged(&folder, &store, &["run", "--json"]);
    assert_eq!((code, &again[0]["records"]), (0, &0.into()), "a second run finds nothing");
    let (code, plan, _) = expunged(&folder, &store, &["plan", "--json"]);
    assert_eq!((code, &plan[0]["due"]), (0, &0.into()));

    let (code, verification, _) = expunged(&folder, &store, &["audit", "verify", "--json"]);
    assert_eq!((code, &verification["valid"]), (0, &true.into()), "{verification}");
    let (_, batches, _) = expunged(
        &folder,
        &store,
        &["audit", "log", "--kind", "batch_done", "--limit", "0", "--json"],
    );
    let recorded: u64 =
        batches.as_array().unwrap().iter().map(|batch| batch["records"].as_u64().unwrap()).sum();
    assert_eq!(recorded, DUE, "every record is in the audit log, once");
}

/// Runs the program: its exit code, its JSON and its peak memory in KiB.
fn expunged(folder: &TempDir, store: &TestDatabase, args: &[&str]) -> (i32, Value, u64) {
    let output = folder.path().join("output.json");
    let mut child = Command::new(env!("CARGO_BIN_EXE_expunged"))
        .arg("--config")
        .arg(folder.path().join("expunged.toml"))
        .args(args)
        .env("APP_URL", &store.url)
        .stdout(Stdio::from(std::fs::File::create(&output).unwrap()))
        .spawn()
        .unwrap();
    let mut peak = 0;
    let status = loop {
        peak = peak.max(high_water(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // The high-water mark only grows, and can only be read while the process lives.
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = std::fs::read_to_string(&output).unwrap();
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
    (status.code().unwrap(), json, peak)
}

/// The most memory that a process has held so far (`VmHWM` of proc(5)), in KiB.
fn high_water(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}
