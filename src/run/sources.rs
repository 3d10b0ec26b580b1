//! Events that are found in an application's own table. The table is the truth: whatever wakes a rule,
//! it looks there, and a wake-up that got lost loses nothing.
//!
//! A row may come to light later than the moment that it names, by as much as its transaction took. So
//! a look goes back by an overlap, and what was worked off within it is remembered. A whole look is made
//! at intervals. Upon a notification the [latest](Latest) rows are read, once for all rules, and each rule
//! has a quick look a moment later, which goes back a little.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::clock;
use crate::config::{Config, SourceConfig};
use crate::event::{EventError, Occurrence, Told, Value};
use crate::ledger::{Ledger, LedgerError};
use crate::rule::Rule;
use crate::store::sql::{Access, Happened, Listener, Watched};
use crate::store::{StoreError, Stores};
use crate::types::{EventName, Key, Name};

/// Rows that are read at once.
const PAGE: u32 = 1_000;
/// How far a quick look goes back.
const QUICK: SignedDuration = SignedDuration::from_secs(2);
/// How far a look at the latest goes back.
const LATEST: SignedDuration = SignedDuration::from_millis(250);
/// How long a look may take. Somebody may have locked the table, or the server be gone without a word.
const LOOK_WITHIN: Duration = Duration::from_secs(30);

/// The sources of each rule that listens to any.
#[derive(Debug, Default)]
pub struct Sources(BTreeMap<Name, Vec<Source>>);

/// A source, as far as one rule has come with it.
#[derive(Debug)]
struct Source {
    config: SourceConfig,
    /// Never locked while anything is waited for: a look goes on beside what its run does, and is not polled meanwhile.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watched: Option<Arc<Watched>>,
    /// Whether the ledger was asked how far it has come.
    is_loaded: bool,
    /// The latest moment of a row that was worked off.
    reached: Option<Timestamp>,
    /// What was worked off lately, with the moment and the status that it had.
    seen: HashMap<Key, (Timestamp, String)>,
    /// Whether it was said that a row names nothing that the rule could delete.
    has_warned: bool,
}

/// How far back a look goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Depth {
    /// A little: something has happened just now.
    Quick,
    /// By the whole overlap.
    Whole,
}

/// A row of a source's table that tells of an event, as it was seen.
pub struct Sighting {
    source: Name,
    event: EventName,
    values: BTreeMap<String, String>,
    row: Happened,
}

/// What a source's table tells as of late, for all rules that listen to it.
#[derive(Debug)]
pub struct Latest {
    config: SourceConfig,
    watched: Watched,
    /// The latest moment of a row that was seen.
    reached: Option<Timestamp>,
    /// What was told lately, with its moment and status.
    told: HashMap<Key, (Timestamp, String)>,
}

impl Latest {
    /// Holds a source against its table.
    ///
    /// # Errors
    /// When they do not fit, or the store does not answer.
    pub async fn new(stores: &Stores, source: &SourceConfig) -> Result<Latest, StoreError> {
        let tables = stores.get(&source.store, Access::ReadOnly)?;
        let watched = tables.tables()?.watch(source).await?;
        let (reached, told) = (None, HashMap::new());
        Ok(Latest { config: source.clone(), watched, reached, told })
    }

    /// What has happened since the last time, at most a page of it: what it leaves out is found by rules' own looks.
    ///
    /// # Errors
    /// When the connection is lost, or the table is another by now.
    pub async fn look(
        &mut self,
        listener: &mut Listener,
    ) -> Result<Vec<Arc<Sighting>>, sqlx::Error> {
        let now = clock::now();
        let back = |from: Timestamp, by| from.checked_sub(by).unwrap_or(Timestamp::MIN);
        let since = self.reached.map_or_else(|| back(now, QUICK), |at| back(at, LATEST));
        let rows = listener.happened(&self.watched, since, PAGE).await?;
        self.told.retain(|_, (at, _)| *at >= since);
        let mut sightings = Vec::new();
        for row in rows {
            let as_told = (row.at, row.status.clone());
            if self.told.get(&row.key) == Some(&as_told) {
                continue;
            }
            self.told.insert(row.key.clone(), as_told);
            // One moment that lies in the future is not to hide what happens until then.
            self.reached = self.reached.max(Some(row.at.min(now)));
            sightings.extend(Sighting::of(&self.config, row).map(Arc::new));
        }
        Ok(sightings)
    }
}

impl Sighting {
    /// What makes it this one, if it comes to wait in the ledger: says nothing of the row, and each sight of it the same.
    fn id(&self) -> String {
        let Happened { key, at, status, .. } = &self.row;
        let mut seen = Vec::new();
        key.encode_to(&mut seen);
        seen.extend_from_slice(format!("{at} {status}").as_bytes());
        format!("{}\n{}", self.source, hex::encode(Sha256::digest(&seen)))
    }
}

/// Shows no value, which may say who somebody is.
impl fmt::Debug for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sighting").field("event", &self.event).finish_non_exhaustive()
    }
}

impl Sighting {
    fn of(source: &SourceConfig, row: Happened) -> Option<Sighting> {
        let event = source.events.get(&row.status)?.clone();
        let values = source.values.iter().cloned().zip(&row.values);
        let values = values.filter_map(|(name, value)| Some((name, value.clone()?))).collect();
        Some(Sighting { source: source.name.clone(), event, values, row })
    }
}

/// Something that has happened and was not worked off yet.
pub(super) struct News {
    pub(super) source: usize,
    pub(super) row: Happened,
    /// What it says.
    pub(super) event: Occurrence,
}

/// Why a source could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Sources {
    /// The sources of a configuration.
    pub fn new(config: &Config) -> Sources {
        let of_rule = |rule: &Rule| {
            let heard = |source: &SourceConfig| {
                let mut config = source.clone();
                // Of what nobody listens to no row is read.
                config.events.retain(|_, event| rule.events.contains(event));
                (!config.events.is_empty()).then(|| Source { config, state: Mutex::default() })
            };
            let sources: Vec<_> = config.sources.values().filter_map(heard).collect();
            (!sources.is_empty()).then(|| (rule.name.clone(), sources))
        };
        Sources(config.rules.values().filter_map(of_rule).collect())
    }

    fn of(&self, rule: &Name) -> impl Iterator<Item = (usize, &Source)> {
        self.0.get(rule).into_iter().flatten().enumerate()
    }

    /// What has happened that a rule has not worked off, oldest first: at most a page of each source. With
    /// it, what was wrong with one of the sources: the others are looked at all the same.
    pub(super) async fn look(
        &self,
        rule: &Rule,
        stores: &Stores,
        ledger: &Ledger,
        depth: Depth,
    ) -> (Vec<News>, Option<SourceError>) {
        let (mut news, mut failure) = (Vec::new(), None);
        for (place, source) in self.of(&rule.name) {
            let look = source.look((rule, place), stores, ledger, depth);
            let looked = timeout(LOOK_WITHIN, look).await.unwrap_or_else(|_| {
                let (store, doing) = (source.config.store.clone(), "looking for what has happened");
                Err(StoreError::Slow { store, doing, within: LOOK_WITHIN }.into())
            });
            match looked {
                Ok(found) => news.extend(found),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        (news, failure)
    }

    /// Of what was handed over, that which a rule listens to and has not worked off.
    pub(super) fn sighted(&self, rule: &Rule, sightings: &[Arc<Sighting>]) -> Vec<News> {
        let mut news = Vec::with_capacity(sightings.len());
        for (place, source) in self.of(&rule.name) {
            let mut state = source.state();
            let own = sightings.iter().filter(|sighting| sighting.source == source.config.name);
            news.extend(own.filter_map(|sighting| state.news(rule, place, sighting)));
        }
        news
    }

    /// Those of these that were not worked off since they were found.
    pub(super) fn unseen(&self, rule: &Name, mut news: Vec<News>) -> Vec<News> {
        for (place, source) in self.of(rule) {
            let state = source.state();
            news.retain(|one| one.source != place || !state.has_seen(&one.row));
        }
        news
    }

    /// Takes note that these were worked off.
    pub(super) fn worked_off<'a>(&self, rule: &Name, news: impl Iterator<Item = &'a News>) {
        let Some(sources) = self.0.get(rule) else { return };
        for News { source, row, .. } in news {
            if let Some(source) = sources.get(*source) {
                source.state().pass(row);
            }
        }
    }

    /// Has the ledger remember how far a rule has come.
    pub(super) async fn save(&self, rule: &Name, ledger: &Ledger) -> Result<(), LedgerError> {
        for (_, source) in self.of(rule) {
            let Some(reached) = source.state().reached else { continue };
            ledger.set_source_reached(rule, &source.config.name, reached).await?;
            let overlap = SignedDuration::try_from(source.config.overlap).unwrap_or_default();
            let oldest = reached.checked_sub(overlap).unwrap_or(Timestamp::MIN);
            source.state().seen.retain(|_, (at, _)| *at >= oldest);
        }
        Ok(())
    }
}

impl Source {
    async fn look(
        &self,
        (rule, place): (&Rule, usize),
        stores: &Stores,
        ledger: &Ledger,
        depth: Depth,
    ) -> Result<Vec<News>, SourceError> {
        let store = stores.get(&self.config.store, Access::ReadOnly)?;
        let tables = store.tables()?;
        let back = match depth {
            Depth::Quick => QUICK,
            Depth::Whole => SignedDuration::try_from(self.config.overlap).unwrap_or_default(),
        };
        let (known, reached) = self.begin(rule, ledger).await?;
        let watched = if let Some(watched) = known {
            watched
        } else {
            let watched = Arc::new(tables.watch(&self.config).await?);
            self.state().watched = Some(watched.clone());
            watched
        };
        let mut since = reached.map(|at| at.checked_sub(back).unwrap_or(Timestamp::MIN));
        let mut limit = PAGE;
        let (mut news, mut found) = (Vec::new(), HashSet::new());
        loop {
            let rows = match tables.happened(&watched, since, limit).await {
                Ok(rows) => rows,
                Err(error) => {
                    // The table may be another by now.
                    self.state().watched = None;
                    return Err(error.into());
                }
            };
            let is_all = rows.len() < limit as usize;
            let last = rows.last().map(|row| row.at);
            // Pages overlap by rows of one moment.
            let fresh = rows.into_iter().filter(|row| found.insert(row.key.clone()));
            let sightings = fresh.filter_map(|row| Sighting::of(&self.config, row));
            {
                let mut state = self.state();
                news.extend(sightings.filter_map(|sighting| state.news(rule, place, &sighting)));
            }
            if is_all || news.len() >= PAGE as usize {
                break;
            }
            // Where a whole page is of one moment, the next must be larger to get beyond it.
            limit = if last > since { PAGE } else { limit.saturating_mul(2) };
            since = last.max(since);
        }
        Ok(news)
    }

    /// What is known of the table, and the latest moment that was worked off.
    async fn begin(
        &self,
        rule: &Rule,
        ledger: &Ledger,
    ) -> Result<(Option<Arc<Watched>>, Option<Timestamp>), SourceError> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let reached = ledger.source_reached(&rule.name, &self.config.name).await?;
        // What happened long before anybody listened goes by its age. From when on somebody listens outlasts a restart: a
        // rule may wait for days for its first approval.
        let now = clock::now();
        if reached.is_none() {
            ledger.set_source_reached(&rule.name, &self.config.name, now).await?;
        }
        let mut state = self.state();
        // What was worked off meanwhile was seen just now, and may have come earlier to pass than what was not.
        state.reached = Some(reached.unwrap_or(now).min(now));
        state.is_loaded = true;
        Ok((state.watched.clone(), state.reached))
    }

    fn known(&self) -> Option<(Option<Arc<Watched>>, Option<Timestamp>)> {
        let state = self.state();
        state.is_loaded.then(|| (state.watched.clone(), state.reached))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What a row says to a rule; nothing where it was worked off, or names nothing that the rule could delete.
    fn news(&mut self, rule: &Rule, place: usize, sighting: &Sighting) -> Option<News> {
        let Sighting { event, row, values, .. } = sighting;
        if self.has_seen(row) {
            return None;
        }
        let values = values.iter().map(|(name, value)| (name.clone(), Value::Text(value.clone())));
        let told = Told { id: None, name: event.clone(), values: values.collect() };
        match told.heard_by([rule], || sighting.id()) {
            Ok((event, _)) => Some(News { source: place, row: row.clone(), event }),
            // Of each status there may be rows that mean none of the rule's records.
            Err(EventError::Missing { .. }) => {
                self.pass(row);
                None
            }
            Err(error) => {
                self.pass(row);
                // Not for each row: an application may have many such.
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!(rule = %rule.name, source = %sighting.source, %error, "a row names nothing that could be deleted; this is said once");
                }
                None
            }
        }
    }

    /// Takes note that a row is done with.
    fn pass(&mut self, row: &Happened) {
        // One moment that lies in the future is not to hide what happens until then.
        self.reached = self.reached.max(Some(row.at.min(clock::now())));
        self.seen.insert(row.key.clone(), (row.at, row.status.clone()));
    }

    fn has_seen(&self, row: &Happened) -> bool {
        let before = self.seen.get(&row.key);
        before.is_some_and(|(at, status)| *at == row.at && *status == row.status)
    }
}
