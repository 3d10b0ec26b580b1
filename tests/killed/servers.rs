//! The database server killed and started again, in the middle of a run.

use std::process::Stdio;
use std::time::Duration;

use expunged::store::sql::{Access, Bounds, Interrupted, Resolution};
use expunged::store::{Store, Tables};
use sqlx::mysql::MySqlConnection;
use sqlx::{Connection, Executor};

use crate::harness::poll;
use crate::house::{Act, House, kind_of};
use crate::random::{Random, length};
use crate::server::Server;
use crate::support::{TestDatabase, fresh_mysql_on, fresh_postgres_on, fresh_sqlite};

/// How often the server is killed in each case.
const CRASHES: u32 = 4;
/// How long a process may take to end when a server is gone, or to go on to its end once it is back. Less than the minute
/// for which it would ask what became of a batch, or for which a server lets a transaction be idle: it waits for neither.
const NOTICED_WITHIN: Duration = Duration::from_secs(45);

async fn crash_the_server(
    mut server: Server,
    store: TestDatabase,
    ledger: Option<TestDatabase>,
    act: Act,
) {
    let which = if ledger.is_some() { "the ledger's server" } else { "the server" };
    let mut house = House::new(store, ledger, act).await;
    let mut random = Random::new();
    let (mut in_a_run, mut in_a_batch, mut went_on) = (0, 0, 0);
    for _ in 0..CRASHES * length() {
        house.add(16_000).await;
        let batches = "SELECT count(*) FROM batch";
        let before = house.ledger.count(batches).await;
        let mut command = house.place.command(&["run"]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        poll(&house.ledger, batches, |batches| batches > before).await;
        tokio::time::sleep(Duration::from_micros(random.below(400_000))).await;
        server.crash();
        in_a_run += u32::from(process.try_wait().unwrap().is_none());
        server.restart().await;
        // It ends by itself: nothing waits for ever for a session that is gone. Where the crash fell between two
        // transactions it may even go on to its end.
        let ended = tokio::time::timeout(NOTICED_WITHIN, async {
            while process.try_wait().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        ended.await.expect("the process ends when its server is gone");
        went_on += u32::from(house.due().await == 0);
        in_a_batch += u32::from(house.open_batches().await > 0);
    }
    assert!(in_a_run > 0, "every crash came too late");
    house.finish().await;
    let batches = house.assert_covered().await;
    crate::support::tell(&format!(
        "kill suite, {}, {act:?}, {which}: {} crashes, {in_a_run} in the middle of a run, {in_a_batch} \
         between intent and outcome, {went_on} after which it went on, {} rows, {batches} batches, each row covered once",
        kind_of(&house.store),
        CRASHES * length(),
        house.due_ids().count(),
    ));
    drop(house);
}

#[tokio::test]
async fn a_postgres_that_crashes() {
    let server = Server::postgres().await;
    let store = fresh_postgres_on(&server.url()).await;
    crash_the_server(server, store, None, Act::Delete).await;
}

#[tokio::test]
async fn a_mariadb_that_crashes() {
    let server = Server::mariadb().await;
    let store = fresh_mysql_on(&server.url()).await;
    crash_the_server(server, store, None, Act::Pseudonymize).await;
}

#[tokio::test]
async fn a_ledger_whose_server_crashes() {
    let server = Server::postgres().await;
    let ledger = fresh_postgres_on(&server.url()).await;
    crash_the_server(server, fresh_sqlite().await, Some(ledger), Act::Delete).await;
}

/// A backup keeps everybody from committing for as long as it reads its place in the log.
#[tokio::test]
async fn a_mariadb_whose_backup_keeps_all_from_committing_is_waited_for() {
    let server = Server::mariadb().await;
    let database = fresh_mysql_on(&server.url()).await;
    let accounts = "CREATE TABLE accounts (id bigint PRIMARY KEY, email text, last_seen datetime);
                    INSERT INTO accounts VALUES (1, 'a', '2020-01-01')";
    database.execute(accounts).await;
    let (rule, now) = (rule("action = \"delete\""), expunged::clock::now());
    let (name, patience) = ("app".parse().unwrap(), Duration::from_secs(5));
    let kind = expunged::rule::Dialect::Mysql;
    let tables = Tables::open(name, kind, &database.url, Access::ReadWrite, patience).unwrap();
    let store = Store::Tables(tables);
    let target = store.target(&rule).await.unwrap();
    let bounds = Bounds { cutoff: rule.cutoff(now), now };
    let mut walk = store.walk(&target, bounds, 1, 1).unwrap();
    let mut pace = walk.pace();
    let taken = store.take(&target, bounds, &mut walk, &mut pace, &|_, _, _| None).await.unwrap();
    let batch = taken.expect("there is a window");

    let mut backup = MySqlConnection::connect(&database.url).await.unwrap();
    backup.execute("FLUSH TABLES WITH READ LOCK").await.unwrap();
    let backed_up = async {
        // Longer than for any other lock.
        let waits = "SELECT count(*) FROM information_schema.processlist \
                     WHERE info = 'COMMIT' AND time_ms > 3000";
        poll(&database.pool, waits, |waiting| waiting == 1).await;
        backup.execute("UNLOCK TABLES").await.unwrap();
    };
    let (committed, ()) = tokio::join!(batch.commit(), backed_up);
    committed.expect("it waits for the backup");
    assert_eq!(database.count("SELECT count(*) FROM accounts").await, 0);
    store.close().await;
}

/// A transaction that was not written out before its server crashed leaves its number to another one,
/// which may well be committed: that says nothing of the batch.
#[tokio::test]
async fn the_number_of_a_transaction_that_comes_again_does_not_stand_for_the_batch() {
    let mut server = Server::postgres().await;
    let database = fresh_postgres_on(&server.url()).await;
    let accounts =
        "CREATE TABLE accounts (id bigint PRIMARY KEY, email text, last_seen timestamptz);
                    INSERT INTO accounts SELECT n, 'a', now() - interval '3 years'
                    FROM generate_series(1, 50) AS n";
    database.execute(accounts).await;
    for act in ["action = \"delete\"", "action = \"anonymize\"\ncolumns = { email = \"null\" }"] {
        let (rule, now) = (rule(act), expunged::clock::now());
        let open = |url: &str| {
            let name = "app".parse().unwrap();
            let patience = Duration::from_secs(5);
            Tables::open(name, expunged::rule::Dialect::Postgres, url, Access::ReadWrite, patience)
                .map(Store::Tables)
        };
        let store = open(&database.url).unwrap();
        let target = store.target(&rule).await.unwrap();
        let bounds = Bounds { cutoff: rule.cutoff(now), now };
        let mut walk = store.walk(&target, bounds, 50, 50).unwrap();
        let mut pace = walk.pace();
        let taken =
            store.take(&target, bounds, &mut walk, &mut pace, &|_, _, _| None).await.unwrap();
        let batch = taken.expect("there is a window");
        let interrupted = Interrupted {
            keys: batch.keys.clone(),
            identities: Vec::new(),
            transaction_id: batch.transaction_id.clone(),
        };
        assert_eq!(interrupted.keys.len(), 50);
        server.crash();
        drop(batch);
        server.restart().await;

        // Others take the number over, and commit.
        let wanted: i64 = interrupted.transaction_id.as_ref().unwrap().parse().unwrap();
        let number = "SELECT pg_current_xact_id()::text::bigint";
        let first = database.count(number).await;
        assert!(first <= wanted, "the number did not come again: this tests nothing");
        while database.count(number).await <= wanted {}
        let committed = format!("SELECT (pg_xact_status('{wanted}'::xid8) = 'committed')::int");
        assert_eq!(database.count(&committed).await, 1);

        let store = open(&database.url).unwrap();
        let target = store.target(&rule).await.unwrap();
        let fate = store.resolve(&target, &interrupted).await.unwrap();
        assert_eq!(fate, Resolution::Undone, "{act}");
        store.close().await;
    }
}

fn rule(act: &str) -> expunged::rule::Rule {
    let text = format!(
        "[ledger]\nurl = \"sqlite:ledger.db\"\n[store.app]\nkind = \"postgres\"\nurl = \"postgres://localhost/x\"\n\
         [rule.nightly]\nstore = \"app\"\ntable = \"accounts\"\nstarting_point = \"last_seen\"\n\
         retention = \"2 years\"\n{act}\n"
    );
    let file =
        expunged::config::InputFile { path: "expunged.toml".into(), bytes: text.into_bytes() };
    let folder = std::path::Path::new("/");
    let config = expunged::config::Config::parse(vec![file], folder, std::iter::empty()).unwrap();
    config.rules.into_values().next().unwrap()
}
