//! Saved plans: carried out exactly as they are, or not at all.

use expunged::breaker::Share;
use expunged::clock;
use expunged::hold::Holds;
use expunged::plan::saved::{InvalidPlan, SavedPlan};
use expunged::rule::Selection;
use expunged::run::{
    self, ApplyError, Difference, RunResult, RunState, Terms, compare, compare_with_plan, plan,
};
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::house::House;
use crate::support::{Kind, fresh_postgres, fresh_sqlite};

const OLD: &str = "2020-02-29 12:00:00";
const FRESH: &str = "2026-11-01 12:00:00";

impl House {
    /// Plans a rule and saves that.
    pub(crate) async fn save(&self, rule: &str, margin: &str) -> SavedPlan {
        let rule = self.rule(rule);
        let stores = &self.runner.stores;
        let planned = plan(rule, stores, &Holds::default(), clock::now(), 0, None).await.unwrap();
        let terms = Terms {
            margin: margin.parse::<Share>().unwrap(),
            valid_for: SignedDuration::from_hours(24),
        };
        let keys = self.runner.ledger.keys();
        run::save(&[(rule, &planned)], stores, &Holds::default(), keys, terms, clock::now())
            .await
            .unwrap()
    }

    async fn apply_at(&self, plan: &SavedPlan, now: Timestamp) -> Result<RunResult, ApplyError> {
        let stop = CancellationToken::new();
        let rules = &self.config.rules;
        let mut results = self.runner.apply(plan, rules, now, &stop, &|_, _| {}).await?;
        Ok(results.remove(0))
    }

    pub(crate) async fn apply(&self, plan: &SavedPlan) -> Result<RunResult, ApplyError> {
        self.apply_at(plan, clock::now()).await
    }

    async fn seen(&self, at: &str, condition: &str) {
        self.store
            .execute(&format!("UPDATE accounts SET last_seen_at = '{at}' WHERE {condition}"))
            .await;
    }
}

on_each_database! {
    a_plan_takes_what_it_names_and_nothing_else
    a_plan_of_many_records_leaves_a_range_that_changed_whole
    a_plan_that_no_longer_fits_touches_nothing
    an_interrupted_plan_is_applied_again
    an_anonymizing_plan_changes_what_it_names
}

async fn a_plan_takes_what_it_names_and_nothing_else(house: House) {
    let plan = house.save("inactive", "10 %").await;
    assert_eq!((plan.rules[0].due, plan.rules[0].total), (490, 1002));
    assert!(plan.rules[0].names_each_record());

    // Since then: ten were used, five others fell silent, two are gone, and one came back as another.
    house.seen(FRESH, "id BETWEEN 101 AND 110").await;
    house.seen(OLD, "id BETWEEN 601 AND 605").await;
    house.store.execute("DELETE FROM accounts WHERE id IN (201, 202)").await;
    house.store.execute("UPDATE accounts SET id = 5000 WHERE id = 203").await;

    let applied = house.apply(&plan).await.unwrap();
    let planned = 490 - 10 - 2 - 1;
    assert_eq!((applied.state, applied.records), (RunState::Done, planned));
    assert_eq!(applied.left, Some(13), "ten were used, two are gone, one is another");
    assert_eq!(applied.remaining, Some(6), "due by now, and not in the plan");
    assert_eq!(house.ids("id BETWEEN 11 AND 500").await, 10);
    assert_eq!(house.ids("id BETWEEN 601 AND 605 OR id = 5000").await, 6);
    assert_eq!(house.ids("1 = 1").await, 1000 - i64::try_from(planned).unwrap());

    // The rule is known by that, and takes the rest when it runs by itself.
    let rest = house.ask("inactive").await;
    assert_eq!((rest.state, rest.records), (RunState::Done, 6));
    house.assert_log_is_sound().await;
}

async fn a_plan_of_many_records_leaves_a_range_that_changed_whole(house: House) {
    house.copy(24).await;
    let plan = house.save("inactive", "10 %").await;
    let part = &plan.rules[0];
    // 12,250 records in ranges of two.
    assert_eq!((part.due, part.ranges), (12_250, 6_125));
    assert!(!part.names_each_record());

    // One record of a range was used, and a stranger falls due in the place of a fresh record.
    house.seen(FRESH, "id = 11").await;
    house.store.execute("UPDATE accounts SET id = 19 * 10000 + 5000 WHERE id = 2001").await;
    house.seen(OLD, "id = 195000").await;
    let applied = house.apply(&plan).await.unwrap();
    assert_eq!(applied.state, RunState::Done);
    assert_eq!(house.ids("id IN (11, 12, 195000)").await, 3);
    let left = house.ids(&format!("status <> 'staff' AND last_seen_at <= '{OLD}'")).await;
    assert!(
        (2..=4).contains(&left),
        "one record of a range that changed, and the stranger's: {left}"
    );
    assert_eq!(applied.records + u64::try_from(left).unwrap(), 12_250 + 1 - 1);
    assert_eq!(applied.remaining, Some(u64::try_from(left).unwrap()));
    house.assert_log_is_sound().await;
}

async fn a_plan_that_no_longer_fits_touches_nothing(house: House) {
    let reason = |error: Result<RunResult, ApplyError>| match error.unwrap_err() {
        ApplyError::Unfit { reason, error } => (reason, error),
        other => panic!("{other}"),
    };
    let plan = house.save("inactive", "10 %").await;
    let tomorrow = clock::now() + SignedDuration::from_hours(25);
    assert_eq!(reason(house.apply_at(&plan, tomorrow).await).0, "it is too old");

    // 50 of 490 are more than a tenth; 49 are not, and are what is left to the plan.
    house.seen(FRESH, "id BETWEEN 11 AND 60").await;
    let (drifted, error) = reason(house.apply(&plan).await);
    assert_eq!(drifted, "the number due has drifted");
    assert!(error.contains("490 records were planned and 440 are due"), "{error}");
    house.seen(OLD, "id BETWEEN 11 AND 60").await;

    let mut rules = house.config.rules.clone();
    let name = "inactive".parse().unwrap();
    let stop = CancellationToken::new();
    if let Some(rule) = rules.get_mut(&name) {
        rule.retention = "3 years".parse().unwrap();
    }
    let changed = house.runner.apply(&plan, &rules, clock::now(), &stop, &|_, _| {}).await;
    assert!(changed.unwrap_err().to_string().contains("a rule has changed"));
    rules.clear();
    let gone = house.runner.apply(&plan, &rules, clock::now(), &stop, &|_, _| {}).await;
    assert!(gone.unwrap_err().to_string().contains("a rule is gone"));

    house.store.execute("ALTER TABLE accounts ADD COLUMN phone varchar(20)").await;
    assert_eq!(reason(house.apply(&plan).await).0, "the schema has changed");

    assert_eq!(house.ids("1 = 1").await, 1002, "nothing was touched");
    assert_eq!(house.events("plan_refused").await.len(), 5);
    assert!(house.events("run_started").await.is_empty());

    // Whoever changes the file makes it nobody's.
    let keys = house.runner.ledger.keys();
    let note = keys.sign(&plan.to_text());
    assert_eq!(run::open(&note, keys).unwrap(), plan);
    let changed = note.replacen("\"due\": 490", "\"due\": 491", 1);
    assert_eq!(run::open(&changed, keys), Err(InvalidPlan::Signature));
    let others = expunged::keys::Keys::generate();
    assert_eq!(run::open(&note, &others), Err(InvalidPlan::Signature));
    house.assert_log_is_sound().await;
}

async fn an_interrupted_plan_is_applied_again(house: House) {
    house.copy(9).await;
    let plan = house.save("inactive", "10 %").await;
    let stop = CancellationToken::new();
    let report = |_: &_, _| stop.cancel();
    let rules = &house.config.rules;
    let first = house.runner.apply(&plan, rules, clock::now(), &stop, &report).await.unwrap();
    assert_eq!((first[0].state, first[0].batches), (RunState::Stopped, 1));
    // Far fewer are due now; what the plan itself took is no drift.
    let rest = house.apply(&plan).await.unwrap();
    assert_eq!((rest.state, rest.records), (RunState::Done, 4_900 - first[0].records));
    assert_eq!(rest.left, Some(0), "what the first run took was not left");
    assert_eq!(house.ids("status <> 'staff' AND last_seen_at < '2021-01-01'").await, 0);
    house.assert_log_is_sound().await;
}

async fn an_anonymizing_plan_changes_what_it_names(house: House) {
    let plan = house.save("mails", "10 %").await;
    house.seen(OLD, "id = 900").await;
    let applied = house.apply(&plan).await.unwrap();
    assert_eq!((applied.state, applied.records), (RunState::Done, 700));
    assert_eq!(house.ids("anonymized_at IS NOT NULL").await, 700);
    assert_eq!(house.ids("id = 900 AND email LIKE '%@%'").await, 1);
    house.assert_log_is_sound().await;
}

#[tokio::test]
async fn a_change_of_policy_is_shown_in_records() {
    for store in [fresh_sqlite().await, fresh_postgres().await] {
        assert_ne!(store.kind, Kind::MySql);
        let house = House::new(store, false).await;
        let rules = &house.config.rules;
        let mut stricter = rules.clone();
        let name = "inactive".parse().unwrap();
        if let Some(rule) = stricter.get_mut(&name) {
            // One year takes the 200 in between too; the new condition spares 100 of the old.
            rule.retention = "1 year".parse().unwrap();
            let Selection::Rows(rows) = &mut rule.select else { panic!("it is of rows") };
            rows.condition = Some(
                expunged::rule::Condition::parse(
                    expunged::rule::Dialect::Sqlite,
                    "status <> 'staff' AND id NOT BETWEEN 101 AND 200",
                )
                .unwrap(),
            );
        }
        stricter.remove(&"watching".parse().unwrap());
        let (stores, none) = (&house.runner.stores, Holds::default());
        let found = compare(rules, &stricter, (stores, &none), clock::now()).await.unwrap();
        let of = |rule: &str| {
            let found: Vec<&Difference> =
                found.iter().filter(|found| found.rule.as_str() == rule).collect();
            (found[0].before, found[0].now, found[0].newly_due, found[0].spared)
        };
        assert_eq!(of("inactive"), (Some(490), Some(590), 200, 100));
        assert_eq!(of("mails"), (Some(700), Some(700), 0, 0));
        assert_eq!(of("watching"), (Some(700), None, 0, 700));

        // Against a plan, record by record: one was used, two fell silent.
        let saved = house.save("inactive", "10 %").await;
        house.seen(FRESH, "id = 400").await;
        house.seen(OLD, "id IN (601, 602)").await;
        let keys = house.runner.ledger.keys();
        let found =
            compare_with_plan(&saved, rules, (stores, &none), keys, clock::now()).await.unwrap();
        let inactive = found.iter().find(|found| found.rule == name).unwrap();
        assert_eq!((inactive.newly_due, inactive.spared, inactive.at_least), (2, 1, false));
    }
}

#[tokio::test]
async fn nobody_goes_on_with_whatever_is_due_where_a_plan_was_interrupted() {
    let house = House::new(fresh_sqlite().await, false).await;
    let (rule, ledger) = (house.rule("inactive"), &house.runner.ledger);
    // What a killed `apply` leaves: its request, and a run with an intent that was committed.
    let request = ledger.request_for_plan(&rule.name, clock::now()).await.unwrap();
    let (batch, _) = house.intend_for(rule, &request).await;
    batch.commit().await.unwrap();
    house.seen(OLD, "id BETWEEN 601 AND 700").await;

    let left = ledger.left_behind(Timestamp::MAX).await.unwrap();
    assert_eq!(left.len(), 1, "the daemon finds it");
    let request = house.runner.take_over(rule, clock::now()).await.unwrap();
    assert_eq!(request, None, "and settles it, and takes nothing more");
    assert_eq!(house.events("batch_done").await.len(), 1);
    assert!(ledger.left_behind(Timestamp::MAX).await.unwrap().is_empty());
    assert_eq!(house.ids("id BETWEEN 601 AND 700").await, 100);
    house.assert_log_is_sound().await;
}
