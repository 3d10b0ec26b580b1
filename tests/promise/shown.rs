//! What is shown of event rules, and what is not.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::house::{House, set_age};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_the_oldest_record_is_a_metric() {
    let house = House::new().await;
    let age = |metrics: &str, rule: &str| {
        let name = format!("expunged_oldest_record_age_seconds{{rule=\"{rule}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name))?;
        Some(line.parse::<f64>().unwrap())
    };
    let metrics = || {
        let printed = house.place.run(&["metrics"]);
        assert!(printed.status.success(), "{printed:?}");
        String::from_utf8(printed.stdout).unwrap()
    };
    // Nothing is there, and so nothing is old.
    let before = metrics();
    assert_eq!(age(&before, "face-photos"), Some(0.0), "{before}");
    house.upload("k").await;
    for name in ["faces/k", "thumbs/k/64"] {
        set_age(&house.file(name), Duration::from_secs(1_800));
    }
    house.app.execute("UPDATE face_features SET extracted_at = now() - interval '2 hours'").await;
    let shown = metrics();
    let within = |rule: &str, least: f64| {
        let seen = age(&shown, rule);
        assert!(seen.is_some_and(|age| (least..least + 300.0).contains(&age)), "{shown}");
    };
    within("face-photos", 1_800.0);
    within("face-features", 7_200.0);
    assert_eq!(age(&shown, "creations"), Some(0.0), "{shown}");
    // What cannot be seen is left out, and the rest is not.
    std::fs::rename(house.file(""), house.place.path("away")).unwrap();
    let shown = metrics();
    assert_eq!(age(&shown, "face-photos"), None, "{shown}");
    assert!(age(&shown, "face-features").is_some(), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_path_or_value_is_logged_at_any_level() {
    const MARK: &str = "secret-person";
    let mut house = House::new().await;
    house.place.environment.clear();
    house.place.environment.push(("EXPUNGED_LOG".into(), "trace".into()));
    let key = |n: u32| format!("{MARK}-{n}");
    for n in 0..6 {
        house.upload(&key(n)).await;
    }
    house.create(&key(0)).await;
    let mut daemon = house.place.start();
    house.end(&key(0), "finished").await;
    house.end_silently(&key(1), "failed").await;
    for n in 2..4 {
        let values = json!({ "upload_key": key(n) });
        assert_eq!(house.post("synthesis.finished", &key(n), &values), 202);
    }
    assert_eq!(house.post("creation.fetched", &key(0), &json!({ "file_key": key(0) })), 202);
    // What is wrong is not quoted, either.
    assert_eq!(house.post("synthesis.finished", &key(9), &json!({ "wrong": key(9) })), 422);
    assert_eq!(house.post(&key(9), &key(9), &json!({ "upload_key": key(9) })), 422);
    for n in 0..4 {
        house.gone(&key(n)).await;
    }
    house.creation_gone(&key(0)).await;
    // One that cannot be deleted: a folder stands where its photo was.
    std::fs::remove_file(house.photo(&key(4))).unwrap();
    std::fs::create_dir_all(house.photo(&key(4)).join("x")).unwrap();
    house.end(&key(4), "finished").await;
    house.settled(&mut daemon).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_for_end().code(), Some(0));
    let log = daemon.text();
    assert!(log.contains("a batch is done"), "this is not all of it");
    for what in [MARK, &hex::encode(MARK)] {
        let at = log.find(what);
        let line = at.and_then(|at| log[at..].lines().next().map(|_| at));
        assert_eq!(line, None, "{}", &log[at.unwrap_or(0).saturating_sub(600)..][..900]);
    }
    assert!(!format!("{:?}", house.place.audit()).contains(MARK));
}
