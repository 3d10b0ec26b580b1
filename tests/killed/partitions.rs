//! Killed at every step at which a partition goes whole.

use std::process::Stdio;

use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;

use crate::harness::{Place, add_month, months_of_accounts, rule};
use crate::support::fresh_postgres;

/// The steps, whether a process that dies there has intended its batches, and whether the partition is gone.
const STEPS: [(&str, bool, bool); 5] = [
    ("batch.intending", false, false),
    ("partition.intended", true, false),
    ("partition.dropped", true, false),
    ("partition.committed", true, true),
    ("batch.settling", true, true),
];
const MONTH: i64 = 500;

#[tokio::test]
async fn partitions_survive_a_death_at_every_step() {
    let store = fresh_postgres().await;
    months_of_accounts(&store).await;
    let place = Place::new();
    let rule = rule("nightly", "app", "0 3 * * *", "");
    place.configure(&(place.store("app", &store) + &rule));
    assert_eq!(place.start().stop().code(), Some(0), "the daemon gets to know the rule");
    let ledger = place.ledger().await;
    let mut due = 0;
    for (number, (point, is_intended, is_gone)) in (0..).zip(STEPS) {
        let month = number + 1;
        add_month(&store, month, due + 1, MONTH).await;
        due += MONTH;
        let mut command = place.command(&["run"]);
        command.env("FAILPOINTS", format!("{point}=return"));
        let died = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(died.signal(), Some(Signal::ABORT.as_raw()), "{point}");
        let open = "SELECT count(*) FROM batch WHERE state = 'intended'";
        assert_eq!(ledger.count(open).await, i64::from(is_intended), "{point}");
        let there = format!("SELECT count(*) FROM pg_class WHERE relname = 'month_{month}'");
        assert_eq!(store.count(&there).await, i64::from(!is_gone), "{point}");

        let mut daemon = place.start();
        let run = daemon.wait_for_run("nightly");
        assert_eq!(run["state"], "done", "{point}: {}", daemon.text());
        assert_eq!(daemon.stop().code(), Some(0));
        assert_eq!(store.count("SELECT count(*) FROM accounts").await, 1, "{point}");
        assert_eq!(store.count(&there).await, 0, "{point}: it goes whole");
        place.assert_settled(due).await;
    }
    ledger.close().await;
}
