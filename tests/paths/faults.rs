//! Killed at every step of a batch: what is gone is committed to once, and what stays is whole.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use rustix::process::Signal;

use crate::house::{EXPORTS, House, OLD, accounts, accounts_rule};
use crate::support::{TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

const POINTS: [&str; 6] = [
    "batch.taken",
    "batch.intended",
    "batch.attached",
    "batch.committed",
    "batch.settling",
    "batch.settled",
];

/// Runs a rule in a process that is to die at a point.
fn die(house: &House, rule: &str, point: &str) {
    let mut command = house.place.command(&["run", rule]);
    command.env("FAILPOINTS", format!("{point}=return"));
    let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(
        ended.signal(),
        Some(Signal::ABORT.as_raw()),
        "nothing died at {point}: see tests/run"
    );
}

/// Every path that was there and is gone is committed to once, and no other is.
async fn assert_covered(house: &House, before: &[String], rows: usize) {
    let after = house.all();
    let mut times = house.committed().await;
    for path in before {
        let expected = (!after.contains(path)).then_some(1);
        assert_eq!(times.remove(&house.commitment(path)), expected, "{path}");
    }
    assert_eq!(times.len(), rows, "commitments to what was not there");
    assert!(times.values().all(|times| *times == 1));
    assert_eq!(house.open_batches().await, 0);
}

#[tokio::test]
async fn files_and_objects_survive_a_death_at_every_step() {
    for house in House::each(EXPORTS) {
        let mut before = Vec::new();
        for (round, point) in POINTS.iter().enumerate() {
            for number in 0..30 {
                house.put(&format!("exports/ann/{round}-{number}.csv"), OLD);
                house.put(&format!("exports/bob/{round}-{number}.csv"), 1);
            }
            before.extend(house.all());
            die(&house, "exports", point);
            house.takes(
                "exports",
                if ["batch.taken", "batch.intended", "batch.attached"].contains(point) {
                    30
                } else {
                    0
                },
            );
            before.sort();
            before.dedup();
            assert_covered(&house, &before, 0).await;
        }
        assert_eq!(house.all().len(), POINTS.len() * 30);
    }
}

/// Another file of the same name, put there while the outcome is not known: the one that was meant is
/// gone, and is counted; the new one stays, although it was given the same number.
#[tokio::test]
async fn a_file_that_is_made_again_before_the_recovery_is_another() {
    for point in ["batch.committed", "batch.settling"] {
        let house = House::files(EXPORTS);
        for number in 0..20 {
            house.put(&format!("exports/ann/{number}.csv"), OLD);
        }
        die(&house, "exports", point);
        assert!(house.all().is_empty());
        // Old as well: only that it is another keeps it from being taken for the same.
        for number in 0..20 {
            house.put(&format!("exports/ann/{number}.csv"), 1);
        }
        house.takes("exports", 0);
        assert_eq!(house.all().len(), 20);
        let times = house.committed().await;
        assert_eq!(times.len(), 20, "{point}");
        assert!(times.values().all(|times| *times == 1));
    }
}

async fn rows_survive(store: TestDatabase, bucket: bool) {
    accounts(&store, 20).await;
    let rule = accounts_rule("action = \"delete\"", &["faces/{face}", "thumbs/{face}/*"]);
    let house = House::with_rows(store, bucket, &rule);
    let mut before = Vec::new();
    let mut rows = 20;
    for (round, point) in POINTS.iter().enumerate() {
        if round > 0 {
            let ids: Vec<_> = (1..=20).map(|id| round * 100 + id).collect();
            for id in &ids {
                let old = "INSERT INTO accounts SELECT";
                let date = match house.store().kind {
                    crate::support::Kind::Postgres => "timestamptz '2020-01-01'",
                    _ => "'2020-01-01 00:00:00'",
                };
                house.store().execute(&format!("{old} {id}, 'x', 'k{id}', {date}, NULL")).await;
            }
            rows += ids.len();
        }
        for id in 1..=20 {
            let id = round * 100 + id;
            house.put(&format!("faces/k{id}"), 0);
            house.put(&format!("thumbs/k{id}/a"), 0);
            house.put(&format!("thumbs/k{id}/b"), 0);
        }
        house.put("faces/k0", 0);
        before.extend(house.all());
        die(&house, "accounts", point);
        let there = house.store().count("SELECT count(*) FROM accounts WHERE id > 0").await;
        if there == 0 {
            assert_eq!(house.all(), ["faces/k0"], "rows are gone, and files are not: {point}");
        }
        let run = house.run("accounts");
        assert_eq!(run["state"], "done", "{point}: {run}");
        assert_eq!(house.store().count("SELECT count(*) FROM accounts").await, 1, "{point}");
        assert_eq!(house.all(), ["faces/k0"], "{point}");
        before.sort();
        before.dedup();
        assert_covered(&house, &before, rows).await;
    }
}

#[tokio::test]
async fn rows_of_sqlite_and_their_files_survive_a_death_at_every_step() {
    rows_survive(fresh_sqlite().await, false).await;
}

#[tokio::test]
async fn rows_of_postgres_and_their_objects_survive_a_death_at_every_step() {
    rows_survive(fresh_postgres().await, true).await;
}

#[tokio::test]
async fn rows_of_mariadb_and_their_files_survive_a_death_at_every_step() {
    rows_survive(fresh_mysql().await, false).await;
}

/// What belonged to rows that are still there, and was made again before the recovery: it is another.
#[tokio::test]
async fn what_belongs_to_a_row_and_is_made_again_is_another() {
    let store = fresh_sqlite().await;
    accounts(&store, 3).await;
    let rule = accounts_rule("action = \"delete\"", &["faces/{face}"]);
    let house = House::with_rows(store, false, &rule);
    for id in 1..=3 {
        house.put(&format!("faces/k{id}"), OLD);
    }
    die(&house, "accounts", "batch.attached");
    assert!(house.all().is_empty());
    for id in 1..=3 {
        house.put(&format!("faces/k{id}"), 0);
    }
    house.store().execute("UPDATE accounts SET last_seen = '2999-01-01'").await;
    house.takes("accounts", 0);
    assert_eq!(house.all().len(), 3);
    assert_eq!(house.committed().await.len(), 3, "what is gone is recorded");
}
