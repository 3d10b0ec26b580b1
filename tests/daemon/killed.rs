//! Killed in the middle, and several processes at once: every batch has one outcome, and what the
//! audit log says is what is gone.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Place, accounts, left, make_slow, output, poll, rule};
use crate::support::{TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

const ROWS: i64 = 30_000;

async fn kill_and_go_on(store: TestDatabase, place: Place) {
    accounts(&store, u32::try_from(ROWS).unwrap()).await;
    place.configure(&(place.store("app", &store) + &rule("nightly", "app", "0 3 * * *", "")));
    place.make_overdue().await;
    let ledger = place.ledger().await;
    let batches = "SELECT count(*) FROM batch";

    for kill in 0..4 {
        let before = ledger.count(batches).await;
        if kill % 2 == 0 {
            let mut daemon = place.start();
            daemon.wait_for("a batch is done");
            jitter().await;
            daemon.kill();
        } else {
            let mut command = place.command(&["run"]);
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = child.unwrap();
            poll(&ledger, batches, |batches| batches > before).await;
            jitter().await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    let interrupted = "SELECT count(*) FROM run WHERE state = 'running'";
    assert_eq!(ledger.count(interrupted).await, 1, "the last kill came too late to test anything");

    let mut daemon = place.start();
    let run = daemon.wait_for_run("nightly");
    assert_eq!(run["state"], "done", "{}", daemon.text());
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(left(&store).await, 1);
    place.assert_settled(ROWS).await;
}

/// Somewhere in a batch: which step it is at is left to chance.
async fn jitter() {
    let random = RandomState::new().build_hasher().finish() % 40;
    tokio::time::sleep(Duration::from_millis(random)).await;
}

#[tokio::test]
async fn what_is_killed_on_postgres_is_settled_and_goes_on() {
    let ledger = fresh_postgres().await;
    kill_and_go_on(fresh_postgres().await, Place::on(&ledger)).await;
}

#[tokio::test]
async fn what_is_killed_on_mysql_is_settled_and_goes_on() {
    kill_and_go_on(fresh_mysql().await, Place::new()).await;
}

#[tokio::test]
async fn what_is_killed_on_sqlite_is_settled_and_goes_on() {
    kill_and_go_on(fresh_sqlite().await, Place::new()).await;
}

#[tokio::test]
async fn the_command_and_the_daemon_share_a_rule_without_doing_anything_twice() {
    let store = fresh_postgres().await;
    // So many that it still is at work when the command has started.
    accounts(&store, 12_000).await;
    make_slow(&store).await;
    let place = Place::new();
    place.configure(&(place.store("app", &store) + &rule("nightly", "app", "0 3 * * *", "")));
    place.make_overdue().await;

    // The daemon has the rule: the command says so, and touches nothing.
    let mut daemon = place.start();
    daemon.wait_for("a batch is done");
    let command = place.json(&["run"]);
    assert_eq!((&command[0]["state"], &command[0]["records"]), (&"busy".into(), &0.into()));
    daemon.kill();

    // The command has it: the daemon leaves it alone, and what is due stays on its list.
    let mut command = place.command(&["--json", "run"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let ledger = place.ledger().await;
    let running = "SELECT count(*) FROM run JOIN request ON request.id = request_id \
                   WHERE run.state = 'running' AND cause = 'command'";
    poll(&ledger, running, |running| running == 1).await;
    let mut daemon = place.start();
    daemon.wait("the look that finds it busy", |line| {
        line["message"] == "looked" && line["running"] == 0
    });
    let (status, text) = output(command);
    assert!(status.success(), "{text}");
    daemon.stop();
    assert_eq!(left(&store).await, 1);
    place.assert_settled(12_000).await;
}
