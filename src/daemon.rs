//! The daemon: timers and wake-ups -> passes.
//!
//! One loop. A ticker wakes it each minute, a continuous rule when its next record falls due, and
//! the end of a run at once; whatever woke it, it does the same due-check, which claims the slots that
//! are due and starts their runs. Rules of one store take turns, stores do not wait for each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use crate::audit::Event;
use crate::audit::entry::Cause;
use crate::clock::{self, Stopwatch};
use crate::config::{Config, ConfigError};
use crate::ledger::{Ledger, LedgerError, Loaded, Request};
use crate::lifecycle::{Ask, Signals, systemd};
use crate::rule::{Mode, Rule};
use crate::run::{RunResult, RunState, Runner};
use crate::schedule::Schedule;
use crate::store::sql::{Access, Bounds, SurveyDepth};
use crate::store::{StoreError, Stores};
use crate::types::Name;

/// The longest that a continuous rule sleeps: what was changed in the meantime is noticed then.
const LOOK_AGAIN: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// The shortest: records that fall due within it go together.
const GATHER: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);
/// How long a continuous rule waits after it failed.
const AFTER_FAILURE: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);
/// Without a due-check for so long, the loop or its ticker is stuck and the watchdog is not fed.
const STUCK: Duration = Duration::from_secs(150);

/// Reads the configuration, at start and at each reload.
pub type Load = Box<dyn Fn() -> Result<Config, ConfigError> + Send>;

/// Why the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The ledger failed at start.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ticker could not be started.
    #[error("the ticker cannot be started: {0}")]
    Ticker(#[from] JobSchedulerError),
}

/// The configuration in force.
struct Active {
    config: Config,
    runner: Runner,
    /// One permit per store: its rules take turns.
    turns: BTreeMap<Name, Arc<Semaphore>>,
}

/// What a task that ran a rule has to say.
struct Ended {
    rule: Name,
    result: Result<Option<RunResult>, LedgerError>,
    /// When a continuous rule wants to look again.
    look_again: Option<Timestamp>,
}

/// The daemon's state.
pub struct Daemon {
    active: Arc<Active>,
    ledger: Ledger,
    load: Load,
    running: BTreeMap<Name, AbortHandle>,
    tasks: JoinSet<Ended>,
    /// When each continuous rule is to look next; at once where there is no entry.
    continuous: BTreeMap<Name, Timestamp>,
    soft: CancellationToken,
    checked: Stopwatch,
}

impl Daemon {
    /// Takes a configuration and its ledger.
    pub fn new(config: Config, ledger: Ledger, load: Load) -> Daemon {
        Daemon {
            active: Arc::new(Active::new(config, &ledger)),
            ledger,
            load,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            continuous: BTreeMap::new(),
            soft: CancellationToken::new(),
            checked: Stopwatch::start(),
        }
    }

    /// Stays until a signal asks it to stop.
    ///
    /// # Errors
    /// When the ledger cannot be written at start: nothing is deleted without one.
    pub async fn serve(mut self, mut signals: Signals) -> Result<(), DaemonError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.ledger.record(clock::now(), Event::DaemonStarted { version }).await?;
        self.note_configuration().await?;
        self.take_over().await?;
        let wake = Arc::new(Notify::new());
        let mut ticker = ticker(wake.clone()).await?;
        let mut watchdog = systemd::watchdog_interval().map(tokio::time::interval);
        systemd::ready(&self.status());
        tracing::info!(rules = self.active.config.rules.len(), "ready");
        wake.notify_one();
        loop {
            let sleep = tokio::time::sleep(self.until_next_look());
            tokio::select! {
                () = wake.notified() => self.due_check().await,
                () = sleep => self.due_check().await,
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(ended) = ended {
                        self.note(ended);
                        self.due_check().await;
                    }
                }
                () = feed(&mut watchdog) => {
                    if self.checked.elapsed() < STUCK {
                        systemd::alive();
                    }
                }
                received = signals.next() => match received {
                    Some(received) if received.ask == Ask::Reload => {
                        tracing::info!(pid = received.from_process, uid = received.from_user, "reloading");
                        self.reload().await;
                        wake.notify_one();
                    }
                    received => {
                        let received = received.as_ref();
                        tracing::info!(
                            pid = received.and_then(|r| r.from_process),
                            uid = received.and_then(|r| r.from_user),
                            "stopping after the batches in flight"
                        );
                        break;
                    }
                },
            }
        }
        systemd::stopping();
        ticker.shutdown().await.ok();
        self.stop(&mut signals).await;
        Ok(())
    }

    fn status(&self) -> String {
        let armed = self.active.config.rules.values().filter(|rule| rule.mode == Mode::Enforce);
        format!("{} rules, {} of them armed", self.active.config.rules.len(), armed.count())
    }

    /// Takes note of the configuration in force, and logs what it changes.
    async fn note_configuration(&self) -> Result<(), LedgerError> {
        let config = &self.active.config;
        let loaded = Loaded {
            rules: &config.rules,
            stores: config.stores.len(),
            digest: &config.digest(),
            now: clock::now(),
        };
        for change in self.ledger.load_rules(loaded).await? {
            tracing::info!("{change}");
        }
        Ok(())
    }

    /// Picks up what a process left that died: its runs are resolved and their rules run again.
    async fn take_over(&mut self) -> Result<(), LedgerError> {
        let mut left: BTreeSet<Name> =
            self.ledger.rules_with_open_runs().await?.into_iter().collect();
        left.extend(self.ledger.open_requests().await?.into_iter().map(|request| request.rule));
        for name in left {
            let Some(rule) = self.active.config.rules.get(&name).cloned() else {
                tracing::error!(
                    rule = %name,
                    "an interrupted run cannot be resolved, because its rule is not configured any more: add it again, in observe mode"
                );
                continue;
            };
            match self.active.runner.take_over(&rule, clock::now()).await {
                Ok(Some(request)) => self.start(&rule, Some(request)),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(rule = %name, %error, "an interrupted run is not resolved yet");
                }
            }
        }
        Ok(())
    }

    /// Claims what is due and starts it. The one thing that every wake-up does.
    async fn due_check(&mut self) {
        self.checked = Stopwatch::start();
        let now = clock::now();
        let states = match self.ledger.rule_states().await {
            Ok(states) => states,
            Err(error) => {
                return tracing::error!(%error, "the ledger does not answer; nothing is run");
            }
        };
        let active = self.active.clone();
        for rule in active.config.rules.values() {
            if self.running.contains_key(&rule.name) {
                continue;
            }
            match (&rule.schedule, states.get(&rule.name)) {
                (Schedule::Continuous, _) => {
                    if self.continuous.get(&rule.name).is_none_or(|next| *next <= now) {
                        self.start(rule, None);
                    }
                }
                (Schedule::Cron(_), Some(state)) => {
                    let slot = rule.schedule.due_slot(&rule.time_zone, state.seen_until(), now);
                    let Some(slot) = slot else { continue };
                    match self.ledger.claim_slot(&rule.name, slot, now).await {
                        Ok(Some(request)) => self.start(rule, Some(request)),
                        // Another node was faster.
                        Ok(None) => {}
                        Err(error) => {
                            tracing::error!(rule = %rule.name, %error, "a slot could not be claimed");
                        }
                    }
                }
                (Schedule::Cron(_), None) => {}
            }
        }
    }

    /// How long nothing needs to be looked at, as far as is known.
    fn until_next_look(&self) -> Duration {
        let waiting = |rule: &&Name| !self.running.contains_key(*rule);
        let next =
            self.continuous.iter().filter(|(rule, _)| waiting(rule)).map(|(_, next)| *next).min();
        let Some(next) = next else { return Duration::from_hours(1) };
        next.duration_since(clock::now()).try_into().unwrap_or(Duration::ZERO)
    }

    /// Starts a rule in a task of its own: for a request, or to see whether a continuous rule has
    /// anything to do.
    fn start(&mut self, rule: &Rule, request: Option<Request>) {
        let (active, rule, soft) = (self.active.clone(), rule.clone(), self.soft.clone());
        let name = rule.name.clone();
        let handle = self.tasks.spawn(async move {
            let turn = active
                .turns
                .get(&rule.store)
                .cloned()
                .unwrap_or_else(|| Arc::new(Semaphore::new(1)));
            // The semaphore is never closed, so this only waits.
            let _turn = turn.acquire_owned().await.ok();
            active.carry_out(rule, request, &soft).await
        });
        self.running.insert(name, handle);
    }

    /// Takes note of a rule's end.
    fn note(&mut self, ended: Ended) {
        self.running.remove(&ended.rule);
        if let Some(next) = ended.look_again {
            self.continuous.insert(ended.rule.clone(), next);
        }
        let rule = ended.rule.as_str();
        match ended.result {
            Ok(None) => {}
            Ok(Some(result)) => match result.state {
                RunState::Failed | RunState::Refused => {
                    tracing::error!(
                        rule,
                        records = result.records,
                        error = result.error,
                        "the run failed"
                    );
                }
                state => tracing::info!(
                    rule,
                    ?state,
                    records = result.records,
                    remaining = result.remaining,
                    seconds = result.seconds,
                    "the run is over"
                ),
            },
            Err(error) => {
                tracing::error!(rule, %error, "the ledger failed; the run is resolved at its next start");
            }
        }
    }

    /// Swaps in a new configuration, if the whole of it is valid.
    async fn reload(&mut self) {
        systemd::reloading();
        match (self.load)() {
            Err(error) => {
                tracing::error!("the configuration was refused and the old one stays:\n{error}");
                let event = Event::ConfigurationRefused { reason: "it is not valid".into() };
                self.record(event).await;
            }
            Ok(config) if !self.active.config.keeps_its_place(&config) => {
                tracing::error!(
                    "the ledger and the keys cannot move while the daemon runs: restart it instead; the old configuration stays"
                );
                let event = Event::ConfigurationRefused {
                    reason: "the ledger or the keys would move, which needs a restart".into(),
                };
                self.record(event).await;
            }
            Ok(config) => {
                self.active = Arc::new(Active::new(config, &self.ledger));
                self.continuous.clear();
                match self.note_configuration().await {
                    Ok(()) => tracing::info!(rules = self.active.config.rules.len(), "reloaded"),
                    Err(error) => {
                        tracing::error!(%error, "the new configuration is in force and could not be recorded");
                    }
                }
            }
        }
        systemd::ready(&self.status());
    }

    async fn record(&self, event: Event) {
        if let Err(error) = self.ledger.record(clock::now(), event).await {
            tracing::error!(%error, "the audit log could not be written");
        }
    }

    /// Lets the batches in flight finish, within the deadline; what does not is resolved at the next
    /// start.
    async fn stop(mut self, signals: &mut Signals) {
        self.soft.cancel();
        let deadline = self.active.config.daemon.stop_deadline;
        let soft = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok(ended) = ended {
                    self.running.remove(&ended.rule);
                }
            }
        };
        let reason = tokio::select! {
            () = soft => "asked to stop",
            () = tokio::time::sleep(deadline) => "asked to stop, and the deadline passed",
            _ = signals.next() => "asked twice to stop",
        };
        if !self.tasks.is_empty() {
            tracing::warn!(rules = ?self.running.keys().collect::<Vec<_>>(), "{reason}: leaving what is in flight to the next start");
            self.tasks.shutdown().await;
        }
        self.record(Event::DaemonStopped { reason: reason.into() }).await;
        self.active.runner.stores.close().await;
        self.ledger.close().await;
        tracing::info!("stopped");
    }
}

impl Active {
    fn new(config: Config, ledger: &Ledger) -> Active {
        let stores = Arc::new(Stores::new(config.stores.clone()));
        let turns = config.stores.keys().map(|name| (name.clone(), Arc::new(Semaphore::new(1))));
        Active { turns: turns.collect(), runner: Runner { ledger: ledger.clone(), stores }, config }
    }

    async fn carry_out(
        &self,
        rule: Rule,
        request: Option<Request>,
        soft: &CancellationToken,
    ) -> Ended {
        let mut ended = Ended { rule: rule.name.clone(), result: Ok(None), look_again: None };
        if soft.is_cancelled() {
            return ended;
        }
        let run = async |request: Request| {
            self.runner.work_off(&rule, &request, clock::now(), soft, &|_| {}).await.map(Some)
        };
        ended.result = match request {
            Some(request) => run(request).await,
            None => match self.is_due(&rule).await {
                Ok(false) => Ok(None),
                Ok(true) => {
                    let now = clock::now();
                    match self.runner.ledger.request(&rule.name, Cause::Continuous, now).await {
                        Ok(request) => run(request).await,
                        Err(error) => Err(error),
                    }
                }
                Err(error) => {
                    tracing::error!(rule = %rule.name, %error, "what falls due next cannot be seen");
                    ended.look_again = Some(clock::now() + AFTER_FAILURE);
                    return ended;
                }
            },
        };
        if matches!(rule.schedule, Schedule::Continuous) {
            ended.look_again = Some(self.look_again(&rule, &ended.result).await);
        }
        ended
    }

    async fn is_due(&self, rule: &Rule) -> Result<bool, StoreError> {
        let store = self.runner.stores.get(&rule.store, Access::ReadOnly)?;
        let target = store.target(rule).await?;
        let now = clock::now();
        let bounds = Bounds { cutoff: rule.cutoff(now), now };
        Ok(store.survey(&target, bounds, SurveyDepth::Due).await?.due > 0)
    }

    /// When a continuous rule looks again: as its next record falls due, found through the index.
    async fn look_again(
        &self,
        rule: &Rule,
        result: &Result<Option<RunResult>, LedgerError>,
    ) -> Timestamp {
        let now = clock::now();
        let well = matches!(result, Ok(None))
            || matches!(result, Ok(Some(result)) if matches!(result.state, RunState::Done | RunState::Observed));
        if !well {
            return now + AFTER_FAILURE;
        }
        // What it only observes stays due: looking again at once would record the same for ever.
        if rule.mode == Mode::Observe && matches!(result, Ok(Some(_))) {
            return now + LOOK_AGAIN;
        }
        match self.next_due(rule, now).await {
            Ok(Some(next)) => next.clamp(now + GATHER, now + LOOK_AGAIN),
            Ok(None) => now + LOOK_AGAIN,
            Err(error) => {
                tracing::error!(rule = %rule.name, %error, "what falls due next cannot be seen");
                now + AFTER_FAILURE
            }
        }
    }

    async fn next_due(&self, rule: &Rule, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let store = self.runner.stores.get(&rule.store, Access::ReadOnly)?;
        let target = store.target(rule).await?;
        let bounds = Bounds { cutoff: rule.cutoff(now), now };
        let start = store.next_start(&target, bounds).await?;
        Ok(start.map(|start| rule.retention.due_at(start, &rule.time_zone)))
    }
}

/// A job each minute that does nothing but wake the loop. Slots are computed by [`crate::schedule`].
async fn ticker(wake: Arc<Notify>) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    scheduler.add(Job::new("0 * * * * *", move |_, _| wake.notify_one())?).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

/// The next moment to feed the watchdog; never, where there is none.
async fn feed(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}
