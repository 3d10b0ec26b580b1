//! A replay that dies anywhere can be run again.

use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;

use crate::house::{House, Marker};
use crate::support::fresh_sqlite;

#[tokio::test]
async fn a_replay_that_died_is_run_again() {
    let house = House::new(fresh_sqlite().await, Marker::Yes).await;
    house.save().await;
    house.takes("old", 20);
    house.takes("mails", 5);
    for point in [
        "replay.started",
        "run.started",
        "batch.intended",
        "batch.committed",
        "batch.settling",
        "run.finished",
        "replay.finished",
        "replay.released",
        "marker.written",
    ] {
        house.restore().await;
        let mut command = house.place.command(&["replay", "app", "--yes"]);
        let ended = command.env("FAILPOINTS", format!("{point}=return")).output().unwrap();
        let signal = Some(Signal::ABORT.as_raw());
        assert_eq!(ended.status.signal(), signal, "nothing died at {point}: see tests/run");
        let is_released = house.frozen().await == 0;
        if is_released {
            // Then all of it is gone.
            house.takes("old", 0);
        } else {
            house.refuses("old", "restored");
        }
        let replayed = house.replay("app", &[]);
        assert_eq!(replayed["released"], true, "after {point}: {replayed}");
        let left: Vec<i32> = (21..=25).chain(31..=35).chain([40]).collect();
        assert_eq!(house.ids("accounts", "1 = 1").await, left, "after {point}");
        assert_eq!(house.ids("accounts", "email IS NULL").await.len(), 5, "after {point}");
        let open = "SELECT count(*) FROM batch WHERE state = 'intended'";
        assert_eq!(house.ledger_count(open).await, 0, "after {point}");
    }
    // Each record that went is in one batch for each time that it was there.
    let audit = house.place.audit();
    let done = audit.iter().filter(|entry| entry["kind"] == "batch_done");
    let records: u64 = done.map(|entry| entry["records"].as_u64().unwrap()).sum();
    assert_eq!(records, 25 * 10);
}
