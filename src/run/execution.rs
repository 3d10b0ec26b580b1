//! A run under way: batches along a walk, each taken, intended, committed and settled; then a look back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::attachments::{self, Stuck, Taking};
use super::events::EventRun;
use super::pacing::{self, Pacer};
use super::readback::Taken;
use super::restores::taken_from;
use super::underway::{Begun, Underway};
use super::{Errand, Prepared, Progress, RunError, RunResult, RunState, Runner, result};
use crate::anonymize::{Strategy, Wanted, replacement};
use crate::audit::entry::RunEnd;
use crate::clock::{self, Stopwatch};
use crate::fault;
use crate::keys::Keys;
use crate::ledger::{Finish, Gate, Intended, LedgerError, Outcome, RuleLock, Run};
use crate::plan::{DependentRows, Verification};
use crate::rule::{Rule, Why};
use crate::store::sql::catalogue::{Column, ColumnKind, SideEffects};
use crate::store::sql::{Pace, WalkKind, Window};
use crate::store::{Effected, Left, PathsAgain, StoreError, Target, Walk};
use crate::types::Key;

/// Walks over one table in one run: rows that moved under the first are found by the second.
const MOST_WALKS: u32 = 3;
/// How often a batch that met a lock is tried, each time a smaller one, before it is passed over.
pub(super) const MOST_ATTEMPTS: u32 = 6;
/// The same where it cannot be smaller.
pub(super) const FEWER_ATTEMPTS: u32 = 2;
/// How long a run that was asked to stop may take to look again.
const READ_BACK_WITHIN: Duration = Duration::from_secs(3);

/// How long a batch may keep holds from being placed.
pub(super) const GATE_WITHIN: Duration = Duration::from_secs(3);

/// Why a run ends with events left that could not be worked off.
const STUCK: &str = "events wait for what could not be deleted";

/// So many records more than were due when a run began are few.
const FEW: u64 = 1_000;

/// A run under way.
pub(super) struct Execution<'a> {
    pub(super) runner: &'a Runner,
    pub(super) rule: &'a Rule,
    pub(super) run: Run,
    pub(super) prepared: Prepared,
    pub(super) stop: &'a CancellationToken,
    pub(super) report: &'a (dyn Fn(Progress) + Sync),
    pub(super) lock: &'a mut RuleLock,
    pub(super) pacer: Pacer,
    /// Batches that took effect and have no outcome yet.
    pub(super) underway: Underway,
    pub(super) events: EventRun,
    /// Whether it takes again what a restore brought back, so that its store may be frozen.
    pub(super) replays: bool,
    /// Files and objects that went and belonged to records which are not there.
    pub(super) attachments: u64,
    pub(super) taken: Taken,
    pub(super) records: u64,
    /// Of these and of those that have no outcome yet, those that workers have committed.
    pub(super) committed: u64,
    /// Rows of other tables that went or changed along with them.
    pub(super) dependents: Vec<DependentRows>,
    /// Records of a saved plan that were not taken.
    pub(super) left: u64,
    /// What was due when the walk had taken its last batch.
    pub(super) seen: Option<u64>,
    /// What the store left, and what lives on of what was taken.
    pub(super) lives_on: Left,
    /// Records that were kept because of what they name as belonging to them.
    pub(super) unfit: u64,
    /// What belongs to records and could not be deleted.
    pub(super) stuck: Stuck,
    /// Why the run fails for it, once all else is done.
    pub(super) stays: Option<RunError>,
    /// Batches whose outcome is written.
    pub(super) batches: u64,
    /// Batches that were intended.
    pub(super) intended: u64,
}

/// Where the next batch is taken from.
pub(super) enum Next<'a> {
    /// The next window of a walk.
    OfWalk(&'a mut Walk),
    /// This window.
    In(Window),
    /// What these events name.
    Named(&'a [&'a BTreeMap<String, String>]),
    /// Files or objects that were taken before and are there again.
    Again { keys: &'a [Key], by_event: bool },
}

/// What ended the batches of a run.
pub(super) enum Ended {
    Complete,
    Stopped,
}

impl Execution<'_> {
    pub(super) async fn carry_out(
        mut self,
        errand: &Errand<'_>,
        watch: Stopwatch,
    ) -> Result<RunResult, LedgerError> {
        let ended = match errand {
            Errand::Events => self.take_events(true).await,
            Errand::Due if self.rule.events.is_empty() || !self.events.are_taken => {
                self.walk().await
            }
            // Events first: they are promises that were made.
            Errand::Due => match self.take_events(false).await {
                Ok(Ended::Complete) => self.walk().await,
                ended => ended,
            },
            Errand::Plan(planned) => self.take_planned(planned).await,
            Errand::Replay(replaying) => self.take_again(replaying).await,
        };
        // Whatever ended it, what took effect gets its outcome.
        let ended = match (ended, self.flush().await) {
            (Ok(_), Err(error)) => Err(error),
            // Then the run cannot end, either. Of what failed with others, the one that says why.
            (Err(error @ RunError::Ledger(_)), Err(RunError::Ledger(LedgerError::Unwritten)))
            | (Err(_), Err(error @ (RunError::Ledger(_) | RunError::Unresolved { .. }))) => {
                Err(error)
            }
            (ended, _) => ended,
        };
        let ended = match (ended, self.stays.take().or(self.events.source_failed.take())) {
            (Ok(_), Some(error)) => Err(error),
            (ended, _) => ended,
        };
        // Read back: that a statement succeeded is weak evidence. What cannot be read is not known, and
        // somebody who asked to stop does not wait for it.
        let remaining = match &ended {
            // Whoever replays looks at all of it at the end.
            _ if self.replays => None,
            Ok(Ended::Stopped) if matches!(errand, Errand::Events) => {
                let pending = self.runner.ledger.pending_events(&self.rule.name, 1).await;
                pending.ok().map(|pending| Ok(Some(pending.len() as u64)))
            }
            Ok(Ended::Stopped) => {
                tokio::time::timeout(READ_BACK_WITHIN, self.prepared.survey()).await.ok()
            }
            _ if matches!(errand, Errand::Events) => Some(Ok(Some(self.events.stuck.count()))),
            // The walk has just looked.
            Ok(Ended::Complete) if self.seen.is_some() => Some(Ok(self.seen)),
            _ => Some(self.prepared.survey().await),
        };
        let remaining = remaining.and_then(Result::ok).flatten();
        let verification = self.look_again(&ended).await;
        // What an interrupted run of the same plan took is not there to be taken again.
        let left = self.left.saturating_sub(self.prepared.taken_before);
        let (state, reason, error) = self.outcome(&ended, verification.as_ref(), remaining, left);
        let end = match state {
            RunState::Failed => RunEnd::Failed,
            RunState::Stopped => RunEnd::Stopped,
            _ => RunEnd::Done,
        };
        let now = clock::now();
        // An intent without an outcome must be resolved before the run can end: leave it open.
        if !matches!(
            ended,
            Err(RunError::Ledger(_) | RunError::Unresolved { .. } | RunError::RuleChanged { .. })
        ) {
            let (error, verification) = (error.clone(), verification.clone());
            let finish = Finish { state: end, remaining, reason, error, verification, now };
            self.runner.ledger.finish_run(&self.run, finish).await?;
            fault::point("run.finished");
        }
        Ok(RunResult {
            run: Some(self.run.id),
            records: self.records,
            dependents: self.dependents,
            verification,
            left: matches!(errand, Errand::Plan(_)).then_some(left),
            stuck_events: if reason == Some(STUCK) { self.events.stuck.count() } else { 0 },
            lives_on: self.lives_on.in_words(),
            remaining,
            batches: self.batches,
            attachments: if self.replays { self.attachments } else { 0 },
            error,
            ..result(self.rule, state, watch)
        })
    }

    /// How the run ended: its state, why in the words of the audit log, and what is said to people.
    fn outcome(
        &self,
        ended: &Result<Ended, RunError>,
        verification: Option<&Verification>,
        remaining: Option<u64>,
        left: u64,
    ) -> (RunState, Option<&'static str>, Option<String>) {
        let came_back = verification.filter(|seen| seen.came_back());
        let kept = remaining.filter(|due| self.records == 0 && *due > 0 && self.left == 0);
        let kept = kept.filter(|_| !self.events.are_all);
        match (ended, came_back, kept) {
            (Err(error), ..) => {
                (RunState::Failed, Some(in_log_words(error)), Some(error.to_string()))
            }
            (Ok(_), Some(seen), _) => {
                let reason = "records that were reported gone are still there";
                (RunState::Failed, Some(reason), Some(still_there(seen)))
            }
            (Ok(_), None, _) if self.lives_on.blocked + self.lives_on.refused > 0 => {
                let reason = "the store refuses to delete some records";
                (RunState::Failed, Some(reason), self.lives_on.in_words())
            }
            (Ok(Ended::Complete), None, Some(due)) if self.pacer.has_passed() => {
                let reason = "others held what is due";
                (RunState::Failed, Some(reason), Some(pacing::in_use(due)))
            }
            (Ok(Ended::Complete), None, Some(due)) if self.unfit == 0 => {
                (RunState::Failed, Some("the store kept every record"), Some(kept_all(due)))
            }
            (Ok(Ended::Stopped), ..) if remaining != Some(0) => {
                (RunState::Stopped, Some(self.why_stopped()), None)
            }
            (Ok(Ended::Complete), ..) if self.events.stuck.count() > 0 => {
                let state =
                    if self.events.stuck.are_new { RunState::Failed } else { RunState::Done };
                (state, Some(STUCK), Some(self.events.stuck.in_words()))
            }
            (Ok(_), ..) if left > 0 => {
                (RunState::Done, Some("a part of the plan changed since, and was left"), None)
            }
            (Ok(Ended::Complete), ..) if let Some(due) = self.in_use(remaining) => {
                let reason = "records that others held were left";
                (RunState::Done, Some(reason), Some(pacing::in_use(due)))
            }
            (Ok(_), ..) if self.unfit > 0 => {
                let reason = "records were kept because of what belongs to them";
                (RunState::Done, Some(reason), Some(unfit(self.unfit)))
            }
            (Ok(_), ..) => (RunState::Done, None, None),
        }
    }

    /// Looks for the records that were taken. Not where the ledger failed, and then nothing could be
    /// written down, or where somebody waits for an end.
    async fn look_again(&mut self, ended: &Result<Ended, RunError>) -> Option<Verification> {
        let is_over = matches!(
            ended,
            Ok(_)
                | Err(RunError::Store(_)
                    | RunError::Frozen { .. }
                    | RunError::Clock(_)
                    | RunError::Surge { .. }
                    | RunError::AttachmentsStay { .. })
        );
        if self.records == 0 || !is_over {
            return None;
        }
        let within = match ended {
            Ok(Ended::Complete) => Duration::MAX,
            _ => READ_BACK_WITHIN,
        };
        let looked = self.runner.look_again(self.rule, &self.prepared, &self.taken, within).await;
        looked.unwrap_or_else(|error| {
            tracing::warn!(rule = %self.rule.name, %error, "what was taken could not be looked for again");
            None
        })
    }

    /// Walks the table until nothing is due, or a walk takes nothing.
    async fn walk(&mut self) -> Result<Ended, RunError> {
        let before = self.records;
        if let Ended::Stopped = self.drop_partitions().await? {
            return Ok(Ended::Stopped);
        }
        let mut due = self.prepared.due.saturating_sub(self.records - before);
        let left = self.lives_on;
        for _ in 0..MOST_WALKS {
            if due == 0 {
                break;
            }
            let before = self.records;
            self.unfit = 0;
            self.lives_on = self.lives_on.but_stays_as(left);
            self.seen = None;
            self.let_others_finish().await;
            if self.is_to_end() {
                return Ok(Ended::Stopped);
            }
            let Prepared { store, target, bounds, total, .. } = &self.prepared;
            let mut walk = store.walk(target, *bounds, due, *total)?;
            let begun_by = walk.path();
            self.note_path(begun_by).await?;
            self.pacer.set_out(walk.steps_are_pages());
            match &mut walk {
                Walk::Rows(walk) if self.rule.attachments().is_empty() => {
                    if let Ended::Stopped = self.walk_with_workers(walk).await? {
                        return Ok(Ended::Stopped);
                    }
                }
                walk => {
                    while self.batch(walk).await? {
                        self.keep_to_what_was_due()?;
                        self.rest().await;
                        if self.is_to_end() {
                            return Ok(Ended::Stopped);
                        }
                    }
                }
            }
            if walk.path() != begun_by {
                self.note_path(walk.path()).await?;
            }
            self.flush().await?;
            let taken = self.records - before;
            if taken == 0 && !self.pacer.has_passed() {
                break;
            }
            // As many as were counted. Of a large table, counting again takes as long as a good part of the deletion; but where
            // triggers run, a record may have left another that is due.
            let rows = self.prepared.target.rows();
            let is_plain = rows.is_none_or(|rows| rows.table.side_effects == SideEffects::None);
            if taken == due && is_plain {
                self.seen = Some(0);
                break;
            }
            self.seen = self.prepared.survey().await?;
            // What cannot be seen is not taken either.
            due = self.seen.unwrap_or(0);
        }
        Ok(Ended::Complete)
    }

    /// Writes down how the rows are reached, and why: for people.
    async fn note_path(&mut self, path: Option<(WalkKind, Why)>) -> Result<(), RunError> {
        let Some((kind, why)) = path else { return Ok(()) };
        let access = format!("{kind}: {}", why.in_words());
        tracing::info!(rule = %self.rule.name, access, "walking");
        self.write_meanwhile(access).await
    }

    /// Clearly more than was due when the run began is more than anybody was asked about: something
    /// changes the table meanwhile. The next run is held against its limits again.
    pub(super) fn keep_to_what_was_due(&self) -> Result<(), RunError> {
        let due = self.prepared.due;
        let records = self.records.max(self.committed);
        if records > due.saturating_add((due / 10).max(FEW)) {
            return Err(RunError::Surge { due, records });
        }
        Ok(())
    }

    /// One window of the walk. Returns whether there may be more.
    ///
    /// A batch that met a hold which was placed since is taken again, heeding it, and while no other
    /// can be placed: so each window is taken twice at most, however fast holds come.
    async fn batch(&mut self, walk: &mut Walk) -> Result<bool, RunError> {
        match self.attempt(walk, None).await {
            Err(RunError::Ledger(LedgerError::HoldsChanged)) => {
                let gate = self.gate().await?;
                self.attempt(walk, Some(gate)).await
            }
            ended => ended,
        }
    }

    /// Heeds the holds that were placed since they were read, and lets no other be placed until the
    /// next batch is intended.
    pub(super) async fn gate(&mut self) -> Result<Gate, RunError> {
        tracing::debug!(rule = %self.rule.name, "a hold was placed: taking a batch again");
        // Before others wait, and because whoever placed it waits for older batches.
        self.flush().await?;
        let mut gate = self.runner.ledger.gate().await?;
        // Freezing a store has batches taken again as holds do: this is where they learn of it.
        let stores: Vec<_> = taken_from(self.rule).into_iter().collect();
        if !self.replays
            && let Some(store) = gate.frozen_of(&stores).await?
        {
            return Err(RunError::Frozen { store });
        }
        let Prepared { store, target, held, .. } = &mut self.prepared;
        held.holds.extend(gate.holds_since(&self.runner.ledger, held.epoch).await?);
        store.hold_back(target, self.rule, &held.holds).await?;
        held.epoch = gate.epoch();
        Ok(gate)
    }

    async fn attempt(&mut self, walk: &mut Walk, gate: Option<Gate>) -> Result<bool, RunError> {
        self.runner.clock.look()?;
        self.pacer.begin();
        let mut next = Next::OfWalk(walk);
        let mut pace = self.pacer.throttle.pace;
        let taken = if gate.is_none() {
            self.take(&mut next, &mut pace).await
        } else if let Ok(taken) =
            tokio::time::timeout(GATE_WITHIN, self.take(&mut next, &mut pace)).await
        {
            taken
        } else {
            // Others wait meanwhile: rather a smaller window than a long wait.
            self.pacer.throttle.back_off();
            return Ok(true);
        };
        self.pacer.throttle.pace = pace;
        let taken = match taken {
            Err(RunError::Store(error)) if self.pass_over(&error, || walk.pass_over()) => {
                return Ok(true);
            }
            taken => taken?,
        };
        let Some(taking) = taken else { return Ok(false) };
        self.pacer.taken();
        let unfit = taking.unfit;
        let taken = taking.batch.keys.len() as u64;
        let window = taking.batch.window.clone();
        let (rows, is_part) = (taking.batch.rows(), taking.batch.is_part);
        if taken == 0 {
            taking.batch.rollback().await?;
        } else if !self.finish_batch(taking, gate).await? {
            return Ok(true);
        }
        // Not before: a batch that met a new hold is taken again, and its rows are no more for that.
        self.unfit += unfit;
        if !is_part {
            walk.advance(window.as_ref(), taken);
        }
        self.pacer.note(rows);
        Ok(true)
    }

    /// The next batch; while there is a gate, so that no hold can be placed, for a while only. Others wait
    /// meanwhile, so it is given up then.
    pub(super) async fn take_at(
        &mut self,
        next: &mut Next<'_>,
        pace: &mut Pace,
        gate: &mut Option<Gate>,
    ) -> Result<Option<Taking>, RunError> {
        if gate.is_some() {
            if let Ok(taken) = tokio::time::timeout(GATE_WITHIN, self.take(next, pace)).await {
                return taken;
            }
            *gate = None;
        }
        self.take(next, pace).await
    }

    /// Sees a batch through and counts it. Where something that belongs to its records could not be
    /// deleted, all of them are there yet: it says `false`, and they are to be taken again, without those
    /// that keep it.
    pub(super) async fn finish_batch(
        &mut self,
        batch: Taking,
        gate: Option<Gate>,
    ) -> Result<bool, RunError> {
        let stuck = self.stuck.len();
        match self.begin(batch, gate).await {
            // One bad thing stays one bad thing; but what was known and is taken again has no end.
            Err(error @ RunError::AttachmentsStay { .. }) if self.stuck.len() > stuck => {
                self.batches += 1;
                tracing::warn!(rule = %self.rule.name, %error, "taking a batch again without some records");
                self.stays.get_or_insert(error);
                Ok(false)
            }
            Err(error) => Err(error),
            Ok((begun, Ok(effect @ Effected::Unlinked(..)))) => {
                self.keep_one(begun, effect).await?;
                Ok(true)
            }
            Ok((begun, effect)) => self.end(begun, effect).await.map(|_| true),
        }
    }

    /// Takes the next window, trying again while others hold locks; a walk's is smaller then.
    pub(super) async fn take(
        &mut self,
        next: &mut Next<'_>,
        pace: &mut Pace,
    ) -> Result<Option<Taking>, RunError> {
        let Prepared { store, target, bounds, .. } = &self.prepared;
        let here = (&*self.runner.stores, self.rule, &self.prepared);
        let keys = self.runner.ledger.keys();
        let scope = format!("{}/{}", self.run.store, self.run.table);
        let replace = |strategy: &Strategy, column: &Column, old: Option<&str>| {
            new_value(keys, &scope, strategy, column, old)
        };
        // A walk passes over what it cannot have, and sooner where even the smallest batch met a lock just now; what is named
        // has to be waited for.
        let most = match next {
            Next::OfWalk(_) if pace.is_smallest() => FEWER_ATTEMPTS,
            Next::OfWalk(_) => MOST_ATTEMPTS,
            _ => self.rule.pacing.tempo.attempts(MOST_ATTEMPTS),
        };
        let mut attempt = 1;
        loop {
            let taken = if self.rule.attachments().is_empty() {
                let taken = match next {
                    Next::OfWalk(walk) => store.take(target, *bounds, walk, pace, &replace).await,
                    Next::In(window) => {
                        let window = window.clone();
                        store.take_window(target, *bounds, window, &replace).await.map(Some)
                    }
                    Next::Named(events) => {
                        store.take_named(target, *bounds, events, &replace).await.map(Some)
                    }
                    Next::Again { keys, by_event } => match target {
                        Target::Paths(paths) => {
                            let again = PathsAgain::of(paths, *bounds, *by_event);
                            store.take_paths(&again, keys).await.map(Some)
                        }
                        Target::Rows(_) => Ok(None),
                    },
                };
                taken.map(|batch| batch.map(Taking::alone))
            } else {
                attachments::take(here, next, pace, &self.stuck, &replace).await
            };
            match taken {
                Err(error) if error.is_transient() && attempt < most => {
                    tracing::debug!(rule = %self.rule.name, %error, attempt, "trying a batch again");
                    attempt += 1;
                    pace.back_off();
                    if self.stop.is_cancelled() {
                        return Err(error.into());
                    }
                }
                taken => return Ok(taken?),
            }
        }
    }

    /// Intent and effect, the first durable before the second; the outcome is to follow. What belongs to
    /// the records goes before they do: a record that is still there finds it again.
    pub(super) async fn begin(
        &mut self,
        taking: Taking,
        gate: Option<Gate>,
    ) -> Result<(Begun, Result<Effected, StoreError>), RunError> {
        fault::point("batch.taken");
        self.lock.check().await?;
        // Whoever has a gate has made room before.
        if gate.is_none()
            && let Err(error) = self.make_room().await
        {
            taking.batch.rollback().await.ok();
            return Err(error);
        }
        let Taking { mut batch, attached, .. } = taking;
        let intended = Intended {
            tellings: self.rule.tellings.clone(),
            told: std::mem::take(&mut batch.told),
            keys: std::mem::take(&mut batch.keys),
            identities: std::mem::take(&mut batch.identities),
            attached: attached.named(),
            dependents: std::mem::take(&mut batch.dependents),
            by_event: self.events.name_it,
            partition: None,
        };
        let transaction_id = batch.transaction_id.clone();
        let id = match self.intend(&intended, transaction_id.as_deref(), gate).await {
            Ok(id) => id,
            Err(error) => {
                // At once, so that whoever comes next does not wait for its locks.
                batch.rollback().await.ok();
                return Err(error.into());
            }
        };
        fault::point("batch.intended");
        if let Err((gone, error)) =
            attached.delete(&self.rule.name, &self.runner.stores, &mut self.stuck).await
        {
            // The records stay; what is gone of what belongs to them is recorded.
            batch.rollback().await.ok();
            if matches!(error, RunError::Unresolved { .. }) {
                // What is gone is not known: whoever resolves the run finds out.
                return Err(error);
            }
            let outcome = if gone.is_empty() {
                Outcome::Undone("what belongs to its records could not be deleted")
            } else {
                Outcome::Done
            };
            let by_event = intended.by_event;
            let taken = Intended { attached: gone, by_event, ..Intended::default() };
            self.runner.ledger.settle(&self.run, id, &taken, outcome, clock::now()).await?;
            return Err(error);
        }
        fault::point("batch.attached");
        let commit = Stopwatch::start();
        let effect = batch.take_effect().await;
        self.pacer.committed(commit.elapsed());
        fault::point("batch.committed");
        Ok((Begun { id, intended, transaction_id, events: Arc::default() }, effect))
    }

    pub(super) async fn intend(
        &mut self,
        intended: &Intended,
        transaction_id: Option<&str>,
        gate: Option<Gate>,
    ) -> Result<Uuid, LedgerError> {
        let ledger = &self.runner.ledger;
        let (run, sequence, now) = (&self.run, self.intended, clock::now());
        let id = if let Some(gate) = gate {
            gate.intend(ledger, run, sequence, intended, transaction_id, now).await?
        } else {
            let epoch = self.prepared.held.epoch;
            ledger.intend(run, sequence, intended, transaction_id, epoch, now).await?
        };
        self.intended += 1;
        Ok(id)
    }
}

/// Why a run failed, in the words of the audit log.
fn in_log_words(error: &RunError) -> &'static str {
    match error {
        RunError::Store(_) => "the store failed",
        RunError::Surge { .. } => "far more fell due than when it began",
        RunError::Clock(_) => "the clock jumped",
        RunError::Ledger(_) => "the ledger failed",
        RunError::AttachmentsStay { .. } => "what belongs to its records could not be deleted",
        RunError::Frozen { .. } => "its store seems to have been restored",
        RunError::Unresolved { .. } | RunError::RuleChanged { .. } => {
            "a batch could not be resolved"
        }
    }
}

/// Records that name something in vain.
fn unfit(records: u64) -> String {
    format!(
        "{records} due records were kept: what they name as belonging to them is empty, would lead elsewhere, or is held; \
         correct them, or leave them out with `where`"
    )
}

/// A deletion that was committed and whose records are there.
fn still_there(seen: &Verification) -> String {
    format!(
        "of {} records that were taken and looked for again, {} are in the store: look for what puts them back",
        seen.checked, seen.present
    )
}

/// Statements that succeed and take nothing although something is due are no success.
fn kept_all(due: u64) -> String {
    format!(
        "{due} records are due and the store kept every one: look for a trigger or a policy that does"
    )
}

/// The new value of a column that this process computes.
pub(super) fn new_value(
    keys: &Keys,
    scope: &str,
    strategy: &Strategy,
    column: &Column,
    old: Option<&str>,
) -> Option<String> {
    let wanted = match column.kind {
        ColumnKind::Integer if column.type_name.starts_with("tiny") => Wanted::Integer(127),
        ColumnKind::Integer if column.type_name.starts_with("small") => Wanted::Integer(32_767),
        ColumnKind::Integer => Wanted::Integer(2_147_483_647),
        ColumnKind::Uuid => Wanted::Uuid,
        _ => Wanted::Text(length_of(&column.type_name)),
    };
    let pseudonym = |value: &[u8]| keys.pseudonym(scope, value);
    replacement(strategy, wanted, old, &pseudonym, &clock::random_bytes::<32>)
}

/// The number in `character varying(40)`; without one there is no bound.
fn length_of(type_name: &str) -> usize {
    let number = type_name.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    number.and_then(|(number, _)| number.trim().parse().ok()).unwrap_or(usize::MAX)
}
