//! What wakes the run of an event rule that stands, and what it is handed then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::sources::{Depth, Sighting};
use crate::rule::Rule;
use crate::types::Name;

/// Sightings that a run may have before it: what is beyond is found by its own looks.
const MOST: usize = 10_000;

/// What wakes the standing run of each event rule.
#[derive(Debug, Default)]
pub struct Inboxes(BTreeMap<Name, Arc<Inbox>>);

/// What wakes the standing run of a rule.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    notify: Notify,
    calls: AtomicU8,
    sightings: Mutex<Vec<Arc<Sighting>>>,
}

/// Set in an inbox while somebody stands before it.
const STANDS: u8 = 8;

/// Says that a run stands before its inbox, until this is dropped.
pub(super) struct Standing<'a>(&'a Inbox);

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_and(!STANDS, Ordering::AcqRel);
    }
}

/// Why a run is woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// An event was received.
    Received,
    /// An application's table may tell of something.
    Happened(Depth),
}

impl Call {
    fn bit(self) -> u8 {
        match self {
            Call::Received => 1,
            Call::Happened(Depth::Quick) => 2,
            Call::Happened(Depth::Whole) => 4,
        }
    }
}

/// What a run was woken for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calls(u8);

impl Calls {
    /// Whether events were received.
    pub(super) fn received(self) -> bool {
        self.0 & Call::Received.bit() != 0
    }

    /// How deep to look at applications' tables.
    pub(super) fn depth(self) -> Option<Depth> {
        let asks = |depth: &Depth| self.0 & Call::Happened(*depth).bit() != 0;
        [Depth::Whole, Depth::Quick].into_iter().find(asks)
    }
}

impl Inboxes {
    /// One for each rule that events wake; those of before are kept, because runs may stand that began
    /// under another configuration.
    pub fn new(rules: &BTreeMap<Name, Rule>, before: Option<&Inboxes>) -> Inboxes {
        let woken = rules.values().filter(|rule| !rule.events.is_empty());
        let inbox = |rule: &Rule| {
            let kept = before.and_then(|before| before.0.get(&rule.name).cloned());
            (rule.name.clone(), kept.unwrap_or_default())
        };
        Inboxes(woken.map(inbox).collect())
    }

    /// The inbox of a rule.
    pub(super) fn of(&self, rule: &Name) -> Arc<Inbox> {
        self.0.get(rule).cloned().unwrap_or_default()
    }

    /// Wakes the run of a rule, and says whether it stands; otherwise the next one finds everything by
    /// itself.
    pub fn call(&self, rule: &Name, call: Call) -> bool {
        let Some(inbox) = self.0.get(rule) else { return false };
        let before = inbox.calls.fetch_or(call.bit(), Ordering::AcqRel);
        inbox.notify.notify_one();
        before & STANDS != 0
    }

    /// Hands what was seen just now to the run of a rule, if it stands: it need not look for that itself when it is
    /// [called](Inboxes::call). The table stays the truth, so nothing is lost with what is not handed over.
    pub fn hand_over(&self, rule: &Name, sightings: &[Arc<Sighting>]) {
        let Some(inbox) = self.0.get(rule) else { return };
        let stands = inbox.calls.load(Ordering::Acquire) & STANDS != 0;
        let mut waiting = inbox.lock();
        if stands && waiting.len() < MOST {
            waiting.extend_from_slice(sightings);
        }
    }
}

impl Inbox {
    /// Takes a stand here. What came before is not heeded: whoever begins looks everywhere.
    pub(super) fn stand(&self) -> Standing<'_> {
        self.lock().clear();
        self.calls.store(STANDS, Ordering::Release);
        Standing(self)
    }

    /// Waits until somebody calls.
    pub(super) async fn called(&self) {
        self.notify.notified().await;
    }

    /// What somebody who stands here was called for since the last time, and what was handed over.
    pub(super) fn take(&self) -> (Calls, Vec<Arc<Sighting>>) {
        let calls = Calls(self.calls.swap(STANDS, Ordering::AcqRel));
        (calls, std::mem::take(&mut *self.lock()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Sighting>>> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
