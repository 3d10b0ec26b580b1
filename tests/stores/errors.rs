//! Errors name the store and what failed, quote no data, and say whether to try again.

use std::error::Error;
use std::time::Duration;

use expunged::anonymize::Strategy;
use expunged::clock::Stopwatch;
use expunged::pace::{Pacing, Tempo};
use expunged::rule::{Dialect, Rule};
use expunged::store::sql::{Access, SurveyDepth};
use expunged::store::{Batch, Store, StoreError, Tables};

use crate::common::*;
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

on_each_database! {
    errors_quote_no_data,
    a_condition_that_names_no_column_is_told_plainly,
    a_missing_table_is_told_plainly,
    a_deadlock_or_a_lock_that_others_hold_is_worth_another_try,
}

const EMAIL: &str = "zoe-q@example.com";

async fn first_batch(store: &Store, rule: &Rule) -> Result<Option<Batch>, StoreError> {
    let target = store.target(rule).await.unwrap();
    let mut walk = store.walk(&target, bounds(), 1, 1).unwrap();
    let mut pace = walk.pace();
    store.take(&target, bounds(), &mut walk, &mut pace, &replace).await
}

/// Takes a first batch, which must fail for this reason and without a word about Zoe.
async fn fails(store: &Store, rule: &Rule, reason: &str) {
    let words = said_by(store, rule, false).await;
    assert!(words.contains(reason), "{words}");
}

/// What is said where taking a first batch fails.
async fn said_by(store: &Store, rule: &Rule, is_transient: bool) -> String {
    let error = first_batch(store, rule).await.err().expect("it must fail");
    let mut words = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    assert!(words.contains("store `app`: "), "{words}");
    for secret in ["zoe-q", "example.com"] {
        assert!(!words.contains(secret), "{words}");
    }
    assert_eq!(error.is_transient(), is_transient, "{words}");
    words
}

async fn errors_quote_no_data(database: TestDatabase) {
    let at = moment_type(&database);
    let strict = by_kind(&database, "", "", " STRICT");
    let int = "integer";
    let text = by_kind(&database, "varchar(99)", "varchar(99)", "text");
    database
        .execute(&format!(
            "CREATE TABLE people (email {text} PRIMARY KEY, alias {text}, age {int}, \
                 at {at}, CHECK (alias <> 'forbidden'), UNIQUE (alias)){strict};
             CREATE TABLE orders (id integer PRIMARY KEY, email {text}, \
                 CONSTRAINT of_someone FOREIGN KEY (email) REFERENCES people (email));
             INSERT INTO people VALUES ('{EMAIL}', 'a', 1, '2020-01-01 00:00:00'),
                                       ('bob@example.com', '{EMAIL}', 1, '2025-01-01 00:00:00');
             INSERT INTO orders VALUES (1, '{EMAIL}')"
        ))
        .await;
    let store = open(&database, Access::ReadWrite);
    let constant = |column: &str, value: &str| {
        let strategy = Strategy::Constant { value: value.to_owned() };
        anonymizing("people", &[(column, strategy)], None)
    };
    let (twice, refused) = by_kind(
        &database,
        ("exists already", "a constraint refuses it"),
        ("exists already", "SQLSTATE"),
        ("UNIQUE constraint failed", "CHECK constraint failed"),
    );
    fails(&store, &rule("people"), "rows of orders point at one").await;
    fails(&store, &constant("alias", EMAIL), twice).await;
    fails(&store, &constant("alias", "forbidden"), refused).await;
    let not_a_number = by_kind(&database, "22P02", "SQLSTATE", "cannot store TEXT value");
    fails(&store, &constant("age", EMAIL), not_a_number).await;

    // A trigger says what its author wrote, and that may be data.
    let trigger = by_kind(
        &database,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION '% has open orders', OLD.email; END $$;
         CREATE TRIGGER refuses BEFORE DELETE ON people FOR EACH ROW EXECUTE FUNCTION refuse()",
        "CREATE TRIGGER refuses BEFORE DELETE ON people FOR EACH ROW
         BEGIN
             DECLARE words varchar(99) DEFAULT CONCAT(OLD.email, ' has open orders');
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = words;
         END",
        "CREATE TRIGGER refuses BEFORE DELETE ON people
         BEGIN SELECT RAISE(ABORT, OLD.email || ' has open orders'); END",
    );
    database.execute(trigger).await;
    fails(&store, &rule("people"), "a trigger refuses it").await;
    // Under a code of its own as well, and under one that is the server's.
    let others = by_kind(
        &database,
        &[
            "ERRCODE = 'UE001'",
            "ERRCODE = 'undefined_table'",
            "ERRCODE = 'lock_not_available', HINT = 'x'",
        ][..],
        &["'UE001' SET MYSQL_ERRNO = 5001,", "'UE001' SET MYSQL_ERRNO = 1146,", "'42S02' SET"],
        &[],
    );
    for code in others {
        let again = by_kind(
            &database,
            format!(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN RAISE EXCEPTION 'user % has open orders', OLD.email USING {code}; END $$"
            ),
            format!(
                "CREATE OR REPLACE TRIGGER refuses BEFORE DELETE ON people FOR EACH ROW
                 BEGIN
                     DECLARE words varchar(99) DEFAULT CONCAT(OLD.email, ' has open orders');
                     SIGNAL SQLSTATE {code} MESSAGE_TEXT = words;
                 END"
            ),
            String::new(),
        );
        database.execute(&again).await;
        let said = said_by(&store, &rule("people"), code.contains("lock_not")).await;
        assert!(said.contains("may quote data"), "{code}: {said}");
    }
    let people = "SELECT count(*) FROM people WHERE alias IN ('a', 'zoe-q@example.com')";
    assert_eq!(database.count(people).await, 2);
}

#[tokio::test]
async fn what_sqlite_itself_has_rolled_back_costs_no_connection() {
    let database = fresh_sqlite().await;
    database
        .execute(
            "CREATE TABLE people (id integer PRIMARY KEY, at text);
             INSERT INTO people VALUES (1, '2020-01-01 00:00:00');
             CREATE TRIGGER refuses BEFORE DELETE ON people BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
        )
        .await;
    let store = open(&database, Access::ReadWrite);
    // More often than a store has connections.
    for _ in 0..4 {
        fails(&store, &rule("people"), "a trigger refuses it").await;
    }
    database.execute("DROP TRIGGER refuses").await;
    assert!(first_batch(&store, &rule("people")).await.unwrap().is_some());
}

async fn a_condition_that_names_no_column_is_told_plainly(database: TestDatabase) {
    let at = moment_type(&database);
    database.execute(&format!("CREATE TABLE people (id integer PRIMARY KEY, at {at})")).await;
    let store = open(&database, Access::ReadOnly);
    let rule = rule_where(&database, "people", "missing = 1");
    let target = store.target(&rule).await.unwrap();
    let survey = store.survey(&target, bounds(), SurveyDepth::Due).await;
    let error = survey.expect_err("there is no such column").to_string();
    assert!(error.starts_with("store `app`: counting records failed: "), "{error}");
    assert!(error.contains("missing"), "{error}");
}

async fn a_missing_table_is_told_plainly(database: TestDatabase) {
    let store = open(&database, Access::ReadOnly);
    for name in ["people", "elsewhere.people"] {
        let error = store.inspect(&rule(name)).await.expect_err("there is no such table");
        let words = format!("store `app`: there is no table `{name}` that its user can see");
        assert_eq!(error.to_string(), words);
    }
}

async fn a_deadlock_or_a_lock_that_others_hold_is_worth_another_try(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE people (id integer PRIMARY KEY, n integer, at {at});
             CREATE TABLE others (id integer PRIMARY KEY, n integer);
             INSERT INTO people VALUES (1, 0, '2020-01-01'), (2, 0, '2020-01-01');
             INSERT INTO others VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)"
        ))
        .await;
    let store = open(&database, Access::ReadWrite);
    let mut session = Session::open(&database).await;
    if database.kind == Kind::Postgres {
        // Who waits longest looks for deadlocks first, and is the one to give way.
        session.execute("SET deadlock_timeout = '1h'").await;
    }
    session.execute("BEGIN").await;
    // InnoDB sacrifices whoever changed less.
    session.execute("UPDATE others SET n = 1").await;
    session.execute("UPDATE people SET n = 1 WHERE id = 2").await;

    // At a calmer pace it gives way before the server looks for deadlocks.
    let pacing = Pacing { tempo: Tempo::Full, ..Pacing::default() };
    let rule = Rule { pacing, ..rule("people") };
    let take = first_batch(&store, &rule);
    let cross = async {
        if database.kind != Kind::Sqlite {
            someone_waits(&database).await;
            session.execute("UPDATE people SET n = 1 WHERE id = 1").await;
        }
    };
    let (taken, ()) = tokio::join!(take, cross);
    let error = taken.err().expect("both want what the other has");
    assert!(error.is_transient(), "{error}");
    let words = by_kind(&database, "deadlock detected", "Deadlock found", "database is locked");
    assert!(error.to_string().contains(words), "{error}");
    session.execute("COMMIT").await;
    assert_eq!(
        database.count("SELECT count(*) FROM people WHERE n = 1").await,
        by_kind(&database, 2, 2, 1)
    );
    let batch = first_batch(&store, &rule).await.unwrap().expect("there is a window");
    assert_eq!(numbers(&batch.keys), [1, 2]);
}

/// Of itself, MariaDB waits a day for that, and MySQL a year.
#[tokio::test]
async fn a_table_that_others_change_is_not_waited_for_long_on_mysql() {
    let database = fresh_mysql().await;
    let table = "CREATE TABLE people (id integer PRIMARY KEY, at datetime);
                 INSERT INTO people VALUES (1, '2020-01-01'), (2, '2020-01-01')";
    database.execute(table).await;
    let mut reader = Session::in_the_middle(&database, "SELECT count(*) FROM people").await;
    let mut owner = Session::open(&database).await;
    let changing =
        tokio::spawn(async move { owner.execute("ALTER TABLE people ADD n integer").await });
    let waits = "SELECT count(*) FROM information_schema.processlist \
                 WHERE db = DATABASE() AND state = 'Waiting for table metadata lock'";
    while database.count(waits).await == 0 {
        tokio::task::yield_now().await;
    }

    let limit = Duration::from_secs(20);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let store = open(&database, access);
        let target = store.target(&rule("people")).await.unwrap();
        let look = store.survey(&target, bounds(), SurveyDepth::Due);
        let looked = tokio::time::timeout(limit, look).await.expect("it hangs");
        let error = looked.expect_err("others wait to change the table");
        assert!(error.is_transient() && error.to_string().contains("Lock wait timeout"), "{error}");
    }
    let store = open(&database, Access::ReadWrite);
    let rule = rule("people");
    let watch = Stopwatch::start();
    let taken = tokio::time::timeout(limit, first_batch(&store, &rule)).await.expect("it hangs");
    let error = taken.err().expect("others wait to change the table");
    assert!(error.is_transient(), "{error}");
    assert!(watch.elapsed() < Duration::from_secs(8), "{:?}", watch.elapsed());

    reader.execute("COMMIT").await;
    changing.await.unwrap();
    let batch = first_batch(&store, &rule).await.unwrap().expect("there is a window");
    assert_eq!(numbers(&batch.keys), [1, 2]);
}

/// While it waits for one it holds others, for which others wait.
#[tokio::test]
async fn a_batch_waits_for_a_lock_no_longer_than_its_pace_allows() {
    let database = fresh_postgres().await;
    let table = "CREATE TABLE people (id integer PRIMARY KEY, at timestamptz);
                 INSERT INTO people VALUES (1, '2020-01-01'), (2, '2020-01-01')";
    database.execute(table).await;
    let store = open(&database, Access::ReadWrite);
    let mut session = Session::open(&database).await;
    session.execute("BEGIN").await;
    session.execute("SELECT FROM people WHERE id = 2 FOR UPDATE").await;
    let mut waited = Vec::new();
    for tempo in [Tempo::Gentle, Tempo::Full] {
        let rule = Rule { pacing: Pacing { tempo, ..Pacing::default() }, ..rule("people") };
        let watch = Stopwatch::start();
        let error = first_batch(&store, &rule).await.err().expect("it is locked");
        waited.push(watch.elapsed());
        assert!(error.is_transient() && error.to_string().contains("lock timeout"), "{error}");
    }
    assert!(waited[0] < waited[1] && waited[1] >= Duration::from_secs(2), "{waited:?}");
}

#[tokio::test]
async fn a_database_that_is_down_is_reported_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let folder = tempfile::tempdir().unwrap();
    let missing = format!("sqlite://{}/missing.db", folder.path().display());
    for (kind, url) in [
        (Dialect::Postgres, format!("postgres://ann:secret@127.0.0.1:{port}/app")),
        (Dialect::Mysql, format!("mysql://ann:secret@127.0.0.1:{port}/app")),
        (Dialect::Sqlite, missing.clone()),
    ] {
        let patience = Duration::from_secs(60);
        let name = "app".parse().unwrap();
        let store = Tables::open(name, kind, &url, Access::ReadWrite, patience).unwrap();
        let watch = Stopwatch::start();
        let error = store.inspect(&rule("people")).await.expect_err("nobody is there");
        assert!(watch.elapsed() < Duration::from_secs(10), "{kind:?}: {:?}", watch.elapsed());
        let words = error.to_string();
        assert!(words.starts_with("store `app`: connecting failed: "), "{words}");
        assert!(!words.contains("secret"), "{words}");
    }
    assert!(!folder.path().join("missing.db").exists(), "a store is never created");
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_not_repeated() {
    for (kind, url) in [
        (Dialect::Postgres, "mysql://ann:secret@host/app"),
        (Dialect::Postgres, "postgres://ann:secret@host:notaport/app"),
        (Dialect::Mysql, "mysql://ann:secret@[host/app"),
        (Dialect::Sqlite, "file:secret.db"),
    ] {
        let name = "app".parse().unwrap();
        let patience = Duration::from_secs(1);
        let opened = Tables::open(name, kind, url, Access::ReadOnly, patience);
        let words = opened.expect_err("it cannot be used").to_string();
        assert!(words.contains("store `app`") && words.contains("write `"), "{words}");
        assert!(!words.contains("secret"), "{words}");
    }
}
