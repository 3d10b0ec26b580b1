//! When a rule runs: the slots of a cron expression in a time zone, or continuously; and in which hours it may.
//!
//! Pure: which slot is due is decided from the last slot and `now`. A slot is the *instant* at which
//! the expression matches the wall clock of the zone, so a slot in the hour that a daylight-saving
//! change skips or repeats is found once a day, not never and not twice.

use std::fmt;
use std::str::FromStr;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::Timestamp;
use jiff::tz::TimeZone;

mod window;

pub use window::{Hours, InvalidHours, Windows};

/// When a rule is due to run.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// At the slots of a five-field cron expression (minute, hour, day, month, weekday).
    Cron(Box<Cron>),
    /// As records fall due: the daemon sleeps until the next record's due moment.
    Continuous,
}

/// Why a text is not a [`Schedule`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a schedule: {reason}")]
pub struct InvalidSchedule {
    text: String,
    reason: String,
}

impl FromStr for Schedule {
    type Err = InvalidSchedule;

    fn from_str(text: &str) -> Result<Self, InvalidSchedule> {
        let invalid = |reason: &dyn fmt::Display| InvalidSchedule {
            text: text.into(),
            reason: reason.to_string(),
        };
        if text == "continuous" {
            return Ok(Schedule::Continuous);
        }
        let fields = text.split_whitespace().count();
        if fields != 5 && !text.starts_with('@') {
            return Err(invalid(&format!(
                "it has {fields} fields, not the five of minute hour day month weekday"
            )));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| invalid(&error))?;
        // A pattern such as `0 0 30 2 *` parses and never matches: found here, not at night.
        let start = jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0);
        let start = start.to_zoned(TimeZone::UTC).map_err(|error| invalid(&error))?;
        match cron.find_next_occurrence(&start, true) {
            Ok(_) => Ok(Schedule::Cron(Box::new(cron))),
            Err(_) => Err(invalid(&"it matches no day at all")),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Cron(cron) => f.write_str(cron.as_str()),
            Schedule::Continuous => f.write_str("continuous"),
        }
    }
}

impl Schedule {
    /// The first slot strictly after `after`; `None` for a continuous schedule.
    pub fn next_slot(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let Schedule::Cron(cron) = self else { return None };
        let slot = cron.find_next_occurrence(&after.to_zoned(zone.clone()), false).ok()?;
        Some(slot.timestamp())
    }

    /// The latest slot at or before `now`; `None` for a continuous schedule.
    pub fn previous_slot(&self, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        let Schedule::Cron(cron) = self else { return None };
        let slot = cron.find_previous_occurrence(&now.to_zoned(zone.clone()), true).ok()?;
        Some(slot.timestamp())
    }

    /// The slot to run now, given the last slot that was claimed (or the moment the rule was first
    /// seen, if none was).
    ///
    /// However many slots were missed while the daemon was down, only the latest is due: one run
    /// finds everything that the missed ones would have.
    pub fn due_slot(
        &self,
        zone: &TimeZone,
        last_slot: Timestamp,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.previous_slot(zone, now).filter(|slot| *slot > last_slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    pub(super) fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    fn slots(expression: &str, from: &str, count: usize) -> Vec<String> {
        let schedule: Schedule = expression.parse().unwrap();
        let mut after = at(from);
        std::iter::repeat_with(|| {
            after = schedule.next_slot(&berlin(), after).unwrap();
            after.to_string()
        })
        .take(count)
        .collect()
    }

    #[test]
    fn slots_follow_the_wall_clock_through_both_changes() {
        assert_eq!(
            slots("0 3 * * *", "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T02:00:00Z", "2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"]
        );
        assert_eq!(
            slots("0 3 * * *", "2026-10-24T00:00:00Z", 3),
            ["2026-10-24T01:00:00Z", "2026-10-25T02:00:00Z", "2026-10-26T02:00:00Z"]
        );
    }

    #[test]
    fn a_slot_in_the_skipped_hour_comes_once_that_day() {
        let found = slots("30 2 * * *", "2026-03-28T12:00:00Z", 2);
        assert_eq!(found[0], "2026-03-29T01:00:00Z", "the first moment after the gap");
        assert_eq!(found[1], "2026-03-30T00:30:00Z");
    }

    #[test]
    fn a_slot_in_the_repeated_hour_comes_once_that_day() {
        let found = slots("30 2 * * *", "2026-10-24T12:00:00Z", 2);
        assert!(found[0].starts_with("2026-10-25T0"), "{found:?}");
        assert_eq!(found[1], "2026-10-26T01:30:00Z");
    }

    #[test]
    fn many_missed_slots_are_caught_up_once() {
        let daily: Schedule = "0 3 * * *".parse().unwrap();
        let last = at("2026-01-01T02:00:00Z");
        let slot = daily.due_slot(&berlin(), last, at("2026-01-15T12:00:00Z"));
        assert_eq!(slot, Some(at("2026-01-15T02:00:00Z")));
        assert_eq!(daily.due_slot(&berlin(), slot.unwrap(), at("2026-01-15T12:00:01Z")), None);
    }

    #[test]
    fn a_clock_set_back_makes_nothing_due() {
        let daily: Schedule = "0 3 * * *".parse().unwrap();
        let last = at("2026-01-15T02:00:00Z");
        assert_eq!(daily.due_slot(&berlin(), last, at("2026-01-10T12:00:00Z")), None);
    }

    #[test]
    fn what_is_not_a_schedule_is_refused_with_a_reason() {
        for bad in ["", "0 3 * *", "0 0 3 * * *", "61 3 * * *", "0 0 30 2 *", "nightly"] {
            let error = bad.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains("is not a schedule"), "{error}");
        }
        assert!(matches!("continuous".parse(), Ok(Schedule::Continuous)));
    }
}
