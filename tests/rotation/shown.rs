//! What `backups`, `status`, `why`, `certificate` and `metrics` say of copies in backups.

use insta::assert_snapshot;
use serde_json::json;

use crate::place::{Place, ago, backup, settled};

#[tokio::test]
async fn a_deletion_is_followed_through_its_backups_until_the_last_copy_is_gone() {
    let place = Place::new().await;
    let before = place.says(&["backups"]);
    assert!(before.contains("No set was listed yet"), "{before}");
    let old = [backup("n1", ago(50)), backup("n2", ago(26)), backup("n3", ago(2))];
    place.lists(&json!(old));
    for _ in 0..2 {
        place.says(&["backups", "check"]);
    }
    place.says(&["run"]);
    assert_snapshot!("held", settled(&place.says(&["backups"])));
    let status = place.says(&["status"]);
    let status = status.lines().skip_while(|line| !line.starts_with("backups"));
    assert_snapshot!("status", settled(&status.collect::<Vec<_>>().join("\n")));
    let status = place.json(&["status"], 0);
    let set = &status["backups"][0];
    assert_eq!((&set["backup"], &set["held"][0]["records"]), (&json!("nightly"), &json!(3)));
    assert_eq!(status["frozen_stores"], json!([]));
    let of_one = place.json(&["status", "inactive"], 0);
    assert_eq!(of_one.as_object().unwrap().keys().collect::<Vec<_>>(), ["rules"]);
    let why = place.says(&["why", "inactive", "1"]);
    assert_snapshot!("why", settled(&why[why.find("copies").unwrap()..]));
    let certificate = place.json(&["certificate", "inactive"], 0);
    assert_eq!(certificate["complete"], false);
    let set = &certificate["residuals"]["backup_sets"][0];
    assert_eq!(
        (&set["backup"], &set["state"], &set["backups"]),
        (&json!("nightly"), &json!("pending"), &json!(3))
    );
    assert_eq!(certificate["residuals"]["backup_clearance"], set["until"]);
    let certificate = place.says(&["certificate", "inactive", "--brief"]);
    let about = certificate.lines().skip_while(|line| !line.starts_with("backups"));
    assert_snapshot!(
        "certificate",
        settled(&about.take_while(|line| !line.starts_with("log")).collect::<Vec<_>>().join("\n"))
    );
    let metrics = place.says(&["metrics"]);
    for line in [
        "expunged_backup_held_records{backup=\"nightly\"} 3",
        "expunged_backup_doubted{backup=\"nightly\"} 0",
        "expunged_backup_stalled_seconds{backup=\"nightly\"} 0",
    ] {
        assert!(
            metrics.lines().any(|given| given.trim_end_matches(".0") == line),
            "{line}\n{metrics}"
        );
    }

    // All of them rotate away; the first listing alone proves nothing.
    let new = [backup("n4", expunged::clock::now())];
    place.lists(&json!(new));
    let once = place.json(&["backups", "check"], 0);
    assert_eq!(once[0]["held"][0]["awaits"], "one more listing has to confirm it", "{once}");
    let twice = place.json(&["backups", "check"], 0);
    assert_eq!(twice[0]["held"], json!([]));
    assert_snapshot!("clear", settled(&place.says(&["backups"])));
    let certificate = place.json(&["certificate", "inactive"], 0);
    assert_eq!(certificate["complete"], true);
    let set = &certificate["residuals"]["backup_sets"][0];
    let entry = &set["entry"];
    let log = place.inner.audit();
    let cleared = log.iter().find(|one| one["position"] == *entry).unwrap();
    assert_eq!(
        (&cleared["kind"], &cleared["backup"]),
        (&json!("backups_cleared"), &json!("nightly"))
    );
    let why = place.json(&["why", "inactive", "1"], 0);
    assert_eq!(why["backups"]["nightly"], json!({ "state": "clear", "assumed": false }));
}

#[tokio::test]
async fn whatever_is_wrong_with_a_set_is_said_and_clears_nothing() {
    let place = Place::new().await;
    place.lists(&json!([backup("n1", ago(26)), backup("n2", ago(2))]));
    for _ in 0..2 {
        place.says(&["backups", "check"]);
    }
    place.says(&["run"]);
    let listed = place.json(&["backups"], 0);
    let proven = listed[0]["clear_before"].clone();
    assert!(proven.is_string(), "{listed}");
    let catalogue = place.inner.path("catalogue.json");
    let whole = std::fs::read_to_string(&catalogue).unwrap();
    let cut = whole[..whole.len() - 20].to_owned();
    let older = json!([backup("n1", ago(26))]).to_string();
    let older = format!("{{\"backups\":{older},\"purged\":\"at_once\",\"complete\":true}}");
    for text in
        [cut.as_str(), "", "{\"backups\":[],\"purged\":\"at_once\",\"complete\":true}", &older]
    {
        std::fs::write(&catalogue, text).unwrap();
        for _ in 0..2 {
            let listed = place.json(&["backups", "check"], 2);
            assert!(listed[0]["doubt"].is_string(), "{listed}");
            assert_eq!(listed[0]["clear_before"], proven, "{listed}");
            assert_eq!(listed[0]["held"][0]["records"], 3, "{listed}");
        }
    }
    assert_snapshot!("doubted", settled(&place.ends(&["backups"], 2)));
    let status = place.says(&["status"]);
    assert!(status.contains("nightly: the newest backup"), "{status}");
    assert_snapshot!("confirm", place.says(&["backups", "confirm", "nightly"]));
    let confirmed = place.json(&["backups", "confirm", "nightly"], 0);
    assert_eq!(confirmed, json!({ "backup": "nightly", "state": "confirmed" }));
    place.says(&["backups", "check"]);
    // Nobody lists it any more.
    place.configure("");
    place.says(&["run"]);
    assert_snapshot!("unknown", settled(&place.ends(&["backups"], 2)));
    let wrong = place.ends(&["backups", "forget", "nihgtly", "--why", "gone"], 1);
    assert!(wrong.contains("no set `nihgtly`"), "{wrong}");
    let wordless = place.ends(&["backups", "forget", "nightly", "--why", " "], 1);
    assert!(wordless.contains("say why"), "{wordless}");
    assert_snapshot!(
        "forget",
        place.says(&["backups", "forget", "nightly", "--why", "the disks were shredded"])
    );
    assert!(place.says(&["backups"]).contains("No backups are registered"));
    // It is owed to anew, and forgotten for programs.
    place.configure(&place.nightly("35 days"));
    place.says(&["run"]);
    place.configure("");
    place.says(&["run"]);
    let forgotten = place.json(&["backups", "forget", "nightly", "--why", "gone"], 0);
    assert_eq!(forgotten, json!({ "backup": "nightly", "state": "forgotten" }));
}

#[tokio::test]
async fn a_stalled_rotation_is_an_alert_with_its_age() {
    let place = Place::new().await;
    place.configure(&place.nightly("2 days"));
    place.lists(&json!([backup("n1", ago(24 * 5)), backup("n2", ago(2))]));
    place.says(&["backups", "check"]);
    let listed = place.ends(&["backups"], 2);
    let stalled = listed.lines().skip_while(|line| !line.contains("stalled"));
    assert_snapshot!("stalled", settled(&stalled.collect::<Vec<_>>().join("\n")));
    let metrics = place.says(&["metrics"]);
    let age = metrics
        .lines()
        .find_map(|line| line.strip_prefix("expunged_backup_stalled_seconds{backup=\"nightly\"} "));
    let age: f64 = age.unwrap().parse().unwrap();
    assert!((259_000.0..260_000.0).contains(&age), "{age}");
}

#[tokio::test]
async fn a_declared_set_says_that_it_assumes() {
    let place = Place::new().await;
    place.configure(
        "[backup.tapes]\nkind = \"declared\"\nstores = [\"app\"]\nrotation = \"90 days\"\n",
    );
    place.says(&["run"]);
    assert_snapshot!("declared", settled(&place.says(&["backups"])));
    let certificate = place.json(&["certificate", "inactive"], 0);
    assert_eq!(certificate["complete"], false);
    let set = &certificate["residuals"]["backup_sets"][0];
    assert_eq!(
        (&set["state"], &set["assumed"]),
        (&json!("pending"), &json!(true)),
        "{certificate}"
    );
}

#[tokio::test]
async fn help_teaches() {
    let place = Place::new().await;
    assert_snapshot!("help", place.says(&["backups", "--help"]));
}
