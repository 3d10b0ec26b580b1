//! A rule in a line, a walk in a line, and sessions that get in its way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use expunged::anonymize::{Anonymization, Strategy, Wanted, replacement};
use expunged::breaker::Limits;
use expunged::pace::Pacing;
use expunged::plan::Survey;
use expunged::rule::{
    Action, Condition, Dialect, Encoding, HoldPolicy, Mode, Rows, Rule, Selection, Sharing,
    StartingPoint,
};
use expunged::schedule::Windows;
use expunged::store::sql::catalogue::{Column, ColumnKind};
use expunged::store::sql::{Access, Bounds, Mismatch, SurveyDepth};
use expunged::store::{Store, StoreError, Tables, Target, Walk};
use expunged::types::{Key, KeyValue};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection, SqliteConnection};

use crate::support::{Kind, TestDatabase};

/// Runs each function, which takes a database of its own, on each kind of database.
macro_rules! on_each_database {
    ($($name:ident),+ $(,)?) => {
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name(crate::support::fresh_postgres().await)).await;
            })+
        }
        mod mysql {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name(crate::support::fresh_mysql().await)).await;
            })+
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name(crate::support::fresh_sqlite().await)).await;
            })+
        }
    };
}
pub(crate) use on_each_database;

/// Records that started before this are due. 13:00 in Berlin.
pub(crate) const CUTOFF: &str = "2024-03-10T12:00:00Z";
/// The moment of the decision.
pub(crate) const NOW: &str = "2026-01-10T12:00:00Z";

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn bounds() -> Bounds {
    Bounds { cutoff: at(CUTOFF), now: at(NOW) }
}

pub(crate) fn kind(database: &TestDatabase) -> Dialect {
    by_kind(database, Dialect::Postgres, Dialect::Mysql, Dialect::Sqlite)
}

pub(crate) fn by_kind<T>(database: &TestDatabase, postgres: T, mysql: T, sqlite: T) -> T {
    match database.kind {
        Kind::Postgres => postgres,
        Kind::MySql => mysql,
        Kind::Sqlite => sqlite,
    }
}

/// A type for moments without a zone, to the microsecond.
pub(crate) fn moment_type(database: &TestDatabase) -> &'static str {
    by_kind(database, "timestamp", "DATETIME(6)", "TEXT")
}

/// A text as a literal.
pub(crate) fn quoted(database: &TestDatabase, text: &str) -> String {
    let text = text.replace('\'', "''");
    match database.kind {
        Kind::MySql => format!("'{}'", text.replace('\\', "\\\\")),
        _ => format!("'{text}'"),
    }
}

pub(crate) fn open(database: &TestDatabase, access: Access) -> Store {
    open_as(database, &database.url, access)
}

pub(crate) fn open_as(database: &TestDatabase, url: &str, access: Access) -> Store {
    let patience = Duration::from_secs(20);
    let name = "app".parse().unwrap();
    Store::Tables(Tables::open(name, kind(database), url, access, patience).unwrap())
}

/// A rule that deletes from `table` what started before the cutoff by its column `at`, in UTC.
pub(crate) fn rule(table: &str) -> Rule {
    Rule {
        name: "old-records".parse().unwrap(),
        description: None,
        basis: None,
        store: "app".parse().unwrap(),
        table: table.parse().unwrap(),
        select: Selection::Rows(Rows {
            condition: None,
            starting_point: StartingPoint {
                column: "at".into(),
                encoding: Encoding::Native,
                time_zone: TimeZone::UTC,
                earliest: jiff::civil::date(1971, 1, 1),
            },
            attachments: Vec::new(),
            dependents: Vec::new(),
            matching: BTreeMap::new(),
            access: None,
        }),
        retention: "2 years".parse().unwrap(),
        action: Action::Delete,
        subject: None,
        schedule: "0 3 * * *".parse().unwrap(),
        time_zone: TimeZone::UTC,
        mode: Mode::Enforce,
        limits: Limits::default(),
        pacing: Pacing::default(),
        windows: Windows::default(),
        holds: HoldPolicy::Apply,
        events: Vec::new(),
        event_values: BTreeSet::new(),
        sharing: Sharing::Possible,
        tellings: Vec::new(),
    }
}

/// The rows that a rule means.
pub(crate) fn rows(rule: &mut Rule) -> &mut Rows {
    match &mut rule.select {
        Selection::Rows(rows) => rows,
        Selection::Paths(_) => panic!("it is a rule of rows"),
    }
}

/// Has a walk take the table for a large one, so that it goes along an index where there is one.
pub(crate) fn pretend_large(target: &mut Target) {
    let Target::Rows(target) = target else { panic!("it is a table") };
    target.table.statistics.pages = Some(1_000_000);
}

/// The same, where a condition holds.
pub(crate) fn rule_where(database: &TestDatabase, table: &str, condition: &str) -> Rule {
    let condition = Condition::parse(kind(database), condition).unwrap();
    let mut rule = rule(table);
    rows(&mut rule).condition = Some(condition);
    rule
}

/// The same, anonymizing columns.
pub(crate) fn anonymizing(table: &str, columns: &[(&str, Strategy)], marker: Option<&str>) -> Rule {
    let columns: BTreeMap<_, _> =
        columns.iter().map(|(name, strategy)| ((*name).to_owned(), strategy.clone())).collect();
    let change = Anonymization::new(columns, marker.map(str::to_owned)).unwrap();
    Rule { action: Action::Anonymize(change), ..rule(table) }
}

/// Computes new values as a run does, with a pseudonym that shows what it was made from.
pub(crate) fn replace(strategy: &Strategy, column: &Column, old: Option<&str>) -> Option<String> {
    let wanted = match column.kind {
        ColumnKind::Integer => Wanted::Integer(30_000),
        ColumnKind::Uuid => Wanted::Uuid,
        _ => Wanted::Text(64),
    };
    replacement(strategy, wanted, old, &pseudonym, &|| [7; 32])
}

/// Stands for the keyed function: the length and the first byte of what it was given.
pub(crate) fn pseudonym(value: &[u8]) -> [u8; 32] {
    let mut out = [u8::try_from(value.len()).unwrap_or(255); 32];
    out[0] = value.first().copied().unwrap_or_default();
    out
}

/// What a walk with commits took.
pub(crate) struct Walked {
    pub(crate) keys: Vec<Key>,
    pub(crate) batches: Vec<usize>,
    pub(crate) survey: Survey,
}

/// Walks a table to its end and commits each batch; every batch must keep to its bound, and all
/// together must be what the survey promised.
pub(crate) async fn walk(store: &Store, target: &Target) -> Walked {
    let walked = walk_within(store, target, bounds()).await;
    assert_eq!(walked.keys.len() as u64, walked.survey.due, "the dry run must tell the truth");
    walked
}

pub(crate) async fn walk_within(store: &Store, target: &Target, bounds: Bounds) -> Walked {
    let survey = store.survey(target, bounds, SurveyDepth::Due).await.unwrap();
    let mut walk = store.walk(target, bounds, survey.due, survey.total).unwrap();
    let (keys, batches) = finish(store, target, bounds, &mut walk).await;
    Walked { keys, batches, survey }
}

/// Takes and commits to the walk's end.
pub(crate) async fn finish(
    store: &Store,
    target: &Target,
    bounds: Bounds,
    walk: &mut Walk,
) -> (Vec<Key>, Vec<usize>) {
    let (mut keys, mut batches) = (Vec::new(), Vec::new());
    let mut pace = walk.pace();
    while let Some(batch) = store.take(target, bounds, walk, &mut pace, &replace).await.unwrap() {
        let taken = batch.keys.len();
        assert!(taken as u64 <= pace.most_rows(), "{taken} records in one batch");
        assert!(batches.len() < 5_000, "this walk does not end");
        walk.advance(batch.window.as_ref(), taken as u64);
        keys.extend(batch.keys.iter().cloned());
        batches.push(taken);
        batch.commit().await.unwrap();
        pace.note(Duration::from_millis(1), taken as u64);
    }
    (keys, batches)
}

/// Walks a table by a rule to its end; the keys as texts, sorted.
pub(crate) async fn run(database: &TestDatabase, rule: &Rule) -> Vec<String> {
    let store = open(database, Access::ReadWrite);
    let target = store.target(rule).await.unwrap();
    let walked = walk(&store, &target).await;
    store.close().await;
    texts(&walked.keys)
}

/// Surveys a table by a rule, fully, through a store that cannot write.
pub(crate) async fn survey(database: &TestDatabase, rule: &Rule) -> Survey {
    let store = open(database, Access::ReadOnly);
    let target = store.target(rule).await.unwrap();
    let survey = store.survey(&target, bounds(), SurveyDepth::Full).await.unwrap();
    store.close().await;
    survey
}

/// Why a rule does not fit.
pub(crate) async fn mismatches(database: &TestDatabase, rule: &Rule) -> Vec<Mismatch> {
    let store = open(database, Access::ReadOnly);
    match store.target(rule).await {
        Err(StoreError::Mismatch { mismatches, .. }) => mismatches,
        other => panic!("it should not fit: {:?}", other.map(|_| "it fits")),
    }
}

/// Keys in words, sorted by their values.
pub(crate) fn texts(keys: &[Key]) -> Vec<String> {
    let mut keys = keys.to_vec();
    keys.sort();
    keys.iter().map(Key::to_string).collect()
}

/// The whole numbers that keys of one column are, sorted.
pub(crate) fn numbers(keys: &[Key]) -> Vec<i64> {
    let mut numbers: Vec<_> = keys
        .iter()
        .map(|key| match key.0.as_slice() {
            [KeyValue::Int(number)] => i64::try_from(*number).unwrap(),
            _ => panic!("not a whole number"),
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

/// The whole numbers of a query's one column, sorted.
pub(crate) async fn ids(database: &TestDatabase, column: &str, rest: &str) -> Vec<i64> {
    let text = by_kind(database, "text", "char", "text");
    let rows = database.strings(&format!("SELECT CAST({column} AS {text}) FROM {rest}")).await;
    let mut ids: Vec<i64> = rows.iter().map(|id| id.parse().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// `SELECT n FROM` this: the whole numbers below a hundred thousand, in every dialect.
pub(crate) fn numbers_below(count: u32) -> String {
    let ten: Vec<_> = (0..10).map(|digit| format!("SELECT {digit} AS d")).collect();
    let ten = ten.join(" UNION ALL ");
    let digits: Vec<_> = ["a", "b", "c", "e", "f"].iter().map(|t| format!("({ten}) {t}")).collect();
    format!(
        "(SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d AS n FROM {}) numbers \
         WHERE n < {count}",
        digits.join(" CROSS JOIN ")
    )
}

/// Another session, of someone who does not know of expunged.
pub(crate) enum Session {
    Postgres(PgConnection),
    MySql(MySqlConnection),
    Sqlite(SqliteConnection),
}

impl Session {
    pub(crate) async fn open(database: &TestDatabase) -> Session {
        let url = &database.url;
        match database.kind {
            Kind::Postgres => Session::Postgres(PgConnection::connect(url).await.unwrap()),
            Kind::MySql => Session::MySql(MySqlConnection::connect(url).await.unwrap()),
            Kind::Sqlite => Session::Sqlite(SqliteConnection::connect(url).await.unwrap()),
        }
    }

    /// Opens a session that stands in the middle of a transaction which has done this.
    pub(crate) async fn in_the_middle(database: &TestDatabase, sql: &str) -> Session {
        let mut session = Session::open(database).await;
        session.execute("BEGIN").await;
        session.execute(sql).await;
        session
    }

    pub(crate) async fn execute(&mut self, sql: &str) {
        self.try_execute(sql).await.unwrap_or_else(|error| panic!("{error}, in: {sql}"));
    }

    pub(crate) async fn try_execute(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        match self {
            Session::Postgres(connection) => query.execute(connection).await.map(drop),
            Session::MySql(connection) => query.execute(connection).await.map(drop),
            Session::Sqlite(connection) => query.execute(connection).await.map(drop),
        }
    }
}

/// Returns once somebody in this database waits for a lock.
pub(crate) async fn someone_waits(database: &TestDatabase) {
    let waiting = match database.kind {
        Kind::Postgres => {
            "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'"
        }
        Kind::MySql => {
            // Not from innodb_trx, which shows nothing new to those who ask again within 0.1 seconds.
            "SELECT count(*) FROM information_schema.processlist \
             WHERE db = DATABASE() AND (info LIKE '% FOR UPDATE' OR info LIKE 'DELETE FROM %') AND time_ms > 50"
        }
        Kind::Sqlite => panic!("SQLite tells nobody who waits"),
    };
    while database.count(waiting).await == 0 {
        tokio::task::yield_now().await;
    }
}
