//! SQL databases behind one door: a [`Database`] begins a [`Transaction`], and a transaction runs
//! statements. Everything above this file is the same for all dialects.

/// What the drivers do alike, written out for each because they share no trait that says so: binding a
/// statement's values, and running it. Unsigned numbers and lists travel as each of them can.
macro_rules! run_statements {
    ($connection:ty, $arguments:ty, unsigned: $unsigned:expr, list: $list:expr) => {
        fn arguments(values: &[Value]) -> Result<$arguments, sqlx::Error> {
            let mut arguments = <$arguments>::default();
            for value in values {
                match value.clone() {
                    Value::Int(value) => arguments.add(value),
                    Value::UInt(value) => arguments.add($unsigned(value)),
                    Value::Text(value) => arguments.add(value),
                    Value::Texts(values) => arguments.add($list(values)),
                    Value::Bytes(value) => arguments.add(value),
                    Value::Instant(value) => arguments.add(value),
                    Value::Civil(value) => arguments.add(value),
                    Value::Date(value) => arguments.add(value),
                    Value::Null => arguments.add(None::<String>),
                }
                .map_err(sqlx::Error::Encode)?;
            }
            Ok(arguments)
        }

        /// Runs a statement and reads its rows.
        pub(super) async fn fetch(
            connection: &mut $connection,
            statement: &Statement,
        ) -> Result<Vec<Row>, sqlx::Error> {
            let mut rows = Vec::new();
            let mut keep = |row| {
                rows.push(row);
                Ok(())
            };
            fetch_each(connection, statement, &mut keep).await?;
            Ok(rows)
        }

        /// Runs a statement and hands each of its rows over as it comes.
        pub(super) async fn fetch_each(
            connection: &mut $connection,
            statement: &Statement,
            each: &mut (dyn FnMut(Row) -> Result<(), sqlx::Error> + Send),
        ) -> Result<(), sqlx::Error> {
            let text = AssertSqlSafe(statement.text().to_owned());
            let query = sqlx::query_with(text, arguments(statement.values())?)
                .persistent(statement.is_reusable());
            let mut rows = connection.fetch(query);
            while let Some(row) = rows.next().await {
                each(read(&row?)?)?;
            }
            Ok(())
        }

        /// Runs a statement and says how many rows it touched.
        pub(super) async fn execute(
            connection: &mut $connection,
            statement: &Statement,
        ) -> Result<u64, sqlx::Error> {
            let text = AssertSqlSafe(statement.text().to_owned());
            let query = sqlx::query_with(text, arguments(statement.values())?)
                .persistent(statement.is_reusable());
            Ok(connection.execute(query).await?.rows_affected())
        }
    };
}

mod again;
mod batch;
pub mod catalogue;
mod change;
mod dependents;
mod explain;
mod happened;
mod keep;
mod lag;
mod mysql;
mod partitions;
mod postgres;
mod readback;
mod remove;
mod sight;
mod sqlite;
mod start;
mod statement;
mod survey;
mod target;
mod walk;
mod window;

use std::io::ErrorKind;
use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{
    Acquire, AssertSqlSafe, Connection, MySql, MySqlPool, PgPool, Postgres, Sqlite, SqlitePool,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::rule::Dialect;
use crate::types::TableName;

pub use crate::pace::Pace;
pub use again::Fate;
pub(super) use again::{again, present};
pub(crate) use batch::TakeError;
pub use batch::{Interrupted, Locked, Records, Replace, Resolution};
pub(super) use batch::{lock, resolve, take, take_fitting, take_locked, transaction_id, try_told};
pub use dependents::{Dependent, Dependents};
pub use explain::Explained;
pub(super) use explain::explain as explain_record;
pub(super) use happened::happened;
pub use happened::{Happened, Watched};
pub(crate) use keep::KeepError;
pub(super) use keep::{count_held_of_table, count_held_of_target, hold_back, try_held_predicate};
pub(super) use lag::lag;
pub use partitions::Partition;
pub(super) use partitions::{
    begin_keys, detach_and_drop, is_free, is_unchanged, lock_everybody_out, lock_writers_out,
    may_still_go, next_keys, partitions,
};
pub(super) use readback::{residue, still_there};
pub(super) use remove::Removal;
pub(super) use sight::{MARKER_COLUMNS, mark, server, write_mark};
pub use survey::SurveyDepth;
pub(super) use survey::{
    count, count_only_in, count_rows, each_key, next_start, sample, survey, try_condition,
};
pub use target::{Bounds, Mismatch, Target};
pub(super) use walk::{AtHand, halves, next_window};
pub use walk::{Walk, WalkKind};
pub use window::Window;

use catalogue::{Column, ColumnKind, Table};
pub(crate) use statement::Statement;

/// How long a connection takes at most where all is well.
const PROMPT: Duration = Duration::from_millis(300);

/// How long a connection that hears notifications may take to say that it is there.
const ALIVE: Duration = Duration::from_secs(5);

/// What a connection is for. A read-only one cannot write, and the database itself sees to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// For `check`, `plan` and rules that observe.
    ReadOnly,
    /// For runs that act.
    ReadWrite,
}

/// What a transaction that writes makes of what others commit meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Isolation {
    /// Each statement sees it; rows that it locked are as they are.
    Usual,
    /// For a deletion that may reach held rows of other tables. Between the look at those rows and the
    /// cascade that takes them, others may change them or add to them. PostgreSQL then fails the cascade
    /// (40001); MySQL keeps what the statement read locked to the end, gaps between rows too. SQLite has
    /// one writer.
    Steady,
}

/// A database with its pool of connections.
#[derive(Clone, Debug)]
pub enum Database {
    /// PostgreSQL.
    Postgres(PgPool),
    /// MySQL or MariaDB.
    Mysql(MySqlPool),
    /// SQLite.
    Sqlite(SqlitePool),
}

/// Waits for notifications of PostgreSQL.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Listener {
    /// Waits until there is reason to look: a notification came, or some may have been lost because the
    /// connection was, and is there again.
    ///
    /// # Errors
    /// When the connection cannot be had again; listen anew later.
    pub async fn woken(&mut self) -> Result<(), sqlx::Error> {
        self.0.try_recv().await?;
        // One look answers them all.
        while self.0.next_buffered().is_some() {}
        Ok(())
    }

    /// Sees whether its connection is still there: one that a firewall forgot hears nothing and says nothing.
    ///
    /// # Errors
    /// When it is not, or does not answer in time.
    pub async fn ping(&mut self) -> Result<(), sqlx::Error> {
        let ping = async { self.0.acquire().await?.ping().await };
        timeout(ALIVE, ping).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn fetch(&mut self, statement: &Statement) -> Result<Vec<Row>, sqlx::Error> {
        postgres::fetch(self.0.acquire().await?, statement).await
    }
}

/// A transaction; dropped without a commit, it is rolled back.
pub enum Transaction {
    /// PostgreSQL.
    Postgres(sqlx::Transaction<'static, Postgres>),
    /// MySQL or MariaDB.
    Mysql(sqlx::Transaction<'static, MySql>),
    /// SQLite.
    Sqlite(sqlx::Transaction<'static, Sqlite>),
}

/// One value read, of the few kinds that statements here select.
#[derive(Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Float(f64),
    Text(String),
    Texts(Vec<String>),
    Bytes(Vec<u8>),
}

/// One row read.
pub(crate) struct Row(pub(crate) Vec<Cell>);

impl Row {
    pub(crate) fn int(&self, index: usize) -> Option<i64> {
        match self.0.get(index) {
            Some(Cell::Int(value)) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn text(&self, index: usize) -> Option<String> {
        match self.0.get(index) {
            Some(Cell::Text(value)) => Some(value.clone()),
            // MySQL hands some of its catalogue's texts out as bytes.
            Some(Cell::Bytes(value)) => String::from_utf8(value.clone()).ok(),
            _ => None,
        }
    }

    /// A number or a text, as text.
    pub(crate) fn scalar_text(&self, index: usize) -> Option<String> {
        match self.0.get(index) {
            Some(Cell::Int(value)) => Some(value.to_string()),
            Some(Cell::Float(value)) => Some(value.to_string()),
            _ => self.text(index),
        }
    }

    /// A number or a text, as text, which is not there any more then.
    pub(crate) fn take_scalar_text(&mut self, index: usize) -> Option<String> {
        match self.0.get_mut(index) {
            Some(Cell::Text(value)) => Some(std::mem::take(value)),
            _ => self.scalar_text(index),
        }
    }

    pub(crate) fn texts(&self, index: usize) -> Vec<String> {
        match self.0.get(index) {
            Some(Cell::Texts(values)) => values.clone(),
            _ => Vec::new(),
        }
    }
}

/// What the server's clock shows. SQLite has no server, and this machine's clock was asked already.
pub(super) async fn clock(tx: &mut Transaction) -> Result<Option<Timestamp>, sqlx::Error> {
    let dialect = tx.dialect();
    if dialect == Dialect::Sqlite {
        return Ok(None);
    }
    let mut s = Statement::new(dialect, "SELECT ");
    s.by_dialect(
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
        "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
        "",
    );
    let micros = tx.fetch_row(&s).await?.int(0);
    Ok(micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()))
}

/// The statement that makes an index on a column, for people to run.
pub fn create_index(
    dialect: Dialect,
    schema: Option<&str>,
    table: &str,
    columns: &[String],
) -> String {
    // In PostgreSQL, CONCURRENTLY lets others go on writing.
    let mut s = Statement::new(dialect, "CREATE INDEX ");
    if dialect == Dialect::Postgres {
        s.push("CONCURRENTLY ON ");
    } else {
        s.name(&format!("{table}_{}", columns.join("_"))).push(" ON ");
    }
    s.qualified(schema, table).push(" (").names(columns.iter().map(String::as_str)).push(");");
    s.text().to_owned()
}

/// The beginning of a transaction that writes.
fn begin_of_postgres(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Usual => "BEGIN ISOLATION LEVEL READ COMMITTED",
        Isolation::Steady => "BEGIN ISOLATION LEVEL REPEATABLE READ",
    }
}

/// The beginning of a transaction that writes. It does not wait for long for whoever changes a table, or waits to:
/// of itself the server would have it wait a day, or a year.
fn begin_of_mysql(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Usual => "SET SESSION lock_wait_timeout = 2; START TRANSACTION",
        // For this one transaction; the session keeps its own level.
        Isolation::Steady => {
            "SET SESSION lock_wait_timeout = 2; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
             START TRANSACTION"
        }
    }
}

/// How many bytes an index on these columns of a table of so many rows takes, by the layout of its pages; an estimate,
/// as texts are of any length.
pub fn index_bytes(table: &Table, columns: &[String], rows: u64) -> u64 {
    let width = |column: &Column| match column.kind {
        ColumnKind::Integer | ColumnKind::Instant | ColumnKind::Civil | ColumnKind::Date => 8,
        ColumnKind::Uuid | ColumnKind::Number | ColumnKind::Inet => 16,
        ColumnKind::Text | ColumnKind::Bytes | ColumnKind::Other => 24,
    };
    let of = |columns: &mut dyn Iterator<Item = &Column>| columns.map(width).sum::<u64>();
    let key = of(&mut columns.iter().filter_map(|name| table.column(name)));
    // What an entry takes besides, and the part of a page that is filled, in percent. An entry of InnoDB has the
    // primary key of its row, one of SQLite the rowid.
    let (besides, filled) = match table.dialect {
        Dialect::Postgres => (12, 90),
        Dialect::Mysql => (8 + of(&mut table.key.iter()), 70),
        Dialect::Sqlite => (12, 70),
    };
    rows.saturating_mul((key + besides) * 100 / filled)
}

impl Database {
    /// Prepares the connections; nothing is connected yet.
    ///
    /// # Errors
    /// When the URL does not parse.
    pub fn new(
        kind: Dialect,
        url: &str,
        access: Access,
        connect_timeout: Duration,
    ) -> Result<Database, sqlx::Error> {
        Ok(match kind {
            Dialect::Postgres => Database::Postgres(postgres::pool(url, access, connect_timeout)?),
            Dialect::Mysql => Database::Mysql(mysql::pool(url, access, connect_timeout)?),
            Dialect::Sqlite => Database::Sqlite(sqlite::pool(url, access, connect_timeout)?),
        })
    }

    /// Begins a transaction: for reading, one snapshot that cannot write; for writing, one that
    /// takes its locks at once where the dialect could otherwise fail half-way.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn begin(&self, access: Access) -> Result<Transaction, sqlx::Error> {
        self.begin_at(access, Isolation::Usual).await
    }

    /// Begins a transaction that writes and sees others' changes as it is told.
    pub(super) async fn begin_at(
        &self,
        access: Access,
        isolation: Isolation,
    ) -> Result<Transaction, sqlx::Error> {
        self.begin_within(Box::pin(self.begin_patiently(access, isolation))).await
    }

    /// Begins a transaction that writes, and waits no longer for any lock: it holds others meanwhile, for which others
    /// wait. SQLite has one lock, which is waited for while nothing is held.
    pub(super) async fn begin_taking(
        &self,
        isolation: Isolation,
        lock_wait: Duration,
    ) -> Result<Transaction, sqlx::Error> {
        let sql = match self {
            Database::Postgres(_) => {
                let begin = begin_of_postgres(isolation);
                format!("{begin}; SET LOCAL lock_timeout = {}", lock_wait.as_millis().max(1))
            }
            // Whole seconds, and one at least.
            Database::Mysql(_) => {
                let seconds = lock_wait.as_millis().div_ceil(1_000).max(1);
                let begin = begin_of_mysql(isolation);
                format!("SET SESSION innodb_lock_wait_timeout = {seconds}; {begin}")
            }
            Database::Sqlite(_) => return self.begin_at(Access::ReadWrite, isolation).await,
        };
        let sql = AssertSqlSafe(sql);
        let begun = async {
            Ok(match self {
                Database::Postgres(pool) => Transaction::Postgres(pool.begin_with(sql).await?),
                Database::Mysql(pool) => Transaction::Mysql(pool.begin_with(sql).await?),
                Database::Sqlite(pool) => Transaction::Sqlite(pool.begin_with(sql).await?),
            })
        };
        self.begin_within(Box::pin(begun)).await
    }

    /// On the heap: what takes a batch is large enough without it.
    async fn begin_within(
        &self,
        mut begun: Pin<Box<dyn Future<Output = Result<Transaction, sqlx::Error>> + Send + '_>>,
    ) -> Result<Transaction, sqlx::Error> {
        // The pool takes a refused connection for a server that is just starting, and tries again
        // until its time is up.
        if let Ok(begun) = timeout(PROMPT, &mut begun).await {
            return begun;
        }
        self.is_listening().await?;
        begun.await
    }

    async fn begin_patiently(
        &self,
        access: Access,
        isolation: Isolation,
    ) -> Result<Transaction, sqlx::Error> {
        let reading = access == Access::ReadOnly;
        Ok(match self {
            Database::Postgres(pool) => Transaction::Postgres(
                pool.begin_with(match access {
                    Access::ReadOnly => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                    Access::ReadWrite => begin_of_postgres(isolation),
                })
                .await?,
            ),
            Database::Mysql(pool) => Transaction::Mysql(
                pool.begin_with(match access {
                    // It holds nothing meanwhile that others need.
                    Access::ReadOnly => {
                        "SET SESSION lock_wait_timeout = 10; \
                         START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
                    }
                    Access::ReadWrite => begin_of_mysql(isolation),
                })
                .await?,
            ),
            Database::Sqlite(pool) => Transaction::Sqlite(
                pool.begin_with(if reading { "BEGIN" } else { "BEGIN IMMEDIATE" }).await?,
            ),
        })
    }

    /// Runs one statement by itself that only reads. On PostgreSQL it is its own transaction: the sessions
    /// of a pool for reading write in none, and two round trips are saved.
    pub(super) async fn read(&self, statement: &Statement) -> Result<Vec<Row>, sqlx::Error> {
        if let Database::Postgres(pool) = self
            && let Ok(Ok(mut connection)) = timeout(PROMPT, pool.acquire()).await
        {
            return postgres::fetch(&mut connection, statement).await;
        }
        self.begin(Access::ReadOnly).await?.fetch(statement).await
    }

    /// Listens on a channel of PostgreSQL, on a connection of its own.
    ///
    /// # Errors
    /// When it cannot be reached, or is no PostgreSQL.
    pub(super) async fn listen(&self, channel: &str) -> Result<Listener, sqlx::Error> {
        let Database::Postgres(pool) = self else {
            return Err(sqlx::Error::Configuration("only PostgreSQL notifies".into()));
        };
        // By this name an administrator tells it from those of the pool.
        let options =
            pool.connect_options().as_ref().clone().application_name("expunged, listening");
        let own = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(pool.options().get_acquire_timeout())
            .connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen(channel).await?;
        Ok(Listener(listener))
    }

    /// Fails where nobody listens. Not asked before there is doubt: MySQL counts against a host what
    /// connects and says nothing.
    async fn is_listening(&self) -> Result<(), sqlx::Error> {
        let (host, port, patience) = match self {
            Database::Postgres(pool) => {
                let options = pool.connect_options();
                // A host that is a path is a socket's folder.
                if options.get_socket().is_some() || options.get_host().starts_with('/') {
                    return Ok(());
                }
                let patience = pool.options().get_acquire_timeout();
                (options.get_host().to_owned(), options.get_port(), patience)
            }
            Database::Mysql(pool) => {
                let options = pool.connect_options();
                if options.get_socket().is_some() {
                    return Ok(());
                }
                let patience = pool.options().get_acquire_timeout();
                (options.get_host().to_owned(), options.get_port(), patience)
            }
            Database::Sqlite(_) => return Ok(()),
        };
        match timeout(patience, TcpStream::connect((host, port))).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Err(error.into()),
            Ok(_) => Ok(()),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// Folds SQLite's write-ahead log into its file and empties it; whether that could be done, because
    /// nobody was reading. Elsewhere there is nothing to fold.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn fold_log(&self) -> Result<bool, sqlx::Error> {
        let Database::Sqlite(pool) = self else { return Ok(false) };
        let mut connection = pool.acquire().await?;
        let fold = Statement::new(Dialect::Sqlite, "PRAGMA wal_checkpoint(TRUNCATE)");
        let rows = sqlite::fetch(&mut connection, &fold).await?;
        Ok(rows.first().and_then(|row| row.int(0)) == Some(0))
    }

    /// Closes all connections.
    pub async fn close(&self) {
        match self {
            Database::Postgres(pool) => pool.close().await,
            Database::Mysql(pool) => pool.close().await,
            Database::Sqlite(pool) => pool.close().await,
        }
    }
}

impl Transaction {
    /// The dialect it speaks.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Transaction::Postgres(_) => Dialect::Postgres,
            Transaction::Mysql(_) => Dialect::Mysql,
            Transaction::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Runs a statement and reads its rows.
    pub(crate) async fn fetch(&mut self, statement: &Statement) -> Result<Vec<Row>, sqlx::Error> {
        match self {
            Transaction::Postgres(tx) => postgres::fetch(tx, statement).await,
            Transaction::Mysql(tx) => mysql::fetch(tx, statement).await,
            Transaction::Sqlite(tx) => sqlite::fetch(tx, statement).await,
        }
    }

    /// Runs a statement and hands each of its rows over as it comes: for more than memory should hold.
    pub(crate) async fn fetch_each(
        &mut self,
        statement: &Statement,
        each: &mut (dyn FnMut(Row) -> Result<(), sqlx::Error> + Send),
    ) -> Result<(), sqlx::Error> {
        match self {
            Transaction::Postgres(tx) => postgres::fetch_each(tx, statement, each).await,
            Transaction::Mysql(tx) => mysql::fetch_each(tx, statement, each).await,
            Transaction::Sqlite(tx) => sqlite::fetch_each(tx, statement, each).await,
        }
    }

    /// Runs a statement that gives exactly one row.
    pub(crate) async fn fetch_row(&mut self, statement: &Statement) -> Result<Row, sqlx::Error> {
        self.fetch(statement).await?.into_iter().next().ok_or(sqlx::Error::RowNotFound)
    }

    /// Runs a statement and says how many rows it touched.
    pub(crate) async fn execute(&mut self, statement: &Statement) -> Result<u64, sqlx::Error> {
        match self {
            Transaction::Postgres(tx) => postgres::execute(tx, statement).await,
            Transaction::Mysql(tx) => mysql::execute(tx, statement).await,
            Transaction::Sqlite(tx) => sqlite::execute(tx, statement).await,
        }
    }

    /// Reads everything the catalogue knows about a table; `None` when there is no such table.
    pub(crate) async fn table(&mut self, name: &TableName) -> Result<Option<Table>, sqlx::Error> {
        match self {
            Transaction::Postgres(tx) => postgres::table(tx, name).await,
            Transaction::Mysql(tx) => mysql::table(tx, name).await,
            Transaction::Sqlite(tx) => sqlite::table(tx, name).await,
        }
    }

    /// Commits.
    ///
    /// # Errors
    /// When the commit's outcome is not known to be good; the transaction may or may not have been
    /// committed then.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Transaction::Postgres(tx) => tx.commit().await,
            Transaction::Mysql(tx) => mysql::commit(tx).await,
            Transaction::Sqlite(tx) => tx.commit().await,
        }
    }

    /// Rolls back.
    ///
    /// # Errors
    /// When the connection is gone, in which case the server rolls back by itself.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        match self {
            Transaction::Postgres(tx) => tx.rollback().await,
            Transaction::Mysql(tx) => tx.rollback().await,
            Transaction::Sqlite(tx) => tx.rollback().await,
        }
    }
}
