//! No deletion without its notices, no notice without its deletion: also in what a dead process left.

use std::collections::{BTreeMap, BTreeSet};

use expunged::audit::Event;
use expunged::check;
use expunged::clock;
use expunged::hold::Holds;
use expunged::notice::{Per, State};
use expunged::rule::Rule;
use expunged::run::RunState;
use expunged::store::sql::Access;

use crate::house::{House, RULES};
use crate::support::{TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};
use crate::told::{messages, times};

/// The recipients, and whom `inactive` and `mails` tell.
const TELLS: &str = r#"
[recipient.analytics]
protocol = "command"
program = "/bin/false"
at_once = 100

[recipient.ads]
protocol = "command"
program = "/bin/false"

[rule.inactive.recipients]
analytics = { identify = { user_id = "id", mail = "email" }, per = "record" }
ads = { identify = { status = "status" } }

[rule.mails.recipients]
analytics = { identify = { mail = "email", user_id = "id" }, per = "record" }
ads = { identify = { name = "name" }, per = "record" }
"#;

async fn on_each(test: impl AsyncFn(House)) {
    let stores = [fresh_postgres().await, fresh_mysql().await, fresh_sqlite().await];
    for store in stores {
        test(house(store, false).await).await;
    }
    test(house(fresh_sqlite().await, true).await).await;
}

async fn house(store: TestDatabase, ledger_on_postgres: bool) -> House {
    let house = House::with(store, ledger_on_postgres, &format!("{RULES}{TELLS}")).await;
    // Nothing tells who this is but the id, which one of the recipients is not told.
    house.store.execute("UPDATE accounts SET name = NULL, email = NULL WHERE id IN (20, 21)").await;
    house
}

/// How many notices the log says there are, and how many there are, by recipient.
async fn assert_counted(house: &House) {
    let mut logged: BTreeMap<String, u64> = BTreeMap::new();
    for event in house.events("batch_done").await {
        let Event::BatchDone { notices, run, .. } = event else { continue };
        for (recipient, count) in notices {
            *logged.entry(recipient.to_string()).or_default() += count;
            let there = house.runner.ledger.notices_of_run(run).await.unwrap();
            assert!(there.contains_key(&recipient));
        }
    }
    let states = house.runner.ledger.notices(&Default::default(), 100_000).await.unwrap();
    let mut there: BTreeMap<String, u64> = BTreeMap::new();
    for notice in states {
        *there.entry(notice.recipient.to_string()).or_default() += 1;
    }
    assert_eq!(logged, there);
}

/// Analytics is told of each of these records once, with the old mail, and of no other.
async fn assert_told(house: &House, ids: impl Iterator<Item = i64>) {
    let mut expected: BTreeMap<String, Option<String>> = ids
        .map(|id| {
            let is_unknown = [20, 21].contains(&id);
            (id.to_string(), (!is_unknown).then(|| format!("person{id}@example.org")))
        })
        .collect();
    for who in messages(&house.runner.ledger, "analytics").await.into_iter().flatten() {
        let id = &who.0["user_id"];
        assert_eq!(expected.remove(id).as_ref(), Some(&who.0.get("mail").cloned()), "of {id}");
    }
    assert!(expected.is_empty(), "not told: {:?}", expected.keys());
    assert_counted(house).await;
    house.assert_log_is_sound().await;
}

#[tokio::test]
async fn who_is_told_is_told_of_each_record_or_subject_once() {
    on_each(async |house| {
        assert_eq!(house.run("inactive").await.records, 490);
        assert_told(&house, 11..=500).await;
        let ledger = &house.runner.ledger;
        // One status, whatever the number of records: once in each batch.
        let batches = house.events("batch_done").await.len();
        assert_eq!(
            times(ledger, "ads", "status").await,
            BTreeMap::from([("user".into(), batches as u32)])
        );
        assert!(messages(ledger, "analytics").await.iter().all(|about| about.len() <= 100));
        // Nothing more is due, and nothing more is told.
        assert_eq!(house.run("inactive").await.records, 0);
        assert_counted(&house).await;
    })
    .await;
}

#[tokio::test]
async fn an_anonymized_record_is_told_by_its_old_values() {
    on_each(async |house| {
        assert_eq!(house.run("mails").await.records, 700);
        assert_told(&house, 1..=700).await;
        let ledger = &house.runner.ledger;
        let names = times(ledger, "ads", "name").await;
        assert_eq!(names.len(), 698);
        assert!(names.keys().all(|name| name.starts_with("Person")));
        // Records that nothing identifies to it are counted, and it need not do anything.
        let exempt = ledger.notices(&Default::default(), 10_000).await.unwrap();
        let exempt: Vec<_> =
            exempt.into_iter().filter(|notice| notice.state == State::Exempt).collect();
        assert_eq!(exempt.iter().map(|notice| notice.subjects).sum::<u64>(), 2);
        assert!(exempt.iter().all(|notice| notice.recipient.as_str() == "ads"));
    })
    .await;
}

/// A rule as somebody may rewrite it after a process died: who it tells now is nothing to what is settled.
fn rewritten(rule: &Rule) -> [Rule; 3] {
    let mut silent = rule.clone();
    silent.tellings.clear();
    let mut other = rule.clone();
    for telling in &mut other.tellings {
        telling.recipient = "somebody-else".parse().unwrap();
        telling.identify = [("town".to_owned(), "there_is_no_such_column".to_owned())].into();
        telling.per = Per::Subject;
        telling.at_once = 7;
    }
    [rule.clone(), silent, other]
}

#[tokio::test]
async fn what_was_committed_is_told_from_the_intent_whatever_the_rule_says_by_then() {
    for (name, place) in
        ["inactive", "mails"].into_iter().flat_map(|name| (0..3).map(move |p| (name, p)))
    {
        on_each(async |house| {
            let rule = house.rule(name).clone();
            let (batch, _) = house.intend(&rule).await;
            let taken: BTreeSet<_> = batch.keys.iter().map(ToString::to_string).collect();
            batch.commit().await.unwrap();
            assert!(messages(&house.runner.ledger, "analytics").await.is_empty(), "not yet");
            let now = &rewritten(&rule)[place];
            let recovered = house.runner.recover(now, clock::now()).await.unwrap();
            assert_eq!((recovered.done, recovered.undone), (1, 0));
            let again = house.runner.recover(now, clock::now()).await.unwrap();
            assert_eq!(again.runs, 0);
            let told = times(&house.runner.ledger, "analytics", "user_id").await;
            assert!(told.values().all(|times| *times == 1));
            assert_eq!(told.into_keys().collect::<BTreeSet<_>>(), taken);
            assert_counted(&house).await;
            // The rest of it by the rule as it was.
            assert_eq!(house.run(name).await.state, RunState::Done);
            let all = if name == "inactive" { 11..=500 } else { 1..=700 };
            assert_told(&house, all).await;
        })
        .await;
    }
}

#[tokio::test]
async fn what_was_not_committed_is_told_nobody() {
    on_each(async |house| {
        let rule = house.rule("inactive").clone();
        let (batch, _) = house.intend(&rule).await;
        batch.rollback().await.unwrap();
        let recovered = house.runner.recover(&rule, clock::now()).await.unwrap();
        assert_eq!((recovered.done, recovered.undone), (0, 1));
        assert!(house.runner.ledger.notices(&Default::default(), 9).await.unwrap().is_empty());
        assert_eq!(house.run("inactive").await.records, 490);
        assert_told(&house, 11..=500).await;
    })
    .await;
}

#[tokio::test]
async fn a_saved_plan_tells_of_what_it_takes() {
    on_each(async |house| {
        let plan = house.save("inactive", "10 %").await;
        house.store.execute("UPDATE accounts SET status = 'staff' WHERE id = 33").await;
        let result = house.apply(&plan).await.unwrap();
        assert_eq!(result.state, RunState::Done, "{result:?}");
        let gone = 490 - i64::try_from(result.left.unwrap()).unwrap();
        assert_eq!(result.records, u64::try_from(gone).unwrap());
        let told = times(&house.runner.ledger, "analytics", "user_id").await;
        for id in 11..=500 {
            let is_gone = house.ids(&format!("id = {id}")).await == 0;
            assert_eq!(told.contains_key(&id.to_string()), is_gone, "{id}");
        }
        assert_counted(&house).await;
    })
    .await;
}

#[tokio::test]
async fn a_plan_and_a_check_say_who_is_told() {
    on_each(async |house| {
        let rule = house.rule("inactive");
        let stores = &house.runner.stores;
        let holds = Holds::default();
        let plan = expunged::run::plan(rule, stores, &holds, clock::now(), 0, None).await.unwrap();
        let words: Vec<_> = plan.recipients.iter().map(|told| told.in_words()).collect();
        assert_eq!(words, ["status of each subject", "mail (email), user_id (id) of each record"]);
        let report = check::check(rule, stores, clock::now()).await;
        let told: Vec<_> = report.findings.iter().filter(|f| f.topic == "recipients").collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].message.starts_with("ads is told"), "{told:?}");
        house.store.execute("ALTER TABLE accounts RENAME COLUMN email TO mail").await;
        let report = check::check(rule, stores, clock::now()).await;
        let missing = "there is no column `email` (the rule's recipients)";
        assert!(
            report.findings.iter().any(|found| found.message.starts_with(missing)),
            "{report:?}"
        );
        let result = house.run("inactive").await;
        assert_eq!((result.state, result.records), (RunState::Refused, 0));
    })
    .await;
}

#[tokio::test]
async fn a_check_sees_what_may_not_be_read() {
    let house = house(fresh_postgres().await, false).await;
    let grants = ["SELECT (id, status, last_seen_at, name), DELETE ON accounts"];
    let url = house.store.restricted_user(&grants).await;
    let mut stores = house.config.stores.clone();
    let store = stores.values_mut().next().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), url).unwrap();
    let expunged::config::System::Tables(tables) = &mut store.system else { panic!("it is one") };
    tables.url = expunged::config::Secret::File(file.path().to_owned());
    let stores = expunged::store::Stores::new(stores);
    let report = check::check(house.rule("inactive"), &stores, clock::now()).await;
    let found = report
        .findings
        .iter()
        .find(|found| found.topic == "recipients" && found.severity == check::Severity::Error);
    assert!(found.is_some_and(|found| found.message.contains("told")), "{report:?}");
    assert!(stores.get(&"app".parse().unwrap(), Access::ReadWrite).is_ok());
}
