//! Event rules: what events name goes, whatever its age.
//!
//! Events wait in the ledger, where they were received, or are found in an application's own table. A
//! run takes them in batches, and then *stands* for a while: what comes meanwhile costs an intent, the
//! deletion and an outcome, and nothing else. An event is forgotten only when what it names is gone, so
//! one that is found twice, or late, does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::execution::{Ended, Execution, Next};
use super::sources::{Depth, News, SourceError};
use super::stuck::StuckEvents;
use super::underway::{Begun, ended};
use super::{RunError, Runner};
use crate::clock::{self, Stopwatch};
use crate::fault;
use crate::ledger::LedgerError;
use crate::rule::{Mode, Rule};
use crate::store::sql::{Access, Pace};
use crate::store::{Effected, Left, Store, StoreError};

/// Events that are worked off at once.
const AT_ONCE: u32 = 1_000;
/// How long a look that goes a little further back waits, so that none has to wait for it.
const OWED: Duration = Duration::from_millis(250);
/// How long a run stands without an event.
const IDLE: Duration = Duration::from_secs(10);
/// How long it stands at most: then what falls due by its age has its turn.
const AT_MOST: Duration = Duration::from_mins(1);

/// Why an event waits that names a record which is kept for what belongs to it.
const UNFIT: &str =
    "what the record names as belonging to it is held, empty, or would lead elsewhere";

/// What a run of an event rule keeps.
#[derive(Default)]
pub(super) struct EventRun {
    /// Whether what events name goes: somebody has seen what the rule does.
    pub(super) are_taken: bool,
    /// Why one of the sources of events could not be looked at.
    pub(super) source_failed: Option<RunError>,
    /// Whether the run takes what events name and nothing else.
    pub(super) are_all: bool,
    /// Events that could not be worked off.
    pub(super) stuck: StuckEvents,
    /// Whether what is being taken is what events name.
    pub(super) name_it: bool,
}

/// What a look has found, and what was wrong with one of the sources.
type Found = (Vec<News>, Option<SourceError>);
/// Looks at applications' tables, which go on while what has just happened is worked off: in tasks of their own, because one
/// that nobody polls would go on holding what it has, or is next to have.
#[derive(Default)]
struct Looks {
    under_way: Option<AbortOnDropHandle<Found>>,
    /// The next, and since when it is owed.
    owed: Option<(Depth, Stopwatch)>,
}

impl Looks {
    fn owe(&mut self, depth: Depth) {
        self.owed = Some(match self.owed {
            Some((owed, since)) => (owed.max(depth), since),
            None => (depth, Stopwatch::start()),
        });
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.owed.is_none()
    }

    /// What the next look finds; never where none is owed. A quick one waits until what has just happened is worked off,
    /// unless `at_once`. Nothing is lost where it is not waited for to the end.
    async fn found(&mut self, at_once: bool, runner: &Runner, rule: &Rule) -> Found {
        if self.under_way.is_none() {
            let Some((depth, since)) = self.owed else { return pending().await };
            if depth == Depth::Quick && !at_once {
                tokio::time::sleep(OWED.saturating_sub(since.elapsed())).await;
            }
            self.owed = None;
            let (runner, rule) = (runner.clone(), rule.clone());
            let look = async move {
                let Runner { sources, stores, ledger, .. } = &runner;
                sources.look(&rule, stores, ledger, depth).await
            };
            self.under_way = Some(AbortOnDropHandle::new(tokio::spawn(look)));
        }
        let Some(looking) = &mut self.under_way else { return pending().await };
        let found = ended(looking).await;
        self.under_way = None;
        found
    }
}

/// What came of taking what events name.
enum Took {
    /// All of it is gone already.
    Nothing,
    /// All of it was taken; it has no outcome yet.
    All(Box<(Begun, Effected)>),
    /// Not all of it is gone, for this reason.
    Some(String),
}

/// An event that is to be worked off.
pub(super) enum Waiting {
    Received { id: String, values: BTreeMap<String, String> },
    Happened(News),
}

impl Waiting {
    fn values(&self) -> &BTreeMap<String, String> {
        match self {
            Waiting::Received { values, .. } => values,
            Waiting::Happened(news) => &news.event.values,
        }
    }

    /// The id of one that waits in the ledger.
    pub(super) fn received(&self) -> Option<&str> {
        match self {
            Waiting::Received { id, .. } => Some(id),
            Waiting::Happened(_) => None,
        }
    }

    /// What a table tells.
    pub(super) fn news(&self) -> Option<&News> {
        match self {
            Waiting::Received { .. } => None,
            Waiting::Happened(news) => Some(news),
        }
    }
}

impl From<SourceError> for RunError {
    fn from(error: SourceError) -> RunError {
        match error {
            SourceError::Store(error) => error.into(),
            SourceError::Ledger(error) => error.into(),
        }
    }
}

impl Runner {
    /// Whether there is anything for an event rule to work off.
    ///
    /// # Errors
    /// When the ledger or a store cannot be asked.
    pub async fn has_events(&self, rule: &Rule, depth: Depth) -> Result<bool, RunError> {
        // Those that could not be worked off are tried again in their own time.
        let stuck = self.stuck.of(&rule.name);
        let limit = u32::try_from(stuck.count() + 1).unwrap_or(u32::MAX);
        let pending = self.ledger.pending_events(&rule.name, limit).await?;
        if pending.iter().any(|event| !stuck.has(&event.id)) {
            return Ok(true);
        }
        if rule.mode == Mode::Observe {
            return Ok(false);
        }
        let (news, failure) = self.sources.look(rule, &self.stores, &self.ledger, depth).await;
        match failure {
            Some(error) if news.is_empty() => Err(error.into()),
            _ => Ok(!news.is_empty()),
        }
    }

    /// Sees whether what a run of an event rule needs can be reached: its own store, and those of what
    /// belongs to its records.
    ///
    /// # Errors
    /// When one cannot.
    pub async fn reach(&self, rule: &Rule) -> Result<(), StoreError> {
        let store = self.stores.get(&rule.store, Access::ReadOnly)?;
        store.target(rule).await?;
        let attached = rule.attachments().iter().map(|attachment| &attachment.store);
        for name in std::iter::once(&rule.store).chain(attached) {
            let store = self.stores.get(name, Access::ReadOnly)?;
            if !matches!(store, Store::Tables(_)) {
                store.look(&[], &[]).await?;
            }
        }
        Ok(())
    }

    /// Forgets the events of a rule that only observes: what they name goes by its age once it is armed.
    pub(super) async fn forget_observed(&self, rule: &Rule) -> Result<u64, LedgerError> {
        let mut forgotten = 0;
        loop {
            let events = self.ledger.pending_events(&rule.name, AT_ONCE).await?;
            if events.is_empty() {
                return Ok(forgotten);
            }
            let ids: Vec<String> = events.into_iter().map(|event| event.id).collect();
            self.ledger.forget_events(&rule.name, &ids).await?;
            forgotten += ids.len() as u64;
        }
    }
}

impl Execution<'_> {
    /// Works off the events of the rule; `stands` until there have been none for a while.
    pub(super) async fn take_events(&mut self, stands: bool) -> Result<Ended, RunError> {
        // One target for both: it keeps what was held while events were worked off.
        self.prepared.target.set_by_event(true);
        (self.events.name_it, self.events.are_all) = (true, stands);
        let ended = self.work_off_events(stands).await;
        self.events.name_it = false;
        // What took effect gets its outcome, also after a failure.
        let flushed = self.flush().await;
        self.prepared.target.set_by_event(false);
        let runner = self.runner;
        let rule = &self.rule.name;
        match &ended {
            Ok(Ended::Complete) => runner.stuck.keep(rule, self.events.stuck.clone()),
            _ => runner.stuck.release(rule),
        }
        // After a failure too: what was worked off before it is.
        runner.sources.save(rule, &runner.ledger).await?;
        flushed?;
        ended
    }

    async fn work_off_events(&mut self, stands: bool) -> Result<Ended, RunError> {
        let (runner, rule) = (self.runner, self.rule);
        let Runner { sources, ledger, .. } = runner;
        let (began, mut last) = (Stopwatch::start(), Stopwatch::start());
        let inbox = runner.inboxes.of(&rule.name);
        let _standing = inbox.stand();
        // Events that could not be worked off, in this run or before it.
        let mut stuck = runner.stuck.of(&rule.name);
        let mut claimed = None;
        // At first everything is looked at. What was received is not to wait for a table.
        let (mut received, mut waiting) = (true, Vec::new());
        let mut looks = Looks::default();
        looks.owe(Depth::Whole);
        loop {
            if self.stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            let mut is_all = true;
            if received {
                let more = self.received(&stuck).await?;
                waiting.extend(more.0);
                is_all = more.1;
            }
            if !waiting.is_empty() {
                self.work_off(std::mem::take(&mut waiting), &mut stuck).await?;
                last = Stopwatch::start();
            }
            if !is_all {
                // What has its outcome is not found again.
                self.flush().await?;
                continue;
            }
            received = false;
            self.use_the_moment();
            let left =
                IDLE.saturating_sub(last.elapsed()).min(AT_MOST.saturating_sub(began.elapsed()));
            // From then on nobody is heeded who calls: what they call for is found by the next run.
            let is_over = !stands || left.is_zero();
            if is_over && looks.is_idle() {
                // Events that came meanwhile have left a request. Claimed first, and looked at after, none
                // is overlooked.
                if claimed.is_none() {
                    claimed = ledger.claim_events(&rule.name).await?;
                    if claimed.is_some() {
                        received = true;
                        continue;
                    }
                }
                if let Some(request) = &claimed {
                    let why = "its events were worked off with others";
                    ledger.abandon_request(request, why, clock::now()).await?;
                }
                self.events.stuck = stuck;
                return Ok(Ended::Complete);
            }
            tokio::select! {
                biased;
                () = inbox.called(), if !is_over => {
                    let (calls, sightings) = inbox.take();
                    received = calls.received();
                    calls.depth().into_iter().for_each(|depth| looks.owe(depth));
                    let news = sources.sighted(rule, &sightings);
                    waiting = self.fresh((news, None)).await?.0;
                }
                () = self.stop.cancelled() => {}
                found = looks.found(is_over, runner, rule) => {
                    let (news, is_all) = self.fresh(found).await?;
                    waiting = news;
                    if !is_all {
                        looks.owe(Depth::Whole);
                    }
                }
                turn = self.underway.turn() => self.take_turn(turn).await?,
                () = tokio::time::sleep(left), if !is_over => {
                    received = true;
                    looks.owe(Depth::Whole);
                }
            }
        }
    }

    /// Events that were received and are to be worked off, and whether these are all.
    async fn received(&mut self, stuck: &StuckEvents) -> Result<(Vec<Waiting>, bool), RunError> {
        let ledger = &self.runner.ledger;
        let underway: BTreeSet<&str> = self.underway.received().collect();
        let known = stuck.count() + underway.len() as u64;
        let more = u32::try_from(known).unwrap_or(u32::MAX);
        let limit = AT_ONCE.saturating_add(more);
        let received = ledger.pending_events(&self.rule.name, limit).await?;
        let is_all = received.len() < limit as usize;
        // The rule may have been rewritten since, and means other things now.
        let (received, foreign): (Vec<_>, Vec<_>) =
            received.into_iter().partition(|event| self.rule.events.contains(&event.name));
        if !foreign.is_empty() {
            let events = foreign.len();
            tracing::warn!(rule = %self.rule.name, events, "forgotten: the rule does not listen to them any more");
            let ids: Vec<String> = foreign.into_iter().map(|event| event.id).collect();
            ledger.forget_events(&self.rule.name, &ids).await?;
        }
        let is_known = |id: &String| stuck.has(id) || underway.contains(id.as_str());
        let fresh = received.into_iter().filter(|event| !is_known(&event.id));
        let fresh = fresh.map(|event| Waiting::Received { id: event.id, values: event.values });
        Ok((fresh.collect(), is_all))
    }

    /// What was found, but for what is being worked off or could not be; and whether that is all there is.
    async fn fresh(&mut self, (news, failure): Found) -> Result<(Vec<Waiting>, bool), RunError> {
        if let Some(error) = failure {
            // What was received, and what is too old, goes nevertheless.
            let error = RunError::from(error);
            tracing::warn!(rule = %self.rule.name, %error, "a source of events cannot be looked at");
            self.events.source_failed.get_or_insert(error);
        }
        let is_full = news.len() >= AT_ONCE as usize;
        let hides_more = is_full && news.iter().any(|news| self.underway.has_news(news));
        if hides_more {
            self.flush().await?;
        }
        let news = self.runner.sources.unseen(&self.rule.name, news);
        let is_fresh = |news: &News| !self.underway.has_news(news);
        let fresh: Vec<_> = news.into_iter().filter(is_fresh).map(Waiting::Happened).collect();
        let is_all = !is_full || fresh.is_empty() && !hides_more;
        Ok((fresh, is_all))
    }

    /// Works events off together, and where that leaves anything, one by one, so that one bad event is one.
    async fn work_off(
        &mut self,
        waiting: Vec<Waiting>,
        stuck: &mut StuckEvents,
    ) -> Result<(), RunError> {
        let values: Vec<_> = waiting.iter().map(Waiting::values).collect();
        let (took, before) = (self.take_named(&values).await?, stuck.count());
        if matches!(took, Took::Some(_)) && waiting.len() > 1 {
            for event in waiting {
                let took = self.take_named(&[event.values()]).await?;
                self.took(took, vec![event], stuck).await?;
            }
        } else {
            self.took(took, waiting, stuck).await?;
        }
        let events = stuck.count() - before;
        if events > 0 {
            let why = stuck.why();
            tracing::warn!(rule = %self.rule.name, events, why, "events wait for what could not be deleted");
        }
        Ok(())
    }

    /// Takes note of what came of events.
    async fn took(
        &mut self,
        took: Took,
        events: Vec<Waiting>,
        stuck: &mut StuckEvents,
    ) -> Result<(), RunError> {
        fault::point("events.taken");
        match took {
            Took::All(taken) => {
                let (begun, effect) = *taken;
                self.let_wait(Begun { events: Arc::new(events), ..begun }, effect);
            }
            Took::Nothing => self.forget(&events).await?,
            Took::Some(why) => stuck.add(self.keep_waiting(events).await?, why),
        }
        Ok(())
    }

    /// Has the ledger keep what tables told of, as if it had been received: they are looked at only as far back as rows
    /// come to light late, and an event may wait for longer. Gives the ids of all that wait.
    async fn keep_waiting(&mut self, events: Vec<Waiting>) -> Result<Vec<String>, LedgerError> {
        let Runner { ledger, sources, .. } = self.runner;
        let rule = &self.rule.name;
        let happened: Vec<&News> = events.iter().filter_map(Waiting::news).collect();
        let told: Vec<_> =
            happened.iter().map(|news| (news.event.clone(), vec![rule.clone()])).collect();
        if !told.is_empty() {
            ledger.receive(&told, clock::now()).await?;
            sources.worked_off(rule, happened.into_iter());
        }
        let ids = events.into_iter().map(|event| match event {
            Waiting::Received { id, .. } => id,
            Waiting::Happened(news) => news.event.id,
        });
        Ok(ids.collect())
    }

    /// Forgets events that name nothing any more. What they named may have been taken by a batch that has
    /// no outcome yet, so that comes first.
    async fn forget(&mut self, events: &[Waiting]) -> Result<(), RunError> {
        self.flush().await?;
        let ids = events.iter().filter_map(Waiting::received).map(str::to_owned);
        let ids: Vec<String> = ids.collect();
        if !ids.is_empty() {
            self.runner.ledger.forget_events(&self.rule.name, &ids).await?;
        }
        let news = events.iter().filter_map(Waiting::news);
        self.runner.sources.worked_off(&self.rule.name, news);
        Ok(())
    }

    /// Takes what the values of events name. What fails for what one of them names is that one's, and is no
    /// failure of the run.
    async fn take_named(&mut self, values: &[&BTreeMap<String, String>]) -> Result<Took, RunError> {
        match self.try_named(values).await {
            Err(RunError::Store(error)) if error.is_of_what_was_named() => {
                Ok(Took::Some(error.to_string()))
            }
            took => took,
        }
    }

    async fn try_named(&mut self, values: &[&BTreeMap<String, String>]) -> Result<Took, RunError> {
        self.runner.clock.look()?;
        let mut pace = Pace::of(self.rule.pacing, false);
        let mut gate = None;
        loop {
            let taken = self.take_at(&mut Next::Named(values), &mut pace, &mut gate).await?;
            let Some(taking) = taken else { return Ok(Took::Nothing) };
            let unfit = taking.unfit;
            if taking.batch.keys.is_empty() {
                taking.batch.rollback().await?;
                return Ok(if unfit == 0 { Took::Nothing } else { Took::Some(UNFIT.to_owned()) });
            }
            let (stuck, left) = (self.stuck.len(), self.lives_on);
            match self.begin(taking, gate.take()).await {
                Err(RunError::Ledger(LedgerError::HoldsChanged)) => gate = Some(self.gate().await?),
                // One bad thing stays one bad thing. It is tried again with the event, and may be gone by then.
                Err(error @ RunError::AttachmentsStay { .. }) if self.stuck.len() > stuck => {
                    self.batches += 1;
                    self.stuck.clear();
                    return Ok(Took::Some(error.to_string()));
                }
                Err(error) => return Err(error),
                Ok((begun, Ok(effect))) if unfit == 0 && !effect.left_some() => {
                    return Ok(Took::All(Box::new((begun, effect))));
                }
                Ok((begun, effect)) => {
                    self.end(begun, effect).await?;
                    let stays = Left { other_links: 0, open_elsewhere: 0, ..self.lives_on };
                    // Its event is counted, and is met again.
                    self.lives_on = self.lives_on.but_stays_as(left);
                    let why = if unfit > 0 { UNFIT } else { "it changed just then" };
                    return Ok(Took::Some(stays.in_words().unwrap_or_else(|| why.to_owned())));
                }
            }
        }
    }
}
