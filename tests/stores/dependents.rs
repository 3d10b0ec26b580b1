//! Rows of other tables go with the records that they point at, and are counted.

use std::time::Duration;

use expunged::plan::{DependentRows, OnDelete};
use expunged::rule::{Dependent, Link, Rule};
use expunged::store::sql::{Access, Mismatch};
use expunged::store::{Store, Target};

use crate::common::{
    bounds, ids, mismatches, moment_type, numbers, on_each_database, open, open_as, replace, rows,
    rule, survey,
};
use crate::support::{Kind, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

on_each_database! {
    children_and_theirs_go_first_and_are_counted,
    what_nobody_names_and_refuses_keeps_its_record,
    a_reference_that_is_emptied_is_counted,
    a_table_goes_by_the_key_that_is_meant,
    keys_of_several_columns_are_followed,
    a_table_that_points_at_itself_goes_as_a_tree,
    rows_that_point_at_one_another_in_a_circle_go,
    a_rules_own_table_goes_as_a_tree,
    a_column_without_a_foreign_key_is_compared_exactly,
    what_is_named_in_vain_is_said,
    a_batch_is_as_large_as_all_that_it_removes,
    a_plan_counts_what_goes_along,
    a_condition_on_dependents_holds_until_its_record_goes,
    null_is_pointed_at_by_nothing,
    two_ways_to_the_same_rows_count_them_once,
}

/// A rule on `table` with which rows of these tables go.
fn with(table: &str, names: &[&str]) -> Rule {
    let mut rule = rule(table);
    rows(&mut rule).dependents =
        names.iter().map(|name| Dependent { table: name.parse().unwrap(), link: None }).collect();
    rule
}

fn linked(table: &str, name: &str, column: &str, references: &str) -> Rule {
    let mut rule = rule(table);
    let link = Link { column: column.into(), references: references.into() };
    rows(&mut rule).dependents = vec![Dependent { table: name.parse().unwrap(), link: Some(link) }];
    rule
}

/// What a run took: the records, what went along, and how large the batches were with that.
struct Taken {
    ids: Vec<i64>,
    along: Vec<(String, u64, u64)>,
    batches: Vec<u64>,
}

impl Taken {
    fn along(&self) -> Vec<(&str, u64, u64)> {
        self.along.iter().map(|(table, gone, changed)| (table.as_str(), *gone, *changed)).collect()
    }
}

/// Walks a table by a rule to its end, committing each batch.
async fn take(database: &TestDatabase, rule: &Rule) -> Taken {
    let store = open(database, Access::ReadWrite);
    let target = store.target(rule).await.unwrap();
    let taken = take_all(&store, &target).await;
    store.close().await;
    taken
}

async fn take_all(store: &Store, target: &Target) -> Taken {
    let (mut keys, mut along, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    let mut walk = store.walk(target, bounds(), 1_000_000, 1_000_000).unwrap();
    let mut pace = walk.pace();
    while let Some(batch) =
        store.take(target, bounds(), &mut walk, &mut pace, &replace).await.unwrap()
    {
        assert!(batches.len() < 5_000, "this walk does not end");
        if !batch.is_part {
            walk.advance(batch.window.as_ref(), batch.keys.len() as u64);
        }
        pace.note(Duration::from_millis(1), batch.rows());
        keys.extend(batch.keys.iter().cloned());
        DependentRows::add(&mut along, &batch.dependents);
        batches.push(batch.rows());
        batch.commit().await.unwrap();
    }
    batches.retain(|rows| *rows > 0);
    let along = along.into_iter().map(|rows| (rows.table, rows.records, rows.changed)).collect();
    Taken { ids: numbers(&keys), along, batches }
}

const OLD: &str = "'2020-01-01 00:00:00'";
const NEW: &str = "'2025-01-01 00:00:00'";

/// Users 1 and 2 are due, 3 is not; each has two orders, and each of those two items.
async fn shop(database: &TestDatabase, on_delete: &str) {
    let at = moment_type(database);
    let mut sql = format!(
        "CREATE TABLE users (id integer PRIMARY KEY, at {at});
         CREATE TABLE orders (id integer PRIMARY KEY, buyer integer, \
             FOREIGN KEY (buyer) REFERENCES users (id) {on_delete});
         CREATE TABLE items (id integer PRIMARY KEY, ordered integer, \
             FOREIGN KEY (ordered) REFERENCES orders (id) {on_delete});"
    );
    for user in 1..=3 {
        let at = if user < 3 { OLD } else { NEW };
        sql.push_str(&format!("INSERT INTO users VALUES ({user}, {at});"));
        for order in [10 * user, 10 * user + 1] {
            sql.push_str(&format!(
                "INSERT INTO orders VALUES ({order}, {user});
                 INSERT INTO items VALUES ({order}0, {order}), ({order}1, {order});"
            ));
        }
    }
    database.execute(&sql).await;
}

async fn children_and_theirs_go_first_and_are_counted(database: TestDatabase) {
    shop(&database, "").await;
    let taken = take(&database, &with("users", &["orders", "items"])).await;
    assert_eq!(taken.ids, [1, 2]);
    assert_eq!(taken.along(), [("items", 8, 0), ("orders", 4, 0)]);
    assert_eq!(ids(&database, "id", "users").await, [3]);
    assert_eq!(ids(&database, "id", "orders").await, [30, 31]);
    assert_eq!(ids(&database, "id", "items").await, [300, 301, 310, 311]);
}

async fn what_nobody_names_and_refuses_keeps_its_record(database: TestDatabase) {
    shop(&database, "").await;
    let store = open(&database, Access::ReadWrite);
    let target = store.target(&with("users", &["orders"])).await.unwrap();
    let mut walk = store.walk(&target, bounds(), 2, 3).unwrap();
    let mut pace = walk.pace();
    let refused = store.take(&target, bounds(), &mut walk, &mut pace, &replace).await;
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("with = [\"") && error.contains("items\"]"), "{error}");
    store.close().await;
    assert_eq!(ids(&database, "id", "orders").await.len(), 6, "nothing has gone");
}

async fn a_reference_that_is_emptied_is_counted(database: TestDatabase) {
    shop(&database, "ON DELETE CASCADE").await;
    database
        .execute(
            "CREATE TABLE visits (id integer PRIMARY KEY, visitor integer, \
                 FOREIGN KEY (visitor) REFERENCES users (id) ON DELETE SET NULL);
             INSERT INTO visits VALUES (1, 1), (2, 1), (3, 3)",
        )
        .await;
    let taken = take(&database, &rule("users")).await;
    assert_eq!(taken.along(), [("items", 8, 0), ("orders", 4, 0), ("visits", 0, 2)]);
    assert_eq!(ids(&database, "id", "visits WHERE visitor IS NULL").await, [1, 2]);
}

async fn a_table_goes_by_the_key_that_is_meant(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE users (id integer PRIMARY KEY, at {at});
             CREATE TABLE posts (id integer PRIMARY KEY, author integer, editor integer, \
                 FOREIGN KEY (author) REFERENCES users (id), \
                 FOREIGN KEY (editor) REFERENCES users (id) ON DELETE SET NULL);
             CREATE TABLE notes (id integer PRIMARY KEY, owner integer, \
                 FOREIGN KEY (owner) REFERENCES users (id) ON DELETE SET NULL);
             INSERT INTO users VALUES (1, {OLD}), (2, {NEW});
             INSERT INTO posts VALUES (1, 1, 2), (2, 2, 1), (3, 2, 2);
             INSERT INTO notes VALUES (1, 1), (2, 2)"
        ))
        .await;
    let taken = take(&database, &with("users", &["posts", "notes"])).await;
    assert_eq!(taken.along(), [("notes", 1, 0), ("posts", 1, 1)]);
    assert_eq!(ids(&database, "id", "posts").await, [2, 3], "what it only edited stays");
    assert_eq!(ids(&database, "id", "posts WHERE editor IS NULL").await, [2]);
}

async fn keys_of_several_columns_are_followed(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE users (shop integer, nr varchar(9), at {at}, PRIMARY KEY (shop, nr));
             CREATE TABLE carts (id integer PRIMARY KEY, shop integer, nr varchar(9), \
                 FOREIGN KEY (shop, nr) REFERENCES users (shop, nr));
             CREATE TABLE cart_lines (id integer PRIMARY KEY, cart integer, \
                 FOREIGN KEY (cart) REFERENCES carts (id));
             INSERT INTO users VALUES (1, 'a', {OLD}), (1, 'b', {NEW}), (2, 'a', {NEW});
             INSERT INTO carts VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 2, 'a'), (4, 1, NULL), (5, 1, 'a');
             INSERT INTO cart_lines VALUES (1, 1), (2, 2), (3, 3), (4, 5), (5, NULL)"
        ))
        .await;
    let store = open(&database, Access::ReadWrite);
    let target = store.target(&with("users", &["carts", "cart_lines"])).await.unwrap();
    let mut walk = store.walk(&target, bounds(), 3, 3).unwrap();
    let mut pace = walk.pace();
    let batch =
        store.take(&target, bounds(), &mut walk, &mut pace, &replace).await.unwrap().unwrap();
    assert_eq!(batch.rows(), 5);
    batch.commit().await.unwrap();
    store.close().await;
    assert_eq!(ids(&database, "id", "carts").await, [2, 3, 4]);
    assert_eq!(ids(&database, "id", "cart_lines").await, [2, 3, 5]);
}

async fn a_table_that_points_at_itself_goes_as_a_tree(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE users (id integer PRIMARY KEY, at {at});
             CREATE TABLE comments (id integer PRIMARY KEY, author integer, answers integer, \
                 FOREIGN KEY (author) REFERENCES users (id), \
                 FOREIGN KEY (answers) REFERENCES comments (id));
             CREATE TABLE likes (id integer PRIMARY KEY, liked integer, \
                 FOREIGN KEY (liked) REFERENCES comments (id));
             INSERT INTO users VALUES (1, {OLD}), (2, {NEW});
             INSERT INTO comments VALUES (1, 2, NULL), (2, 1, 1), (3, 2, 2), (4, 1, 3), (5, 2, 4), (6, 2, 1);
             INSERT INTO likes VALUES (1, 1), (2, 2), (3, 5), (4, 6)"
        ))
        .await;
    let taken = take(&database, &with("users", &["comments", "likes"])).await;
    assert_eq!(taken.ids, [1]);
    assert_eq!(taken.along(), [("comments", 4, 0), ("likes", 2, 0)]);
    assert_eq!(ids(&database, "id", "comments").await, [1, 6]);
    assert_eq!(ids(&database, "id", "likes").await, [1, 4]);
}

async fn rows_that_point_at_one_another_in_a_circle_go(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE users (id integer PRIMARY KEY, at {at});
             CREATE TABLE pages (id integer PRIMARY KEY, owner integer, up integer, \
                 FOREIGN KEY (owner) REFERENCES users (id), \
                 FOREIGN KEY (up) REFERENCES pages (id) ON DELETE CASCADE);
             INSERT INTO users VALUES (1, {OLD}), (2, {NEW});
             INSERT INTO pages VALUES (1, 1, NULL), (2, 2, 1), (3, 1, NULL), (4, 2, NULL);
             UPDATE pages SET up = 2 WHERE id = 1;
             UPDATE pages SET up = 3 WHERE id = 3"
        ))
        .await;
    let taken = take(&database, &with("users", &["pages"])).await;
    assert_eq!(taken.along(), [("pages", 3, 0)]);
    assert_eq!(ids(&database, "id", "pages").await, [4]);
}

async fn a_rules_own_table_goes_as_a_tree(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE folders (id integer PRIMARY KEY, up integer, at {at}, \
                 FOREIGN KEY (up) REFERENCES folders (id));
             CREATE TABLE files (id integer PRIMARY KEY, folder integer, \
                 FOREIGN KEY (folder) REFERENCES folders (id));
             INSERT INTO folders VALUES (1, NULL, {OLD}), (2, 1, {OLD}), (3, 2, {NEW}), (4, NULL, {NEW}), (5, 4, {NEW});
             INSERT INTO files VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)"
        ))
        .await;
    let taken = take(&database, &with("folders", &["folders", "files"])).await;
    assert_eq!(taken.ids, [1, 2]);
    assert_eq!(taken.along(), [("files", 3, 0), ("folders", 1, 0)], "a due one is no dependent");
    assert_eq!(ids(&database, "id", "folders").await, [4, 5]);
    assert_eq!(ids(&database, "id", "files").await, [4, 5]);
}

async fn a_column_without_a_foreign_key_is_compared_exactly(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE users (id integer PRIMARY KEY, login varchar(20), at {at});
             CREATE TABLE sessions (id integer PRIMARY KEY, login varchar(20));
             INSERT INTO users VALUES (1, 'ada', {OLD}), (2, 'bob', {NEW}), (3, NULL, {OLD});
             INSERT INTO sessions VALUES (1, 'ada'), (2, 'ADA'), (3, 'bob'), (4, NULL), (5, 'ada')"
        ))
        .await;
    let taken = take(&database, &linked("users", "sessions", "login", "login")).await;
    assert_eq!(taken.ids, [1, 3]);
    assert_eq!(taken.along(), [("sessions", 2, 0)]);
    assert_eq!(ids(&database, "id", "sessions").await, [2, 3, 4]);
}

async fn what_is_named_in_vain_is_said(database: TestDatabase) {
    shop(&database, "").await;
    database.execute("CREATE TABLE logs (id integer PRIMARY KEY, who varchar(9))").await;
    let why = async |rule: &Rule| -> Vec<String> {
        let all = mismatches(&database, rule).await;
        let why = |mismatch: Mismatch| match mismatch {
            Mismatch::Dependent { table, why } => format!("{table}: {why}"),
            other => panic!("{other}"),
        };
        all.into_iter().map(why).collect()
    };
    let said = why(&with("users", &["logs", "nowhere", "items"])).await;
    assert!(said[0].starts_with("nowhere: there is none"), "{said:?}");
    assert!(said[1].starts_with("logs: no foreign key"), "{said:?}");
    assert!(
        said[2].starts_with("items: no foreign key"),
        "the table between is not named: {said:?}"
    );
    let said = why(&linked("users", "logs", "who", "id")).await;
    assert!(said[0].contains("can be compared surely"), "{said:?}");
    let said = why(&linked("users", "logs", "whom", "id")).await;
    assert!(said[0].contains("no column `whom` in logs, which has id, who"), "{said:?}");
}

async fn a_batch_is_as_large_as_all_that_it_removes(database: TestDatabase) {
    let at = moment_type(&database);
    let numbers = crate::common::numbers_below(30_000);
    database
        .execute(&format!(
            "CREATE TABLE users (id integer PRIMARY KEY, at {at});
             CREATE TABLE logins (id integer PRIMARY KEY, who integer, \
                 FOREIGN KEY (who) REFERENCES users (id) ON DELETE CASCADE);
             CREATE INDEX by_who ON logins (who);
             INSERT INTO users SELECT n, {OLD} FROM {};
             INSERT INTO logins SELECT n, CASE WHEN n < 12000 THEN 7 ELSE n % 300 END FROM {numbers}",
            crate::common::numbers_below(300)
        ))
        .await;
    let taken = take(&database, &rule("users")).await;
    assert_eq!(taken.ids.len(), 300);
    assert_eq!(taken.along(), [("logins", 30_000, 0)]);
    assert_eq!(ids(&database, "id", "logins").await.len(), 0);
    let (huge, others): (Vec<u64>, Vec<u64>) =
        taken.batches.iter().partition(|rows| **rows > 5_000);
    assert_eq!(huge, [12_061], "the one with thousands goes alone");
    assert!(others.len() >= 4, "{others:?}");
}

async fn a_plan_counts_what_goes_along(database: TestDatabase) {
    shop(&database, "").await;
    let found = survey(&database, &with("users", &["orders"])).await;
    let found: Vec<_> = found
        .dependents
        .iter()
        .map(|rows| (rows.table.as_str(), rows.on_delete, rows.rows))
        .collect();
    assert_eq!(found, [("orders", OnDelete::Cascade, 4), ("items", OnDelete::Refuse, 8)]);
    let found = survey(&database, &rule("users")).await;
    let found: Vec<_> = found
        .dependents
        .iter()
        .map(|rows| (rows.table.as_str(), rows.on_delete, rows.rows))
        .collect();
    assert_eq!(found, [("orders", OnDelete::Refuse, 4)]);
}

async fn a_condition_on_dependents_holds_until_its_record_goes(database: TestDatabase) {
    shop(&database, "").await;
    let condition = "EXISTS (SELECT 1 FROM orders WHERE buyer = users.id AND orders.id < 20)";
    let mut rule = crate::common::rule_where(&database, "users", condition);
    let named = with("users", &["orders", "items"]);
    rows(&mut rule).dependents = named.rows().unwrap().dependents.clone();
    let taken = take(&database, &rule).await;
    assert_eq!(
        (taken.ids.as_slice(), taken.along()),
        ([1].as_slice(), vec![("items", 4, 0), ("orders", 2, 0)])
    );
}

async fn null_is_pointed_at_by_nothing(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE users (id integer PRIMARY KEY, card integer UNIQUE, at {at});
             CREATE TABLE visits (id integer PRIMARY KEY, card integer, \
                 FOREIGN KEY (card) REFERENCES users (card) ON DELETE CASCADE);
             INSERT INTO users VALUES (1, NULL, {OLD}), (2, 5, {OLD});
             INSERT INTO visits VALUES (1, NULL), (2, 5)"
        ))
        .await;
    let taken = take(&database, &rule("users")).await;
    assert_eq!((taken.ids.len(), taken.along()), (2, vec![("visits", 1, 0)]));
    assert_eq!(ids(&database, "id", "visits").await, [1]);
}

async fn two_ways_to_the_same_rows_count_them_once(database: TestDatabase) {
    let at = moment_type(&database);
    database
        .execute(&format!(
            "CREATE TABLE users (id integer PRIMARY KEY, at {at});
             CREATE TABLE chats (id integer PRIMARY KEY, owner integer, \
                 FOREIGN KEY (owner) REFERENCES users (id));
             CREATE TABLE messages (id integer PRIMARY KEY, sender integer, receiver integer, chat integer, \
                 FOREIGN KEY (sender) REFERENCES users (id), \
                 FOREIGN KEY (receiver) REFERENCES users (id), \
                 FOREIGN KEY (chat) REFERENCES chats (id));
             INSERT INTO users VALUES (1, {OLD}), (2, {OLD}), (3, {NEW}), (4, {NEW});
             INSERT INTO chats VALUES (1, 1), (2, 3);
             INSERT INTO messages VALUES (1, 1, 2, 1), (2, 3, 1, 2), (3, 3, 4, 1), (4, 3, 4, 2)"
        ))
        .await;
    let taken = take(&database, &with("users", &["messages", "chats"])).await;
    assert_eq!(taken.along(), [("chats", 1, 0), ("messages", 3, 0)]);
    assert_eq!(ids(&database, "id", "messages").await, [4]);
}

#[tokio::test]
async fn who_may_delete_and_not_update_takes_rows_along() {
    for database in [fresh_postgres().await, fresh_mysql().await] {
        shop(&database, "ON DELETE RESTRICT").await;
        let tables = ["users", "orders", "items"];
        let grants = tables.map(|table| format!("SELECT, DELETE ON {table}"));
        let url = database.restricted_user(&grants.each_ref().map(String::as_str)).await;
        let store = open_as(&database, &url, Access::ReadWrite);
        let target = store.target(&with("users", &["orders", "items"])).await.unwrap();
        let taken = take_all(&store, &target).await;
        store.close().await;
        assert_eq!(
            (taken.ids.as_slice(), taken.along()),
            ([1, 2].as_slice(), vec![("items", 8, 0), ("orders", 4, 0)])
        );
    }
}

#[tokio::test]
async fn who_may_not_delete_leaves_a_cascade_to_the_database_and_counts() {
    for database in [fresh_postgres().await, fresh_mysql().await] {
        shop(&database, "ON DELETE CASCADE").await;
        let grants = ["SELECT, DELETE ON users", "SELECT ON orders"];
        let url = database.restricted_user(&grants).await;
        let store = open_as(&database, &url, Access::ReadWrite);
        let target = store.target(&rule("users")).await.unwrap();
        let taken = take_all(&store, &target).await;
        store.close().await;
        assert_eq!(
            (taken.ids.as_slice(), taken.along()),
            ([1, 2].as_slice(), vec![("orders", 4, 0)])
        );
        assert_eq!(ids(&database, "id", "items").await, [300, 301, 310, 311]);
    }
}

#[tokio::test]
async fn a_row_that_somebody_is_adding_goes_along_or_is_refused() {
    for database in [fresh_postgres().await, fresh_mysql().await] {
        shop(&database, "").await;
        let add = "INSERT INTO orders VALUES (99, 1)";
        let mut other = crate::common::Session::in_the_middle(&database, add).await;
        let named = with("users", &["orders", "items"]);
        let (taken, ()) = tokio::join!(take(&database, &named), async {
            someone_waits(&database).await;
            other.execute("COMMIT").await;
        });
        assert_eq!(taken.along(), [("items", 8, 0), ("orders", 5, 0)], "{:?}", database.kind);
    }
}

/// The look at the due records saw no contract. Once what goes along is gone nobody could ask again.
#[tokio::test]
async fn what_is_due_no_more_when_it_would_go_keeps_its_dependents() {
    for database in [fresh_postgres().await, fresh_mysql().await] {
        shop(&database, "").await;
        database.execute("CREATE TABLE contracts (id integer PRIMARY KEY, client integer)").await;
        let condition = "NOT EXISTS (SELECT 1 FROM contracts WHERE client = users.id)";
        let mut rule = crate::common::rule_where(&database, "users", condition);
        let named = with("users", &["orders", "items"]);
        rows(&mut rule).dependents = named.rows().unwrap().dependents.clone();
        let store = open(&database, Access::ReadWrite);
        let target = store.target(&rule).await.unwrap();
        let mut walk = store.walk(&target, bounds(), 2, 3).unwrap();
        let mut pace = walk.pace();
        // The look waits for the second user, while somebody concludes a contract with the first.
        let hold = format!("UPDATE users SET at = {OLD} WHERE id = 2");
        let mut other = crate::common::Session::in_the_middle(&database, &hold).await;

        let (taken, ()) =
            tokio::join!(store.take(&target, bounds(), &mut walk, &mut pace, &replace), async {
                someone_waits(&database).await;
                other.execute("INSERT INTO contracts VALUES (1, 1)").await;
                other.execute("COMMIT").await;
            });

        let error = taken.err().expect("one of the two is due no more");
        assert!(error.is_transient(), "{:?}: {error}", database.kind);
        let taken = take_all(&store, &target).await;
        store.close().await;
        assert_eq!(
            (taken.ids.as_slice(), taken.along()),
            ([2].as_slice(), vec![("items", 4, 0), ("orders", 2, 0)])
        );
        assert_eq!(ids(&database, "id", "orders").await, [10, 11, 30, 31]);
    }
}

/// Makes a trigger that has the row 3 of a table stay.
async fn keep_third(database: &TestDatabase, table: &str) {
    let does = match database.kind {
        Kind::Postgres => "FOR EACH ROW WHEN (OLD.id = 3) EXECUTE FUNCTION keep()",
        _ => "WHEN OLD.id = 3 BEGIN SELECT RAISE(IGNORE); END",
    };
    database
        .execute(&format!("CREATE TRIGGER keeps_{table} BEFORE DELETE ON {table} {does}"))
        .await;
}

async fn keep_no_more(database: &TestDatabase, table: &str) {
    let on = if database.kind == Kind::Postgres { format!(" ON {table}") } else { String::new() };
    database.execute(&format!("DROP TRIGGER keeps_{table}{on}")).await;
}

/// Fewer rows go than were meant where one goes with another, and where a trigger keeps one.
#[tokio::test]
async fn what_a_trigger_keeps_of_a_table_that_points_at_itself_is_not_counted() {
    for database in [fresh_postgres().await, fresh_sqlite().await] {
        let at = moment_type(&database);
        if database.kind == Kind::Postgres {
            let keep = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
            database.execute(keep).await;
        }
        database
            .execute(&format!(
                "CREATE TABLE folders (id integer PRIMARY KEY, up integer, at {at}, \
                     FOREIGN KEY (up) REFERENCES folders (id) ON DELETE CASCADE);
                 INSERT INTO folders VALUES (1, NULL, {OLD}), (2, 1, {OLD}), (3, NULL, {OLD});
                 CREATE TABLE users (id integer PRIMARY KEY, at {at});
                 CREATE TABLE notes (id integer PRIMARY KEY, author integer, answers integer, \
                     FOREIGN KEY (answers) REFERENCES notes (id) ON DELETE CASCADE);
                 INSERT INTO users VALUES (1, {OLD});
                 INSERT INTO notes VALUES (1, 1, NULL), (2, 1, 1), (3, 1, NULL)"
            ))
            .await;
        let store = open(&database, Access::ReadWrite);
        // No foreign key says that the notes are the user's: none refuses that the user goes without them.
        let notes = linked("users", "notes", "author", "id");
        for (table, rule) in [("folders", rule("folders")), ("notes", notes)] {
            keep_third(&database, table).await;
            let target = store.target(&rule).await.unwrap();
            let mut walk = store.walk(&target, bounds(), 3, 3).unwrap();
            let mut pace = walk.pace();
            let taken = store.take(&target, bounds(), &mut walk, &mut pace, &replace).await;
            let error = taken.err().unwrap_or_else(|| panic!("one of the {table} is there"));
            assert!(error.is_transient(), "{:?}: {error}", database.kind);
            assert_eq!(ids(&database, "id", table).await, [1, 2, 3], "all of it is undone");
            keep_no_more(&database, table).await;
            let mut walk = store.walk(&target, bounds(), 3, 3).unwrap();
            let taken = store.take(&target, bounds(), &mut walk, &mut pace, &replace).await;
            let batch = taken.unwrap().unwrap();
            assert_eq!(batch.rows(), if table == "folders" { 3 } else { 4 });
            batch.commit().await.unwrap();
        }
        store.close().await;
    }
}

/// Returns once somebody in this database waits for a lock.
async fn someone_waits(database: &TestDatabase) {
    if database.kind == Kind::Postgres {
        return crate::common::someone_waits(database).await;
    }
    let waiting = "SELECT count(*) FROM information_schema.processlist \
                   WHERE db = DATABASE() AND info LIKE '%FOR UPDATE%' AND id <> connection_id() AND time_ms > 50";
    while database.count(waiting).await == 0 {
        tokio::task::yield_now().await;
    }
}
