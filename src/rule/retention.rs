//! Retention: calendar-aware periods, and the cutoff that they make.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp, ToSpan};

/// How long a record is kept: calendar years and months, days, then hours and less.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retention {
    text: String,
    months: i64,
    days: i64,
    time: SignedDuration,
}

/// Why a text is not a [`Retention`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidRetention {
    /// It does not parse.
    #[error(
        "`{0}` is not a retention period: write `2 years`, `18 months`, `90 days` or `1 year 6 months`"
    )]
    Syntax(String),
    /// A one-letter unit: `6m` could mean months or minutes.
    #[error("`{0}` is ambiguous: spell the unit out, such as `6 months` or `6 minutes`")]
    Ambiguous(String),
    /// Zero or below.
    #[error("`{0}` is not longer than nothing: everything would be due at once")]
    NotPositive(String),
    /// Beyond what calendars and databases can count.
    #[error("`{0}` is longer than 1000 years")]
    TooLong(String),
}

impl FromStr for Retention {
    type Err = InvalidRetention;

    fn from_str(text: &str) -> Result<Self, InvalidRetention> {
        let words = text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
        if words.clone().any(|word| word.len() == 1 && !text.starts_with(['P', 'p'])) {
            return Err(InvalidRetention::Ambiguous(text.into()));
        }
        let span: Span = text.parse().map_err(|_| InvalidRetention::Syntax(text.into()))?;
        let months = i64::from(span.get_years()) * 12 + i64::from(span.get_months());
        let days = i64::from(span.get_weeks()) * 7 + i64::from(span.get_days());
        let time = span.years(0).months(0).weeks(0).days(0);
        let time =
            SignedDuration::try_from(time).map_err(|_| InvalidRetention::Syntax(text.into()))?;
        if months < 0 || days < 0 || time.is_negative() || months + days == 0 && time.is_zero() {
            return Err(InvalidRetention::NotPositive(text.into()));
        }
        if months > 12_000 || days > 366_000 || time.as_hours() > 8_784_000 {
            return Err(InvalidRetention::TooLong(text.into()));
        }
        Ok(Retention { text: text.trim().to_owned(), months, days, time })
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Retention {
    /// The period as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Shorter than a calendar day: needs a plain opt-in, because `6 minutes` is easily meant to be
    /// something else.
    pub fn is_sub_day(&self) -> bool {
        self.months == 0 && self.days == 0 && self.time < SignedDuration::from_hours(24)
    }

    /// The cutoff at `now`: a record is due when its starting point lies strictly before it.
    ///
    /// Years, months, weeks and days are calendar units of `zone`. Where a month has no such day, a
    /// period ends with the month's last day (as in BGB § 188(3)): what started on 29 February is
    /// kept for a year until 1 March, what started on 31 January for a month until 1 March. A cutoff
    /// that falls into the hour that a daylight-saving change repeats is the earlier one, and one
    /// in the hour it skips is the moment of the change: in doubt a record is kept.
    pub fn cutoff(&self, now: Timestamp, zone: &TimeZone) -> Timestamp {
        let earliest = Timestamp::MIN;
        let Ok(now) = now.checked_sub(self.time) else { return earliest };
        if self.months == 0 && self.days == 0 {
            return now;
        }
        let local = zone.to_datetime(now);
        let civil = local
            .checked_sub(Span::new().days(self.days))
            .ok()
            .and_then(|day| subtract_months(day, self.months));
        match civil {
            Some(civil) => instant(civil, zone, Fold::Earlier),
            None => earliest,
        }
    }

    /// The moment at which a record that started at `start` has been kept long enough: the inverse
    /// of [`Retention::cutoff`], used to sleep until the next record falls due.
    pub fn due_at(&self, start: Timestamp, zone: &TimeZone) -> Timestamp {
        let latest = Timestamp::MAX;
        let local = zone.to_datetime(start);
        let civil = add_months(local, self.months)
            .and_then(|day| day.checked_add(Span::new().days(self.days)).ok());
        let Some(civil) = civil else { return latest };
        let moved = if self.months == 0 && self.days == 0 {
            start
        } else {
            instant(civil, zone, Fold::Later)
        };
        moved.checked_add(self.time).unwrap_or(latest)
    }
}

/// `months` before `at`; where that month lacks the day, the first moment after the month.
fn subtract_months(at: DateTime, months: i64) -> Option<DateTime> {
    let first = at.first_of_month().checked_sub(Span::new().try_months(months).ok()?).ok()?;
    if at.day() <= first.date().days_in_month() {
        Some(first.with().day(at.day()).build().ok()?)
    } else {
        first.date().checked_add(1.month()).ok().map(|next| next.at(0, 0, 0, 0))
    }
}

/// `months` after `at`; where that month lacks the day, the first moment after the month.
fn add_months(at: DateTime, months: i64) -> Option<DateTime> {
    subtract_months(at, months.checked_neg()?)
}

/// Which reading of a wall-clock time that comes twice.
#[derive(Clone, Copy)]
enum Fold {
    Earlier,
    Later,
}

/// The instant at which the wall clock of `zone` shows `civil`; for a time that a change skips, the
/// moment of the change.
fn instant(civil: DateTime, zone: &TimeZone, fold: Fold) -> Timestamp {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    let gap = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
    match (ambiguous.earlier(), ambiguous.later()) {
        // In a gap, `earlier` lies before the change by as much as `civil` lies after its start.
        (Ok(earlier), _) if gap => {
            zone.following(earlier).next().map_or(earlier, |change| change.timestamp())
        }
        (Ok(earlier), Ok(later)) => match fold {
            Fold::Earlier => earlier,
            Fold::Later => later,
        },
        // Beyond the years that an instant can name.
        _ if civil.year() < 0 => Timestamp::MIN,
        _ => Timestamp::MAX,
    }
}

/// The wall-clock time of `zone` such that every reading before it is before `at`.
///
/// While a change repeats an hour, its first pass cannot be told from its second: readings inside
/// it count only once the second pass has shown them.
pub fn wall_clock_before(at: Timestamp, zone: &TimeZone) -> DateTime {
    let civil = zone.to_datetime(at);
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    let AmbiguousOffset::Fold { after, .. } = ambiguous.offset() else { return civil };
    match (ambiguous.later(), zone.following(at).next()) {
        (Ok(later), Some(change)) if at < later => after.to_datetime(change.timestamp()),
        _ => civil,
    }
}
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn cutoff(retention: &str, now: &str, zone_name: &str) -> String {
        retention.parse::<Retention>().unwrap().cutoff(at(now), &zone(zone_name)).to_string()
    }

    #[test]
    fn two_years_are_calendar_years() {
        assert_eq!(cutoff("2 years", "2026-11-21T12:00:00Z", "UTC"), "2024-11-21T12:00:00Z");
    }

    #[test]
    fn what_started_on_a_leap_day_is_kept_until_the_first_of_march() {
        assert_eq!(cutoff("1 year", "2025-02-28T23:59:59Z", "UTC"), "2024-02-28T23:59:59Z");
        assert_eq!(cutoff("1 year", "2025-03-01T00:00:00Z", "UTC"), "2024-03-01T00:00:00Z");
        let year: Retention = "1 year".parse().unwrap();
        let due = year.due_at(at("2024-02-29T09:00:00Z"), &TimeZone::UTC);
        assert_eq!(due, at("2025-03-01T00:00:00Z"));
    }

    #[test]
    fn a_month_end_never_takes_a_record_early_nor_forgets_it_again() {
        // On 29, 30 and 31 March a month ago lies after February: all of February is due, no more.
        for day in ["29", "30", "31"] {
            let now = format!("2025-03-{day}T12:00:00Z");
            assert_eq!(cutoff("1 month", &now, "UTC"), "2025-03-01T00:00:00Z");
        }
        assert_eq!(cutoff("1 month", "2025-02-28T12:00:00Z", "UTC"), "2025-01-28T12:00:00Z");
    }

    #[test]
    fn days_are_calendar_days_through_daylight_saving() {
        // 23 and 25 hours: the wall clock stays, the number of hours does not.
        assert_eq!(
            cutoff("1 day", "2026-03-29T10:00:00Z", "Europe/Berlin"),
            "2026-03-28T11:00:00Z"
        );
        assert_eq!(
            cutoff("1 day", "2026-10-25T11:00:00Z", "Europe/Berlin"),
            "2026-10-24T10:00:00Z"
        );
        assert_eq!(
            cutoff("24 hours", "2026-03-29T10:00:00Z", "Europe/Berlin"),
            "2026-03-28T10:00:00Z"
        );
    }

    #[test]
    fn a_cutoff_in_a_skipped_hour_is_the_moment_of_the_change() {
        assert_eq!(
            cutoff("1 day", "2026-03-30T00:30:00Z", "Europe/Berlin"),
            "2026-03-29T01:00:00Z"
        );
    }

    #[test]
    fn a_cutoff_in_a_repeated_hour_is_the_earlier_one() {
        assert_eq!(
            cutoff("1 day", "2026-10-26T01:30:00Z", "Europe/Berlin"),
            "2026-10-25T00:30:00Z"
        );
    }

    #[test]
    fn a_wall_clock_without_a_zone_is_read_so_that_nothing_goes_early() {
        let read = |text: &str| wall_clock_before(at(text), &zone("Europe/Berlin")).to_string();
        assert_eq!(read("2026-07-01T10:00:00Z"), "2026-07-01T12:00:00");
        // 02:30 comes twice on 25 October: in its first pass it could still be the second's.
        assert_eq!(read("2026-10-25T00:30:00Z"), "2026-10-25T02:00:00");
        assert_eq!(read("2026-10-25T01:30:00Z"), "2026-10-25T02:30:00");
        assert_eq!(read("2026-10-25T02:30:00Z"), "2026-10-25T03:30:00");
    }

    #[test]
    fn retention_refuses_what_could_be_misread() {
        assert!(matches!("6m".parse::<Retention>(), Err(InvalidRetention::Ambiguous(_))));
        assert!(matches!("2y".parse::<Retention>(), Err(InvalidRetention::Ambiguous(_))));
        assert!(matches!("soon".parse::<Retention>(), Err(InvalidRetention::Syntax(_))));
        assert!(matches!("".parse::<Retention>(), Err(InvalidRetention::Syntax(_))));
        assert!(matches!("0 days".parse::<Retention>(), Err(InvalidRetention::NotPositive(_))));
        assert!("-2 years".parse::<Retention>().is_err());
        assert!("2 years ago".parse::<Retention>().is_err());
        assert!(matches!("4000 years".parse::<Retention>(), Err(InvalidRetention::TooLong(_))));
        assert!("6 minutes".parse::<Retention>().unwrap().is_sub_day());
        assert!(!"1 day".parse::<Retention>().unwrap().is_sub_day());
        assert!(!"36 hours".parse::<Retention>().unwrap().is_sub_day());
        assert_eq!("1 year 6 months".parse::<Retention>().unwrap().months, 18);
    }

    fn zones() -> impl Strategy<Value = TimeZone> {
        prop::sample::select(vec![
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Asia/Kolkata",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "America/Sao_Paulo",
        ])
        .prop_map(zone)
    }

    fn retentions() -> impl Strategy<Value = Retention> {
        let months = prop_oneof![0..40i64, Just(0)];
        let days = prop_oneof![0..400i64, 0..3i64];
        (months, days, 0..50i64).prop_filter_map("positive", |(months, days, hours)| {
            format!("{months} months {days} days {hours} hours").parse().ok()
        })
    }

    /// Anywhere from 1995 to 2045 by the second, and often around changes of the wall clock: the
    /// two of Berlin, the half hour of Lord Howe, and the day that Samoa left out.
    fn moments() -> impl Strategy<Value = Timestamp> {
        let near = [
            "2026-03-29T01:00:00Z",
            "2026-10-25T01:00:00Z",
            "2026-04-04T15:00:00Z",
            "2026-10-03T15:30:00Z",
            "2011-12-30T10:00:00Z",
            "2024-02-29T12:00:00Z",
        ]
        .map(|text| at(text).as_second());
        let around = prop::sample::select(near.to_vec())
            .prop_flat_map(|second| second - 260_000..second + 260_000);
        prop_oneof![788_918_400i64..2_366_841_600, around]
            .prop_map(|second| Timestamp::from_second(second).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn nothing_is_due_before_its_retention_has_passed(
            retention in retentions(), zone in zones(), now in moments(), back in 0i64..7_200,
        ) {
            let cutoff = retention.cutoff(now, &zone);
            // The record that is due by the smallest margin, and some around it.
            let start = cutoff - SignedDuration::from_nanos(1) - SignedDuration::from_secs(back);
            let latest_reading = SignedDuration::from_hours(1); // a repeated wall-clock hour
            prop_assert!(retention.due_at(start, &zone) <= now + latest_reading);
        }

        #[test]
        fn in_a_zone_without_changes_the_cutoff_is_exact(
            retention in retentions(), now in moments(), near in -172_800i64..172_800,
        ) {
            let utc = TimeZone::UTC;
            let cutoff = retention.cutoff(now, &utc);
            let start = cutoff + SignedDuration::from_secs(near);
            if start < cutoff {
                prop_assert!(retention.due_at(start, &utc) <= now);
            } else {
                prop_assert!(retention.due_at(start, &utc) >= now);
            }
        }

        #[test]
        fn what_is_due_stays_due(
            retention in retentions(), zone in zones(), now in moments(), later in 0i64..10_000_000,
        ) {
            let then = now + SignedDuration::from_secs(later);
            let slack = SignedDuration::from_hours(1); // a repeated wall-clock hour reads twice
            prop_assert!(retention.cutoff(then, &zone) + slack >= retention.cutoff(now, &zone));
            prop_assert!(retention.cutoff(then, &TimeZone::UTC) >= retention.cutoff(now, &TimeZone::UTC));
        }
    }
}
