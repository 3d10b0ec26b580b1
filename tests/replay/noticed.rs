//! A restore is noticed, each way; and what is none is not taken for one.

use std::os::unix::process::ExitStatusExt;

use expunged::clock;
use expunged::restore::Evidence;
use rustix::process::Signal;

use crate::house::{House, Marker, days_ago};
use crate::support::{TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

const OLDER: &str = "its marker is older than the one that was written last";
const RECORDS: &str = "records that were deleted are there again";

async fn noticed_by_the_marker(store: TestDatabase) {
    let house = House::new(store, Marker::Yes).await;
    house.takes("old", 20);
    let marks = house.count("SELECT number FROM expunged_marker").await;
    assert_eq!(marks, 2, "before the run, and after it");
    house.add(50..=52, 2_000).await;
    let before = clock::now();
    house.save().await;
    house.takes("old", 3);
    house.restore().await;
    house.refuses("old", OLDER);
    // The marker says when: at or before the backup, and after the first run began.
    let plan = house.plan("app", &[]);
    let restored_to: jiff::Timestamp = plan["restored_to"].as_str().unwrap().parse().unwrap();
    assert!(restored_to <= before, "{restored_to} and {before}");
    assert_eq!(plan["evidence"], OLDER);
    // Every rule of the store, and of no other.
    house.refuses("mails", OLDER);
    house.takes("photos", 0);
    assert_eq!(house.place.entries("restore_noticed"), 1, "it is noticed once");
    assert!(house.look(clock::now()).await.is_empty(), "nothing is new");
    assert_eq!(house.ids("accounts", "id = 50").await, [50], "nothing was taken meanwhile");
}

#[tokio::test]
async fn a_restored_sqlite_is_noticed_by_its_marker() {
    noticed_by_the_marker(fresh_sqlite().await).await;
}

#[tokio::test]
async fn a_restored_postgres_is_noticed_by_its_marker() {
    noticed_by_the_marker(fresh_postgres().await).await;
}

#[tokio::test]
async fn a_restored_mariadb_is_noticed_by_its_marker() {
    noticed_by_the_marker(fresh_mysql().await).await;
}

async fn noticed_by_records(store: TestDatabase) {
    let house = House::new(store, Marker::No).await;
    house.save().await;
    house.takes("old", 20);
    house.takes("mails", 5);
    assert!(house.look(clock::now()).await.is_empty());
    house.restore().await;
    // By the periodic look, which finds each store once.
    assert_eq!(house.look(clock::now()).await, ["app"]);
    assert!(house.look(clock::now()).await.is_empty());
    house.refuses("old", RECORDS);
}

#[tokio::test]
async fn a_restored_sqlite_is_noticed_by_what_came_back() {
    noticed_by_records(fresh_sqlite().await).await;
}

#[tokio::test]
async fn a_restored_postgres_is_noticed_by_what_came_back() {
    noticed_by_records(fresh_postgres().await).await;
}

#[tokio::test]
async fn a_restored_mariadb_is_noticed_by_what_came_back() {
    noticed_by_records(fresh_mysql().await).await;
}

#[tokio::test]
async fn anonymized_records_that_are_as_before_are_noticed() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    house.takes("old", 20);
    house.save().await;
    house.takes("mails", 5);
    house.restore().await;
    house.refuses("mails", RECORDS);
}

#[tokio::test]
async fn a_marker_that_is_gone_is_noticed() {
    let house = House::new(fresh_sqlite().await, Marker::Yes).await;
    house.takes("old", 20);
    house.execute("DELETE FROM expunged_marker").await;
    house.refuses("old", "its marker is gone");
}

#[tokio::test]
async fn a_record_that_was_made_since_under_an_old_key_is_no_restore() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    house.takes("old", 20);
    house.add(1..=20, 3).await;
    assert!(house.look(clock::now()).await.is_empty());
    house.takes("old", 0);
    assert_eq!(house.frozen().await, 0);
}

#[tokio::test]
async fn a_crash_between_the_phases_of_the_marker_is_no_restore() {
    let house = House::new(fresh_sqlite().await, Marker::Yes).await;
    house.takes("old", 20);
    for (round, point) in (0..).zip(["marker.intended", "marker.written", "marker.intended"]) {
        house.add(50 + round..=50 + round, 2_000).await;
        let mut command = house.place.command(&["run", "old"]);
        let ended = command.env("FAILPOINTS", format!("{point}=return")).output().unwrap();
        let signal = Some(Signal::ABORT.as_raw());
        assert_eq!(ended.status.signal(), signal, "nothing died at {point}: see tests/run");
        assert!(house.look(clock::now()).await.is_empty(), "after {point}");
    }
    house.takes("old", 3);
    assert_eq!(house.frozen().await, 0);
    let marker = house.count("SELECT number FROM expunged_marker").await;
    let known = house.ledger_count("SELECT marker FROM store_identity WHERE store = 'app'").await;
    assert_eq!(marker, known);
    assert_eq!(
        house.ledger_count("SELECT count(*) FROM store_identity WHERE pending > 0").await,
        0
    );
}

#[tokio::test]
async fn rules_that_only_observe_look_and_write_nothing() {
    let house = House::new(fresh_sqlite().await, Marker::Yes).await;
    house.configure(&crate::house::RULES.replace("mode = \"enforce\"", "mode = \"observe\""));
    let run = house.run("old");
    assert_eq!(run["state"], "observed", "{run}");
    assert_eq!(house.count("SELECT count(*) FROM expunged_marker").await, 0);
}

#[tokio::test]
async fn where_no_backups_are_configured_nothing_is_kept_or_looked_at() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    house.ledger_count("SELECT count(*) FROM backup_set").await;
    let ledger = house.place.ledger().await;
    ledger.execute("DELETE FROM backup_set").await;
    ledger.close().await;
    house.save().await;
    house.takes("old", 20);
    for table in ["tombstone", "store_identity", "frozen_store"] {
        let rows = house.ledger_count(&format!("SELECT count(*) FROM {table}")).await;
        assert_eq!(rows, 0, "{table}");
    }
    // And what comes back goes as what is due goes.
    house.restore().await;
    house.takes("old", 20);
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_keeps_no_other_from_being_looked_at() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    house.save().await;
    house.takes("old", 20);
    house.restore().await;
    let broken = "[store.aaa]\nkind = \"sqlite\"\nurl = \"sqlite:///nowhere/at.db\"\nmarker = \"expunged_marker\"\n";
    house.configure(&format!("{broken}{}", crate::house::RULES));
    assert_eq!(house.look(clock::now()).await, ["app"]);
}

/// Whatever was read before the freeze is refused at its intent, as for a hold.
#[tokio::test]
async fn freezing_a_store_outdates_the_batches_in_flight() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    let runner = house.runner().await;
    let (before, _) = runner.ledger.held().await.unwrap();
    let app = "app".parse().unwrap();
    let now = clock::now();
    assert!(runner.ledger.freeze(&app, &Evidence::records(), now).await.unwrap());
    assert!(!runner.ledger.freeze(&app, &Evidence::records(), now).await.unwrap());
    let (after, _) = runner.ledger.held().await.unwrap();
    assert_eq!(after, before + 1);
    let mut gate = runner.ledger.gate().await.unwrap();
    assert_eq!(gate.frozen_of(&[&app]).await.unwrap(), Some(app));
    drop(gate);
    runner.ledger.close().await;
    runner.stores.close().await;
}

#[tokio::test]
async fn what_was_no_restore_is_dismissed_with_a_reason_and_stays_so() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    house.save().await;
    house.takes("old", 20);
    let seen = days_ago(2_000);
    // Somebody puts one back on purpose.
    house.execute(&format!("INSERT INTO accounts VALUES (7, 'x', 'user', '{seen}', NULL)")).await;
    house.refuses("old", RECORDS);
    let said = house.place.run(&["replay", "app", "--dismiss"]);
    assert!(!said.status.success(), "not without a reason");
    let said = house.place.run(&["replay", "app", "--dismiss", "--why", "it was put back by hand"]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(house.look(clock::now()).await.is_empty(), "it is known by now");
    house.takes("old", 1);
    let released: Vec<_> =
        house.place.audit().into_iter().filter(|entry| entry["kind"] == "store_released").collect();
    assert!(released.len() == 1 && released[0]["by"].is_string(), "{released:?}");
    assert!(!serde_json::to_string(&released).unwrap().contains("by hand"), "the reason is sealed");
    let again = house.place.run(&["replay", "app", "--dismiss", "--why", "once more"]);
    assert!(!again.status.success(), "nothing is frozen");
    // A restore after that is one.
    house.restore().await;
    assert_eq!(house.look(clock::now()).await, ["app"]);
}
