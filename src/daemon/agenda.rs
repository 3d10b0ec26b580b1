//! What is due when, decided from what is remembered and `now`: nothing here waits or reads a clock.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::config::Config;
use crate::rule::{Mode, Rule};
use crate::run::{RunResult, RunState};
use crate::schedule::Schedule;
use crate::types::Name;

/// The longest that a continuous rule sleeps: what was changed in the meantime is noticed then.
pub(super) const LOOK_AGAIN: SignedDuration = SignedDuration::from_hours(1);
/// The shortest: records that fall due within it go together.
pub(super) const GATHER: SignedDuration = SignedDuration::from_secs(2);
/// How long a continuous rule waits after a failure; twice as long after each further one that left
/// an entry in the audit log.
const AFTER_FAILURE: SignedDuration = SignedDuration::from_mins(1);
/// The longest that it waits where `max_age` is a promise.
const AFTER_FAILURES_OF_EVENTS: SignedDuration = SignedDuration::from_mins(4);

/// What came of a continuous rule's last look.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Looked {
    /// There was none since the start: the rule runs in any case, so that the ledger shows it alive.
    #[default]
    Never,
    /// It went well.
    Well,
    /// It failed, and the ledger shows that: the next that goes well runs in any case.
    Failed,
}

/// How a rule's task ended, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// All is done; look again then, where the task could tell.
    Well(Option<Timestamp>),
    /// It failed and left an entry in the audit log.
    Recorded,
    /// It failed and left none, or somebody else is running the rule.
    Unrecorded,
}

impl Ending {
    /// What a run's result means. Records that are still due were in somebody's use. Where it is not known
    /// whether any is, as in folders that cannot be read, that stays so for a while.
    pub(super) fn of(result: &RunResult, mode: Mode, look_again: Option<Timestamp>) -> Ending {
        match result.state {
            // Its events are tried again in their own time.
            RunState::Failed if result.stuck_events > 0 && result.remaining == Some(0) => {
                Ending::Well(look_again)
            }
            RunState::Done
                if mode == Mode::Enforce && result.remaining.is_some_and(|due| due > 0) =>
            {
                Ending::Unrecorded
            }
            RunState::Done if mode == Mode::Enforce && result.remaining.is_none() => {
                Ending::Recorded
            }
            RunState::Done | RunState::Observed => Ending::Well(look_again),
            RunState::Failed | RunState::Refused | RunState::Waiting => Ending::Recorded,
            RunState::Stopped | RunState::Busy => Ending::Unrecorded,
        }
    }
}

/// What is remembered of a continuous rule.
#[derive(Clone, Copy, Default, Debug)]
struct Watch {
    /// When to look; at once where there is no time.
    next: Option<Timestamp>,
    looked: Looked,
    failures: u32,
}

/// What the daemon remembers of its rules between two looks at the ledger.
#[derive(Default, Debug)]
pub(super) struct Agenda {
    continuous: BTreeMap<Name, Watch>,
    /// Rules whose last slot lies in the future, because the clock was set back, and the moment from
    /// which slots count for them again.
    set_back: BTreeMap<Name, Timestamp>,
}

impl Agenda {
    /// The slot of a rule that is due, given what the ledger has seen of it.
    pub(super) fn due_slot(
        &mut self,
        rule: &Rule,
        seen_until: Timestamp,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let mut after = seen_until;
        if seen_until > now {
            // Waiting for the clock to get there again could take years.
            let from = self.set_back.entry(rule.name.clone()).or_insert(now);
            *from = (*from).min(now);
            after = *from;
        } else {
            self.set_back.remove(&rule.name);
        }
        rule.schedule.due_slot(&rule.time_zone, after, now)
    }

    /// Takes note that a slot was claimed, here or elsewhere.
    pub(super) fn claimed(&mut self, rule: &Name, slot: Timestamp) {
        if let Some(from) = self.set_back.get_mut(rule) {
            *from = slot;
        }
    }

    /// Whether a rule's last slot lies in the future.
    pub(super) fn clock_was_set_back(&self, rule: &Name) -> bool {
        self.set_back.contains_key(rule)
    }

    /// What came of a continuous rule's last look, if it is time for the next.
    pub(super) fn due_look(&mut self, rule: &Name, now: Timestamp) -> Option<Looked> {
        let watch = self.continuous.entry(rule.clone()).or_default();
        // Nobody sleeps longer than that: further ahead it is only because the clock was set back.
        let next = watch.next.map(|next| next.min(now + LOOK_AGAIN));
        watch.next = next;
        next.is_none_or(|next| next <= now).then_some(watch.looked)
    }

    /// Takes note of how a task of a continuous rule ended.
    pub(super) fn looked(&mut self, rule: &Rule, ending: Ending, now: Timestamp) {
        let watch = self.continuous.entry(rule.name.clone()).or_default();
        let longest = if rule.events.is_empty() { LOOK_AGAIN } else { AFTER_FAILURES_OF_EVENTS };
        let wait = match ending {
            Ending::Well(next) => {
                let next = next.unwrap_or(now + AFTER_FAILURE);
                *watch = Watch { next: Some(next), looked: Looked::Well, failures: 0 };
                return;
            }
            Ending::Recorded => {
                watch.failures += 1;
                AFTER_FAILURE * (1 << (watch.failures - 1).min(6))
            }
            Ending::Unrecorded => AFTER_FAILURE,
        };
        watch.looked = Looked::Failed;
        watch.next = Some(now + wait.min(longest));
    }

    /// When the next continuous rule that waits is to look.
    pub(super) fn next_look(&self, is_running: impl Fn(&Name) -> bool) -> Option<Timestamp> {
        let waiting = self.continuous.iter().filter(|(rule, _)| !is_running(rule));
        waiting.map(|(_, watch)| watch.next.unwrap_or(Timestamp::MIN)).min()
    }

    /// Takes note of a new configuration: continuous rules look again at once.
    pub(super) fn reconfigured(&mut self, config: &Config) {
        self.continuous.retain(|name, watch| {
            watch.next = None;
            let rule = config.rules.get(name);
            rule.is_some_and(|rule| matches!(rule.schedule, Schedule::Continuous))
        });
        self.set_back.retain(|name, _| config.rules.contains_key(name));
    }
}

/// When a continuous rule looks again after all went well: as its next record falls due, or, where
/// there is none, when one that starts now would.
pub(super) fn next_look(rule: &Rule, next_start: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let due_at = |start| rule.retention.due_at(start, &rule.time_zone);
    let next = next_start.map_or(Timestamp::MAX, due_at).min(due_at(now));
    // A record is due strictly after that moment.
    let next = next.checked_add(SignedDuration::from_millis(1)).unwrap_or(Timestamp::MAX);
    next.clamp(now + GATHER, now + LOOK_AGAIN)
}

#[cfg(test)]
mod tests;
