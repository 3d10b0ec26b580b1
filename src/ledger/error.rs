//! What can go wrong with the ledger.

use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use crate::audit::checkpoint::CheckpointError;
use crate::audit::entry::EntryError;
use crate::transition::IllegalStep;
use crate::types::Name;

/// Why something could not be done with the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The URL does not name a ledger.
    #[error(
        "the ledger's URL {0}: write `sqlite:///path/to/ledger.db` or `postgres://user@host/database`"
    )]
    Url(&'static str),
    /// There is no ledger.
    #[error("there is no ledger at {place}: it is made when the daemon first starts")]
    Absent {
        /// Where one was looked for, without a password.
        place: String,
    },
    /// There is something else.
    #[error("{place} is not a ledger of expunged, and stays untouched: {found}")]
    Foreign {
        /// Where the ledger should be.
        place: String,
        /// What is there.
        found: String,
    },
    /// A newer version of expunged has been there.
    #[error(
        "the ledger at {place} has schema version {found}, and this expunged knows versions up to \
         {known}: use a newer expunged"
    )]
    Newer {
        /// Where the ledger is.
        place: String,
        /// Its version.
        found: i64,
        /// The newest version that is known here.
        known: i64,
    },
    /// An older version, and this command must not change it.
    #[error(
        "the ledger at {place} has schema version {found}, and this expunged needs version {known}: \
         start its daemon once, which brings the ledger up to date"
    )]
    Older {
        /// Where the ledger is.
        place: String,
        /// Its version.
        found: i64,
        /// The version that is needed.
        known: i64,
    },
    /// Its schema could not be made.
    #[error("cannot bring the ledger's schema up to date: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The file system refused something.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The database refused something.
    #[error("the ledger failed while {doing}: {source}{}", hint(source))]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: sqlx::Error,
    },
    /// The session that held a rule's lock has lost it.
    #[error("the lock of rule `{0}` was lost: another process may be working on the rule")]
    LockLost(Name),
    /// The lock of a recipient was lost with its session.
    #[error("the lock of recipient `{0}` was lost: another process may be telling it")]
    RecipientLockLost(Name),
    /// The run was ended by somebody else, who took this process for dead.
    #[error(
        "the run was taken over by another process, which found its lock free: nothing more is done here"
    )]
    RunTakenOver,
    /// Something must not be done while a daemon runs.
    #[error(
        "a daemon runs on this ledger: stop it first, as it would go on with the keys that it has read"
    )]
    DaemonRuns,
    /// Somebody is changing the keys.
    #[error(
        "somebody is changing the keys of this ledger just now: start the daemon when that is done"
    )]
    KeysChange,
    /// It was to be written together with what others write, and that failed.
    #[error("the ledger failed while writing for several runs: see what was said of another")]
    Unwritten,
    /// More is held than when the batch was taken.
    #[error("a legal hold was placed since the holds were read: the batch is undone")]
    HoldsChanged,
    /// There is no such hold, or it cannot be changed any more.
    #[error(
        "there is no legal hold {0} that could be changed, or it was released: see `expunged hold list --all`"
    )]
    NoHold(uuid::Uuid),
    /// A row holds what expunged never writes.
    #[error("the ledger is damaged: column `{column}` holds {found}")]
    Damaged {
        /// The column.
        column: &'static str,
        /// What is in it.
        found: &'static str,
    },
    /// A step that the run may not take where it stands.
    #[error("run {run} is not as this process left it, and nothing more is done here: {source}")]
    Illegal {
        /// The run.
        run: Uuid,
        /// The step, and what is in its way.
        source: IllegalStep,
    },
    /// What is recorded of a run is not what any run leaves behind.
    #[error(
        "the ledger is damaged: what it says of run {run} cannot have happened ({source}); nothing of \
         it is resolved by guess: restore the ledger from a backup"
    )]
    Impossible {
        /// The run.
        run: Uuid,
        /// The first step that does not follow.
        source: IllegalStep,
    },
    /// An entry that does not fit the log, or that this version cannot read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The end of the audit log is not as expunged left it, so nothing is built on it.
    #[error("the audit log's head cannot be trusted, and nothing is added to it: {0}")]
    Head(#[from] HeadError),
}

/// What to look at first: SQLite calls a full disk an input/output error as often as not.
fn hint(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        // SQLITE_FULL, SQLITE_IOERR and its kinds for writing, syncing and truncating; disk_full.
        Some("13" | "10" | "778" | "1034" | "1290" | "1546" | "4874" | "53100") => {
            " (is its disk full?)"
        }
        // SQLITE_READONLY, SQLITE_CANTOPEN.
        Some("8" | "14" | "1032" | "1544") => " (does it belong to another account?)",
        _ => "",
    }
}

/// What is wrong with the end of the audit log.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeadError {
    /// Its row is gone.
    #[error("it is missing")]
    Missing,
    /// Its checkpoint is not one that these keys have signed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// There is no key to change to.
    #[error("there is no new signing key for it to go on under")]
    NoNextKey,
    /// Size, frontier and signed checkpoint do not say the same.
    #[error("its size and tree are not those of its signed checkpoint")]
    Disagrees,
}

impl LedgerError {
    /// Whether the same may well succeed when it is tried again.
    pub fn is_transient(&self) -> bool {
        use sqlx::Error as E;
        match self {
            LedgerError::Database { source: E::Database(error), .. } => {
                // SQLite: busy, locked. PostgreSQL: connection trouble, conflicts between
                // transactions, out of resources, shutting down.
                let code = error.code().unwrap_or_default();
                matches!(&*code, "5" | "6" | "261" | "517")
                    || ["08", "40", "53", "57P"].iter().any(|class| code.starts_with(class))
            }
            LedgerError::Database { source, .. } => {
                matches!(source, E::Io(_) | E::PoolTimedOut | E::Protocol(_) | E::WorkerCrashed)
            }
            _ => false,
        }
    }
}

/// Says what was being done when the database refused.
pub(crate) trait Doing<T> {
    /// Turns the error into a [`LedgerError`]; `what` completes "the ledger failed while".
    fn doing(self, what: &'static str) -> Result<T, LedgerError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, what: &'static str) -> Result<T, LedgerError> {
        self.map_err(|source| LedgerError::Database { doing: what, source })
    }
}
