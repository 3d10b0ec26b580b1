//! Rules whose events wait, because the last run failed: each would fail again, and be recorded each time.
//! Where some events alone could not be worked off, those wait, and the others are worked off meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{Id, JoinError};

use super::Daemon;
use super::work::{Ended, Work};
use crate::clock::Stopwatch;
use crate::ledger::LedgerError;
use crate::rule::Rule;
use crate::run::RunState;
use crate::schedule::Schedule;
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
    /// Whether all events of the rule wait, or those alone that could not be worked off.
    is_for_all: bool,
    /// Whether it is over, and they are being tried.
    is_tried: bool,
}

impl Wait {
    fn left(&self) -> Duration {
        (AGAIN * (1 << self.failures.min(DOUBLED))).saturating_sub(self.since.elapsed())
    }
}

/// What the end of a rule's task says of its events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outlook {
    /// Nothing keeps them.
    Clear,
    /// Some could not be worked off.
    SomeStuck,
    /// It failed, and would again.
    Failing,
}

impl PutOff {
    /// Whether all events of a rule wait.
    pub(super) fn contains(&self, rule: &Name) -> bool {
        self.0.get(rule).is_some_and(|wait| wait.is_for_all)
    }

    /// Takes note of the end of a rule's task.
    pub(super) fn ended(&mut self, rule: &Name, outlook: Outlook) {
        let is_for_all = outlook == Outlook::Failing;
        let before = self.0.get(rule).filter(|wait| wait.is_for_all || wait.is_tried || is_for_all);
        // Those that could not be worked off before were not tried by this one.
        if before.is_none() && self.0.contains_key(rule) {
            return;
        }
        let failures = before.map_or(0, |before| before.failures + 1);
        self.0.remove(rule);
        if outlook != Outlook::Clear {
            let since = Stopwatch::start();
            self.0.insert(rule.clone(), Wait { since, failures, is_for_all, is_tried: false });
        }
    }

    /// Forgets a rule that is not there any more.
    pub(super) fn forget(&mut self, rule: &Name) {
        self.0.remove(rule);
    }

    /// The rules of which what waits is to be tried again now.
    pub(super) fn over(&mut self, is_running: impl Fn(&Name) -> bool) -> Vec<Name> {
        let waiting = self.0.iter_mut().filter(|(rule, _)| !is_running(rule));
        let over = waiting.filter(|(_, wait)| wait.left().is_zero());
        let try_again = |(rule, wait): (&Name, &mut Wait)| {
            wait.is_tried = true;
            rule.clone()
        };
        over.map(try_again).collect()
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

    /// Starts the looks of continuous rules that are due.
    pub(super) fn start_looks(&mut self, now: Timestamp, of: impl Fn(&Rule) -> bool) {
        let active = self.active.clone();
        for rule in active.config.rules.values().filter(|rule| of(rule)) {
            if matches!(rule.schedule, Schedule::Continuous)
                && !self.is_not_to_look(&rule.name, now)
                && let Some(last) = self.agenda.due_look(&rule.name, now)
            {
                self.start(rule, Work::Look(last));
            }
        }
    }

    /// Whether a continuous rule looks for nothing now: it is at work, or its window is closed. The ticker looks whether that
    /// has opened.
    pub(super) fn is_not_to_look(&self, rule: &Name, now: Timestamp) -> bool {
        let is_open = |rule: &Rule| rule.is_open(now);
        self.running.contains_key(rule) || !self.active.config.rules.get(rule).is_none_or(is_open)
    }
}

/// What the end of a task says of the events of its rule.
pub(super) fn outlook(ended: &Result<(Id, Ended), JoinError>) -> Outlook {
    match ended {
        Ok((_, Ended { result: Ok(Some(result)), .. })) => match result.state {
            _ if result.stuck_events > 0 => Outlook::SomeStuck,
            RunState::Failed | RunState::Refused => Outlook::Failing,
            _ => Outlook::Clear,
        },
        Ok((_, Ended { result: Err(_), .. })) => Outlook::Failing,
        Err(error) if error.is_panic() => Outlook::Failing,
        Ok((_, Ended { result: Ok(None), .. })) | Err(_) => Outlook::Clear,
    }
}

#[cfg(test)]
mod tests;
