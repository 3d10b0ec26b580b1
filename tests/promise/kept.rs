//! Legal holds and events: what is held stays, and its promise is kept when it is let go.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Place, poll};
use crate::house::{House, set_age};

fn place_hold(place: &Place, what: &[&str]) -> String {
    let order = ["--json", "hold", "place", "--authority", "a court", "--reference", "1"];
    let placed = place.run(&[&order, what].concat());
    assert!(placed.status.success(), "{}", String::from_utf8_lossy(&placed.stderr));
    let said: serde_json::Value = serde_json::from_slice(&placed.stdout).unwrap();
    let id = said["id"].as_str().or_else(|| said["hold"]["id"].as_str());
    id.unwrap_or_else(|| panic!("{said}")).to_owned()
}

fn release(place: &Place, id: &str) {
    let released = place.run(&["hold", "release", id, "--reason", "the case is closed"]);
    assert!(released.status.success(), "{}", String::from_utf8_lossy(&released.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_row_stays_with_its_file_and_goes_by_its_age_when_it_is_let_go() {
    let house = House::new().await;
    for key in ["held", "free"] {
        house.create(key).await;
    }
    house.app.execute("UPDATE creations SET account_id = 8 WHERE file_key = 'held'").await;
    let hold = place_hold(&house.place, &["--subject", "8"]);
    let mut daemon = house.place.start();
    for key in ["held", "free"] {
        assert_eq!(house.post("creation.fetched", key, &json!({ "file_key": key })), 202);
    }
    house.creation_gone("free").await;
    house.settled(&mut daemon).await;
    let there = || house.file("creations/held").exists();
    assert!(there());
    assert_eq!(house.app.count("SELECT count(*) FROM creations").await, 1);
    assert!(!daemon.text().contains("\"ERROR\""), "{}", daemon.text());
    // Its age comes up while it is held, and it stays.
    house.app.execute("UPDATE creations SET created_at = now() - interval '8 days'").await;
    assert_eq!(daemon.stop().code(), Some(0));
    let mut daemon = house.place.start();
    daemon.wait_for_run("creations");
    assert!(there());
    release(&house.place, &hold);
    assert_eq!(daemon.stop().code(), Some(0));
    let daemon = house.place.start();
    house.creation_gone("held").await;
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_persons_file_stays_and_goes_by_its_age_when_it_is_let_go() {
    let house = House::bare(crate::support::fresh_postgres().await).await;
    let rule = "[rule.letters]\nstore = \"uploads\"\npath = \"letters/{person}/{letter}\"\n\
                on_event = \"letter.read\"\nmax_age = \"1 hour\"\naction = \"delete\"\n\
                mode = \"enforce\"\nsubject = \"person\"\n";
    house.configure(|sample| {
        let source = sample.split("[source.synthesis]").nth(1).unwrap().to_owned();
        let photos = sample.split("[source.synthesis]").next().unwrap().to_owned();
        format!("{photos}\n{rule}\n[source.synthesis]{source}")
    });
    for person in ["ann", "ben"] {
        std::fs::create_dir_all(house.file(&format!("letters/{person}"))).unwrap();
        std::fs::write(house.file(&format!("letters/{person}/1")), "dear").unwrap();
    }
    let letter = |person: &str| house.file(&format!("letters/{person}/1"));
    let hold = place_hold(&house.place, &["--subject", "ann"]);
    let mut daemon = house.place.start();
    for person in ["ann", "ben"] {
        let values = json!({ "person": person, "letter": "1" });
        assert_eq!(house.post("letter.read", person, &values), 202);
    }
    crate::house::until("the free one is gone", || !letter("ben").exists()).await;
    house.settled(&mut daemon).await;
    assert!(letter("ann").exists());
    set_age(&letter("ann"), Duration::from_hours(2));
    assert_eq!(daemon.stop().code(), Some(0));
    let mut daemon = house.place.start();
    daemon.wait_for_run("letters");
    assert!(letter("ann").exists());
    release(&house.place, &hold);
    assert_eq!(daemon.stop().code(), Some(0));
    let daemon = house.place.start();
    crate::house::until("it is gone once let go", || !letter("ann").exists()).await;
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
}

/// What goes by its age comes after what events name, and heeds what was held meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_placed_while_events_are_worked_off_keeps_what_is_due_by_its_age() {
    let house = House::new().await;
    for key in ["named", "held", "old"] {
        house.create(key).await;
    }
    house.app.execute("UPDATE creations SET account_id = 8 WHERE file_key = 'held'").await;
    let aging =
        "UPDATE creations SET created_at = now() - interval '8 days' WHERE file_key <> 'named'";
    house.app.execute(aging).await;
    let sent = house.place.run(&["event", "creation.fetched", "file_key=named"]);
    assert!(sent.status.success(), "{sent:?}");
    // It waits where what the event names is taken and its intent is not written.
    let mut command = house.place.command(&["--json", "run", "creations"]);
    command.env("FAILPOINTS", "batch.taken=1*sleep(4000)->off");
    let run = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let ledger = house.place.ledger().await;
    poll(&ledger, "SELECT count(*) FROM run WHERE state = 'running'", |runs| runs == 1).await;
    place_hold(&house.place, &["--subject", "8"]);
    assert_eq!(ledger.count("SELECT count(*) FROM batch").await, 0, "too late to tell");
    ledger.close().await;
    let output = run.wait_with_output().unwrap();
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&run[0]["state"], &run[0]["records"]), (&json!("done"), &json!(2)), "{run}");
    let left = house.app.strings("SELECT file_key FROM creations").await;
    assert_eq!(left, ["held"]);
    assert!(house.file("creations/held").exists());
    house.place.audit();
}
