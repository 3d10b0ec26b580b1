//! Events that cannot be worked off: they wait, that is said, and nothing else waits with them.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use expunged::clock::Stopwatch;
use serde_json::{Value, json};

use crate::harness::{poll, says};
use crate::house::{House, set_age, until};
use crate::support::fresh_postgres;

const HOUR: Duration = Duration::from_hours(1);
/// An event that nothing keeps is worked off long before.
const PROMPT: Duration = Duration::from_secs(4);
const EVENTS: &str = "SELECT count(*) FROM event WHERE rule = 'face-photos'";

fn say(house: &House, event: &str, value: &str) {
    let said = house.place.run(&["event", event, value]);
    assert!(said.status.success(), "{said:?}");
}

fn run(house: &House, rule: &str) -> Value {
    let run = house.place.run(&["--json", "run", rule]);
    let run: Value = serde_json::from_slice(&run.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&run.stderr)));
    run[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_name_no_files_keep_neither_others_nor_what_is_too_old_waiting() {
    let house = House::new().await;
    for key in ["a", "b", "old"] {
        house.upload_files(key);
    }
    for name in ["faces/old", "thumbs/old/64", "thumbs/old/256"] {
        set_age(&house.file(name), 2 * HOUR);
    }
    fs::create_dir(house.photo("folder")).unwrap();
    symlink("/etc/hostname", house.photo("link")).unwrap();
    for key in ["folder", "a", "link", "b"] {
        say(&house, "synthesis.finished", &format!("upload_key={key}"));
    }
    let ledger = house.place.ledger().await;
    let ended = run(&house, "face-photos");
    for key in ["a", "b", "old"] {
        assert!(!house.photo(key).exists(), "{key}: {ended}");
    }
    assert_eq!((&ended["state"], &ended["records"]), (&json!("failed"), &json!(9)), "{ended}");
    let error = ended["error"].as_str().unwrap();
    assert!(error.starts_with("2 events wait"), "{error}");
    assert!(error.contains("is no file") && !error.contains("faces/"), "{error}");
    assert_eq!(ended["stuck_events"], 2, "{ended}");
    assert_eq!(ledger.count(EVENTS).await, 2);
    let audit = house.place.audit();
    let end = audit.iter().rfind(|entry| entry["kind"] == "run_finished").unwrap();
    assert_eq!(end["reason"], "events wait for what could not be deleted", "{end}");

    // Put right, they are worked off.
    fs::remove_dir(house.photo("folder")).unwrap();
    fs::remove_file(house.photo("link")).unwrap();
    house.upload_files("link");
    let ended = run(&house, "face-photos");
    assert_eq!((&ended["state"], &ended["records"]), (&json!("done"), &json!(3)), "{ended}");
    assert_eq!(ledger.count(EVENTS).await, 0);
    ledger.close().await;
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_database_keeps_keeps_no_other_events_waiting() {
    let house = House::new().await;
    for key in ["a", "kept", "b"] {
        house.upload(key).await;
        say(&house, "synthesis.finished", &format!("upload_key={key}"));
    }
    house
        .app
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'not %', OLD.upload_key; END $$;
             CREATE TRIGGER refuse BEFORE DELETE ON face_features FOR EACH ROW
             WHEN (OLD.upload_key = 'kept') EXECUTE FUNCTION refuse()",
        )
        .await;
    let ended = run(&house, "face-features");
    assert_eq!((&ended["state"], &ended["records"]), (&json!("failed"), &json!(2)), "{ended}");
    let error = ended["error"].as_str().unwrap();
    assert!(error.starts_with("1 event waits") && error.contains("a trigger"), "{error}");
    assert!(!error.contains("not kept"), "{error}");
    assert_eq!(house.app.strings("SELECT upload_key FROM face_features").await, ["kept"]);
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_deleted_keeps_no_later_event_waiting_and_goes_once_it_can() {
    let house = House::new().await;
    fs::create_dir(house.photo("stuck")).unwrap();
    let mut daemon = house.place.start();
    assert_eq!(house.post("synthesis.finished", "s", &json!({ "upload_key": "stuck" })), 202);
    daemon.wait("a run that fails", |line| {
        line["rule"] == "face-photos" && says(line, "the run failed")
    });
    let ledger = house.place.ledger().await;
    for key in ["1", "2"] {
        house.upload_files(key);
        let watch = Stopwatch::start();
        assert_eq!(house.post("synthesis.finished", key, &json!({ "upload_key": key })), 202);
        until(&format!("{key} is gone"), || !house.photo(key).exists()).await;
        assert!(watch.elapsed() < PROMPT, "{key}: {:?}", watch.elapsed());
        poll(&ledger, EVENTS, |events| events == 1).await;
        let is_over = |line: &Value| line["rule"] == "face-photos" && says(line, "the run");
        daemon.wait("its end", is_over);
    }
    // Whoever tried it failed; whoever worked others off says that it waits.
    for state in ["failed", "done"] {
        let runs = format!("state = '{state}' AND error LIKE '1 event waits%'");
        poll(&ledger, &format!("SELECT count(*) FROM run WHERE {runs}"), |runs| runs > 0).await;
    }
    fs::remove_dir(house.photo("stuck")).unwrap();
    house.upload_files("stuck");
    until("it goes once it can", || !house.photo("stuck").exists()).await;
    poll(&ledger, EVENTS, |events| events == 0).await;
    assert_eq!(daemon.stop().code(), Some(0));
    ledger.close().await;
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_rows_file_is_held_waits_and_its_run_says_so() {
    let house = House::new().await;
    house.create("held").await;
    let hold = ["hold", "place", "--authority", "a court", "--reference", "1", "--broad", "all"];
    let placed = house.place.run(&[&hold[..], &["--store", "uploads"]].concat());
    assert!(placed.status.success(), "{placed:?}");
    let mut daemon = house.place.start();
    assert_eq!(house.post("creation.fetched", "h", &json!({ "file_key": "held" })), 202);
    let ended = daemon.wait("a run that fails", |line| {
        line["rule"] == "creations" && says(line, "the run failed")
    });
    let error = ended["error"].as_str().unwrap();
    assert!(error.starts_with("1 event waits") && error.contains("is held"), "{error}");
    assert!(house.file("creations/held").exists());
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_table_told_of_waits_for_longer_than_the_table_is_looked_back() {
    let house = House::bare(fresh_postgres().await).await;
    house.configure(|sample| sample.replace("overlap = \"15 minutes\"", "overlap = \"1 minute\""));
    house.upload("stuck").await;
    fs::rename(house.photo("stuck"), house.file("aside")).unwrap();
    fs::create_dir(house.photo("stuck")).unwrap();
    let daemon = house.place.start();
    house.end("stuck", "finished").await;
    let ledger = house.place.ledger().await;
    poll(&ledger, EVENTS, |events| events == 1).await;
    let features = "SELECT count(*) FROM face_features";
    poll(&house.app.pool, features, |rows| rows == 0).await;
    // The process ends that knew of it, and the table does not tell of it any more.
    daemon.kill();
    house.app.execute("UPDATE synthesis_jobs SET finished_at = now() - interval '1 hour'").await;
    fs::remove_dir(house.photo("stuck")).unwrap();
    fs::rename(house.file("aside"), house.photo("stuck")).unwrap();
    let mut daemon = house.place.start();
    house.gone("stuck").await;
    house.settled(&mut daemon).await;
    ledger.close().await;
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
}
