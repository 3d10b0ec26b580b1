//! A replay takes what came back, and nothing else.

use expunged::clock;

use crate::harness::Place;
use crate::house::{House, Marker, RULES, days_ago, numbers, of_rule};
use crate::support::{TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

/// With a recipient, who is told once.
fn told() -> String {
    let recipients = "subject = \"id\"\nrecipients = { crm = { identify = { id = \"id\" } } }\n";
    let crm = "[recipient.crm]\nprotocol = \"http\"\nurl = \"https://crm.example/users\"\n\
               body = '{\"ids\": [\"{{id:id}}\"]}'\nat_once = 100\n";
    format!("{crm}{}", RULES.replace("subject = \"id\"\n", recipients))
}

async fn what_came_back_goes_again(house: &House, rules: &str) {
    house.configure(rules);
    house.save().await;
    house.takes("old", 20);
    house.takes("mails", 5);
    house.done(&["p1", "p2"]);
    house.takes("features", 2);
    let notices = house.ledger_count("SELECT count(*) FROM notice").await;
    assert_eq!(notices > 0, rules.contains("crm"));

    house.restore().await;
    let seen = days_ago(1);
    // 5 is another account by now, 6 became staff, and somebody sues 7.
    house.execute(&format!("UPDATE accounts SET last_seen = '{seen}' WHERE id = 5")).await;
    house.execute("UPDATE accounts SET status = 'staff' WHERE id = 6").await;
    house.hold("7");
    house.refuses("old", "restored");

    // A look changes nothing.
    let (entries, plan) = (house.place.audit().len(), house.plan("app", &[]));
    assert_eq!(numbers(of_rule(&plan, "old")), [20, 20, 17, 1, 1, 1], "{plan}");
    assert_eq!(numbers(of_rule(&plan, "mails")), [5, 5, 5, 0, 0, 0], "{plan}");
    assert_eq!(numbers(of_rule(&plan, "features")), [2, 2, 2, 0, 0, 0], "{plan}");
    let dry = house.place.run(&["replay", "app", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(2), "something would go");
    assert_eq!(house.place.audit().len(), entries);
    assert_eq!(house.ids("accounts", "id <= 20").await.len(), 20);
    let unasked = house.place.run(&["replay", "app"]);
    assert!(!unasked.status.success(), "nobody is there to be asked");
    assert_eq!(house.ids("accounts", "id <= 20").await.len(), 20);

    let replayed = house.replay("app", &[]);
    assert_eq!(
        (&replayed["records"], &replayed["released"]),
        (&24.into(), &true.into()),
        "{replayed}"
    );
    // An independent look: what was deleted is gone, what was anonymized is anonymized, all others are as they were.
    let left: Vec<i32> = [5, 6, 7].into_iter().chain(21..=25).chain(31..=35).chain([40]).collect();
    assert_eq!(house.ids("accounts", "1 = 1").await, left);
    assert_eq!(house.ids("accounts", "email IS NULL").await, [21, 22, 23, 24, 25]);
    assert_eq!(house.ids("features", "1 = 1").await, [3, 4, 5]);
    let now = house.ledger_count("SELECT count(*) FROM notice").await;
    assert_eq!(now, notices, "nobody is told once more");

    // It runs again, and a second replay finds nothing.
    house.takes("old", 0);
    let again = house.replay("app", &[]);
    assert_eq!((&again["records"], &again["released"]), (&0.into(), &true.into()), "{again}");
    assert_eq!(house.ids("accounts", "1 = 1").await, left);
    assert!(house.look(clock::now()).await.is_empty());
    for (kind, count) in [("replay_started", 2), ("replay_finished", 2), ("store_released", 2)] {
        assert_eq!(house.place.entries(kind), count, "{kind}");
    }
    let audit = house.place.audit();
    let finished: Vec<_> =
        audit.iter().filter(|entry| entry["kind"] == "replay_finished").collect();
    assert_eq!((&finished[0]["records"], &finished[0]["left"]), (&24.into(), &2.into()));
    let causes = audit.iter().filter(|entry| entry["cause"] == "replay").count();
    assert_eq!(causes, 3, "one run for each rule that had something to do");

    // Put back once more, it goes once more: by the keys that the replay has kept.
    house.restore().await;
    assert_eq!(house.look(clock::now()).await, ["app"]);
    let third = house.replay("app", &[]);
    assert_eq!(third["records"], 26, "those that were others are as of old: {third}");
    assert_eq!(house.ids("accounts", "id <= 20").await, [7]);
}

async fn on(store: TestDatabase, marker: Marker) {
    let house = House::new(store, marker).await;
    what_came_back_goes_again(&house, RULES).await;
}

#[tokio::test]
async fn what_came_back_goes_again_from_sqlite() {
    on(fresh_sqlite().await, Marker::No).await;
}

#[tokio::test]
async fn what_came_back_goes_again_from_postgres() {
    on(fresh_postgres().await, Marker::No).await;
}

#[tokio::test]
async fn what_came_back_goes_again_from_postgres_with_a_marker() {
    on(fresh_postgres().await, Marker::Yes).await;
}

#[tokio::test]
async fn what_came_back_goes_again_from_mariadb() {
    on(fresh_mysql().await, Marker::No).await;
}

#[tokio::test]
async fn with_a_ledger_on_postgres_and_a_recipient() {
    let ledger = fresh_postgres().await;
    let house = House::at(Place::on(&ledger), fresh_sqlite().await, Marker::Yes).await;
    what_came_back_goes_again(&house, &told()).await;
}

#[tokio::test]
async fn only_what_was_deleted_since_is_looked_for() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    house.takes("old", 20);
    let since = clock::now().to_string();
    house.add(50..=52, 2_000).await;
    house.save().await;
    house.takes("old", 3);
    house.restore().await;
    let plan = house.plan("app", &["--restored-to", &since]);
    assert_eq!(numbers(of_rule(&plan, "old")), [3, 3, 3, 0, 0, 0], "{plan}");
    assert_eq!(numbers(of_rule(&house.plan("app", &[]), "old"))[..3], [23, 3, 3]);
    let future = house.place.run(&["replay", "app", "--dry-run", "--restored-to", "2999-01-01"]);
    assert!(!future.status.success());
    let replayed = house.replay("app", &["--restored-to", &since]);
    assert_eq!((&replayed["records"], &replayed["released"]), (&3.into(), &true.into()));
}

/// What nobody noticed may be replayed as well.
#[tokio::test]
async fn a_restore_that_was_not_noticed_is_replayed() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    house.save().await;
    house.takes("old", 20);
    house.restore().await;
    let replayed = house.replay("app", &[]);
    assert_eq!((&replayed["records"], &replayed["released"]), (&20.into(), &true.into()));
    assert_eq!(house.place.entries("restore_noticed"), 1, "somebody said so");
    assert_eq!(house.frozen().await, 0);
}

#[tokio::test]
async fn what_a_changed_rule_took_is_left_and_the_store_stays_frozen() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    house.save().await;
    house.takes("old", 20);
    house.takes("mails", 5);
    house.restore().await;
    let changed = RULES.replace("2 years", "3 years");
    for rules in [changed.as_str(), &RULES[RULES.find("[rule.mails]").unwrap()..]] {
        house.configure(rules);
        let replayed = house.replay("app", &[]);
        assert_eq!(replayed["released"], false, "{replayed}");
        let left = of_rule(&replayed["after"], "old");
        assert_eq!((&left["there"], left["left"].is_string()), (&20.into(), true), "{left}");
        assert_eq!(house.ids("accounts", "id <= 20").await.len(), 20);
        assert_eq!(house.ids("accounts", "email IS NULL").await.len(), 5, "others go on");
        house.refuses("mails", "restored");
    }
    house.configure(RULES);
    let replayed = house.replay("app", &[]);
    assert_eq!((&replayed["records"], &replayed["released"]), (&20.into(), &true.into()));
    // Gone, with nothing of it there, is in nobody's way.
    house.configure(&RULES[RULES.find("[rule.mails]").unwrap()..]);
    assert_eq!(house.replay("app", &[])["released"], true);
}

/// Whom a rule tells is nothing to what it takes.
#[tokio::test]
async fn a_rule_that_tells_others_by_now_has_not_changed() {
    let house = House::new(fresh_sqlite().await, Marker::No).await;
    house.save().await;
    house.takes("old", 20);
    house.restore().await;
    house.configure(&told());
    let replayed = house.replay("app", &[]);
    assert_eq!((&replayed["records"], &replayed["released"]), (&20.into(), &true.into()));
}
