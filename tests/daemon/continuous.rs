//! Continuous rules: each record as it falls due, and nothing asked in between.

use std::time::Duration;

use expunged::clock;
use jiff::SignedDuration;

use crate::harness::{Place, accounts, left, rule};
use crate::support::{Pool, fresh_postgres, fresh_sqlite, postgres_url};

const RULE: &str = "retention = \"1 day\"";

#[tokio::test]
async fn a_record_goes_as_it_falls_due_and_nothing_is_asked_until_then() {
    let store = fresh_postgres().await;
    accounts(&store, 5).await;
    let place = Place::new();
    place.configure(&(place.store("app", &store) + &rule("photos", "app", "continuous", RULE)));
    let server = Pool::connect(&postgres_url()).await;
    // Milliseconds since its last statement, of the daemon's session that last sent one.
    let quiet_for = format!(
        "SELECT coalesce(min(extract(epoch FROM clock_timestamp() - query_start) * 1000), 999999)::bigint
         FROM pg_stat_activity WHERE datname = '{}' AND application_name = 'expunged'",
        store.name
    );
    store
        .execute(
            "INSERT INTO accounts VALUES
             (100, 'next@example.org', now() - interval '1 day' + interval '4 seconds'),
             (101, 'last@example.org', now() - interval '1 day' + interval '1 hour')",
        )
        .await;
    let due = clock::now() + SignedDuration::from_secs(4);

    let mut daemon = place.start();
    assert_eq!(daemon.wait_for_run("photos")["records"], 5);
    let looked = clock::now();

    // Nothing tells that nothing happens: shortly before the moment, the server says how long it has
    // heard nothing.
    let wait = due.duration_since(clock::now()).as_millis() - 150;
    let wait = u64::try_from(wait).expect("the first run takes less than 4 s");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let quiet = server.count(&quiet_for).await;
    let since = clock::now().duration_since(looked).as_millis();
    assert!(since > 1_000, "too slow a machine to tell: {since} ms");
    assert!(
        i128::from(quiet) > since - 500,
        "asked {quiet} ms ago, and last looked {since} ms ago"
    );

    assert_eq!(daemon.wait_for_run("photos")["records"], 1);
    let late = clock::now().duration_since(due).as_millis();
    assert!((0..1_500).contains(&late), "{late} ms late");
    assert_eq!(
        store.strings("SELECT email FROM accounts ORDER BY id").await,
        ["fresh@example.org", "last@example.org"]
    );
    daemon.stop();
    place.assert_settled(6).await;
}

/// While its store is down, a continuous rule is overdue, says so once, and starts again by itself.
#[tokio::test]
async fn a_continuous_rule_whose_store_is_down_is_seen_and_no_other_waits_for_it() {
    let (good, down) = (fresh_sqlite().await, fresh_sqlite().await);
    accounts(&good, 5).await;
    let place = Place::new();
    let broken = rule("broken", "down", "continuous", "");
    let stores = place.store("app", &good) + &place.store("down", &down);
    place.configure(&(stores + &rule("works", "app", "continuous", "") + &broken));

    // There is no table yet.
    let mut daemon = place.start();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let line = daemon.wait("a failure and a run", |line| {
            line["level"] == "ERROR" || line["message"] == "the run is over"
        });
        seen.push(line["rule"].as_str().unwrap().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["broken", "works"]);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(left(&good).await, 1);
    let status = place.json(&["status", "broken", "works"]);
    assert!(status["rules"][0]["overdue_seconds"].is_i64(), "{status}");
    assert!(status["rules"][0]["refused_at"].is_string(), "{status}");
    assert!(status["rules"][1]["overdue_seconds"].is_null(), "{status}");

    accounts(&down, 3).await;
    let mut daemon = place.start();
    daemon.wait("its run", |line| line["rule"] == "broken" && line["records"] == 3);
    daemon.stop();
    let status = place.json(&["status", "broken"]);
    assert!(status["rules"][0]["overdue_seconds"].is_null(), "{status}");
}
