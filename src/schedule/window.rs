//! Maintenance windows: the hours in which a rule may run by itself.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// The hours of a day in which a rule may run by itself; at any time where none are named.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Windows(Vec<Hours>);

/// Hours of each day: from the first, to the second, which is the next day's where it is not later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hours {
    from: Time,
    to: Time,
}

/// Why a text is not [`Hours`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidHours {
    /// It does not parse.
    #[error("`{0}` is not a window")]
    Syntax(String),
    /// It ends as it begins.
    #[error("`{0}` ends as it begins")]
    Empty(String),
}

impl FromStr for Hours {
    type Err = InvalidHours;

    fn from_str(text: &str) -> Result<Self, InvalidHours> {
        let wrong = || InvalidHours::Syntax(text.into());
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (from.trim(), to.trim());
        let from_time = time(from).ok_or_else(wrong)?;
        // The day's end is the next one's beginning.
        let to_time = if to == "24:00" { Some(Time::midnight()) } else { time(to) };
        let hours = Hours { from: from_time, to: to_time.ok_or_else(wrong)? };
        if hours.from == hours.to && to != "24:00" {
            return Err(InvalidHours::Empty(text.into()));
        }
        Ok(hours)
    }
}

/// `22:00`, and nothing else that could be meant for it.
fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_number)
    };
    Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M"))
    }
}

impl Hours {
    /// When those of a day begin and end. In an hour that daylight saving skips it is as much later, and of one that it
    /// repeats the first is meant: so there is one window each day, in one piece.
    fn on(self, day: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let at = |day: Date, time: Time| {
            day.to_datetime(time).to_zoned(zone.clone()).ok().map(|at| at.timestamp())
        };
        let last_day = if self.to > self.from { day } else { day.checked_add(1.day()).ok()? };
        Some((at(day, self.from)?, at(last_day, self.to)?))
    }
}

impl Windows {
    /// These hours of each day.
    pub fn new(hours: Vec<Hours>) -> Windows {
        Windows(hours)
    }

    /// Whether no hours are named, so that it is always open.
    pub fn is_always(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a rule may run now.
    pub fn is_open(&self, zone: &TimeZone, now: Timestamp) -> bool {
        self.is_always() || self.near(zone, now).any(|(from, to)| from <= now && now < to)
    }

    /// The first moment at or after `now` at which a rule may run.
    pub fn opens_at(&self, zone: &TimeZone, now: Timestamp) -> Timestamp {
        if self.is_open(zone, now) {
            return now;
        }
        // Each day has one of each: were it not so, the moment itself keeps nothing from being looked at.
        self.near(zone, now).map(|(from, _)| from).filter(|from| *from > now).min().unwrap_or(now)
    }

    /// Those of yesterday, today and the two days after.
    fn near(
        &self,
        zone: &TimeZone,
        now: Timestamp,
    ) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = now.to_zoned(zone.clone()).date();
        let days = (-1..=2).filter_map(move |days| today.checked_add(days.days()).ok());
        days.flat_map(move |day| self.0.iter().filter_map(move |hours| hours.on(day, zone)))
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, hours) in self.0.iter().enumerate() {
            write!(f, "{}{hours}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, berlin};
    use super::*;

    fn windows(texts: &[&str]) -> Windows {
        Windows::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    /// The moments between two at which it opens (`+`) and closes (`-`), found by looking every minute.
    fn changes(windows: &Windows, from: &str, to: &str) -> Vec<String> {
        let mut now = at(from);
        let mut was_open = windows.is_open(&berlin(), now);
        let mut found = Vec::new();
        while now < at(to) {
            now += jiff::SignedDuration::from_mins(1);
            let is_open = windows.is_open(&berlin(), now);
            if is_open != was_open {
                found.push(format!("{}{now}", if is_open { '+' } else { '-' }));
            }
            was_open = is_open;
        }
        found
    }

    #[test]
    fn a_window_may_cross_midnight_and_there_may_be_several() {
        let nightly = windows(&["22:00-05:00"]);
        assert_eq!(
            changes(&nightly, "2026-01-10T00:00:00Z", "2026-01-11T12:00:00Z"),
            ["-2026-01-10T04:00:00Z", "+2026-01-10T21:00:00Z", "-2026-01-11T04:00:00Z"]
        );
        let twice = windows(&["12:30-13:00", "22:00-24:00", "00:00-01:00"]);
        assert_eq!(
            changes(&twice, "2026-01-10T06:00:00Z", "2026-01-11T06:00:00Z"),
            [
                "+2026-01-10T11:30:00Z",
                "-2026-01-10T12:00:00Z",
                "+2026-01-10T21:00:00Z",
                "-2026-01-11T00:00:00Z"
            ],
            "what meets at midnight is one"
        );
        assert_eq!(twice.to_string(), "12:30-13:00, 22:00-00:00, 00:00-01:00");
    }

    #[test]
    fn the_night_in_which_an_hour_is_skipped_has_a_shorter_window() {
        assert_eq!(
            changes(&windows(&["22:00-05:00"]), "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z"),
            ["+2026-03-28T21:00:00Z", "-2026-03-29T03:00:00Z"]
        );
        // A window within the hour that is not there is an hour later, and no shorter.
        assert_eq!(
            changes(&windows(&["02:15-02:45"]), "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z"),
            ["+2026-03-29T01:15:00Z", "-2026-03-29T01:45:00Z"]
        );
    }

    #[test]
    fn the_night_in_which_an_hour_is_repeated_has_a_longer_window_in_one_piece() {
        assert_eq!(
            changes(&windows(&["22:00-05:00"]), "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z"),
            ["+2026-10-24T20:00:00Z", "-2026-10-25T04:00:00Z"]
        );
        assert_eq!(
            changes(&windows(&["01:00-02:30"]), "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z"),
            ["+2026-10-24T23:00:00Z", "-2026-10-25T00:30:00Z"],
            "it ends as the clock first shows its end"
        );
    }

    #[test]
    fn when_it_opens_next_is_known() {
        let nightly = windows(&["22:00-05:00"]);
        let opens = |now| nightly.opens_at(&berlin(), at(now));
        assert_eq!(opens("2026-01-10T12:00:00Z"), at("2026-01-10T21:00:00Z"));
        assert_eq!(opens("2026-01-10T23:00:00Z"), at("2026-01-10T23:00:00Z"), "it is open");
        assert_eq!(opens("2026-01-11T04:00:00Z"), at("2026-01-11T21:00:00Z"), "just closed");
        assert_eq!(
            Windows::default().opens_at(&berlin(), at("2026-01-11T04:00:00Z")),
            at("2026-01-11T04:00:00Z")
        );
    }

    #[test]
    fn a_whole_day_is_always_open_and_so_is_no_window_at_all() {
        let whole = windows(&["00:00-24:00"]);
        assert!(!whole.is_always());
        assert_eq!(changes(&whole, "2026-03-27T00:00:00Z", "2026-03-31T00:00:00Z"), [""; 0]);
        assert!(whole.is_open(&berlin(), at("2026-03-29T01:30:00Z")));
        assert!(
            Windows::default().is_always()
                && Windows::default().is_open(&berlin(), at("2026-03-29T01:30:00Z"))
        );
    }

    #[test]
    fn what_is_not_a_window_is_refused() {
        for bad in [
            "",
            "22:00",
            "22-05",
            "2:00-5:00",
            "22:00-25:00",
            "22:60-05:00",
            "10pm-5am",
            "24:00-05:00",
            "+2:00-05:00",
            "22:00–05:00",
        ] {
            assert_eq!(bad.parse::<Hours>(), Err(InvalidHours::Syntax(bad.into())));
        }
        assert_eq!("05:00-05:00".parse::<Hours>(), Err(InvalidHours::Empty("05:00-05:00".into())));
        assert_eq!("22:00 - 05:00".parse::<Hours>().unwrap().to_string(), "22:00-05:00");
    }
}
