//! The configuration as it is worked out in the sample.

use std::time::Duration;

use expunged::clock::Stopwatch;
use serde_json::json;

use crate::house::{House, set_age, until};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_photo_goes_with_all_that_came_of_it_when_its_synthesis_is_over_well_or_badly() {
    let house = House::new().await;
    for key in ["well", "badly", "running"] {
        house.upload(key).await;
    }
    let mut daemon = house.place.start();
    house.end("well", "finished").await;
    house.gone("well").await;
    house.end("badly", "failed").await;
    house.gone("badly").await;
    house.assert_there("running").await;
    // A status that means nothing moves nothing.
    house.end("running", "paused").await;
    house.upload("next").await;
    house.end("next", "finished").await;
    house.gone("next").await;
    house.assert_there("running").await;
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(house.file("thumbs").exists());
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_stays_until_it_was_fetched_however_that_is_told() {
    let house = House::new().await;
    for key in ["posted", "told", "waiting"] {
        house.create(key).await;
    }
    let mut daemon = house.place.start();
    // The end of its synthesis is not the end of a creation.
    house.upload("photo").await;
    house.end("photo", "finished").await;
    house.gone("photo").await;
    assert_eq!(house.app.count("SELECT count(*) FROM creations").await, 3);
    assert_eq!(house.post("creation.fetched", "1", &json!({ "file_key": "posted" })), 202);
    house.creation_gone("posted").await;
    let told = house.place.run(&["event", "creation.fetched", "file_key=told"]);
    assert!(told.status.success(), "{told:?}");
    house.creation_gone("told").await;
    assert!(house.file("creations/waiting").exists());
    house.settled(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_event_ever_names_goes_by_its_age() {
    let house = House::new().await;
    for key in ["old", "soon", "young"] {
        house.upload(key).await;
    }
    for name in ["faces/old", "thumbs/old/64", "thumbs/old/256"] {
        set_age(&house.file(name), 2 * HOUR);
    }
    for name in ["faces/soon", "thumbs/soon/64", "thumbs/soon/256"] {
        set_age(&house.file(name), HOUR - Duration::from_secs(4));
    }
    house.create("old").await;
    house.create("young").await;
    let age = |table: &str, column: &str, by: &str, old: &str, age: &str| {
        format!("UPDATE {table} SET {column} = now() - interval '{age}' WHERE {by} = '{old}'")
    };
    for aging in [
        age("face_features", "extracted_at", "upload_key", "old", "2 hours"),
        age("face_features", "extracted_at", "upload_key", "soon", "59 minutes 56 seconds"),
        age("creations", "created_at", "file_key", "old", "8 days"),
    ] {
        house.app.execute(&aging).await;
    }
    let daemon = house.place.start();
    for key in ["old", "soon"] {
        house.gone(key).await;
    }
    house.creation_gone("old").await;
    house.assert_there("young").await;
    assert!(house.file("creations/young").exists());
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
}

/// A run stands for a minute while events come, and then what is too old has its turn before them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_event_ever_names_goes_by_its_age_also_while_events_keep_coming() {
    let house = House::new().await;
    house.upload_files("old");
    for name in ["faces/old", "thumbs/old/64", "thumbs/old/256"] {
        set_age(&house.file(name), HOUR - Duration::from_secs(8));
    }
    house.upload_files("named");
    let mut daemon = house.place.start();
    assert_eq!(house.post("synthesis.finished", "n", &json!({ "upload_key": "named" })), 202);
    let named = house.photo("named");
    until("what is named is gone", || !named.exists()).await;
    let watch = Stopwatch::start();
    for n in 0.. {
        if !house.photo("old").exists() {
            break;
        }
        daemon.drain();
        assert!(watch.elapsed() < Duration::from_secs(80), "after {n} events:\n{}", daemon.text());
        let values = json!({ "upload_key": format!("none{n}") });
        assert_eq!(house.post("synthesis.finished", &format!("n{n}"), &values), 202);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    crate::support::tell(&format!(
        "a photo that fell due while events came each 100 ms was gone after {} s of them",
        watch.elapsed().as_secs()
    ));
    assert_eq!(daemon.stop().code(), Some(0));
    house.place.audit();
}
