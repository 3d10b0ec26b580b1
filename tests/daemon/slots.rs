//! Slots: caught up once, run once whoever looks, and whatever happens to one store.

use std::time::Duration;

use expunged::clock::Stopwatch;
use serde_json::Value;

use crate::harness::{Daemon, LIMIT, Place, accounts, left, poll, rule, says};
use crate::support::{TestDatabase, fresh_postgres, fresh_sqlite};

#[tokio::test]
async fn a_missed_slot_is_caught_up_once_and_a_new_rule_has_missed_none() {
    let store = fresh_sqlite().await;
    accounts(&store, 10).await;
    let place = Place::new();
    place.configure(&(place.store("app", &store) + &rule("nightly", "app", "0 3 * * *", "")));

    let mut daemon = place.start();
    daemon.wait_for("looked");
    daemon.stop();
    let ledger = place.ledger().await;
    assert_eq!(
        ledger.count("SELECT count(*) FROM request WHERE slot IS NOT NULL").await,
        0,
        "a slot of before its time"
    );
    assert_eq!(left(&store).await, 11);

    place.make_overdue().await;
    let mut daemon = place.start();
    let run = daemon.wait_for_run("nightly");
    assert_eq!((&run["state"], &run["records"]), (&"done".into(), &10.into()));
    daemon.stop();

    let mut daemon = place.start();
    daemon.wait_for("looked");
    daemon.stop();
    assert_eq!(ledger.count("SELECT count(*) FROM run").await, 1);
    let slots = ledger.strings("SELECT slot FROM request WHERE slot IS NOT NULL").await;
    assert_eq!(slots.len(), 1);
    assert!(slots[0].ends_with("T03:00:00.000000Z"), "{slots:?}");
    place.assert_settled(10).await;
}

#[tokio::test]
async fn a_changed_schedule_makes_no_slot_of_the_past_due() {
    let store = fresh_sqlite().await;
    accounts(&store, 10).await;
    let place = Place::new();
    let store_text = place.store("app", &store);
    place.configure(&(store_text.clone() + &rule("nightly", "app", "0 3 * * *", "")));
    place.make_overdue().await;
    // Every minute: under it, countless slots were missed since 2020.
    place.configure(&(store_text + &rule("nightly", "app", "* * * * *", "")));

    let mut daemon = place.start();
    daemon.wait_for("looked");
    daemon.stop();

    let ledger = place.ledger().await;
    let recent = "SELECT count(*) FROM rule_state WHERE first_seen < '2021'";
    assert_eq!(ledger.count(recent).await, 0);
    // A slot of the new schedule may have come in between; one of the past has not.
    assert!(ledger.count("SELECT count(*) FROM request WHERE slot IS NOT NULL").await <= 1);
}

/// Two daemons on one ledger, as two nodes would be, with rules that are all overdue.
async fn run_once_by_either(place: &Place, store: &TestDatabase, rules: u32) -> [Daemon; 2] {
    place.make_overdue().await;
    let daemons = [place.start_without_waiting(), place.start_without_waiting()];
    let ledger = place.ledger().await;
    let done = "SELECT count(*) FROM run WHERE state = 'done'";
    poll(&ledger, done, |runs| runs >= i64::from(rules)).await;
    assert_eq!(left(store).await, 1);
    daemons
}

/// No slot is there twice, and no rule ran more often than it had slots.
async fn assert_once_per_slot(place: &Place) {
    let ledger = place.ledger().await;
    let twice = "SELECT count(*) FROM (SELECT rule FROM request WHERE slot IS NOT NULL \
                 GROUP BY rule, slot HAVING count(*) > 1) AS twice";
    assert_eq!(ledger.count(twice).await, 0);
    let wrong = "SELECT rule FROM rule_state WHERE rule LIKE '%ly-%' AND \
                 (SELECT count(*) FROM run WHERE run.rule = rule_state.rule) > \
                 (SELECT count(DISTINCT slot) FROM request WHERE request.rule = rule_state.rule)";
    assert_eq!(ledger.strings(wrong).await, [""; 0]);
}

#[tokio::test]
async fn two_daemons_on_one_ledger_file_run_a_slot_once() {
    let store = fresh_sqlite().await;
    accounts(&store, 500).await;
    let place = Place::new();
    let rules: String =
        (0..6).map(|n| rule(&format!("nightly-{n}"), "app", "0 3 * * *", "")).collect();
    place.configure(&(place.store("app", &store) + &rules));

    let daemons = run_once_by_either(&place, &store, 6).await;

    for daemon in daemons {
        assert_eq!(daemon.stop().code(), Some(0));
    }
    assert_once_per_slot(&place).await;
    place.assert_settled(500).await;
}

/// Also across the turn of a minute, with a store that is down at first: the others go on, it is seen,
/// and caught up at the next slot.
#[tokio::test]
async fn two_nodes_run_a_slot_once_and_a_store_that_is_down_harms_its_own_rules_only() {
    let ledger_database = fresh_postgres().await;
    let (store, missing) = (fresh_postgres().await, fresh_sqlite().await);
    accounts(&store, 500).await;
    accounts(&missing, 7).await;
    missing.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
    missing.pool.close().await;
    let (there, away) = (missing.path(), missing.path().with_extension("away"));
    std::fs::rename(&there, &away).unwrap();
    let place = Place::on(&ledger_database);
    let rules: String =
        (0..4).map(|n| rule(&format!("minutely-{n}"), "app", "* * * * *", "")).collect();
    let broken = rule("broken", "gone", "* * * * *", "");
    // Its credential is not there at all.
    let no_secret = "[store.locked]\nkind = \"postgres\"\nurl = { credential = \"nothing\" }\n";
    let locked = rule("locked", "locked", "* * * * *", "");
    let stores = place.store("app", &store) + &place.store("gone", &missing) + no_secret;
    place.configure(&(stores + &rules + &broken + &locked));

    let mut daemons = run_once_by_either(&place, &store, 4).await;
    let ledger = place.ledger().await;
    let refused = "SELECT count(DISTINCT rule) FROM audit_entry WHERE kind = 'run_refused'";
    poll(&ledger, refused, |rules| rules == 2).await;
    for name in ["broken", "locked"] {
        let status = status_of(&place, name);
        assert!(status["overdue_seconds"].as_i64().unwrap() > 0, "{status}");
        assert_eq!(status["refused_because"], "the store could not be surveyed");
    }
    let table = until_answered(&place, "minutely-0");
    let row =
        |name: &str| table.lines().find(|line| line.trim().starts_with(name)).unwrap().to_owned();
    assert!(row("broken ").contains("refused"), "{table}");
    assert!(!row("broken ").trim_end().ends_with('-'), "an age: {table}");

    std::fs::rename(&away, &there).unwrap();
    // The next minute's slots.
    let minute = Duration::from_secs(75);
    let either = |line: &Value| line["rule"] == "broken" && says(line, "the run is over");
    let started = Stopwatch::start();
    'waiting: loop {
        for daemon in &mut daemons {
            if daemon.saw_within(Duration::from_millis(100), either) {
                break 'waiting;
            }
        }
        assert!(started.elapsed() < minute, "not caught up");
    }
    // The same minute's other slots.
    poll(&ledger, "SELECT count(*) FROM request WHERE state = 'claimed'", |open| open == 0).await;
    until_answered(&place, "broken");
    for daemon in daemons {
        assert_eq!(daemon.stop().code(), Some(0));
    }
    assert_once_per_slot(&place).await;
    place.assert_settled(507).await;
    assert!(LIMIT < minute);
}

/// The table of `status` once this rule has nothing overdue in it. At the turn of a minute each of these
/// rules is overdue, for as long as its run takes.
fn until_answered(place: &Place, rule: &str) -> String {
    let started = Stopwatch::start();
    loop {
        let table = String::from_utf8(place.run(&["status"]).stdout).unwrap();
        let row = table.lines().find(|line| line.trim().starts_with(&format!("{rule} "))).unwrap();
        if row.trim_end().ends_with('-') {
            return table;
        }
        assert!(started.elapsed() < LIMIT, "{rule} stays overdue: {table}");
    }
}

fn status_of(place: &Place, rule: &str) -> Value {
    place.json(&["status", rule])["rules"][0].clone()
}
