//! Rows of other tables that go with a rule's records: what `check` says of them, and what a saved plan does.

use expunged::audit::Event;
use expunged::check::{self, Severity};
use expunged::clock;
use expunged::plan::DependentRows;
use expunged::run::RunState;

use crate::house::{House, RULES};
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

/// What goes with the records of the rule `inactive`.
const WITH: &str = r#"[rule.inactive]
with = ["logins", { table = "sessions", column = "account", references = "id" }]
"#;
const VAIN: &str = r#"
[rule.vain]
store = "app"
table = "accounts"
starting_point = "last_seen_at"
retention = "2 years"
action = "delete"
with = ["nowhere"]
"#;

/// Three logins and one session of each of the first 500 accounts, and an order of one.
async fn house(store: TestDatabase) -> House {
    let rules = RULES.replace("[rule.inactive]\n", WITH) + VAIN;
    let house = House::with(store, false, &rules).await;
    house
        .store
        .execute(
            "CREATE TABLE logins (id integer PRIMARY KEY, account integer, \
                 FOREIGN KEY (account) REFERENCES accounts (id));
             CREATE TABLE sessions (id integer PRIMARY KEY, account integer);
             CREATE TABLE orders (id integer PRIMARY KEY, account integer, \
                 FOREIGN KEY (account) REFERENCES accounts (id));
             INSERT INTO sessions SELECT id, id FROM accounts WHERE id <= 500;
             INSERT INTO logins SELECT 3 * id, id FROM accounts WHERE id <= 500;
             INSERT INTO logins SELECT 3 * id + 1, id FROM accounts WHERE id <= 500;
             INSERT INTO logins SELECT 3 * id + 2, id FROM accounts WHERE id <= 500",
        )
        .await;
    house
}

async fn check_says_what_goes_along_and_what_it_costs(store: TestDatabase) {
    let house = house(store).await;
    let kind = house.store.kind;
    let report = check::check(house.rule("inactive"), &house.runner.stores, clock::now()).await;
    let found: Vec<String> = report
        .findings
        .iter()
        .filter(|finding| ["with", "foreign key"].contains(&finding.topic))
        .map(|finding| {
            let help = finding.help.as_deref().unwrap_or_default();
            format!("{:?}: {} [{help}]", finding.severity, finding.message)
        })
        .collect();
    let has = |parts: &[&str]| {
        let fits = |text: &&String| parts.iter().all(|part| text.contains(part));
        assert!(found.iter().any(|text| fits(&text)), "{parts:?} in {found:#?}");
    };
    has(&["Fine", "deletes the rows of logins that point at it (account), by `with`"]);
    has(&["Fine", "deletes the rows of sessions whose account is its id, by `with`"]);
    has(&["Warning", "cannot be deleted while rows of orders", "`with = [\"orders\"]`"]);
    has(&["Warning", "account of sessions: each batch reads all of its rows", "CREATE INDEX"]);
    if kind != Kind::MySql {
        // InnoDB indexes each foreign key by itself. SQLite counts, PostgreSQL has not looked yet.
        has(&[
            "account of logins: each record that goes reads",
            "about 1500",
            "kB",
            "CREATE INDEX",
        ]);
    }
    let report = check::check(house.rule("vain"), &house.runner.stores, clock::now()).await;
    assert_eq!(report.severity(), Severity::Error);
    let said = format!("{:?}", report.findings);
    assert!(said.contains("`with` names the table `nowhere`: there is none"), "{said}");
    let refused = house.ask("vain").await;
    assert_eq!(refused.state, RunState::Refused, "{:?}", refused.error);
}

async fn a_saved_plan_takes_rows_along(store: TestDatabase) {
    let house = house(store).await;
    let plan = house.save("inactive", "10 %").await;
    let applied = house.apply(&plan).await.unwrap();
    assert_eq!((applied.state, applied.records), (RunState::Done, 490), "{:?}", applied.error);
    let row = |table: &str, records| DependentRows { table: table.into(), records, changed: 0 };
    assert_eq!(applied.dependents, [row("logins", 1470), row("sessions", 490)]);
    let mut logged = Vec::new();
    for event in house.events("batch_done").await {
        let Event::BatchDone { dependents, .. } = event else { continue };
        DependentRows::add(&mut logged, &dependents);
    }
    assert_eq!(logged, applied.dependents);
    assert_eq!(house.store.count("SELECT count(*) FROM logins").await, 30);
    house.assert_log_is_sound().await;
}

async fn what_refuses_says_what_to_add(store: TestDatabase) {
    let house = house(store).await;
    house.store.execute("INSERT INTO orders VALUES (1, 12)").await;
    let failed = house.run("inactive").await;
    assert_eq!(failed.state, RunState::Failed);
    let error = failed.error.unwrap();
    assert!(error.contains("`with = [\"") && error.contains("orders\"]`"), "{error}");
}

macro_rules! on_each {
    ($($name:ident)+) => { $(
        mod $name {
            use super::*;
            #[tokio::test]
            async fn on_postgres() {
                super::$name(fresh_postgres().await).await;
            }
            #[tokio::test]
            async fn on_mysql() {
                super::$name(fresh_mysql().await).await;
            }
            #[tokio::test]
            async fn on_sqlite() {
                super::$name(fresh_sqlite().await).await;
            }
        }
    )+ };
}

on_each! {
    check_says_what_goes_along_and_what_it_costs
    a_saved_plan_takes_rows_along
    what_refuses_says_what_to_add
}
