//! Partitions of which every row is due go whole, before the walk: detached and dropped in one transaction.
//!
//! They go as rows do. The key of each row is read and intended, in batches of one transaction, and each batch
//! is settled for itself, so that the log, tombstones and `why` know every one; what is saved is the deletion of
//! row after row. Whatever is in the way, the walk takes the rows instead.

use std::sync::Arc;

use uuid::Uuid;

use super::execution::{Ended, Execution};
use super::underway::Begun;
use super::{Prepared, RunError};
use crate::clock;
use crate::fault;
use crate::ledger::{Intended, LedgerError, Outcome};
use crate::rule::AccessPath;
use crate::store::sql::{self, Partition};
use crate::store::{Committed, Dropping, Effected, Store, Target};
use crate::transition::MOST_OPEN;

/// So many keys are intended at once, if the partition has no more than so many batches can be open.
const KEYS_AT_ONCE: u64 = 20_000;
/// So many at most, for memory's sake: keys of a number and a moment take some 20 MB then, and as much again sealed.
const MOST_KEYS_AT_ONCE: u64 = 100_000;

/// How many keys of a partition are intended at once; `None` where it has too many.
fn at_once(rows: u64) -> Option<u64> {
    // Some are left for rows that come meanwhile.
    let at_once = rows.div_ceil(MOST_OPEN as u64 - 4).max(KEYS_AT_ONCE);
    (at_once <= MOST_KEYS_AT_ONCE).then_some(at_once)
}

impl Execution<'_> {
    /// Drops the partitions of which every row is due.
    pub(super) async fn drop_partitions(&mut self) -> Result<Ended, RunError> {
        let Prepared { store, target, bounds, .. } = &self.prepared;
        let (Store::Tables(tables), Target::Rows(target)) = (store, target) else {
            return Ok(Ended::Complete);
        };
        let found = tables.partitions(target, *bounds).await?;
        for partition in found {
            if self.is_to_end() {
                return Ok(Ended::Stopped);
            }
            let name = partition.display_name();
            if let Some(why) = &partition.spared {
                tracing::info!(rule = %self.rule.name, partition = name, why, "a partition is not dropped whole");
                continue;
            }
            self.drop_partition(partition).await?;
            self.keep_to_what_was_due()?;
        }
        Ok(Ended::Complete)
    }

    /// Drops one, or leaves its rows to the walk.
    async fn drop_partition(&mut self, partition: Partition) -> Result<(), RunError> {
        let (name, rows) = (partition.display_name(), partition.rows);
        let spared =
            |why| tracing::info!(partition = name, why, "a partition is not dropped whole");
        let Some(at_once) = at_once(rows) else {
            spared("it has more rows than can be intended at once");
            return Ok(());
        };
        self.runner.clock.look()?;
        self.lock.check().await?;
        // Its batches are many, and open all at once.
        self.flush().await?;
        let Prepared { store, target, bounds, .. } = &self.prepared;
        let (store, bounds, Target::Rows(target)) = (store.clone(), *bounds, target.clone()) else {
            return Ok(());
        };
        let Some(mut dropping) = store.tables()?.begin_drop(&target, bounds, partition).await?
        else {
            spared("others are at work on it");
            return Ok(());
        };
        let mut batches = Vec::new();
        let intended =
            self.intend_partition(&target, &mut dropping, (&name, at_once), &mut batches).await;
        let intended = match intended {
            Ok(intended) => intended,
            Err(error) => {
                dropping.rollback().await.ok();
                // Where the ledger fails, whoever resolves the run finds that nothing was done.
                if let RunError::Store(_) = error {
                    self.leave(&batches, "the store failed").await?;
                }
                return Err(error);
            }
        };
        fault::point("partition.intended");
        let dropped = match intended {
            Ok(()) => dropping.detach_and_drop(&target, bounds).await,
            Err(why) => Ok(Err(why)),
        };
        match dropped {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                spared(why);
                dropping.rollback().await.ok();
                return self.leave(&batches, why).await;
            }
            Err(error) => {
                dropping.rollback().await.ok();
                self.leave(&batches, "the store failed").await?;
                return if error.is_transient() { Ok(()) } else { Err(error.into()) };
            }
        }
        fault::point("partition.dropped");
        let before = self.records;
        self.settle_dropped(dropping, batches).await?;
        let records = self.records - before;
        tracing::info!(rule = %self.rule.name, partition = name, records, "a partition was dropped whole");
        let access = format!("{}: every row of them was due", AccessPath::Partitions);
        self.runner.ledger.note_access(&self.run, &access).await?;
        Ok(())
    }

    /// Writes down the keys of all rows that the partition holds. Why it is left, if so.
    async fn intend_partition(
        &mut self,
        target: &sql::Target,
        dropping: &mut Dropping,
        (name, at_once): (&str, u64),
        batches: &mut Vec<Uuid>,
    ) -> Result<Result<(), &'static str>, RunError> {
        loop {
            let keys = match dropping.next_keys(target, at_once).await {
                Ok(keys) if keys.is_empty() => return Ok(Ok(())),
                Ok(_) if self.is_to_end() => return Ok(Err("it was asked to stop")),
                Ok(keys) if batches.len() < MOST_OPEN => keys,
                Ok(_) => return Ok(Err("its partition changed meanwhile")),
                Err(error) if error.is_transient() => {
                    return Ok(Err("others were at work on its partition"));
                }
                Err(error) => return Err(error.into()),
            };
            let intended = Intended { partition: Some(name.to_owned()), ..Intended::of(keys) };
            match self.intend(&intended, Some(&dropping.transaction_id), None).await {
                Ok(id) => batches.push(id),
                // The walk heeds what is held since.
                Err(LedgerError::HoldsChanged) => return Ok(Err("a hold was placed meanwhile")),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Commits, and writes the outcome of each batch. Their keys are read back one batch at a time, because
    /// together they may be more than memory should hold.
    async fn settle_dropped(
        &mut self,
        dropping: Dropping,
        batches: Vec<Uuid>,
    ) -> Result<(), RunError> {
        let transaction_id = dropping.transaction_id.clone();
        let committed = dropping.commit().await;
        fault::point("partition.committed");
        let mut all_done = true;
        for id in batches {
            let Some(open) = self.runner.ledger.open_batch(&self.run, id).await? else { continue };
            let begun = Begun {
                id,
                intended: open.intended,
                transaction_id: Some(transaction_id.clone()),
                events: Arc::default(),
            };
            match &committed {
                Ok(()) => {
                    self.end(begun, Ok(Effected::ForGood(Committed::default()))).await?;
                }
                Err(error) => all_done &= self.find_out(begun, error).await?.1,
            }
        }
        match committed {
            Err(error) if !all_done => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Writes down that batches were not carried out.
    async fn leave(&mut self, batches: &[Uuid], why: &'static str) -> Result<(), RunError> {
        let ledger = &self.runner.ledger;
        for id in batches {
            let (nothing, now) = (Intended::default(), clock::now());
            ledger.settle(&self.run, *id, &nothing, Outcome::Undone(why), now).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_intended_in_as_many_batches_as_may_be_open() {
        assert_eq!(at_once(1), Some(KEYS_AT_ONCE));
        for rows in [1_200_001, 5_000_000, 6_000_000] {
            let at_once = at_once(rows).unwrap();
            assert!(rows.div_ceil(at_once) < MOST_OPEN as u64, "{rows}");
        }
        assert_eq!(at_once(6_000_001), None);
    }
}
