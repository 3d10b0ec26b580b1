//! The daemon: timers and wake-ups -> passes.
//!
//! One loop. A ticker wakes it each minute, a continuous rule when its next record falls due, and
//! the end of a task at once; whatever woke it, it does the same due-check, which claims the slots
//! that are due, picks up what a process left behind that ended too early, and starts a task for
//! each. Rules of one store take turns, stores do not wait for each other.
//!
//! ```text
//! ticker, sleep, end of a task, reload -> due check -> agenda -> work -> run
//! ```
//!
//! Nothing is lost when a wake-up is: what is due is decided from the ledger and the clock, each time
//! anew, and the loop looks at least every minute and a half.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tokio_cron_scheduler::JobSchedulerError;
use tokio_util::sync::CancellationToken;

use crate::audit::Event;
use crate::audit::entry::Reason;
use crate::clock::{self, Jump, Stopwatch};
use crate::config::{Config, ConfigError};
use crate::fault;
use crate::http::Api;
use crate::ledger::{Ledger, LedgerError, Loaded};
use crate::lifecycle::{Ask, Received, Signals, systemd};
use crate::propagate::Propagation;
use crate::publish::Publishing;
use crate::rotate::Rotation;
use crate::rule::{Mode, Rule};
use crate::run::{Call, Depth, RunError};
use crate::schedule::Schedule;
use crate::types::Name;

mod agenda;
mod beat;
mod changes;
mod listen;
mod put_off;
mod work;

use agenda::{Agenda, Ending};
use beat::{Watchdog, ticker};
use listen::Listening;
use put_off::{PutOff, outlook};
use work::{Active, Ended, Work, log};

/// How long the ledger may take to answer before the loop goes on without it.
const LEDGER_WITHIN: Duration = Duration::from_secs(5);
/// How long after a ledger that failed is asked again.
const LEDGER_AGAIN: Duration = Duration::from_secs(5);
/// The ticker wakes the loop each minute. After so long without, it is taken for dead.
const TICKER_LATE: Duration = Duration::from_secs(90);
/// Without a due-check for so long the loop is stuck, and the watchdog is not fed.
const STUCK: Duration = Duration::from_secs(150);
/// How long a request may wait for its maker before somebody else works it off.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);
/// How long each of the last steps may take when the daemon ends.
const LAST_STEPS: Duration = Duration::from_secs(3);

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

/// The task of a rule.
struct Running {
    task: Id,
    stop: CancellationToken,
}

/// The daemon's state.
pub struct Daemon {
    active: Arc<Active>,
    /// Configurations of before, while runs that began under them are under way.
    retired: Vec<Arc<Active>>,
    ledger: Ledger,
    load: Load,
    tasks: JoinSet<Ended>,
    /// One task for each rule at most: no rule overlaps with itself.
    running: BTreeMap<Name, Running>,
    agenda: Agenda,
    /// Rules whose events wait because the last run failed, or some of them.
    put_off: PutOff,
    /// What was wrong with each rule when it was last said.
    said: BTreeMap<Name, String>,
    soft: CancellationToken,
    checked: Stopwatch,
    /// Whether the clock was found set, and is not trusted.
    clock_jumped: bool,
    /// Whether the ledger answered at the last due-check.
    ledger_answers: bool,
    /// Whether what was left behind has been picked up, whatever its age.
    picked_up: bool,
    /// Hands out checkpoints, where the configuration says to whom.
    publishing: Option<Publishing>,
    /// Tells recipients.
    propagation: Option<Propagation>,
    /// Lists backups.
    rotation: Option<Rotation>,
    /// Where events come in.
    api: Option<Api>,
    /// Looks at the tables in which applications write events down.
    listening: Option<Listening>,
    /// Wakes the loop.
    wake: Arc<Notify>,
}

impl Daemon {
    /// Takes a configuration and its ledger.
    pub fn new(config: Config, ledger: Ledger, load: Load) -> Daemon {
        Daemon {
            active: Arc::new(Active::new(config, &ledger, None)),
            retired: Vec::new(),
            ledger,
            load,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            agenda: Agenda::default(),
            put_off: PutOff::default(),
            said: BTreeMap::new(),
            soft: CancellationToken::new(),
            checked: Stopwatch::start(),
            clock_jumped: false,
            ledger_answers: true,
            picked_up: false,
            publishing: None,
            propagation: None,
            rotation: None,
            api: None,
            listening: None,
            wake: Arc::new(Notify::new()),
        }
    }

    /// Stays until a signal asks it to stop.
    ///
    /// # Errors
    /// When the ledger cannot be written at start: nothing is deleted without one.
    pub async fn serve(mut self, mut signals: Signals) -> Result<(), DaemonError> {
        // The keys that this process has read are not to change under it.
        let _keys = self.ledger.lock_daemon().await?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.ledger.record(clock::now(), Event::DaemonStarted { version }).await?;
        for change in self.load_rules(&self.active.config).await? {
            tracing::info!("{change}");
        }
        self.publishing = Publishing::start(&self.ledger, &self.active.config.audit);
        self.propagation = Some(self.active.propagate());
        self.rotation = Some(self.active.rotate());
        let wake = self.wake.clone();
        self.ledger.renew_events(self.active.config.rules.keys(), clock::now()).await?;
        let (settings, rules) = (self.active.config.api.clone(), self.active.runner.rules.clone());
        let mut api = Api::new(self.ledger.clone(), settings, rules, wake.clone());
        api.heed(self.active.recipients());
        api.open();
        self.api = Some(api);
        self.listening = Some(Listening::start(&self.active, &wake));
        let mut ticker = ticker(wake.clone()).await?;
        let mut watchdog = Watchdog::new();
        systemd::ready(&self.status());
        tracing::info!(rules = self.active.config.rules.len(), "ready");
        wake.notify_one();
        loop {
            let sleep = tokio::time::sleep(self.until_next_look());
            tokio::select! {
                () = wake.notified() => self.due_check().await,
                () = sleep => {
                    if self.checked.elapsed() >= TICKER_LATE {
                        tracing::warn!("the ticker is late and is started anew");
                        timeout(LAST_STEPS, ticker.shutdown()).await.ok();
                        ticker = beat::ticker(wake.clone()).await?;
                    }
                    self.due_check().await;
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.ended(ended);
                    self.due_check().await;
                }
                () = watchdog.due() => self.feed(),
                received = signals.next() => match received {
                    Some(Received { ask: Ask::Reload, from_process: pid, from_user: uid }) => {
                        tracing::info!(pid, uid, "reloading");
                        self.reload().await;
                        wake.notify_one();
                    }
                    received => {
                        let pid = received.and_then(|received| received.from_process);
                        let uid = received.and_then(|received| received.from_user);
                        tracing::info!(pid, uid, "stopping after the batches in flight");
                        break;
                    }
                },
            }
        }
        timeout(LAST_STEPS, ticker.shutdown()).await.ok();
        self.stop(&mut signals, watchdog).await;
        Ok(())
    }

    fn status(&self) -> String {
        let rules = &self.active.config.rules;
        let armed = rules.values().filter(|rule| rule.mode == Mode::Enforce).count();
        format!("{} rules, {armed} of them armed", rules.len())
    }

    fn feed(&self) {
        if self.checked.elapsed() < STUCK {
            systemd::alive();
        }
    }

    /// Has the ledger take note of a configuration; gives what that changes for it.
    async fn load_rules(&self, config: &Config) -> Result<Vec<String>, LedgerError> {
        let loaded = Loaded {
            rules: &config.rules,
            stores: config.stores.len(),
            digest: &config.digest(),
            now: clock::now(),
        };
        let changes = self.ledger.load_rules(loaded).await?;
        self.ledger.load_backup_sets(&config.backups, clock::now()).await?;
        Ok(changes.iter().map(ToString::to_string).collect())
    }

    async fn record(&self, event: Event) {
        match timeout(LEDGER_WITHIN, self.ledger.record(clock::now(), event)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the audit log could not be written"),
            Err(_) => tracing::error!("the audit log could not be written in time"),
        }
    }

    // --- what is due ------------------------------------------------------------------------------

    /// The one thing that every wake-up does.
    async fn due_check(&mut self) {
        let looked = timeout(LEDGER_WITHIN, self.look()).await;
        let error = match looked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            // A slot that was claimed nevertheless is picked up with what was left behind.
            Err(_) => Some("no answer within the time allowed".to_owned()),
        };
        let answers = error.is_none();
        match error {
            Some(error) if self.ledger_answers => {
                tracing::error!(error, "the ledger does not answer: nothing is run until it does");
            }
            Some(error) => tracing::debug!(error, "the ledger still does not answer"),
            None if !self.ledger_answers => tracing::info!("the ledger answers again"),
            None => {}
        }
        if let Some(api) = &mut self.api {
            api.open();
        }
        tracing::debug!(answers, running = self.running.len(), "looked");
        self.ledger_answers = answers;
        self.checked = Stopwatch::start();
    }

    /// Claims what is due and starts it.
    async fn look(&mut self) -> Result<(), LedgerError> {
        if !self.trusts_the_clock().await {
            return Ok(());
        }
        let now = clock::now();
        let mut states = self.ledger.rule_states().await?;
        let active = self.active.clone();
        if active.config.rules.keys().any(|rule| !states.contains_key(rule)) {
            tracing::warn!("another process loaded a configuration that lacks some of these rules");
            self.load_rules(&active.config).await?;
            states = self.ledger.rule_states().await?;
        }
        // What is too old first: events may come without end, and that run takes them as well.
        if self.picked_up {
            self.start_looks(now, |rule| !rule.events.is_empty());
        }
        self.pick_up_events().await?;
        self.pick_up(now).await?;
        self.start_looks(now, |_| true);
        for rule in active.config.rules.values() {
            if let (Schedule::Cron(_), Some(state)) = (&rule.schedule, states.get(&rule.name))
                && rule.is_open(now)
                && !self.running.contains_key(&rule.name)
            {
                self.claim(rule, state.seen_until(), now).await?;
            }
        }
        Ok(())
    }

    /// Whether the clock has gone on as it should. After a jump nothing begins and what runs stops,
    /// until the clock is back or somebody reloads the configuration and so says that it is right.
    async fn trusts_the_clock(&mut self) -> bool {
        let looked = self.active.runner.clock.look();
        match looked {
            Ok(()) if self.clock_jumped => tracing::info!("the clock is right again"),
            Ok(()) => {}
            Err(_) if self.clock_jumped => {}
            Err(Jump(jump)) => {
                let seconds = jump.as_secs();
                tracing::error!(
                    seconds,
                    "the clock jumped: nothing runs until it is back; if it is right now, reload the configuration"
                );
                for running in self.running.values() {
                    running.stop.cancel();
                }
                self.record(Event::ClockJumped { seconds }).await;
            }
        }
        self.clock_jumped = looked.is_err();
        !self.clock_jumped
    }

    /// Claims the slot of a rule that is due, if one is and nobody else has claimed it.
    async fn claim(
        &mut self,
        rule: &Rule,
        seen_until: Timestamp,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let slot = self.agenda.due_slot(rule, seen_until, now);
        if self.agenda.clock_was_set_back(&rule.name) {
            let problem = format!(
                "the clock was set back: the last slot, {seen_until}, is still to come; slots count again from now on"
            );
            self.say(&rule.name, &problem);
        }
        let Some(slot) = slot else { return Ok(()) };
        let request = self.ledger.claim_slot(&rule.name, slot, now).await?;
        fault::point("slot.claimed");
        self.agenda.claimed(&rule.name, slot);
        if let Some(request) = request {
            self.start(rule, Work::Request(request));
        }
        Ok(())
    }

    /// Starts what was left behind: requests whose maker does not work them off, runs whose process
    /// died. At first that is everything, afterwards what has waited for long enough.
    async fn pick_up(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        let (before, attempts) =
            if self.picked_up { (now - PATIENCE, 1) } else { (Timestamp::MAX, 3) };
        let active = self.active.clone();
        for name in self.ledger.left_behind(before).await? {
            if self.running.contains_key(&name) {
                continue;
            }
            if let Some(rule) = active.config.rules.get(&name) {
                if self.picked_up && (!rule.is_open(now) || self.keeps_events_waiting(rule).await?)
                {
                    continue;
                }
                self.start(rule, Work::TakeOver { attempts });
            } else {
                self.say(
                    &name,
                    "an interrupted run cannot be resolved, because its rule is not configured any more: add it again, in observe mode",
                );
            }
        }
        self.picked_up = true;
        Ok(())
    }

    /// Starts the rules that events wait for and that nobody has begun.
    async fn pick_up_events(&mut self) -> Result<(), LedgerError> {
        let active = self.active.clone();
        let again = self.put_off.over(|name| self.running.contains_key(name));
        // Whichever run begins next tries them.
        for name in &again {
            active.runner.stuck.release(name);
        }
        for name in self.ledger.rules_with_events().await? {
            let Some(rule) = active.config.rules.get(&name) else { continue };
            if self.running.contains_key(&name) {
                // Its run may stand: then it takes them at once.
                active.runner.inboxes.call(&name, Call::Received);
            } else if self.keeps_events_waiting(rule).await? {
                // Its request stays as it is.
            } else if let Some(request) = self.ledger.claim_events(&name).await? {
                self.start(rule, Work::Request(request));
            }
        }
        let told = self.listening.as_ref().map(|listening| {
            let is_busy =
                |name: &Name| self.running.contains_key(name) || self.put_off.contains(name);
            listening.take(is_busy)
        });
        let again = again.into_iter().map(|name| (name, Depth::Whole));
        for (name, depth) in again.chain(told.into_iter().flatten()) {
            match active.config.rules.get(&name) {
                Some(_) if self.running.contains_key(&name) => {}
                Some(rule) => self.start(rule, Work::LookForEvents(depth)),
                None => self.put_off.forget(&name),
            }
        }
        Ok(())
    }

    /// How long nothing needs to be looked at, as far as is known.
    fn until_next_look(&self) -> Duration {
        let elapsed = self.checked.elapsed();
        if !self.ledger_answers {
            return LEDGER_AGAIN.saturating_sub(elapsed);
        }
        let at_most = TICKER_LATE.saturating_sub(elapsed);
        if self.clock_jumped {
            return at_most;
        }
        let at_most = at_most.min(self.put_off.left(|rule| self.running.contains_key(rule)));
        let now = clock::now();
        let Some(next) = self.agenda.next_look(|rule| self.is_not_to_look(rule, now)) else {
            return at_most;
        };
        let wait = next.duration_since(now);
        at_most.min(wait.try_into().unwrap_or(Duration::ZERO))
    }

    // --- tasks ------------------------------------------------------------------------------------

    fn start(&mut self, rule: &Rule, work: Work) {
        tracing::debug!(rule = %rule.name, ?work, "starting");
        let stop = self.soft.child_token();
        let task = self.active.clone().carry_out(rule.clone(), work, stop.clone());
        self.launch(&rule.name, task, stop);
    }

    fn launch(
        &mut self,
        rule: &Name,
        task: impl Future<Output = Ended> + Send + 'static,
        stop: CancellationToken,
    ) {
        let handle = self.tasks.spawn(task);
        self.running.insert(rule.clone(), Running { task: handle.id(), stop });
    }

    /// Takes note of a task's end, whichever it was.
    fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        // Of a defect nobody knows what it was about.
        let by_age = ended.as_ref().map_or(true, |(_, ended)| ended.by_age);
        let rule = self.running.iter().find(|(_, running)| running.task == id);
        let Some(rule) = rule.map(|(rule, _)| rule.clone()) else { return };
        let was_overtaken =
            self.running.remove(&rule).is_some_and(|running| running.stop.is_cancelled());
        // Its request is still open, and is not to wait for its turn again.
        self.picked_up &= !was_overtaken;
        let configured = self.active.config.rules.get(&rule).cloned();
        if configured.as_ref().is_some_and(|rule| !rule.events.is_empty()) {
            self.put_off.ended(&rule, outlook(&ended));
        }
        let ending = match ended {
            Ok((_, Ended { result: Ok(None), by_age: false, .. })) => return self.close_retired(),
            Ok((_, Ended { result: Ok(None), look_again, .. })) => {
                self.said.remove(&rule);
                Ending::Well(look_again)
            }
            Ok((_, Ended { result: Ok(Some(result)), look_again, .. })) => {
                self.said.remove(&rule);
                log(&result);
                let mode = configured.as_ref().map_or(Mode::Enforce, |rule| rule.mode);
                Ending::of(&result, mode, look_again)
            }
            Ok((_, Ended { result: Err(error), .. })) => {
                let doing = match error {
                    RunError::Ledger(_) => "the ledger failed",
                    RunError::Store(_) => "the store failed",
                    RunError::Clock(_) => "the clock is in doubt",
                    RunError::AttachmentsStay { .. } => "what belongs to records stays",
                    RunError::Frozen { .. } => "its store is frozen",
                    RunError::Surge { .. } => "far more fell due than when the run began",
                    RunError::Unresolved { .. } | RunError::RuleChanged { .. } => {
                        "an interrupted run is not resolved yet"
                    }
                };
                self.say(&rule, &format!("{doing}; it is tried again: {error}"));
                Ending::Unrecorded
            }
            Err(error) if error.is_panic() => {
                // Where is in the line that the panic hook logged; what it says may quote data.
                self.say(&rule, "a defect of expunged ended this rule's task; it is tried again");
                Ending::Unrecorded
            }
            Err(_) => return,
        };
        if let Some(rule) = configured
            && matches!(rule.schedule, Schedule::Continuous)
            && by_age
            && !was_overtaken
        {
            self.agenda.looked(&rule, ending, clock::now());
        }
        self.close_retired();
    }

    /// Says what is wrong with a rule, once, until it is something else.
    fn say(&mut self, rule: &Name, problem: &str) {
        if self.said.get(rule).is_some_and(|said| said == problem) {
            tracing::debug!(%rule, "still: {problem}");
        } else {
            tracing::error!(%rule, "{problem}");
            self.said.insert(rule.clone(), problem.to_owned());
        }
    }

    // --- reload -----------------------------------------------------------------------------------

    /// Swaps in a new configuration, if the whole of it is valid and the ledger has taken note of it.
    async fn reload(&mut self) {
        systemd::reloading();
        match (self.load)() {
            Err(error) => {
                tracing::error!("the configuration was refused and the old one stays:\n{error}");
                self.refuse("it is not valid").await;
            }
            Ok(config) if !self.active.config.keeps_its_place(&config) => {
                tracing::error!(
                    "the ledger and the keys cannot move while the daemon runs: restart it instead; the old configuration stays"
                );
                self.refuse("the ledger or the keys would move, which needs a restart").await;
            }
            Ok(config) => self.take_on(config).await,
        }
        systemd::ready(&self.status());
    }

    async fn refuse(&self, reason: &'static str) {
        self.record(Event::ConfigurationRefused { reason: reason.into() }).await;
    }

    async fn take_on(&mut self, config: Config) {
        let in_force = self.active.clone();
        let note = async {
            self.load_rules(&config).await?;
            self.ledger.renew_events(config.rules.keys(), clock::now()).await
        };
        let error = match timeout(LEDGER_WITHIN, note).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer within the time allowed".to_owned()),
        };
        if let Some(error) = error {
            return tracing::error!(
                error,
                "the ledger could not take note of the new configuration; the old one stays: reload again"
            );
        }
        let changes = changes::changes(&in_force.config, &config);
        for change in &changes {
            tracing::info!("{change}");
        }
        let is_standing = |rule: &&Rule| !rule.events.is_empty();
        // Nobody calls a run that stands under the old configuration, and it looks at the old sources.
        for rule in in_force.config.rules.values().filter(is_standing) {
            if let Some(running) = self.running.get(&rule.name) {
                running.stop.cancel();
            }
        }
        for rule in changes::overtaken(&in_force.config, &config) {
            if let Some(running) = self.running.get(&rule) {
                tracing::info!(%rule, "its run stops after the batch in flight, because the rule changed");
                running.stop.cancel();
            }
        }
        self.agenda.reconfigured(&config);
        self.said.clear();
        self.put_off.clear();
        if config.audit != in_force.config.audit {
            self.publishing = Publishing::start(&self.ledger, &config.audit);
        }
        self.active = Arc::new(Active::new(config, &self.ledger, Some(&in_force)));
        // Those of before let go of their recipients when what they tell has come to its end.
        let propagation = self.active.propagate();
        if let Some(before) = self.propagation.replace(propagation) {
            tokio::spawn(before.stop());
        }
        if let Some(before) = self.rotation.replace(self.active.rotate()) {
            tokio::spawn(before.stop());
        }
        self.listening = Some(Listening::start(&self.active, &self.wake));
        if let Some(api) = &mut self.api {
            api.heed(self.active.recipients());
            api.reconfigure(&self.active.config.api, self.active.runner.rules.clone()).await;
        }
        if self.clock_jumped {
            // Whoever reloads after a jump was said has looked. One that nobody knows of is still to be said.
            self.active.runner.clock.accept();
        }
        self.retired.push(in_force);
        self.close_retired();
        tracing::info!(rules = self.active.config.rules.len(), changes = changes.len(), "reloaded");
    }

    /// Closes the connections of configurations that no task uses any more.
    fn close_retired(&mut self) {
        self.retired.retain(|retired| {
            if Arc::strong_count(retired) > 1 {
                return true;
            }
            let stores = retired.runner.stores.clone();
            tokio::spawn(async move { timeout(LAST_STEPS, stores.close()).await });
            false
        });
    }

    // --- the end ----------------------------------------------------------------------------------

    /// Lets the batches in flight finish, within the deadline; what does not is resolved at the next
    /// start.
    async fn stop(mut self, signals: &mut Signals, mut watchdog: Watchdog) {
        let deadline = self.active.config.daemon.stop_deadline;
        systemd::stopping(deadline + 5 * LAST_STEPS);
        self.soft.cancel();
        self.listening = None;
        if let Some(rotation) = self.rotation.take() {
            timeout(LAST_STEPS, rotation.stop()).await.ok();
        }
        let propagation = self.propagation.take().map(|couriers| tokio::spawn(couriers.stop()));
        if let Some(api) = &mut self.api {
            timeout(LAST_STEPS, api.close()).await.ok();
        }
        let reason = self.let_finish(deadline, signals, &mut watchdog).await;
        let in_time = self.tasks.is_empty();
        if !in_time {
            let rules: Vec<_> = self.running.keys().map(Name::as_str).collect();
            let rules = rules.join(", ");
            tracing::warn!(rules, "{reason}: what is in flight is left to the next start");
            timeout(LAST_STEPS, self.tasks.shutdown()).await.ok();
        }
        if let Some(propagation) = propagation {
            // What is told and not written down by then is told again.
            timeout(LAST_STEPS, propagation).await.ok();
        }
        let stopped = Event::DaemonStopped { reason: Reason::from(reason) };
        timeout(LAST_STEPS, self.record(stopped)).await.ok();
        if let Some(publishing) = self.publishing.take() {
            // The newest checkpoint is worth most: nothing is added until the next start.
            timeout(LAST_STEPS, publishing.stop()).await.ok();
        }
        if in_time {
            // Otherwise the servers find their connections gone, and roll back.
            timeout(LAST_STEPS, self.active.runner.stores.close()).await.ok();
        }
        timeout(LAST_STEPS, self.ledger.close()).await.ok();
        tracing::info!("stopped");
    }

    /// Waits for the tasks, the deadline or a second signal, and says which it was.
    async fn let_finish(
        &mut self,
        deadline: Duration,
        signals: &mut Signals,
        watchdog: &mut Watchdog,
    ) -> &'static str {
        let deadline = tokio::time::sleep(deadline);
        tokio::pin!(deadline);
        while !self.tasks.is_empty() {
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = &mut deadline => return "asked to stop, and the deadline passed",
                received = signals.next() => match received {
                    Some(Received { ask: Ask::Reload, .. }) => {
                        tracing::warn!("not reloading: the daemon is about to end");
                    }
                    _ => return "asked twice to stop",
                },
                () = watchdog.due() => systemd::alive(),
            }
        }
        "asked to stop"
    }
}

#[cfg(test)]
mod tests;
