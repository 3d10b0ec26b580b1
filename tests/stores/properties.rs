//! Whatever a table holds, what goes is what an oracle in plain Rust says should go.

use std::cell::RefCell;
use std::collections::BTreeSet;

use expunged::store::sql::{Access, Bounds};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use crate::common::*;
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

/// A record as the oracle sees it.
#[derive(Clone, Debug)]
struct Record {
    id: i64,
    start: Option<Start>,
    closed: Option<bool>,
}

/// A starting point: an instant, and how a SQLite text writes it.
#[derive(Clone, Copy, Debug)]
struct Start {
    at: Timestamp,
    form: u8,
}

/// Tokyo has had no daylight saving since 1951: the oracle need not know how an hour repeats.
const ZONE: &str = "Asia/Tokyo";

fn starts() -> impl Strategy<Value = Option<Start>> {
    let cutoff = at(CUTOFF);
    let near = -3_000i64..3_000;
    let far = -2_000_000_000i64..2_000_000_000;
    let at = prop_oneof![
        near.prop_map(move |ms| cutoff + SignedDuration::from_millis(ms)),
        far.prop_map(|seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds.abs())),
        Just(cutoff),
        Just(Timestamp::UNIX_EPOCH),
    ];
    prop::option::weighted(0.9, (at, 0u8..5).prop_map(|(at, form)| Start { at, form }))
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = (-400i64..400, starts(), any::<Option<bool>>());
    prop::collection::vec(
        record.prop_map(|(id, start, closed)| Record { id, start, closed }),
        1..60,
    )
    .prop_map(|mut records| {
        records.sort_by_key(|record| record.id);
        records.dedup_by_key(|record| record.id);
        records
    })
}

/// A literal for a starting point.
fn literal(kind: Kind, start: Option<Start>) -> String {
    let Some(Start { at, form }) = start else { return "NULL".to_owned() };
    let tokyo = TimeZone::get(ZONE).unwrap();
    let civil = tokyo.to_datetime(at).strftime("%Y-%m-%d %H:%M:%S.%3f").to_string();
    if kind != Kind::Sqlite {
        return format!("'{civil}'");
    }
    let zoned = |offset: i8| {
        let zone = TimeZone::fixed(jiff::tz::offset(offset));
        let local = zone.to_datetime(at).strftime("%Y-%m-%dT%H:%M:%S.%3f").to_string();
        let sign = if offset < 0 { '-' } else { '+' };
        format!("{local}{sign}{:02}:00", offset.unsigned_abs())
    };
    match form {
        0 => format!("'{civil}'"),
        1 => format!("'{}'", civil.replace(' ', "T")),
        2 => format!("'{}Z'", zoned(0).trim_end_matches("+00:00")),
        3 => format!("'{}'", zoned(14)),
        _ => format!("'{} '", zoned(-11)),
    }
}

fn oracle(records: &[Record], cutoff: Timestamp) -> BTreeSet<i64> {
    let earliest = jiff::civil::date(1971, 1, 1).at(0, 0, 0, 0);
    let earliest = TimeZone::get(ZONE).unwrap().to_timestamp(earliest).unwrap();
    let due = |record: &&Record| {
        record.closed == Some(true)
            && record.start.is_some_and(|start| start.at >= earliest && start.at < cutoff)
    };
    records.iter().filter(due).map(|record| record.id).collect()
}

async fn check(database: &TestDatabase, records: &[Record], off: i64, indexed: bool) {
    let column = moment_type(database);
    let rows: Vec<_> = records
        .iter()
        .map(|record| {
            let closed =
                record.closed.map_or("NULL".to_owned(), |closed| i32::from(closed).to_string());
            format!("({}, {}, {closed})", record.id, literal(database.kind, record.start))
        })
        .collect();
    let index = if indexed { "CREATE INDEX by_at ON accounts (at);" } else { "" };
    database
        .execute(&format!(
            "DROP TABLE IF EXISTS accounts;
             CREATE TABLE accounts (id bigint PRIMARY KEY, at {column}, closed integer); {index}
             INSERT INTO accounts VALUES {}",
            rows.join(", ")
        ))
        .await;
    let cutoff = at(CUTOFF) + SignedDuration::from_millis(off);
    let mut rule = rule_where(database, "accounts", "closed = 1 or closed = 2");
    crate::common::rows(&mut rule).starting_point.time_zone = TimeZone::get(ZONE).unwrap();
    let store = open(database, Access::ReadWrite);
    let mut target = store.target(&rule).await.unwrap();
    if indexed {
        pretend_large(&mut target);
    }
    let walked = walk_within(&store, &target, Bounds { cutoff, now: at(NOW) }).await;
    store.close().await;

    let expected = oracle(records, cutoff);
    let taken: BTreeSet<_> = numbers(&walked.keys).into_iter().collect();
    assert_eq!(taken, expected);
    assert_eq!(walked.survey.due, expected.len() as u64);
    let left: BTreeSet<_> = ids(database, "id", "accounts").await.into_iter().collect();
    let all: BTreeSet<_> = records.iter().map(|record| record.id).collect();
    assert_eq!(left, &all - &expected);
}

fn hold_against_the_oracle(cases: u32, database: impl Future<Output = TestDatabase>) {
    let runtime = RefCell::new(Runtime::new().unwrap());
    let database = runtime.borrow().block_on(database);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let given = (records(), -3_000i64..3_000, any::<bool>());
    TestRunner::new(config)
        .run(&given, |(records, off, indexed)| {
            runtime.borrow().block_on(check(&database, &records, off, indexed));
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_goes_is_what_should_in_sqlite() {
    hold_against_the_oracle(100, fresh_sqlite());
}

#[test]
fn what_goes_is_what_should_in_postgres() {
    hold_against_the_oracle(16, fresh_postgres());
}

#[test]
fn what_goes_is_what_should_in_mysql() {
    hold_against_the_oracle(16, fresh_mysql());
}
