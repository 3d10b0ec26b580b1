//! The run, end to end, on each database and with either ledger: exactly the due records go, rules
//! that observe do nothing, and what a dead process left is settled once.

#![allow(clippy::unwrap_used, reason = "in helpers too, what fails to unwrap fails the test")]

use expunged::audit::Event;
use expunged::certificate::issue;
use expunged::clock;
use expunged::hold::Holds;
use expunged::ledger::{Intended, Outcome};
use expunged::run::{RunState, plan, run_by_command};
use tokio_util::sync::CancellationToken;

#[path = "../support/mod.rs"]
mod support;

/// Each test on each database; PostgreSQL also as the ledger.
macro_rules! on_each_database {
    ($($name:ident)+) => { $(
        mod $name {
            use crate::house::House;
            use crate::support::{fresh_mysql, fresh_postgres, fresh_sqlite};

            #[tokio::test]
            async fn on_postgres() {
                super::$name(House::new(fresh_postgres().await, false).await).await;
            }
            #[tokio::test]
            async fn on_mysql() {
                super::$name(House::new(fresh_mysql().await, false).await).await;
            }
            #[tokio::test]
            async fn on_sqlite() {
                super::$name(House::new(fresh_sqlite().await, false).await).await;
            }
            #[tokio::test]
            async fn on_sqlite_with_its_ledger_on_postgres() {
                super::$name(House::new(fresh_sqlite().await, true).await).await;
            }
        }
    )+ };
}

#[path = "../support/notices.rs"]
mod told;

mod breakers;
mod dependents;
mod house;
mod locks;
mod notices;
mod plans;
mod readback;
mod steps;
mod workers;

use house::House;
use support::{Kind, fresh_mysql, fresh_postgres, fresh_sqlite};

on_each_database! {
    exactly_the_due_records_are_deleted
    a_rule_that_observes_does_nothing
    anonymized_records_stay_and_are_not_due_again
    a_batch_that_was_committed_before_the_process_died_is_recorded_once
    a_batch_that_was_not_committed_is_recorded_as_undone
    a_rule_that_changed_since_resolves_nothing_of_before
    a_stopped_run_keeps_what_it_did
    a_rule_that_is_running_is_not_run_twice
}

async fn exactly_the_due_records_are_deleted(house: House) {
    let planned = plan(
        house.rule("inactive"),
        &house.runner.stores,
        &Holds::default(),
        clock::now(),
        3,
        None,
    )
    .await
    .unwrap();
    assert_eq!((planned.due, planned.subjects, planned.undecided()), (490, Some(490), 2));
    assert_eq!(planned.sample.len(), 3);

    let result = house.run("inactive").await;
    assert_eq!((result.state, result.records, result.remaining), (RunState::Done, 490, Some(0)));
    assert_eq!(house.ids("id BETWEEN 11 AND 500").await, 0);
    assert_eq!(house.ids("1 = 1").await, 1002 - 490);

    let again = house.run("inactive").await;
    assert_eq!((again.state, again.records), (RunState::Done, 0));
    let recorded: u64 = house
        .events("batch_done")
        .await
        .iter()
        .map(|event| match event {
            Event::BatchDone { records, .. } => *records,
            _ => 0,
        })
        .sum();
    assert_eq!(recorded, 490);
    house.assert_log_is_sound().await;
}

async fn a_rule_that_observes_does_nothing(house: House) {
    let result = house.run("watching").await;
    assert_eq!(
        (result.state, result.records, result.remaining),
        (RunState::Observed, 0, Some(700))
    );
    assert_eq!(house.ids("1 = 1").await, 1002);
    let events = house.events("run_observed").await;
    assert!(
        matches!(events.as_slice(), [Event::RunObserved { due: 700, undecided: 2, .. }]),
        "{events:?}"
    );
    assert!(house.events("run_started").await.is_empty());
}

async fn anonymized_records_stay_and_are_not_due_again(house: House) {
    let result = house.run("mails").await;
    assert_eq!((result.state, result.records, result.remaining), (RunState::Done, 700, Some(0)));
    assert_eq!(house.ids("1 = 1").await, 1002);
    let changed = "anonymized_at IS NOT NULL AND name IS NULL AND email NOT LIKE '%@%'";
    assert_eq!(house.ids(changed).await, 700);
    let emails =
        house.store.strings("SELECT email FROM accounts WHERE id <= 700 ORDER BY id").await;
    let distinct: std::collections::BTreeSet<_> = emails.iter().collect();
    assert_eq!(distinct.len(), 700, "a pseudonym follows its value");
    assert!(emails.iter().all(|email| email.len() == 64));

    let again = house.run("mails").await;
    assert_eq!((again.state, again.records), (RunState::Done, 0));
    let labelled = house.events("batch_done").await.iter().all(
        |event| matches!(event, Event::BatchDone { pseudonymized, .. } if pseudonymized == &["email"]),
    );
    assert!(labelled, "the audit log says what is only pseudonymized");
    house.assert_log_is_sound().await;
}

async fn a_batch_that_was_committed_before_the_process_died_is_recorded_once(house: House) {
    let rule = house.rule("inactive").clone();
    let (batch, _) = house.intend(&rule).await;
    let taken = batch.keys.len();
    batch.commit().await.unwrap();

    let recovered = house.runner.recover(&rule, clock::now()).await.unwrap();
    assert_eq!((recovered.runs, recovered.done, recovered.undone), (1, 1, 0));
    let again = house.runner.recover(&rule, clock::now()).await.unwrap();
    assert_eq!(again.runs, 0, "it is settled once");
    let events = house.events("batch_done").await;
    assert!(
        matches!(events.as_slice(), [Event::BatchDone { records, .. }] if *records == taken as u64),
        "{events:?}"
    );
    assert_eq!(house.run("inactive").await.records, 490 - taken as u64);
    house.assert_log_is_sound().await;
}

async fn a_batch_that_was_not_committed_is_recorded_as_undone(house: House) {
    let rule = house.rule("inactive").clone();
    let (batch, run) = house.intend(&rule).await;
    let taken = Intended::of(batch.keys.clone());
    batch.rollback().await.unwrap();

    // The next run settles what is open before it begins.
    let result = house.run("inactive").await;
    assert_eq!((result.state, result.records), (RunState::Done, 490));
    assert_eq!(house.events("batch_undone").await.len(), 1);
    let events = house.events("run_finished").await;
    assert_eq!(events.len(), 2, "the interrupted run and the complete one: {events:?}");

    // Whoever comes late with the old run changes nothing.
    let ledger = &house.runner.ledger;
    let late = ledger.intend(&run, 1, &taken, None, 0, clock::now()).await;
    assert!(late.is_err(), "the run was ended by somebody else");
    let unknown = uuid::Uuid::nil();
    assert!(!ledger.settle(&run, unknown, &taken, Outcome::Done, clock::now()).await.unwrap());
    house.assert_log_is_sound().await;
}

async fn a_rule_that_changed_since_resolves_nothing_of_before(house: House) {
    let rule = house.rule("inactive").clone();
    let (batch, _) = house.intend(&rule).await;
    batch.rollback().await.unwrap();
    // Another table, in which the keys of the batch are not: asked there, it would look done.
    let moment = match house.store.kind {
        Kind::Postgres => "timestamptz",
        Kind::MySql => "datetime",
        Kind::Sqlite => "text",
    };
    let others = format!(
        "CREATE TABLE others (id integer PRIMARY KEY, status varchar(9), last_seen_at {moment})"
    );
    house.store.execute(&others).await;
    let mut moved = rule.clone();
    moved.table = "others".parse().unwrap();
    let mut anonymizes = rule.clone();
    anonymizes.action = house.rule("mails").action.clone();

    for changed in [moved, anonymizes] {
        let error = house.runner.recover(&changed, clock::now()).await.unwrap_err().to_string();
        assert!(error.contains("put the rule back"), "{error}");
    }
    assert!(house.events("batch_done").await.is_empty(), "nothing was done");
    assert!(house.events("batch_undone").await.is_empty(), "and nothing is decided yet");

    let recovered = house.runner.recover(&rule, clock::now()).await.unwrap();
    assert_eq!((recovered.runs, recovered.done, recovered.undone), (1, 0, 1));
    assert_eq!(house.run("inactive").await.records, 490);
    house.assert_log_is_sound().await;
}

async fn a_stopped_run_keeps_what_it_did(house: House) {
    // Far more than the windows hold that are taken by the time the first outcome is written.
    for copy in 1..=39 {
        let copies = format!(
            "INSERT INTO accounts (id, email, status, last_seen_at) \
             SELECT id + {copy} * 10000, email, status, last_seen_at FROM accounts WHERE id <= 1000"
        );
        house.store.execute(&copies).await;
    }
    let old = "status <> 'staff' AND last_seen_at < '2021-01-01'";
    let due = u64::try_from(house.ids(old).await).unwrap();
    assert_eq!(due, 19_600);

    house.approve("inactive").await;
    let stop = CancellationToken::new();
    let report = |_| stop.cancel();
    let rule = house.rule("inactive");
    let result = run_by_command(&house.runner, rule, clock::now(), &stop, &report).await.unwrap();
    assert_eq!(result.state, RunState::Stopped);
    assert!((1..=6).contains(&result.batches), "{} batches", result.batches);
    let left = u64::try_from(house.ids(old).await).unwrap();
    assert!(left > 0);
    assert_eq!((result.records + left, result.remaining), (due, Some(left)));
    // What was approved goes on without being asked about again.
    let rest = house.ask("inactive").await;
    assert_eq!((rest.state, rest.records), (RunState::Done, left));
    let (approved, run) = (result.run.unwrap(), rest.run.unwrap());
    let certificate =
        issue(&house.runner.ledger, run, Some(rule), &house.config.backups, clock::now())
            .await
            .unwrap();
    let by = format!("or going on with what tester approved as run {approved}");
    assert!(certificate.authority.ends_with(&by), "{}", certificate.authority);
    house.assert_log_is_sound().await;
}

async fn a_rule_that_is_running_is_not_run_twice(house: House) {
    let rule = house.rule("inactive");
    let lock = house.runner.ledger.lock_rule(&rule.name).await.unwrap().expect("nobody runs it");
    assert_eq!(house.run("inactive").await.state, RunState::Busy);
    assert_eq!(house.ids("1 = 1").await, 1002);
    lock.release().await.unwrap();
    assert_eq!(house.run("inactive").await.records, 490);
}

#[tokio::test]
async fn a_foreign_key_that_refuses_fails_the_run_and_quotes_no_data() {
    for store in [fresh_postgres().await, fresh_mysql().await, fresh_sqlite().await] {
        let house = House::new(store, false).await;
        house
            .store
            .execute(
                "CREATE TABLE orders (id integer PRIMARY KEY, account_id integer, \
                                      FOREIGN KEY (account_id) REFERENCES accounts (id));
                 INSERT INTO orders VALUES (1, 400)",
            )
            .await;
        let result = house.run("inactive").await;
        assert_eq!(result.state, RunState::Failed);
        let error = result.error.unwrap();
        assert!(error.contains("point") || error.contains("FOREIGN KEY"), "{error}");
        assert!(!error.contains("400"), "{error}");
        assert_eq!(house.ids("id = 400").await, 1);
        house.assert_log_is_sound().await;
    }
}

#[tokio::test]
async fn a_rule_that_does_not_fit_is_refused_and_recorded() {
    let house = House::new(fresh_sqlite().await, false).await;
    house.store.execute("ALTER TABLE accounts RENAME COLUMN status TO state").await;
    let result = house.run("inactive").await;
    assert_eq!((result.state, result.records), (RunState::Refused, 0));
    assert_eq!(house.ids("1 = 1").await, 1002);
    assert_eq!(house.events("run_refused").await.len(), 1);
}

#[tokio::test]
async fn a_store_that_keeps_every_record_is_no_success() {
    let postgres = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                    CREATE TRIGGER keeps BEFORE DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION keep()";
    let sqlite = "CREATE TRIGGER keeps BEFORE DELETE ON accounts BEGIN SELECT RAISE(IGNORE); END";
    for (store, trigger) in [(fresh_postgres().await, postgres), (fresh_sqlite().await, sqlite)] {
        let house = House::new(store, false).await;
        house.store.execute(trigger).await;
        let result = house.run("inactive").await;
        assert_eq!((result.state, result.records), (RunState::Failed, 0));
        assert_eq!(result.remaining, Some(490));
        assert!(result.error.unwrap().contains("490 records are due"));
        assert!(house.events("batch_done").await.is_empty());
        assert_eq!(house.ids("1 = 1").await, 1002);
    }
}
