//! What is done with holds, and what a hold meets: dead processes, stores that are down, damage.

use std::sync::Arc;
use std::time::Duration;

use expunged::audit::entry::Cause;
use expunged::audit::{Entry, Event};
use expunged::clock;
use expunged::ledger::audit::AuditFilter;
use expunged::ledger::{Ground, Intended, LedgerError, Loaded, Start};
use expunged::run::{RunResult, RunState, Runner, run_by_command};
use expunged::store::Batch;
use expunged::store::sql::{Access, Bounds};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::house::{House, LIMIT, in_days, moment, on_each_database, persons, rule, set, terms};
use crate::support::{TestDatabase, approve_in_advance, fresh_mysql, fresh_postgres, fresh_sqlite};

on_each_database! {
    a_batch_of_a_dead_process_is_resolved_before_a_placement_returns,
    an_intent_of_an_older_epoch_is_refused_and_the_batch_undone,
    a_hold_expires_once_and_what_is_overdue_goes,
    a_hold_whose_time_is_over_ends_with_the_run_that_takes_what_it_kept,
    looking_on_ends_no_hold,
    a_hold_on_persons_covers_rules_that_the_deleting_process_has_not_loaded,
    who_places_a_hold_does_not_wait_out_the_rest_of_a_run,
}

async fn house(store: TestDatabase) -> House {
    let at = moment(&store);
    let tables = format!(
        "CREATE TABLE accounts (id integer PRIMARY KEY, at {at});
         INSERT INTO accounts VALUES (1, '2020-06-15 12:00:00'), (2, '2020-06-15 12:00:00')"
    );
    House::new(store, &tables, &rule("old", "accounts", "subject = \"id\"")).await
}

/// Takes all that is due, and begins a run for it.
async fn take(house: &House) -> (Batch, expunged::ledger::Run) {
    let (rule, now) = (house.rule("old"), clock::now());
    let store = house.runner.stores.get(&rule.store, Access::ReadWrite).unwrap();
    let target = store.target(rule).await.unwrap();
    let bounds = Bounds { cutoff: rule.cutoff(now), now };
    let mut walk = store.walk(&target, bounds, 2, 2).unwrap();
    let mut pace = walk.pace();
    let replace = |_: &_, _: &_, old: Option<&str>| old.map(str::to_owned);
    let batch = store.take(&target, bounds, &mut walk, &mut pace, &replace).await.unwrap().unwrap();
    let request = house.runner.ledger.request(&rule.name, Cause::Command, now).await.unwrap();
    (batch, house.runner.ledger.start_run(&request, rule, &Start::Unasked, now).await.unwrap())
}

async fn intend(
    house: &House,
    batch: &Batch,
    run: &expunged::ledger::Run,
) -> Result<(), LedgerError> {
    let (taken, ledger) = (Intended::of(batch.keys.clone()), &house.runner.ledger);
    let id = batch.transaction_id.as_deref();
    ledger.intend(run, 0, &taken, id, 0, clock::now()).await.map(drop)
}

async fn a_batch_of_a_dead_process_is_resolved_before_a_placement_returns(store: TestDatabase) {
    let house = house(store).await;
    let (batch, run) = take(&house).await;
    intend(&house, &batch, &run).await.unwrap();
    // The process died, and with it the batch: the record is there and will stay.
    batch.rollback().await.unwrap();
    house.place(persons(&["1"])).await;
    assert_eq!(house.events("batch_undone").await.len(), 1);
    assert_eq!(house.run("old").await.records, 1);
    assert_eq!(house.ids("accounts").await, set(&["1"]));
}

async fn an_intent_of_an_older_epoch_is_refused_and_the_batch_undone(store: TestDatabase) {
    let house = house(store).await;
    let (batch, run) = take(&house).await;
    house.place(persons(&["1"])).await;
    let refused = intend(&house, &batch, &run).await;
    assert!(matches!(refused, Err(LedgerError::HoldsChanged)), "{refused:?}");
    batch.rollback().await.unwrap();
    assert_eq!(house.run("old").await.records, 1);
    assert_eq!(house.ids("accounts").await, set(&["1"]));
}

async fn a_hold_expires_once_and_what_is_overdue_goes(store: TestDatabase) {
    let house = house(store).await;
    let hold = house.place(persons(&["1"])).await;
    let run = async || house.run("old").await.records;
    assert_eq!(run().await, 1);
    let ground = Ground { reference: Some("12 Js 34/26-2".into()), reason: None };
    let extended =
        house.runner.extend(&hold, in_days(180), ground, "bob", clock::now(), LIMIT).await.unwrap();
    // On the hundredth day; a run at such a time would find the store's own clock against it.
    house.runner.ledger.expire_holds(in_days(100)).await.unwrap();
    assert_eq!(run().await, 0);
    assert!(house.events("hold_expired").await.is_empty());
    house.runner.ledger.expire_holds(in_days(181)).await.unwrap();
    assert_eq!(run().await, 1, "what is overdue goes with the next run");
    assert_eq!(run().await, 0);
    assert_eq!(house.events("hold_expired").await.len(), 1);

    let acts = house.runner.ledger.hold_acts(hold.id).await.unwrap();
    let told: Vec<_> = acts.iter().map(|act| (act.act.as_str(), act.by.as_str())).collect();
    assert_eq!(told, [("place", "ann"), ("extend", "bob")]);
    assert_eq!(acts[1].ground.reference.as_deref(), Some("12 Js 34/26-2"));

    // One that has expired comes back by another act; one that was released does not.
    let again = || Ground { reference: Some("again".into()), reason: None };
    let (runner, now) = (&house.runner, clock::now());
    runner.extend(&extended.hold, in_days(300), again(), "bob", now, LIMIT).await.unwrap();
    house.release(&hold).await;
    let refused = runner.extend(&hold, in_days(400), again(), "bob", now, LIMIT).await;
    assert!(refused.unwrap_err().to_string().contains("released"));
    assert_log_holds_no_person(&house).await;
}

async fn a_hold_whose_time_is_over_ends_with_the_run_that_takes_what_it_kept(store: TestDatabase) {
    let house = house(store).await;
    let (runner, now) = (&house.runner, clock::now());
    runner.place(persons(&["1"]), in_days(-1), "ann", now, LIMIT).await.unwrap();
    assert_eq!(house.run("old").await.records, 2, "it did not go in that very run");
    assert_eq!(house.events("hold_expired").await.len(), 1);
}

async fn a_hold_on_persons_covers_rules_that_the_deleting_process_has_not_loaded(
    store: TestDatabase,
) {
    let house = house(store).await;
    // A daemon has loaded the rule as it was before it said where persons are named.
    let mut config = house.config.clone();
    for rule in config.rules.values_mut() {
        rule.subject = None;
    }
    let ledger = format!("sqlite://{}", house.folder.path().join("ledger.db").display());
    approve_in_advance(&ledger, &config).await;
    let rules = config.rules;
    let loaded = Loaded { rules: &rules, stores: 1, digest: "before", now: clock::now() };
    house.runner.ledger.load_rules(loaded).await.unwrap();
    let (ledger, stores) = (house.runner.ledger.clone(), house.runner.stores.clone());
    let daemon = Runner::new(ledger, stores, Arc::new(rules.clone()));

    let placed = house.try_place(persons(&["1"])).await.unwrap();
    assert_eq!(placed.not_loaded, ["old".parse().unwrap()]);
    let stop = CancellationToken::new();
    let old = &rules[&"old".parse().unwrap()];
    let result = run_by_command(&daemon, old, clock::now(), &stop, &|_| {}).await.unwrap();
    assert_eq!((result.state, result.records), (RunState::Done, 1), "{:?}", result.error);
    assert_eq!(house.ids("accounts").await, set(&["1"]));

    // One that was placed by the old configuration learns of the new one when it is extended.
    let now = clock::now();
    let unknowing = daemon.place(persons(&["2"]), in_days(9), "ann", now, LIMIT).await.unwrap();
    assert!(unknowing.hold.terms.columns.is_empty() && unknowing.not_loaded.is_empty());
    let extended = house.runner.extend(
        &unknowing.hold,
        in_days(10),
        Ground::default(),
        "ann",
        clock::now(),
        LIMIT,
    );
    let extended = extended.await.unwrap().hold;
    assert_eq!(house.runner.hold(extended.id).await.unwrap().terms.columns.len(), 1);
}

async fn looking_on_ends_no_hold(store: TestDatabase) {
    let at = moment(&store);
    let tables = format!(
        "CREATE TABLE accounts (id integer PRIMARY KEY, at {at});
         INSERT INTO accounts VALUES (1, '2020-06-15 12:00:00'), (2, '2020-06-15 12:00:00')"
    );
    let watch = rule("watch", "accounts", "subject = \"id\"").replace("enforce", "observe");
    let house = House::new(store, &tables, &watch).await;
    house.place(persons(&["1"])).await;
    let result = run_at(&house, "watch", in_days(100)).await;
    assert_eq!((result.state, result.remaining), (RunState::Observed, Some(1)));
    assert!(house.events("hold_expired").await.is_empty());
    assert!(house.runner.in_force(in_days(100)).await.unwrap().is_empty());
    assert!(!house.runner.held().await.unwrap().holds.is_empty());
}

#[tokio::test]
async fn a_clock_that_the_store_contradicts_ends_no_hold() {
    for store in [fresh_postgres().await, fresh_mysql().await] {
        let house = house(store).await;
        house.place(persons(&["1"])).await;
        let refused = run_at(&house, "old", in_days(100)).await;
        assert_eq!(refused.state, RunState::Refused);
        assert!(refused.error.unwrap().contains("clock"));
        assert!(house.events("hold_expired").await.is_empty());
        assert_eq!(house.run("old").await.records, 1);
        assert_eq!(house.ids("accounts").await, set(&["1"]));
    }
}

/// Runs a rule by a clock that shows this.
async fn run_at(house: &House, rule: &str, now: Timestamp) -> RunResult {
    let stop = CancellationToken::new();
    run_by_command(&house.runner, house.rule(rule), now, &stop, &|_| {}).await.unwrap()
}

async fn assert_log_holds_no_person(house: &House) {
    assert!(house.runner.ledger.verify_audit().await.unwrap().is_valid());
    let log = house.runner.ledger.audit_log(&AuditFilter::default()).await.unwrap();
    for (_, Entry { event, .. }) in log {
        let (Event::HoldPlaced { .. } | Event::HoldExtended { .. } | Event::HoldReleased { .. }) =
            event
        else {
            continue;
        };
        let text = serde_json::to_string(&event).unwrap();
        let told = ["court", "12 Js", "ann", "bob", "values", "again"];
        assert!(!told.iter().any(|word| text.contains(word)), "{text}");
    }
}

#[tokio::test]
async fn a_hold_is_in_force_while_its_store_is_down_and_says_which_batch_is_open() {
    let house = house(fresh_sqlite().await).await;
    let (batch, run) = take(&house).await;
    intend(&house, &batch, &run).await.unwrap();
    batch.rollback().await.unwrap();
    house.runner.stores.close().await;
    house.store.pool.close().await;
    let (file, away) = (house.store.path(), house.folder.path().join("away"));
    std::fs::rename(&file, &away).unwrap();

    let (now, within) = (clock::now(), Duration::from_secs(2));
    let placed =
        house.runner.place(persons(&["1"]), in_days(90), "ann", now, within).await.unwrap();
    assert_eq!(placed.unresolved.len(), 1);
    assert_eq!(placed.unresolved[0].rule.as_str(), "old");
    let coverage = serde_json::to_value(house.runner.coverage(&placed.hold).await).unwrap();
    assert_eq!(coverage[0]["extent"], "unknown", "{coverage}");

    std::fs::rename(&away, &file).unwrap();
    let result = house.run("old").await;
    assert_eq!((result.state, result.records), (RunState::Done, 1), "{:?}", result.error);
    let left = crate::support::Pool::connect(&house.store.url).await;
    assert_eq!(left.count("SELECT id FROM accounts").await, 1);
}

#[tokio::test]
async fn without_the_holds_nothing_is_deleted() {
    let house = house(fresh_sqlite().await).await;
    house.place(terms(house.table("accounts", Some("id = 7")))).await;
    let ledger = format!("sqlite://{}", house.folder.path().join("ledger.db").display());
    let ledger = crate::support::Pool::connect(&ledger).await;
    ledger.execute("UPDATE hold SET sealed = x'0102'").await;
    let result = house.run("old").await;
    assert_eq!(result.state, RunState::Refused);
    assert!(result.error.unwrap().contains("legal holds could not be looked up"));
    assert_eq!(house.ids("accounts").await.len(), 2);
    assert_eq!(house.events("run_refused").await.len(), 1);
}

/// It rests for more than an hour after its first batch: what it took has its outcome by then.
async fn who_places_a_hold_does_not_wait_out_the_rest_of_a_run(store: TestDatabase) {
    let at = moment(&store);
    let rows: Vec<_> = (1..=1_000).map(|id| format!("({id}, '2020-06-15 12:00:00')")).collect();
    let tables = format!(
        "CREATE TABLE accounts (id integer PRIMARY KEY, at {at});
         INSERT INTO accounts VALUES {}",
        rows.join(", ")
    );
    let slow = "subject = \"id\"\npace = \"gentle\"\nrate = \"1 per hour\"";
    let house = House::new(store, &tables, &rule("old", "accounts", slow)).await;
    let (rule, stop) = (house.rule("old"), CancellationToken::new());
    let run = run_by_command(&house.runner, rule, clock::now(), &stop, &|_| {});
    let place = async {
        while house.ids("accounts").await.len() == 1_000 {
            tokio::task::yield_now().await;
        }
        let placed = house.try_place(persons(&["1000"])).await.unwrap();
        stop.cancel();
        placed
    };

    let (run, placed) = tokio::join!(run, place);

    assert!(placed.unresolved.is_empty(), "{:?}", placed.unresolved);
    let run = run.unwrap();
    assert_eq!((run.state, run.batches), (RunState::Stopped, 1), "{:?}", run.error);
    let left = house.ids("accounts").await;
    assert_eq!((left.len() as u64, left.contains("1000")), (1_000 - run.records, true));
    assert_eq!(house.events("batch_done").await.len(), 1);
}
