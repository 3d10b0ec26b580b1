//! Events that are found in an application's own table. The table is the truth: whatever wakes a rule,
//! it looks there, and a wake-up that got lost loses nothing.
//!
//! A row may come to light later than the moment that it names, by as much as its transaction took. So
//! a look goes back by an overlap, and what was worked off within it is remembered. A quick look, as
//! upon a notification, goes back a little only; a whole one follows at intervals.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;

use crate::clock;
use crate::config::{Config, SourceConfig};
use crate::ledger::{Ledger, LedgerError};
use crate::rule::Rule;
use crate::store::sql::{Access, Happened, Watched};
use crate::store::{StoreError, Stores};
use crate::types::{Key, Name};

/// Rows that are read at once.
const PAGE: u32 = 1_000;
/// How far a quick look goes back.
const QUICK: SignedDuration = SignedDuration::from_secs(2);
/// How far a look at the latest goes back.
const LATEST: SignedDuration = SignedDuration::from_millis(250);

/// The sources of each rule that listens to any.
#[derive(Debug, Default)]
pub struct Sources(BTreeMap<Name, Vec<Source>>);

/// A source, as far as one rule has come with it.
#[derive(Debug)]
struct Source {
    config: SourceConfig,
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
}

/// How far back a look goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Depth {
    /// Hardly at all, because there is no time to lose: a quick look is to follow.
    Latest,
    /// A little: something has happened just now.
    Quick,
    /// By the whole overlap.
    Whole,
}

/// Something that has happened and was not worked off yet.
pub(super) struct News {
    pub(super) source: usize,
    pub(super) row: Happened,
    /// The values of the event.
    pub(super) values: BTreeMap<String, String>,
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
        let listens = |rule: &Rule| {
            let sources = config.sources.values();
            let of_rule = sources
                .filter(|source| source.events.values().any(|event| rule.events.contains(event)));
            let sources: Vec<_> = of_rule
                .map(|config| Source { config: config.clone(), state: Mutex::default() })
                .collect();
            (!sources.is_empty()).then(|| (rule.name.clone(), sources))
        };
        Sources(config.rules.values().filter_map(listens).collect())
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
        for (place, source) in self.0.get(&rule.name).into_iter().flatten().enumerate() {
            match source.look(rule, stores, ledger, depth).await {
                Ok(found) => news.extend(found.into_iter().map(|(row, values)| News {
                    source: place,
                    row,
                    values,
                })),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        (news, failure)
    }

    /// Those of these that were not worked off since they were found.
    pub(super) async fn unseen(&self, rule: &Name, news: Vec<News>) -> Vec<News> {
        let Some(sources) = self.0.get(rule) else { return news };
        let mut unseen = Vec::with_capacity(news.len());
        for one in news {
            let Some(source) = sources.get(one.source) else { continue };
            if !source.state.lock().await.has_seen(&one.row) {
                unseen.push(one);
            }
        }
        unseen
    }

    /// Takes note that these were worked off.
    pub(super) async fn worked_off<'a>(&self, rule: &Name, news: impl Iterator<Item = &'a News>) {
        let Some(sources) = self.0.get(rule) else { return };
        for News { source, row, .. } in news {
            let Some(source) = sources.get(*source) else { continue };
            let mut state = source.state.lock().await;
            // One moment that lies in the future is not to hide what happens until then.
            state.reached = state.reached.max(Some(row.at.min(clock::now())));
            state.seen.insert(row.key.clone(), (row.at, row.status.clone()));
        }
    }

    /// Has the ledger remember how far a rule has come.
    pub(super) async fn save(&self, rule: &Name, ledger: &Ledger) -> Result<(), LedgerError> {
        for source in self.0.get(rule).into_iter().flatten() {
            let mut state = source.state.lock().await;
            let Some(reached) = state.reached else { continue };
            ledger.set_source_reached(rule, &source.config.name, reached).await?;
            let overlap = SignedDuration::try_from(source.config.overlap).unwrap_or_default();
            let oldest = reached.checked_sub(overlap).unwrap_or(Timestamp::MIN);
            state.seen.retain(|_, (at, _)| *at >= oldest);
        }
        Ok(())
    }
}

impl Source {
    async fn look(
        &self,
        rule: &Rule,
        stores: &Stores,
        ledger: &Ledger,
        depth: Depth,
    ) -> Result<Vec<(Happened, BTreeMap<String, String>)>, SourceError> {
        let store = stores.get(&self.config.store, Access::ReadOnly)?;
        let tables = store.tables()?;
        let back = match depth {
            Depth::Latest => LATEST,
            Depth::Quick => QUICK,
            Depth::Whole => SignedDuration::try_from(self.config.overlap).unwrap_or_default(),
        };
        // Nobody waits for the state while a table is read: a whole look takes long.
        let (known, reached) = self.begin(rule, ledger).await?;
        let watched = if let Some(watched) = known {
            watched
        } else {
            let watched = Arc::new(tables.watch(&self.config).await?);
            self.state.lock().await.watched = Some(watched.clone());
            watched
        };
        let mut since = reached.map(|at| at.checked_sub(back).unwrap_or(Timestamp::MIN));
        let mut limit = PAGE;
        let mut news = Vec::new();
        loop {
            let rows = match tables.happened(&watched, since, limit).await {
                Ok(rows) => rows,
                Err(error) => {
                    // The table may be another by now.
                    self.state.lock().await.watched = None;
                    return Err(error.into());
                }
            };
            let is_all = rows.len() < limit as usize;
            let last = rows.last().map(|row| row.at);
            let state = self.state.lock().await;
            for row in rows {
                let event = self.config.events.get(&row.status);
                let is_meant = event.is_some_and(|event| rule.events.contains(event));
                if !is_meant
                    || state.has_seen(&row)
                    || news.iter().any(|(known, _): &(Happened, _)| known.key == row.key)
                {
                    continue;
                }
                let values = self.config.values.iter().cloned().zip(&row.values);
                let values: BTreeMap<_, _> =
                    values.filter_map(|(name, value)| Some((name, value.clone()?))).collect();
                news.push((row, values));
            }
            drop(state);
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
        let mut state = self.state.lock().await;
        if !state.is_loaded {
            let reached = ledger.source_reached(&rule.name, &self.config.name).await?;
            // What happened long before anybody listened goes by its age.
            let now = clock::now();
            state.reached = Some(reached.unwrap_or(now).min(now));
            state.is_loaded = true;
        }
        Ok((state.watched.clone(), state.reached))
    }
}

impl State {
    fn has_seen(&self, row: &Happened) -> bool {
        let before = self.seen.get(&row.key);
        before.is_some_and(|(at, status)| *at == row.at && *status == row.status)
    }
}
