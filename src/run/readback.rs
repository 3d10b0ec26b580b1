//! Looking again after a run: that a statement succeeded is weak evidence.

use std::time::Duration;

use super::Prepared;
use super::Runner;
use crate::clock::{self, Stopwatch};
use crate::plan::{Replica, Residue, Verification};
use crate::rule::Rule;
use crate::store::StoreError;
use crate::store::sql::Bounds;
use crate::types::Key;

/// So many records are looked for, all of them where there are no more, otherwise a random sample.
const MOST: usize = 10_000;
/// How long a replica may take to catch up.
const REPLICA_WITHIN: Duration = Duration::from_secs(10);
/// How long after it is asked again.
const REPLICA_AGAIN: Duration = Duration::from_millis(200);

/// Keys of records that were taken: all of the first, then each with the chance that makes a fair
/// sample of all (Vitter, "Random Sampling with a Reservoir", 1985, algorithm R).
#[derive(Debug)]
pub(super) struct Taken {
    keys: Vec<Key>,
    seen: u64,
    random: u64,
}

impl Taken {
    pub(super) fn new() -> Taken {
        let random = u64::from_le_bytes(clock::random_bytes::<8>());
        Taken { keys: Vec::new(), seen: 0, random }
    }

    pub(super) fn extend(&mut self, keys: &[Key]) {
        for key in keys {
            self.seen += 1;
            if self.keys.len() < MOST {
                self.keys.push(key.clone());
                continue;
            }
            let place = usize::try_from(self.next() % self.seen).unwrap_or(usize::MAX);
            if let Some(kept) = self.keys.get_mut(place) {
                kept.clone_from(key);
            }
        }
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014): quick, and good enough to sample by.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Runner {
    /// Looks for the records that a run has taken, on the replica too where there is one. `None` when the
    /// store did not answer within the time; whatever keeps a replica from answering, what the store
    /// itself said stands.
    pub(super) async fn look_again(
        &self,
        rule: &Rule,
        prepared: &Prepared,
        taken: &Taken,
        within: Duration,
    ) -> Result<Option<Verification>, StoreError> {
        let Prepared { store, target, bounds, .. } = prepared;
        let watch = Stopwatch::start();
        let left = || within.saturating_sub(watch.elapsed());
        let looked = store.still_there(target, *bounds, &taken.keys);
        let Ok(present) = tokio::time::timeout(left(), looked).await else { return Ok(None) };
        let present = present?;
        let (replica, present_on_replica) =
            self.ask_replica(rule, *bounds, &taken.keys, left().min(REPLICA_WITHIN)).await.unzip();
        let (residue, detail) = match tokio::time::timeout(left(), store.residue(target)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => (Residue::Unknown, error.to_string()),
            Err(_) => (Residue::Unknown, "it did not answer in time".to_owned()),
        };
        let seen = Verification {
            checked: taken.keys.len() as u64,
            of: taken.seen,
            present,
            replica,
            present_on_replica: present_on_replica.flatten(),
            residue,
            detail,
        };
        if let Some(open) = seen.replica_open() {
            tracing::warn!(rule = %rule.name, "{open}; the run gets no certificate");
        }
        Ok(Some(seen))
    }

    /// Waits for a replica that lags behind; what it showed, and how many records it had when it was last
    /// asked. `None` where there is no replica.
    async fn ask_replica(
        &self,
        rule: &Rule,
        bounds: Bounds,
        keys: &[Key],
        within: Duration,
    ) -> Option<(Replica, Option<u64>)> {
        let mut last = None;
        let asked = tokio::time::timeout(within, async {
            let Some(replica) = self.stores.replica(&rule.store)? else { return Ok(false) };
            // Its own catalogue: a replica may bear another name.
            let target = replica.target(rule).await?;
            loop {
                let present = replica.still_there(&target, bounds, keys).await?;
                last = Some(present);
                if present == 0 {
                    return Ok::<_, StoreError>(true);
                }
                tokio::time::sleep(REPLICA_AGAIN).await;
            }
        });
        match asked.await {
            Ok(Ok(false)) => return None,
            Ok(Err(error)) => {
                tracing::warn!(rule = %rule.name, %error, "the replica could not be asked");
            }
            Ok(Ok(true)) | Err(_) => {}
        }
        let replica = match last {
            Some(0) => Replica::Gone,
            Some(_) => Replica::Behind,
            None => Replica::NotAsked,
        };
        Some((replica, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KeyValue;

    fn keys(range: std::ops::Range<i128>) -> Vec<Key> {
        range.map(|id| Key(vec![KeyValue::Int(id)])).collect()
    }

    #[test]
    fn few_are_all_kept_and_of_many_a_fair_sample() {
        let mut taken = Taken::new();
        taken.extend(&keys(0..100));
        assert_eq!(taken.keys, keys(0..100));
        taken.extend(&keys(100..100_000));
        assert_eq!((taken.keys.len(), taken.seen), (MOST, 100_000));
        let mut distinct = taken.keys.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), MOST);
        let late = keys(90_000..100_000);
        let late = taken.keys.iter().filter(|key| late.binary_search(key).is_ok()).count();
        assert!(
            (700..1_300).contains(&late),
            "a tenth of the sample is from the last tenth: {late}"
        );
    }
}
