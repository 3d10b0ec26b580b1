//! Looking at applications' tables: upon a notification at once, and at intervals in any case.
//!
//! Nothing is decided here. A rule whose run stands is handed what a notification is about, read on the connection that
//! heard it, and woken; the others are told to the loop, which looks whether there is anything for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::work::Active;
use crate::config::SourceConfig;
use crate::rule::{Mode, Rule};
use crate::run::{Call, Depth, Latest, Sighting};
use crate::store::StoreError;
use crate::store::sql::{Access, Listener};
use crate::types::Name;

/// How long after a failure to listen it is tried again; until then there are the intervals.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Watches the sources of a configuration until it is dropped.
pub(super) struct Listening {
    _tasks: JoinSet<()>,
    calls: Arc<Mutex<BTreeMap<Name, Depth>>>,
}

impl Listening {
    /// Begins; `wake` is told when there is something to look at.
    pub(super) fn start(active: &Arc<Active>, wake: &Arc<Notify>) -> Listening {
        let calls = Arc::<Mutex<BTreeMap<Name, Depth>>>::default();
        let mut tasks = JoinSet::new();
        for source in active.config.sources.values() {
            let watch = Watch {
                active: active.clone(),
                source: source.clone(),
                rules: listeners(active, source),
                calls: calls.clone(),
                wake: wake.clone(),
            };
            tasks.spawn(watch.go_on());
        }
        Listening { _tasks: tasks, calls }
    }

    /// The rules that there may be something for, and how deep to look. Those for which `is_busy` are told
    /// again the next time.
    pub(super) fn take(&self, is_busy: impl Fn(&Name) -> bool) -> Vec<(Name, Depth)> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let free: Vec<Name> = calls.keys().filter(|rule| !is_busy(rule)).cloned().collect();
        free.into_iter().filter_map(|rule| calls.remove_entry(&rule)).collect()
    }
}

fn listeners(active: &Active, source: &SourceConfig) -> Vec<Name> {
    let listens = |events: &[_]| source.events.values().any(|event| events.contains(event));
    // One that only observes would be told of the same for ever.
    let acts = |rule: &&Rule| rule.mode == Mode::Enforce && listens(&rule.events);
    let rules = active.config.rules.values().filter(acts);
    rules.map(|rule| rule.name.clone()).collect()
}

/// Watches one source.
struct Watch {
    active: Arc<Active>,
    source: SourceConfig,
    rules: Vec<Name>,
    calls: Arc<Mutex<BTreeMap<Name, Depth>>>,
    wake: Arc<Notify>,
}

impl Watch {
    async fn go_on(self) {
        let mut ear: Option<Ear> = None;
        let mut interval = tokio::time::interval(self.source.poll);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_lost = false;
        loop {
            if ear.is_none()
                && let Some(channel) = &self.source.notify
            {
                match self.listen(channel).await {
                    Ok(new) => {
                        ear = Some(new);
                        was_lost = false;
                        // What was told before anybody listened is there to be seen.
                        self.call(Depth::Whole);
                    }
                    Err(error) if !was_lost => {
                        tracing::warn!(source = %self.source.name, %error, "its notifications are not heard; the table is looked at in intervals");
                        was_lost = true;
                    }
                    Err(error) => {
                        tracing::debug!(source = %self.source.name, %error, "still not heard");
                    }
                }
            }
            tokio::select! {
                heard = hear(ear.as_mut()) => match heard {
                    Ok(sightings) => {
                        for rule in &self.rules {
                            self.active.runner.inboxes.hand_over(rule, &sightings);
                        }
                        self.call(Depth::Quick);
                    }
                    Err(Lost) => ear = None,
                },
                _ = interval.tick() => {
                    self.call(Depth::Whole);
                    if let Some(hears) = &mut ear
                        && let Err(error) = self.care_for(hears).await
                    {
                        tracing::debug!(source = %self.source.name, %error, "listening anew");
                        ear = None;
                    }
                }
            }
        }
    }

    async fn listen(&self, channel: &str) -> Result<Ear, StoreError> {
        let store = self.active.runner.stores.get(&self.source.store, Access::ReadOnly)?;
        let listener = store.tables()?.listen(channel).await?;
        Ok(Ear { listener, latest: self.latest().await })
    }

    /// Where the table cannot be held against the source now, the rules' own looks say why.
    async fn latest(&self) -> Option<Latest> {
        Latest::new(&self.active.runner.stores, &self.source).await.ok()
    }

    /// Sees whether the connection is still there, and what became of the table.
    async fn care_for(&self, ear: &mut Ear) -> Result<(), sqlx::Error> {
        ear.listener.ping().await?;
        if ear.latest.is_none() {
            ear.latest = self.latest().await;
        }
        Ok(())
    }

    fn call(&self, depth: Depth) {
        {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            for rule in &self.rules {
                let known = calls.entry(rule.clone()).or_insert(depth);
                *known = (*known).max(depth);
            }
        }
        let mut all_heard = true;
        for rule in &self.rules {
            all_heard &= self.active.runner.inboxes.call(rule, Call::Happened(depth));
        }
        // Where every run stands, the loop has nothing to do; it looks once more when one has ended.
        if !all_heard {
            self.wake.notify_one();
        }
    }
}

/// Hears notifications, and reads what they are about.
struct Ear {
    listener: Listener,
    /// `None` while the table cannot be read so: then rules look by themselves.
    latest: Option<Latest>,
}

/// Waits for a notification, and gives what it is about; where there is no ear, until it is time to listen again. Dropped
/// before its end, a look at the whole table has to follow.
async fn hear(ear: Option<&mut Ear>) -> Result<Vec<Arc<Sighting>>, Lost> {
    let Some(Ear { listener, latest }) = ear else {
        tokio::time::sleep(LISTEN_AGAIN).await;
        return Err(Lost);
    };
    listener.woken().await.map_err(|_| Lost)?;
    let Some(reads) = latest else { return Ok(Vec::new()) };
    let looked = reads.look(listener).await;
    if looked.is_err() {
        // The table may be another by now.
        *latest = None;
    }
    Ok(looked.unwrap_or_default())
}

/// The connection is lost.
struct Lost;
