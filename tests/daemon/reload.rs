//! SIGHUP: all or nothing, and the log says what.

use rustix::process::Signal;

use crate::harness::{Place, accounts, left, make_slow, rule, says};
use crate::support::{fresh_postgres, fresh_sqlite};

#[tokio::test]
async fn a_valid_configuration_takes_effect_and_its_changes_are_said() {
    let store = fresh_sqlite().await;
    accounts(&store, 10).await;
    let place = Place::new();
    let app = place.store("app", &store);
    let first = rule("kept", "app", "0 3 * * *", "mode = \"observe\"")
        + &rule("dropped", "app", "0 3 * * *", "");
    place.configure(&(app.clone() + &first));
    let mut daemon = place.start();
    daemon.wait_for("looked");

    let second = rule("kept", "app", "30 4 * * *", "retention = \"5 years\"\nwhere = \"id <> 3\"")
        + &rule("added", "app", "continuous", "where = \"id <> 3\"");
    place.configure(&(app.replace("3 s", "4 s") + &second));
    daemon.signal(Signal::HUP);
    daemon.wait_for("reloaded");
    for change in [
        "store app: connect_timeout was 3 s and is now 4 s",
        "rule dropped is gone",
        "rule added is new",
        "rule kept: mode was observe and is now enforce",
        "rule kept: retention was 2 years and is now 5 years",
        "rule kept: schedule was 0 3 * * * and is now 30 4 * * *",
        "rule kept: where has changed",
    ] {
        assert!(
            daemon.log.iter().any(|line| line["message"] == change),
            "{change}\n{}",
            daemon.text()
        );
    }
    assert_eq!(daemon.wait_for_run("added")["records"], 9);
    assert_eq!(left(&store).await, 2);
    assert_eq!(daemon.stop().code(), Some(0));
    for kind in ["rule_added", "rule_changed", "rule_removed", "rule_armed"] {
        let entries = place.audit();
        let of_reload = entries.iter().rev().take_while(|entry| entry["kind"] != "daemon_started");
        assert!(of_reload.into_iter().any(|entry| entry["kind"] == kind), "{kind}");
    }
    assert_eq!(place.entries("configuration_loaded"), 2);
}

#[tokio::test]
async fn what_is_wrong_is_refused_whole_and_the_old_configuration_goes_on() {
    let store = fresh_sqlite().await;
    accounts(&store, 10).await;
    let mut place = Place::new();
    let app = place.store("app", &store);
    let old = app.clone() + &rule("kept", "app", "0 3 * * *", "");
    place.configure(&old);
    let mut daemon = place.start();

    let wrong = rule("kept", "nowhere", "0 3 * * *", "") + &rule("new", "app", "now and then", "");
    place.configure(&(app.clone() + &wrong));
    daemon.signal(Signal::HUP);
    let refused = daemon.wait_for("the configuration was refused");
    let text = refused["message"].as_str().unwrap();
    assert!(text.contains("nowhere") && text.contains("now and then"), "{text}");

    place.ledger = place.ledger.replace("ledger.db", "elsewhere.db");
    // Not through its secret file, whose name stays the same.
    let moved = format!("[ledger]\nurl = \"{}\"\n[keys]\ndirectory = \"keys\"\n", place.ledger);
    std::fs::write(place.path("expunged.toml"), moved + &old).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("the ledger and the keys cannot move");
    assert!(!place.path("elsewhere.db").exists());

    // The old one is in force: against it, this changes one thing.
    place.ledger = place.ledger.replace("elsewhere.db", "ledger.db");
    place.configure(&old.replace("2 years", "6 years"));
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.wait_for("reloaded")["changes"], 1);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(place.entries("configuration_refused"), 2);
    assert_eq!(left(&store).await, 11);
}

#[tokio::test]
async fn a_rule_that_is_disarmed_while_it_runs_stops_after_its_batch() {
    let store = fresh_postgres().await;
    accounts(&store, 20_000).await;
    make_slow(&store).await;
    let place = Place::new();
    let app = place.store("app", &store);
    place.configure(&(app.clone() + &rule("nightly", "app", "continuous", "")));
    let mut daemon = place.start();
    daemon.wait_for("a batch is done");

    place.configure(&(app + &rule("nightly", "app", "continuous", "mode = \"observe\"")));
    daemon.signal(Signal::HUP);
    daemon.wait_for("its run stops after the batch in flight");
    let stopped = daemon.wait("the end of its run", |line| says(line, "the run is over"));
    assert_eq!(stopped["state"], "stopped");
    let rest = left(&store).await;
    let observed = daemon.wait("what it would have done", |line| says(line, "the run is over"));
    assert_eq!(observed["state"], "observed");
    assert_eq!(observed["remaining"].as_i64(), Some(rest - 1));
    daemon.stop();
    assert_eq!(left(&store).await, rest);
    place.assert_settled(20_001 - rest).await;
}
