//! Locks that vanish with the process that holds them, however it ends.
//!
//! On SQLite they are locks on files beside the ledger, on PostgreSQL advisory locks of a session.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sqlx::{AnyConnection, Connection};

use super::error::Doing;
use super::place::Place;
use super::{Ledger, LedgerError, dedicated};
use crate::types::Name;

/// The right to work on a rule: nobody else has it, in this process or another, until it is dropped.
#[derive(Debug)]
pub struct RuleLock {
    rule: Name,
    held: Held,
}

/// The right to tell a recipient: nobody else has it, in this process or another, until it is dropped.
#[derive(Debug)]
pub struct RecipientLock(Held);

/// Says that rows are being removed from a recipient's table, heeding the legal holds that were read since it is
/// held. Several may hold one; whoever places a hold waits for them.
#[derive(Debug)]
pub struct RemovalLock(#[expect(dead_code, reason = "it is held, not read")] Held);

/// Keeps changes of the keys and daemons apart, until it is dropped.
#[derive(Debug)]
pub struct DaemonLock(#[expect(dead_code, reason = "it is held, not read")] Held);

/// Whether others may hold the same lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Alone,
    Among,
}

/// What holds the lock.
enum Held {
    /// An open file: its lock goes when it is closed.
    File(#[expect(dead_code, reason = "it is held, not read")] File),
    /// A session: the server frees its locks when the connection ends.
    Session(Box<AnyConnection>),
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Held::File(_) => "File",
            Held::Session(_) => "Session",
        })
    }
}

impl Ledger {
    /// Takes the right to work on a rule, or gives `None` when somebody else has it.
    ///
    /// # Errors
    /// When the lock file cannot be had, or the database does not answer.
    pub async fn lock_rule(&self, rule: &Name) -> Result<Option<RuleLock>, LedgerError> {
        let held = match &*self.place {
            // Two openings of a file exclude each other even in one process.
            Place::Sqlite { file } => {
                let name = format!("rule.{rule}.lock");
                try_lock_file(file, &name, Share::Alone)?.map(Held::File)
            }
            place @ Place::Postgres { .. } => {
                let name = format!("expunged rule lock\n{{schema}}\n{rule}");
                let session = try_lock_session(place, &name, Share::Alone).await?;
                session.map(|session| Held::Session(Box::new(session)))
            }
        };
        Ok(held.map(|held| RuleLock { rule: rule.clone(), held }))
    }

    /// Takes the right to tell a recipient, or gives `None` when somebody else has it.
    ///
    /// # Errors
    /// As for [`Ledger::lock_rule`].
    pub async fn lock_recipient(
        &self,
        recipient: &Name,
    ) -> Result<Option<RecipientLock>, LedgerError> {
        let held = match &*self.place {
            Place::Sqlite { file } => {
                let name = format!("recipient.{recipient}.lock");
                try_lock_file(file, &name, Share::Alone)?.map(Held::File)
            }
            place @ Place::Postgres { .. } => {
                let name = format!("expunged recipient lock\n{{schema}}\n{recipient}");
                let session = try_lock_session(place, &name, Share::Alone).await?;
                session.map(|session| Held::Session(Box::new(session)))
            }
        };
        Ok(held.map(RecipientLock))
    }

    /// Says that rows are about to be removed from a recipient's table. The legal holds are to be read after this:
    /// whoever places one waits until all who read them before are done. `None` just while somebody looks.
    ///
    /// # Errors
    /// As for [`Ledger::lock_rule`].
    pub async fn lock_removal(&self) -> Result<Option<RemovalLock>, LedgerError> {
        Ok(self.lock_removals(Share::Among).await?.map(RemovalLock))
    }

    /// Whether anybody who may have read the legal holds before now is removing rows from a recipient's table.
    ///
    /// # Errors
    /// As for [`Ledger::lock_rule`].
    pub async fn removals_go_on(&self) -> Result<bool, LedgerError> {
        Ok(self.lock_removals(Share::Alone).await?.is_none())
    }

    async fn lock_removals(&self, share: Share) -> Result<Option<Held>, LedgerError> {
        Ok(match &*self.place {
            Place::Sqlite { file } => try_lock_file(file, "removals.lock", share)?.map(Held::File),
            place @ Place::Postgres { .. } => {
                let name = "expunged removal lock\n{schema}";
                let session = try_lock_session(place, name, share).await?;
                session.map(|session| Held::Session(Box::new(session)))
            }
        })
    }

    /// Says that a daemon works on this ledger, for as long as the lock is held; others may do so too.
    ///
    /// # Errors
    /// When somebody holds [`Ledger::lock_out_daemons`], or the lock cannot be had.
    pub async fn lock_daemon(&self) -> Result<DaemonLock, LedgerError> {
        self.lock_daemons(Share::Among).await?.ok_or(LedgerError::KeysChange)
    }

    /// Makes sure that no daemon works on this ledger or begins to, for as long as the lock is held.
    ///
    /// # Errors
    /// When one does, or the lock cannot be had.
    pub async fn lock_out_daemons(&self) -> Result<DaemonLock, LedgerError> {
        self.lock_daemons(Share::Alone).await?.ok_or(LedgerError::DaemonRuns)
    }

    async fn lock_daemons(&self, share: Share) -> Result<Option<DaemonLock>, LedgerError> {
        let held = match &*self.place {
            Place::Sqlite { file } => try_lock_file(file, "daemon.lock", share)?.map(Held::File),
            place @ Place::Postgres { .. } => {
                let name = "expunged daemon lock\n{schema}";
                let session = try_lock_session(place, name, share).await?;
                session.map(|session| Held::Session(Box::new(session)))
            }
        };
        Ok(held.map(DaemonLock))
    }
}

impl RuleLock {
    /// The rule that is locked.
    pub fn rule(&self) -> &Name {
        &self.rule
    }

    /// Makes sure that the lock is still held: its session may have been lost, or may never have
    /// been one of our own behind a connection pooler. To be asked before each batch.
    ///
    /// # Errors
    /// When it is lost: somebody else may be working on the rule by now.
    pub async fn check(&mut self) -> Result<(), LedgerError> {
        let held = self.held.is_held().await.doing("holding the lock of a rule")?;
        if held { Ok(()) } else { Err(LedgerError::LockLost(self.rule.clone())) }
    }

    /// Gives the lock up and returns when others can have it. Dropping it does the same, but may
    /// return a moment earlier.
    ///
    /// # Errors
    /// When the session had already been lost.
    pub async fn release(self) -> Result<(), LedgerError> {
        match self.held {
            Held::File(_) => Ok(()),
            Held::Session(mut session) => {
                sqlx::query("SELECT pg_advisory_unlock_all()")
                    .execute(&mut *session)
                    .await
                    .doing("giving up the lock of a rule")?;
                session.close().await.doing("closing a connection")
            }
        }
    }
}

impl RecipientLock {
    /// Whether the lock is still held. To be asked before each message, or so.
    ///
    /// # Errors
    /// When the session that held it is lost.
    pub async fn is_held(&mut self) -> Result<bool, LedgerError> {
        self.0.is_held().await.doing("holding the lock of a recipient")
    }
}

impl Held {
    async fn is_held(&mut self) -> Result<bool, sqlx::Error> {
        match self {
            Held::File(_) => Ok(true),
            Held::Session(session) => {
                sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted \
                     AND pid = pg_backend_pid())",
                )
                .fetch_one(&mut **session)
                .await
            }
        }
    }
}

/// Waits for the right to bring the schema of a SQLite ledger up to date.
pub(super) async fn migration(ledger: &Path) -> Result<File, LedgerError> {
    let (file, path) = open_lock_file(ledger, "migration.lock")?;
    let waiting = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    let locked = waiting.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    locked.map_err(|source| LedgerError::Io { doing: "lock", path, source })
}

fn try_lock_file(ledger: &Path, name: &str, share: Share) -> Result<Option<File>, LedgerError> {
    let (file, path) = open_lock_file(ledger, name)?;
    let locked = match share {
        Share::Alone => file.try_lock(),
        Share::Among => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(LedgerError::Io { doing: "lock", path, source }),
    }
}

/// Opens a lock file, which is made once and stays: removing one would let two processes lock two
/// files of the same name.
fn open_lock_file(ledger: &Path, name: &str) -> Result<(File, PathBuf), LedgerError> {
    let folder = Place::lock_folder(ledger);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|source| LedgerError::Io {
        doing: "create the folder",
        path: folder.clone(),
        source,
    })?;
    let path = folder.join(name);
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    match opened {
        Ok(file) => {
            give_to_owner_of(ledger, &folder);
            give_to_owner_of(ledger, &path);
            Ok((file, path))
        }
        Err(source) => Err(LedgerError::Io { doing: "open", path, source }),
    }
}

/// What root makes beside a ledger that belongs to the daemon's account is given to that account, as
/// SQLite does with its own files: otherwise one command run as root would lock the daemon out.
fn give_to_owner_of(ledger: &Path, made: &Path) {
    let (Ok(ledger), Ok(mine)) = (ledger.metadata(), made.symlink_metadata()) else { return };
    if mine.uid() != ledger.uid() {
        // Only root may, and for anybody else there is nothing to give.
        std::os::unix::fs::lchown(made, Some(ledger.uid()), Some(ledger.gid())).ok();
    }
}

/// The schema takes the place of `{schema}` in the lock's name: advisory locks are one per database,
/// and several ledgers may lie in schemas of one.
async fn try_lock_session(
    place: &Place,
    name: &str,
    share: Share,
) -> Result<Option<AnyConnection>, LedgerError> {
    let doing = "taking a lock";
    let mut session = dedicated(place).await?;
    // A machine that vanishes says no goodbye: the server is to notice within half a minute. And it
    // is not to end a session because a batch takes long.
    sqlx::query(
        "SELECT set_config(name, CASE name WHEN 'tcp_keepalives_idle' THEN '10' \
         WHEN 'tcp_keepalives_interval' THEN '5' WHEN 'tcp_keepalives_count' THEN '3' ELSE '0' END, \
         false) FROM pg_settings WHERE name IN ('tcp_keepalives_idle', 'tcp_keepalives_interval', \
         'tcp_keepalives_count', 'idle_session_timeout')",
    )
    .execute(&mut session)
    .await
    .doing(doing)?;
    let schema: String = sqlx::query_scalar("SELECT current_schema()::text")
        .fetch_one(&mut session)
        .await
        .doing(doing)?;
    let lock = match share {
        Share::Alone => "SELECT pg_try_advisory_lock($1)",
        Share::Among => "SELECT pg_try_advisory_lock_shared($1)",
    };
    let locked: bool = sqlx::query_scalar(lock)
        .bind(advisory_key(&name.replace("{schema}", &schema)))
        .fetch_one(&mut session)
        .await
        .doing(doing)?;
    if locked {
        return Ok(Some(session));
    }
    session.close().await.doing("closing a connection")?;
    Ok(None)
}

/// The number of an advisory lock.
fn advisory_key(name: &str) -> i64 {
    let digest = Sha256::digest(name);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}
