//! What several test binaries share: databases of their own on the servers that `tests/run` starts.
//!
//! ```text
//! mod support;
//!
//! let database = support::fresh_postgres().await;
//! database.execute("CREATE TABLE accounts (id bigint PRIMARY KEY)").await;
//! assert_eq!(database.count("SELECT count(*) FROM accounts").await, 0);
//! ```

// Each test binary compiles this file for itself and uses only a part of it.
#![allow(dead_code)]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use expunged::audit::entry::moment;
use expunged::config::Config;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, MySqlPool, PgPool, Row, SqlitePool};
use tempfile::TempDir;

/// Says what a suite has counted, also where the test passes: what tests print otherwise is kept back.
pub(crate) fn tell(text: &str) {
    use std::io::Write;
    // Straight to the stream; that nobody reads it is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The URL of a superuser on the PostgreSQL server.
#[track_caller]
pub(crate) fn postgres_url() -> String {
    environment("EXPUNGED_TEST_POSTGRES_URL")
}

/// The URL of a user with every privilege on the MariaDB or MySQL server.
#[track_caller]
pub(crate) fn mysql_url() -> String {
    environment("EXPUNGED_TEST_MYSQL_URL")
}

/// The certificate of the authority that vouches for the PostgreSQL server.
#[track_caller]
pub(crate) fn postgres_ca() -> PathBuf {
    environment("EXPUNGED_TEST_POSTGRES_CA").into()
}

/// The certificate of the authority that vouches for the MariaDB or MySQL server.
#[track_caller]
pub(crate) fn mysql_ca() -> PathBuf {
    environment("EXPUNGED_TEST_MYSQL_CA").into()
}

// A test that skips itself looks like one that passed.
#[track_caller]
pub(crate) fn environment(name: &str) -> String {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!("{name} is not set: run the tests through tests/run, which starts the servers"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MySql,
    Sqlite,
}

/// A database that nobody else uses, gone again when this is dropped.
#[derive(Debug)]
pub(crate) struct TestDatabase {
    pub(crate) url: String,
    pub(crate) kind: Kind,
    /// Of the database on its server; of the file, without its folder, for SQLite.
    pub(crate) name: String,
    pub(crate) pool: Pool,
    folder: Option<TempDir>,
    users: Mutex<Vec<String>>,
}

/// A new, empty database on the PostgreSQL server.
pub(crate) async fn fresh_postgres() -> TestDatabase {
    fresh_postgres_on(&postgres_url()).await
}

/// A new, empty database on a PostgreSQL server that a superuser reaches at this URL.
pub(crate) async fn fresh_postgres_on(server: &str) -> TestDatabase {
    let name = unique("expunged_test");
    let admin = Pool::connect(server).await;
    // Not from template1: whoever is connected to that would be in the way.
    admin.execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await;
    admin.close().await;
    TestDatabase::open(Kind::Postgres, with_database(server, &name), name, None).await
}

/// A new, empty database on the MariaDB or MySQL server.
pub(crate) async fn fresh_mysql() -> TestDatabase {
    fresh_mysql_on(&mysql_url()).await
}

/// A new, empty database on a MariaDB server where somebody with every privilege has this URL.
pub(crate) async fn fresh_mysql_on(server: &str) -> TestDatabase {
    let name = unique("expunged_test");
    let admin = Pool::connect(server).await;
    admin.execute(&format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await;
    admin.close().await;
    TestDatabase::open(Kind::MySql, with_database(server, &name), name, None).await
}

/// A new, empty SQLite file in a folder of its own.
pub(crate) async fn fresh_sqlite() -> TestDatabase {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let name = "store.sqlite".to_owned();
    let path = folder.path().join(&name);
    let url = format!("sqlite://{}", path.to_str().expect("temporary paths are UTF-8"));
    TestDatabase::open(Kind::Sqlite, url, name, Some(folder)).await
}

impl TestDatabase {
    async fn open(kind: Kind, url: String, name: String, folder: Option<TempDir>) -> Self {
        let pool = Pool::connect(&url).await;
        Self { url, kind, name, pool, folder, users: Mutex::default() }
    }

    /// Runs one or several statements.
    pub(crate) async fn execute(&self, sql: &str) {
        self.pool.execute(sql).await;
    }

    /// The whole number that a query answers with.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.pool.count(sql).await
    }

    /// The one text column that a query answers with; none may be NULL.
    pub(crate) async fn strings(&self, sql: &str) -> Vec<String> {
        self.pool.strings(sql).await
    }

    /// The one text column that a query answers with.
    pub(crate) async fn nullable_strings(&self, sql: &str) -> Vec<Option<String>> {
        self.pool.nullable_strings(sql).await
    }

    /// The file of a SQLite database.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.as_ref().expect("only SQLite has a file").path().join(&self.name)
    }

    /// The URL of a new user who may do to this database what `grants` say and nothing else. A grant is
    /// what stands between GRANT and TO: `SELECT ON accounts`, `SELECT (id), DELETE ON accounts`.
    pub(crate) async fn restricted_user(&self, grants: &[&str]) -> String {
        let (user, password) = (unique("u"), unique("p"));
        let grantee = match self.kind {
            Kind::Postgres => {
                self.execute(&format!("CREATE ROLE {user} LOGIN PASSWORD '{password}'")).await;
                user.clone()
            }
            Kind::MySql => {
                self.execute(&format!("CREATE USER {user}@'%' IDENTIFIED BY '{password}'")).await;
                format!("{user}@'%'")
            }
            Kind::Sqlite => panic!("SQLite has no users: whoever can write the file can do all"),
        };
        self.users.lock().expect("no test panics in here").push(grantee.clone());
        for grant in grants {
            self.execute(&format!("GRANT {grant} TO {grantee}")).await;
        }
        with_user(&self.url, &user, &password)
    }
}

/// Best effort: what cannot be dropped goes with the server. On a thread with a runtime of its own,
/// because the test's may be at its end.
impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (kind, name) = (self.kind, self.name.clone());
        let users = self.users.lock().map(|users| users.clone()).unwrap_or_default();
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let limit = Duration::from_secs(20);
                let _ = tokio::time::timeout(limit, drop_database(kind, &name, &users)).await;
            });
        });
        let _ = dropper.join();
    }
}

async fn drop_database(kind: Kind, name: &str, users: &[String]) {
    let (admin, noun) = match kind {
        Kind::Postgres => {
            let admin = Pool::connect(&postgres_url()).await;
            let _ = admin.try_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
            (admin, "ROLE")
        }
        Kind::MySql => {
            let admin = Pool::connect(&mysql_url()).await;
            // A transaction that a failed test left open holds a lock that DROP would wait for.
            let sessions = format!(
                "SELECT CAST(id AS CHAR) FROM information_schema.processlist WHERE db = '{name}'"
            );
            for session in admin.strings(&sessions).await {
                let _ = admin.try_execute(&format!("KILL {session}")).await;
            }
            let _ = admin.try_execute(&format!("DROP DATABASE {name}")).await;
            (admin, "USER")
        }
        Kind::Sqlite => return,
    };
    for user in users {
        let _ = admin.try_execute(&format!("DROP {noun} {user}")).await;
    }
    admin.close().await;
}

/// A few connections to one database, whichever kind it is of.
#[derive(Clone, Debug)]
pub(crate) enum Pool {
    Postgres(PgPool),
    MySql(MySqlPool),
    Sqlite(SqlitePool),
}

// Tests write their SQL themselves, so that it is safe needs no proof.
macro_rules! on_each {
    ($self:expr, $pool:ident => $body:expr) => {
        match $self {
            Pool::Postgres($pool) => $body,
            Pool::MySql($pool) => $body,
            Pool::Sqlite($pool) => $body,
        }
    };
}

impl Pool {
    /// Connects as the URL says; for users other than a [`TestDatabase`]'s own.
    pub(crate) async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.unwrap_or_else(|error| panic!("cannot connect: {error}"))
    }

    /// Connects, or says why not. The URL's scheme decides the kind.
    pub(crate) async fn try_connect(url: &str) -> Result<Self, sqlx::Error> {
        // Few, because many tests share one server's connections; and none ends by itself, because
        // sqlx's maintenance can count for ever when a pool ends.
        let few = 3;
        Ok(match url.split(':').next() {
            Some("postgres") => Self::Postgres(
                PgPoolOptions::new()
                    .max_connections(few)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .connect(url)
                    .await?,
            ),
            Some("mysql") => Self::MySql(
                MySqlPoolOptions::new()
                    .max_connections(few)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .connect(url)
                    .await?,
            ),
            Some("sqlite") => {
                let options = url.parse::<SqliteConnectOptions>()?.create_if_missing(true);
                let pool = SqlitePoolOptions::new()
                    .max_connections(few)
                    .idle_timeout(None)
                    .max_lifetime(None);
                Self::Sqlite(pool.connect_with(options).await?)
            }
            _ => panic!("the tests know postgres, mysql and sqlite URLs only"),
        })
    }

    /// Runs one or several statements.
    pub(crate) async fn execute(&self, sql: &str) {
        self.try_execute(sql).await.unwrap_or_else(|error| panic!("{error}, in: {sql}"));
    }

    /// Runs one or several statements, or says what the server had against it.
    pub(crate) async fn try_execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        on_each!(self, pool => query.execute(pool).await.map(|_| ()))
    }

    /// The whole number that a query answers with.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.try_count(sql).await.unwrap_or_else(|error| panic!("{error}, in: {sql}"))
    }

    /// The whole number that a query answers with, or what the server had against it.
    pub(crate) async fn try_count(&self, sql: &str) -> Result<i64, sqlx::Error> {
        on_each!(self, pool => {
            // Not kept prepared: a test may alter the table between two queries.
            let row = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch_one(pool).await?;
            row.try_get::<i64, _>(0).or_else(|_| row.try_get::<i32, _>(0).map(i64::from))
        })
    }

    /// The one text column that a query answers with; none may be NULL.
    pub(crate) async fn strings(&self, sql: &str) -> Vec<String> {
        let not_null = |text: Option<String>| text.unwrap_or_else(|| panic!("a NULL, in: {sql}"));
        self.nullable_strings(sql).await.into_iter().map(not_null).collect()
    }

    /// The one text column that a query answers with.
    pub(crate) async fn nullable_strings(&self, sql: &str) -> Vec<Option<String>> {
        let fetched: Result<_, sqlx::Error> = on_each!(self, pool => {
            let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
            match query.fetch_all(pool).await {
                Ok(rows) => rows.iter().map(|row| row.try_get(0)).collect(),
                Err(error) => Err(error),
            }
        });
        fetched.unwrap_or_else(|error| panic!("{error}, in: {sql}"))
    }

    /// Ends every connection, and returns when they have ended.
    pub(crate) async fn close(&self) {
        on_each!(self, pool => pool.close().await);
    }
}

/// Approves the first run of each configured rule in advance, whatever it takes.
pub(crate) async fn approve_in_advance(ledger: &str, config: &Config) {
    let ledger = Pool::connect(ledger).await;
    let now = moment::to_text(expunged::clock::now());
    for rule in config.rules.values() {
        let (id, name, digest) = (expunged::clock::new_id(), &rule.name, rule.digest());
        ledger
            .execute(&format!(
                "INSERT INTO request (id, rule, cause, state, created_at, closed_at) \
                 VALUES ('{id}', '{name}', 'command', 'done', '{now}', '{now}'); \
                 DELETE FROM approval WHERE rule = '{name}'; \
                 INSERT INTO approval (run_id, request_id, rule, rule_digest, store, table_name, due, total, \
                                       reason, state, asked_at, decided_at, decided_by, why) \
                 VALUES ('{id}', '{id}', '{name}', '{digest}', 'app', 'accounts', 1000000000, 1000000000, \
                         'a test', 'approved', '{now}', '{now}', 'tester', 'a test')"
            ))
            .await;
    }
    ledger.close().await;
}

/// A name that no other test process has, and that needs no quotes.
pub(crate) fn unique(prefix: &str) -> String {
    // The standard library seeds each of these anew, which is all the randomness a name needs.
    format!("{prefix}_{:016x}", RandomState::new().build_hasher().finish())
}

fn with_database(url: &str, name: &str) -> String {
    let (address, options) = url.split_once('?').map_or((url, None), |(a, o)| (a, Some(o)));
    let (server, _) = address.rsplit_once('/').expect("the URL ends with a database");
    options.map_or(format!("{server}/{name}"), |options| format!("{server}/{name}?{options}"))
}

fn with_user(url: &str, user: &str, password: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL has a scheme");
    let (_, place) = rest.rsplit_once('@').expect("the URL names a user");
    format!("{scheme}://{user}:{password}@{place}")
}
