//! Tables whose rows are removed, on each kind of database.

use std::collections::BTreeMap;
use std::sync::Arc;

use expunged::hold::{Hold, Holds, Order, Range, Scope, Terms};
use expunged::notice::{Answer, Message};
use expunged::recipient::{Ailment, Recipient};
use jiff::SignedDuration;

use crate::house::{about, later, now, person, recipient, shown};
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

async fn each() -> [TestDatabase; 3] {
    [fresh_postgres().await, fresh_mysql().await, fresh_sqlite().await]
}

/// The table `events` of a database as a recipient.
fn events(folder: &tempfile::TempDir, database: &TestDatabase, columns: &str) -> Arc<Recipient> {
    let kind = match database.kind {
        Kind::Postgres => "postgres",
        Kind::MySql => "mysql",
        Kind::Sqlite => "sqlite",
    };
    let url = crate::house::secret(folder.path(), "url", &database.url);
    let text = format!(
        "[store.dwh]\nkind = \"{kind}\"\nurl = {url}\n[recipient.dwh]\nprotocol = \"sql\"\nstore = \"dwh\"\n\
         table = \"events\"\ncolumns = {columns}\n"
    );
    recipient(folder.path(), &text)
}

/// Which rows there are, in one number.
async fn sum(database: &TestDatabase) -> i64 {
    database
        .count(match database.kind {
            Kind::MySql => "SELECT CAST(sum(n) AS signed) FROM events",
            Kind::Postgres | Kind::Sqlite => "SELECT sum(n) FROM events",
        })
        .await
}

fn ids(ids: &[&str]) -> Message {
    about(ids.iter().map(|id| person(&[("id", id), ("email", "unused")])).collect())
}

fn on_subjects(values: &[&str]) -> Holds {
    let scope = Scope::Subjects {
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        store: None,
        table: None,
    };
    let terms = Terms {
        scope,
        range: Range::default(),
        order: Order::default(),
        broad: None,
        columns: std::collections::BTreeSet::new(),
    };
    let hold = Hold {
        id: expunged::clock::new_id(),
        terms,
        placed_at: now(),
        until: now() + SignedDuration::from_hours(24),
        ended_at: None,
    };
    Holds::new(&BTreeMap::new(), vec![hold])
}

#[tokio::test]
async fn the_rows_of_those_who_are_told_of_go_and_no_others() {
    for database in each().await {
        let folder = tempfile::tempdir().unwrap();
        database
            .execute(
                "CREATE TABLE events (n integer PRIMARY KEY, uid varchar(40), at varchar(40));
                 INSERT INTO events VALUES (1, 'u1', ''), (2, 'u1', ''), (3, 'u2', ''), (4, 'U1', ''),
                     (5, 'u1 ', ''), (6, '', ''), (7, NULL, ''), (8, 'u3', ''), (9, 'x'' OR 1=1 --', '')",
            )
            .await;
        let dwh = events(&folder, &database, "{ id = \"uid\" }");
        let message = ids(&["u1", "u3", "nobody", "x' OR 1=1 --"]);
        // Without knowing of holds nothing goes.
        assert_eq!(later(&dwh.tell(&message, now()).await), (None, false));
        assert_eq!(database.count("SELECT count(*) FROM events").await, 9);
        for _ in 0..2 {
            let answer = dwh.tell_heeding(&message, &Holds::default(), now()).await;
            assert_eq!(answer, Answer::Completed, "{:?}", database.kind);
            // By a collation `u1` may be `U1`; by ours it is not.
            assert_eq!(sum(&database).await, 3 + 4 + 5 + 6 + 7);
        }
        for empty in ["", " "] {
            let answer = dwh.tell_heeding(&ids(&[empty]), &Holds::default(), now()).await;
            assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
        }
        let nameless = about(vec![person(&[("email", "u2")])]);
        let answer = dwh.tell_heeding(&nameless, &Holds::default(), now()).await;
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
        assert_eq!(database.count("SELECT count(*) FROM events").await, 5);
    }
}

#[tokio::test]
async fn all_columns_must_have_their_values() {
    for database in each().await {
        let folder = tempfile::tempdir().unwrap();
        database
            .execute(
                "CREATE TABLE events (n integer PRIMARY KEY, tenant varchar(40), uid bigint);
                 INSERT INTO events VALUES (1, 'a', 1), (2, 'b', 1), (3, 'a', 2), (4, 'a', NULL)",
            )
            .await;
        let dwh = events(&folder, &database, "{ id = \"uid\", tenant = \"tenant\" }");
        let one = about(vec![
            person(&[("id", "1"), ("tenant", "a")]),
            person(&[("id", "none"), ("tenant", "a")]),
            person(&[("id", "99999999999999999999"), ("tenant", "a")]),
        ]);
        assert_eq!(dwh.tell_heeding(&one, &Holds::default(), now()).await, Answer::Completed);
        assert_eq!(sum(&database).await, 9, "{:?}", database.kind);
    }
}

#[tokio::test]
async fn many_rows_go_in_bounded_statements() {
    for database in each().await {
        let folder = tempfile::tempdir().unwrap();
        // With a key that is no number, and with none at all.
        for key in ["n varchar(40) PRIMARY KEY", "n varchar(40)"] {
            database.execute(&format!("CREATE TABLE events ({key}, uid varchar(40))")).await;
            for block in 0..13 {
                let row = |n: i64| format!("('{n}', 'u{}')", n % 3_000);
                let rows: Vec<String> = (block * 1_000..(block + 1) * 1_000).map(row).collect();
                database.execute(&format!("INSERT INTO events VALUES {}", rows.join(", "))).await;
            }
            let dwh = events(&folder, &database, "{ id = \"uid\" }");
            let names: Vec<String> = (0..2_500).map(|id| format!("u{id}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let answer = dwh.tell_heeding(&ids(&names), &Holds::default(), now()).await;
            assert_eq!(answer, Answer::Completed, "{:?}", database.kind);
            // Of 13,000 rows over 3,000 users, the last 500 users keep theirs.
            assert_eq!(database.count("SELECT count(*) FROM events").await, 2_000);
            let one = ids(&["u2999"]);
            assert_eq!(dwh.tell_heeding(&one, &Holds::default(), now()).await, Answer::Completed);
            assert_eq!(database.count("SELECT count(*) FROM events").await, 1_996);
            database.execute("DROP TABLE events").await;
        }
        // All of one.
        database.execute("CREATE TABLE events (n integer PRIMARY KEY, uid varchar(40))").await;
        for block in 0..12 {
            let rows: Vec<String> =
                (block * 1_000..(block + 1) * 1_000).map(|n| format!("({n}, 'u1')")).collect();
            database.execute(&format!("INSERT INTO events VALUES {}", rows.join(", "))).await;
        }
        let dwh = events(&folder, &database, "{ id = \"uid\" }");
        let answer = dwh.tell_heeding(&ids(&["u1"]), &Holds::default(), now()).await;
        assert_eq!(answer, Answer::Completed);
        assert_eq!(database.count("SELECT count(*) FROM events").await, 0);
    }
}

#[tokio::test]
async fn what_a_hold_covers_stays_and_the_notice_waits() {
    for database in each().await {
        let folder = tempfile::tempdir().unwrap();
        database
            .execute(
                "CREATE TABLE events (n integer PRIMARY KEY, uid varchar(40));
                 INSERT INTO events VALUES (1, 'u1'), (2, 'u1'), (3, 'u2')",
            )
            .await;
        let dwh = events(&folder, &database, "{ id = \"uid\" }");
        let message = ids(&["u1", "u2"]);
        let held = on_subjects(&["u1"]);
        let answer = dwh.tell_heeding(&message, &held, now()).await;
        assert_eq!(later(&answer), (None, false), "{:?}", database.kind);
        assert!(shown(&answer).contains("2 rows of events"), "{answer:?}");
        assert_eq!(sum(&database).await, 3);
        // Released.
        let answer = dwh.tell_heeding(&message, &Holds::default(), now()).await;
        assert_eq!(answer, Answer::Completed);
        assert_eq!(database.count("SELECT count(*) FROM events").await, 0);
    }
}

#[tokio::test]
async fn a_table_that_is_not_as_configured_is_said() {
    for database in each().await {
        let folder = tempfile::tempdir().unwrap();
        let dwh = events(&folder, &database, "{ id = \"uid\" }");
        let answer = dwh.tell_heeding(&ids(&["u1"]), &Holds::default(), now()).await;
        assert_eq!(later(&answer), (None, true));
        assert!(shown(&answer).contains("no table"), "{answer:?}");
        database.execute("CREATE TABLE events (n integer PRIMARY KEY, user_id varchar(40))").await;
        let answer = dwh.tell_heeding(&ids(&["u1"]), &Holds::default(), now()).await;
        assert!(shown(&answer).contains("there is no column `uid`"), "{answer:?}");
        let ailment = dwh.test(now()).await.unwrap_err();
        assert!(matches!(ailment, Ailment::Store(_)), "{ailment:?}");
        database.execute("DROP TABLE events").await;
        database.execute("CREATE TABLE events (n integer PRIMARY KEY, uid varchar(40))").await;
        dwh.test(now()).await.unwrap();
        database.execute("DROP TABLE events").await;
        if database.kind != Kind::Sqlite {
            database.execute("CREATE TABLE events (n integer PRIMARY KEY, uid date)").await;
            let answer = dwh.tell_heeding(&ids(&["u1"]), &Holds::default(), now()).await;
            assert!(shown(&answer).contains("is of type date"), "{answer:?}");
        }
    }
}
