//! Events that could not be worked off: what they name is held, cannot be deleted or is no file. They wait,
//! and are in nobody's way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::types::Name;

/// Events that could not be worked off, and wait in the ledger.
#[derive(Clone, Default, Debug)]
pub(super) struct StuckEvents {
    ids: BTreeSet<String>,
    why: String,
    /// Whether some of them were tried in this run.
    pub(super) are_new: bool,
}

impl StuckEvents {
    pub(super) fn add(&mut self, ids: Vec<String>, why: String) {
        self.ids.extend(ids);
        self.why = why;
        self.are_new = true;
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Why the last of them could not be worked off.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    pub(super) fn count(&self) -> u64 {
        self.ids.len() as u64
    }

    /// What is said of them.
    pub(super) fn in_words(&self) -> String {
        let wait = match self.count() {
            1 => "1 event waits, because what it names".to_owned(),
            events => format!("{events} events wait, because what they name"),
        };
        format!("{wait} is held or cannot be deleted, and is tried again: {}", self.why)
    }
}

/// The stuck events of each rule, until they are to be tried again. Nothing rests on it: a process that knows
/// of none tries all that wait.
#[derive(Default, Debug)]
pub struct StuckByRule(Mutex<BTreeMap<Name, StuckEvents>>);

impl StuckByRule {
    pub(super) fn of(&self, rule: &Name) -> StuckEvents {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(rule).cloned().unwrap_or_default();
        StuckEvents { are_new: false, ..known }
    }

    pub(super) fn keep(&self, rule: &Name, stuck: StuckEvents) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(rule.clone(), stuck);
    }

    /// Has the next run of a rule try them again.
    pub fn release(&self, rule: &Name) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(rule);
    }
}
