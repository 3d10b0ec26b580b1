//! What a task does for a rule: wait for the store's turn, then one piece of work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::agenda::{self, Looked};
use crate::audit::entry::Cause;
use crate::clock;
use crate::config::Config;
use crate::ledger::{Ledger, Request};
use crate::propagate::Propagation;
use crate::recipient::Recipients;
use crate::rotate::Rotation;
use crate::rule::{Mode, Rule};
use crate::run::{Depth, Inboxes, RunError, RunResult, RunState, Runner, Sources};
use crate::schedule::Schedule;
use crate::store::sql::{Access, Bounds};
use crate::store::{StoreError, Stores};
use crate::types::Name;

/// How long after a lock that is held is tried again.
const LOCK_AGAIN: Duration = Duration::from_secs(1);

/// The configuration in force.
pub(super) struct Active {
    pub(super) config: Config,
    pub(super) runner: Runner,
    recipients: Arc<Recipients>,
    /// One permit per store: its rules take turns.
    turns: BTreeMap<Name, Arc<Semaphore>>,
}

/// What a task is to do for its rule.
#[derive(Debug)]
pub(super) enum Work {
    /// Work a request off.
    Request(Request),
    /// Resolve what a process left behind that ended too early, and run the rule again. That process
    /// may have ended so lately that its lock is not free yet: try so often.
    TakeOver { attempts: u32 },
    /// See whether anything has fallen due for a continuous rule, and run it if so.
    Look(Looked),
    /// See whether an application's table tells of anything for an event rule, and run it if so.
    LookForEvents(Depth),
}

/// What a task has to say at its end.
#[derive(Debug)]
pub(super) struct Ended {
    /// The run's result; none when there was nothing to do.
    pub(super) result: Result<Option<RunResult>, RunError>,
    /// When a continuous rule for which all went well is to look again.
    pub(super) look_again: Option<Timestamp>,
    /// Whether it looked for what is due by its age: nothing else says when to look again.
    pub(super) by_age: bool,
}

impl Active {
    pub(super) fn new(config: Config, ledger: &Ledger, before: Option<&Active>) -> Active {
        let stores = Arc::new(Stores::new(config.stores.clone()));
        // Runs of the configuration before may still be at work on a store.
        let turn = |name: &Name| {
            let inherited = before.and_then(|before| before.turns.get(name).cloned());
            (name.clone(), inherited.unwrap_or_else(|| Arc::new(Semaphore::new(1))))
        };
        let turns = config.stores.keys().map(turn).collect();
        let clock = before.map(|before| before.runner.clock.clone()).unwrap_or_default();
        let rules = Arc::new(config.rules.clone());
        let sources = Arc::new(Sources::new(&config));
        let inboxes = before.map(|before| &*before.runner.inboxes);
        let inboxes = Arc::new(Inboxes::new(&rules, inboxes));
        let recipients = Arc::new(Recipients::new(&config.recipients, &stores));
        let runner = Runner::new(ledger.clone(), stores, rules);
        let runner = Runner { clock, sources, inboxes, ..runner };
        Active { config, runner, recipients, turns }
    }

    /// Sends couriers to the recipients.
    pub(super) fn propagate(&self) -> Propagation {
        Propagation::start(&self.runner.ledger, &self.recipients, &self.runner.rules)
    }

    /// Has the sets of backups listed.
    pub(super) fn rotate(&self) -> Rotation {
        Rotation::start(&self.runner, &self.config.backups)
    }

    /// The recipients of the configuration.
    pub(super) fn recipients(&self) -> Arc<Recipients> {
        self.recipients.clone()
    }

    /// Carries out one piece of work for a rule. A request that is not even begun when `stop` comes
    /// stays open in the ledger, and is taken over.
    pub(super) async fn carry_out(
        self: Arc<Self>,
        rule: Rule,
        work: Work,
        stop: CancellationToken,
    ) -> Ended {
        let mut ended = Ended { result: Ok(None), look_again: None, by_age: false };
        // What an event names goes at once: it waits for no other rule, and a run that stands keeps none
        // from its turn.
        let turns = self.turns.get(&rule.store).filter(|_| rule.events.is_empty());
        let _turn = match turns {
            Some(turns) => tokio::select! {
                // The semaphore is never closed, so this only waits.
                turn = turns.clone().acquire_owned() => turn.ok(),
                () = stop.cancelled() => return ended,
            },
            None => None,
        };
        let began = clock::now();
        if waits_for_window(&rule, &work, began) {
            return ended;
        }
        ended.by_age = match &work {
            Work::Request(request) => request.cause != Cause::Event || rule.events.is_empty(),
            Work::TakeOver { .. } | Work::Look(_) => true,
            Work::LookForEvents(_) => false,
        };
        let takes_over = matches!(work, Work::TakeOver { .. });
        ended.result = match work {
            Work::Request(request) => self.run(&rule, &request, &stop).await,
            Work::TakeOver { attempts } => self.take_over(&rule, attempts, &stop).await,
            Work::Look(last) => self.look(&rule, last, &stop).await,
            Work::LookForEvents(depth) => self.look_for_events(&rule, depth, &stop).await,
        };
        ended.by_age &= !(takes_over && matches!(ended.result, Ok(None)));
        let is_continuous = matches!(rule.schedule, Schedule::Continuous);
        if is_continuous && ended.by_age && !stop.is_cancelled() {
            ended.look_again = self.look_again(&rule, &ended.result, began).await;
        }
        ended
    }

    async fn run(
        &self,
        rule: &Rule,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Option<RunResult>, RunError> {
        let result = self.runner.work_off(rule, request, clock::now(), stop, &|_| {}).await;
        Ok(Some(result?))
    }

    async fn take_over(
        &self,
        rule: &Rule,
        attempts: u32,
        stop: &CancellationToken,
    ) -> Result<Option<RunResult>, RunError> {
        for attempt in 1..=attempts {
            if let Some(request) = self.runner.take_over(rule, clock::now()).await? {
                // Its request waits for the window.
                if !rule.is_open(clock::now()) {
                    break;
                }
                return self.run(rule, &request, stop).await;
            }
            let left = self.runner.ledger.left_behind(Timestamp::MAX).await?;
            if attempt == attempts || !left.contains(&rule.name) {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(LOCK_AGAIN) => {}
                () = stop.cancelled() => break,
            }
        }
        Ok(None)
    }

    async fn look_for_events(
        &self,
        rule: &Rule,
        depth: Depth,
        stop: &CancellationToken,
    ) -> Result<Option<RunResult>, RunError> {
        let ledger = &self.runner.ledger;
        if ledger.waits_for_approval(rule).await? || !self.runner.has_events(rule, depth).await? {
            return Ok(None);
        }
        // Before there is a request: a store that is down is not to fill the audit log.
        self.runner.reach(rule).await?;
        let request = self.runner.ledger.request(&rule.name, Cause::Event, clock::now()).await?;
        self.run(rule, &request, stop).await
    }

    async fn look(
        &self,
        rule: &Rule,
        last: Looked,
        stop: &CancellationToken,
    ) -> Result<Option<RunResult>, RunError> {
        let ledger = &self.runner.ledger;
        let is_due = match self.is_due(rule).await {
            Ok(is_due) => is_due,
            Err(error) => {
                // Once in a series of failures, so that it is seen and the audit log does not fill.
                if last != Looked::Failed {
                    let request =
                        ledger.request(&rule.name, Cause::Continuous, clock::now()).await?;
                    let reason = "the store could not be surveyed";
                    ledger.refuse_run(&request, reason, clock::now()).await?;
                }
                return Err(error);
            }
        };
        if !is_due && last == Looked::Well {
            return Ok(None);
        }
        let request = ledger.request(&rule.name, Cause::Continuous, clock::now()).await?;
        self.run(rule, &request, stop).await
    }

    /// Whether any record is due: the oldest is asked for, not their number.
    async fn is_due(&self, rule: &Rule) -> Result<bool, RunError> {
        if !rule.events.is_empty() {
            match self.runner.has_events(rule, Depth::Whole).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                // What is too old goes in any case.
                Err(error) => {
                    tracing::warn!(rule = %rule.name, %error, "whether events wait is not known");
                }
            }
        }
        let now = clock::now();
        let holds = self.runner.in_force(now).await?;
        let store = self.runner.stores.get(&rule.store, Access::ReadOnly)?;
        let mut target = store.target(rule).await?;
        store.hold_back(&mut target, rule, &holds).await?;
        let bounds = Bounds { cutoff: rule.cutoff(now), now };
        Ok(!store.sample(&target, bounds, 1).await?.is_empty())
    }

    /// When a continuous rule is to look again, where all went well and the store can tell. What has
    /// fallen due since the work began was not part of it, and is next.
    async fn look_again(
        &self,
        rule: &Rule,
        result: &Result<Option<RunResult>, RunError>,
        began: Timestamp,
    ) -> Option<Timestamp> {
        let now = clock::now();
        match result {
            Err(_) => return None,
            // What it only observes stays due: looking again at once would record the same for ever.
            Ok(Some(_)) if rule.mode == Mode::Observe => return Some(now + agenda::LOOK_AGAIN),
            Ok(_) => {}
        }
        match self.next_start(rule, began).await {
            Ok(start) => Some(agenda::next_look(rule, start, now)),
            Err(error) => {
                // What was done stays done, and its result is worth more than this.
                tracing::warn!(rule = %rule.name, %error, "what falls due next cannot be seen");
                None
            }
        }
    }

    async fn next_start(
        &self,
        rule: &Rule,
        since: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let store = self.runner.stores.get(&rule.store, Access::ReadOnly)?;
        let target = store.target(rule).await?;
        let bounds = Bounds { cutoff: rule.cutoff(since), now: clock::now() };
        store.next_start(&target, bounds).await
    }
}

/// Whether a piece of work is to wait for the rule's window, which may have closed while others had their turn. Requests
/// stay open in the ledger. What a process left behind is resolved at any hour.
fn waits_for_window(rule: &Rule, work: &Work, now: Timestamp) -> bool {
    let waits = !rule.is_open(now) && matches!(work, Work::Request(_) | Work::Look(_));
    if waits {
        tracing::info!(rule = %rule.name, opens = %rule.opens_at(now), "waiting for the rule's window");
    }
    waits
}

/// Says how a run ended.
pub(super) fn log(result: &RunResult) {
    let RunResult { rule, records, remaining, batches, seconds, error, .. } = result;
    let run = result.run.map(tracing::field::display);
    let along: u64 = result.dependents.iter().map(|rows| rows.records).sum();
    match result.state {
        RunState::Failed => {
            tracing::error!(%rule, run, records, batches, remaining, seconds, error, "the run failed");
        }
        RunState::Refused => tracing::error!(%rule, error, "the run was refused"),
        RunState::Waiting => tracing::warn!(%rule, run, error, "the run waits for approval"),
        RunState::Busy => tracing::info!(%rule, "another process is running the rule"),
        RunState::Done | RunState::Observed | RunState::Stopped => {
            let state = result.state.as_str();
            tracing::info!(%rule, run, state, records, along, batches, remaining, seconds, "the run is over");
        }
    }
}
