//! Questions that the demo asks its database by itself, in SQL that shares nothing with the rules.

use std::path::Path;

use jiff::{Span, Timestamp, ToSpan, tz::TimeZone};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

/// One question: what should not be there, since when, and how it is counted.
struct Question {
    what: &'static str,
    age: Span,
    sql: &'static str,
    /// Whether the rule behind it acts.
    enforced: bool,
}

/// What was counted.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) what: &'static str,
    pub(super) rows: u64,
    pub(super) enforced: bool,
}

/// Timestamps are compared as texts here: the application writes all of them in one form, and what
/// has another is no timestamp.
fn questions() -> [Question; 6] {
    [
        Question {
            what: "accounts nobody used for two years, staff apart",
            age: 2.years(),
            sql: "SELECT count(*) FROM accounts WHERE last_seen_at < ?1 AND last_seen_at > '1970-01-02' \
                  AND last_seen_at LIKE '____-__-__T%Z' AND role <> 'staff'",
            enforced: true,
        },
        Question {
            what: "sign-ins older than a year",
            age: 1.year(),
            sql: "SELECT count(*) FROM logins WHERE at < ?1 AND at LIKE '____-__-__T%Z' \
                  AND at NOT LIKE '____-02-30%' AND succeeded",
            enforced: true,
        },
        Question {
            what: "failed sign-ins older than 90 days",
            age: 90.days(),
            sql: "SELECT count(*) FROM logins WHERE at < ?1 AND at LIKE '____-__-__T%Z' \
                  AND at NOT LIKE '____-02-30%' AND NOT succeeded",
            enforced: true,
        },
        Question {
            what: "synthesis jobs finished more than 30 days ago",
            age: 30.days(),
            sql: "SELECT count(*) FROM synthesis_jobs WHERE finished_at < unixepoch(?1) AND finished_at > 86400",
            enforced: true,
        },
        Question {
            what: "orders older than three years that name a person",
            age: 3.years(),
            sql: "SELECT count(*) FROM orders WHERE updated_at < ?1 AND status <> 'cart' \
                  AND NOT disputed AND (customer_name IS NOT NULL \
                  OR customer_email LIKE '%@%' OR birth_date NOT LIKE '%-01-01')",
            enforced: true,
        },
        Question {
            what: "carts abandoned more than six months ago",
            age: 6.months(),
            sql: "SELECT count(*) FROM orders WHERE updated_at < ?1 AND status = 'cart'",
            enforced: false,
        },
    ]
}

/// Counts what is older than the policy allows.
pub(super) async fn overdue(database: &Path, now: Timestamp) -> Result<Vec<Count>, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    let pool: SqlitePool =
        SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    let mut counts = Vec::new();
    for Question { what, age, sql, enforced } in questions() {
        let at = now.to_zoned(TimeZone::UTC).saturating_sub(age).timestamp();
        let rows = sqlx::query_scalar(sql)
            .bind(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
            .fetch_one(&pool)
            .await?;
        counts.push(Count { what, rows, enforced });
    }
    pool.close().await;
    Ok(counts)
}
