//! The demo's application database: a small service that makes photos, after five years.
//!
//! The data are the same each time, only moved so that they end now. What is due is decided first
//! and dated after: a point of time is given in years ago, and years, months and days are mapped to
//! the calendar as the rules count them. So the numbers do not depend on the day of the demo.

use std::path::Path;

use jiff::{Span, Timestamp, ToSpan, tz::TimeZone};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, QueryBuilder, Sqlite, SqliteConnection};

use super::folder::APPLICATION;
use super::random::Random;

const SEED: u64 = 0x00c0_ffee;
const ACCOUNTS: usize = 12_000;
const STAFF: usize = 24;
const LOGINS: usize = 42_000;
const ORDERS: usize = 9_000;
const JOBS: usize = 14_000;
/// All rows.
pub(super) const ROWS: usize = ACCOUNTS + LOGINS + ORDERS + JOBS;
/// Rows in one statement.
const CHUNK: usize = 500;

const SCHEMA: &str = "
CREATE TABLE accounts (
    id           INTEGER PRIMARY KEY,
    email        TEXT NOT NULL,
    name         TEXT,
    phone        TEXT,
    birth_date   TEXT,
    postal_code  TEXT,
    role         TEXT NOT NULL DEFAULT 'customer',
    created_at   TEXT NOT NULL,
    last_seen_at TEXT
);
CREATE TABLE logins (
    id         INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    at         TEXT,
    succeeded  INTEGER NOT NULL,
    ip_address TEXT NOT NULL,
    user_agent TEXT NOT NULL
);
CREATE TABLE orders (
    id             INTEGER PRIMARY KEY,
    account_id     INTEGER REFERENCES accounts (id) ON DELETE SET NULL,
    status         TEXT NOT NULL,
    disputed       INTEGER NOT NULL DEFAULT 0,
    product        TEXT NOT NULL,
    amount_cents   INTEGER NOT NULL,
    currency       TEXT NOT NULL,
    customer_name  TEXT,
    customer_email TEXT,
    customer_phone TEXT,
    birth_date     TEXT,
    postal_code    TEXT,
    ip_address     TEXT,
    created_at     TEXT NOT NULL,
    updated_at     TEXT,
    anonymized_at  TEXT
);
CREATE TABLE synthesis_jobs (
    id          INTEGER PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    style       TEXT NOT NULL,
    prompt      TEXT NOT NULL,
    photo_path  TEXT NOT NULL,
    gpu_seconds REAL,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER
);
";

/// None on `synthesis_jobs (finished_at)`: somebody forgot it, and `check` tells.
const INDEXES: &str = "
CREATE INDEX accounts_last_seen_at ON accounts (last_seen_at);
CREATE INDEX logins_account_id ON logins (account_id);
CREATE INDEX logins_at ON logins (at);
CREATE INDEX orders_account_id ON orders (account_id);
CREATE INDEX orders_updated_at ON orders (updated_at);
CREATE INDEX synthesis_jobs_account_id ON synthesis_jobs (account_id);
ANALYZE;
";

/// Makes the database; `progress` is told how many rows are there.
pub(super) async fn build(
    path: &Path,
    now: Timestamp,
    progress: &dyn Fn(usize),
) -> Result<(), sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        // Nothing is lost when this is interrupted: it is built anew.
        .journal_mode(SqliteJournalMode::Off)
        .synchronous(SqliteSynchronous::Off)
        .pragma("application_id", APPLICATION.to_string())
        .pragma("secure_delete", "ON");
    let mut connection = options.connect().await?;
    sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
    sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
    Generator { random: Random::new(SEED), calendar: Calendar::new(now), people: Vec::new() }
        .fill(&mut connection, progress)
        .await?;
    sqlx::raw_sql(INDEXES).execute(&mut connection).await?;
    sqlx::raw_sql("COMMIT").execute(&mut connection).await?;
    connection.close().await
}

/// Maps years ago to seconds since 1970.
struct Calendar {
    /// Both ascending in age: years ago, and the second that is.
    points: Vec<(f64, i64)>,
}

/// How far every starting point stays away from the end of a retention period, in years: about a
/// day and a half, so that nothing falls due while somebody looks.
const MARGIN: f64 = 0.004;
/// The retention periods of the rules, in years.
const NINETY_DAYS: f64 = 0.247;
const THIRTY_DAYS: f64 = 0.082;
const PERIODS: [f64; 6] = [THIRTY_DAYS, NINETY_DAYS, 0.5, 1.0, 2.0, 3.0];

impl Calendar {
    fn new(now: Timestamp) -> Calendar {
        let span = |years: f64, span: Span| {
            let civil = now.to_zoned(TimeZone::UTC).saturating_sub(span);
            (years, civil.timestamp().as_second())
        };
        let points = vec![
            (0.0, now.as_second()),
            span(THIRTY_DAYS, 30.days()),
            span(NINETY_DAYS, 90.days()),
            span(0.5, 6.months()),
            span(1.0, 1.year()),
            span(2.0, 2.years()),
            span(3.0, 3.years()),
            span(4.0, 4.years()),
            span(5.0, 5.years()),
        ];
        Calendar { points }
    }

    /// The second so many years ago, not near the end of any retention period; negative years are
    /// in the future.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "seconds")]
    fn seconds(&self, years: f64) -> i64 {
        let years = clear(years);
        let place = self.points.partition_point(|(at, _)| *at <= years);
        let place = place.clamp(1, self.points.len() - 1);
        let ((from, start), (to, end)) = (self.points[place - 1], self.points[place]);
        start + ((years - from) / (to - from) * (end - start) as f64) as i64
    }

    fn text(&self, years: f64) -> String {
        let at = Timestamp::from_second(self.seconds(years)).unwrap_or_default();
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

/// Moves an age away from the end of a retention period.
fn clear(years: f64) -> f64 {
    match PERIODS.into_iter().find(|period| (years - period).abs() < MARGIN) {
        Some(period) if years < period => period - MARGIN,
        Some(period) => period + MARGIN,
        None => years,
    }
}

/// A value of a column.
enum Value {
    Int(i64),
    Real(f64),
    Text(String),
    Null,
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// What of an account later rows repeat.
struct Person {
    name: String,
    email: String,
    phone: String,
    birth_date: String,
    postal_code: String,
    /// Years ago.
    created: f64,
    /// Years ago.
    last_seen: f64,
}

/// Makes the row at a place in its table.
type Row = fn(&mut Generator, usize) -> Vec<Value>;

struct Generator {
    random: Random,
    calendar: Calendar,
    people: Vec<Person>,
}

impl Generator {
    async fn fill(
        mut self,
        connection: &mut SqliteConnection,
        progress: &dyn Fn(usize),
    ) -> Result<(), sqlx::Error> {
        let tables: [(&str, usize, Row); 4] = [
            ("accounts", ACCOUNTS, Generator::account),
            ("logins", LOGINS, Generator::login),
            ("orders", ORDERS, Generator::order),
            ("synthesis_jobs", JOBS, Generator::job),
        ];
        let mut written = 0;
        for (table, count, row) in tables {
            for from in (0..count).step_by(CHUNK) {
                let rows: Vec<_> =
                    (from..count.min(from + CHUNK)).map(|place| row(&mut self, place)).collect();
                written += rows.len();
                insert(connection, table, rows).await?;
                progress(written);
            }
        }
        Ok(())
    }

    /// The age of the row at `place` of `count`, the oldest first, in a service that grows: the
    /// larger the exponent, the faster.
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn age(&mut self, place: usize, count: usize, growth: f64) -> f64 {
        let part = (place as f64 + self.random.fraction()) / count as f64;
        5.0 * (1.0 - part.powf(1.0 / growth))
    }

    fn account(&mut self, place: usize) -> Vec<Value> {
        let created = self.age(place, ACCOUNTS, 2.0);
        // The first of each 500 work here. Of the others, half come back and half come less and less.
        let staff = place.is_multiple_of(ACCOUNTS / STAFF);
        let last_seen = if staff && place.is_multiple_of(2 * ACCOUNTS / STAFF) {
            created * 0.9
        } else if self.random.percent(50) {
            created * self.random.fraction() * 0.2
        } else {
            created * self.random.fraction().sqrt()
        };
        let name = self.random.name();
        let person = Person {
            email: self.random.email(&name, place),
            phone: self.random.phone(),
            birth_date: self.random.birth_date(),
            postal_code: self.random.postal_code(),
            name,
            created,
            last_seen,
        };
        let odd = self.random.below(1_000);
        let last_seen_at = match (staff, odd) {
            (false, 0..=14) => Value::Null,
            (false, 15) => "n/a".into(),
            (false, 16) => "31.12.2021".into(),
            (false, 17..=18) => "1970-01-01T00:00:00Z".into(),
            // A phone whose clock was wrong.
            (false, 19) => self.calendar.text(-0.3).into(),
            _ => self.calendar.text(last_seen).into(),
        };
        let row = vec![
            (place + 1).into(),
            person.email.clone().into(),
            person.name.clone().into(),
            if self.random.percent(70) { person.phone.clone().into() } else { Value::Null },
            person.birth_date.clone().into(),
            person.postal_code.clone().into(),
            if staff { "staff" } else { "customer" }.into(),
            self.calendar.text(created).into(),
            last_seen_at,
        ];
        self.people.push(person);
        row
    }

    /// Somebody who was there so many years ago.
    fn somebody(&mut self, years: f64) -> usize {
        let created = self.people.partition_point(|person| person.created > years);
        let tries = (0..12).map(|_| self.random.below(created)).collect::<Vec<_>>();
        let there = |person: &&usize| self.people[**person].last_seen <= years;
        // The second member of staff was there from early on and still is.
        tries.iter().find(there).copied().unwrap_or(ACCOUNTS / STAFF)
    }

    fn login(&mut self, place: usize) -> Vec<Value> {
        let years = self.age(place, LOGINS, 3.5);
        let odd = self.random.below(10_000);
        // Rows without a date belong to accounts that stay, so that they stay as well.
        let account = self.somebody(if odd < 12 { 0.01 } else { years });
        let at = match odd {
            0..=5 => Value::Null,
            6..=8 => "2023-02-30T09:12:44Z".into(),
            9..=11 => "yesterday".into(),
            _ => self.calendar.text(years).into(),
        };
        vec![
            (place + 1).into(),
            (account + 1).into(),
            at,
            usize::from(!self.random.percent(10)).into(),
            self.random.ip_address().into(),
            self.random.user_agent().into(),
        ]
    }

    fn order(&mut self, place: usize) -> Vec<Value> {
        let created = self.age(place, ORDERS, 1.6);
        let updated = (created - self.random.fraction() * 0.01).max(0.0);
        let account = self.somebody(created);
        let status = match self.random.below(100) {
            0..=13 => "cart",
            14..=17 => "refunded",
            _ => "paid",
        };
        let disputed = status != "cart" && self.random.below(250) == 0;
        let (product, cents) = match self.random.below(4) {
            0 => ("10 portraits", 1_490),
            1 => ("50 portraits", 4_990),
            2 => ("album", 7_900),
            _ => ("gift card", 2_500),
        };
        let ip_address = self.random.ip_address();
        let person = &self.people[account];
        vec![
            (place + 1).into(),
            (account + 1).into(),
            status.into(),
            usize::from(disputed).into(),
            product.into(),
            Value::Int(cents),
            "EUR".into(),
            person.name.clone().into(),
            person.email.clone().into(),
            person.phone.clone().into(),
            person.birth_date.clone().into(),
            person.postal_code.clone().into(),
            ip_address.into(),
            self.calendar.text(created).into(),
            self.calendar.text(updated).into(),
            Value::Null,
        ]
    }

    /// Jobs were cleaned up by a script once, which nobody has looked after for some weeks.
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn job(&mut self, place: usize) -> Vec<Value> {
        let forgotten = JOBS / 16;
        let part = |place: usize, count: usize| 1.0 - place as f64 / count as f64;
        let years = if place < forgotten {
            0.14 + 4.8 * part(place, forgotten)
        } else {
            0.14 * part(place - forgotten, JOBS - forgotten)
        };
        let odd = self.random.below(1_000);
        // As for sign-ins: what has no date belongs to accounts that stay.
        let account = self.somebody(if odd < 3 { 0.01 } else { years });
        let finished_at = match odd {
            0..=1 => Value::Null,
            2 => Value::Int(0),
            _ => Value::Int(self.calendar.seconds(years)),
        };
        let style = self.random.pick(&["oil painting", "film noir", "passport", "renaissance"]);
        let prompt = format!("{} as {style}", self.people[account].name);
        let (folder, file) = (self.random.hex(2), self.random.hex(16));
        vec![
            (place + 1).into(),
            (account + 1).into(),
            style.into(),
            prompt.into(),
            format!("uploads/{folder}/{file}.jpg").into(),
            Value::Real((self.random.fraction() * 400.0).round() / 10.0),
            Value::Int(self.calendar.seconds(years) - 40),
            finished_at,
        ]
    }
}

async fn insert(
    connection: &mut SqliteConnection,
    table: &str,
    rows: Vec<Vec<Value>>,
) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO ");
    query.push(table).push(" ");
    query.push_values(rows, |mut tuple, row| {
        for value in row {
            match value {
                Value::Int(value) => tuple.push_bind(value),
                Value::Real(value) => tuple.push_bind(value),
                Value::Text(value) => tuple.push_bind(value),
                Value::Null => tuple.push("NULL"),
            };
        }
    });
    query.build().persistent(false).execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_fall_on_their_side_of_every_period() {
        for now in ["2024-02-29T12:00:00Z", "2026-03-31T00:00:00Z", "2027-12-31T23:59:59Z"] {
            let now: Timestamp = now.parse().unwrap();
            let calendar = Calendar::new(now);
            for (years, retention) in [
                (THIRTY_DAYS, "30 days"),
                (NINETY_DAYS, "90 days"),
                (0.5, "6 months"),
                (1.0, "1 year"),
                (2.0, "2 years"),
                (3.0, "3 years"),
            ] {
                let retention: crate::rule::Retention = retention.parse().unwrap();
                let cutoff = retention.cutoff(now, &TimeZone::UTC).as_second();
                // Where a month lacks the day, the rules count up to a day more than this calendar.
                let hours = 10 * 3_600;
                let (younger, older) = (calendar.seconds(years - 1e-9), calendar.seconds(years));
                assert!(younger > cutoff + hours, "{now} {retention} {}", younger - cutoff);
                assert!(older < cutoff - hours, "{now} {retention} {}", cutoff - older);
            }
        }
    }

    #[test]
    fn time_goes_on_and_ends_now() {
        let now = "2026-03-31T00:00:00Z".parse().unwrap();
        let calendar = Calendar::new(now);
        assert_eq!(calendar.seconds(0.0), now.as_second());
        assert!(calendar.seconds(-0.3) > now.as_second());
        let ages = (0..5_000).map(|place| calendar.seconds(f64::from(place) / 1_000.0));
        assert!(ages.collect::<Vec<_>>().is_sorted_by(|a, b| a >= b));
    }
}
