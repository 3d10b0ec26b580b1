//! Looking again after a run: that a statement succeeded is weak evidence.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::Prepared;
use super::Runner;
use crate::clock::{self, Stopwatch};
use crate::plan::{Replica, Residue, Verification};
use crate::rule::Rule;
use crate::store::sql::Bounds;
use crate::store::{Store, StoreError, Target};
use crate::types::Key;

/// So many records are looked for, all of them where there are no more, otherwise a random sample.
const MOST: usize = 10_000;
/// How long a replica may take to catch up.
const REPLICA_WITHIN: Duration = Duration::from_secs(10);
/// How long after it is asked again.
const REPLICA_AGAIN: Duration = Duration::from_millis(200);

/// Keys of records that were taken: all of the first, then each with the chance that makes a fair
/// sample of all (Vitter, "Random Sampling with a Reservoir", 1985, algorithm R).
///
/// What events named went whatever its age, so that the run's cutoff would find none of it: the moment of taking stands
/// with each of these.
#[derive(Debug)]
pub(super) struct Taken {
    sample: Vec<(Option<Timestamp>, Key)>,
    seen: u64,
    random: u64,
}

impl Taken {
    pub(super) fn new() -> Taken {
        let random = u64::from_le_bytes(clock::random_bytes::<8>());
        Taken { sample: Vec::new(), seen: 0, random }
    }

    /// Adds records; with the moment at which they were taken where events named them.
    pub(super) fn extend(&mut self, keys: &[Key], named_at: Option<Timestamp>) {
        for key in keys {
            self.seen += 1;
            if self.sample.len() < MOST {
                self.sample.push((named_at, key.clone()));
                continue;
            }
            let place = usize::try_from(self.next() % self.seen).unwrap_or(usize::MAX);
            if let Some(kept) = self.sample.get_mut(place) {
                *kept = (named_at, key.clone());
            }
        }
    }

    /// How many of them are there as they were: with a starting point from before they were taken.
    async fn present(
        &self,
        store: &Store,
        target: &Target,
        bounds: Bounds,
    ) -> Result<u64, StoreError> {
        let mut named = BTreeMap::<Timestamp, Vec<Key>>::new();
        let mut by_age = Vec::new();
        for (named_at, key) in &self.sample {
            named_at.map_or(&mut by_age, |at| named.entry(at).or_default()).push(key.clone());
        }
        let mut present = store.still_there(target, bounds, &by_age).await?;
        let before = |cutoff| Bounds { cutoff, ..bounds };
        // Of many moments the last one finds whatever any would, and mostly that is nothing.
        if let Some((last, _)) = named.last_key_value().filter(|_| named.len() > 1) {
            let all: Vec<Key> = named.values().flatten().cloned().collect();
            if store.still_there(target, before(*last), &all).await? == 0 {
                return Ok(present);
            }
        }
        for (at, keys) in &named {
            present += store.still_there(target, before(*at), keys).await?;
        }
        Ok(present)
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
        let looked = taken.present(store, target, *bounds);
        let Ok(present) = tokio::time::timeout(left(), looked).await else { return Ok(None) };
        let present = present?;
        let (replica, present_on_replica) =
            self.ask_replica(rule, *bounds, taken, left().min(REPLICA_WITHIN)).await.unzip();
        let (residue, detail) = match tokio::time::timeout(left(), store.residue(target)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => (Residue::Unknown, error.to_string()),
            Err(_) => (Residue::Unknown, "it did not answer in time".to_owned()),
        };
        let seen = Verification {
            checked: taken.sample.len() as u64,
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
        taken: &Taken,
        within: Duration,
    ) -> Option<(Replica, Option<u64>)> {
        let mut last = None;
        let asked = tokio::time::timeout(within, async {
            let Some(replica) = self.stores.replica(&rule.store)? else { return Ok(false) };
            // Its own catalogue: a replica may bear another name.
            let target = replica.target(rule).await?;
            loop {
                let present = taken.present(&replica, &target, bounds).await?;
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
        let kept = |taken: &Taken| taken.sample.iter().map(|(_, key)| key.clone()).collect();
        taken.extend(&keys(0..100), None);
        let mut distinct: Vec<Key> = kept(&taken);
        assert_eq!(distinct, keys(0..100));
        taken.extend(&keys(100..100_000), None);
        assert_eq!((taken.sample.len(), taken.seen), (MOST, 100_000));
        distinct = kept(&taken);
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), MOST);
        let late = keys(90_000..100_000);
        let late = taken.sample.iter().filter(|(_, key)| late.binary_search(key).is_ok()).count();
        assert!(
            (700..1_300).contains(&late),
            "a tenth of the sample is from the last tenth: {late}"
        );
    }
}
