//! What recipients are told of records: values as they were before, as texts, however the records are taken.

use std::collections::BTreeMap;

use expunged::anonymize::Strategy;
use expunged::notice::{Per, Telling};
use expunged::rule::Rule;
use expunged::store::Store;
use expunged::store::sql::{Access, Mismatch};
use expunged::types::KeyValue;

use crate::common::*;
use crate::support::{TestDatabase, fresh_postgres};

on_each_database! {
    a_deleted_record_is_told_with_its_values,
    values_of_each_type_are_texts,
    an_anonymized_record_is_told_as_it_was,
    rows_that_are_locked_first_are_told_all_the_same,
    what_events_name_and_what_plans_name_is_told,
    rows_that_go_with_others_of_their_table_are_told_once,
    a_column_without_a_text_is_refused,
    where_nobody_is_told_nothing_is_carried,
}

/// One telling for each list of columns; each is called as it is.
fn telling(mut rule: Rule, columns: &[&[&str]]) -> Rule {
    let own = |column: &&str| ((*column).to_owned(), (*column).to_owned());
    let telling = |(place, columns): (usize, &&[&str])| Telling {
        recipient: format!("r{place}").parse().unwrap(),
        identify: columns.iter().map(own).collect(),
        per: Per::Record,
        at_once: 1,
        due_seconds: 60,
    };
    rule.tellings = columns.iter().enumerate().map(telling).collect();
    rule
}

type Told = BTreeMap<String, Vec<Option<String>>>;

/// What is told, by key, of all that a rule takes; taken in windows and committed.
async fn take(store: &Store, rule: &Rule) -> Told {
    let target = store.target(rule).await.unwrap();
    let mut walk = store.walk(&target, bounds(), 9, 9).unwrap();
    let (mut pace, mut told) = (walk.pace(), Told::new());
    while let Some(batch) =
        store.take(&target, bounds(), &mut walk, &mut pace, &replace).await.unwrap()
    {
        assert_eq!(batch.told.len(), batch.keys.len(), "one row of values for each key");
        for (key, values) in batch.keys.iter().zip(&batch.told) {
            assert!(told.insert(key.to_string(), values.clone()).is_none(), "{key} twice");
        }
        walk.advance(batch.window.as_ref(), batch.keys.len() as u64);
        batch.commit().await.unwrap();
    }
    told
}

fn texts_of(values: &[Option<&str>]) -> Vec<Option<String>> {
    values.iter().map(|value| value.map(str::to_owned)).collect()
}

/// `people` of which 1 to 3 are due.
async fn people(database: &TestDatabase) {
    let moment = moment_type(database);
    database
        .execute(&format!(
            "CREATE TABLE people (id integer PRIMARY KEY, mail varchar(99), town varchar(40), \
             done {moment}, boss integer, at {moment})"
        ))
        .await;
    database
        .execute(
            "INSERT INTO people VALUES (1, 'ann@x', 'Köln', NULL, NULL, '2020-01-01 00:00:00'), \
             (2, NULL, 'it''s', NULL, 1, '2020-01-01 00:00:00'), \
             (3, '', NULL, NULL, 1, '2020-01-01 00:00:00'), \
             (4, 'young@x', 'Rom', NULL, NULL, '2025-12-01 00:00:00')",
        )
        .await;
}

/// What `people` are told by mail, id and town.
fn all_people() -> Told {
    [
        ("1", [Some("1"), Some("ann@x"), Some("Köln")]),
        ("2", [Some("2"), None, Some("it's")]),
        ("3", [Some("3"), Some(""), None]),
    ]
    .map(|(key, values)| (key.to_owned(), texts_of(&values)))
    .into()
}

async fn a_deleted_record_is_told_with_its_values(database: TestDatabase) {
    people(&database).await;
    // Each column once, in order, whoever is told of it.
    let rule = telling(rule("people"), &[&["mail", "id"], &["town", "id"]]);
    let store = open(&database, Access::ReadWrite);
    assert_eq!(take(&store, &rule).await, all_people());
    assert_eq!(ids(&database, "id", "people").await, [4]);
    store.close().await;
}

async fn values_of_each_type_are_texts(database: TestDatabase) {
    let types: &[(&str, &str, &str)] = by_kind(
        &database,
        &[
            (
                "uuid",
                "'6f9619ff-8b86-d011-b42d-00c04fc964ff'",
                "6f9619ff-8b86-d011-b42d-00c04fc964ff",
            ),
            ("bigint", "9223372036854775807", "9223372036854775807"),
            ("numeric(30, 4)", "12345678901234567890.1200", "12345678901234567890.1200"),
            ("boolean", "true", "true"),
            ("inet", "'10.0.0.0/8'", "10.0.0.0/8"),
            ("jsonb", "'{\"a\": 1}'", "{\"a\": 1}"),
            ("text[]", "'{a,b}'", "{a,b}"),
            ("date", "'2020-02-29'", "2020-02-29"),
            ("char(5)", "'ab'", "ab"),
        ],
        &[
            ("bigint unsigned", "18446744073709551615", "18446744073709551615"),
            ("decimal(30, 4)", "12345678901234567890.1200", "12345678901234567890.1200"),
            ("enum('a', 'b')", "'b'", "b"),
            ("datetime(6)", "'2020-02-29 12:00:00.000001'", "2020-02-29 12:00:00.000001"),
            ("date", "'2020-02-29'", "2020-02-29"),
            ("varchar(9) CHARACTER SET latin1", "'Köln'", "Köln"),
            ("json", "'{\"a\": 1}'", "{\"a\": 1}"),
            ("boolean", "true", "1"),
        ],
        &[
            ("bigint", "9223372036854775807", "9223372036854775807"),
            ("real", "1.5", "1.5"),
            ("text", "x'ff00'", "0xff00"),
            ("text", "x'6162'", "ab"),
            ("boolean", "true", "1"),
            ("", "7", "7"),
        ],
    );
    let names: Vec<String> = (0..types.len()).map(|place| format!("c{place:02}")).collect();
    let pairs = names.iter().zip(types);
    let columns: Vec<_> = pairs.map(|(name, (kind, ..))| format!("{name} {kind}")).collect();
    let values: Vec<_> = types.iter().map(|(_, value, _)| *value).collect();
    let (moment, columns) = (moment_type(&database), columns.join(", "));
    database
        .execute(&format!("CREATE TABLE t (id integer PRIMARY KEY, at {moment}, {columns})"))
        .await;
    let nulls = vec!["NULL"; types.len()].join(", ");
    for (id, values) in [(1, values.join(", ")), (2, nulls)] {
        database.execute(&format!("INSERT INTO t VALUES ({id}, '2020-01-01', {values})")).await;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let store = open(&database, Access::ReadWrite);
    let told = take(&store, &telling(rule("t"), &[&names])).await;
    let expected = types.iter().map(|(.., text)| Some((*text).to_owned())).collect::<Vec<_>>();
    assert_eq!(told["1"], expected);
    assert_eq!(told["2"], vec![None; types.len()]);
    store.close().await;
}

async fn an_anonymized_record_is_told_as_it_was(database: TestDatabase) {
    let gone = || Strategy::Constant { value: "gone".into() };
    // By the database, by this process, and both.
    let ways: [&[(&str, Strategy)]; 3] = [
        &[("mail", Strategy::Null), ("town", gone())],
        &[("mail", Strategy::Hmac)],
        &[("mail", Strategy::Random), ("town", Strategy::Null)],
    ];
    let store = open(&database, Access::ReadWrite);
    for columns in ways {
        database.execute("DROP TABLE IF EXISTS people").await;
        people(&database).await;
        let rule =
            telling(anonymizing("people", columns, Some("done")), &[&["mail", "id", "town"]]);
        assert_eq!(take(&store, &rule).await, all_people());
        assert_eq!(ids(&database, "id", "people WHERE done IS NOT NULL").await, [1, 2, 3]);
        assert!(take(&store, &rule).await.is_empty(), "what it is now is told nobody");
    }
    store.close().await;
}

/// PostgreSQL gives a record back as the UPDATE has left it: what else that changes is read before.
#[tokio::test]
async fn what_changes_along_with_an_update_is_told_as_it_was() {
    let alongs = [
        "SELECT 1",
        "ALTER TABLE people DROP COLUMN town;
         ALTER TABLE people ADD COLUMN town text GENERATED ALWAYS AS (coalesce(mail, 'nowhere')) STORED",
        "CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.town := 'moved'; RETURN NEW; END $$;
         CREATE TRIGGER move BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION move()",
    ];
    let database = fresh_postgres().await;
    let store = open(&database, Access::ReadWrite);
    for along in alongs {
        database.execute("DROP TABLE IF EXISTS people CASCADE").await;
        people(&database).await;
        database.execute(along).await;
        let rule = anonymizing("people", &[("mail", Strategy::Null)], Some("done"));
        let rule = telling(rule, &[&["id", "town"]]);
        let mut expected = all_people();
        for values in expected.values_mut() {
            let mail = values.remove(1);
            if along.contains("GENERATED") {
                values[1] = Some(mail.unwrap_or_else(|| "nowhere".to_owned()));
            }
        }
        assert_eq!(take(&store, &rule).await, expected, "{along}");
    }
    store.close().await;
}

async fn rows_that_are_locked_first_are_told_all_the_same(database: TestDatabase) {
    people(&database).await;
    let mut rule = telling(rule("people"), &[&["mail", "id", "town"]]);
    rows(&mut rule).attachments = vec![expunged::rule::Attachment {
        store: "uploads".parse().unwrap(),
        path: "faces/{town}".parse().unwrap(),
    }];
    let store = open(&database, Access::ReadWrite);
    let target = store.target(&rule).await.unwrap();
    let mut walk = store.walk(&target, bounds(), 9, 9).unwrap();
    let mut pace = walk.pace();
    let mut locked = store.lock(&target, bounds(), &mut walk, &mut pace).await.unwrap().unwrap();
    assert_eq!(locked.rows()[0].carried.len(), 1, "what is told is not carried with it");
    // One is let go, and not told.
    let kept: Vec<bool> = locked.rows().iter().map(|row| row.key.0 != [KeyValue::Int(2)]).collect();
    locked.retain(|place| kept[place]);
    let batch = store.take_locked(&target, bounds(), locked, &replace).await.unwrap();
    let told: Told =
        batch.keys.iter().map(ToString::to_string).zip(batch.told.iter().cloned()).collect();
    let mut expected = all_people();
    expected.remove("2");
    assert_eq!(told, expected);
    batch.rollback().await.unwrap();
    store.close().await;
}

async fn what_events_name_and_what_plans_name_is_told(database: TestDatabase) {
    people(&database).await;
    let mut rule = telling(rule("people"), &[&["mail", "id", "town"]]);
    rows(&mut rule).matching = [("town".to_owned(), "town".to_owned())].into();
    let store = open(&database, Access::ReadWrite);
    let by_age = store.target(&rule).await.unwrap();
    let mut target = by_age.clone();
    target.set_by_event(true);
    let event = BTreeMap::from([("town".to_owned(), "Rom".to_owned())]);
    let batch = store.take_named(&target, bounds(), &[&event], &replace).await.unwrap();
    assert_eq!(batch.told, [texts_of(&[Some("4"), Some("young@x"), Some("Rom")])]);
    batch.rollback().await.unwrap();
    let upto = expunged::types::Key(vec![KeyValue::Int(1)]);
    let window = expunged::store::sql::Window::Keys { after: None, upto };
    let batch = store.take_window(&by_age, bounds(), window, &replace).await.unwrap();
    assert_eq!(batch.told, [all_people()["1"].clone()]);
    batch.rollback().await.unwrap();
    store.close().await;
}

async fn rows_that_go_with_others_of_their_table_are_told_once(database: TestDatabase) {
    let moment = moment_type(&database);
    for on_delete in ["CASCADE", "SET NULL"] {
        database.execute("DROP TABLE IF EXISTS staff").await;
        database
            .execute(&format!(
                "CREATE TABLE staff (id integer PRIMARY KEY, boss integer, at {moment}, \
                 FOREIGN KEY (boss) REFERENCES staff (id) ON DELETE {on_delete})"
            ))
            .await;
        database
            .execute(
                "INSERT INTO staff VALUES (1, NULL, '2020-01-01'), (2, 1, '2020-01-01'), \
                 (3, 2, '2020-01-01'), (4, NULL, '2025-12-01'), (5, 4, '2020-01-01')",
            )
            .await;
        let store = open(&database, Access::ReadWrite);
        let told = take(&store, &telling(rule("staff"), &[&["boss", "id"]])).await;
        let bosses = [("1", None), ("2", Some("1")), ("3", Some("2")), ("5", Some("4"))];
        let expected = bosses.map(|(id, boss)| (id.to_owned(), texts_of(&[boss, Some(id)])));
        assert_eq!(told, expected.into(), "{on_delete}");
        assert_eq!(ids(&database, "id", "staff").await, [4]);
        store.close().await;
    }
}

async fn a_column_without_a_text_is_refused(database: TestDatabase) {
    let (bytes, moment) = (by_kind(&database, "bytea", "blob", "blob"), moment_type(&database));
    database
        .execute(&format!("CREATE TABLE t (id integer PRIMARY KEY, at {moment}, face {bytes})"))
        .await;
    let found = mismatches(&database, &telling(rule("t"), &[&["face", "id"], &["mail"]])).await;
    assert!(
        matches!(
            found.as_slice(),
            [
                Mismatch::ToldType { column, .. },
                Mismatch::NoColumn { column: missing, role: "recipients", .. }
            ] if column == "face" && missing == "mail"
        ),
        "{found:?}"
    );
}

async fn where_nobody_is_told_nothing_is_carried(database: TestDatabase) {
    people(&database).await;
    let store = open(&database, Access::ReadWrite);
    for rule in [rule("people"), anonymizing("people", &[("mail", Strategy::Hmac)], Some("done"))] {
        let target = store.target(&rule).await.unwrap();
        let mut walk = store.walk(&target, bounds(), 9, 9).unwrap();
        let mut pace = walk.pace();
        let batch = store.take(&target, bounds(), &mut walk, &mut pace, &replace).await.unwrap();
        let batch = batch.expect("a window");
        assert!(!batch.keys.is_empty() && batch.told.is_empty());
        batch.rollback().await.unwrap();
    }
    store.close().await;
}
