//! Stopping: softly, hard, at the deadline; and going on where it stopped.

use std::time::Duration;

use expunged::clock::Stopwatch;

use rustix::process::Signal;

use crate::harness::{Daemon, Place, accounts, left, make_quick, make_slow, poll, rule};
use crate::support::{TestDatabase, fresh_postgres};

const ROWS: i64 = 20_000;

async fn slow_run(daemon_section: &str) -> (TestDatabase, Place) {
    let store = fresh_postgres().await;
    accounts(&store, u32::try_from(ROWS).unwrap()).await;
    let place = Place::new();
    // One worker, so that the batch with the first row comes first.
    let text =
        place.store("app", &store) + "workers = 1\n" + &rule("nightly", "app", "0 3 * * *", "");
    place.configure(&(text + daemon_section));
    place.make_overdue().await;
    (store, place)
}

#[tokio::test]
async fn a_soft_stop_ends_the_batch_in_flight_and_the_next_start_goes_on() {
    let (store, place) = slow_run("").await;
    make_slow(&store).await;
    let ledger = place.ledger().await;

    // The key at the terminal means the same as the service manager's signal.
    let mut seen = 0;
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = place.start();
        for _ in 0..2 {
            daemon.wait_for("a batch is done");
        }
        daemon.signal(signal);
        let asked = Stopwatch::start();
        assert_eq!(daemon.wait_for_end().code(), Some(0));
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert!(daemon.text().contains("stopping after the batches in flight"));
        let gone = ROWS + 1 - left(&store).await;
        assert!(gone > seen && gone < ROWS, "{gone}");
        seen = gone;
        place.assert_settled(gone).await;
    }
    let states = ledger.strings("SELECT state FROM run ORDER BY started_at").await;
    assert_eq!(states, ["stopped", "stopped"]);
    let reasons: Vec<_> = place
        .audit()
        .into_iter()
        .filter(|entry| entry["kind"] == "daemon_stopped")
        .map(|entry| entry["reason"].clone())
        .collect();
    assert_eq!(reasons, ["asked to stop"; 3]);

    make_quick(&store).await;
    let mut daemon = place.start();
    let run = daemon.wait_for_run("nightly");
    assert_eq!((&run["state"], &run["remaining"]), (&"done".into(), &0.into()));
    daemon.stop();
    assert_eq!(left(&store).await, 1);
    let causes = "SELECT cause FROM request WHERE cause <> 'command' ORDER BY created_at";
    assert_eq!(ledger.strings(causes).await, ["slot", "restart", "restart"]);
    assert_eq!(ledger.count("SELECT count(*) FROM request WHERE state = 'claimed'").await, 0);
    place.assert_settled(ROWS).await;
}

/// Commits that take a while: the batch with the first row waits between intent and outcome.
async fn make_commit_slow(store: &TestDatabase) {
    let sql = "CREATE FUNCTION ponder() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN IF OLD.id = 1 THEN PERFORM pg_sleep(4); END IF; RETURN NULL; END $$;
               CREATE CONSTRAINT TRIGGER ponder AFTER DELETE ON accounts DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION ponder()";
    store.execute(sql).await;
}

/// Starts and returns while a batch is between its intent and its outcome.
async fn in_the_middle(place: &Place) -> Daemon {
    let daemon = place.start();
    let ledger = place.ledger().await;
    poll(&ledger, "SELECT count(*) FROM batch WHERE state = 'intended'", |open| open == 1).await;
    ledger.close().await;
    daemon
}

async fn assert_it_goes_on(store: &TestDatabase, place: &Place) {
    let mut daemon = place.start();
    let run = daemon.wait_for_run("nightly");
    assert_eq!(run["state"], "done", "{}", daemon.text());
    assert!(daemon.text().contains("resolved an interrupted run"));
    daemon.stop();
    assert_eq!(left(store).await, 1);
    place.assert_settled(ROWS).await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_the_next_start_settles_the_batch() {
    let (store, place) = slow_run("").await;
    make_commit_slow(&store).await;
    let mut daemon = in_the_middle(&place).await;

    daemon.signal(Signal::TERM);
    daemon.wait_for("stopping after the batches in flight");
    let asked = Stopwatch::start();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_for_end().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(daemon.text().contains("asked twice to stop"), "{}", daemon.text());

    assert_it_goes_on(&store, &place).await;
}

#[tokio::test]
async fn the_deadline_ends_what_does_not_finish_and_a_reload_does_not() {
    let (store, place) = slow_run("[daemon]\nstop_deadline = \"1 second\"\n").await;
    make_commit_slow(&store).await;
    let mut daemon = in_the_middle(&place).await;

    daemon.signal(Signal::TERM);
    let asked = Stopwatch::start();
    daemon.wait_for("stopping after the batches in flight");
    daemon.signal(Signal::HUP);
    daemon.wait_for("not reloading");
    assert_eq!(daemon.wait_for_end().code(), Some(0));
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    assert!(daemon.text().contains("the deadline passed"), "{}", daemon.text());

    assert_it_goes_on(&store, &place).await;
}
