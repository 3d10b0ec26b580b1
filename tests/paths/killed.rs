//! Killed at random moments in the middle of a purge.

use std::process::{Child, Stdio};
use std::time::Duration;

use expunged::clock;

use crate::house::{EXPORTS, House, OLD, accounts, accounts_rule};
use crate::support::{fresh_sqlite, tell};

/// How often each is killed.
const KILLS: u32 = 30;

/// Somewhere below so many milliseconds.
fn moment(below: u64) -> Duration {
    let random = u64::from_le_bytes(clock::random_bytes::<8>());
    Duration::from_micros(random % (below * 1_000))
}

/// Kills a run again and again, until one is left to end.
async fn kill(house: &House, rule: &str, mut add: impl FnMut(u32)) -> u32 {
    let ledger = house.place.ledger().await;
    let batches = "SELECT count(*) FROM batch";
    let mut open = 0;
    for kill in 0..KILLS {
        add(kill);
        let before = ledger.count(batches).await;
        let mut command = house.place.command(&["run", rule]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // One time in four any moment, otherwise one after a batch was begun.
        if kill % 4 == 0 {
            tokio::time::sleep(moment(300)).await;
        } else {
            let is_busy = async |process: &mut Child| {
                process.try_wait().unwrap().is_none() && ledger.count(batches).await == before
            };
            while is_busy(&mut process).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(moment(60)).await;
        }
        process.kill().unwrap();
        process.wait().unwrap();
        open += u32::from(house.open_batches().await > 0);
    }
    ledger.close().await;
    let run = loop {
        let run = house.run(rule);
        if run["state"] != "busy" {
            break run;
        }
    };
    assert_eq!(run["state"], "done", "{run}");
    open
}

#[tokio::test]
async fn files_that_are_purged_by_processes_that_are_killed() {
    let house = House::files(EXPORTS);
    let path = |number: u32| format!("exports/u{}/{number}.csv", number % 50);
    let due: Vec<_> = (0..20_000 + KILLS * 1_000).map(path).collect();
    due.iter().take(20_000).for_each(|path| house.put(path, OLD));
    (0..50).for_each(|user| house.put(&format!("exports/u{user}/young.csv"), 1));
    let open = kill(&house, "exports", |kill| {
        let more = due.iter().skip(20_000 + kill as usize * 1_000).take(1_000);
        more.for_each(|path| house.put(path, OLD));
    })
    .await;
    assert_eq!(house.all().len(), 50);
    let mut times = house.committed().await;
    for path in &due {
        assert_eq!(times.remove(&house.commitment(path)), Some(1), "{path}");
    }
    assert!(times.is_empty() && house.open_batches().await == 0);
    tell(&format!(
        "kill suite, files: 30 kills, {open} between intent and outcome, {} files once each",
        due.len()
    ));
}

#[tokio::test]
async fn rows_and_files_that_are_purged_by_processes_that_are_killed() {
    let store = fresh_sqlite().await;
    accounts(&store, 6_000).await;
    let rule = accounts_rule("action = \"delete\"", &["faces/{face}"]);
    let house = House::with_rows(store, false, &rule);
    (0..=6_000).for_each(|id| house.put(&format!("faces/k{id}"), 0));
    let open = kill(&house, "accounts", |_| {}).await;
    assert_eq!(house.all(), ["faces/k0"]);
    assert_eq!(house.store().count("SELECT count(*) FROM accounts").await, 1);
    let mut times = house.committed().await;
    for id in 1..=6_000 {
        assert_eq!(times.remove(&house.commitment(&format!("faces/k{id}"))), Some(1), "{id}");
    }
    assert_eq!(times.len(), 6_000, "rows");
    assert!(times.values().all(|times| *times == 1) && house.open_batches().await == 0);
    tell(&format!(
        "kill suite, rows and files: 30 kills, {open} between intent and outcome, each once"
    ));
}
