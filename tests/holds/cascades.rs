//! No held row goes because the record that it points at does.

use expunged::audit::Event;
use expunged::hold::Terms;
use expunged::plan::DependentRows;
use expunged::run::RunState;

use crate::house::{House, moment, on_each_database, persons, rule, set, terms};
use crate::support::{Pool, TestDatabase};

const OLD: &str = "'2020-06-15 12:00:00'";

on_each_database! {
    a_record_stays_with_the_held_rows_that_point_at_it,
    a_table_that_points_at_itself_is_followed_and_then_kept,
    a_reference_that_would_be_emptied_keeps_the_record,
    holds_elsewhere_keep_nothing_here,
    a_predicate_that_names_its_table_is_refused,
    a_held_row_of_a_named_table_keeps_what_it_points_at,
    what_goes_along_is_in_the_result_and_in_the_log,
}

/// Accounts, their orders, and the items of those.
async fn shop(store: TestDatabase, on_delete: &str) -> House {
    shop_with(store, &format!("ON DELETE {on_delete}"), "").await
}

/// The same, with more in the rule on accounts.
async fn shop_with(store: TestDatabase, on_delete: &str, more: &str) -> House {
    let at = moment(&store);
    let mut sql = format!(
        "CREATE TABLE accounts (id integer PRIMARY KEY, at {at});
         CREATE TABLE orders (id integer PRIMARY KEY, account integer, buyer varchar(20), at {at},
             FOREIGN KEY (account) REFERENCES accounts (id) {on_delete});
         CREATE TABLE items (id integer PRIMARY KEY, ordered integer, state varchar(9),
             FOREIGN KEY (ordered) REFERENCES orders (id) ON DELETE CASCADE);
         CREATE TABLE others (id integer PRIMARY KEY, who integer, at {at});"
    );
    for id in 1..=4 {
        sql.push_str(&format!(
            "INSERT INTO accounts VALUES ({id}, {OLD});
             INSERT INTO orders VALUES ({id}0, {id}, 'buyer{id}', '2099-01-01 12:00:00');
             INSERT INTO items VALUES ({id}00, {id}0, 's{id}');"
        ));
    }
    let rules = rule("accounts", "accounts", more)
        + &rule("orders", "orders", "subject = \"buyer\"")
        + &rule("others", "others", "subject = \"who\"");
    House::new(store, &sql, &rules).await
}

async fn a_record_stays_with_the_held_rows_that_point_at_it(store: TestDatabase) {
    let house = shop(store, "CASCADE").await;
    // A person whom an order names; an item two steps away.
    let buyer = house.place(persons(&["buyer2"])).await;
    let item = house.place(terms(house.table("items", Some("state = 's3'")))).await;
    assert_eq!(house.due_and_held("accounts").await, (2, 2));
    let coverage = serde_json::to_value(house.runner.coverage(&item).await).unwrap();
    assert!(coverage.to_string().contains("\"rule\":\"accounts\""), "{coverage}");
    assert_eq!(house.run("accounts").await.records, 2);
    assert_eq!(house.ids("accounts").await, set(&["2", "3"]));
    assert_eq!(house.ids("orders").await, set(&["20", "30"]));
    assert_eq!(house.ids("items").await, set(&["200", "300"]));

    house.release(&buyer).await;
    house.release(&item).await;
    assert_eq!(house.run("accounts").await.records, 2);
    assert!(house.ids("items").await.is_empty());
}

async fn a_table_that_points_at_itself_is_followed_and_then_kept(store: TestDatabase) {
    let at = moment(&store);
    let mut sql = format!(
        "CREATE TABLE posts (id integer PRIMARY KEY, parent integer, author varchar(9), at {at},
             FOREIGN KEY (parent) REFERENCES posts (id) ON DELETE CASCADE);"
    );
    // Two short threads, one of them held at its end, and one that is longer than is followed.
    let threads = [(1, 3, "a"), (11, 3, "held"), (21, 7, "a")];
    for (first, length, author) in threads {
        for id in first..first + length {
            let parent = if id == first { "NULL".to_owned() } else { (id - 1).to_string() };
            let author = if id == first + length - 1 { author } else { "a" };
            // The ends of threads are young: nothing but a cascade takes them.
            let at = if id == first { OLD } else { "'2099-01-01 12:00:00'" };
            sql.push_str(&format!("INSERT INTO posts VALUES ({id}, {parent}, '{author}', {at});"));
        }
    }
    let house = House::new(store, &sql, &rule("posts", "posts", "subject = \"author\"")).await;
    let hold = house.place(persons(&["held"])).await;
    let result = house.run("posts").await;
    assert_eq!((result.state, result.records), (RunState::Done, 1), "{:?}", result.error);
    assert_eq!(house.ids("posts").await.len(), 10, "a thread of three went, the others stayed");
    house.release(&hold).await;
    assert_eq!(house.run("posts").await.records, 2);
    assert!(house.ids("posts").await.is_empty());
}

async fn a_reference_that_would_be_emptied_keeps_the_record(store: TestDatabase) {
    let house = shop(store, "SET NULL").await;
    house.place(persons(&["buyer1"])).await;
    assert_eq!(house.run("accounts").await.records, 3);
    assert_eq!(house.ids("accounts").await, set(&["1"]));
    assert_eq!(house.store.count("SELECT count(*) FROM orders WHERE account = 1").await, 1);
    // Items do not go when an order only loses its account.
    let narrow = Terms { broad: None, ..terms(house.table("items", Some("id = 0"))) };
    house.place(narrow).await;
    assert_eq!(house.due_and_held("accounts").await, (0, 1));
}

async fn holds_elsewhere_keep_nothing_here(store: TestDatabase) {
    let house = shop(store, "CASCADE").await;
    house.place(terms(house.table("others", None))).await;
    let mut nobody = persons(&["buyer1"]);
    if let expunged::hold::Scope::Subjects { store, table, .. } = &mut nobody.scope {
        *store = Some("app".parse().unwrap());
        *table = Some("others".parse().unwrap());
    }
    house.place(nobody).await;
    assert_eq!(house.due_and_held("accounts").await, (4, 0));
}

async fn a_predicate_that_names_its_table_is_refused(store: TestDatabase) {
    let house = shop(store, "CASCADE").await;
    let refused = house.try_place(terms(house.table("orders", Some("orders.id = 10")))).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("write the column alone"), "{error}");
    house.place(terms(house.table("orders", Some("id = 10")))).await;
    assert_eq!(house.due_and_held("accounts").await, (3, 1));
}

async fn a_held_row_of_a_named_table_keeps_what_it_points_at(store: TestDatabase) {
    let linked = "{ table = \"events\", column = \"who\", references = \"id\" }";
    let more = format!("with = [\"orders\", {linked}]");
    store.execute("CREATE TABLE events (id integer PRIMARY KEY, who integer)").await;
    store.execute("INSERT INTO events VALUES (1, 1), (2, 2), (4, 4)").await;
    let house = shop_with(store, "ON DELETE RESTRICT", &more).await;
    let buyer = house.place(persons(&["buyer2"])).await;
    let item = house.place(terms(house.table("items", Some("state = 's3'")))).await;
    let event = house.place(terms(house.table("events", Some("id = 4")))).await;
    assert_eq!(house.due_and_held("accounts").await, (1, 3));
    assert_eq!(house.run("accounts").await.records, 1);
    assert_eq!(house.ids("accounts").await, set(&["2", "3", "4"]));
    assert_eq!(house.ids("orders").await, set(&["20", "30", "40"]));
    assert_eq!(house.ids("items").await, set(&["200", "300", "400"]));
    assert_eq!(house.ids("events").await, set(&["2", "4"]));
    for hold in [&buyer, &item, &event] {
        house.release(hold).await;
    }
    assert_eq!(house.run("accounts").await.records, 3);
    for table in ["accounts", "orders", "items", "events"] {
        assert!(house.ids(table).await.is_empty(), "{table}");
    }
}

async fn what_goes_along_is_in_the_result_and_in_the_log(store: TestDatabase) {
    let house = shop_with(store, "ON DELETE RESTRICT", "with = [\"orders\"]").await;
    let result = house.run("accounts").await;
    assert_eq!(result.state, RunState::Done, "{:?}", result.error);
    let row = |table: &str| DependentRows { table: table.into(), records: 4, changed: 0 };
    let all = [row("items"), row("orders")];
    assert_eq!((result.records, result.dependents.as_slice()), (4, all.as_slice()));
    let logged: Vec<_> = house.events("batch_done").await;
    let [Event::BatchDone { records: 4, dependents, .. }] = logged.as_slice() else {
        panic!("{logged:?}")
    };
    assert_eq!(dependents.as_slice(), all);
}

/// Changes an order in a transaction of somebody else, which is committed once the run waits for it.
macro_rules! with_a_late_change {
    ($pool:expr, $change:expr, $waits:expr, $house:expr) => {{
        let mut other = $pool.begin().await.unwrap();
        sqlx::raw_sql($change).execute(&mut *other).await.unwrap();
        let commit = async {
            while $house.store.count($waits).await == 0 {
                tokio::task::yield_now().await;
            }
            other.commit().await.unwrap();
        };
        tokio::join!($house.run("accounts"), commit).0
    }};
}

const LATE: [&str; 2] = [
    "INSERT INTO orders VALUES (11, 1, 'held', '2099-01-01 12:00:00')",
    "UPDATE orders SET buyer = 'held' WHERE id = 10",
];

#[tokio::test]
async fn a_row_that_is_held_only_when_the_deletion_reaches_it_stays() {
    let ways = ["CASCADE", "RESTRICT"];
    for (change, on_delete) in LATE.into_iter().flat_map(|change| ways.map(|way| (change, way))) {
        for store in [crate::support::fresh_postgres().await, crate::support::fresh_mysql().await] {
            let (on_delete, named) = (format!("ON DELETE {on_delete}"), "with = [\"orders\"]");
            let house = shop_with(store, &on_delete, named).await;
            house.place(persons(&["held"])).await;
            let result = match &house.store.pool {
                Pool::Postgres(pool) => {
                    let waits = "SELECT count(*) FROM pg_stat_activity \
                                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
                    with_a_late_change!(pool, change, waits, house)
                }
                Pool::MySql(pool) => {
                    let waits = "SELECT count(*) FROM information_schema.processlist \
                                 WHERE db = DATABASE() AND id <> connection_id() \
                                   AND (info LIKE '%expunged_held%' OR info LIKE '%FOR UPDATE') \
                                   AND time_ms > 50";
                    with_a_late_change!(pool, change, waits, house)
                }
                Pool::Sqlite(_) => panic!("SQLite has one writer"),
            };
            let kind = house.store.kind;
            assert_eq!(result.state, RunState::Done, "{kind:?}, {change}: {:?}", result.error);
            assert_eq!(house.ids("accounts").await, set(&["1"]), "{kind:?}, {change}");
            let held = "SELECT count(*) FROM orders WHERE buyer = 'held'";
            assert_eq!(house.store.count(held).await, 1, "{kind:?}, {change}");
        }
    }
}

#[tokio::test]
async fn a_hold_on_a_partition_or_on_the_whole_covers_the_other() {
    let house = House::new(
        crate::support::fresh_postgres().await,
        "CREATE TABLE events (id integer, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE events_2020 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         INSERT INTO events VALUES (1, '2020-05-01'), (2, '2020-05-01')",
        &(rule("whole", "events", "") + &rule("part", "events_2020", "")),
    )
    .await;
    let whole = house.place(terms(house.table("events", Some("id = 1")))).await;
    assert_eq!(house.due_and_held("part").await, (1, 1));
    house.release(&whole).await;
    house.place(terms(house.table("events_2020", Some("id = 1")))).await;
    assert_eq!(house.due_and_held("whole").await, (1, 1));
}

#[tokio::test]
async fn held_rows_that_point_at_a_partition_or_at_the_whole_keep_what_they_point_at() {
    let house = House::new(
        crate::support::fresh_postgres().await,
        "CREATE TABLE events (id integer, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE events_2020 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         CREATE TABLE events_2021 PARTITION OF events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
         CREATE TABLE of_whole (who text, event integer, at timestamptz,
             FOREIGN KEY (event, at) REFERENCES events ON DELETE CASCADE);
         CREATE TABLE of_parts (who text, event integer, at timestamptz,
             FOREIGN KEY (event, at) REFERENCES events_2020 ON DELETE CASCADE);
         INSERT INTO events SELECT i, '2020-05-01' FROM generate_series(1, 4) AS i;
         INSERT INTO events VALUES (5, '2021-05-01');
         INSERT INTO of_whole VALUES ('held', 1, '2020-05-01'), ('free', 3, '2020-05-01');
         INSERT INTO of_parts VALUES ('held', 2, '2020-05-01'), ('free', 4, '2020-05-01')",
        &(rule("whole", "events", "") + &rule("part", "events_2020", "")),
    )
    .await;
    house.place(terms(house.table("of_whole", Some("who = 'held'")))).await;
    house.place(terms(house.table("of_parts", Some("who = 'held'")))).await;
    assert_eq!(house.due_and_held("part").await, (2, 2), "a key on the whole was not followed");
    assert_eq!(house.due_and_held("whole").await, (3, 2), "a key on a partition was not followed");
    assert_eq!(house.run("part").await.records, 2);
    assert_eq!(house.run("whole").await.records, 1);
    assert_eq!(house.ids("events").await, set(&["1", "2"]));
    let left = "SELECT (SELECT count(*) FROM of_whole) + (SELECT count(*) FROM of_parts)";
    assert_eq!(house.store.count(left).await, 2);
}
