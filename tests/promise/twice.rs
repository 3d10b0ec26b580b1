//! Events that come twice, late, or for nothing do no harm and leave next to no trace.

use serde_json::json;

use crate::house::House;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_come_twice_or_late_or_for_nothing_are_worked_off_without_a_batch() {
    let house = House::new().await;
    for key in ["k", "other"] {
        house.upload(key).await;
    }
    let mut daemon = house.place.start();
    let named = json!({ "upload_key": "k" });
    assert_eq!(house.post("synthesis.finished", "first", &named), 202);
    house.gone("k").await;
    house.settled(&mut daemon).await;
    let batches = house.place.entries("batch_done");
    // The same again, another of the same, one from the table, one for what never was, and values that
    // would name anything else.
    assert_eq!(house.post("synthesis.finished", "first", &named), 202);
    assert_eq!(house.post("synthesis.failed", "second", &named), 202);
    house.end("k", "finished").await;
    for (id, key, status) in [
        ("a", "never", 202),
        ("b", "..", 422),
        ("c", "../thumbs/other", 422),
        ("d", "*", 202),
        ("e", "other/64", 422),
    ] {
        let said = house.post("synthesis.finished", id, &json!({ "upload_key": key }));
        assert_eq!(said, status, "{key}");
    }
    house.app.execute("INSERT INTO synthesis_jobs (status, finished_at) VALUES ('finished', now()); NOTIFY synthesis_jobs").await;
    for n in 0..200 {
        assert_eq!(house.post("synthesis.finished", &format!("n{n}"), &named), 202);
    }
    // Behind all of them.
    house.upload("last").await;
    house.end("last", "finished").await;
    house.gone("last").await;
    house.settled(&mut daemon).await;
    house.assert_there("other").await;
    let log = daemon.text();
    // Those three that could name no file were refused, and that is said.
    let warned = |line: &&str| line.contains("\"WARN\"");
    let warnings: Vec<&str> = log.lines().filter(warned).collect();
    let refused = warnings.iter().filter(|line| line.contains("events were refused")).count();
    assert_eq!((warnings.len(), refused), (3, 3), "{log}");
    assert!(!log.contains("\"ERROR\""), "{log}");
    assert_eq!(daemon.stop().code(), Some(0));
    // One for the photo and one for its features.
    assert_eq!(house.place.entries("batch_done"), batches + 2);
    let runs = house.place.entries("run_started");
    assert!(runs <= 12, "{runs} runs were begun for nothing");
    let ledger = house.place.ledger().await;
    assert_eq!(ledger.count("SELECT count(*) FROM batch WHERE state <> 'done'").await, 0);
    ledger.close().await;
}
