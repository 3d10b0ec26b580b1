//! What is looked at before a run begins: clocks, holds, the live table, the number due.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::apply::Planned;
use super::{Errand, Held, Runner};
use crate::breaker;
use crate::check::{self, Severity};
use crate::clock::{self, Jump, Stopwatch};
use crate::ledger::LedgerError;
use crate::plan::Survey;
use crate::rule::Rule;
use crate::store::sql::{self, Access, Bounds, SurveyDepth};
use crate::store::{Store, StoreError, Target};

/// A table of so many rows is long in reading.
const LARGE: u64 = 100_000;

/// Why a rule is not let to run.
pub(super) struct Refusal {
    /// In the words of the audit log.
    pub(super) reason: &'static str,
    /// In full, for people.
    pub(super) error: String,
}

impl Refusal {
    pub(super) fn new(reason: &'static str, error: &dyn fmt::Display) -> Refusal {
        Refusal { reason, error: error.to_string() }
    }

    pub(super) fn no_holds(error: &LedgerError) -> Refusal {
        Refusal::new("the legal holds could not be looked up", error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::new("the store could not be surveyed", &error)
    }
}

/// A rule that fits its table, and what is due there.
pub(super) struct Prepared {
    pub(super) store: Store,
    pub(super) target: Target,
    pub(super) held: Held,
    pub(super) bounds: Bounds,
    pub(super) due: u64,
    pub(super) total: u64,
    /// Records that earlier runs of the same saved plan took.
    pub(super) taken_before: u64,
}

impl Prepared {
    /// Counts again what is due; `None` where a part cannot be seen.
    pub(super) async fn survey(&self) -> Result<Option<u64>, StoreError> {
        let survey = self.store.survey(&self.target, self.bounds, SurveyDepth::Left).await?;
        if survey.unread > 0 {
            let (store, folders) = (self.store.name(), survey.unread);
            tracing::warn!(%store, folders, "folders that cannot be read: what is due in them is not known");
            return Ok(None);
        }
        Ok(Some(survey.due))
    }
}

/// A rule held against its live place; one with an error may not run.
async fn fitting(store: &Store, rule: &Rule) -> Result<Target, Refusal> {
    if let Store::Files(_) | Store::Objects(_) = store {
        return Ok(store.target(rule).await?);
    }
    let table = store.inspect(rule).await?;
    let findings = check::examine(rule, &table);
    let wrong: Vec<_> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| finding.message.as_str())
        .collect();
    let does_not_fit =
        |why: &dyn fmt::Display| Refusal::new("the rule does not fit its table", why);
    if !wrong.is_empty() {
        return Err(does_not_fit(&wrong.join("; ")));
    }
    match store.tables()?.target_in(rule, table).await {
        Ok(target) => {
            warn_of_missing_indexes(rule, &target);
            Ok(Target::Rows(Box::new(target)))
        }
        Err(error @ StoreError::Mismatch { .. }) => Err(does_not_fit(&error)),
        Err(error) => Err(error.into()),
    }
}

/// Says where each record that goes has the database read a large table through.
fn warn_of_missing_indexes(rule: &Rule, target: &sql::Target) {
    for way in target.dependents.paths() {
        let Some(last) = way.last().filter(|last| !last.reference.indexed) else { continue };
        let rows = last.table.statistics.rows.unwrap_or_default();
        if rows >= LARGE {
            let table = last.table.display_name();
            tracing::warn!(
                rule = %rule.name, %table, rows,
                "no index serves what points at the rule's records: see `expunged check`"
            );
        }
    }
}

impl Runner {
    /// Looks at the clocks, ends the holds that are over by them, holds the rule against its live table, and counts.
    pub(super) async fn prepare(
        &self,
        rule: &Rule,
        errand: &Errand<'_>,
        held: Held,
        now: Timestamp,
        watch: Stopwatch,
    ) -> Result<Prepared, Refusal> {
        let in_doubt = |jump: Jump| Refusal::new("the clock is in doubt", &jump);
        self.clock.look().map_err(in_doubt)?;
        let store = self.stores.get(&rule.store, Access::ReadWrite)?;
        if let Some(shown) = store.clock().await? {
            let now = now + SignedDuration::try_from(watch.elapsed()).unwrap_or_default();
            clock::agrees(now, shown).map_err(|Jump(ahead)| Refusal {
                reason: "the clock is in doubt",
                error: format!(
                    "this machine's clock and that of store `{}` differ by {} s: set the wrong one right",
                    rule.store,
                    ahead.as_secs()
                ),
            })?;
        }
        let held = self.let_expire(held, now).await;
        let held = held.map_err(|error| Refusal::no_holds(&error))?;
        let mut target = fitting(&store, rule).await?;
        store.hold_back(&mut target, rule, &held.holds).await?;
        let cutoff = match errand {
            Errand::Due | Errand::Events | Errand::Replay(_) => rule.cutoff(now),
            Errand::Plan(planned) if target.schema_digest() != planned.part.schema_digest => {
                let error = "columns, key, references or triggers of its table are others now";
                return Err(Refusal::new("the schema has changed", &error));
            }
            Errand::Plan(planned) => planned.part.cutoff,
        };
        let bounds = Bounds { cutoff, now };
        let mut survey = match errand {
            // Events say what goes. One stands for all of them where somebody is asked.
            Errand::Events => Survey { due: 1, total: 1, ..Survey::default() },
            Errand::Replay(again) => {
                Survey { due: again.due, total: again.due, ..Survey::default() }
            }
            _ => store.survey(&target, bounds, SurveyDepth::Due).await?,
        };
        // An estimate may be old, and a table much smaller by now: it is counted as far as the share is in question.
        if survey.total_is_estimate {
            let ample = rule.limits.max_share.ample(survey.due);
            let counted = if ample == 0 { 0 } else { store.count(&target, Some(ample)).await? };
            survey.total = if counted == ample { survey.total.max(ample) } else { counted };
        }
        let taken_before = match errand {
            Errand::Due | Errand::Events | Errand::Replay(_) => 0,
            Errand::Plan(planned) => self.hold_against(planned, rule, survey.due).await?,
        };
        Ok(Prepared {
            store,
            target,
            held,
            bounds,
            due: survey.due,
            total: survey.total,
            taken_before,
        })
    }

    /// Whether the number due is still about the planned one; what the plan itself has taken, in a run
    /// that was interrupted, counts as due, and is told.
    async fn hold_against(
        &self,
        planned: &Planned<'_>,
        rule: &Rule,
        due: u64,
    ) -> Result<u64, Refusal> {
        let taken = self.ledger.taken_by_plan(&rule.name, planned.digest).await;
        let taken = taken.map_err(|error| Refusal::new("the ledger failed", &error))?;
        if breaker::has_drifted(planned.part.due, due + taken, planned.margin) {
            let error = format!(
                "{} records were planned and {} are due now, which is more than {} apart",
                planned.part.due,
                due + taken,
                planned.margin
            );
            return Err(Refusal::new("the number due has drifted", &error));
        }
        Ok(taken)
    }
}
