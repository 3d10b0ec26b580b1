//! Rules whose events wait, because the last run failed: each would fail again, and be recorded each time.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{Id, JoinError};

use super::Daemon;
use super::work::Ended;
use crate::clock::Stopwatch;
use crate::ledger::LedgerError;
use crate::rule::Rule;
use crate::run::RunState;
use crate::types::Name;

/// How long after a failure events are tried again; twice as long after each further one.
const AGAIN: Duration = Duration::from_secs(5);
/// So often it is twice as long.
const DOUBLED: u32 = 6;

/// The rules whose events wait.
#[derive(Default)]
pub(super) struct PutOff(BTreeMap<Name, Wait>);

struct Wait {
    since: Stopwatch,
    failures: u32,
}

impl Wait {
    fn left(&self) -> Duration {
        (AGAIN * (1 << self.failures.min(DOUBLED))).saturating_sub(self.since.elapsed())
    }
}

impl PutOff {
    /// Whether the events of a rule wait.
    pub(super) fn contains(&self, rule: &Name) -> bool {
        self.0.contains_key(rule)
    }

    /// Takes note of the end of a rule's task.
    pub(super) fn ended(&mut self, rule: &Name, has_failed: bool) {
        let before = self.0.remove(rule);
        if has_failed {
            let failures = before.map_or(0, |before| before.failures + 1);
            self.0.insert(rule.clone(), Wait { since: Stopwatch::start(), failures });
        }
    }

    /// The rules that are to be tried again now.
    pub(super) fn over(&self, is_running: impl Fn(&Name) -> bool) -> Vec<Name> {
        let over = self.0.iter().filter(|(rule, wait)| wait.left().is_zero() && !is_running(rule));
        over.map(|(rule, _)| rule.clone()).collect()
    }

    /// How long none needs to be tried again.
    pub(super) fn left(&self, is_running: impl Fn(&Name) -> bool) -> Duration {
        let waiting = self.0.iter().filter(|(rule, _)| !is_running(rule));
        waiting.map(|(_, wait)| wait.left()).min().unwrap_or(Duration::MAX)
    }

    /// Has nothing wait any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Daemon {
    /// Whether the events of a rule wait: for somebody's approval, or because the last run failed.
    pub(super) async fn keeps_events_waiting(&self, rule: &Rule) -> Result<bool, LedgerError> {
        Ok(!rule.events.is_empty()
            && (self.put_off.contains(&rule.name) || self.ledger.waits_for_approval(rule).await?))
    }

    /// Whether a continuous rule looks for nothing now: it is at work, or its window is closed. The ticker looks whether that
    /// has opened.
    pub(super) fn is_not_to_look(&self, rule: &Name, now: Timestamp) -> bool {
        let is_open = |rule: &Rule| rule.is_open(now);
        self.running.contains_key(rule) || !self.active.config.rules.get(rule).is_none_or(is_open)
    }
}

/// Whether a task ended in a way that it would again.
pub(super) fn has_failed(ended: &Result<(Id, Ended), JoinError>) -> bool {
    match ended {
        Ok((_, Ended { result: Ok(result), .. })) => result
            .as_ref()
            .is_some_and(|result| matches!(result.state, RunState::Failed | RunState::Refused)),
        Ok((_, Ended { result: Err(_), .. })) => true,
        Err(error) => error.is_panic(),
    }
}
