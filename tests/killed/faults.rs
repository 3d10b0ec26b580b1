//! Killed at every step between a slot and the end of a run, and at every step of the recovery from that.

use std::process::{ExitStatus, Stdio};

use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;

use crate::harness::Place;
use crate::house::{Act, House, kind_of};
use crate::random::{length, side_by_side};
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

/// Steps of a batch, met in the first batch of a run and in later ones.
const IN_A_BATCH: [&str; 6] = [
    "batch.taken",
    "batch.intending",
    "batch.intended",
    "batch.committed",
    "batch.settling",
    "batch.settled",
];
/// Steps that a run takes once. The last two come when nothing is due any more.
const IN_A_RUN: [&str; 3] = ["run.started", "run.finishing", "run.finished"];
/// Steps of a daemon that goes on with what a process left behind.
const IN_RECOVERY: [&str; 5] = [
    "recovery.requested",
    "recovery.resolved",
    "recovery.settled",
    "recovery.finished",
    "recovery.closed",
];
/// Rows for three batches, however quickly they grow.
const ENOUGH: i64 = 2_500;

/// Runs a command that is to die at the passage of a point after so many others.
async fn die(house: &mut House, argument: &str, point: &str, after: u32) {
    for attempt in 0..5 {
        if dies(&house.place, argument, point, after).await {
            return;
        }
        // The lock of the process before may not be free yet, or fewer batches held what was due, which
        // grow over parts of the table where nothing is.
        house.add((4 * ENOUGH) << attempt).await;
    }
    panic!(
        "nothing died at {point}: is it built in, with `--features fault-points`? run the tests through \
         tests/run"
    );
}

/// Runs a command that is to die there at once; a lock of the process before it may not be free yet.
pub(crate) async fn die_once(place: &Place, argument: &str, point: &str) {
    let watch = expunged::clock::Stopwatch::start();
    while !dies(place, argument, point, 0).await {
        assert!(watch.elapsed() < crate::harness::LIMIT, "nothing died at {point}");
    }
}

async fn dies(place: &Place, argument: &str, point: &str, after: u32) -> bool {
    let mut command = place.command(&[argument]);
    command.env("FAILPOINTS", format!("{point}={after}*off->return"));
    let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait(process).await.signal() == Some(Signal::ABORT.as_raw())
}

/// Waits for a process; one that does not end by itself is ended, and did not die of a fault.
async fn wait(mut process: std::process::Child) -> ExitStatus {
    let watch = expunged::clock::Stopwatch::start();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        if watch.elapsed() > crate::harness::LIMIT {
            process.kill().unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

async fn die_at_every_step(store: TestDatabase, ledger: Option<TestDatabase>, act: Act) {
    let mut house = House::new(store, ledger, act).await;
    let mut deaths = 0;
    for (place, point) in IN_A_BATCH.into_iter().enumerate() {
        // The late batch only where it matters most: each costs thousands of rows.
        let is_crucial = ["batch.intended", "batch.committed", "batch.settling"].contains(&point);
        for after in if is_crucial || length() > 1 { &[0, 1, 2][..] } else { &[0] } {
            let after = *after;
            if house.due().await < ENOUGH {
                house.add(4 * ENOUGH).await;
            }
            die(&mut house, "run", point, after).await;
            // From the intent on, and until the outcome is durable, a batch is open; so may others be, whose outcomes
            // are written while it goes on.
            let open = house.open_batches().await;
            let most = if place < 2 { 0 } else { 6 };
            assert!((i64::from((2..5).contains(&place))..=most).contains(&open), "{point}: {open}");
            // The next process recovers, and dies before it does anything of its own.
            die(&mut house, "run", "run.started", 0).await;
            assert_eq!(house.open_batches().await, 0, "{point}");
            assert_eq!(house.recorded().await, house.handled().await, "after {point}");
            deaths += 2;
        }
    }
    for point in IN_A_RUN {
        house.add(10).await;
        die(&mut house, "run", point, 0).await;
        assert_eq!(house.open_runs().await, i64::from(point != "run.finished"), "{point}");
        deaths += 1;
    }
    for point in IN_RECOVERY {
        let is_resolving = point == "recovery.resolved" || point == "recovery.settled";
        let left = ["batch.committed", "batch.intended"];
        for left in if is_resolving { &left[..] } else { &left[..1] } {
            house.add(10).await;
            die(&mut house, "run", left, 0).await;
            die(&mut house, "daemon", point, 0).await;
            // Whoever comes next has all it needs to go on by itself.
            let mut daemon = house.place.start();
            let run = daemon.wait_for_run("nightly");
            assert_eq!(run["state"], "done", "{point}: {}", daemon.text());
            assert_eq!(daemon.stop().code(), Some(0));
            assert_eq!(house.due().await, 0, "after {point}");
            deaths += 2;
        }
    }
    house.add(10).await;
    house.ledger.execute("UPDATE rule_state SET first_seen = '2020-01-01T00:00:00.000000Z'").await;
    die(&mut house, "daemon", "slot.claimed", 0).await;
    let mut daemon = house.place.start();
    assert_eq!(daemon.wait_for_run("nightly")["state"], "done", "{}", daemon.text());
    assert_eq!(daemon.stop().code(), Some(0));
    let batches = house.assert_covered().await;
    crate::support::tell(&format!(
        "kill suite, {}, {act:?}: {} deaths at fault points, {} rows, {batches} batches, each row covered once",
        kind_of(&house.store),
        deaths + 1,
        house.due_ids().count(),
    ));
}

/// The three databases at once: most of the time goes by in waiting for disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn deletions_survive_a_death_at_every_step() {
    let act = Act::Delete;
    side_by_side([
        die_at_every_step(fresh_postgres().await, None, act),
        die_at_every_step(fresh_mysql().await, None, act),
        die_at_every_step(fresh_sqlite().await, Some(fresh_postgres().await), act),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn anonymizations_survive_a_death_at_every_step() {
    side_by_side([
        die_at_every_step(fresh_postgres().await, Some(fresh_postgres().await), Act::Pseudonymize),
        die_at_every_step(fresh_mysql().await, Some(fresh_postgres().await), Act::Clear),
        die_at_every_step(fresh_sqlite().await, None, Act::Pseudonymize),
    ])
    .await;
}

#[tokio::test]
async fn what_cannot_have_happened_is_reported_and_nothing_is_resolved_by_it() {
    let mut house = House::new(fresh_sqlite().await, None, Act::Delete).await;
    house.add(100).await;
    die(&mut house, "run", "batch.committed", 0).await;
    // A batch was lost from the ledger, or was never there.
    house.ledger.execute("UPDATE batch SET seq = 1 WHERE state = 'intended'").await;
    let refused = house.place.run(&["run"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot have happened"), "{said}");
    assert_eq!((house.open_batches().await, house.recorded().await), (1, 0));

    house.ledger.execute("UPDATE batch SET seq = 0 WHERE state = 'intended'").await;
    house.finish().await;
    house.assert_covered().await;
}

/// By another key none of a batch would be found, as if all of it were gone.
#[tokio::test]
async fn a_batch_is_not_resolved_by_another_key_than_it_was_taken_by() {
    for store in [fresh_postgres().await, fresh_mysql().await] {
        let mut house = House::new(store, None, Act::Delete).await;
        house.add(100).await;
        die(&mut house, "run", "batch.intended", 0).await;
        let (due, kind) = (house.due().await, kind_of(&house.store));
        let drop = match house.store.kind {
            Kind::MySql => "DROP PRIMARY KEY",
            _ => "DROP CONSTRAINT accounts_pkey",
        };
        let migrate = format!(
            "ALTER TABLE accounts ADD COLUMN number bigint; UPDATE accounts SET number = id + 1000000;
             ALTER TABLE accounts {drop}, ADD PRIMARY KEY (number)"
        );
        house.store.execute(&migrate).await;
        let refused = house.place.run(&["--json", "run"]);
        let said = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{kind}: {said}");
        assert!(said.contains("the columns of the table's key"), "{kind}: {said}");
        assert_eq!((house.open_batches().await, house.recorded().await), (1, 0), "{kind}");
        assert_eq!(house.due().await, due, "{kind}");
        assert_eq!(house.ledger.count("SELECT count(*) FROM notice").await, 0, "{kind}");

        let back = format!(
            "ALTER TABLE accounts {drop}, ADD PRIMARY KEY (id); ALTER TABLE accounts DROP COLUMN number"
        );
        house.store.execute(&back).await;
        house.finish().await;
        house.assert_covered().await;
    }
}
