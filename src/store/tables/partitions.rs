//! Partitions that are dropped whole, each in one transaction.

use super::super::error::StoreError;
use super::super::sql::{self, Access, Bounds, Isolation, Partition, Target};
use super::{Tables, failed};
use crate::types::{Key, Name};

/// A partition that is about to be dropped. Dropped itself, nothing has happened.
pub struct Dropping {
    store: Name,
    transaction: sql::Transaction,
    partition: Partition,
    /// The transaction's own name in the store, by which its fate can be asked later.
    pub transaction_id: String,
    rows: u64,
    sum: i128,
}

impl Tables {
    /// The partitions of which every row may be due, by their bounds, counted, as the user sees them who drops
    /// them. Cannot write.
    ///
    /// # Errors
    /// As for [`Tables::survey`].
    pub async fn partitions(
        &self,
        target: &Target,
        bounds: Bounds,
    ) -> Result<Vec<Partition>, StoreError> {
        if target.keeps_partitions().is_some() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin(Access::ReadOnly).await?;
        sql::partitions(&mut tx, target, bounds, Access::ReadWrite)
            .await
            .map_err(failed(&self.name, "looking at partitions"))
    }

    /// Begins to drop a partition: its keys can be read. `None` where somebody else is at work on it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn begin_drop(
        &self,
        target: &Target,
        bounds: Bounds,
        partition: Partition,
    ) -> Result<Option<Dropping>, StoreError> {
        // Each statement must see what others have committed: what was read is held against it.
        let begun = self.database.begin_at(Access::ReadWrite, Isolation::Usual).await;
        let mut tx = begun.map_err(failed(&self.name, "connecting"))?;
        let failed = failed(&self.name, "reading the keys of a partition");
        if !sql::is_free(&mut tx, &partition).await.map_err(&failed)? {
            return Ok(None);
        }
        let transaction_id = sql::transaction_id(&mut tx).await.map_err(&failed)?;
        sql::begin_keys(&mut tx, target, bounds, &partition).await.map_err(&failed)?;
        let (store, transaction) = (self.name.clone(), tx);
        Ok(Some(Dropping { store, transaction, partition, transaction_id, rows: 0, sum: 0 }))
    }
}

impl Dropping {
    /// The keys of more of its rows, at most so many; none at the end.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn next_keys(&mut self, target: &Target, most: u64) -> Result<Vec<Key>, StoreError> {
        let read = sql::next_keys(&mut self.transaction, target, most).await;
        let read = read.map_err(failed(&self.store, "reading the keys of a partition"))?;
        self.rows += read.keys.len() as u64;
        self.sum += read.sum;
        Ok(read.keys)
    }

    /// Locks writers out, looks whether the rows whose keys were read are all that it holds, and due, and
    /// drops it, without committing. Why it was not done, if so: then it must be rolled back.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn detach_and_drop(
        &mut self,
        target: &Target,
        bounds: Bounds,
    ) -> Result<Result<(), &'static str>, StoreError> {
        let failed = failed(&self.store, "dropping a partition");
        let (tx, partition) = (&mut self.transaction, &self.partition);
        if !sql::lock_writers_out(tx, partition).await.map_err(&failed)? {
            return Ok(Err("others were at work on its partition"));
        }
        let seen = (self.rows, self.sum);
        if !sql::is_unchanged(tx, target, bounds, partition, seen).await.map_err(&failed)? {
            return Ok(Err("its partition changed meanwhile"));
        }
        if !sql::lock_everybody_out(tx, partition).await.map_err(&failed)? {
            return Ok(Err("others were at work on its table"));
        }
        if !sql::may_still_go(tx, target, bounds, partition).await.map_err(&failed)? {
            return Ok(Err("its partition may not be dropped any more"));
        }
        if !sql::detach_and_drop(tx, partition).await.map_err(&failed)? {
            return Ok(Err("its partition could not be detached and dropped"));
        }
        Ok(Ok(()))
    }

    /// Makes it last.
    ///
    /// # Errors
    /// When it is not known whether it was committed.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.transaction.commit().await.map_err(failed(&self.store, "dropping a partition"))
    }

    /// Undoes it.
    ///
    /// # Errors
    /// When the connection is gone, in which case the server undoes it.
    pub async fn rollback(self) -> Result<(), StoreError> {
        self.transaction.rollback().await.map_err(failed(&self.store, "keeping a partition"))
    }
}
