//! A ledger that cannot grow any more, in the middle of a run: the run ends with what was done recorded,
//! nothing goes unrecorded, and the next run settles what is open and finishes.

#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

mod support;
use support::{TestDatabase, fresh_postgres};

const DUE: i64 = 60_000;

#[tokio::test]
async fn a_full_disk_loses_nothing_and_hides_nothing() {
    let store = fresh_postgres().await;
    store
        .execute(
            "CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz, payload text);
             INSERT INTO events SELECT i, now() - interval '3 years', repeat('x', 100)
             FROM generate_series(1, 60000) AS s (i);
             CREATE INDEX ON events (at); ANALYZE events",
        )
        .await;
    let folder = folder();
    // So much is there before the first batch.
    assert_eq!(expunged(&folder, &store, "plan", None).0, 2);
    assert_eq!(expunged(&folder, &store, "status", None).0, 1, "no ledger yet");

    let (code, run) = expunged(&folder, &store, "run", None);
    assert_eq!((code, &run[0]["state"]), (1, &"waiting".into()), "{run}");
    assert_eq!(expunged(&folder, &store, "approve old-events --why tested", None).0, 0);
    // Each file may have 512 KiB: enough to begin, not enough for all the intents and entries.
    let (code, run) = expunged(&folder, &store, "run", Some(512));
    assert_eq!((code, &run[0]["state"]), (1, &"failed".into()), "{run}");
    assert!(run[0]["error"].as_str().unwrap().contains("is its disk full?"), "{run}");
    let left = store.count("SELECT count(*) FROM events").await;
    assert!((1..DUE).contains(&left), "it failed in the middle, with {left} left");

    let (code, run) = expunged(&folder, &store, "run", None);
    assert_eq!((code, &run[0]["state"]), (0, &"done".into()), "{run}");
    assert_eq!(store.count("SELECT count(*) FROM events").await, 0);
    let (_, batches) = expunged(&folder, &store, "audit log --kind batch_done --limit 0", None);
    let recorded: i64 =
        batches.as_array().unwrap().iter().map(|batch| batch["records"].as_i64().unwrap()).sum();
    assert_eq!(recorded, DUE, "every record is in the audit log, once");
    assert_eq!(expunged(&folder, &store, "audit verify", None).0, 0);
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let configuration = r#"
        [ledger]
        url = "sqlite:ledger.db"
        [store.app]
        kind = "postgres"
        url = { env = "APP_URL" }
        [rule.old-events]
        store = "app"
        table = "events"
        starting_point = "at"
        retention = "2 years"
        action = "delete"
        mode = "enforce"
    "#;
    std::fs::write(folder.path().join("expunged.toml"), configuration).unwrap();
    folder
}

/// Runs a command, its files limited to so many KiB: a write beyond that fails, as on a full disk.
fn expunged(
    folder: &TempDir,
    store: &TestDatabase,
    command: &str,
    most: Option<u32>,
) -> (i32, Value) {
    let limit = most.map_or_else(String::new, |most| format!("trap '' XFSZ; ulimit -f {most};"));
    let program = env!("CARGO_BIN_EXE_expunged");
    let output = Command::new("bash")
        .args(["-c", &format!("{limit} exec {program} --config expunged.toml {command} --json")])
        .current_dir(folder.path())
        .env("APP_URL", &store.url)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), json)
}
