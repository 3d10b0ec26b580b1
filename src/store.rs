//! Stores: what expunged looks at and deletes from.
//!
//! A [`Store`] offers the few steps that every kind of store can take: look at a table and a rule
//! together, survey it, walk through it in bounded batches that are taken but not yet committed, and
//! say later what became of one.

pub mod objects;
mod registry;
pub mod search;
pub mod sql;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::sqlite::SqliteError;

use crate::config::SecretError;
use crate::hold::{Holds, Records as HeldRecords};
use crate::plan::{Residue, Survey};
use crate::rule::{Dialect, Rule};
use crate::types::{Key, Name, TableName};

use sql::catalogue::Table;
use sql::{
    Access, Bounds, Database, Explained, Interrupted, Isolation, KeepError, Mismatch, Pace,
    Records, Replace, Resolution, SurveyDepth, TakeError, Target, Walk, Window,
};

pub use registry::Stores;

/// A registered store, opened for reading or for acting.
#[derive(Clone, Debug)]
pub struct Store {
    name: Name,
    database: Database,
}

/// What went wrong with a store.
#[derive(thiserror::Error)]
pub enum StoreError {
    /// The URL is not one.
    #[error("store `{store}`: its url cannot be used ({reason}); write `{example}`")]
    Url {
        /// The store.
        store: Name,
        /// What is wrong with it, without the URL.
        reason: String,
        /// What a good one looks like.
        example: &'static str,
    },
    /// The database refused or failed.
    #[error("store `{store}`: {doing} failed: {}", explain(cause))]
    Database {
        /// The store.
        store: Name,
        /// What was being done.
        doing: &'static str,
        /// The driver's error. It may quote data, so it is no `source` that a chain of errors would
        /// print; [`explain`] quotes none.
        cause: sqlx::Error,
    },
    /// There is no such store.
    #[error("there is no store `{store}`: add a table `[store.{store}]` to the configuration")]
    NoStore {
        /// Its name.
        store: Name,
    },
    /// The URL is kept elsewhere and cannot be read.
    #[error("store `{store}`: {source}")]
    Secret {
        /// The store.
        store: Name,
        /// Why.
        source: SecretError,
    },
    /// There is no such table.
    #[error("store `{store}`: there is no table `{table}` that its user can see")]
    NoTable {
        /// The store.
        store: Name,
        /// The table.
        table: String,
    },
    /// The rule does not fit the table.
    #[error("store `{store}`: the rule does not fit the table: {}", list(mismatches))]
    Mismatch {
        /// The store.
        store: Name,
        /// Every way in which it does not.
        mismatches: Vec<Mismatch>,
    },
    /// A table through which a deletion could reach held rows cannot be looked at.
    #[error(
        "store `{store}`: the table {table} points at the rule's and cannot be looked at, so what legal \
         holds keep there is not known: let the url's user SELECT from it"
    )]
    Unseen {
        /// The store.
        store: Name,
        /// The table.
        table: TableName,
    },
    /// The predicate of a hold is not understood where its table goes by another name.
    #[error(
        "store `{store}`: the predicate names its table: write the column alone, `status` and not \
         `orders.status`"
    )]
    NamesItsTable {
        /// The store.
        store: Name,
    },
    /// Rows changed between looking and acting; try again.
    #[error("store `{store}`: rows changed while a batch was at work")]
    Moved {
        /// The store.
        store: Name,
    },
}

/// Shows what `Display` shows: a driver's error in full could carry data into a log.
impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn list(mismatches: &[Mismatch]) -> String {
    mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A database error in words that quote no data.
///
/// Messages about values (SQLSTATE classes 22 and 23) quote them, those that a trigger raises
/// (P0001, 45000) may, and all of them would carry personal data into logs; code and constraint say enough.
pub fn explain(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error() else {
        return match error {
            sqlx::Error::PoolTimedOut => {
                "no connection within the time allowed: is it running, and reachable from here?"
                    .to_owned()
            }
            other => other.to_string(),
        };
    };
    let code = database.code().unwrap_or_default().into_owned();
    let number = mysql_number(database);
    // SQLite has numbers of its own, and its messages name columns, not values.
    let is_state = code.len() == 5 && database.try_downcast_ref::<SqliteError>().is_none();
    let class = if is_state { &code[..2] } else { "" };
    // 1811 is SQLite's SQLITE_CONSTRAINT_TRIGGER.
    let is_raised = if is_state {
        code == "P0001" || code == "45000" || number == Some(1644)
    } else {
        code == "1811"
    };
    // 1366: a value that a column does not take, which MySQL files under no class.
    if !is_raised && !["22", "23"].contains(&class) && number != Some(1366) {
        return database.message().to_owned();
    }
    let constraint = database.constraint().map(|name| format!(", constraint {name}"));
    let table = database.table().map(|name| format!(", table {name}"));
    let what = if database.is_foreign_key_violation() {
        "other rows point at the record"
    } else if database.is_unique_violation() {
        "the value exists already"
    } else if is_raised {
        "a trigger refuses it"
    } else if class == "23" {
        "a constraint refuses it"
    } else {
        "a value does not fit"
    };
    format!(
        "{what} (SQLSTATE {code}{}{})",
        table.unwrap_or_default(),
        constraint.unwrap_or_default()
    )
}

impl StoreError {
    /// Whether the same step may succeed when tried again at once: a lock that others held, a
    /// deadlock, a row that moved.
    pub fn is_transient(&self) -> bool {
        let StoreError::Database { cause, .. } = self else {
            return matches!(self, StoreError::Moved { .. });
        };
        let Some(error) = cause.as_database_error() else { return false };
        match (error.code().as_deref(), mysql_number(error)) {
            // MySQL: ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK; MariaDB: ER_CHECKREAD, a row that changed
            // since it was read.
            (_, Some(number)) => [1205, 1213, 1020].contains(&number),
            // PostgreSQL: lock_not_available, deadlock_detected, serialization_failure; SQLite:
            // SQLITE_BUSY, SQLITE_LOCKED and their extended codes.
            (
                Some("55P03" | "40P01" | "40001" | "5" | "261" | "517" | "773" | "6" | "262"),
                None,
            ) => true,
            _ => false,
        }
    }
}

impl StoreError {
    /// Whether the store answered, and does not know a table, a column or the words of a condition.
    pub fn is_misunderstanding(&self) -> bool {
        let StoreError::Database { cause, .. } = self else {
            return matches!(self, StoreError::NoTable { .. });
        };
        let Some(error) = cause.as_database_error() else { return false };
        match (error.code().as_deref(), mysql_number(error)) {
            // ER_BAD_FIELD_ERROR, ER_PARSE_ERROR, ER_NO_SUCH_TABLE, ER_SP_DOES_NOT_EXIST.
            (_, Some(number)) => [1054, 1064, 1146, 1305].contains(&number),
            // PostgreSQL: what is not there or does not parse, but not what is not allowed; SQLite:
            // SQLITE_ERROR.
            (Some(code), None) => code == "1" || code.starts_with("42") && code != "42501",
            _ => false,
        }
    }
}

fn mysql_number(error: &dyn DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// A batch that is taken and not yet committed. Dropped, it is undone.
pub struct Batch {
    store: Name,
    transaction: sql::Transaction,
    /// What it took.
    pub records: Records,
    /// The window it took it from.
    pub window: Window,
}

impl Batch {
    /// Makes the batch last.
    ///
    /// # Errors
    /// When it is not known whether it was committed: the intent stays open and is resolved later.
    pub async fn commit(self) -> Result<(), StoreError> {
        let wrap = failed(&self.store, "committing a batch");
        self.transaction.commit().await.map_err(wrap)
    }

    /// Undoes the batch.
    ///
    /// # Errors
    /// When the connection is gone, in which case the server undoes it.
    pub async fn rollback(self) -> Result<(), StoreError> {
        let wrap = failed(&self.store, "rolling a batch back");
        self.transaction.rollback().await.map_err(wrap)
    }
}

fn failed(store: &Name, doing: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    let store = store.clone();
    move |cause| StoreError::Database { store: store.clone(), doing, cause }
}

impl Store {
    /// Prepares a store; it is connected to on first use.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn open(
        name: Name,
        kind: Dialect,
        url: &str,
        access: Access,
        connect_timeout: Duration,
    ) -> Result<Store, StoreError> {
        let example = match kind {
            Dialect::Postgres => "postgres://user@host/database",
            Dialect::Mysql => "mysql://user@host/database",
            Dialect::Sqlite => "sqlite:///path/to/file.db",
        };
        let schemes: &[&str] = match kind {
            Dialect::Postgres => &["postgres://", "postgresql://"],
            Dialect::Mysql => &["mysql://", "mariadb://"],
            Dialect::Sqlite => &["sqlite:"],
        };
        let unusable = |reason: String| StoreError::Url { store: name.clone(), reason, example };
        if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(unusable(format!("it is not a {} url", kind.as_str())));
        }
        let database = Database::new(kind, url, access, connect_timeout)
            // The driver's message quotes the URL, and with it the password.
            .map_err(|_| unusable("it does not parse".to_owned()))?;
        Ok(Store { name, database })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &Name {
        &self.name
    }

    async fn begin(&self, access: Access) -> Result<sql::Transaction, StoreError> {
        self.database.begin(access).await.map_err(failed(&self.name, "connecting"))
    }

    async fn begin_taking(&self, target: &Target) -> Result<sql::Transaction, StoreError> {
        let isolation =
            if target.keeps_referenced() { Isolation::Steady } else { Isolation::Usual };
        let begun = self.database.begin_at(Access::ReadWrite, isolation).await;
        begun.map_err(failed(&self.name, "connecting"))
    }

    /// Reads what the catalogue knows about a rule's table.
    ///
    /// # Errors
    /// When the store cannot be reached, or has no such table.
    pub async fn inspect(&self, rule: &Rule) -> Result<Table, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        let table =
            tx.table(&rule.table).await.map_err(failed(&self.name, "reading the catalogue"))?;
        let no_table =
            || StoreError::NoTable { store: self.name.clone(), table: rule.table.to_string() };
        table.ok_or_else(no_table)
    }

    /// Holds a rule against its live table.
    ///
    /// # Errors
    /// When the store cannot be reached, or the rule does not fit.
    pub async fn target(&self, rule: &Rule) -> Result<Target, StoreError> {
        let table = self.inspect(rule).await?;
        Target::new(rule, table)
            .map_err(|mismatches| StoreError::Mismatch { store: self.name.clone(), mismatches })
    }

    /// Keeps what legal holds claim, by themselves or because held rows point at it, out of what is due.
    ///
    /// # Errors
    /// When it cannot be found out what they claim: then nothing may be taken.
    pub async fn hold_back(
        &self,
        target: &mut Target,
        rule: &Rule,
        holds: &Holds,
    ) -> Result<(), StoreError> {
        if holds.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin(Access::ReadOnly).await?;
        let keep = sql::keep(&mut tx, rule, target, holds).await;
        target.set_keep(keep.map_err(|error| self.explain_keep(error, "applying legal holds"))?);
        Ok(())
    }

    fn explain_keep(&self, error: KeepError, doing: &'static str) -> StoreError {
        let store = self.name.clone();
        match error {
            KeepError::Database(cause) => StoreError::Database { store, doing, cause },
            KeepError::Unseen(table) => StoreError::Unseen { store, table },
            KeepError::NamesItsTable(cause) => {
                let error = StoreError::Database { store: store.clone(), doing, cause };
                if error.is_misunderstanding() {
                    StoreError::NamesItsTable { store }
                } else {
                    error
                }
            }
        }
    }

    /// Asks whether the predicate of a hold, if it has one, can be heeded by every rule whose deletions
    /// reach its table. Cannot write.
    ///
    /// # Errors
    /// When it cannot: see [`StoreError::is_misunderstanding`]. When the store cannot be reached.
    pub async fn try_held(&self, records: &HeldRecords) -> Result<(), StoreError> {
        let Some(predicate) = &records.predicate else { return Ok(()) };
        let mut tx = self.begin(Access::ReadOnly).await?;
        let table = self.table_of(&mut tx, records).await?;
        let tried = sql::try_held_predicate(&mut tx, &table, predicate).await;
        tried.map_err(|error| self.explain_keep(error, "trying the predicate"))
    }

    async fn table_of(
        &self,
        tx: &mut sql::Transaction,
        records: &HeldRecords,
    ) -> Result<Table, StoreError> {
        let table = tx.table(&records.table).await;
        let table = table.map_err(failed(&self.name, "reading the catalogue"))?;
        let (store, name) = (self.name.clone(), records.table.to_string());
        table.ok_or(StoreError::NoTable { store, table: name })
    }

    /// How many records of a rule's table legal holds keep, due or not, and how many it has. Cannot
    /// write.
    ///
    /// # Errors
    /// When the store cannot be reached or the rule does not fit its table.
    pub async fn count_held(&self, rule: &Rule, holds: &Holds) -> Result<(u64, u64), StoreError> {
        let mut target = self.target(rule).await?;
        self.hold_back(&mut target, rule, holds).await?;
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::count_held_of_target(&mut tx, &target)
            .await
            .map_err(failed(&self.name, "counting held records"))
    }

    /// The same of a table that is named by a hold alone. A range of dates does not count there.
    ///
    /// # Errors
    /// When the store cannot be reached, has no such table or does not understand the predicate.
    pub async fn count_held_records(
        &self,
        records: &HeldRecords,
        holds: &Holds,
    ) -> Result<(u64, u64), StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        let table = self.table_of(&mut tx, records).await?;
        sql::count_held_of_table(&mut tx, &self.name, &table, holds)
            .await
            .map_err(failed(&self.name, "counting held records"))
    }

    /// Asks the store whether it understands the rule's condition, and how it would find due
    /// records, without reading any.
    ///
    /// # Errors
    /// When the store does not understand it, such as a column that is not there.
    pub async fn try_condition(&self, target: &Target, bounds: Bounds) -> Result<(), StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::try_condition(&mut tx, target, bounds)
            .await
            .map_err(failed(&self.name, "trying the rule's `where`"))
    }

    /// Counts what is due and what is kept. Cannot write.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses, for example a condition that names no column.
    pub async fn survey(
        &self,
        target: &Target,
        bounds: Bounds,
        depth: SurveyDepth,
    ) -> Result<Survey, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::survey(&mut tx, target, bounds, depth)
            .await
            .map_err(failed(&self.name, "counting records"))
    }

    /// Counts the records of the table, due or not. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn count(&self, target: &Target) -> Result<u64, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::count(&mut tx, target).await.map_err(failed(&self.name, "counting records"))
    }

    /// Reads the keys of some due records, the oldest first. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn sample(
        &self,
        target: &Target,
        bounds: Bounds,
        limit: u32,
    ) -> Result<Vec<(Key, Option<Timestamp>)>, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::sample(&mut tx, target, bounds, limit)
            .await
            .map_err(failed(&self.name, "sampling records"))
    }

    /// Hands over the keys of all due records, in the order of the key. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn each_key(
        &self,
        target: &Target,
        bounds: Bounds,
        each: &mut (dyn FnMut(Key) + Send),
    ) -> Result<(), StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::each_key(&mut tx, target, bounds, each)
            .await
            .map_err(failed(&self.name, "reading the keys of due records"))
    }

    /// Counts the records that are due in the first sense and not in the second; both are of one
    /// table. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn count_only_in(
        &self,
        first: (&Target, Bounds),
        second: (&Target, Bounds),
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::count_only_in(&mut tx, first, second)
            .await
            .map_err(failed(&self.name, "comparing what is due"))
    }

    /// The starting point of the record that falls due next. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn next_start(
        &self,
        target: &Target,
        bounds: Bounds,
    ) -> Result<Option<Timestamp>, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::next_start(&mut tx, target, bounds)
            .await
            .map_err(failed(&self.name, "looking for the next record"))
    }

    /// Takes the due records of the walk's next window, without committing. `None` at the end of the
    /// walk. The walk does not move until [`Walk::advance`] is called.
    ///
    /// # Errors
    /// When the store fails; nothing was changed then. See [`StoreError::is_transient`].
    pub async fn take(
        &self,
        target: &Target,
        bounds: Bounds,
        walk: &mut Walk,
        pace: &mut Pace,
        replace: Replace<'_>,
    ) -> Result<Option<Batch>, StoreError> {
        let mut transaction = self.begin_taking(target).await?;
        let window = sql::next_window(&mut transaction, target, bounds, walk, pace)
            .await
            .map_err(failed(&self.name, "finding due records"))?;
        let Some(window) = window else { return Ok(None) };
        self.take_in(transaction, target, bounds, window, replace).await.map(Some)
    }

    /// Takes the due records of a window, without committing.
    ///
    /// # Errors
    /// As for [`Store::take`].
    pub async fn take_window(
        &self,
        target: &Target,
        bounds: Bounds,
        window: Window,
        replace: Replace<'_>,
    ) -> Result<Batch, StoreError> {
        let transaction = self.begin_taking(target).await?;
        self.take_in(transaction, target, bounds, window, replace).await
    }

    async fn take_in(
        &self,
        mut transaction: sql::Transaction,
        target: &Target,
        bounds: Bounds,
        window: Window,
        replace: Replace<'_>,
    ) -> Result<Batch, StoreError> {
        let doing =
            if target.change_is_deletion() { "deleting records" } else { "anonymizing records" };
        let records = sql::take(&mut transaction, target, bounds, &window, replace).await.map_err(
            |error| match error {
                TakeError::Moved => StoreError::Moved { store: self.name.clone() },
                TakeError::Database(source) => failed(&self.name, doing)(source),
            },
        )?;
        Ok(Batch { store: self.name.clone(), transaction, records, window })
    }

    /// Finds out what became of a batch whose process died.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn resolve(
        &self,
        target: &Target,
        interrupted: &Interrupted,
    ) -> Result<Resolution, StoreError> {
        let mut tx = self.begin(Access::ReadWrite).await?;
        sql::resolve(&mut tx, target, interrupted)
            .await
            .map_err(failed(&self.name, "resolving an interrupted batch"))
    }

    /// What a rule makes of one record; `None` where there is none of these keys. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn explain(
        &self,
        target: &Target,
        bounds: Bounds,
        keys: &[Key],
    ) -> Result<Option<Explained>, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::explain_record(&mut tx, target, bounds, keys)
            .await
            .map_err(failed(&self.name, "looking at a record"))
    }

    /// How many of these records are still there as they were when they were taken. Cannot write.
    ///
    /// # Errors
    /// As for [`Store::survey`].
    pub async fn still_there(
        &self,
        target: &Target,
        bounds: Bounds,
        keys: &[Key],
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::still_there(&mut tx, target, bounds, keys)
            .await
            .map_err(failed(&self.name, "looking for records that were taken"))
    }

    /// What it still holds physically of the records that were taken, and how that is known. A SQLite
    /// database folds its log first, where it was opened for acting.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn residue(&self, target: &Target) -> Result<(Residue, String), StoreError> {
        let folded = self.database.fold_log().await.unwrap_or(false);
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::residue(&mut tx, target, folded)
            .await
            .map_err(failed(&self.name, "asking what is left of deleted records"))
    }

    /// What its own clock shows; `None` where it has none but this machine's.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::clock(&mut tx).await.map_err(failed(&self.name, "asking for the time"))
    }

    /// Closes its connections.
    pub async fn close(&self) {
        self.database.close().await;
    }
}
