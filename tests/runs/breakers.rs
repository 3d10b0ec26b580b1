//! Circuit breakers and approvals: what is too much, or new, waits until somebody says that it is meant.

use expunged::audit::Event;
use expunged::clock;
use expunged::ledger::Approved;
use expunged::run::RunState;
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use crate::house::House;
use crate::support::fresh_sqlite;

on_each_database! {
    the_first_run_of_a_rule_waits_until_it_is_approved
    what_is_approved_is_not_what_is_done_once_much_more_is_due
    a_clock_that_disagrees_with_the_stores_stops_the_run
}

async fn the_first_run_of_a_rule_waits_until_it_is_approved(house: House) {
    let waiting = house.ask("inactive").await;
    assert_eq!((waiting.state, waiting.records), (RunState::Waiting, 0));
    assert_eq!(house.ids("1 = 1").await, 1002, "nothing was touched");
    let again = house.ask("inactive").await;
    assert_eq!(again.run, waiting.run, "asking twice is one question");
    let asked = house.events("approval_awaited").await;
    let [Event::ApprovalAwaited { due: 490, total: 1002, reason, .. }] = asked.as_slice() else {
        panic!("{asked:?}");
    };
    assert_eq!(reason.as_str(), "the first run of this version of the rule");

    let ledger = &house.runner.ledger;
    let run = waiting.run.unwrap();
    let approved =
        ledger.approve(run, "anna", "looked at ten of them", clock::now()).await.unwrap();
    let Approved::Now(approval) = approved else { panic!("{approved:?}") };
    assert_eq!((approval.due, approval.approved_by.as_deref()), (490, Some("anna")));
    let twice = ledger.approve(run, "bert", "me too", clock::now()).await.unwrap();
    assert!(
        matches!(twice, Approved::Before(first) if first.approved_by.as_deref() == Some("anna"))
    );
    let open = ledger.open_requests().await.unwrap();
    assert_eq!(open.len(), 1, "the daemon finds it: {open:?}");

    let done = house.ask("inactive").await;
    assert_eq!((done.state, done.records, done.run), (RunState::Done, 490, Some(run)));
    assert!(ledger.approvals().await.unwrap().is_empty());
    let unknown = ledger.approve(run, "anna", "again", clock::now()).await.unwrap();
    assert_eq!(unknown, Approved::Unknown);

    // From now on it is known.
    house
        .store
        .execute("UPDATE accounts SET last_seen_at = '2020-02-29 12:00:00' WHERE id = 600")
        .await;
    let known = house.ask("inactive").await;
    assert_eq!((known.state, known.records), (RunState::Done, 1));
    house.assert_log_is_sound().await;
}

async fn what_is_approved_is_not_what_is_done_once_much_more_is_due(house: House) {
    let run = house.approve("inactive").await;
    house
        .store
        .execute("UPDATE accounts SET last_seen_at = '2020-02-29 12:00:00' WHERE id > 400")
        .await;
    let asked_again = house.ask("inactive").await;
    assert_eq!(asked_again.state, RunState::Waiting);
    assert_ne!(asked_again.run, Some(run), "what was approved is withdrawn");
    assert_eq!(house.ids("1 = 1").await, 1002);
    assert_eq!(house.events("approval_awaited").await.len(), 2);

    // A changed rule is another rule.
    let mut changed = house.rule("inactive").clone();
    house.approve("inactive").await;
    changed.retention = "400 days".parse().unwrap();
    let stop = CancellationToken::new();
    let asked =
        expunged::run::run_by_command(&house.runner, &changed, clock::now(), &stop, &|_| {});
    assert_eq!(asked.await.unwrap().state, RunState::Waiting);
    assert_eq!(house.ids("1 = 1").await, 1002);
    house.assert_log_is_sound().await;
}

async fn a_clock_that_disagrees_with_the_stores_stops_the_run(house: House) {
    house.run("inactive").await;
    house
        .store
        .execute("UPDATE accounts SET last_seen_at = '2020-02-29 12:00:00' WHERE id = 600")
        .await;
    let has_a_clock = house.store.kind != crate::support::Kind::Sqlite;
    let stop = CancellationToken::new();
    for hours in [-2, 2] {
        let wrong = clock::now() + SignedDuration::from_hours(hours);
        let rule = house.rule("inactive");
        let result = expunged::run::run_by_command(&house.runner, rule, wrong, &stop, &|_| {});
        let result = result.await.unwrap();
        if has_a_clock {
            assert_eq!((result.state, result.records), (RunState::Refused, 0));
            assert!(result.error.unwrap().contains("differ by"));
        }
    }
    let refused = house.events("run_refused").await;
    let in_doubt = |event: &&Event| matches!(event, Event::RunRefused { reason, .. } if reason.as_str() == "the clock is in doubt");
    assert_eq!(refused.iter().filter(in_doubt).count(), if has_a_clock { 2 } else { 0 });
}

const LIMITED: &str = r#"
[breakers]
max_share = "60 %"

[rule.inactive]
store = "app"
table = "accounts"
starting_point = "last_seen_at"
retention = "2 years"
action = "delete"
mode = "enforce"
max_rows = 30

[rule.all-old]
store = "app"
table = "accounts"
starting_point = "last_seen_at"
retention = "1 year"
action = "delete"
mode = "enforce"
"#;

#[tokio::test]
async fn each_limit_is_the_rules_own_or_the_general_one() {
    let house = House::with(fresh_sqlite().await, false, LIMITED).await;
    // 700 of 1,002 are more than 60 %; 500 are more than 30.
    for (rule, reason) in [
        ("all-old", "more than its share of the table"),
        ("inactive", "more records than it may take"),
    ] {
        let waiting = house.ask(rule).await;
        assert_eq!(waiting.state, RunState::Waiting);
        assert!(waiting.error.unwrap().starts_with(reason));
    }
    assert_eq!(house.run("inactive").await.records, 500);
    // The rule is known now, and its limits still hold.
    house
        .store
        .execute("UPDATE accounts SET last_seen_at = '2020-02-29 12:00:00' WHERE id < 731")
        .await;
    let waiting = house.ask("inactive").await;
    assert_eq!((waiting.state, waiting.remaining), (RunState::Waiting, Some(230)));
    house.assert_log_is_sound().await;
}

#[tokio::test]
async fn what_was_asked_about_is_what_is_approved() {
    let house = House::new(fresh_sqlite().await, false).await;
    let first = house.ask("inactive").await;
    assert_eq!((first.state, first.remaining), (RunState::Waiting, Some(490)));
    // A few more: still the same question, about what was listed.
    house
        .store
        .execute(
            "UPDATE accounts SET last_seen_at = '2020-02-29 12:00:00' WHERE id BETWEEN 501 AND 540",
        )
        .await;
    let second = house.ask("inactive").await;
    assert_eq!((second.run, second.remaining), (first.run, Some(490)));
    // Many more: another question, and the old one cannot be approved any more.
    house
        .store
        .execute("UPDATE accounts SET last_seen_at = '2020-02-29 12:00:00' WHERE id < 701")
        .await;
    let third = house.ask("inactive").await;
    assert_ne!(third.run, first.run);
    let ledger = &house.runner.ledger;
    let late = ledger.approve(first.run.unwrap(), "anna", "I saw 490", clock::now()).await.unwrap();
    assert_eq!(late, Approved::Unknown);
    house.assert_log_is_sound().await;
}

#[tokio::test]
async fn a_run_that_makes_more_and_more_due_stops() {
    let house = House::new(fresh_sqlite().await, false).await;
    house.copy(9).await;
    // 4,900 are due; the first deletion makes 5,000 more so.
    house
        .store
        .execute(
            "CREATE TRIGGER spread AFTER DELETE ON accounts WHEN OLD.id = 11 BEGIN \
             UPDATE accounts SET last_seen_at = '2020-02-29 12:00:00' WHERE status = 'user'; END",
        )
        .await;
    let run = house.run("inactive").await;
    assert_eq!(run.state, RunState::Failed);
    assert!(run.error.unwrap().contains("something makes more of them due"));
    // It stopped within a batch of the bound.
    assert!((5_900..9_900).contains(&run.records), "{}", run.records);
    house.assert_log_is_sound().await;
}
