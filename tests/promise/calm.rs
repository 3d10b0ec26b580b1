//! Where events cannot or may not be worked off, they wait, and nothing piles up meanwhile.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use expunged::clock::Stopwatch;

use crate::harness::{Daemon, poll, says};
use crate::house::House;

/// How long nothing may happen: several looks at the table.
const A_WHILE: Duration = Duration::from_secs(4);

/// Nothing is logged in a while above the level of debugging.
fn assert_quiet(daemon: &mut Daemon) {
    let loud = |line: &serde_json::Value| line["level"] != "DEBUG" && line["level"] != "TRACE";
    assert!(!daemon.saw_within(A_WHILE, loud), "{}", daemon.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_only_observes_deletes_nothing_and_its_events_do_not_pile_up() {
    let house = House::bare(crate::support::fresh_postgres().await).await;
    house.configure(|sample| sample.replace("enforce", "observe"));
    house.upload("k").await;
    house.create("k").await;
    let mut daemon = house.place.start();
    let ledger = house.place.ledger().await;
    let runs = "SELECT count(*) FROM run WHERE state = 'observed'";
    poll(&ledger, runs, |runs| runs >= 3).await;
    house.end("k", "finished").await;
    for n in 0..20 {
        let id = format!("f{n}");
        assert_eq!(house.post("synthesis.finished", &id, &json!({ "upload_key": "k" })), 202);
        assert_eq!(house.post("creation.fetched", &id, &json!({ "file_key": "k" })), 202);
    }
    house.settled(&mut daemon).await;
    daemon.saw_within(Duration::from_secs(1), |_| false);
    let before = ledger.count(runs).await;
    let requests = ledger.count("SELECT count(*) FROM request").await;
    assert_quiet(&mut daemon);
    assert_eq!(ledger.count(runs).await, before);
    assert_eq!(ledger.count("SELECT count(*) FROM request").await, requests);
    house.assert_there("k").await;
    assert!(house.file("creations/k").exists());
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_rule_that_waits_for_its_first_approval_wait_with_it() {
    let house = House::new().await;
    let ledger = house.place.ledger().await;
    // Nobody has approved anything.
    ledger.execute("DELETE FROM approval; DELETE FROM request").await;
    for key in ["told", "sent", "later"] {
        house.upload(key).await;
    }
    house.end("told", "finished").await;
    let mut daemon = house.place.start();
    let waiting = "SELECT count(*) FROM approval WHERE state = 'waiting'";
    poll(&ledger, waiting, |waiting| waiting == 2).await;
    assert_eq!(house.post("synthesis.finished", "1", &json!({ "upload_key": "sent" })), 202);
    let was_asked = |line: &serde_json::Value| says(line, "the run waits for approval");
    daemon.saw_within(Duration::from_secs(1), |_| false);
    let requests = "SELECT count(*) FROM request";
    let audit = "SELECT size FROM audit_head";
    let before = (ledger.count(requests).await, ledger.count(audit).await);
    for n in 0..20 {
        let values = json!({ "upload_key": format!("none{n}") });
        assert_eq!(house.post("synthesis.failed", &format!("n{n}"), &values), 202);
        house.app.execute("NOTIFY synthesis_jobs").await;
    }
    assert!(!daemon.saw_within(A_WHILE, was_asked), "{}", daemon.text());
    let after = (ledger.count(requests).await, ledger.count(audit).await);
    assert!(after.0 <= before.0 + 2, "requests pile up: {before:?}, {after:?}");
    assert_eq!(after.1, before.1, "the audit log fills");
    for key in ["told", "sent", "later"] {
        house.assert_there(key).await;
    }
    // In any order, and after a restart too.
    assert_eq!(daemon.stop().code(), Some(0));
    let mut daemon = house.place.start();
    daemon.saw_within(Duration::from_secs(1), |_| false);
    for key in ["told", "sent", "later"] {
        house.assert_there(key).await;
    }
    let runs = "SELECT run_id FROM approval WHERE state = 'waiting'";
    for run in ledger.strings(runs).await {
        let approved = house.place.run(&["approve", &run, "--why", "it was looked at"]);
        assert!(approved.status.success(), "{approved:?}");
    }
    let watch = Stopwatch::start();
    house.gone("told").await;
    house.gone("sent").await;
    assert!(watch.elapsed() < Duration::from_secs(10), "{:?}", watch.elapsed());
    house.assert_there("later").await;
    house.end("later", "failed").await;
    house.gone("later").await;
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_for_a_store_that_is_down_and_are_worked_off_when_it_is_back() {
    let house = House::new().await;
    for key in ["before", "told", "sent"] {
        house.upload(key).await;
    }
    let mut daemon = house.place.start();
    house.end("before", "finished").await;
    house.gone("before").await;
    // The folder of the uploads is not mounted; the database is there.
    let (here, away) = (house.file(""), house.place.path("away"));
    fs::rename(&here, &away).unwrap();
    house.end("told", "finished").await;
    assert_eq!(house.post("synthesis.finished", "1", &json!({ "upload_key": "sent" })), 202);
    poll(&house.app.pool, "SELECT count(*) FROM face_features", |rows| rows == 0).await;
    daemon.wait("word of the store", |line| {
        line["rule"] == "face-photos" && line["level"] == "ERROR"
    });
    daemon.saw_within(Duration::from_secs(12), |_| false);
    let ledger = house.place.ledger().await;
    let size = "SELECT size FROM audit_head";
    let before = ledger.count(size).await;
    daemon.saw_within(Duration::from_secs(12), |_| false);
    let entries = ledger.count(size).await - before;
    assert!(entries <= 2, "{entries} entries of the audit log for nothing:\n{}", daemon.text());
    fs::rename(&away, &here).unwrap();
    house.gone("told").await;
    house.gone("sent").await;
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_stands_ends_at_once_when_it_is_asked_to() {
    let house = House::new().await;
    house.upload("k").await;
    let mut daemon = house.place.start();
    house.end("k", "finished").await;
    house.gone("k").await;
    house.settled(&mut daemon).await;
    let watch = Stopwatch::start();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_for_end().code(), Some(0));
    assert!(watch.elapsed() < Duration::from_secs(3), "{:?}", watch.elapsed());
    assert!(!daemon.text().contains("\"ERROR\""), "{}", daemon.text());
    let ledger = house.place.ledger().await;
    assert_eq!(ledger.count("SELECT count(*) FROM run WHERE state = 'running'").await, 0);
    assert_eq!(ledger.count("SELECT count(*) FROM run WHERE state = 'failed'").await, 0);
    ledger.close().await;
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_with_other_rules_and_sources_takes_effect() {
    let house = House::bare(crate::support::fresh_postgres().await).await;
    let upto = |sample: &str, mark: &str| sample.split(mark).next().unwrap().to_owned();
    house.configure(|sample| upto(&sample, "# Events of the synthesis are found"));
    for key in ["one", "two", "three"] {
        house.upload(key).await;
    }
    let mut daemon = house.place.start();
    house.end("one", "finished").await;
    assert_eq!(house.post("synthesis.finished", "1", &json!({ "upload_key": "two" })), 202);
    house.gone("two").await;
    // Nobody looks at the table yet.
    house.assert_there("one").await;
    house.configure(|sample| sample);
    daemon.signal(Signal::HUP);
    house.gone("one").await;
    house.configure(|sample| sample.replace(", failed = \"synthesis.failed\"", ""));
    daemon.signal(Signal::HUP);
    daemon.wait_for("reloaded");
    daemon.wait_for("reloaded");
    house.end("three", "failed").await;
    daemon.saw_within(Duration::from_secs(2), |_| false);
    house.assert_there("three").await;
    house.end("three", "finished").await;
    house.gone("three").await;
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
}
