//! The run: request -> plan -> intent -> apply -> outcome -> read back.
//!
//! One pass for whatever woke a rule. A run works in bounded batches; each is taken in an open
//! transaction of the store, its intent is made durable in the ledger, then it is committed, then its
//! outcome is recorded. A process that dies in between leaves an intent, and whoever next holds the
//! rule's lock resolves it by asking the store.

mod apply;
mod attachments;
mod compare;
mod events;
mod execution;
mod holds;
mod inbox;
mod pacing;
mod partitions;
mod prepare;
mod readback;
mod recovery;
mod replay;
mod restores;
mod sources;
mod stuck;
mod underway;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::audit::entry::Cause;
use crate::breaker::{self, Trip};
use crate::clock::{self, Jump, Stopwatch, Watch};
use crate::fault;
use crate::hold::Holds;
use crate::ledger::{Approval, Ledger, LedgerError, Permission, Request, RuleLock, Start};
use crate::plan::{DependentRows, Plan, Sample, Verification};
use crate::rule::{Mode, Rule};
use crate::store::sql::{Access, Bounds, SurveyDepth};
use crate::store::{Left, StoreError, Stores};
use crate::types::Name;

pub use apply::{ApplyError, Terms, open, save};
pub use compare::{Difference, compare, compare_with_plan};

use apply::Planned;
use events::EventRun;
use execution::Execution;
use pacing::Pacer;
use prepare::{Prepared, Refusal};
use readback::Taken;
use replay::Replaying;
use restores::LookError;
use stuck::StuckByRule;
use underway::Underway;

pub use holds::{Coverage, Extent, Held, HoldError, InForce};
pub use inbox::{Call, Inboxes};
pub use recovery::Recovered;
pub use replay::{ReplayError, ReplayPlan, Replayed, RuleReplay};
pub use sources::{Depth, Latest, Sighting, Sources};

/// What a run needs.
#[derive(Clone, Debug)]
pub struct Runner {
    /// Where it is written down.
    pub ledger: Ledger,
    /// Where it is done.
    pub stores: Arc<Stores>,
    /// All rules of the configuration: they say where persons are named, which legal holds go by.
    pub rules: Arc<BTreeMap<Name, Rule>>,
    /// Whether the time can be trusted.
    pub clock: Arc<Watch>,
    /// Where events are found besides the ledger.
    pub sources: Arc<Sources>,
    /// What wakes the standing runs of event rules.
    pub inboxes: Arc<Inboxes>,
    /// Events that could not be worked off.
    pub stuck: Arc<StuckByRule>,
    /// Whether rules run in their maintenance windows alone.
    pub heeds_windows: bool,
}

/// What a run is to carry out.
enum Errand<'a> {
    /// Whatever is due.
    Due,
    /// What events name, as they come.
    Events,
    /// What a saved plan names.
    Plan(&'a Planned<'a>),
    /// What tombstones name, where it is there again.
    Replay(&'a Replaying<'a>),
}

/// How far a run has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Records taken so far.
    pub records: u64,
    /// Records that were due at the start.
    pub due: u64,
}

/// What came of a run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RunResult {
    /// The rule.
    pub rule: Name,
    /// The run's id, where there was one.
    pub run: Option<Uuid>,
    /// How it ended.
    pub state: RunState,
    /// Records deleted or anonymized.
    pub records: u64,
    /// Rows of other tables that went or changed along with them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dependents: Vec<DependentRows>,
    /// What was seen of the records that were taken, when expunged looked again.
    pub verification: Option<Verification>,
    /// Of a saved plan, records that were not taken, because they changed since or are held.
    pub left: Option<u64>,
    /// Events that wait, because what they name is held or cannot be deleted: where that is all that went
    /// wrong.
    #[serde(skip_serializing_if = "is_zero")]
    pub stuck_events: u64,
    /// What was left, and what lives on of what was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lives_on: Option<String>,
    /// Records still due when expunged looked again; for a rule that observes, those that are due.
    pub remaining: Option<u64>,
    /// Batches carried out.
    pub batches: u64,
    /// Of a replay, files and objects that are gone again and belonged to records which are not there.
    #[serde(skip_serializing_if = "is_zero")]
    pub attachments: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What went wrong.
    pub error: Option<String>,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// All that was due is gone.
    Done,
    /// It observed and did nothing.
    Observed,
    /// It was stopped between two batches.
    Stopped,
    /// An error ended it; what was done before is recorded.
    Failed,
    /// It was not let to run.
    Refused,
    /// It waits for somebody's approval before its first record.
    Waiting,
    /// Another process is running the rule.
    Busy,
}

impl RunState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Done => "done",
            RunState::Observed => "observed",
            RunState::Stopped => "stopped",
            RunState::Failed => "failed",
            RunState::Refused => "refused",
            RunState::Waiting => "waiting",
            RunState::Busy => "busy",
        }
    }
}

/// Why a run could not even be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed: nothing is deleted without one.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// More records were taken than were due when the run began.
    #[error(
        "{due} records were due when it began and {records} are taken: something makes more of them due; look at `expunged plan` before the next run"
    )]
    Surge {
        /// Records that were due.
        due: u64,
        /// Records that were taken.
        records: u64,
    },
    /// What belongs to records could not be deleted, so they stay.
    #[error(
        "{left} files or objects in store `{store}` that belong to records are still there{}: the records are kept", in_words(*until)
    )]
    AttachmentsStay {
        /// Their store.
        store: Name,
        /// How many.
        left: u64,
        /// Until when the store refuses to delete one, where it does.
        until: Option<Timestamp>,
    },
    /// A store seems to have been restored.
    #[error(
        "store `{store}` seems to have been restored while the rule ran: see `expunged replay {store}`"
    )]
    Frozen {
        /// The store.
        store: Name,
    },
    /// The clock was set while the run was under way.
    #[error(transparent)]
    Clock(#[from] Jump),
    /// The rule is another than the one that was interrupted, and would look in the wrong place.
    #[error(
        "an interrupted batch of rule `{rule}` cannot be resolved, because the rule's table, action or changes, or the columns of the table's key, are others now: put the rule back as it was, in observe mode, or the key, until it has run once"
    )]
    RuleChanged {
        /// The rule.
        rule: Name,
    },
    /// The store does not say what became of an interrupted batch.
    #[error(
        "an interrupted batch of rule `{rule}` is still open in the store: end its transaction there, or wait until the server does"
    )]
    Unresolved {
        /// The rule.
        rule: Name,
    },
}

fn in_words(until: Option<Timestamp>) -> String {
    until
        .map(|until| format!(", blocked until {}", until.strftime("%Y-%m-%d %H:%M UTC")))
        .unwrap_or_default()
}

/// Decides what a rule would do now, heeding the holds that are in force then. Touches nothing: the
/// store is opened for reading alone.
///
/// # Errors
/// When the store cannot be reached or the rule does not fit it.
pub async fn plan(
    rule: &Rule,
    stores: &Stores,
    holds: &Holds,
    now: Timestamp,
    samples: u32,
    pace: Option<f64>,
) -> Result<Plan, StoreError> {
    let store = stores.get(&rule.store, Access::ReadOnly)?;
    let mut target = store.target(rule).await?;
    store.hold_back(&mut target, rule, holds).await?;
    let bounds = Bounds { cutoff: rule.cutoff(now), now };
    let survey = store.survey(&target, bounds, SurveyDepth::Full).await?;
    let mut plan = Plan::new(rule, now, survey, pace);
    if samples > 0 && plan.due > 0 {
        let found = store.sample(&target, bounds, samples).await?;
        plan.sample =
            found.into_iter().map(|(key, starting_point)| Sample { key, starting_point }).collect();
    }
    Ok(plan)
}

impl Runner {
    /// Takes the clock for right as it is now.
    pub fn new(ledger: Ledger, stores: Arc<Stores>, rules: Arc<BTreeMap<Name, Rule>>) -> Runner {
        let inboxes = Arc::new(Inboxes::new(&rules, None));
        let (clock, sources, stuck) = (Arc::default(), Arc::default(), Arc::default());
        Runner { ledger, stores, rules, clock, sources, inboxes, stuck, heeds_windows: true }
    }

    /// The same, at any hour: somebody has asked for just that.
    #[must_use]
    pub fn at_any_time(&self) -> Runner {
        Runner { heeds_windows: false, ..self.clone() }
    }

    /// Why a rule may not run by a person's wish now, if it may not: its maintenance window is closed.
    pub fn outside_its_window(&self, rule: &Rule, now: Timestamp) -> Option<String> {
        if !self.heeds_windows || rule.is_open(now) {
            return None;
        }
        let opens = rule.opens_at(now).to_zoned(rule.time_zone.clone());
        Some(format!(
            "its window ({}) is closed until {}; `--anyway` runs it now",
            rule.windows,
            opens.strftime("%Y-%m-%d %H:%M %Z")
        ))
    }

    /// Works off a request: the one way in which a rule runs.
    ///
    /// Whatever ends the run is in the result and in the ledger. `report` is told after each batch.
    ///
    /// # Errors
    /// When the ledger does not answer: then nothing more is done, and what was begun is resolved
    /// at the next start.
    pub async fn work_off(
        &self,
        rule: &Rule,
        request: &Request,
        now: Timestamp,
        stop: &CancellationToken,
        report: &(dyn Fn(Progress) + Sync),
    ) -> Result<RunResult, LedgerError> {
        let errand = match request.cause {
            // The rule may have been rewritten since.
            Cause::Event if !rule.events.is_empty() => Errand::Events,
            _ => Errand::Due,
        };
        self.carry(rule, request, &errand, now, stop, report).await
    }

    async fn carry(
        &self,
        rule: &Rule,
        request: &Request,
        errand: &Errand<'_>,
        now: Timestamp,
        stop: &CancellationToken,
        report: &(dyn Fn(Progress) + Sync),
    ) -> Result<RunResult, LedgerError> {
        let watch = Stopwatch::start();
        let Some(mut lock) = self.ledger.lock_rule(&rule.name).await? else {
            self.put_off(request, "another run of the rule was under way", now).await?;
            return Ok(result(rule, RunState::Busy, watch));
        };
        // On the heap: what a run does is nested deeply, and commands nest it further.
        let carried = self.carry_locked(rule, request, errand, now, stop, report, &mut lock);
        let ended = Box::pin(carried).await;
        // A lock that cannot be given up is gone with its connection.
        lock.release().await.ok();
        let mut ended = ended?;
        ended.seconds = watch.elapsed().as_secs_f64();
        Ok(ended)
    }

    /// Does not carry a request out now. A command's is given up, because somebody sees that, and so is
    /// a continuous rule's, which looks again by itself; any other stays open and is picked up.
    async fn put_off(
        &self,
        request: &Request,
        why: &'static str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        match request.cause {
            Cause::Command | Cause::Continuous | Cause::Replay => {
                self.ledger.abandon_request(request, why, now).await
            }
            Cause::Slot | Cause::Restart | Cause::Event => Ok(()),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is a thing of its own, and it is called once"
    )]
    async fn carry_locked(
        &self,
        rule: &Rule,
        request: &Request,
        errand: &Errand<'_>,
        now: Timestamp,
        stop: &CancellationToken,
        report: &(dyn Fn(Progress) + Sync),
        lock: &mut RuleLock,
    ) -> Result<RunResult, LedgerError> {
        let watch = Stopwatch::start();
        // While this one waited, another process may have taken the request over.
        if !self.ledger.is_open(request).await? {
            return Ok(result(rule, RunState::Busy, watch));
        }
        let held = match self.clear_the_way(rule, errand, now).await? {
            Ok(held) => held,
            Err(refusal) => return self.refuse(rule, request, refusal, now, watch).await,
        };
        if rule.mode == Mode::Observe {
            return match plan(rule, &self.stores, &held.holds, now, 0, None).await {
                Ok(plan) => {
                    let events = self.forget_observed(rule).await?;
                    if events > 0 {
                        tracing::info!(rule = %rule.name, events, "only observed, and forgotten");
                    }
                    self.observe(rule, request, &plan, watch).await
                }
                Err(error) => self.refuse(rule, request, error.into(), now, watch).await,
            };
        }
        let prepared = tokio::select! {
            prepared = self.prepare(rule, errand, held, now, watch) => prepared,
            () = stop.cancelled() => {
                self.put_off(request, "it was asked to stop", now).await?;
                return Ok(result(rule, RunState::Stopped, watch));
            }
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return self.refuse(rule, request, refusal, now, watch).await,
        };
        let (start, takes_events) = match errand {
            Errand::Plan(planned) => {
                let digest = planned.digest.to_owned();
                (Start::Planned { digest, cutoff: prepared.bounds.cutoff }, false)
            }
            // Somebody has asked for just this, and has seen the numbers.
            Errand::Replay(_) => (Start::Unasked, false),
            Errand::Due | Errand::Events => {
                match self.permission(rule, request, errand, &prepared, now).await? {
                    (Permission::Given(start), was_seen) => (start, was_seen),
                    (Permission::Waits(approval), _) => {
                        return Ok(waiting(rule, &approval, watch));
                    }
                }
            }
        };
        let is_replay = matches!(errand, Errand::Replay(_));
        if prepared.due > 0
            && !is_replay
            && let Err(error) = self.mark_stores(rule, now).await
        {
            let refusal = Refusal::new("the store's marker could not be written", &error);
            return self.refuse(rule, request, refusal, now, watch).await;
        }
        let mut run = self.ledger.start_run(request, rule, &start, now).await?;
        run.key = prepared.target.key_names().into_iter().map(str::to_owned).collect();
        fault::point("run.started");
        let execution = Execution {
            runner: self,
            rule,
            run,
            prepared,
            stop,
            report,
            lock,
            pacer: Pacer::new(self, rule, errand),
            underway: Underway::of(rule.pacing.tempo),
            events: EventRun { are_taken: takes_events, ..EventRun::default() },
            replays: matches!(errand, Errand::Replay(_)),
            attachments: 0,
            taken: Taken::new(),
            records: 0,
            committed: 0,
            dependents: Vec::new(),
            left: 0,
            seen: None,
            lives_on: Left::default(),
            unfit: 0,
            stuck: attachments::Stuck::new(),
            stays: None,
            batches: 0,
            intended: 0,
        };
        // On the heap, because it is large.
        let ended = Box::pin(execution.carry_out(errand, watch)).await?;
        // A backup that was begun before now lacks what was taken last: by its marker it is an older one.
        if ended.records > 0
            && !is_replay
            && let Err(error) = self.mark_stores(rule, clock::now()).await
        {
            tracing::warn!(rule = %rule.name, %error, "the store's marker could not be written after the run");
        }
        Ok(ended)
    }

    /// Resolves what an earlier run left behind, looks whether a store was restored, and reads the legal holds.
    async fn clear_the_way(
        &self,
        rule: &Rule,
        errand: &Errand<'_>,
        now: Timestamp,
    ) -> Result<Result<Held, Refusal>, LedgerError> {
        match self.recover_locked(rule, now).await {
            Ok(_) => {}
            Err(RunError::Ledger(error)) => return Err(error),
            Err(error) => {
                return Ok(Err(Refusal::new("an earlier run could not be resolved", &error)));
            }
        }
        // A replay is what a frozen store waits for.
        let looked = match errand {
            Errand::Replay(_) => Ok(()),
            _ => self.look_before(rule, errand, now).await,
        };
        match looked {
            Ok(()) => {}
            Err(LookError::Ledger(error)) => return Err(error),
            Err(LookError::Refused(refusal)) => return Ok(Err(refusal)),
        }
        Ok(self.held().await.map_err(|error| Refusal::no_holds(&error)))
    }

    /// Asks the circuit breakers, and where one objects whether somebody approved. Says, too, whether
    /// somebody has seen what the rule does: only then what events name goes.
    async fn permission(
        &self,
        rule: &Rule,
        request: &Request,
        errand: &Errand<'_>,
        prepared: &Prepared,
        now: Timestamp,
    ) -> Result<(Permission, bool), LedgerError> {
        let history = self.ledger.history(rule).await?;
        let (due, total) = (prepared.due, prepared.total);
        let trip = match errand {
            // Each event names its record, so numbers and shares say nothing; but somebody has to have
            // seen what the rule does.
            Errand::Events => (!history.has_acted).then_some(Trip::FirstRun),
            _ => breaker::trips(rule.limits, &history, due, total, now).first().copied(),
        };
        // Where nothing is too old, something goes nevertheless: what events name.
        let asks_for_events = due == 0 && !history.has_acted && !rule.events.is_empty();
        let (due, total, trip) = if asks_for_events
            && self.has_events(rule, Depth::Whole).await.is_ok_and(|has_some| has_some)
        {
            (1, total.max(1), Some(Trip::FirstRun))
        } else {
            (due, total, trip)
        };
        let was_seen = history.has_acted || trip.is_some();
        let permission = match trip {
            None => {
                // What waits may be what is due by its age: an event says nothing of that.
                if due > 0 && !matches!(errand, Errand::Events) {
                    self.ledger.withdraw_approval(&rule.name).await?;
                }
                Permission::Given(Start::Unasked)
            }
            Some(trip) => self.ledger.ask_approval(request, rule, (due, total), trip, now).await?,
        };
        Ok((permission, was_seen))
    }

    /// Records that a rule is not let to run.
    async fn refuse(
        &self,
        rule: &Rule,
        request: &Request,
        refusal: Refusal,
        now: Timestamp,
        watch: Stopwatch,
    ) -> Result<RunResult, LedgerError> {
        self.ledger.refuse_run(request, refusal.reason, now).await?;
        let error = format!("{}: {}", refusal.reason, refusal.error);
        Ok(RunResult { error: Some(error), ..result(rule, RunState::Refused, watch) })
    }

    async fn observe(
        &self,
        rule: &Rule,
        request: &Request,
        plan: &Plan,
        watch: Stopwatch,
    ) -> Result<RunResult, LedgerError> {
        let run = self.ledger.record_observation(request, rule, plan).await?;
        Ok(RunResult {
            run: Some(run.id),
            remaining: Some(plan.due),
            ..result(rule, RunState::Observed, watch)
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn result(rule: &Rule, state: RunState, watch: Stopwatch) -> RunResult {
    RunResult {
        rule: rule.name.clone(),
        run: None,
        state,
        records: 0,
        dependents: Vec::new(),
        verification: None,
        left: None,
        stuck_events: 0,
        lives_on: None,
        remaining: None,
        batches: 0,
        attachments: 0,
        seconds: watch.elapsed().as_secs_f64(),
        error: None,
    }
}

fn waiting(rule: &Rule, approval: &Approval, watch: Stopwatch) -> RunResult {
    let reason = format!(
        "{}: {} of {} records; once it is meant, `expunged approve {} --why …`",
        approval.reason, approval.due, approval.total, approval.run
    );
    RunResult {
        run: Some(approval.run),
        remaining: Some(approval.due),
        error: Some(reason),
        ..result(rule, RunState::Waiting, watch)
    }
}

/// Makes a request for a command and works it off.
///
/// # Errors
/// As for [`Runner::work_off`].
pub async fn run_by_command(
    runner: &Runner,
    rule: &Rule,
    now: Timestamp,
    stop: &CancellationToken,
    report: &(dyn Fn(Progress) + Sync),
) -> Result<RunResult, LedgerError> {
    if let Some(error) = runner.outside_its_window(rule, now) {
        let refused = result(rule, RunState::Refused, Stopwatch::start());
        return Ok(RunResult { error: Some(error), ..refused });
    }
    let request = runner.ledger.request(&rule.name, Cause::Command, now).await?;
    runner.work_off(rule, &request, now, stop, report).await
}
