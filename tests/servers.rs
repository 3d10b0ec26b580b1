//! The ground the other tests stand on: the servers really offer TLS, and the databases that
//! `support` hands out are what it says they are.

use sqlx::Row;

mod support;
use support::{Kind, Pool, TestDatabase, fresh_mysql, fresh_postgres, fresh_sqlite};

#[tokio::test]
async fn postgres_proves_who_it_is() {
    let url = support::postgres_url();
    let ca = support::postgres_ca();
    let encrypted = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

    for mode in ["verify-ca", "verify-full"] {
        let verified = format!("{url}?sslmode={mode}&sslrootcert={}", ca.display());
        assert_eq!(Pool::connect(&verified).await.strings(encrypted).await, ["true"]);
    }
    let plain = Pool::connect(&format!("{url}?sslmode=disable")).await;
    assert_eq!(plain.strings(encrypted).await, ["false"]);

    let unverified = Pool::try_connect(&format!("{url}?sslmode=verify-ca")).await;
    let error = unverified.expect_err("an authority that nobody named must not be trusted");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn mysql_proves_who_it_is() {
    let url = support::mysql_url();
    let ca = support::mysql_ca();

    for mode in ["VERIFY_CA", "VERIFY_IDENTITY"] {
        let verified = format!("{url}?ssl-mode={mode}&ssl-ca={}", ca.display());
        assert_ne!(cipher(&verified).await, "");
    }
    assert_eq!(cipher(&format!("{url}?ssl-mode=DISABLED")).await, "");

    let unverified = Pool::try_connect(&format!("{url}?ssl-mode=VERIFY_CA")).await;
    let error = unverified.expect_err("an authority that nobody named must not be trusted");
    assert!(error.to_string().contains("certificate"), "{error}");
}

async fn cipher(url: &str) -> String {
    let Pool::MySql(pool) = Pool::connect(url).await else { panic!("not a MySQL URL") };
    let status = sqlx::query("SHOW STATUS LIKE 'Ssl_cipher'").fetch_one(&pool).await;
    status.expect("the server tells its status").get(1)
}

#[tokio::test]
async fn each_database_starts_empty_and_answers() {
    for database in [fresh_postgres().await, fresh_mysql().await, fresh_sqlite().await] {
        database
            .execute(
                "CREATE TABLE accounts (id integer PRIMARY KEY, email varchar(99));
                 INSERT INTO accounts VALUES (1, 'a@example.org'), (2, NULL)",
            )
            .await;

        assert_eq!(database.count("SELECT count(*) FROM accounts").await, 2);
        assert_eq!(database.count("SELECT max(id) FROM accounts").await, 2, "a narrower integer");
        let present = "SELECT email FROM accounts WHERE email IS NOT NULL";
        assert_eq!(database.strings(present).await, ["a@example.org"]);
        let all = "SELECT email FROM accounts ORDER BY id";
        assert_eq!(database.nullable_strings(all).await, [Some("a@example.org".to_owned()), None]);
    }
}

#[tokio::test]
async fn a_late_statement_that_fails_is_not_swallowed() {
    for database in [fresh_postgres().await, fresh_mysql().await, fresh_sqlite().await] {
        let failed = database.pool.try_execute("SELECT 1; SELECT nothing FROM nowhere").await;
        assert!(failed.is_err(), "{:?}", database.kind);
    }
}

#[tokio::test]
async fn a_restricted_user_may_do_what_was_granted_and_no_more() {
    for database in [fresh_postgres().await, fresh_mysql().await] {
        database.execute("CREATE TABLE accounts (id integer PRIMARY KEY, email text)").await;
        database.execute("CREATE TABLE payments (id integer PRIMARY KEY)").await;

        let url = database.restricted_user(&["SELECT (id), DELETE ON accounts"]).await;
        let user = Pool::connect(&url).await;

        assert_eq!(user.count("SELECT count(id) FROM accounts").await, 0);
        user.execute("DELETE FROM accounts WHERE id = 1").await;
        for denied in ["SELECT email FROM accounts", "SELECT id FROM payments"] {
            assert!(user.try_execute(denied).await.is_err(), "{denied} on {:?}", database.kind);
        }
    }
}

#[tokio::test]
async fn a_dropped_database_is_gone_with_its_users_even_when_someone_is_in_the_middle_of_work() {
    for database in [fresh_postgres().await, fresh_mysql().await] {
        let admin = match database.kind {
            Kind::Postgres => Pool::connect(&support::postgres_url()).await,
            _ => Pool::connect(&support::mysql_url()).await,
        };
        database.execute("CREATE TABLE accounts (id integer PRIMARY KEY)").await;
        let user_url = database.restricted_user(&["SELECT ON accounts"]).await;
        let (databases, users) = catalogue(&database, &user_url);
        database.execute("BEGIN; INSERT INTO accounts VALUES (1)").await;
        assert_eq!(admin.count(&databases).await, 1);
        assert_eq!(admin.count(&users).await, 1);

        drop(database);

        assert_eq!(admin.count(&databases).await, 0);
        assert_eq!(admin.count(&users).await, 0);
    }
}

// Queries that count the database and the user in the server's own lists.
fn catalogue(database: &TestDatabase, user_url: &str) -> (String, String) {
    let name = &database.name;
    let user = user_url.split(['/', ':']).nth(3).expect("the URL names a user");
    match database.kind {
        Kind::Postgres => (
            format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'"),
            format!("SELECT count(*) FROM pg_roles WHERE rolname = '{user}'"),
        ),
        _ => (
            format!(
                "SELECT count(*) FROM information_schema.schemata WHERE schema_name = '{name}'"
            ),
            format!("SELECT count(*) FROM mysql.user WHERE User = '{user}'"),
        ),
    }
}
