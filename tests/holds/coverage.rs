//! What each scope covers, for deletions and anonymizations, and for each type of subject column.

use expunged::hold::{Range, Records, Scope, Terms};
use expunged::rule::StoreKind;
use expunged::run::RunState;

use crate::house::{House, kind, moment, on_each_database, persons, rule, set, terms};
use crate::support::{Kind, TestDatabase};

const OLD: &str = "'2020-06-15 12:00:00'";

on_each_database! {
    persons_by_number,
    persons_by_text,
    persons_by_uuid,
    persons_by_bytes,
    nobody_is_sure_to_be_named_in_other_types,
    a_table_with_a_predicate_and_what_it_does_not_know,
    a_rule_and_a_store_and_dates,
    anonymizing_leaves_the_held_alone,
    a_rule_to_which_holds_do_not_apply,
    a_predicate_that_means_nothing_is_refused,
    what_covers_much_needs_a_reason,
    overlapping_holds_end_one_by_one,
}

/// Twelve old records and one fresh; `who` is of the given type.
async fn house(store: TestDatabase, who: &str, people: &[&str]) -> House {
    let at = moment(&store);
    let mut sql = format!(
        "CREATE TABLE accounts (id integer PRIMARY KEY, who {who}, state varchar(9), at {at});"
    );
    for (place, person) in people.iter().enumerate() {
        let id = place + 1;
        sql.push_str(&format!("INSERT INTO accounts VALUES ({id}, {person}, NULL, {OLD});"));
    }
    House::new(store, &sql, &rule("old", "accounts", "subject = \"who\"")).await
}

/// Holds persons, and gives the ids that the rule then leaves.
async fn left(house: &House, held: &[&str]) -> std::collections::BTreeSet<String> {
    house.place(persons(held)).await;
    let planned = house.due_and_held("old").await;
    let before = house.ids("accounts").await.len() as u64;
    let result = house.run("old").await;
    assert_eq!((result.state, result.remaining), (RunState::Done, Some(0)), "{:?}", result.error);
    let left = house.ids("accounts").await;
    assert_eq!(planned, (before - left.len() as u64, left.len() as u64), "the plan told the truth");
    assert_eq!(result.records, planned.0);
    left
}

async fn persons_by_number(store: TestDatabase) {
    let people = ["1", "2", "3", "-4", "9007199254740993", "NULL", "7", "2"];
    let house = house(store, "bigint", &people).await;
    let held =
        ["2", "-4", "007", "9007199254740993", "no number", "1e0", "99999999999999999999", ""];
    // SQLite calls 1.0 and 1 equal, so there `1e0` is 1.
    let expected: &[&str] = match house.store.kind {
        Kind::Sqlite => &["1", "2", "4", "5", "7", "8"],
        _ => &["2", "4", "5", "7", "8"],
    };
    assert_eq!(left(&house, &held).await, set(expected));
}

async fn persons_by_text(store: TestDatabase) {
    let people = [
        "'ann'",
        "'42'",
        "'o''hara'",
        "''",
        "NULL",
        "'8c9b6f0e-6f0b-4c3f-9d3c-0d8a0f6f2a11'",
        "'zoe'",
    ];
    let house = house(store, "varchar(40)", &people).await;
    let held = ["ann", "42", "o'hara", "8C9B6F0E-6F0B-4C3F-9D3C-0D8A0F6F2A11", "bob\\", "\"; --"];
    assert_eq!(left(&house, &held).await, set(&["1", "2", "3", "6"]));
}

async fn persons_by_uuid(store: TestDatabase) {
    let [ann, bob] =
        ["'8c9b6f0e-6f0b-4c3f-9d3c-0d8a0f6f2a11'", "'0b8e1a52-7a9e-4e0e-8f51-3c7c1f0f8d22'"];
    let who = if store.kind == Kind::Sqlite { "text" } else { "uuid" };
    let house = house(store, who, &[ann, bob, "NULL"]).await;
    let held = ["8C9B6F0E6F0B4C3F9D3C0D8A0F6F2A11", "42", "nobody"];
    assert_eq!(left(&house, &held).await, set(&["1"]));
}

async fn persons_by_bytes(store: TestDatabase) {
    let bytes = |hex: &str| match store.kind {
        Kind::Postgres => format!("'\\x{hex}'"),
        _ => format!("x'{hex}'"),
    };
    let uuid = "8c9b6f0e6f0b4c3f9d3c0d8a0f6f2a11";
    let people = [bytes(uuid), bytes("616e6e"), bytes("ff00"), bytes("01")];
    let people: Vec<_> = people.iter().map(String::as_str).collect();
    let who = match store.kind {
        Kind::Postgres => "bytea",
        Kind::MySql => "varbinary(16)",
        Kind::Sqlite => "blob",
    };
    let house = house(store, who, &people).await;
    let held = ["8c9b6f0e-6f0b-4c3f-9d3c-0d8a0f6f2a11", "ann", "0xff00"];
    assert_eq!(left(&house, &held).await, set(&["1", "2", "3"]));
}

async fn nobody_is_sure_to_be_named_in_other_types(store: TestDatabase) {
    let who = match store.kind {
        Kind::Postgres => "inet",
        Kind::MySql => "inet6",
        // Any column holds any type there: a number beside texts.
        Kind::Sqlite => "blob",
    };
    let sqlite = store.kind == Kind::Sqlite;
    let people = if sqlite { ["42", "'42'", "NULL"] } else { ["'::1'", "'::2'", "NULL"] };
    let house = house(store, who, &people).await;
    let held = if sqlite { ["42"] } else { ["::1"] };
    assert_eq!(left(&house, &held).await, set(&["1", "2"]));
}

#[tokio::test]
async fn a_store_that_takes_texts_for_equal_holds_them_alike() {
    let house_of = async |store, who: &str, people: &[&str]| house(store, who, people).await;
    let postgres = crate::support::fresh_postgres().await;
    postgres
        .execute("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)")
        .await;
    let people = ["'ann'", "'ANN'", "'bob'"];
    let house = house_of(postgres, "text COLLATE loose", &people).await;
    assert_eq!(left(&house, &["Ann"]).await, set(&["1", "2"]));

    let house = house_of(crate::support::fresh_postgres().await, "char(6)", &people).await;
    assert_eq!(left(&house, &["ann"]).await, set(&["1"]), "padded as the column pads");

    let house = house_of(crate::support::fresh_mysql().await, "varchar(9)", &people).await;
    assert_eq!(left(&house, &["Ann"]).await, set(&["1", "2"]));

    let sqlite = crate::support::fresh_sqlite().await;
    let house = house_of(sqlite, "text COLLATE NOCASE", &people).await;
    assert_eq!(left(&house, &["Ann"]).await, set(&["1", "2"]));
}

async fn a_table_with_a_predicate_and_what_it_does_not_know(store: TestDatabase) {
    let house = house(store, "bigint", &["1", "2", "3", "4"]).await;
    house.store.execute("UPDATE accounts SET state = 'open' WHERE id = 1").await;
    house.store.execute("UPDATE accounts SET state = 'shut' WHERE id >= 3").await;
    house.place(terms(house.table("accounts", Some("state = 'open'")))).await;
    assert_eq!(house.due_and_held("old").await, (2, 2));
    assert_eq!(house.run("old").await.records, 2);
    assert_eq!(house.ids("accounts").await, set(&["1", "2"]), "NULL is not known, so it is held");

    // Another table's hold, and another store's, say nothing here.
    assert_eq!(house.due_and_held("old").await, (0, 2));
}

async fn a_rule_and_a_store_and_dates(store: TestDatabase) {
    let house = house(store, "bigint", &["1", "2", "3", "4"]).await;
    house.store.execute("UPDATE accounts SET at = '2021-03-01 00:30:00' WHERE id = 4").await;
    let records = Records {
        store: "app".parse().unwrap(),
        kind: StoreKind::Sql(kind(&house.store)),
        table: "accounts".parse().unwrap(),
        predicate: None,
        paths: Vec::new(),
    };
    let range = |from: &str, to: &str| Range {
        from: Some(from.parse().unwrap()),
        to: Some(to.parse().unwrap()),
    };
    let rule = Scope::Rule { name: "old".parse().unwrap(), records };
    let dated = Terms { range: range("2021-01-01", "2021-12-31"), ..terms(rule.clone()) };
    let first = house.place(dated).await;
    assert_eq!(house.due_and_held("old").await, (3, 1));
    // The day before might be the same day elsewhere.
    let near = Terms { range: range("2021-02-01", "2021-02-28"), ..persons(&["4"]) };
    let far = Terms { range: range("2021-01-01", "2021-02-26"), ..persons(&["4"]) };
    house.release(&first).await;
    let far = house.place(far).await;
    assert_eq!(house.due_and_held("old").await, (4, 0));
    let near = house.place(near).await;
    assert_eq!(house.due_and_held("old").await, (3, 1));
    house.release(&near).await;
    house.release(&far).await;

    let whole = house.place(terms(rule)).await;
    assert_eq!(house.due_and_held("old").await, (0, 4));
    house.release(&whole).await;
    house.place(terms(Scope::Store("app".parse().unwrap()))).await;
    assert_eq!(house.run("old").await.state, RunState::Done);
    assert_eq!(house.ids("accounts").await.len(), 4);
}

async fn anonymizing_leaves_the_held_alone(store: TestDatabase) {
    let at = moment(&store);
    let mut sql = format!(
        "CREATE TABLE accounts (id integer PRIMARY KEY, who bigint, email varchar(99), name varchar(99), at {at}, gone_at {at});"
    );
    for id in 1..=6 {
        sql.push_str(&format!(
            "INSERT INTO accounts VALUES ({id}, {id}, 'p{id}@example.org', 'P', {OLD}, NULL);"
        ));
    }
    // One strategy is the database's own work, the other's values are computed here.
    for (name, columns) in [("by-store", "name = \"null\""), ("here", "email = \"hmac\"")] {
        let text = format!(
            "subject = \"who\"\naction = \"anonymize\"\nmarker = \"gone_at\"\n[rule.{name}.columns]\n{columns}"
        );
        let fresh = match store.kind {
            Kind::Postgres => crate::support::fresh_postgres().await,
            Kind::MySql => crate::support::fresh_mysql().await,
            Kind::Sqlite => crate::support::fresh_sqlite().await,
        };
        let house = House::new(fresh, &sql, &rule(name, "accounts", &text)).await;
        house.place(persons(&["2", "5"])).await;
        assert_eq!(house.due_and_held(name).await, (4, 2));
        assert_eq!(house.run(name).await.records, 4);
        let same = "SELECT count(*) FROM accounts WHERE gone_at IS NULL AND name = 'P' AND email LIKE 'p%@%'";
        assert_eq!(house.store.count(same).await, 2);
        assert_eq!(house.due_and_held(name).await, (0, 2));
    }
}

async fn a_rule_to_which_holds_do_not_apply(store: TestDatabase) {
    let at = moment(&store);
    let sql = format!(
        "CREATE TABLE photos (id integer PRIMARY KEY, who bigint, at {at});
         INSERT INTO photos VALUES (1, 1, {OLD}), (2, 2, {OLD})"
    );
    let rules = rule(
        "photos",
        "photos",
        "subject = \"who\"\nholds = \"not applicable\"\nholds_reason = \"biometric data goes at once\"",
    );
    let house = House::new(store, &sql, &rules).await;
    let hold = house.place(persons(&["1"])).await;
    let coverage = serde_json::to_value(house.runner.coverage(&hold).await).unwrap();
    assert_eq!(coverage[0]["extent"], "not_applicable", "{coverage}");
    assert_eq!(coverage[0]["reason"], "biometric data goes at once");
    assert_eq!(house.due_and_held("photos").await, (2, 0));
    assert_eq!(house.run("photos").await.records, 2);
}

async fn a_predicate_that_means_nothing_is_refused(store: TestDatabase) {
    let house = house(store, "bigint", &["1"]).await;
    for scope in [house.table("accounts", Some("stat = 1")), house.table("account", Some("id = 1"))]
    {
        let error = house.try_place(terms(scope)).await.unwrap_err().to_string();
        assert!(error.contains("would keep nothing"), "{error}");
    }
    assert!(house.events("hold_placed").await.is_empty());
    assert_eq!(house.runner.ledger.held().await.unwrap().0, 0);
}

async fn what_covers_much_needs_a_reason(store: TestDatabase) {
    let people: Vec<_> = (1..=12).map(|id| id.to_string()).collect();
    let people: Vec<_> = people.iter().map(String::as_str).collect();
    let house = house(store, "bigint", &people).await;
    let refused = async |scope| {
        let narrow = Terms { broad: None, ..terms(scope) };
        house.try_place(narrow).await.err().map(|error| error.to_string())
    };
    let error = refused(house.table("accounts", Some("id <= 2"))).await.unwrap();
    assert!(error.contains("2 of the 12 records of accounts, more than 10 %"), "{error}");
    assert!(refused(house.table("accounts", None)).await.unwrap().contains("whole table"));
    assert!(refused(Scope::Store("app".parse().unwrap())).await.unwrap().contains("whole store"));
    assert!(refused(house.table("accounts", Some("id = 2"))).await.is_none());
    house.place(terms(house.table("accounts", Some("id <= 2")))).await;
}

async fn overlapping_holds_end_one_by_one(store: TestDatabase) {
    let house = house(store, "bigint", &["1", "2", "3"]).await;
    let person = house.place(persons(&["1"])).await;
    let more = house.place(persons(&["1", "2"])).await;
    let table = house.place(terms(house.table("accounts", Some("id = 1")))).await;
    assert_eq!(house.due_and_held("old").await, (1, 2));
    house.release(&more).await;
    assert_eq!(house.due_and_held("old").await, (2, 1));
    house.release(&person).await;
    assert_eq!(house.run("old").await.records, 2);
    assert_eq!(house.ids("accounts").await, set(&["1"]), "free only when the last ends");
    house.release(&table).await;
    assert_eq!(house.run("old").await.records, 1);
    assert_eq!(house.events("hold_released").await.len(), 3);
}
