//! What a store says about a table is what the table is.

use expunged::plan::OnDelete;
use expunged::store::sql::Access;
use expunged::store::sql::catalogue::{ColumnKind, Reference, Shape, Table};

use crate::common::*;
use crate::support::{Kind, TestDatabase};

on_each_database! {
    columns_keys_and_indexes_are_told,
    foreign_keys_are_told_with_what_a_deletion_does,
    only_triggers_on_delete_and_update_are_told,
    privileges_are_those_of_the_user,
    statistics_follow_the_table,
    whether_a_deletion_returns_what_it_took_is_told,
}

async fn inspect(database: &TestDatabase, table: &str) -> Table {
    let store = open(database, Access::ReadOnly);
    let table = store.inspect(&rule(table)).await.unwrap();
    store.close().await;
    table
}

async fn columns_keys_and_indexes_are_told(database: TestDatabase) {
    let at = moment_type(&database);
    let b = by_kind(&database, "numeric(9,2)", "DECIMAL(9,2)", "NUMERIC");
    database
        .execute(&format!(
            "CREATE TABLE events (a integer NOT NULL, b {b}, name varchar(50), at {at} NOT NULL, \
                                  PRIMARY KEY (name, a));
             CREATE UNIQUE INDEX by_b ON events (b);
             CREATE INDEX by_at_and_a ON events (at, a)"
        ))
        .await;
    let table = inspect(&database, "events").await;
    let columns: Vec<_> =
        table.columns.iter().map(|c| (c.name.as_str(), c.kind, c.nullable)).collect();
    let moment = by_kind(&database, ColumnKind::Civil, ColumnKind::Civil, ColumnKind::Text);
    // In SQLite alone a key may be NULL.
    let name_may_be_null = database.kind == Kind::Sqlite;
    assert_eq!(
        columns,
        [
            ("a", ColumnKind::Integer, false),
            ("b", ColumnKind::Number, true),
            ("name", ColumnKind::Text, name_may_be_null),
            ("at", moment, false),
        ]
    );
    assert_eq!(
        table.key.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(),
        ["name", "a"]
    );
    let shape = by_kind(&database, Shape::Heap, Shape::Keyed, Shape::Rowid);
    assert_eq!(table.shape, shape);
    let by_at = table.index_on("at").expect("there is one");
    assert_eq!((by_at.name.as_str(), by_at.unique), ("by_at_and_a", false));
    assert_eq!(by_at.columns, ["at", "a"]);
    assert!(table.index_on("b").is_some_and(|index| index.unique));
    assert!(table.index_on("a").is_none(), "it is the second of two");
    assert_eq!(table.indexes.len(), 3);
    let (partial, odd) = by_kind(
        &database,
        (
            "CREATE INDEX by_a ON events (a) WHERE a > 5",
            "CREATE INDEX by_hash ON events USING hash (a)",
        ),
        ("CREATE INDEX by_part_of_name ON events (name(5))", "SELECT 1"),
        ("CREATE INDEX by_a ON events (a) WHERE a > 5", "CREATE INDEX by_sum ON events (a + 1)"),
    );
    database.execute(partial).await;
    database.execute(odd).await;
    let table = inspect(&database, "events").await;
    assert!(table.index_on("a").is_none(), "these do not order the whole table");
    if database.kind == Kind::MySql {
        let first_of_name = table.index_on("name").map(|index| index.name.as_str());
        assert_eq!(first_of_name, Some("PRIMARY"));
    }
}

async fn foreign_keys_are_told_with_what_a_deletion_does(database: TestDatabase) {
    let at = moment_type(&database);
    // InnoDB knows SET DEFAULT only as a word that it refuses.
    let actions: &[(&str, OnDelete)] = match database.kind {
        Kind::MySql => &[
            ("CASCADE", OnDelete::Cascade),
            ("SET NULL", OnDelete::SetNull),
            ("RESTRICT", OnDelete::Refuse),
            ("NO ACTION", OnDelete::Refuse),
        ],
        _ => &[
            ("CASCADE", OnDelete::Cascade),
            ("SET NULL", OnDelete::SetNull),
            ("SET DEFAULT", OnDelete::SetDefault),
            ("RESTRICT", OnDelete::Refuse),
            ("NO ACTION", OnDelete::Refuse),
        ],
    };
    database
        .execute(&format!(
            "CREATE TABLE people (id integer PRIMARY KEY, region integer NOT NULL, at {at});
             CREATE UNIQUE INDEX by_region ON people (region, id);
             INSERT INTO people VALUES (1, 7, '2020-01-01'), (2, 7, '2020-01-01'), (3, 7, '2025-01-01')"
        ))
        .await;
    for (number, (action, _)) in actions.iter().enumerate() {
        database
            .execute(&format!(
                "CREATE TABLE child_{number} (id integer PRIMARY KEY, owner integer, \
                     FOREIGN KEY (owner) REFERENCES people (id) ON DELETE {action});
                 INSERT INTO child_{number} VALUES (1, 1), (2, 1), (3, 2), (4, 3), (5, NULL)"
            ))
            .await;
    }
    database
        .execute(
            "CREATE TABLE pair (id integer PRIMARY KEY, r integer, o integer, \
                 FOREIGN KEY (r, o) REFERENCES people (region, id));
             INSERT INTO pair VALUES (1, 7, 2), (2, 7, 3), (3, 7, NULL);
             CREATE INDEX by_owner ON child_0 (owner)",
        )
        .await;
    let table = inspect(&database, "people").await;
    let of = |child: &str| -> &Reference {
        table.referenced_by.iter().find(|reference| reference.table == child).unwrap()
    };
    assert_eq!(table.referenced_by.len(), actions.len() + 1);
    for (number, (action, on_delete)) in actions.iter().enumerate() {
        let reference = of(&format!("child_{number}"));
        assert_eq!(reference.on_delete, *on_delete, "{action}");
        assert_eq!(reference.columns, ["owner"]);
        assert_eq!(reference.target_columns, ["id"]);
        // InnoDB indexes them all by itself.
        let indexed = number == 0 || database.kind == Kind::MySql;
        assert_eq!(reference.indexed, indexed, "{action}");
    }
    assert_eq!(of("pair").columns, ["r", "o"]);
    assert_eq!(of("pair").target_columns, ["region", "id"]);

    let survey = survey(&database, &rule("people")).await;
    assert_eq!(survey.due, 2);
    assert_eq!(survey.dependents.len(), actions.len() + 1);
    for dependents in &survey.dependents {
        let rows = if dependents.table == "pair" { 1 } else { 3 };
        assert_eq!(dependents.rows, rows, "{}", dependents.table);
        assert_eq!(dependents.on_delete, of(&dependents.table).on_delete);
    }
}

async fn only_triggers_on_delete_and_update_are_told(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE people (id integer PRIMARY KEY, n integer, at {at});
             CREATE TABLE log (n integer)"
        ))
        .await;
    let postgres =
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;
         CREATE TRIGGER a_delete AFTER DELETE ON people FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER b_update BEFORE UPDATE OF n ON people FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER c_insert AFTER INSERT ON people FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER d_off AFTER DELETE ON people FOR EACH ROW EXECUTE FUNCTION note();
         ALTER TABLE people DISABLE TRIGGER d_off";
    let mysql = [
        "CREATE TRIGGER a_delete AFTER DELETE ON people FOR EACH ROW INSERT INTO log VALUES (1)",
        "CREATE TRIGGER b_update BEFORE UPDATE ON people FOR EACH ROW INSERT INTO log VALUES (1)",
        "CREATE TRIGGER c_insert AFTER INSERT ON people FOR EACH ROW DELETE FROM log",
    ]
    .join(";");
    let sqlite = "CREATE TRIGGER a_delete AFTER -- INSERT
             DELETE
             ON people BEGIN INSERT INTO log VALUES (1); END;
         CREATE TRIGGER b_update BEFORE UPDATE OF n ON people BEGIN DELETE FROM log; END;
         CREATE TRIGGER c_insert AFTER INSERT ON people \
             BEGIN UPDATE log SET n = 1; DELETE FROM log; END;
         CREATE TRIGGER \"d DELETE ON\" AFTER INSERT ON people BEGIN DELETE FROM log; END";
    database.execute(by_kind(&database, postgres, &mysql, sqlite)).await;
    let table = inspect(&database, "people").await;
    let told: Vec<_> =
        table.triggers.iter().map(|t| (t.name.as_str(), t.on_delete, t.on_update)).collect();
    assert_eq!(told, [("a_delete", true, false), ("b_update", false, true)]);
}

async fn privileges_are_those_of_the_user(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE people (id integer PRIMARY KEY, email text, at {at});
             CREATE TABLE orders (id integer PRIMARY KEY, at {at})"
        ))
        .await;
    let all = inspect(&database, "people").await.privileges;
    assert_eq!(all.select, Some(true));
    if database.kind == Kind::Sqlite {
        assert_eq!((all.delete, all.update), (None, None), "whoever opens the file can do all");
        return;
    }
    assert_eq!((all.delete, all.update), (Some(true), Some(true)));
    for (grants, expected) in [
        (vec!["SELECT ON people"], [true, false, false]),
        (vec!["SELECT, DELETE ON people"], [true, true, false]),
        (vec!["SELECT (id, at), UPDATE (email) ON people"], [true, false, true]),
        (vec!["SELECT ON people", "DELETE ON orders"], [true, false, false]),
    ] {
        let url = database.restricted_user(&grants).await;
        let store = open_as(&database, &url, Access::ReadOnly);
        let may = store.inspect(&rule("people")).await.unwrap().privileges;
        let [select, delete, update] = expected.map(Some);
        assert_eq!((may.select, may.delete, may.update), (select, delete, update), "{grants:?}");
        store.close().await;
    }
}

async fn statistics_follow_the_table(database: TestDatabase) {
    let at = moment_type(&database);
    let numbers = numbers_below(5_000);
    let cast = by_kind(&database, "::timestamp", "", "");
    database
        .execute(&format!(
            "CREATE TABLE events (id integer PRIMARY KEY, at {at}, pad varchar(99));
             INSERT INTO events SELECT n, '2020-01-01'{cast}, 'padding padding padding' FROM {numbers}"
        ))
        .await;
    let analyze = by_kind(&database, "ANALYZE events", "ANALYZE TABLE events", "ANALYZE");
    database.execute(analyze).await;
    let statistics = inspect(&database, "events").await.statistics;
    if database.kind == Kind::Sqlite {
        assert_eq!((statistics.rows, statistics.pages), (None, None));
        return;
    }
    let rows = statistics.rows.expect("it was counted");
    assert!((4_000..6_000).contains(&rows), "{rows}");
    let pages = statistics.pages.expect("it was measured");
    assert!((10..100).contains(&pages), "{pages}");
    let survey = survey(&database, &rule("events")).await;
    assert_eq!((survey.total, survey.total_is_estimate), (5_000, false), "small enough to count");
}

async fn whether_a_deletion_returns_what_it_took_is_told(database: TestDatabase) {
    database.execute("CREATE TABLE people (id integer PRIMARY KEY)").await;
    let mut session = Session::open(&database).await;
    let tried = session.try_execute("DELETE FROM people WHERE id = 0 RETURNING id").await;
    assert_eq!(inspect(&database, "people").await.returns_deleted, tried.is_ok());
}

#[tokio::test]
async fn in_mysql_what_a_role_brings_is_not_known_to_be_missing() {
    let database = crate::support::fresh_mysql().await;
    database.execute("CREATE TABLE people (id integer PRIMARY KEY, at DATETIME)").await;
    let url = database.restricted_user(&["SELECT ON people"]).await;
    let user = url.split(['/', ':']).nth(3).unwrap();
    let role = crate::support::unique("role");
    database
        .execute(&format!(
            "CREATE ROLE {role}; GRANT DELETE ON people TO {role}; GRANT {role} TO {user}@'%'"
        ))
        .await;
    let store = open_as(&database, &url, Access::ReadOnly);
    let may = store.inspect(&rule("people")).await.unwrap().privileges;
    database.execute(&format!("DROP ROLE {role}")).await;
    assert_eq!((may.select, may.delete), (Some(true), None));
}

#[tokio::test]
async fn keys_on_partitions_are_told_once() {
    let database = crate::support::fresh_postgres().await;
    database
        .execute(
            "CREATE TABLE events (id integer PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF events FOR VALUES FROM (0) TO (10);
             CREATE TABLE high PARTITION OF events FOR VALUES FROM (10) TO (20);
             CREATE TABLE notes (event integer, FOREIGN KEY (event) REFERENCES events,
                 FOREIGN KEY (event) REFERENCES low);
             CREATE TABLE parts (event integer REFERENCES events) PARTITION BY LIST (event);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)",
        )
        .await;
    for (table, told) in [
        ("events", ["notes", "parts"].as_slice()),
        ("low", &["notes", "parts"]),
        ("high", &["notes", "parts"]),
        ("notes", &[]),
    ] {
        let table = inspect(&database, table).await;
        let mut found: Vec<_> = table.referenced_by.iter().map(|r| r.table.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found, told, "{}", table.name);
    }
}
