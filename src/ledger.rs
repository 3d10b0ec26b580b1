//! The ledger: expunged's own database, with requests, runs, batches and the audit log.
//!
//! It is a SQLite file, or a PostgreSQL database that several nodes share. Its schema is ours and
//! holds nothing but integers, text and bytes, so one SQL text with `$1` placeholders serves both
//! through sqlx's `Any` driver. All writing goes through [`Ledger::begin`].

use std::fmt;
use std::future::ready;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, AnyPool, Connection, Executor};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use tokio::time::timeout;

use crate::keys::Keys;

mod approvals;
pub mod audit;
mod backups;
mod change_keys;
mod error;
mod events;
mod front;
mod holds;
mod intent;
mod lock;
mod notices;
mod past;
mod place;
mod prove;
mod reports;
mod requests;
mod restores;
pub(crate) mod row;
mod rules;
mod runs;
mod schema;
mod sources;
mod steps;
mod together;
mod tombstones;
mod verifications;
mod verify;

pub(crate) use crate::audit::entry::moment::to_text;
pub use crate::audit::review::{Problem, Verification};
pub use approvals::{Approval, Approved, Permission};
pub use backups::{BackupSet, DeletedDay, Noted, Trouble};
pub(crate) use error::Doing;
pub use error::LedgerError;
pub use events::{Backlog, Pending, Received};
pub use holds::{Gate, Ground, HoldAct, OlderIntent};
pub use intent::{Attached, Intended, OpenBatch};
pub use lock::{DaemonLock, RecipientLock, RemovalLock, RuleLock};
pub use notices::{Answered, Notice, NoticeFilter, Queued, ReceiptReceived, RecipientState};
pub use past::LastRun;
use place::Place;
pub use prove::Taken;
pub use reports::RunReport;
pub use requests::Request;
pub use restores::{Frozen, Watch};
pub use rules::{Loaded, RuleChange, RuleState};
pub use runs::{Finish, Outcome, Run, Settlement, Start};
pub use tombstones::{Tombstone, Tombstones};

/// Connections to the ledger; a rule that runs needs one more of its own on PostgreSQL.
const MAX_CONNECTIONS: u32 = 8;
/// How long one waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// A write transaction on the ledger. Dropped without [`commit`], it is rolled back.
#[derive(Debug)]
pub struct Transaction<'a> {
    open: sqlx::Transaction<'a, sqlx::Any>,
    /// Given up after it, so that the next writer of this process finds the database free.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Deref for Transaction<'_> {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.open
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.open
    }
}

/// The ledger. Clones share its connections.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) pool: AnyPool,
    pub(crate) keys: Arc<Keys>,
    place: Arc<Place>,
    /// Writers of this process take turns on SQLite: who waits in SQLite itself sleeps for longer and
    /// longer, although the database has been free for a while.
    turn: Arc<Mutex<()>>,
    /// What runs write together.
    queue: Arc<together::Queue>,
    /// Told when notices were written.
    notices_written: Arc<Notify>,
}

/// Whether a connection may write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadWrite,
    ReadOnly,
}

impl Ledger {
    /// Connects to the ledger that the URL names (`sqlite:///path/to/file` or `postgres://…`), after
    /// making it or bringing its schema up to date.
    ///
    /// A new SQLite file is readable by its owner only; its folder is made if it is missing. On
    /// PostgreSQL the tables go into the first schema of the search path, which must exist.
    ///
    /// # Errors
    /// When there is something else at that place, which stays untouched; when a newer version of
    /// expunged has been there; when the database does not answer.
    pub async fn open(url: &str, keys: Arc<Keys>) -> Result<Self, LedgerError> {
        let place = Place::parse(url)?;
        schema::prepare(&place, &keys).await?;
        Self::connect(place, keys, Access::ReadWrite).await
    }

    /// Connects to a ledger for reading alone. It must exist and be of this version.
    ///
    /// # Errors
    /// As [`Ledger::open`], and when there is no ledger or an older one.
    pub async fn open_existing(url: &str, keys: Arc<Keys>) -> Result<Self, LedgerError> {
        let place = Place::parse(url)?;
        schema::check(&place).await?;
        Self::connect(place, keys, Access::ReadOnly).await
    }

    async fn connect(place: Place, keys: Arc<Keys>, access: Access) -> Result<Self, LedgerError> {
        let pool = pool(&place, access, MAX_CONNECTIONS).await?;
        Ok(Ledger {
            pool,
            keys,
            place: Arc::new(place),
            turn: Arc::default(),
            queue: Arc::default(),
            notices_written: Arc::default(),
        })
    }

    /// Begins a write transaction.
    ///
    /// On SQLite it waits for the one writer there can be; on PostgreSQL it runs beside others until
    /// [`audit::append`] makes it wait for its turn in the log, so append last and commit soon.
    ///
    /// # Errors
    /// When the database does not answer, or other writers take too long.
    pub async fn begin(&self) -> Result<Transaction<'static>, LedgerError> {
        let (statement, turn) = match *self.place {
            Place::Sqlite { .. } => ("BEGIN IMMEDIATE", self.turn().await),
            Place::Postgres { .. } => ("BEGIN ISOLATION LEVEL READ COMMITTED", None),
        };
        let open = self.pool.begin_with(statement).await.doing("beginning a transaction")?;
        Ok(Transaction { open, _turn: turn })
    }

    /// The turn among the writers of this process. Whoever keeps it for too long is passed over; SQLite decides then.
    async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        timeout(ACQUIRE_TIMEOUT, self.turn.clone().lock_owned()).await.ok()
    }

    /// Begins a transaction that only reads, and sees one moment throughout.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn snapshot(&self) -> Result<Transaction<'static>, LedgerError> {
        let statement = match *self.place {
            Place::Sqlite { .. } => "BEGIN",
            Place::Postgres { .. } => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        let open = self.pool.begin_with(statement).await.doing("beginning to read")?;
        Ok(Transaction { open, _turn: None })
    }

    /// The keys that sign its audit log.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Closes all connections; on SQLite, this folds the write-ahead log into the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({})", self.place)
    }
}

/// Makes what was written in a transaction durable.
///
/// # Errors
/// When the database does not answer: whether it was made durable is then unknown.
pub async fn commit(transaction: Transaction<'_>) -> Result<(), LedgerError> {
    transaction.open.commit().await.doing("committing")
}

/// Connections that are set up as every one must be.
async fn pool(place: &Place, access: Access, size: u32) -> Result<AnyPool, LedgerError> {
    let is_sqlite = place.file().is_some();
    let options = AnyPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE_TIMEOUT);
    // Without a time to end there is nothing for sqlx's maintenance to do: its count of idle connections
    // can wrap round when a pool ends, and it then counts for ever.
    let options = options.idle_timeout(None).max_lifetime(None);
    // A file does not go away, so no connection to it is asked whether it is still there.
    let options = options.test_before_acquire(!is_sqlite);
    options
        .after_connect(move |connection, _| Box::pin(set_up(connection, is_sqlite, access)))
        // What a full disk keeps from being committed is rolled back by SQLite itself. sqlx goes on counting
        // it as open and never begins another on that connection, so that one is replaced.
        .before_acquire(|connection, _| Box::pin(ready(Ok(!connection.is_in_transaction()))))
        .connect_with(place.options()?)
        .await
        .doing("connecting to it")
}

/// One connection outside the pool, set up for writing.
async fn dedicated(place: &Place) -> Result<AnyConnection, LedgerError> {
    let options: AnyConnectOptions = place.options()?;
    let mut connection = AnyConnection::connect_with(&options).await.doing("connecting to it")?;
    let is_sqlite = place.file().is_some();
    set_up(&mut connection, is_sqlite, Access::ReadWrite).await.doing("setting up a connection")?;
    Ok(connection)
}

/// What every connection is told first.
async fn set_up(
    connection: &mut AnyConnection,
    is_sqlite: bool,
    access: Access,
) -> Result<(), sqlx::Error> {
    let statements = match (is_sqlite, access) {
        // `synchronous = FULL` makes each commit durable, `secure_delete` overwrites what is removed. Whoever commits
        // when the write-ahead log is due to be folded into the file waits for that: so that is at 16 MB instead of 4.
        (true, Access::ReadWrite) => {
            "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
             PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA wal_autocheckpoint = 4000"
        }
        (true, Access::ReadOnly) => "PRAGMA busy_timeout = 10000; PRAGMA query_only = ON",
        // A server that is set up not to wait for its disk is told to: intents must be durable.
        (false, Access::ReadWrite) => {
            "SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') = 'off'"
        }
        (false, Access::ReadOnly) => "SET default_transaction_read_only = on",
    };
    connection.execute(statements).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Entry;

    fn spawnable<T: Send + 'static>(_: T) {}

    /// Whatever the ledger does can be done in a task of its own. Only to be compiled.
    #[expect(dead_code, clippy::needless_pass_by_value, reason = "it is enough that it compiles")]
    fn all_can_be_spawned(ledger: Ledger, keys: Arc<Keys>, url: String, entry: Entry) {
        let (u, k) = (url.clone(), keys.clone());
        spawnable(async move { Ledger::open(&u, k).await.map(drop) });
        let (u, k) = (url.clone(), keys.clone());
        spawnable(async move { Ledger::open_existing(&u, k).await.map(drop) });
        let l = ledger.clone();
        spawnable(async move { l.begin().await.map(drop) });
        let l = ledger.clone();
        spawnable(async move {
            let mut transaction = l.begin().await?;
            audit::append(&mut transaction, l.keys(), &entry).await?;
            commit(transaction).await
        });
        let l = ledger.clone();
        spawnable(async move { l.verify_audit().await.map(drop) });
        let l = ledger.clone();
        spawnable(async move { l.audit_log(&audit::AuditFilter::default()).await.map(drop) });
        let l = ledger.clone();
        spawnable(async move {
            let rule = "a".parse().expect("a name");
            let Some(mut lock) = l.lock_rule(&rule).await? else { return Ok(()) };
            lock.check().await?;
            lock.release().await
        });
    }
}
