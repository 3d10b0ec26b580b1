//! Every kind of key comes back as it is stored, and names exactly the records that went.

use expunged::store::sql::{Access, Interrupted, Mismatch, Resolution, SurveyDepth};
use expunged::types::{Key, KeyValue};

use crate::common::*;
use crate::support::{Kind, TestDatabase};

on_each_database! {
    every_kind_of_key_names_what_was_deleted,
    a_unique_index_over_columns_that_cannot_be_null_is_a_key,
    what_has_no_key_or_no_rows_of_its_own_is_refused,
}

fn int(number: i128) -> KeyValue {
    KeyValue::Int(number)
}

fn text(text: &str) -> KeyValue {
    KeyValue::Text(text.to_owned())
}

/// A literal for a key's value.
fn literal(database: &TestDatabase, value: &KeyValue) -> String {
    match (value, database.kind) {
        (KeyValue::Int(number), _) => number.to_string(),
        (KeyValue::Text(text), _) => quoted(database, text),
        (KeyValue::Uuid(uuid), _) => format!("'{uuid}'"),
        (KeyValue::Bytes(bytes), Kind::Postgres) => format!("'\\x{}'", hex::encode(bytes)),
        (KeyValue::Bytes(bytes), _) => format!("X'{}'", hex::encode(bytes)),
    }
}

/// Types of the key's columns, and keys of them.
fn cases(database: &TestDatabase) -> Vec<(Vec<&'static str>, Vec<Vec<KeyValue>>)> {
    let short = by_kind(database, "varchar(99)", "VARCHAR(99) COLLATE utf8mb4_bin", "TEXT");
    let uuid_type = by_kind(database, "uuid", "UUID", "TEXT");
    let bytes_type = by_kind(database, "bytea", "VARBINARY(40)", "BLOB");
    let fixed = by_kind(database, "character(9)", "CHAR(9)", "CHAR(9)");
    let day = by_kind(database, "date", "DATE", "DATE");
    let uuids = ["018f4b2a-9d3c-7c1e-8a55-000000000001", "f0000000-0000-4000-8000-00000000000f"];
    let uuid = |written: &str| match database.kind {
        Kind::Sqlite => text(written),
        _ => KeyValue::Uuid(written.parse().unwrap()),
    };
    let strange = [
        "",
        "it's",
        "\"quoted\"",
        "`back`ticks",
        "trailing  ",
        " leading",
        "ünïcödé 🦀",
        "日本語",
        "a\\b",
        "100%_",
        "new\nline",
        "'; DROP TABLE keyed; --",
        "$1",
        "?",
        ":a",
        "{a,b}",
        "NULL",
    ];
    let mut cases = vec![
        (vec!["integer"], vec![vec![int(-7)], vec![int(0)], vec![int(i32::MAX.into())]]),
        (
            vec!["bigint"],
            vec![vec![int(i64::MIN.into())], vec![int(9)], vec![int(i64::MAX.into())]],
        ),
        (vec!["smallint"], vec![vec![int(-32_768)], vec![int(10)], vec![int(9)]]),
        (vec![short], strange.iter().map(|name| vec![text(name)]).collect()),
        (vec![fixed], vec![vec![text("short")], vec![text("ninechars")]]),
        (vec![uuid_type], uuids.iter().map(|written| vec![uuid(written)]).collect()),
        (
            vec![bytes_type],
            [&b"\x00\xff\x10"[..], b"plain", b"\\x41", b"'"]
                .iter()
                .map(|bytes| vec![KeyValue::Bytes(bytes.to_vec())])
                .collect(),
        ),
        (
            vec!["bigint", short, uuid_type, bytes_type, day],
            [(1, "a", 0), (1, "b", 1), (1, "a", 1), (-2, "it's, (really)", 0)]
                .iter()
                .map(|(number, name, which)| {
                    let bytes = KeyValue::Bytes(vec![0, 255, u8::try_from(*which).unwrap()]);
                    let day = text("2020-02-29");
                    vec![int(*number), text(name), uuid(uuids[*which]), bytes, day]
                })
                .collect(),
        ),
    ];
    match database.kind {
        Kind::Postgres => {
            cases.push((vec!["numeric"], vec![vec![text("1.50")], vec![text("-3")]]));
            cases.push((vec!["boolean"], vec![vec![text("true")], vec![text("false")]]));
            cases.push((
                vec!["timestamptz"],
                vec![vec![text("2020-01-01 00:00:00.123456+00")], vec![text("infinity")]],
            ));
            cases.push((vec!["double precision"], vec![vec![text("0.1")], vec![text("1e-300")]]));
        }
        Kind::MySql => {
            cases.push((
                vec!["bigint unsigned"],
                vec![vec![int(0)], vec![int(i128::from(u64::MAX))], vec![int(1 << 63)]],
            ));
            cases.push((vec!["DATETIME(6)"], vec![vec![text("2020-01-01 00:00:00.123456")]]));
            cases.push((
                vec!["VARCHAR(9) CHARACTER SET latin1"],
                vec![vec![text("grün")], vec![text("rot")]],
            ));
            cases.push((vec!["BINARY(4)"], vec![vec![KeyValue::Bytes(vec![0, 1, 0, 0])]]));
        }
        Kind::Sqlite => {
            // A column of SQLite holds any type, whatever it is declared as.
            let any = vec![vec![int(5)], vec![text("five")], vec![KeyValue::Bytes(vec![5])]];
            cases.push((vec!["INT"], any.clone()));
            cases.push((vec!["BLOB"], any.clone()));
            cases.push((vec![""], any));
        }
    }
    cases
}

async fn every_kind_of_key_names_what_was_deleted(database: TestDatabase) {
    let store = open(&database, Access::ReadWrite);
    for (number, (types, keys)) in cases(&database).into_iter().enumerate() {
        let table = format!("keyed_{number}");
        let names: Vec<_> = (0..types.len()).map(|place| format!("k{place}")).collect();
        let columns: Vec<_> =
            names.iter().zip(&types).map(|(name, of)| format!("{name} {of} NOT NULL")).collect();
        let (columns, names) = (columns.join(", "), names.join(", "));
        let at = moment_type(&database);
        database
            .execute(&format!("CREATE TABLE {table} ({columns}, at {at}, PRIMARY KEY ({names}))"))
            .await;
        // Every second key is of a record that is not due.
        for (place, key) in keys.iter().enumerate() {
            let values: Vec<_> = key.iter().map(|value| literal(&database, value)).collect();
            let at = if place % 2 == 0 { "2020-01-01 00:00:00" } else { "2025-01-01 00:00:00" };
            let values = values.join(", ");
            database.execute(&format!("INSERT INTO {table} VALUES ({values}, '{at}')")).await;
        }
        let due: Vec<_> = keys.iter().cloned().map(Key).step_by(2).collect();

        let target = store.target(&rule(&table)).await.unwrap();
        let sample = store.sample(&target, bounds(), 100).await.unwrap();
        let walked = walk(&store, &target).await;

        assert_eq!(texts(&walked.keys), texts(&due), "{types:?}");
        assert_eq!(sorted(&walked.keys), sorted(&due), "{types:?}");
        let sampled: Vec<_> = sample.into_iter().map(|(key, _)| key).collect();
        assert_eq!(sorted(&sampled), sorted(&due), "{types:?}");
        let left = database.count(&format!("SELECT count(*) FROM {table}")).await;
        assert_eq!(left, i64::try_from(keys.len() - due.len()).unwrap(), "{types:?}");
        let old = format!("SELECT count(*) FROM {table} WHERE at < '2024-01-01'");
        assert_eq!(database.count(&old).await, 0, "{types:?}");

        // The same keys find their records again, one by one and along an index.
        for chosen in [&keys[0], keys.last().unwrap()] {
            let key = Key(chosen.clone());
            let interrupted = Interrupted {
                keys: vec![key.clone()],
                identities: Vec::new(),
                transaction_id: None,
            };
            let gone = due.contains(&key);
            let resolution = store.resolve(&target, &interrupted).await.unwrap();
            assert_eq!(resolution == Resolution::Done, gone, "{types:?}");
        }
        database.execute(&format!("UPDATE {table} SET at = '2020-01-01 00:00:00'")).await;
        database.execute(&format!("CREATE INDEX {table}_at ON {table} (at)")).await;
        let mut target = store.target(&rule(&table)).await.unwrap();
        pretend_large(&mut target);
        let rest: Vec<_> = keys.iter().cloned().map(Key).skip(1).step_by(2).collect();
        assert_eq!(sorted(&walk(&store, &target).await.keys), sorted(&rest), "{types:?}");
    }
}

fn sorted(keys: &[Key]) -> Vec<Vec<u8>> {
    let mut keys: Vec<_> = keys.iter().map(Key::encode).collect();
    keys.sort();
    keys
}

async fn a_unique_index_over_columns_that_cannot_be_null_is_a_key(database: TestDatabase) {
    let at = moment_type(&database);
    let name = by_kind(&database, "text", "varchar(99)", "text");
    database
        .execute(&format!(
            "CREATE TABLE visits (maybe integer, a integer NOT NULL, b {name} NOT NULL, at {at});
             CREATE UNIQUE INDEX by_maybe ON visits (maybe);
             CREATE INDEX by_a ON visits (a);
             CREATE UNIQUE INDEX by_a_and_b ON visits (a, b);
             INSERT INTO visits VALUES (1, 1, 'x', '2020-01-01'), (NULL, 1, 'y', '2020-01-01'),
                                       (2, 2, 'x', '2025-01-01')"
        ))
        .await;
    assert_eq!(run(&database, &rule("visits")).await, ["1, x", "1, y"]);
    assert_eq!(database.strings("SELECT b FROM visits").await, ["x"]);
}

async fn what_has_no_key_or_no_rows_of_its_own_is_refused(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE keyless (a integer, at {at});
             CREATE TABLE half_keyed (a integer, b integer NOT NULL, at {at});
             CREATE UNIQUE INDEX by_a_and_b ON half_keyed (a, b);
             CREATE TABLE keyed (id integer PRIMARY KEY, at {at});
             CREATE VIEW seen AS SELECT * FROM keyed"
        ))
        .await;
    for table in ["keyless", "half_keyed"] {
        assert_eq!(mismatches(&database, &rule(table)).await, [Mismatch::NoKey], "{table}");
    }
    assert_eq!(mismatches(&database, &rule("seen")).await, [Mismatch::NotATable]);
    match database.kind {
        Kind::Postgres => {
            let view = "CREATE MATERIALIZED VIEW stored AS SELECT * FROM keyed";
            database.execute(view).await;
            assert_eq!(mismatches(&database, &rule("stored")).await, [Mismatch::NotATable]);
            let part = "CREATE UNIQUE INDEX ON keyless (a) WHERE a > 0;
                        ALTER TABLE keyless ALTER a SET NOT NULL";
            database.execute(part).await;
            assert_eq!(mismatches(&database, &rule("keyless")).await, [Mismatch::NoKey]);
        }
        Kind::MySql => {
            // They cannot undo a batch.
            for engine in ["MyISAM", "Aria", "MEMORY"] {
                database
                    .execute(&format!(
                        "CREATE TABLE of_{engine} (id integer PRIMARY KEY, at {at}) ENGINE={engine}"
                    ))
                    .await;
                let refused = mismatches(&database, &rule(&format!("of_{engine}"))).await;
                assert_eq!(refused, [Mismatch::NotATable], "{engine}");
            }
            let prefix = "CREATE TABLE prefixed (a varchar(99) NOT NULL, at DATETIME);
                          CREATE UNIQUE INDEX by_a ON prefixed (a(3))";
            database.execute(prefix).await;
            assert_eq!(mismatches(&database, &rule("prefixed")).await, [Mismatch::NoKey]);
        }
        Kind::Sqlite => {
            database.execute("CREATE VIRTUAL TABLE words USING fts5 (at)").await;
            assert_eq!(mismatches(&database, &rule("words")).await, [Mismatch::NotATable]);
        }
    }
}

#[tokio::test]
async fn sqlite_keeps_records_whose_key_names_nobody_and_says_so() {
    let database = crate::support::fresh_sqlite().await;
    database
        .execute(
            "CREATE TABLE tokens (id TEXT PRIMARY KEY, at TEXT);
             INSERT INTO tokens VALUES ('a', '2020-01-01'), (NULL, '2020-01-01'), (NULL, '2020-01-02');
             CREATE TABLE sizes (id NUM PRIMARY KEY, at TEXT)",
        )
        .await;
    let survey = survey(&database, &rule("tokens")).await;
    assert_eq!((survey.due, survey.no_key, survey.total), (1, 2, 3));
    assert_eq!(run(&database, &rule("tokens")).await, ["a"]);
    assert_eq!(database.count("SELECT count(*) FROM tokens").await, 2);
    let refused = mismatches(&database, &rule("sizes")).await;
    assert!(matches!(refused.as_slice(), [Mismatch::KeyType { .. }]), "{refused:?}");
}

#[tokio::test]
async fn sqlite_tables_whose_columns_hide_the_rowid_are_walked_all_the_same() {
    let database = crate::support::fresh_sqlite().await;
    database
        .execute(
            "CREATE TABLE one (rowid TEXT PRIMARY KEY, at TEXT);
             CREATE TABLE three (rowid TEXT PRIMARY KEY, oid TEXT, _rowid_ TEXT, at TEXT);
             INSERT INTO one VALUES ('b', '2020-01-01'), ('a', '2020-01-01'), ('c', '2025-01-01');
             INSERT INTO three VALUES ('b', 1, 1, '2020-01-01'), ('a', 1, 1, '2020-01-01'),
                                      ('c', 1, 1, '2025-01-01')",
        )
        .await;
    for table in ["one", "three"] {
        assert_eq!(run(&database, &rule(table)).await, ["a", "b"]);
        let store = open(&database, Access::ReadOnly);
        let target = store.target(&rule(table)).await.unwrap();
        let survey = store.survey(&target, bounds(), SurveyDepth::Full).await.unwrap();
        assert_eq!((survey.due, survey.total), (0, 1));
    }
}

#[tokio::test]
async fn mysql_tables_whose_names_differ_in_case_are_two_tables() {
    let database = crate::support::fresh_mysql().await;
    database
        .execute(
            "CREATE TABLE users (id integer PRIMARY KEY, at DATETIME);
             CREATE TABLE Users (name varchar(9) PRIMARY KEY, at DATETIME);
             INSERT INTO users VALUES (1, '2020-01-01');
             INSERT INTO Users VALUES ('ann', '2020-01-01')",
        )
        .await;
    assert_eq!(run(&database, &rule("users")).await, ["1"]);
    assert_eq!(database.count("SELECT count(*) FROM Users").await, 1);
    assert_eq!(run(&database, &rule("Users")).await, ["ann"]);
}
