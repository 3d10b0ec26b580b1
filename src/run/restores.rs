//! Noticing that a store was restored: before each run, and now and then.
//!
//! A store that seems to be an older one is frozen, and its rules do not run until somebody has had the deletions replayed
//! or said that it was no restore. Whatever speaks for a restore is looked at once more by the session that acts: a replica
//! that lags behind shows an old marker and records that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::prepare::Refusal;
use super::{Errand, RunError, Runner};
use crate::clock;
use crate::hold::Holds;
use crate::ledger::{Frozen, LedgerError, Tombstone};
use crate::restore::{Evidence, Known, Mark, Sight, Verdict, judge};
use crate::rule::{Mode, Rule};
use crate::store::sql::{Access, Bounds};
use crate::store::{Fate, PathsAgain, Store, StoreError, Target};
use crate::types::{Key, Name, TableName};

/// So many of the newest batches are looked for, and as many at random.
const BATCHES: u32 = 3;
/// So many keys of each.
const KEYS: usize = 200;
/// How long a look is good enough for what events name.
const GOOD_FOR: Duration = Duration::from_mins(1);

/// What a look came to.
enum Looked {
    /// Nothing speaks for a restore.
    Fine,
    /// It was frozen before.
    Frozen(Frozen),
    /// It is frozen since just now.
    Noticed(Frozen),
}

/// The moment before which a record must have started to be the one that was taken, and not another of its key.
pub(super) fn bound(tombstone: &Tombstone) -> Timestamp {
    if tombstone.by_event || tombstone.attached { tombstone.gone_at } else { tombstone.cutoff }
}

/// Where to look for what a rule took, rule by rule; each is looked up once.
pub(super) struct Places<'a> {
    pub(super) store: Store,
    pub(super) holds: &'a Holds,
    targets: BTreeMap<Name, Target>,
}

impl<'a> Places<'a> {
    pub(super) fn of(store: Store, holds: &'a Holds) -> Places<'a> {
        Places { store, holds, targets: BTreeMap::new() }
    }

    /// Says where a rule's place is, with the holds heeded.
    pub(super) fn know(&mut self, rule: &Rule, target: Target) {
        self.targets.insert(rule.name.clone(), target);
    }

    /// The rule's place in the store, with the holds heeded.
    pub(super) async fn target(&mut self, rule: &Rule) -> Result<&Target, StoreError> {
        if !self.targets.contains_key(&rule.name) {
            let mut target = self.store.target(rule).await?;
            self.store.hold_back(&mut target, rule, self.holds).await?;
            self.targets.insert(rule.name.clone(), target);
        }
        // It was put there just now, if it was not there before.
        self.targets
            .get(&rule.name)
            .ok_or_else(|| StoreError::NoStore { store: rule.store.clone() })
    }

    /// Why a rule cannot say what is there; `None` where it can.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(super) async fn misfit(
        &mut self,
        rule: &Rule,
        tombstone: &Tombstone,
    ) -> Result<Option<&'static str>, StoreError> {
        let misfit = "the rule does not fit its table";
        match self.target(rule).await {
            Ok(target) => {
                let fits = target.rows().is_none_or(|rows| rows.fits_keys(&tombstone.keys));
                Ok((!fits).then_some(misfit))
            }
            Err(StoreError::Mismatch { .. } | StoreError::NoTable { .. }) => Ok(Some(misfit)),
            Err(error) => Err(error),
        }
    }

    /// What is there again of some keys of a tombstone, with what becomes of each.
    pub(super) async fn again(
        &mut self,
        rule: &Rule,
        tombstone: &Tombstone,
        keys: &[Key],
        now: Timestamp,
    ) -> Result<Vec<(Key, Fate)>, StoreError> {
        let bounds = Bounds { cutoff: bound(tombstone), now };
        if tombstone.attached {
            let again = PathsAgain::attached(&self.store, rule, self.holds, bounds);
            return self.store.paths_again(&again, keys).await;
        }
        let store = self.store.clone();
        match self.target(rule).await? {
            Target::Paths(target) => {
                let again = PathsAgain::of(target, bounds, tombstone.by_event);
                store.paths_again(&again, keys).await
            }
            target @ Target::Rows(rows) => {
                if !rows.fits_keys(keys) {
                    return Err(StoreError::NoTable {
                        store: tombstone.store.clone(),
                        table: tombstone.table.clone(),
                    });
                }
                store.rows_again(target, bounds, keys).await
            }
        }
    }
}

impl Runner {
    /// Looks at each store that was seen before, has tombstones, is covered by a set of backups or has a marker, freezes
    /// those that seem to have been restored, and gives the ones that were frozen by this look. Writes nothing into any
    /// store. One that cannot be looked at keeps none from being.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn look_for_restores(&self, now: Timestamp) -> Result<Vec<Frozen>, LedgerError> {
        let mut stores = self.ledger.watched_stores().await?;
        stores.extend(self.stores.with_markers().cloned());
        let mut noticed = Vec::new();
        for store in &stores {
            if self.stores.configuration(store).is_err() {
                continue;
            }
            match self.look_at(store, Duration::ZERO, now).await {
                Ok(Looked::Noticed(frozen)) => noticed.push(frozen),
                Ok(Looked::Fine | Looked::Frozen(_)) => {}
                Err(RunError::Ledger(error)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%store, %error, "it could not be looked whether the store was restored");
                }
            }
        }
        Ok(noticed)
    }

    /// Looks before a run at the stores that it would take from. What events name need not wait for a look where one was
    /// taken a moment ago; that a store is frozen is known in any case.
    pub(super) async fn look_before(
        &self,
        rule: &Rule,
        errand: &Errand<'_>,
        now: Timestamp,
    ) -> Result<(), LookError> {
        let good_for = match errand {
            Errand::Events => GOOD_FOR,
            _ => Duration::ZERO,
        };
        for store in taken_from(rule) {
            match self.look_at(store, good_for, now).await {
                Ok(Looked::Fine) => {}
                Ok(Looked::Frozen(frozen) | Looked::Noticed(frozen)) => {
                    return Err(LookError::Refused(is_frozen(&frozen)));
                }
                Err(RunError::Ledger(error)) => return Err(LookError::Ledger(error)),
                Err(error) => {
                    let reason = "it could not be looked whether the store was restored";
                    return Err(LookError::Refused(Refusal::new(reason, &error)));
                }
            }
        }
        Ok(())
    }

    /// Writes the next marker into the stores that a run takes from, where they have one.
    pub(super) async fn mark_stores(&self, rule: &Rule, now: Timestamp) -> Result<(), RunError> {
        if rule.mode == Mode::Enforce {
            for store in taken_from(rule) {
                self.mark(store, now).await?;
            }
        }
        Ok(())
    }

    /// Writes the next marker into a store that has one. The ledger says before that it may be there, and after that it is.
    pub(super) async fn mark(&self, store: &Name, now: Timestamp) -> Result<(), RunError> {
        let Some(marker) = self.marker_of(store)? else { return Ok(()) };
        let known = self.ledger.watch(store).await?.known.unwrap_or_default();
        let number = known.next_marker();
        self.ledger.intend_marker(store, number, now).await?;
        crate::fault::point("marker.intended");
        self.stores.get(store, Access::ReadWrite)?.write_marker(&marker, number, now).await?;
        crate::fault::point("marker.written");
        self.ledger.commit_marker(store, number, now).await?;
        Ok(())
    }

    fn marker_of(&self, store: &Name) -> Result<Option<TableName>, StoreError> {
        let configured = self.stores.configuration(store)?;
        Ok(configured.tables().and_then(|tables| tables.marker.clone()))
    }

    async fn look_at(
        &self,
        store: &Name,
        good_for: Duration,
        now: Timestamp,
    ) -> Result<Looked, RunError> {
        let marker = self.marker_of(store)?;
        let watch = self.ledger.watch(store).await?;
        if let Some(frozen) = watch.frozen {
            return Ok(Looked::Frozen(frozen));
        }
        if marker.is_none() && watch.known.is_none() && !watch.has_tombstones && !watch.is_covered {
            return Ok(Looked::Fine);
        }
        if self.stores.last_look(store).is_some_and(|ago| ago < good_for) {
            return Ok(Looked::Fine);
        }
        let mut evidence = None;
        for access in [Access::ReadOnly, Access::ReadWrite] {
            evidence = self.evidence(store, access, marker.as_ref(), now).await?;
            if evidence.is_none() {
                break;
            }
        }
        let Some(evidence) = evidence else {
            self.stores.note_look(store);
            return Ok(Looked::Fine);
        };
        let is_new = self.ledger.freeze(store, &evidence, now).await?;
        let Evidence { words, restored_to } = evidence;
        if is_new {
            tracing::error!(
                %store,
                restored_to = restored_to.map(tracing::field::display),
                "the store seems to have been restored: {words}. Its rules do not run until `expunged replay {store}` has \
                 deleted again what came back, or `expunged replay {store} --dismiss` says that it was no restore"
            );
        }
        let frozen = self.ledger.watch(store).await?.frozen;
        Ok(match frozen {
            Some(frozen) if is_new => Looked::Noticed(frozen),
            Some(frozen) => Looked::Frozen(frozen),
            // Somebody was quick and has released it.
            None => Looked::Fine,
        })
    }

    /// What speaks for a restore, seen through one of a store's doors. The ledger is asked first, and the store after it: so
    /// a marker that another process writes meanwhile is newer than what is known, and never older.
    async fn evidence(
        &self,
        store: &Name,
        access: Access,
        marker: Option<&TableName>,
        now: Timestamp,
    ) -> Result<Option<Evidence>, RunError> {
        let watch = self.ledger.watch(store).await?;
        let opened = self.stores.get(store, access)?;
        let seen = opened.sight(marker).await?;
        let is_first = watch.known.is_none();
        let known = watch.known.unwrap_or_default();
        match judge(&known, &seen, now) {
            Verdict::Restored(evidence) => return Ok(Some(evidence)),
            verdict => self.note_sight(store, (&known, is_first), &seen, &verdict, now).await?,
        }
        if watch.has_tombstones && self.is_back(opened, known.released_at, now).await? {
            return Ok(Some(Evidence::records()));
        }
        Ok(None)
    }

    /// Notes what is new about a store that is the one it was.
    async fn note_sight(
        &self,
        store: &Name,
        (known, is_first): (&Known, bool),
        seen: &Sight,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<(), RunError> {
        let is_new = |one: bool, other: bool| one && other;
        let other_server = is_new(seen.server.is_some(), seen.server != known.server);
        let other_timeline = is_new(seen.timeline.is_some(), seen.timeline != known.timeline);
        if is_first || other_server || other_timeline {
            if *verdict == Verdict::Moved {
                tracing::warn!(%store, "it is on another server or timeline, with its marker intact: a failover");
            }
            self.ledger.note_server(store, seen, now).await?;
        }
        let Mark::There { number, .. } = seen.mark else { return Ok(()) };
        if known.marker != Some(number) {
            let before = self.ledger.watch(store).await?.known.and_then(|known| known.marker);
            if *verdict == Verdict::Ahead && before.is_some_and(|before| before < number) {
                tracing::warn!(
                    %store,
                    "its marker is newer than the ledger knows: the ledger was restored, or another ledger writes the same \
                     marker"
                );
            }
            self.ledger.commit_marker(store, number, now).await?;
        }
        Ok(())
    }

    /// Whether records that were deleted are there again: of the newest batches and of some at random, some keys.
    async fn is_back(
        &self,
        store: Store,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool, RunError> {
        let name = store.name().clone();
        let mut looked_for = self.ledger.newest_tombstones(&name, since, BATCHES).await?;
        let oldest = self.ledger.tombstones_of(&name).await?.oldest.max(since);
        let newest = looked_for.first().map(|tombstone| tombstone.gone_at);
        if let (Some(oldest), Some(newest)) = (oldest, newest) {
            for _ in 0..BATCHES {
                let at = between(oldest, newest);
                looked_for.extend(self.ledger.tombstone_at(&name, at).await?);
            }
        }
        let held = self.held().await?;
        let mut places = Places::of(store, &held.holds);
        let mut seen = BTreeSet::new();
        for tombstone in looked_for {
            if !seen.insert(tombstone.seq) {
                continue;
            }
            // What a rule that is gone took is looked for when somebody asks for it.
            let Some(rule) = self.rules.get(&tombstone.rule) else { continue };
            match places.is_back(rule, &tombstone, now).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(store = %name, rule = %rule.name, %error, "what it deleted could not be looked for");
                }
            }
        }
        Ok(false)
    }
}

impl Places<'_> {
    async fn is_back(
        &mut self,
        rule: &Rule,
        tombstone: &Tombstone,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if !tombstone.attached {
            let is_elsewhere =
                rule.store != tombstone.store || rule.table.to_string() != tombstone.table;
            // A row that shows by nothing that it was anonymized may have been written anew.
            let target = self.target(rule).await?;
            if is_elsewhere || target.rows().is_some_and(|rows| !rows.tells_when_undone()) {
                return Ok(false);
            }
        }
        let keys = some_of(&tombstone.keys);
        let found = self.again(rule, tombstone, &keys, now).await?;
        Ok(found.iter().any(|(_, fate)| *fate == Fate::Goes))
    }
}

/// Why a run does not begin after a look at its stores.
pub(super) enum LookError {
    Refused(Refusal),
    Ledger(LedgerError),
}

/// The stores that a rule takes from: its own, and those of what belongs to its rows.
pub(super) fn taken_from(rule: &Rule) -> BTreeSet<&Name> {
    let attached = rule.attachments().iter().map(|attachment| &attachment.store);
    std::iter::once(&rule.store).chain(attached).collect()
}

fn is_frozen(frozen: &Frozen) -> Refusal {
    let Frozen { store, evidence, noticed_at, .. } = frozen;
    let error = format!(
        "store `{store}` seems to have been restored: {evidence} (noticed {}); `expunged replay {store}` shows what came back \
         and deletes it again, and where it was no restore, `expunged replay {store} --dismiss --why \"…\"` says so",
        noticed_at.strftime("%Y-%m-%d %H:%M UTC")
    );
    Refusal { reason: "its store seems to have been restored", error }
}

/// A random moment from one to another.
fn between(from: Timestamp, to: Timestamp) -> Timestamp {
    let random = u64::from_le_bytes(clock::random_bytes::<8>());
    let span = u64::try_from(to.as_microsecond() - from.as_microsecond()).unwrap_or(0);
    let ahead = i64::try_from(random % span.saturating_add(1)).unwrap_or(0);
    Timestamp::from_microsecond(from.as_microsecond() + ahead).unwrap_or(from)
}

/// A stretch of keys that begins at random, all of them where there are few.
fn some_of(keys: &[Key]) -> Vec<Key> {
    let random = u64::from_le_bytes(clock::random_bytes::<8>());
    let length = keys.len().max(1) as u64;
    let first = usize::try_from(random % length).unwrap_or(0);
    keys.iter().cycle().skip(first).take(KEYS.min(keys.len())).cloned().collect()
}
