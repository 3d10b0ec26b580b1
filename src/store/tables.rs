//! A database of tables, opened for reading or for acting.

use std::time::Duration;

use jiff::Timestamp;

use super::error::StoreError;
use super::sql::catalogue::Table;
use super::sql::{
    self, Access, Bounds, Database, Explained, Happened, Interrupted, Isolation, KeepError,
    Listener, Locked, Pace, Records, Removal, Replace, Resolution, SurveyDepth, Target, Walk,
    Watched, Window,
};
use crate::config::{SourceConfig, SqlRecipient};
use crate::hold::{Holds, Records as HeldRecords, SubjectColumn};
use crate::notice::Identities;
use crate::plan::{Residue, Survey};
use crate::rule::{Dialect, Rule};
use crate::types::{Key, Name};

mod dependents;
mod partitions;
mod sight;
mod windows;

pub use partitions::Dropping;

/// A database of tables.
#[derive(Clone, Debug)]
pub struct Tables {
    name: Name,
    database: Database,
}

/// A batch that is taken and not yet committed. Dropped, it is undone.
pub(super) struct TakenRows {
    store: Name,
    transaction: sql::Transaction,
    /// What it took.
    pub(super) records: Records,
    /// The window it took it from.
    pub(super) window: Window,
    /// Whether more is due in the window than went.
    pub(super) is_part: bool,
}

impl TakenRows {
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let wrap = failed(&self.store, "committing a batch");
        self.transaction.commit().await.map_err(wrap)
    }

    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        let wrap = failed(&self.store, "rolling a batch back");
        self.transaction.rollback().await.map_err(wrap)
    }
}

/// Due records that are locked and not touched yet. Dropped, they are let go.
pub(super) struct LockedRows {
    transaction: sql::Transaction,
    pub(super) rows: Vec<Locked>,
    pub(super) window: Window,
}

/// What became of the rows of a recipient's table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Removed {
    /// So many are gone.
    pub rows: u64,
    /// So many are there still, because legal holds cover them.
    pub held: u64,
}

fn failed(store: &Name, doing: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    let store = store.clone();
    move |cause| StoreError::Database { store: store.clone(), doing, cause }
}

impl Tables {
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
    ) -> Result<Tables, StoreError> {
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
        Ok(Tables { name, database })
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
        let begun = self.database.begin_taking(isolation, target.lock_wait()).await;
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
        self.target_in(rule, table).await
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
        let held = sql::hold_back(&mut tx, rule, target, holds).await;
        held.map_err(|error| self.explain_keep(error, "applying legal holds"))
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

    /// Asks whether what recipients are told of records can be read, without reading any.
    ///
    /// # Errors
    /// When it cannot: such as for a column that the user may not read.
    pub async fn try_told(&self, target: &Target, bounds: Bounds) -> Result<(), StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::try_told(&mut tx, target, bounds)
            .await
            .map_err(failed(&self.name, "reading what recipients are told"))
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

    /// Counts the records of the table, due or not; no further than to `most`, where that is given. Cannot write.
    ///
    /// # Errors
    /// As for [`Tables::survey`].
    pub async fn count(&self, target: &Target, most: Option<u64>) -> Result<u64, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        let counted = sql::count(&mut tx, target, most).await;
        counted.map_err(failed(&self.name, "counting records"))
    }

    /// Reads the keys of some due records, the oldest first. Cannot write.
    ///
    /// # Errors
    /// As for [`Tables::survey`].
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
    /// As for [`Tables::survey`].
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
    /// As for [`Tables::survey`].
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
    /// As for [`Tables::survey`].
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
    /// walk.
    pub(super) async fn take(
        &self,
        target: &Target,
        bounds: Bounds,
        walk: &mut Walk,
        pace: &mut Pace,
        replace: Replace<'_>,
    ) -> Result<Option<TakenRows>, StoreError> {
        let begun = self.begin_window(target, bounds, walk, pace).await?;
        let Some((transaction, window)) = begun else { return Ok(None) };
        let most = pace.most_rows();
        let taken = self.take_fitting(transaction, target, bounds, window, most, replace).await?;
        if taken.is_part {
            pace.narrow();
        }
        Ok(Some(taken))
    }

    /// Takes the due records of a window, without committing.
    pub(super) async fn take_window(
        &self,
        target: &Target,
        bounds: Bounds,
        window: Window,
        replace: Replace<'_>,
    ) -> Result<TakenRows, StoreError> {
        let transaction = self.begin_taking(target).await?;
        self.take_in(transaction, target, bounds, window, replace).await
    }

    /// Locks the due records of the walk's next window. `None` at the end of the walk.
    pub(super) async fn lock(
        &self,
        target: &Target,
        bounds: Bounds,
        walk: &mut Walk,
        pace: &mut Pace,
    ) -> Result<Option<LockedRows>, StoreError> {
        let begun = self.begin_window(target, bounds, walk, pace).await?;
        let Some((transaction, window)) = begun else { return Ok(None) };
        self.lock_in(transaction, target, bounds, window).await.map(Some)
    }

    /// Locks the due records of a window.
    pub(super) async fn lock_window(
        &self,
        target: &Target,
        bounds: Bounds,
        window: Window,
    ) -> Result<LockedRows, StoreError> {
        let transaction = self.begin_taking(target).await?;
        self.lock_in(transaction, target, bounds, window).await
    }

    /// Takes records that are locked, without committing.
    pub(super) async fn take_locked(
        &self,
        target: &Target,
        bounds: Bounds,
        locked: LockedRows,
        replace: Replace<'_>,
    ) -> Result<TakenRows, StoreError> {
        let LockedRows { mut transaction, rows, window } = locked;
        let taken = sql::take_locked(&mut transaction, target, bounds, rows, None, replace).await;
        let records = taken.map_err(|error| self.explain_take(error, target))?;
        Ok(TakenRows { store: self.name.clone(), transaction, records, window, is_part: false })
    }

    async fn begin_window(
        &self,
        target: &Target,
        bounds: Bounds,
        walk: &mut Walk,
        pace: &mut Pace,
    ) -> Result<Option<(sql::Transaction, Window)>, StoreError> {
        let mut transaction = self.begin_taking(target).await?;
        let window = sql::next_window(&mut transaction, target, bounds, walk, pace)
            .await
            .map_err(failed(&self.name, "finding due records"))?;
        Ok(window.map(|window| (transaction, window)))
    }

    async fn lock_in(
        &self,
        mut transaction: sql::Transaction,
        target: &Target,
        bounds: Bounds,
        window: Window,
    ) -> Result<LockedRows, StoreError> {
        let rows = sql::lock(&mut transaction, target, bounds, &window).await;
        let rows = rows.map_err(failed(&self.name, "finding due records"))?;
        Ok(LockedRows { transaction, rows, window })
    }

    async fn take_in(
        &self,
        mut transaction: sql::Transaction,
        target: &Target,
        bounds: Bounds,
        window: Window,
        replace: Replace<'_>,
    ) -> Result<TakenRows, StoreError> {
        let taken = sql::take(&mut transaction, target, bounds, &window, replace).await;
        let records = taken.map_err(|error| self.explain_take(error, target))?;
        Ok(TakenRows { store: self.name.clone(), transaction, records, window, is_part: false })
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
    /// As for [`Tables::survey`].
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
    /// As for [`Tables::survey`].
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

    /// Removes the rows of a recipient's table that are about these subjects, in bounded statements, each of them
    /// committed: what is gone stays gone when a later one fails. Rows that the holds cover stay.
    ///
    /// # Errors
    /// When the database fails, the table is not as it is configured, or it is not known what is held.
    pub async fn remove_subjects(
        &self,
        recipient: &SqlRecipient,
        about: &[Identities],
        holds: &Holds,
    ) -> Result<Removed, StoreError> {
        let mut removal = self.removal(recipient).await?;
        let columns = recipient.columns.values().map(|column| SubjectColumn {
            store: recipient.store.clone(),
            table: recipient.table.clone(),
            column: column.clone(),
            paths: Vec::new(),
        });
        let holds = holds.clone().with_columns(columns);
        let mut tx = self.begin(Access::ReadOnly).await?;
        let held = removal.hold_back(&mut tx, &self.name, &holds).await;
        held.map_err(|error| self.explain_keep(error, "applying legal holds"))?;
        drop(tx);
        let isolation =
            if removal.keeps_referenced() { Isolation::Steady } else { Isolation::Usual };
        let failed = failed(&self.name, "removing rows");
        let mut removed = Removed::default();
        for keys in removal.keys(about) {
            loop {
                let mut tx =
                    self.database.begin_at(Access::ReadWrite, isolation).await.map_err(&failed)?;
                let rows = removal.remove(&mut tx, &keys).await.map_err(&failed)?;
                // Read back where it is about to end: what is left is held.
                let left = match rows {
                    0 => Some(removal.count(&mut tx, &keys).await.map_err(&failed)?),
                    _ => None,
                };
                tx.commit().await.map_err(&failed)?;
                removed.rows += rows;
                if let Some(left) = left {
                    removed.held += left;
                    break;
                }
            }
        }
        Ok(removed)
    }

    /// Looks whether a recipient's table is as it is configured, and may be changed. Cannot write.
    ///
    /// # Errors
    /// When it is not, or the database cannot be reached.
    pub async fn try_removal(&self, recipient: &SqlRecipient) -> Result<(), StoreError> {
        let removal = self.removal(recipient).await?;
        removal.lacks_right().map_or(Ok(()), |right| {
            let why = format!("the url's user lacks the right to {right}");
            Err(self.unfit(recipient, why))
        })
    }

    async fn removal(&self, recipient: &SqlRecipient) -> Result<Removal, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        let table = tx.table(&recipient.table).await;
        let table = table.map_err(failed(&self.name, "reading the catalogue"))?;
        let (store, name) = (self.name.clone(), recipient.table.to_string());
        let table = table.ok_or(StoreError::NoTable { store, table: name })?;
        Removal::new(table, &recipient.columns).map_err(|why| self.unfit(recipient, why))
    }

    fn unfit(&self, recipient: &SqlRecipient, why: String) -> StoreError {
        let (store, table) = (self.name.clone(), recipient.table.clone());
        StoreError::Recipient { store, table, why }
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

    /// Holds a source of events against its table.
    ///
    /// # Errors
    /// When the database cannot be reached, has no such table, or it does not fit.
    pub async fn watch(&self, source: &SourceConfig) -> Result<Watched, StoreError> {
        let mut tx = self.begin(Access::ReadOnly).await?;
        let table =
            tx.table(&source.table).await.map_err(failed(&self.name, "reading the catalogue"))?;
        let (store, name) = (self.name.clone(), source.table.to_string());
        let table = table.ok_or(StoreError::NoTable { store, table: name })?;
        Watched::new(source, table)
            .map_err(|mismatches| StoreError::Mismatch { store: self.name.clone(), mismatches })
    }

    /// Reads what has happened since a moment, or from the beginning; at most so much.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn happened(
        &self,
        watched: &Watched,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Happened>, StoreError> {
        sql::happened(&self.database, watched, since, limit)
            .await
            .map_err(failed(&self.name, "looking for what has happened"))
    }

    /// Listens on a channel of PostgreSQL.
    ///
    /// # Errors
    /// When it cannot be reached, or is no PostgreSQL.
    pub async fn listen(&self, channel: &str) -> Result<Listener, StoreError> {
        self.database.listen(channel).await.map_err(failed(&self.name, "listening"))
    }

    /// Closes its connections.
    pub async fn close(&self) {
        self.database.close().await;
    }
}
