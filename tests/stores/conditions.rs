//! The operator's condition is part of every statement, and names may be as strange as they like.

use expunged::rule::{Condition, Dialect};
use expunged::store::sql::{Access, SurveyDepth};

use crate::common::*;
use crate::support::TestDatabase;

on_each_database! {
    a_condition_is_part_of_every_statement,
    a_condition_may_name_its_table,
    strange_names_are_only_names,
    subjects_are_counted_once,
}

async fn a_condition_is_part_of_every_statement(database: TestDatabase) {
    let column = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE accounts (id integer PRIMARY KEY, state varchar(9), at {column});
             INSERT INTO accounts VALUES
                 (1, 'closed', '2020-01-01'), (2, 'open', '2020-01-01'), (3, NULL, '2020-01-01'),
                 (4, 'closed', '2025-01-01'), (5, NULL, NULL), (6, 'closed', NULL),
                 (7, 'closed', '2030-01-01')"
        ))
        .await;
    // Without its parentheses the second half would be true of every record.
    let rule = rule_where(&database, "accounts", "state = 'closed' OR state = 'gone'");
    let survey = survey(&database, &rule).await;
    assert_eq!((survey.due, survey.excluded, survey.total), (1, 2, 7));
    assert_eq!((survey.no_start, survey.future_start), (1, 1), "only of the state that counts");
    let store = open(&database, Access::ReadOnly);
    let target = store.target(&rule).await.unwrap();
    let sample = store.sample(&target, bounds(), 10).await.unwrap();
    assert_eq!(sample.len(), 1);
    assert_eq!(sample[0].1, Some(at("2020-01-01T00:00:00Z")));
    assert_eq!(run(&database, &rule).await, ["1"]);
    assert_eq!(ids(&database, "id", "accounts").await, [2, 3, 4, 5, 6, 7]);
}

async fn a_condition_may_name_its_table(database: TestDatabase) {
    let column = moment_type(&database);
    for table in ["accounts", "dependent"] {
        let child = format!("{table}_orders");
        database
            .execute(&format!(
                "CREATE TABLE {table} (id integer PRIMARY KEY, closed integer, at {column});
                 CREATE TABLE {child} (id integer PRIMARY KEY, owner integer, \
                     FOREIGN KEY (owner) REFERENCES {table} (id) ON DELETE CASCADE);
                 INSERT INTO {table} VALUES (1, 1, '2020-01-01'), (2, 0, '2020-01-01');
                 INSERT INTO {child} VALUES (1, 1), (2, 1), (3, 2)"
            ))
            .await;
        let condition = format!(
            "{table}.closed = 1 AND EXISTS (SELECT 1 FROM {child} WHERE owner = {table}.id)"
        );
        let rule = rule_where(&database, table, &condition);
        let survey = survey(&database, &rule).await;
        assert_eq!((survey.due, survey.excluded), (1, 1));
        assert_eq!(survey.dependents.iter().map(|of| of.rows).collect::<Vec<_>>(), [2]);
        assert_eq!(run(&database, &rule).await, ["1"]);
    }
}

async fn strange_names_are_only_names(database: TestDatabase) {
    let names = by_kind(
        &database,
        ["Order Items", "select", "UPPER", "größe 🦀", "it's", "percent%s", "a?b$1"],
        // MySQL's names end at the Basic Multilingual Plane.
        ["Order Items", "select", "UPPER", "größe", "it's", "percent%s", "a?b$1"],
        ["Order Items", "select", "UPPER", "größe 🦀", "it's", "percent%s", "a?b$1"],
    );
    let q = by_kind(&database, '"', '`', '"');
    let column = moment_type(&database);
    let store = open(&database, Access::ReadWrite);
    for name in names {
        // A column's name may even hold the quotes.
        let start = format!("{name} \" ` at");
        let (start_quoted, key, state) = (
            format!("{q}{}{q}", start.replace(q, &format!("{q}{q}"))),
            format!("{q}{name} id{q}"),
            format!("{q}{name}{q}"),
        );
        let child = format!("{q}{name} children{q}");
        database
            .execute(&format!(
                "CREATE TABLE {q}{name}{q} ({key} varchar(20) PRIMARY KEY, {state} integer, \
                                            {start_quoted} {column});
                 CREATE TABLE {child} ({key} integer PRIMARY KEY, {state} varchar(20), \
                     FOREIGN KEY ({state}) REFERENCES {q}{name}{q} ({key}) ON DELETE SET NULL);
                 INSERT INTO {q}{name}{q} VALUES ('a', 1, '2020-01-01'), ('b', 0, '2020-01-01'),
                                                 ('c', 1, '2025-01-01');
                 INSERT INTO {child} VALUES (1, 'a'), (2, 'b')"
            ))
            .await;
        let mut rule = rule_where(&database, name, &format!("{state} = 1"));
        rows(&mut rule).starting_point.column = start;
        rule.subject = Some(format!("{name} id"));
        let target = store.target(&rule).await.unwrap();
        let survey = store.survey(&target, bounds(), SurveyDepth::Full).await.unwrap();
        assert_eq!((survey.due, survey.excluded, survey.subjects), (1, 1, Some(1)), "{name}");
        assert_eq!(survey.dependents.len(), 1, "{name}");
        assert_eq!(survey.dependents[0].rows, 1, "{name}");
        assert_eq!(texts(&walk(&store, &target).await.keys), ["a"], "{name}");
        let left = format!("SELECT {key} FROM {q}{name}{q} ORDER BY {key}");
        assert_eq!(database.strings(&left).await, ["b", "c"], "{name}");
    }
}

async fn subjects_are_counted_once(database: TestDatabase) {
    let column = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE visits (id integer PRIMARY KEY, person varchar(20), at {column});
             INSERT INTO visits VALUES (1, 'ann', '2020-01-01'), (2, 'ann', '2020-01-02'),
                                       (3, 'bob', '2020-01-03'), (4, NULL, '2020-01-04'),
                                       (5, 'eve', '2025-01-01')"
        ))
        .await;
    let mut rule = rule("visits");
    rule.subject = Some("person".into());
    let survey = survey(&database, &rule).await;
    assert_eq!((survey.due, survey.subjects), (4, Some(2)));
    assert_eq!(survey.oldest, Some(at("2020-01-01T00:00:00Z")));
    assert_eq!(survey.newest, Some(at("2020-01-04T00:00:00Z")));
}

#[test]
fn a_condition_takes_no_value_that_was_meant_for_another() {
    for (kind, text) in [
        (Dialect::Postgres, "id > $1"),
        (Dialect::Mysql, "id > ?"),
        (Dialect::Sqlite, "id > ?"),
        (Dialect::Sqlite, "id > ?1"),
        (Dialect::Sqlite, "id > :id"),
        (Dialect::Sqlite, "id > @id"),
        (Dialect::Sqlite, "id > $id"),
        (Dialect::Mysql, "id > 1 /*! ) OR (1 = 1 */"),
        (Dialect::Mysql, "id > 1 /*M! ) OR (1 = 1 */"),
    ] {
        assert!(Condition::parse(kind, text).is_err(), "{text}");
    }
    for (kind, text) in [
        (Dialect::Postgres, "data::jsonb ? 'closed' AND name = 'a:b@c?$1'"),
        (Dialect::Mysql, "name = 'a:b@c?$1' AND n = @@max_connections"),
        (Dialect::Sqlite, "name = 'a:b@c?$1' AND data ->> '$.closed' = 1"),
    ] {
        assert!(Condition::parse(kind, text).is_ok(), "{text}");
    }
}

#[tokio::test]
async fn in_mysql_two_bars_mean_what_the_server_says() {
    let database = crate::support::fresh_mysql().await;
    database
        .execute(
            "CREATE TABLE accounts (id integer PRIMARY KEY, a integer, b integer, at DATETIME);
             INSERT INTO accounts VALUES (1, 1, 0, '2020-01-01'), (2, 0, 1, '2020-01-01'),
                                         (3, 0, 0, '2020-01-01')",
        )
        .await;
    let rule = rule_where(&database, "accounts", "a || b");
    assert_eq!(run(&database, &rule).await, ["1", "2"]);
}
