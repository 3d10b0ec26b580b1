//! Each strategy on each database: what it makes of a value, that it does so once, and where it is
//! refused.

use expunged::anonymize::{DateUnit, FakeKind, Strategy};
use expunged::store::sql::{Access, Mismatch};

use crate::common::*;
use crate::support::{Kind, TestDatabase};

on_each_database! {
    each_strategy_changes_a_value_once,
    a_marker_is_set_once_and_tells_an_anonymized_record,
    several_columns_change_together,
    a_strategy_that_does_not_fit_is_refused,
    a_new_value_by_an_application_is_anonymized_again,
}

/// A column's type, a strategy, and what becomes of values; all as texts.
struct Case {
    column: &'static str,
    strategy: Strategy,
    values: Vec<(Option<&'static str>, Option<String>)>,
}

fn case(column: &'static str, strategy: Strategy, values: &[(&'static str, &str)]) -> Case {
    let values = values.iter().map(|(old, new)| (Some(*old), Some((*new).to_owned()))).collect();
    Case { column, strategy, values }
}

fn constant(value: &str) -> Strategy {
    Strategy::Constant { value: value.to_owned() }
}

fn partial(keep_first: u32, keep_last: u32, mask: char) -> Strategy {
    Strategy::Partial { keep_first, keep_last, mask }
}

fn year() -> Strategy {
    Strategy::TruncateDate { to: DateUnit::Year }
}

fn month() -> Strategy {
    Strategy::TruncateDate { to: DateUnit::Month }
}

fn day() -> Strategy {
    Strategy::TruncateDate { to: DateUnit::Day }
}

fn cases(database: &TestDatabase) -> Vec<Case> {
    let tens = || Strategy::GeneralizeNumber { step: 10 };
    let network = || Strategy::GeneralizeIp { ipv4_prefix: 24, ipv6_prefix: 48 };
    let mut cases = vec![
        case(
            "varchar(40)",
            constant("removed"),
            &[("ann", "removed"), ("REMOVED", "removed"), ("", "removed"), ("removed ", "removed")],
        ),
        case("varchar(40)", constant("it's größer"), &[("ann", "it's größer")]),
        case(
            "varchar(40)",
            partial(1, 2, '*'),
            &[
                ("anna@x", "a***@x"),
                ("abc", "***"),
                ("ab", "**"),
                ("", ""),
                ("ünïcödé", "ü****dé"),
                ("it's", "i*'s"),
                ("A***BC", "A***BC"),
            ],
        ),
        case("varchar(40)", partial(0, 0, '*'), &[("secret", "******"), ("é", "*")]),
        case("varchar(40)", partial(2, 0, '•'), &[("90210", "90•••")]),
        case("varchar(40)", partial(0, 4, '#'), &[("4111111111111111", "############1111")]),
        case("varchar(40)", partial(u32::MAX, u32::MAX, '*'), &[("secret", "******")]),
        case("integer", constant("0"), &[("37", "0"), ("-5", "0"), ("0", "0")]),
        case(
            "integer",
            tens(),
            &[("37", "30"), ("0", "0"), ("-3", "-10"), ("-10", "-10"), ("40", "40")],
        ),
        case(
            "bigint",
            Strategy::GeneralizeNumber { step: 1_000_000_000_000 },
            &[("1234567890123456", "1234000000000000")],
        ),
        case(
            "varchar(99)",
            Strategy::Hmac,
            &[("ann", &hex::encode(pseudonym(b"ann"))), ("", &hex::encode(pseudonym(b"")))],
        ),
        case("varchar(99)", Strategy::Random, &[("ann", &"07".repeat(16))]),
        case(
            "varchar(99)",
            Strategy::Fake { kind: FakeKind::Phone, deterministic: false },
            &[("+49 30 1234", "+1 555 0107")],
        ),
        case(
            "varchar(99)",
            Strategy::Fake { kind: FakeKind::City, deterministic: true },
            &[("Berlin", "Fairhaven")],
        ),
        case("integer", Strategy::Random, &[("5", &(0x0707_0707 % 30_000).to_string())]),
        case(
            "varchar(99)",
            network(),
            &[
                ("203.0.113.77", "203.0.113.0"),
                ("2001:db8:1:2:3::4", "2001:db8:1::"),
                ("?", "0.0.0.0"),
            ],
        ),
    ];
    for column in ["varchar(40)", "integer", "bigint", moment_type(database)] {
        let old = if column == moment_type(database) { "2020-05-17 10:11:12" } else { "5" };
        cases.push(Case { column, strategy: Strategy::Null, values: vec![(Some(old), None)] });
    }
    let uuid = "07070707-0707-4707-8707-070707070707";
    let old_uuid = "018f4b2a-9d3c-7c1e-8a55-000000000001";
    cases.extend(match database.kind {
        Kind::Postgres => vec![
            case("character(6)", partial(1, 1, '*'), &[("abcd", "a**d")]),
            case("numeric(9,2)", tens(), &[("37.50", "30.00"), ("-3.5", "-10.00")]),
            case("double precision", tens(), &[("37.5", "30"), ("-3.5", "-10")]),
            case("smallint", tens(), &[("37", "30")]),
            case("date", year(), &[("1984-05-17", "1984-01-01"), ("infinity", "infinity")]),
            case("date", month(), &[("1984-05-17", "1984-05-01")]),
            case("timestamp", month(), &[("2020-05-17 10:11:12.5", "2020-05-01 00:00:00")]),
            case("timestamptz", day(), &[("2020-05-17 01:11:12+02", "2020-05-16 00:00:00+00")]),
            case("date", constant("2000-01-01"), &[("1984-05-17", "2000-01-01")]),
            case("jsonb", constant("{}"), &[(r#"{"a": 1}"#, "{}")]),
            case("uuid", Strategy::Random, &[(old_uuid, uuid)]),
            case(
                "inet",
                network(),
                &[("203.0.113.77", "203.0.113.0/32"), ("2001:db8:1:2:3::4/64", "2001:db8:1::/128")],
            ),
        ],
        Kind::MySql => vec![
            case("CHAR(6)", partial(1, 1, '*'), &[("abcd", "a**d")]),
            case("VARCHAR(40) CHARACTER SET latin1", constant("gelöscht"), &[("grün", "gelöscht")]),
            case("VARCHAR(40) CHARACTER SET latin1", partial(1, 1, '*'), &[("ünü", "ü*ü")]),
            case("DECIMAL(9,2)", tens(), &[("37.50", "30.00"), ("-3.5", "-10.00")]),
            case("DOUBLE", tens(), &[("37.5", "30"), ("-3.5", "-10")]),
            case("INT UNSIGNED", tens(), &[("37", "30"), ("4294967295", "4294967290")]),
            case("DATE", year(), &[("1984-05-17", "1984-01-01")]),
            case("DATE", month(), &[("1984-05-17", "1984-05-01")]),
            case("DATETIME", month(), &[("2020-05-17 10:11:12", "2020-05-01 00:00:00")]),
            case("DATETIME(6)", day(), &[("2020-05-17 10:11:12.5", "2020-05-17 00:00:00.000000")]),
            case("TIMESTAMP NULL", day(), &[("2020-05-17 10:11:12", "2020-05-17 00:00:00")]),
            case("DATE", constant("2000-01-01"), &[("1984-05-17", "2000-01-01")]),
            case("ENUM('a', 'b')", constant("b"), &[("a", "b"), ("b", "b")]),
            case("UUID", Strategy::Random, &[(old_uuid, uuid)]),
            case("INET6", network(), &[("2001:db8:1:2:3::4", "2001:db8:1::")]),
            case("TEXT", constant("removed"), &[("ann", "removed")]),
        ],
        Kind::Sqlite => vec![
            case(
                "NUMERIC",
                tens(),
                &[("37.5", "30"), ("-3.5", "-10"), ("-7", "-10"), ("40", "40")],
            ),
            case("REAL", tens(), &[("37.5", "30.0"), ("-3.5", "-10.0"), ("-10", "-10.0")]),
            case("DATE", year(), &[("1984-05-17", "1984-01-01")]),
            case("DATETIME", month(), &[("2020-05-17 10:11:12.5", "2020-05-01")]),
            case("TEXT", day(), &[("2020-05-17T10:11:12Z", "2020-05-17")]),
            case("", constant("removed"), &[("ann", "removed")]),
            Case { column: "TEXT", strategy: day(), values: vec![(Some("17.05.2020"), None)] },
        ],
    });
    cases
}

async fn texts_of(database: &TestDatabase, column: &str, table: &str) -> Vec<Option<String>> {
    let text = by_kind(database, "text", "char", "text");
    let query = format!("SELECT CAST({column} AS {text}) FROM {table} ORDER BY id");
    database.nullable_strings(&query).await
}

async fn each_strategy_changes_a_value_once(database: TestDatabase) {
    let at = moment_type(&database);
    let store = open(&database, Access::ReadWrite);
    for (number, case) in cases(&database).into_iter().enumerate() {
        let table = format!("changed_{number}");
        let (column, strategy) = (case.column, &case.strategy);
        let what = format!("{} of {column}: {strategy:?}", strategy.name());
        database
            .execute(&format!(
                "CREATE TABLE {table} (id integer PRIMARY KEY, v {column}, at {at}, done {at})"
            ))
            .await;
        // A NULL, each value, and a value of a record that is not due.
        let mut rows = vec!["(0, NULL, '2020-01-01', NULL)".to_owned()];
        for (id, (old, _)) in (1..).zip(&case.values) {
            let old = quoted(&database, old.unwrap());
            rows.push(format!("({id}, {old}, '2020-01-01', NULL)"));
        }
        let young = quoted(&database, case.values[0].0.unwrap());
        rows.push(format!("(99, {young}, '2025-01-01', NULL)"));
        database.execute(&format!("INSERT INTO {table} VALUES {}", rows.join(", "))).await;
        let before = texts_of(&database, "v", &table).await;

        let marker = (!strategy.is_recognizable()).then_some("done");
        let rule = anonymizing(&table, &[("v", strategy.clone())], marker);
        let target = store.target(&rule).await.unwrap();
        let first = walk(&store, &target).await;

        // NULL says nothing about anyone; only a constant is set whatever was there.
        let null = match strategy {
            Strategy::Constant { value } => Some(value.clone()),
            _ => None,
        };
        let mut expected = vec![null];
        expected.extend(case.values.iter().map(|(_, new)| new.clone()));
        expected.push(before.last().unwrap().clone());
        assert_eq!(texts_of(&database, "v", &table).await, expected, "{what}");
        let changed = before.iter().zip(&expected).filter(|(old, new)| old != new).count();
        let due = if marker.is_some() { case.values.len() + 1 } else { changed };
        assert_eq!(first.keys.len(), due, "{what}");

        let second = walk(&store, &target).await;
        assert_eq!(second.keys.len(), 0, "{what}: again");
        assert_eq!(texts_of(&database, "v", &table).await, expected, "{what}: again");
        let survey = survey(&database, &rule).await;
        assert_eq!((survey.due, survey.anonymized), (0, case.values.len() as u64 + 1), "{what}");
    }
}

async fn a_marker_is_set_once_and_tells_an_anonymized_record(database: TestDatabase) {
    let at = moment_type(&database);
    let instant = by_kind(&database, "timestamptz", "TIMESTAMP NULL", "TEXT");
    let day = by_kind(&database, "date", "DATE", "DATE");
    for (number, marker) in [at, instant, day].into_iter().enumerate() {
        let table = format!("marked_{number}");
        database
            .execute(&format!(
                "CREATE TABLE {table} (id integer PRIMARY KEY, email varchar(99), at {at}, \
                                       done {marker} DEFAULT NULL);
                 INSERT INTO {table} VALUES (1, 'ann', '2020-01-01', NULL), (2, NULL, '2020-01-01', NULL),
                                            (3, 'bob', '2020-01-01', '2021-02-03')"
            ))
            .await;
        let rule = anonymizing(&table, &[("email", Strategy::Hmac)], Some("done"));
        assert_eq!(run(&database, &rule).await, ["1", "2"]);
        assert_eq!(run(&database, &rule).await, Vec::<String>::new());
        let done = texts_of(&database, "done", &table).await;
        for (record, day) in [(0, "2026-01-10"), (1, "2026-01-10"), (2, "2021-02-03")] {
            assert!(done[record].as_ref().unwrap().starts_with(day), "{marker}: {done:?}");
        }
        let emails = texts_of(&database, "email", &table).await;
        let hidden = Some(hex::encode(pseudonym(b"ann")));
        assert_eq!(emails, [hidden, None, Some("bob".into())], "{marker}");
    }
}

async fn several_columns_change_together(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE people (id integer PRIMARY KEY, name varchar(40), email varchar(99), \
                                  age integer, done {at}, at {at});
             INSERT INTO people VALUES (1, 'Ann', 'ann@example.com', 37, NULL, '2020-01-01'),
                                       (2, 'Bob', 'bob@example.com', 40, NULL, '2020-01-01'),
                                       (3, 'Eve', 'eve@example.com', 52, NULL, '2025-01-01')"
        ))
        .await;
    let plain = [("name", partial(1, 0, '*')), ("age", Strategy::GeneralizeNumber { step: 10 })];
    assert_eq!(run(&database, &anonymizing("people", &plain, None)).await, ["1", "2"]);
    assert_eq!(run(&database, &anonymizing("people", &plain, None)).await, Vec::<String>::new());
    let email = Strategy::Fake { kind: FakeKind::Email, deterministic: true };
    let all = [&plain[..], &[("email", email)]].concat();
    let rule = anonymizing("people", &all, Some("done"));
    assert_eq!(run(&database, &rule).await, ["1", "2"]);
    let names = texts_of(&database, "name", "people").await;
    assert_eq!(names, ["A**", "B**", "Eve"].map(|name| Some(name.to_owned())));
    let ages = texts_of(&database, "age", "people").await;
    assert_eq!(ages, ["30", "40", "52"].map(|age| Some(age.to_owned())));
    let emails = texts_of(&database, "email", "people").await;
    assert!(emails[0].as_ref().unwrap().ends_with("@example.invalid"), "{emails:?}");
    assert_eq!(emails[2].as_deref(), Some("eve@example.com"));
}

async fn a_new_value_by_an_application_is_anonymized_again(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE people (id integer PRIMARY KEY, name varchar(40), at {at});
             INSERT INTO people VALUES (1, 'Ann', '2020-01-01'), (2, 'Bob', '2020-01-01')"
        ))
        .await;
    let rule = anonymizing("people", &[("name", constant("gone"))], None);
    assert_eq!(run(&database, &rule).await, ["1", "2"]);
    database.execute("UPDATE people SET name = 'GONE' WHERE id = 2").await;
    assert_eq!(run(&database, &rule).await, ["2"]);
}

async fn a_strategy_that_does_not_fit_is_refused(database: TestDatabase) {
    let at = moment_type(&database);
    let data = by_kind(&database, "bytea", "BLOB", "BLOB");
    database
        .execute(&format!(
            "CREATE TABLE people (id integer PRIMARY KEY, name varchar(40) NOT NULL, n integer, \
                                  data {data}, done {at} NOT NULL, at {at})"
        ))
        .await;
    let refused = |column: &'static str, strategy: Strategy, marker| {
        let rule = anonymizing("people", &[(column, strategy)], marker);
        let database = &database;
        async move { mismatches(database, &rule).await }
    };
    let fake = Strategy::Fake { kind: FakeKind::Name, deterministic: false };
    for (column, strategy, marker) in [
        ("name", Strategy::Null, None),
        ("n", partial(1, 1, '*'), None),
        ("n", year(), None),
        ("name", Strategy::GeneralizeNumber { step: 10 }, None),
        ("data", Strategy::GeneralizeNumber { step: 10 }, None),
        ("n", Strategy::Hmac, Some("at")),
        ("n", fake, Some("at")),
        ("data", Strategy::Random, Some("at")),
        ("n", Strategy::GeneralizeIp { ipv4_prefix: 24, ipv6_prefix: 48 }, Some("at")),
    ] {
        let found = refused(column, strategy.clone(), marker).await;
        let [Mismatch::Strategy { column: at_fault, .. }] = found.as_slice() else {
            panic!("{column}, {strategy:?}: {found:?}")
        };
        assert_eq!(at_fault, column);
    }
    let found = refused("id", constant("5"), None).await;
    assert_eq!(found, [Mismatch::KeyChanges("id".into())]);
    for marker in ["done", "n", "data"] {
        let found = refused("name", Strategy::Hmac, Some(marker)).await;
        assert!(matches!(found.as_slice(), [Mismatch::Marker { .. }]), "{marker}: {found:?}");
    }
    let found = refused("missing", Strategy::Null, None).await;
    assert!(matches!(found.as_slice(), [Mismatch::NoColumn { .. }]), "{found:?}");
}
