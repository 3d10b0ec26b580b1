//! Every way to tamper with the audit log that SQL allows, and that each is found.

use expunged::audit::{Entry, Event, Hash};
use expunged::ledger::{Ledger, Problem};
use sqlx::{AnyConnection, AssertSqlSafe, Executor, Row};

use super::{Place, assert_valid, at, history, lift_fence, refused, verify, write};

/// Puts the log back to how it was before the last tampering.
async fn restore(connection: &mut AnyConnection) {
    connection
        .execute(
            "DELETE FROM audit_entry; INSERT INTO audit_entry SELECT * FROM saved_entry; \
             DELETE FROM audit_head; INSERT INTO audit_head SELECT * FROM saved_head",
        )
        .await
        .unwrap();
}

pub(crate) async fn every_tampering_is_found(place: Place) {
    let ledger = place.open().await;
    write(&ledger, &history()).await;
    let old_head = ledger.checkpoint().await.unwrap();
    write(&ledger, &[refused(10)]).await;
    let mut connection = place.connect().await;
    lift_fence(&place, &mut connection).await;
    connection
        .execute(
            "CREATE TABLE saved_entry AS SELECT * FROM audit_entry; \
             CREATE TABLE saved_head AS SELECT * FROM audit_head",
        )
        .await
        .unwrap();

    // One byte of each column of the first entry, one in the middle and the last.
    for position in [0, 3, 6] {
        for column in ["at", "kind", "rule", "store", "run_id", "entry", "leaf_hash"] {
            if flip_byte(&mut connection, position, column).await {
                let problems = verify(&ledger).await.problems;
                assert!(!problems.is_empty(), "{column} of {position}");
                let named = problems.iter().any(|problem| match problem {
                    Problem::LeafHash { position: found } => {
                        ["entry", "leaf_hash"].contains(&column) && *found == position
                    }
                    Problem::Column { position: found, column: name } => {
                        *name == column && *found == position
                    }
                    _ => false,
                });
                assert!(named, "{column} of {position}: {problems:?}");
                restore(&mut connection).await;
            }
        }
    }
    assert_valid(&ledger, 7).await;

    let other_head = old_head.replace('\n', "\n ");
    for (what, statement) in tamperings() {
        for statement in statement.split(';') {
            let query = sqlx::query(AssertSqlSafe(statement.replace("old_head", "$1")));
            let query = if statement.contains("old_head") { query.bind(&old_head) } else { query };
            query.execute(&mut connection).await.unwrap();
        }
        let found = verify(&ledger).await;
        assert!(!found.is_valid(), "{what} was not found");
        restore(&mut connection).await;
    }
    for note in [other_head.as_str(), "", "a\n1\n"] {
        let query = sqlx::query("UPDATE audit_head SET checkpoint = $1").bind(note);
        query.execute(&mut connection).await.unwrap();
        let problems = verify(&ledger).await.problems;
        assert!(matches!(problems[..], [Problem::Checkpoint { .. }]), "{problems:?}");
        restore(&mut connection).await;
    }
    assert_valid(&ledger, 7).await;
    relabelled_entries_are_found(&ledger, &mut connection).await;
}

/// What can be done to entries and head with SQL alone. `old_head` stands for an earlier checkpoint.
fn tamperings() -> Vec<(&'static str, &'static str)> {
    vec![
        ("deleting the first", "DELETE FROM audit_entry WHERE position = 0"),
        ("deleting one in the middle", "DELETE FROM audit_entry WHERE position = 3"),
        ("deleting the last", "DELETE FROM audit_entry WHERE position = 6"),
        ("deleting all", "DELETE FROM audit_entry"),
        (
            "deleting the first and closing the gap",
            "DELETE FROM audit_entry WHERE position = 0; \
             UPDATE audit_entry SET position = position + 100; \
             UPDATE audit_entry SET position = position - 101",
        ),
        (
            "swapping two",
            "UPDATE audit_entry SET position = 99 WHERE position = 2; \
             UPDATE audit_entry SET position = 2 WHERE position = 4; \
             UPDATE audit_entry SET position = 4 WHERE position = 99",
        ),
        ("moving one away", "UPDATE audit_entry SET position = 99 WHERE position = 3"),
        (
            "appending a copy",
            "INSERT INTO audit_entry SELECT 7, at, kind, rule, store, run_id, entry, leaf_hash \
             FROM audit_entry WHERE position = 6",
        ),
        (
            "inserting a copy",
            "UPDATE audit_entry SET position = position + 100 WHERE position > 2; \
             UPDATE audit_entry SET position = position - 99 WHERE position > 2; \
             INSERT INTO audit_entry SELECT 3, at, kind, rule, store, run_id, entry, leaf_hash \
             FROM audit_entry WHERE position = 2",
        ),
        (
            "copying one over another",
            "DELETE FROM audit_entry WHERE position = 4; \
             INSERT INTO audit_entry SELECT 4, at, kind, rule, store, run_id, entry, leaf_hash \
             FROM audit_entry WHERE position = 3",
        ),
        ("forgetting what rule it was", "UPDATE audit_entry SET rule = NULL WHERE position = 3"),
        ("inventing a rule", "UPDATE audit_entry SET rule = 'inactive' WHERE position = 0"),
        ("an unreadable entry", "UPDATE audit_entry SET entry = '{}' WHERE position = 2"),
        ("another size", "UPDATE audit_head SET size = 6"),
        ("an earlier checkpoint", "UPDATE audit_head SET checkpoint = old_head"),
        ("an earlier checkpoint and size", "UPDATE audit_head SET size = 6, checkpoint = old_head"),
        (
            "another frontier",
            "UPDATE audit_head SET frontier = (SELECT leaf_hash FROM audit_entry WHERE position = 2)",
        ),
        ("no head", "DELETE FROM audit_head"),
    ]
}

/// Changes one byte in the middle of a value and says whether there was a value.
async fn flip_byte(connection: &mut AnyConnection, position: i64, column: &str) -> bool {
    let select = format!("SELECT {column} FROM audit_entry WHERE position = $1");
    let row = sqlx::query(AssertSqlSafe(select)).bind(position);
    let row = row.fetch_one(&mut *connection).await.unwrap();
    let update = format!("UPDATE audit_entry SET {column} = $1 WHERE position = $2");
    let update = sqlx::query(AssertSqlSafe(update));
    let flip = |bytes: &mut [u8]| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let update = if column == "leaf_hash" {
        let mut bytes: Vec<u8> = row.get(0);
        flip(&mut bytes);
        update.bind(bytes)
    } else {
        let Some(text) = row.get::<Option<String>, _>(0) else { return false };
        let mut bytes = text.into_bytes();
        flip(&mut bytes);
        update.bind(String::from_utf8(bytes).unwrap())
    };
    update.bind(position).execute(connection).await.unwrap();
    true
}

/// Somebody who knows the formats rewrites an entry with all that depends on it but the signature.
async fn relabelled_entries_are_found(ledger: &Ledger, connection: &mut AnyConnection) {
    let forged = Entry { at: at(3), event: Event::DaemonStopped { reason: "nothing".into() } };
    let json = forged.to_json().unwrap();
    sqlx::query(
        "UPDATE audit_entry SET kind = 'daemon_stopped', rule = NULL, store = NULL, run_id = NULL, \
         entry = $1, leaf_hash = $2 WHERE position = 3",
    )
    .bind(&json)
    .bind(Hash::leaf(json.as_bytes()).0.as_slice())
    .execute(&mut *connection)
    .await
    .unwrap();
    let problems = verify(ledger).await.problems;
    assert!(matches!(problems[..], [Problem::Root { .. }]), "{problems:?}");
    restore(connection).await;
}

/// Somebody rebuilds the tables without what SQLite checks, and puts anything into them.
#[tokio::test]
async fn tables_without_constraints_hide_nothing() {
    let place = Place::sqlite().await;
    let ledger = place.open().await;
    write(&ledger, &history()).await;
    let mut connection = place.connect().await;
    connection
        .execute(
            "CREATE TABLE loose (position, at, kind, rule, store, run_id, entry, leaf_hash); \
             INSERT INTO loose SELECT * FROM audit_entry; DROP TABLE audit_entry; \
             ALTER TABLE loose RENAME TO audit_entry; \
             CREATE TABLE saved_entry AS SELECT * FROM audit_entry; \
             CREATE TABLE loose (id, size, frontier, checkpoint); \
             INSERT INTO loose SELECT * FROM audit_head; DROP TABLE audit_head; \
             ALTER TABLE loose RENAME TO audit_head; \
             CREATE TABLE saved_head AS SELECT * FROM audit_head",
        )
        .await
        .unwrap();
    assert_valid(&ledger, 6).await;
    let copy = |position: &str| {
        format!(
            "INSERT INTO audit_entry SELECT {position}, at, kind, rule, store, run_id, entry, \
             leaf_hash FROM audit_entry WHERE position = 5"
        )
    };
    let columns = ["at", "kind", "rule", "store", "run_id", "entry", "leaf_hash"];
    let odd = ["CAST(x'ff' AS TEXT)", "x'ff'", "7", "2.5", "NULL"];
    let change = |(column, value): (&str, &str)| {
        format!("UPDATE audit_entry SET {column} = {value} WHERE position = 3")
    };
    let mut statements: Vec<String> =
        ["NULL", "'abc'", "x'00'", "2.5", "-1", "5", "9223372036854775807"].map(copy).into();
    statements.extend(
        columns.into_iter().flat_map(|column| odd.map(|value| (column, value))).map(change),
    );
    for column in ["size", "frontier", "checkpoint"] {
        statements.extend(odd.map(|value| format!("UPDATE audit_head SET {column} = {value}")));
    }
    statements.push("INSERT INTO audit_head SELECT * FROM audit_head".into());
    for statement in statements {
        connection.execute(AssertSqlSafe(statement.clone())).await.unwrap();
        assert!(!verify(&ledger).await.is_valid(), "{statement}");
        restore(&mut connection).await;
    }
    assert_valid(&ledger, 6).await;
}
