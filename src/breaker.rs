//! Circuit breakers: whether a run may begin, or waits before its first record until somebody
//! approves it.
//!
//! Pure. A rule has its [`Limits`], the ledger knows its [`History`], a survey says how many records
//! are due; [`trips`] puts them together. A run that was approved, or whose plan is being applied,
//! is not asked again.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

/// How far more than usual a run may take.
const FAR_MORE: f64 = 10.0;
/// So many records are never far more than usual.
const FEW: u64 = 1_000;
/// Runs that must have acted before there is a usual.
const ENOUGH_RUNS: usize = 4;
/// Runs that follow each other closer than this are taken for one.
const SHORTEST_GAP: SignedDuration = SignedDuration::from_hours(1);

/// What a run of a rule may take without being asked about.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// The largest part of its table, files or objects; a tenth unless the configuration says otherwise.
    pub max_share: Share,
    /// The most records; a million unless the configuration says otherwise.
    pub max_rows: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_share: Share::TENTH, max_rows: 1_000_000 }
    }
}

/// A part of a whole, above 0 and up to 1.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Share(f64);

/// A text that is not a [`Share`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a share: write such as `10 %`, above 0 and up to 100")]
pub struct InvalidShare(String);

impl Share {
    /// The whole.
    pub const ALL: Share = Share(1.0);
    /// A tenth: what is allowed where nobody says otherwise.
    pub const TENTH: Share = Share(0.1);

    /// A fraction above 0 and up to 1.
    pub fn new(fraction: f64) -> Option<Share> {
        (fraction > 0.0 && fraction <= 1.0).then_some(Share(fraction))
    }

    /// The fraction.
    pub fn fraction(self) -> f64 {
        self.0
    }

    /// A whole of which `part` is at most this share, and about the smallest one: whether a whole is as large is all that
    /// has to be known of it. 0 where that need not be known.
    pub fn ample(self, part: u64) -> u64 {
        // No part is more than the whole.
        if part == 0 || self.0 >= 1.0 {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "above zero, and saturating"
        )]
        let whole = (ratio(part, 1) / self.0).ceil() as u64;
        // One more, for what is lost to rounding.
        whole.saturating_add(1)
    }

    /// Whether `part` of `whole` is more than this share.
    pub fn is_exceeded_by(self, part: u64, whole: u64) -> bool {
        part > 0 && ratio(part, whole.max(part)) > self.0
    }
}

impl FromStr for Share {
    type Err = InvalidShare;

    /// Reads `10 %` or `10%`.
    fn from_str(text: &str) -> Result<Self, InvalidShare> {
        let percent = text.trim().strip_suffix('%').map(str::trim_end);
        let percent = percent.and_then(|percent| percent.parse::<f64>().ok());
        percent
            .and_then(|percent| Share::new(percent / 100.0))
            .ok_or_else(|| InvalidShare(text.to_owned()))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", (self.0 * 10_000.0).round() / 100.0)
    }
}

/// What is remembered of a rule's runs that acted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct History {
    /// Whether the rule has acted before as it is now, or a saved plan of it was applied.
    pub has_acted: bool,
    /// Its latest runs: when they began and how many records they took, the latest first.
    pub runs: Vec<(Timestamp, u64)>,
}

impl History {
    /// The most records that are to be expected at `now`, going by the busiest of the latest runs
    /// and the time since the last one; `None` where there were too few runs to tell.
    fn expected(&self, now: Timestamp) -> Option<f64> {
        if self.runs.len() < ENOUGH_RUNS {
            return None;
        }
        let gap = |from: Timestamp, to: Timestamp| {
            to.duration_since(from).max(SHORTEST_GAP).as_secs_f64()
        };
        // The oldest has no gap before it, and may have taken what years had left behind.
        let rates = self.runs.windows(2).map(|pair| {
            let ((later, records), (earlier, _)) = (pair[0], pair[1]);
            ratio(records, 1) / gap(earlier, later)
        });
        let busiest = rates.fold(0.0, f64::max);
        let (last, _) = self.runs.first()?;
        Some(busiest * gap(*last, now))
    }
}

/// What the records of a rule are a part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whole {
    /// A table.
    Table,
    /// The files of a store.
    Files,
    /// The objects of a store.
    Objects,
}

/// Why a run waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trip {
    /// The rule takes more than its share of the whole.
    Share,
    /// It takes more records than it may.
    Rows,
    /// It takes far more than its history suggests.
    History,
    /// It has never acted as it is now.
    FirstRun,
}

impl Trip {
    /// The reason in the words of the audit log.
    pub fn reason(self, of: Whole) -> &'static str {
        match (self, of) {
            (Trip::Share, Whole::Table) => "more than its share of the table",
            (Trip::Share, Whole::Files) => "more than its share of the files",
            (Trip::Share, Whole::Objects) => "more than its share of the objects",
            (Trip::Rows, _) => "more records than it may take",
            (Trip::History, _) => "far more records than it usually takes",
            (Trip::FirstRun, _) => "the first run of this version of the rule",
        }
    }
}

/// Every reason why a run that would take `due` of `total` records at `now` has to wait, the gravest
/// first. A run that takes nothing waits for nothing.
pub fn trips(limits: Limits, history: &History, due: u64, total: u64, now: Timestamp) -> Vec<Trip> {
    if due == 0 {
        return Vec::new();
    }
    let expected = history.expected(now);
    let is_unusual = expected.is_some_and(|expected| ratio(due, 1) > expected * FAR_MORE);
    [
        (limits.max_share.is_exceeded_by(due, total), Trip::Share),
        (due > limits.max_rows, Trip::Rows),
        (due > FEW && is_unusual, Trip::History),
        (!history.has_acted, Trip::FirstRun),
    ]
    .into_iter()
    .filter_map(|(trips, trip)| trips.then_some(trip))
    .collect()
}

/// Whether what was approved, or planned, still holds: the number due has not moved from it by more
/// than `margin` of it.
pub fn has_drifted(planned: u64, due: u64, margin: Share) -> bool {
    ratio(planned.abs_diff(due), planned.max(1)) > margin.fraction()
}

/// A part of a whole; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 15 digits")]
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * (20_000 + day))
    }

    /// A rule that ran each day and took so many records, the latest last.
    fn daily(records: &[u64]) -> History {
        let mut runs: Vec<_> = (0..).map(at).zip(records.iter().copied()).collect();
        runs.reverse();
        History { has_acted: true, runs }
    }

    fn trips_on(history: &History, due: u64, total: u64, day: i64) -> Vec<Trip> {
        trips(Limits::default(), history, due, total, at(day))
    }

    #[test]
    fn a_reason_says_what_the_share_is_of() {
        let reasons = [Whole::Table, Whole::Files, Whole::Objects].map(|of| Trip::Share.reason(of));
        assert_eq!(
            reasons,
            ["table", "files", "objects"].map(|of| format!("more than its share of the {of}"))
        );
    }

    #[test]
    fn a_share_is_written_as_a_percentage() {
        for (text, fraction) in [("10 %", 0.1), ("10%", 0.1), (" 0.5 % ", 0.005), ("100 %", 1.0)] {
            assert_eq!(text.parse::<Share>().unwrap(), Share(fraction), "{text}");
        }
        for bad in ["0 %", "101 %", "10", "-1 %", "NaN %", "%", "ten %", ""] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
        assert_eq!(Share(0.1).to_string(), "10 %");
        assert_eq!(Share(0.005).to_string(), "0.5 %");
    }

    #[test]
    fn a_tenth_of_the_table_goes_and_more_waits() {
        let history = daily(&[1]);
        assert!(trips_on(&history, 100, 1_000, 1).is_empty());
        assert_eq!(trips_on(&history, 101, 1_000, 1), [Trip::Share]);
        assert_eq!(trips_on(&history, 7, 0, 1), [Trip::Share], "an estimate may be behind");
    }

    #[test]
    fn more_than_the_most_rows_waits_however_large_the_table() {
        let history = daily(&[1]);
        assert!(trips_on(&history, 1_000_000, 1 << 40, 1).is_empty());
        assert_eq!(trips_on(&history, 1_000_001, 1 << 40, 1), [Trip::Rows]);
    }

    #[test]
    fn a_rule_that_has_never_acted_waits_and_one_with_nothing_to_do_does_not() {
        let new = History::default();
        assert_eq!(trips_on(&new, 1, 1_000, 1), [Trip::FirstRun]);
        assert_eq!(trips_on(&new, 1_000, 1_000, 1), [Trip::Share, Trip::FirstRun]);
        assert!(trips_on(&new, 0, 1_000, 1).is_empty());
    }

    #[test]
    fn far_more_than_usual_waits_but_a_backlog_of_days_without_runs_does_not() {
        let history = daily(&[900_000, 500, 400, 500, 450]);
        assert!(trips_on(&history, 5_000, 1 << 40, 5).is_empty(), "ten times as many");
        assert_eq!(trips_on(&history, 5_001, 1 << 40, 5), [Trip::History]);
        assert!(trips_on(&history, 15_000, 1 << 40, 7).is_empty(), "after three days");
        assert!(trips_on(&daily(&[1, 2, 1]), 900_000, 1 << 40, 3).is_empty(), "too few runs");
        assert!(trips_on(&daily(&[1, 0, 0, 0, 0]), 1_000, 1 << 40, 5).is_empty(), "few records");
    }

    #[test]
    fn a_plan_has_drifted_when_the_number_due_moved_by_more_than_the_margin() {
        let margin = Share(0.1);
        assert!(!has_drifted(100, 110, margin) && !has_drifted(100, 90, margin));
        assert!(has_drifted(100, 111, margin) && has_drifted(100, 89, margin));
        assert!(!has_drifted(0, 0, margin) && has_drifted(0, 1, margin));
    }

    proptest! {
        #[test]
        fn of_an_ample_whole_no_share_is_exceeded(
            part in 1u64..5_000_000, share in 0.0001f64..=1.0, more in 0u64..1_000,
        ) {
            let share = Share(share);
            prop_assert!(!share.is_exceeded_by(part, share.ample(part) + more));
            prop_assert!(share.0 >= 1.0 || ratio(share.ample(part), 1) <= ratio(part, 1) / share.0 + 2.0);
        }

        #[test]
        fn what_may_go_may_also_go_in_part(
            due in 1u64..5_000_000, less in 0u64..5_000_000, total in 0u64..100_000_000,
            records in prop::collection::vec(0u64..10_000, 0..12),
        ) {
            let history = daily(&records);
            let fewer = due.saturating_sub(less);
            if trips_on(&history, due, total.max(due), 13).is_empty() {
                prop_assert!(trips_on(&history, fewer, total.max(due), 13).is_empty());
            }
        }
    }
}
