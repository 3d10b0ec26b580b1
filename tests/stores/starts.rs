//! Starting points in every form that a column can hold them: what is due goes, what is in doubt
//! stays and is counted under its reason.

use expunged::rule::{Encoding, Rule};
use expunged::store::sql::{Access, Bounds, Mismatch, SurveyDepth};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::common::*;
use crate::support::{Kind, TestDatabase};

on_each_database! {
    every_form_of_a_starting_point_is_read_with_care,
    an_hour_that_comes_twice_counts_only_once_it_is_over,
    a_cutoff_between_two_microseconds_is_not_rounded_up,
    columns_that_hold_no_moment_are_refused,
    the_next_record_to_fall_due_is_found,
}

/// What should become of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Due,
    Young,
    NoStart,
    Unreadable,
    Placeholder,
    Future,
}

use Fate::{Due, Future, NoStart, Placeholder, Unreadable, Young};

/// A column and what it holds.
struct Case {
    column: &'static str,
    encoding: Encoding,
    zone: &'static str,
    rows: Vec<(&'static str, Fate)>,
}

fn native(column: &'static str, zone: &'static str, rows: &[(&'static str, Fate)]) -> Case {
    Case { column, encoding: Encoding::Native, zone, rows: rows.to_vec() }
}

const COMMON: [(&str, Fate); 9] = [
    ("NULL", NoStart),
    ("'1970-12-31 23:59:59'", Placeholder),
    ("'1971-01-01 00:00:00'", Due),
    ("'2024-03-09 12:00:00'", Due),
    ("'2024-03-10 11:59:59'", Due),
    ("'2024-03-10 12:00:01'", Young),
    ("'2024-03-11 12:00:00'", Young),
    ("'2026-01-10 12:00:00'", Young),
    ("'2026-01-10 12:00:01'", Future),
];

fn cases(database: &TestDatabase) -> Vec<Case> {
    let common = |rows: &[(&'static str, Fate)]| [&COMMON[..], rows].concat();
    let to_the_microsecond = [
        ("'2024-03-10 11:59:59.999999'", Due),
        ("'2024-03-10 12:00:00'", Young),
        ("'2024-03-10 12:00:00.000001'", Young),
        ("'2026-01-10 12:00:00.000001'", Future),
    ];
    // Noon in UTC is one o'clock in Berlin, in winter.
    let in_berlin = [
        ("NULL", NoStart),
        ("'2024-03-10 12:59:59'", Due),
        ("'2024-03-10 13:00:00'", Young),
        ("'2026-01-10 13:00:00'", Young),
        ("'2026-01-10 13:00:01'", Future),
        ("'1970-12-31 23:59:59'", Placeholder),
        ("'1971-01-01 00:00:00'", Due),
    ];
    let days = [
        ("NULL", NoStart),
        ("'1970-12-31'", Placeholder),
        ("'1971-01-01'", Due),
        ("'2024-03-09'", Due),
        // A day is not over before its end.
        ("'2024-03-10'", Young),
        ("'2026-01-10'", Young),
        ("'2026-01-11'", Future),
    ];
    let seconds = [
        ("NULL", NoStart),
        ("0", Placeholder),
        ("-1", Placeholder),
        // The rule's earliest day began in Berlin an hour before it did in UTC.
        ("31532399", Placeholder),
        ("31532400", Due),
        ("1710071999", Due),
        ("1710072000", Young),
        ("1710072001", Young),
        ("1768046400", Young),
        ("1768046401", Future),
        // Milliseconds in a column of seconds: the year 56,155.
        ("1710071999000", Future),
    ];
    let narrow = [("0", Placeholder), ("1710071999", Due), ("1710072000", Young)];
    let milliseconds = [
        ("NULL", NoStart),
        ("0", Placeholder),
        ("1710071999999", Due),
        ("1710072000000", Young),
        ("1710072000001", Young),
        ("1768046400001", Future),
        // Seconds in a column of milliseconds: January 1970.
        ("1710071999", Placeholder),
        ("9223372036854775807", Future),
    ];
    let fractions = [("1710071999.75", Due), ("1710072000.25", Young), ("1e300", Future)];
    let counted = |column, encoding, rows: &[(&'static str, Fate)]| Case {
        column,
        encoding,
        zone: "Europe/Berlin",
        rows: rows.to_vec(),
    };
    let mut cases = vec![
        counted("bigint", Encoding::Seconds, &seconds),
        counted("integer", Encoding::Seconds, &narrow),
        counted("bigint", Encoding::Milliseconds, &milliseconds),
        counted("double precision", Encoding::Seconds, &[&seconds[..], &fractions].concat()),
        counted("numeric(20, 3)", Encoding::Milliseconds, &milliseconds[..7]),
    ];
    cases.extend(match database.kind {
        Kind::Postgres => {
            let endless = [("'-infinity'", Placeholder), ("'infinity'", Future)];
            let instants = [
                ("'2024-03-10 13:59:59+02'", Due),
                ("'2024-03-10 04:00:00-08'", Young),
                ("'0001-01-01 BC'", Placeholder),
            ];
            let rows = [&to_the_microsecond[..], &endless, &instants].concat();
            vec![
                native("timestamptz", "UTC", &common(&rows)),
                native("timestamp", "UTC", &common(&[&to_the_microsecond[..], &endless].concat())),
                native("timestamp", "Europe/Berlin", &[&in_berlin[..], &endless].concat()),
                native("timestamp(0)", "UTC", &common(&[])),
                native("date", "UTC", &[&days[..], &endless].concat()),
                native("date NOT NULL", "Europe/Berlin", &days[1..]),
                counted(
                    "double precision",
                    Encoding::Seconds,
                    &[("'NaN'", Future), ("'Infinity'", Future), ("'-Infinity'", Placeholder)],
                ),
            ]
        }
        Kind::MySql => {
            let zero = [("'0000-00-00 00:00:00'", Placeholder)];
            let precise = [&to_the_microsecond[..], &zero].concat();
            vec![
                native("TIMESTAMP(6) NULL", "UTC", &common(&precise)),
                native("TIMESTAMP NOT NULL DEFAULT 0", "UTC", &[&COMMON[1..], &zero].concat()),
                native("DATETIME(6)", "UTC", &common(&precise)),
                native("DATETIME", "Europe/Berlin", &[&in_berlin[..], &zero].concat()),
                native("DATETIME NOT NULL", "UTC", &[&COMMON[1..], &zero].concat()),
                native("DATE", "UTC", &[&days[..], &[("'0000-00-00'", Placeholder)]].concat()),
                native("DATE NOT NULL", "UTC", &[("'0000-00-00'", Placeholder), days[3], days[4]]),
                native("DATE", "UTC", &[("'2023-00-00'", Due), ("'2025-02-00'", Young)]),
                counted(
                    "BIGINT UNSIGNED",
                    Encoding::Milliseconds,
                    &[("18446744073709551615", Future), ("1710071999999", Due), ("0", Placeholder)],
                ),
            ]
        }
        Kind::Sqlite => sqlite_cases(&COMMON),
    });
    cases
}

fn sqlite_cases(common: &[(&'static str, Fate)]) -> Vec<Case> {
    let texts = [
        ("'2024-03-10T11:59:59'", Due),
        ("'2024-03-10T11:59'", Due),
        ("'2024-03-10 11:59'", Due),
        ("'2024-03-10T12:00'", Young),
        ("'2024-03-10T12:00:00.000'", Young),
        ("'2024-03-10 11:59:59.5'", Due),
        ("'2024-03-10 11:59:59.998'", Due),
        ("'2024-03-10 11:59:59.9999'", Due),
        ("'2024-03-10 12:00:00.001'", Young),
        ("'2024-03-10T11:59:59Z'", Due),
        ("'2024-03-10T12:00:00Z'", Young),
        ("'2024-03-10T11:59:59.900z'", Due),
        ("'2024-03-10T13:59:59+02:00'", Due),
        ("'2024-03-10T14:00:00+02:00'", Young),
        ("'2024-03-10 03:59:59-08:00'", Due),
        ("'2024-03-10 04:00:00 -08:00'", Young),
        ("'2024-03-11T01:59:59+14:00'", Due),
        ("'2024-03-11T02:00:00+14:00'", Young),
        ("'2024-03-09'", Due),
        ("'2024-03-10'", Young),
        ("'2026-01-10'", Young),
        ("'2026-01-11'", Future),
        ("'1970-01-01'", Placeholder),
        ("'0000-01-01'", Placeholder),
        ("'9999-12-31 23:59:59'", Future),
        ("''", Unreadable),
        ("'now'", Unreadable),
        ("'10:00'", Unreadable),
        ("'2451545'", Unreadable),
        ("'2451545.5'", Unreadable),
        ("'2023-02-31'", Unreadable),
        ("'2023-02-29 10:00:00'", Unreadable),
        ("'2023-13-01'", Unreadable),
        ("'2023-02-01 25:00:00'", Unreadable),
        ("'2023-02-01 10:61:00'", Unreadable),
        ("'2023-02-01 10'", Unreadable),
        ("'2023-02-01x'", Unreadable),
        ("'2023-02-01 10:00:00 CET'", Unreadable),
        ("'2023-02-01T10:00:00+0200'", Unreadable),
        ("'2023-02-01T10:00:00,5'", Unreadable),
        ("'2023-2-1'", Unreadable),
        ("'01.02.2023'", Unreadable),
        ("'-2023-02-01'", Unreadable),
        ("'0000-00-00'", Unreadable),
        ("' 2023-02-01'", Unreadable),
        ("2451545", Unreadable),
        ("1600000000", Unreadable),
        ("0", Unreadable),
        ("X'323032302d30312d3031'", Unreadable),
    ];
    let not_numbers = [
        ("'1600000000 or so'", Unreadable),
        ("'2020-01-01'", Unreadable),
        ("X'00'", Unreadable),
        ("''", Unreadable),
    ];
    // What names no zone is read in the rule's.
    let zoned = [
        ("NULL", NoStart),
        ("'2024-03-10 12:59:59'", Due),
        ("'2024-03-10 13:00:00'", Young),
        ("'2024-03-10T12:59:59Z'", Young),
        ("'2024-03-10T12:00:00Z  '", Young),
        ("'2024-03-10T12:00:00Z' || char(10)", Young),
        ("'2024-03-10 11:59:59 Z '", Due),
        ("'2024-03-10 13:59:59+02:00'", Due),
        ("'2024-03-10 14:00:00+02:00 '", Young),
        ("'2024-03-09'", Due),
        ("'2024-03-10'", Young),
        ("'2024-03-10T'", Young),
        ("'2024-03-09   '", Due),
    ];
    // There is no zone where the day is over sooner than in Kiribati.
    let kiribati = [("'2024-03-11 01:59:59'", Due), ("'2024-03-11 02:00:00'", Young)];
    let in_ohio = [
        ("'2024-03-10 07:59:59'", Due),
        ("'2024-03-10 08:00:00'", Young),
        ("'2024-03-10T11:59:59Z '", Due),
        ("'2024-03-10 08:00:00' || char(9)", Young),
    ];
    let mut cases: Vec<_> = ["TEXT", "DATETIME", "TIMESTAMP", "DATE", "VARCHAR(40)", ""]
        .into_iter()
        .map(|column| native(column, "UTC", &[common, &texts].concat()))
        .collect();
    cases.push(native("TEXT", "Europe/Berlin", &zoned));
    cases.push(native("TEXT", "Pacific/Kiritimati", &kiribati));
    cases.push(native("TEXT", "America/New_York", &in_ohio));
    for column in ["INTEGER", "REAL", "NUMERIC", "DATETIME", ""] {
        let rows =
            [&[("1710071999", Due), ("1710072000", Young), ("0", Placeholder)], &not_numbers[..]];
        let encoding = Encoding::Seconds;
        cases.push(Case { column, encoding, zone: "Europe/Berlin", rows: rows.concat() });
    }
    cases
}

fn rule_for(table: &str, encoding: Encoding, zone: &str) -> Rule {
    let mut rule = rule(table);
    rows(&mut rule).starting_point.encoding = encoding;
    rows(&mut rule).starting_point.time_zone = TimeZone::get(zone).unwrap();
    rule
}

async fn every_form_of_a_starting_point_is_read_with_care(database: TestDatabase) {
    let looking = open(&database, Access::ReadOnly);
    let store = open(&database, Access::ReadWrite);
    for (number, case) in cases(&database).iter().enumerate() {
        let what = format!("{} as {:?} in {}", case.column, case.encoding, case.zone);
        let table = format!("started_{number}");
        fill(&database, &table, case).await;
        let rule = rule_for(&table, case.encoding, case.zone);
        let target = looking.target(&rule).await.unwrap();

        let survey = looking.survey(&target, bounds(), SurveyDepth::Full).await.unwrap();
        let count = |wanted| case.rows.iter().filter(|(_, fate)| *fate == wanted).count() as u64;
        assert_eq!(survey.due, count(Due), "due: {what}");
        assert_eq!(survey.no_start, count(NoStart), "none: {what}");
        assert_eq!(survey.unreadable_start, count(Unreadable), "unreadable: {what}");
        assert_eq!(survey.placeholder_start, count(Placeholder), "placeholder: {what}");
        assert_eq!(survey.future_start, count(Future), "future: {what}");
        assert_eq!(survey.total, case.rows.len() as u64, "total: {what}");
        for found in [survey.oldest, survey.newest] {
            assert_eq!(found.is_some(), survey.due > 0, "{what}");
            assert!(found.is_none_or(|found| found < at(CUTOFF)), "{found:?}: {what}");
        }
        let sample = looking.sample(&target, bounds(), 100).await.unwrap();
        assert_eq!(sample.len() as u64, survey.due, "{what}");
        looking.next_start(&target, bounds()).await.unwrap();

        // The same by a walk over the whole table, and along an index.
        for indexed in [false, true] {
            let mut target = store.target(&rule).await.unwrap();
            if indexed {
                database.execute(&format!("DELETE FROM {table}")).await;
                refill(&database, &table, case).await;
                database.execute(&format!("CREATE INDEX {table}_at ON {table} (at)")).await;
                target = store.target(&rule).await.unwrap();
                pretend_large(&mut target);
            }
            let taken = numbers(&walk(&store, &target).await.keys);
            for (id, (value, fate)) in (0..).zip(&case.rows) {
                let expected = *fate == Due;
                assert_eq!(taken.contains(&id), expected, "{value} is {fate:?}: {what}");
            }
            let left = database.count(&format!("SELECT count(*) FROM {table}")).await;
            assert_eq!(left as u64, survey.total - survey.due, "{what}");
        }
    }
}

async fn fill(database: &TestDatabase, table: &str, case: &Case) {
    let column = case.column;
    database.execute(&format!("CREATE TABLE {table} (id integer PRIMARY KEY, at {column})")).await;
    refill(database, table, case).await;
}

async fn refill(database: &TestDatabase, table: &str, case: &Case) {
    let rows: Vec<_> = (0..)
        .zip(&case.rows)
        .map(|(id, (value, _)): (i32, _)| format!("({id}, {value})"))
        .collect();
    // Old applications left zero dates behind, which a strict server would not take today.
    let mode = by_kind(database, "", "SET SESSION sql_mode = '', time_zone = '+00:00';", "");
    database.execute(&format!("{mode} INSERT INTO {table} VALUES {}", rows.join(", "))).await;
}

async fn an_hour_that_comes_twice_counts_only_once_it_is_over(database: TestDatabase) {
    // In Berlin the hour from 02:00 to 03:00 came twice on 27 October 2024.
    let cases = [
        ("2024-10-27T00:30:00Z", vec![1]),
        ("2024-10-27T01:20:00Z", vec![1, 2]),
        ("2024-10-27T01:40:00Z", vec![1, 2, 3]),
        ("2024-10-27T02:10:00Z", vec![1, 2, 3, 4]),
    ];
    let column = moment_type(&database);
    for (number, (cutoff, expected)) in cases.into_iter().enumerate() {
        let table = format!("repeated_{number}");
        database
            .execute(&format!(
                "CREATE TABLE {table} (id integer PRIMARY KEY, at {column});
                 INSERT INTO {table} VALUES
                     (1, '2024-10-27 01:59:59'), (2, '2024-10-27 02:10:00'),
                     (3, '2024-10-27 02:30:00'), (4, '2024-10-27 03:00:00')"
            ))
            .await;
        let store = open(&database, Access::ReadWrite);
        let rule = rule_for(&table, Encoding::Native, "Europe/Berlin");
        let target = store.target(&rule).await.unwrap();
        let bounds = Bounds { cutoff: at(cutoff), now: at(NOW) };
        let walked = walk_within(&store, &target, bounds).await;
        assert_eq!(numbers(&walked.keys), expected, "{cutoff}");
    }
}

async fn a_cutoff_between_two_microseconds_is_not_rounded_up(database: TestDatabase) {
    let column = moment_type(&database);
    let cutoff: Timestamp = at("2024-03-10T12:00:00.123456789Z");
    database
        .execute(&format!(
            "CREATE TABLE precise (id integer PRIMARY KEY, at {column}, seconds bigint);
             INSERT INTO precise VALUES
                 (1, '2024-03-10 12:00:00.122', 1710071999),
                 (2, '2024-03-10 12:00:00.123456', 1710072000),
                 (3, '2024-03-10 12:00:00.123457', 1710072001)"
        ))
        .await;
    let store = open(&database, Access::ReadWrite);
    let bounds = Bounds { cutoff, now: at(NOW) };
    let mut rule = rule("precise");
    rows(&mut rule).starting_point.column = "seconds".into();
    rows(&mut rule).starting_point.encoding = Encoding::Seconds;
    let by_second = store.target(&rule).await.unwrap();
    let survey = store.survey(&by_second, bounds, SurveyDepth::Full).await.unwrap();
    assert_eq!(survey.due, 1, "a second that has only begun before the cutoff stays");
    rows(&mut rule).starting_point.column = "at".into();
    rows(&mut rule).starting_point.encoding = Encoding::Native;
    let target = store.target(&rule).await.unwrap();
    assert_eq!(numbers(&walk_within(&store, &target, bounds).await.keys), [1]);
}

async fn columns_that_hold_no_moment_are_refused(database: TestDatabase) {
    let column = by_kind(&database, "time", "TIME", "INTEGER");
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE odd (id integer PRIMARY KEY, at {column}, number bigint, moment {at})"
        ))
        .await;
    let refused = |column: &'static str, encoding| {
        let mut rule = rule("odd");
        rows(&mut rule).starting_point.column = column.into();
        rows(&mut rule).starting_point.encoding = encoding;
        let database = &database;
        async move { mismatches(database, &rule).await }
    };
    for column in ["at", "number"] {
        let found = refused(column, Encoding::Native).await;
        assert!(matches!(found.as_slice(), [Mismatch::StartType { .. }]), "{column}: {found:?}");
    }
    // SQLite's columns hold any type, so there a number may be in one that is called a date.
    if database.kind != Kind::Sqlite {
        let found = refused("moment", Encoding::Seconds).await;
        assert!(matches!(found.as_slice(), [Mismatch::StartType { .. }]), "{found:?}");
    }
    let found = refused("missing", Encoding::Native).await;
    let [Mismatch::NoColumn { column, columns, .. }] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((column.as_str(), columns.as_str()), ("missing", "id, at, number, moment"));
}

async fn the_next_record_to_fall_due_is_found(database: TestDatabase) {
    let (moment, day) = (moment_type(&database), by_kind(&database, "date", "DATE", "TEXT"));
    database
        .execute(&format!(
            "CREATE TABLE queue (id integer PRIMARY KEY, at {moment}, day {day}, kind integer);
             INSERT INTO queue VALUES
                 (1, '2020-01-01 00:00:00', '2020-01-01', 1),
                 (2, '2024-03-10 14:30:00', '2024-03-10', 0),
                 (3, '2024-03-12 08:00:00', '2024-03-12', 1),
                 (4, '2030-01-01 00:00:00', '2030-01-01', 1), (5, NULL, NULL, 1)"
        ))
        .await;
    let store = open(&database, Access::ReadOnly);
    let next = |condition, column: &'static str, zone| {
        let mut rule = rule_where(&database, "queue", condition);
        rows(&mut rule).starting_point.column = column.into();
        rows(&mut rule).starting_point.time_zone = TimeZone::get(zone).unwrap();
        let store = &store;
        async move {
            let target = store.target(&rule).await.unwrap();
            store.next_start(&target, bounds()).await.unwrap()
        }
    };
    assert_eq!(next("1 = 1", "at", "UTC").await, Some(at("2024-03-10T14:30:00Z")));
    assert_eq!(next("1 = 1", "at", "Europe/Berlin").await, Some(at("2024-03-10T13:30:00Z")));
    assert_eq!(next("kind = 1", "at", "UTC").await, Some(at("2024-03-12T08:00:00Z")));
    assert_eq!(next("id in (1, 5)", "at", "UTC").await, None);
    // A day counts from its end.
    assert_eq!(next("1 = 1", "day", "UTC").await, Some(at("2024-03-11T00:00:00Z")));
    assert_eq!(next("1 = 1", "day", "Europe/Berlin").await, Some(at("2024-03-10T23:00:00Z")));
}
