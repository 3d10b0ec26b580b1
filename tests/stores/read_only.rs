//! A store that was opened for reading cannot write: the database itself refuses.

use expunged::anonymize::Strategy;
use expunged::store::sql::{Access, SurveyDepth};
use expunged::store::{Store, StoreError};

use crate::common::*;
use crate::support::{Kind, TestDatabase};

on_each_database! {
    a_store_opened_for_reading_cannot_write,
    a_survey_cannot_write_even_through_a_condition,
}

async fn people(database: &TestDatabase) {
    let at = moment_type(database);
    database
        .execute(&format!(
            "CREATE TABLE people (id integer PRIMARY KEY, email varchar(99), done {at}, at {at});
             INSERT INTO people VALUES (1, 'ann@example.com', NULL, '2020-01-01')"
        ))
        .await;
}

async fn refused(store: &Store, rule: &expunged::rule::Rule) -> StoreError {
    let target = store.target(rule).await.unwrap();
    let mut walk = store.walk(&target, bounds(), 1, 1).unwrap();
    let mut pace = walk.pace();
    let taken = store.take(&target, bounds(), &mut walk, &mut pace, &replace).await;
    taken.err().expect("the database must refuse")
}

async fn a_store_opened_for_reading_cannot_write(database: TestDatabase) {
    people(&database).await;
    let store = open(&database, Access::ReadOnly);
    let words = by_kind(&database, "read-only transaction", "READ ONLY transaction", "readonly");
    let rules = [
        rule("people"),
        anonymizing("people", &[("email", Strategy::Null)], None),
        anonymizing("people", &[("email", Strategy::Hmac)], Some("done")),
    ];
    for rule in rules {
        let error = refused(&store, &rule).await;
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.is_transient(), "{error}");
        let target = store.target(&rule).await.unwrap();
        let survey = store.survey(&target, bounds(), SurveyDepth::Full).await.unwrap();
        assert_eq!((survey.due, survey.total), (1, 1));
    }
    assert_eq!(database.strings("SELECT email FROM people").await, ["ann@example.com"]);
    store.close().await;

    if database.kind != Kind::Sqlite {
        let url = database.restricted_user(&["SELECT ON people"]).await;
        let error = refused(&open_as(&database, &url, Access::ReadWrite), &rule("people")).await;
        let denied = by_kind(&database, "permission denied", "DELETE command denied", "");
        assert!(error.to_string().contains(denied), "{error}");
        assert_eq!(database.count("SELECT count(*) FROM people").await, 1);
    }
}

async fn a_survey_cannot_write_even_through_a_condition(database: TestDatabase) {
    people(&database).await;
    let (prepare, condition, words) = by_kind(
        &database,
        ("CREATE SEQUENCE looks", "nextval('looks') > 0", "read-only transaction"),
        (
            "CREATE TABLE looks (n integer);
             CREATE FUNCTION looked() RETURNS integer MODIFIES SQL DATA \
                 BEGIN INSERT INTO looks VALUES (1); RETURN 1; END",
            "looked() = 1",
            "READ ONLY transaction",
        ),
        // SQLite has no expression that writes to a file.
        ("SELECT 1", "nothing_of_the_kind() = 1", "no such function"),
    );
    database.execute(prepare).await;
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let store = open(&database, access);
        let rule = rule_where(&database, "people", condition);
        let target = store.target(&rule).await.unwrap();
        let survey = store.survey(&target, bounds(), SurveyDepth::Full).await;
        let error = survey.expect_err("the condition writes");
        assert!(error.to_string().contains(words), "{access:?}: {error}");
    }
    if database.kind == Kind::MySql {
        assert_eq!(database.count("SELECT count(*) FROM looks").await, 0);
    }
}
