//! Buckets with versions and with Object Lock, on moto.

use expunged::clock;
use jiff::SignedDuration;

use crate::harness::Place;
use crate::house::{House, accounts, accounts_rule, objects_store};
use crate::servers::Moto;
use crate::support::fresh_sqlite;

const LOGS: &str = r#"
[rule.logs]
store = "bucket"
path = "logs/{date:%Y-%m-%d}/*"
starting_point = "path date"
starting_point_time_zone = "UTC"
retention = "30 days"
action = "delete"
mode = "enforce"
"#;

fn house(moto: &Moto, rules: &str) -> House {
    let house = House { place: Place::new(), bucket: None, store: None };
    let bucket = objects_store("bucket", &house.place, &moto.url, &moto.bucket);
    house.place.configure(&(bucket + rules));
    house
}

#[tokio::test]
async fn every_version_of_what_is_due_goes_and_is_counted() {
    let moto = Moto::versioned().await;
    let house = house(&moto, LOGS);
    for key in ["logs/2024-01-01/a", "logs/2999-01-01/a", "other/a"] {
        moto.put(key).await;
        moto.put(key).await;
        moto.hide(key).await;
    }
    house.say(&["plan"]).has("objects older than 30 days").has("due 3 starting points");
    house.say(&["why", "logs", "logs/2999-01-01/a"]).has("it is kept until");
    house.takes("logs", 3);
    assert_eq!(moto.kept().await, (4, 2));
    house.takes("logs", 0);
    house.place.audit();
}

pub(crate) fn locked_until() -> String {
    let until = clock::now() + SignedDuration::from_hours(240);
    until.round(jiff::Unit::Second).unwrap().to_string()
}

pub(crate) async fn put_locked(moto: &Moto, key: &str, until: &str) {
    let lock = [
        ("x-amz-sdk-checksum-algorithm", "SHA256"),
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-object-lock-retain-until-date", until),
    ];
    moto.put_with(key, &lock).await;
}

#[tokio::test]
async fn what_the_store_blocks_fails_the_run_with_its_date_and_is_not_counted() {
    let moto = Moto::locking().await;
    let house = house(&moto, LOGS);
    let until = locked_until();
    put_locked(&moto, "logs/2024-01-01/locked", &until).await;
    moto.put("logs/2024-01-01/free").await;
    let run = house.run("logs");
    assert_eq!((&run["state"], &run["records"]), (&"failed".into(), &1.into()), "{run}");
    let error = run["error"].as_str().unwrap();
    assert!(
        error.contains("1 blocked by the store, until ") && error.contains(&until[..10]),
        "{error}"
    );
    assert_eq!(moto.kept().await.0, 1);
    house.say(&["status"]).has("blocked by the store, until").has(&until[..10]);
    let audit = house.place.audit();
    let done: i64 = audit
        .iter()
        .filter(|entry| entry["kind"] == "batch_done")
        .map(|entry| entry["records"].as_i64().unwrap())
        .sum();
    assert_eq!(done, 1);
    let run = house.run("logs");
    assert_eq!((&run["state"], &run["records"]), (&"failed".into(), &0.into()), "{run}");
}

#[tokio::test]
async fn a_row_whose_object_is_blocked_stays_and_others_go_with_all_versions() {
    let moto = Moto::locking().await;
    let store = fresh_sqlite().await;
    accounts(&store, 5).await;
    let house = House { place: Place::new(), bucket: None, store: Some(store) };
    let app = house.place.store("app", house.store());
    let bucket = objects_store("uploads", &house.place, &moto.url, &moto.bucket);
    let rule = accounts_rule("action = \"delete\"", &["faces/{face}"]);
    house.place.configure(&(app + &bucket + &rule));
    let until = locked_until();
    for id in 0..=5 {
        moto.put(&format!("faces/k{id}")).await;
    }
    put_locked(&moto, "faces/k3", &until).await;
    let run = house.run("accounts");
    assert_eq!((&run["state"], &run["records"]), (&"failed".into(), &4.into()), "{run}");
    let error = run["error"].as_str().unwrap();
    assert!(error.contains("blocked until") && error.contains(&until[..10]), "{error}");
    let there = house.store().strings("SELECT CAST(id AS text) FROM accounts ORDER BY id").await;
    assert_eq!(there, ["0", "3"]);
    assert!(
        moto.has("faces/k3").await && moto.has("faces/k0").await && !moto.has("faces/k4").await
    );
    house.place.audit();
}
