//! Replay: what a restored backup brought back goes again.
//!
//! The tombstones of the store name what was deleted after the moment that it was restored to. What of it is there again
//! goes by ordinary runs of the rules that took it before: intent before effect, the holds inside the statement, settled
//! once, looked for again. Only a record whose starting point lies before the bound of the run that took it is the one that
//! was taken; one that was made since under the same key stays. Nobody is told: recipients were.
//!
//! The store stays frozen until all of it is done, so a replay that was interrupted is run again, and finds what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::attachments::{Attachments, Taking};
use super::execution::{Ended, Execution, Next};
use super::restores::{Places, bound};
use super::{Errand, Prepared, Progress, RunError, RunResult, RunState, Runner, run_by_command};
use crate::audit::Event;
use crate::audit::entry::Cause;
use crate::clock::{self, Stopwatch};
use crate::fault;
use crate::ledger::{LedgerError, Tombstone};
use crate::restore::Evidence;
use crate::rule::{Mode, Rule};
use crate::store::sql::{Access, Pace};
use crate::store::{Batch, Fate, PathsAgain, StoreError, Stores, Target};
use crate::types::{Key, Name};

/// Tombstones that are read at once.
const AT_ONCE: u32 = 16;
/// Records that one batch takes.
const BATCH: usize = 500;
/// How long a rule may be busy before a replay gives up on it: a run that waits for events stands for a minute.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often it is tried meanwhile.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// What a replay would do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ReplayPlan {
    /// The store.
    pub store: Name,
    /// What speaks for a restore; `None` where nothing was noticed.
    pub evidence: Option<String>,
    /// The moment that it was restored to; all that is known by its key is looked for where there is none.
    pub restored_to: Option<Timestamp>,
    /// Rule by rule.
    pub rules: Vec<RuleReplay>,
    /// The last tombstone that was looked at: what the replay itself takes is not replayed.
    #[serde(skip)]
    upto: i64,
}

/// What a replay would do by one rule.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct RuleReplay {
    /// The rule; empty only before it is known.
    pub rule: String,
    /// Batches whose keys are known.
    pub batches: u64,
    /// Records that they name.
    pub known: u64,
    /// Records that are there again.
    pub there: u64,
    /// Of these, those that go.
    pub due: u64,
    /// Those that legal holds keep.
    pub held: u64,
    /// Those that are others: made, or modified, after what was deleted.
    pub newer: u64,
    /// Those that the rule does not mean as they are now.
    pub changed: u64,
    /// Why none of its batches goes, where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<&'static str>,
}

/// What came of a replay.
#[derive(Clone, Debug, Serialize)]
pub struct Replayed {
    /// What it was to do.
    pub plan: ReplayPlan,
    /// The runs that did it.
    pub runs: Vec<RunResult>,
    /// Records that are gone again, with what belonged to others.
    pub records: u64,
    /// What is there still.
    pub after: ReplayPlan,
    /// Whether the store's rules run again.
    pub released: bool,
    /// The ordinary runs of its rules after that.
    pub ordinary: Vec<RunResult>,
}

/// Why a replay did not take place.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store is not frozen.
    #[error("store `{store}` is not frozen: its rules run, and there is nothing to dismiss")]
    NotFrozen {
        /// The store.
        store: Name,
    },
    /// Its marker could not be written after that.
    #[error("the store is released, and its marker could not be written: {0}")]
    Marker(#[source] Box<RunError>),
}

impl ReplayPlan {
    /// Records that go.
    pub fn due(&self) -> u64 {
        self.sum(|rule| rule.due)
    }

    /// Records that are known by their keys.
    pub fn known(&self) -> u64 {
        self.sum(|rule| rule.known)
    }

    /// Records that were deleted, are there again and stay.
    pub fn stay(&self) -> u64 {
        self.sum(RuleReplay::stay)
    }

    /// Whether something is there that could go and does not, because its rule does not say so any more.
    pub fn is_left(&self) -> bool {
        self.rules.iter().any(|rule| rule.left.is_some() && rule.there > 0)
    }

    fn sum(&self, of: impl Fn(&RuleReplay) -> u64) -> u64 {
        self.rules.iter().map(of).sum()
    }
}

impl RuleReplay {
    /// Records that were deleted, are there again and stay.
    pub fn stay(&self) -> u64 {
        if self.left.is_some() { self.there } else { self.held + self.changed }
    }
}

/// What a replay asks of a run.
#[derive(Debug)]
pub(super) struct Replaying<'a> {
    pub(super) store: &'a Name,
    pub(super) since: Option<Timestamp>,
    pub(super) upto: i64,
    pub(super) due: u64,
}

/// Why a rule does not take again what a tombstone names; `None` where it does.
fn left(rule: Option<&Rule>, tombstone: &Tombstone) -> Option<&'static str> {
    let Some(rule) = rule else { return Some("the rule is gone") };
    if rule.digest_if_told(&tombstone.tellings) != tombstone.rule_digest {
        return Some("the rule has changed since");
    }
    (rule.mode == Mode::Observe).then_some("the rule only observes")
}

impl Runner {
    /// Says what a replay would do now. Writes nothing.
    ///
    /// # Errors
    /// When the ledger or the store cannot be asked, or a rule does not fit its table.
    pub async fn plan_replay(
        &self,
        store: &Name,
        restored_to: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<ReplayPlan, ReplayError> {
        self.stores.configuration(store)?;
        let frozen = self.ledger.watch(store).await?.frozen;
        let restored_to =
            restored_to.or_else(|| frozen.as_ref().and_then(|frozen| frozen.restored_to));
        let held = self.held().await?;
        let reader = self.stores.get(store, Access::ReadOnly)?;
        let mut places = Places::of(reader, &held.holds);
        let mut rules: BTreeMap<(Name, Option<&'static str>), RuleReplay> = BTreeMap::new();
        // A record that came back more than once is one, whichever tombstones name it.
        let mut seen = BTreeSet::new();
        let mut upto = -1;
        loop {
            let some = self.ledger.tombstones_after((store, None), restored_to, upto, AT_ONCE);
            let some = some.await?;
            let Some(last) = some.last() else { break };
            upto = last.seq;
            for tombstone in &some {
                let rule = self.rules.get(&tombstone.rule);
                let left = match (left(rule, tombstone), rule) {
                    (None, Some(rule)) if !tombstone.attached => {
                        places.misfit(rule, tombstone).await?
                    }
                    (left, _) => left,
                };
                let counts = rules.entry((tombstone.rule.clone(), left)).or_insert_with(|| {
                    RuleReplay { rule: tombstone.rule.to_string(), left, ..RuleReplay::default() }
                });
                counts.batches += 1;
                counts.known += tombstone.keys.len() as u64;
                let Some(rule) = rule.filter(|_| left.is_none()) else {
                    let there = places.store.present(&tombstone.table, &tombstone.keys);
                    counts.there += there.await?;
                    continue;
                };
                for (key, fate) in places.again(rule, tombstone, &tombstone.keys, now).await? {
                    if seen.insert(mark(&tombstone.rule, tombstone, &key)) {
                        counts.count(fate);
                    }
                }
            }
        }
        let evidence = frozen.map(|frozen| frozen.evidence);
        let rules = rules.into_values().collect();
        Ok(ReplayPlan { store: store.clone(), evidence, restored_to, rules, upto })
    }

    /// Carries a replay out, releases the store and runs its rules. Where something could not go again, the store stays
    /// frozen.
    ///
    /// # Errors
    /// When the ledger or the store fails; it can be run again.
    pub async fn replay(
        &self,
        plan: ReplayPlan,
        by: &str,
        stop: &CancellationToken,
        report: &(dyn Fn(&Name, Progress) + Sync),
    ) -> Result<Replayed, ReplayError> {
        let store = plan.store.clone();
        // Until the end no other run takes from it. Whoever calls for a replay says that it was restored.
        let said = Evidence { words: "somebody said so", restored_to: plan.restored_to };
        self.ledger.freeze(&store, &said, clock::now()).await?;
        let event = Event::ReplayStarted {
            store: store.clone(),
            restored_to: plan.restored_to,
            records: plan.known(),
            by: by.to_owned(),
        };
        self.ledger.record(clock::now(), event).await?;
        fault::point("replay.started");
        let mut runs = Vec::new();
        for one in plan.rules.iter().filter(|one| one.left.is_none() && one.due > 0) {
            if stop.is_cancelled() {
                break;
            }
            let Some(rule) = self.rules.values().find(|rule| rule.name.as_str() == one.rule) else {
                continue;
            };
            let since = plan.restored_to;
            let replaying = Replaying { store: &store, since, upto: plan.upto, due: one.due };
            runs.push(self.replay_rule(rule, &replaying, stop, report).await?);
        }
        let records = runs.iter().map(|run| run.records + run.attachments).sum();
        // Read back: what is there now, whatever the runs have said.
        let after = self.plan_replay(&store, plan.restored_to, clock::now()).await?;
        let event = Event::ReplayFinished {
            store: store.clone(),
            records,
            left: after.due() + after.stay(),
        };
        self.ledger.record(clock::now(), event).await?;
        fault::point("replay.finished");
        let is_done = after.due() == 0 && !after.is_left() && !stop.is_cancelled();
        let mut ordinary = Vec::new();
        if is_done {
            self.release(&store, "what came back is gone again", None, None).await?;
            for rule in self.rules.values() {
                if rule.store == store && rule.mode == Mode::Enforce && !stop.is_cancelled() {
                    let report = |progress| report(&rule.name, progress);
                    let now = clock::now();
                    ordinary
                        .push(run_by_command(&self.at_any_time(), rule, now, stop, &report).await?);
                }
            }
        }
        Ok(Replayed { plan, runs, records, after, released: is_done, ordinary })
    }

    /// Has the rules of a store run again that was not restored: somebody says so, and why.
    ///
    /// # Errors
    /// When it is not frozen, or the ledger or the store fails.
    pub async fn dismiss_restore(
        &self,
        store: &Name,
        by: &str,
        why: &str,
        now: Timestamp,
    ) -> Result<(), ReplayError> {
        if self.ledger.watch(store).await?.frozen.is_none() {
            return Err(ReplayError::NotFrozen { store: store.clone() });
        }
        // What is there although it was deleted is no news from now on.
        let reason = "somebody said that it was not restored";
        self.release(store, reason, Some((by, why)), Some(now)).await
    }

    async fn release(
        &self,
        store: &Name,
        reason: &'static str,
        by: Option<(&str, &str)>,
        released_at: Option<Timestamp>,
    ) -> Result<(), ReplayError> {
        let marker =
            self.stores.configuration(store)?.tables().and_then(|tables| tables.marker.clone());
        let known = self.ledger.watch(store).await?.known.unwrap_or_default();
        let seen = self.stores.get(store, Access::ReadWrite)?.sight(marker.as_ref()).await?;
        let known = known.released(&seen, released_at);
        self.ledger.release_store(store, &known, (reason, by), clock::now()).await?;
        fault::point("replay.released");
        let enforced =
            self.rules.values().any(|rule| rule.store == *store && rule.mode == Mode::Enforce);
        if enforced {
            let written = self.mark(store, clock::now()).await;
            written.map_err(|error| ReplayError::Marker(Box::new(error)))?;
        }
        Ok(())
    }

    /// Has a rule take again what came back.
    async fn replay_rule(
        &self,
        rule: &Rule,
        replaying: &Replaying<'_>,
        stop: &CancellationToken,
        report: &(dyn Fn(&Name, Progress) + Sync),
    ) -> Result<RunResult, LedgerError> {
        // Recipients were told when it was deleted first.
        let rule = &Rule { tellings: Vec::new(), ..rule.clone() };
        let report = |progress| report(&rule.name, progress);
        let watch = Stopwatch::start();
        loop {
            let now = clock::now();
            let request = self.ledger.request(&rule.name, Cause::Replay, now).await?;
            let errand = Errand::Replay(replaying);
            let result = self.carry(rule, &request, &errand, now, stop, &report).await?;
            let is_busy = result.state == RunState::Busy && !stop.is_cancelled();
            if !is_busy || watch.elapsed() > PATIENCE {
                return Ok(result);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
}

impl RuleReplay {
    fn count(&mut self, fate: Fate) {
        self.there += 1;
        match fate {
            Fate::Goes => self.due += 1,
            Fate::Held => self.held += 1,
            Fate::Newer => self.newer += 1,
            Fate::Changed => self.changed += 1,
        }
    }
}

/// What stands for a record of a rule, in few bytes.
fn mark(rule: &Name, tombstone: &Tombstone, key: &Key) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in [rule.as_str(), &tombstone.table] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.update(key.encode());
    let mut mark = [0; 16];
    mark.copy_from_slice(&digest.finalize()[..16]);
    mark
}

impl Execution<'_> {
    /// Takes again what tombstones of this rule name, as far as it is there.
    pub(super) async fn take_again(
        &mut self,
        replaying: &Replaying<'_>,
    ) -> Result<Ended, RunError> {
        let runner = self.runner;
        let (mut after, mut widest) = (-1, self.prepared.bounds.cutoff);
        let ended = 'all: loop {
            let name = (replaying.store, Some(&self.rule.name));
            let some =
                runner.ledger.tombstones_after(name, replaying.since, after, AT_ONCE).await?;
            let Some(last) = some.last() else { break Ended::Complete };
            after = last.seq;
            for tombstone in some.iter().filter(|tombstone| tombstone.seq <= replaying.upto) {
                // The rule's tellings are left out here, and stand with each tombstone.
                if left(Some(self.rule), tombstone).is_some() {
                    continue;
                }
                widest = widest.max(bound(tombstone));
                for keys in tombstone.keys.chunks(BATCH) {
                    if self.stop.is_cancelled() {
                        break 'all Ended::Stopped;
                    }
                    runner.clock.look()?;
                    let before = self.records;
                    self.pacer.begin();
                    self.take_keys(replaying, tombstone, keys).await?;
                    self.pacer.note(self.records - before);
                    self.rest().await;
                }
            }
            if after >= replaying.upto {
                break Ended::Complete;
            }
        };
        self.flush().await?;
        // What is looked for again may be of any of them.
        self.prepared.bounds.cutoff = widest;
        self.events.name_it = false;
        Ok(ended)
    }

    /// Takes what is there again of some keys of a tombstone.
    async fn take_keys(
        &mut self,
        replaying: &Replaying<'_>,
        tombstone: &Tombstone,
        keys: &[Key],
    ) -> Result<(), RunError> {
        // A look costs little, and most of what is known is not there.
        let found = {
            let reader = self.runner.stores.get(replaying.store, Access::ReadOnly)?;
            let mut places = Places::of(reader, &self.prepared.held.holds);
            if !tombstone.attached {
                places.know(self.rule, self.prepared.target.clone());
            }
            places.again(self.rule, tombstone, keys, self.prepared.bounds.now).await?
        };
        let keys: Vec<Key> =
            found.into_iter().filter(|(_, fate)| *fate == Fate::Goes).map(|(key, _)| key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        self.events.name_it = tombstone.by_event;
        self.prepared.bounds.cutoff = bound(tombstone);
        let mut pace = Pace::of(self.rule.pacing, false);
        let mut gate = None;
        loop {
            let taken = if tombstone.attached {
                let here = (self.rule, &self.prepared);
                Some(attached_again(&self.runner.stores, here, replaying.store, &keys).await?)
            } else {
                let mut next = match &self.prepared.target {
                    Target::Rows(rows) => Next::In(rows.window_of_keys(&keys)),
                    Target::Paths(_) => Next::Again { keys: &keys, by_event: tombstone.by_event },
                };
                self.take_at(&mut next, &mut pace, &mut gate).await?
            };
            let Some(taking) = taken else { return Ok(()) };
            self.pacer.taken();
            self.unfit += taking.unfit;
            if taking.batch.keys.is_empty() && taking.attached.named().is_empty() {
                taking.batch.rollback().await?;
                return Ok(());
            }
            match self.finish_batch(taking, gate.take()).await {
                Err(RunError::Ledger(LedgerError::HoldsChanged)) => gate = Some(self.gate().await?),
                Ok(false) if tombstone.attached => return Ok(()),
                Ok(false) => {}
                ended => return ended.map(drop),
            }
        }
    }
}

/// Files or objects of a store that belonged to rows of a rule.
async fn attached_again(
    stores: &Stores,
    (rule, prepared): (&Rule, &Prepared),
    store: &Name,
    keys: &[Key],
) -> Result<Taking, RunError> {
    let opened = stores.get(store, Access::ReadWrite)?;
    let again = PathsAgain::attached(&opened, rule, &prepared.held.holds, prepared.bounds);
    let batch = opened.take_paths(&again, keys).await?;
    let attached = Attachments::again(store.clone(), again, keys.to_vec(), batch);
    Ok(Taking { attached, ..Taking::alone(Batch::nothing()) })
}
