//! Saved plans: making one, and carrying one out exactly as it is.
//!
//! What a plan names is taken in windows of neighbouring ranges, each held against the plan before it
//! is intended: the predicate and the holds decide inside the statement as always, and what comes back
//! must be the very records that the plan names there. A window that is not is undone and taken in
//! halves; a range that is not is left alone, whole.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::execution::{Ended, Execution, Next};
use super::{Errand, Progress, Refusal, RunError, RunResult, Runner};
use crate::audit::Event;
use crate::breaker::Share;
use crate::clock::{self, Stopwatch};
use crate::hold::Holds;
use crate::keys::Keys;
use crate::ledger::LedgerError;
use crate::plan::Plan;
use crate::plan::saved::{InvalidPlan, KeySum, Part, Range, Ranges, SavedPlan};
use crate::rule::{Mode, Rule};
use crate::store::sql::{Access, Bounds, Window};
use crate::store::{Batch, StoreError, Stores};
use crate::types::{Key, Name};

/// The terms of a saved plan.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// By how much of itself the number of due records may move until it is applied.
    pub margin: Share,
    /// How long it is good.
    pub valid_for: SignedDuration,
}

/// Why a saved plan is not carried out. Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is none of this installation's, or was changed.
    #[error("the plan cannot be applied: {0}")]
    Invalid(#[from] InvalidPlan),
    /// It does not fit what is there now.
    #[error("the plan cannot be applied: {reason}: {error}; make a new one")]
    Unfit {
        /// In the words of the audit log.
        reason: &'static str,
        /// In full.
        error: String,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Names the records of plans that were just made, under the plans' own moment.
///
/// # Errors
/// When a store fails.
pub async fn save(
    plans: &[(&Rule, &Plan)],
    stores: &Stores,
    holds: &Holds,
    keys: &Keys,
    terms: Terms,
    now: Timestamp,
) -> Result<SavedPlan, StoreError> {
    let mut saved = SavedPlan {
        id: clock::new_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: now,
        valid_until: now + terms.valid_for,
        margin: terms.margin.fraction(),
        rules: Vec::new(),
    };
    for (rule, plan) in plans {
        let store = stores.get(&rule.store, Access::ReadOnly)?;
        let mut target = store.target(rule).await?;
        store.hold_back(&mut target, rule, holds).await?;
        let bounds = Bounds { cutoff: plan.cutoff, now: plan.at };
        let table = rule.table.to_string();
        let mut ranges = Ranges::for_about(plan.due);
        let mut each = |key: Key| {
            let commitment = keys.commitment(&rule.store, &table, &key);
            ranges.push(key, commitment);
        };
        store.each_key(&target, bounds, &mut each).await?;
        saved.rules.push(Part {
            rule: rule.name.clone(),
            rule_digest: rule.digest(),
            store: rule.store.clone(),
            schema_digest: target.schema_digest(),
            action: rule.action.as_str().to_owned(),
            cutoff: plan.cutoff,
            due: ranges.records(),
            total: plan.total.max(ranges.records()),
            ranges: ranges.as_slice().len() as u64,
            keys_digest: ranges.sum().to_hex(),
            sealed: Part::armor(&keys.seal(&ranges.to_bytes(), &saved.context(&rule.name))),
            table,
        });
    }
    Ok(saved)
}

/// Reads a saved plan of this installation, as [`Keys::sign`] wrote it.
///
/// # Errors
/// When it is none, or was changed.
pub fn open(note: &str, keys: &Keys) -> Result<SavedPlan, InvalidPlan> {
    let text = keys.open_signed(note).map_err(|_| InvalidPlan::Signature)?;
    SavedPlan::from_text(text)
}

/// What a saved plan asks of a run.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub(super) part: &'a Part,
    pub(super) digest: &'a str,
    pub(super) margin: Share,
    pub(super) ranges: &'a [Range],
}

impl Runner {
    /// Carries a saved plan out, rule by rule. Before the first record all of it is held against what
    /// is there: the plan's age, the rules, the tables, the numbers due. If anything differs nothing is
    /// touched.
    ///
    /// # Errors
    /// When the plan does not fit any more, which the audit log then says, or when the ledger fails.
    pub async fn apply(
        &self,
        plan: &SavedPlan,
        rules: &BTreeMap<Name, Rule>,
        now: Timestamp,
        stop: &CancellationToken,
        report: &(dyn Fn(&Name, Progress) + Sync),
    ) -> Result<Vec<RunResult>, ApplyError> {
        let digest = plan.digest();
        let mut ready = Vec::new();
        for part in &plan.rules {
            let checked = match self.fits(plan, part, rules, now) {
                Ok(rule) => open_part(self.ledger.keys(), plan, part).map(|ranges| (rule, ranges)),
                Err(refusal) => Err(refusal),
            };
            let refusal = match checked {
                Ok((rule, ranges)) => {
                    let planned = planned(plan, part, &digest, &ranges);
                    let errand = Errand::Plan(&planned);
                    // What an interrupted run has taken is known only once that is resolved.
                    if let Err(error) = self.recover(rule, now).await {
                        return Err(match error {
                            RunError::Ledger(error) => error.into(),
                            error => ApplyError::Unfit {
                                reason: "an earlier run could not be resolved",
                                error: error.to_string(),
                            },
                        });
                    }
                    let held = self.held().await?;
                    match self.prepare(rule, &errand, held, now, Stopwatch::start()).await {
                        Ok(_) => {
                            ready.push((rule, part, ranges));
                            continue;
                        }
                        Err(refusal) => refusal,
                    }
                }
                Err(refusal) => refusal,
            };
            let (reason, rule) = (refusal.reason, Some(part.rule.clone()));
            let event = Event::PlanRefused { digest, rule, reason: reason.into() };
            self.ledger.record(now, event).await?;
            let error = format!("rule `{}`: {}", part.rule, refusal.error);
            return Err(ApplyError::Unfit { reason, error });
        }
        let mut results = Vec::new();
        for (rule, part, ranges) in &ready {
            if stop.is_cancelled() {
                break;
            }
            let planned = planned(plan, part, &digest, ranges);
            let request = self.ledger.request_for_plan(&rule.name, clock::now()).await?;
            let report = |progress| report(&rule.name, progress);
            let errand = Errand::Plan(&planned);
            let result = self.carry(rule, &request, &errand, clock::now(), stop, &report).await?;
            results.push(result);
        }
        Ok(results)
    }
}

/// The ranges of a part, unsealed.
pub(super) fn open_part(keys: &Keys, plan: &SavedPlan, part: &Part) -> Result<Vec<Range>, Refusal> {
    let opened = part.sealed_bytes().and_then(|sealed| {
        let unsealed = keys.unseal(&sealed, &plan.context(&part.rule));
        part.ranges(&unsealed.map_err(|_| InvalidPlan::Sealed)?)
    });
    opened.map_err(|error| Refusal::new("its ranges cannot be read", &error))
}

fn planned<'a>(
    plan: &SavedPlan,
    part: &'a Part,
    digest: &'a str,
    ranges: &'a [Range],
) -> Planned<'a> {
    // A plan without a margin that could be one allows none.
    let margin = plan.margin().or(Share::new(f64::MIN_POSITIVE)).unwrap_or(Share::ALL);
    Planned { part, digest, margin, ranges }
}

impl Runner {
    /// Whether a part of a plan still speaks of the rule that is configured, and that may run now.
    fn fits<'a>(
        &self,
        plan: &SavedPlan,
        part: &Part,
        rules: &'a BTreeMap<Name, Rule>,
        now: Timestamp,
    ) -> Result<&'a Rule, Refusal> {
        let rule = fits(plan, part, rules, now)?;
        match self.outside_its_window(rule, now) {
            Some(closed) => Err(Refusal::new("its window is closed", &closed)),
            None => Ok(rule),
        }
    }
}

/// Whether a part of a plan still speaks of the rule that is configured.
fn fits<'a>(
    plan: &SavedPlan,
    part: &Part,
    rules: &'a BTreeMap<Name, Rule>,
    now: Timestamp,
) -> Result<&'a Rule, Refusal> {
    if now >= plan.valid_until {
        let error =
            format!("it was good until {}", plan.valid_until.strftime("%Y-%m-%d %H:%M UTC"));
        return Err(Refusal::new("it is too old", &error));
    }
    if now + clock::TOLERANCE < plan.made_at {
        return Err(Refusal::new("the clock is in doubt", &"it was made in the future"));
    }
    let Some(rule) = rules.get(&part.rule) else {
        return Err(Refusal::new("a rule is gone", &"it is not in the configuration"));
    };
    if rule.digest() != part.rule_digest {
        return Err(Refusal::new("a rule has changed", &"what it takes or does is other now"));
    }
    if rule.mode != Mode::Enforce {
        return Err(Refusal::new("a rule only observes", &"write mode = \"enforce\" first"));
    }
    Ok(rule)
}

/// What is due in a window of a plan.
enum Found {
    /// What the plan names there; it is taken.
    AsPlanned,
    /// Something else as well, or only a part.
    Other,
    /// Nothing.
    Nothing,
}

impl Execution<'_> {
    /// Takes what the plan names, and nothing else.
    pub(super) async fn take_planned(&mut self, planned: &Planned<'_>) -> Result<Ended, RunError> {
        self.pacer.set_out(false);
        let mut after: Option<&Key> = None;
        let mut rest = planned.ranges;
        while !rest.is_empty() {
            let (window, later) = rest.split_at(fitting(rest, self.pacer.throttle.pace.rows));
            // Windows yet to take, the next one last.
            let mut open = vec![(after, window)];
            while let Some((after, ranges)) = open.pop() {
                if self.is_to_end() {
                    return Ok(Ended::Stopped);
                }
                let found = self.take_exactly(after, ranges).await?;
                self.rest().await;
                match found {
                    Found::AsPlanned => continue,
                    Found::Other if ranges.len() > 1 => {}
                    Found::Other | Found::Nothing => {
                        self.left += ranges.iter().map(|range| range.records).sum::<u64>();
                        continue;
                    }
                }
                let (first, second) = ranges.split_at(ranges.len() / 2);
                open.push((first.last().map(|range| &range.upto), second));
                open.push((after, first));
            }
            after = window.last().map(|range| &range.upto);
            rest = later;
        }
        Ok(Ended::Complete)
    }

    /// Takes a window of the plan if what is due there is what the plan names.
    async fn take_exactly(
        &mut self,
        after: Option<&Key>,
        ranges: &[Range],
    ) -> Result<Found, RunError> {
        let Some(last) = ranges.last() else { return Ok(Found::Nothing) };
        self.runner.clock.look()?;
        self.pacer.begin();
        let window = Window::Keys { after: after.cloned(), upto: last.upto.clone() };
        let mut gate = None;
        loop {
            let mut pace = self.pacer.throttle.pace;
            let taken = self.take_at(&mut Next::In(window.clone()), &mut pace, &mut gate).await;
            self.pacer.throttle.pace = pace;
            let taken = taken?;
            self.pacer.taken();
            let Some(taking) = taken else { return Ok(Found::Nothing) };
            let (taken, rows) = (taking.batch.keys.len() as u64, taking.batch.rows());
            if !self.is_as_planned(&taking.batch, ranges) {
                taking.batch.rollback().await?;
                return Ok(if taken == 0 { Found::Nothing } else { Found::Other });
            }
            match self.finish_batch(taking, gate.take()).await {
                Err(RunError::Ledger(LedgerError::HoldsChanged)) => gate = Some(self.gate().await?),
                Ok(false) => {}
                ended => {
                    ended?;
                    self.pacer.note(rows);
                    return Ok(Found::AsPlanned);
                }
            }
        }
    }

    fn is_as_planned(&self, batch: &Batch, ranges: &[Range]) -> bool {
        let keys = self.runner.ledger.keys();
        let (mut wanted, mut found) = (KeySum::default(), KeySum::default());
        for range in ranges {
            wanted += range.sum;
        }
        for key in &batch.keys {
            found += keys.commitment(&self.run.store, &self.run.table, key);
        }
        let records: u64 = ranges.iter().map(|range| range.records).sum();
        records == batch.keys.len() as u64 && wanted == found
    }
}

/// How many ranges make a batch of so many records at most; one at least.
fn fitting(ranges: &[Range], rows: u64) -> usize {
    let mut records = 0;
    let fit = ranges.iter().take_while(|range| {
        records += range.records;
        records <= rows
    });
    fit.count().max(1)
}
