//! The column from which retention counts: how it writes a moment down, and how it is compared.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::hold::Range;
use crate::rule::{Dialect, Encoding, StartingPoint, wall_clock_before};

use super::catalogue::{Column, ColumnKind, Table};
use super::statement::{Statement, Value};
use super::target::{Bounds, Mismatch, find};

/// A column that holds moments.
#[derive(Clone, Debug)]
pub struct StartColumn {
    /// The column.
    pub column: Column,
    form: Form,
    starting_point: StartingPoint,
    dialect: Dialect,
}

/// How the store compares a column with a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Instant,
    Civil,
    Date,
    Seconds,
    Milliseconds,
    /// ISO 8601 text (SQLite).
    Text,
}

impl StartColumn {
    /// Holds a starting point against its table.
    pub(super) fn new(
        table: &Table,
        starting_point: &StartingPoint,
        role: &'static str,
        mismatches: &mut Vec<Mismatch>,
    ) -> Option<StartColumn> {
        let column = find(table, &starting_point.column, role, mismatches)?;
        match form_of(table.dialect, &column, starting_point.encoding) {
            Ok(form) => {
                let (starting_point, dialect) = (starting_point.clone(), table.dialect);
                Some(StartColumn { column, form, starting_point, dialect })
            }
            Err(mismatch) => {
                mismatches.push(mismatch);
                None
            }
        }
    }

    /// Appends that the starting point is valid and lies before the cutoff.
    pub(super) fn is_before_cutoff(&self, s: &mut Statement, bounds: Bounds) {
        s.push("(");
        if self.form == Form::Text {
            // The plain comparison of texts lets an index narrow the search, and spares young records
            // the reading of their dates; two days cover any zone.
            let zone = TimeZone::UTC;
            let day = zone.to_datetime(bounds.cutoff).date();
            let day = day.saturating_add(jiff::Span::new().days(2));
            s.name(&self.column.name).push(" < ").bind(Value::Text(day.to_string())).push(" AND ");
        }
        self.usable(s);
        self.moment(s).push(" < ");
        self.limit(s, bounds.cutoff);
        s.push(" AND ");
        self.moment(s).push(" >= ");
        self.earliest(s);
        s.push(")");
    }

    /// Appends that what ends before this bound, a text of the column's own type, is over at the cutoff.
    pub(super) fn ends_before_cutoff(
        &self,
        s: &mut Statement,
        bounds: Bounds,
        bound: &'static str,
    ) {
        s.push(bound).push("::").type_of(&self.column).push(" <= ");
        self.limit(s, bounds.cutoff);
    }

    /// Appends that there is no starting point.
    pub(super) fn is_missing(&self, s: &mut Statement) {
        if self.dialect == Dialect::Mysql && !self.column.nullable {
            // There MySQL would find zero dates: `IS NULL` means them, too, in a NOT NULL column.
            s.push("1 = 0");
        } else {
            s.name(&self.column.name).push(" IS NULL");
        }
    }

    /// Appends that the starting point cannot be read as a moment.
    pub(super) fn is_unreadable(&self, s: &mut Statement) {
        if self.dialect == Dialect::Sqlite {
            s.name(&self.column.name).push(" IS NOT NULL AND NOT (");
            self.usable(s);
            s.push("1)");
        } else {
            s.push("1 = 0");
        }
    }

    /// Appends that the starting point is a placeholder: before the earliest believable day.
    pub(super) fn is_placeholder(&self, s: &mut Statement) {
        self.usable(s);
        self.moment(s).push(" < ");
        self.earliest(s);
    }

    /// Appends that the starting point lies after `now`.
    pub(super) fn is_in_future(&self, s: &mut Statement, now: Timestamp) {
        self.usable(s);
        self.moment(s).push(" > ");
        self.limit(s, now);
    }

    /// Appends, in parentheses, that the starting point certainly lies outside of days that a hold is
    /// about; not true where it cannot be told.
    pub(super) fn is_outside(&self, s: &mut Statement, range: Range) {
        let sides = [(" < ", range.begins()), (" >= ", range.ends())];
        let sides = sides.into_iter().filter_map(|(compares, at)| Some((compares, at?)));
        s.push("(").separated(" OR ", sides, |s, (compares, at)| {
            s.push("(");
            self.usable(s);
            self.moment(s).push(compares);
            self.limit(s, at);
            s.push(")");
        });
        s.push(")");
    }

    /// Appends that the starting point is at or after the cutoff and in a year that ends: the record
    /// falls due later, and not never, as with PostgreSQL's `infinity`.
    pub(super) fn is_at_or_after(&self, s: &mut Statement, bounds: Bounds) {
        self.usable(s);
        self.moment(s).push(" >= ");
        self.limit(s, bounds.cutoff);
        s.push(" AND ");
        self.moment(s).push(" < ");
        self.limit(s, Timestamp::MAX);
    }

    /// Appends the starting point as microseconds since 1970, read as if its wall clock were UTC;
    /// for texts, four times its milliseconds, one more where it names its zone, and two more where it
    /// is only a day.
    pub(super) fn micros(&self, s: &mut Statement, aggregate: &'static str) {
        let column = &self.column.name;
        match (self.form, self.dialect) {
            (Form::Seconds | Form::Milliseconds, _) => {
                s.by_dialect("(", "CAST(", "CAST(").push(aggregate).push("(").name(column);
                s.push(if self.form == Form::Seconds { ") * 1000000" } else { ") * 1000" });
                // As `numeric`: the product may be too large for the column's own type.
                s.by_dialect("::numeric)::bigint", " AS SIGNED)", " AS INTEGER)");
            }
            (Form::Text, _) => {
                s.push(aggregate).push("(");
                self.moment(s).push(" * 4 + (");
                self.names_zone(s);
                s.push(") + 2 * (");
                self.is_only_a_day(s);
                s.push("))");
            }
            (_, Dialect::Mysql) => {
                s.push("TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', ");
                s.push(aggregate).push("(").name(column).push("))");
            }
            _ => {
                s.push("(extract(epoch FROM ").push(aggregate).push("(").name(column);
                s.push(")) * 1000000)::bigint");
            }
        }
    }

    /// Appends that the moment is this one or later.
    pub(super) fn is_since(&self, s: &mut Statement, since: Timestamp) {
        self.usable(s);
        self.moment(s).push(" >= ");
        self.limit(s, since);
        // PostgreSQL's `infinity` is no moment that anything happened at.
        s.push(" AND ");
        self.moment(s).push(" < ");
        self.limit(s, Timestamp::MAX);
    }

    /// The moment that [`StartColumn::micros`] read.
    pub(super) fn read_micros(&self, micros: i64) -> Option<Timestamp> {
        self.read_start(micros).map(|(start, _)| start)
    }

    /// The moment from which retention counts, of what [`StartColumn::micros`] read: a day counts
    /// from its end.
    pub(super) fn counts_from_micros(&self, micros: i64) -> Option<Timestamp> {
        let (start, is_day) = self.read_start(micros)?;
        if !is_day {
            return Some(start);
        }
        let zone = &self.starting_point.time_zone;
        let next = zone.to_datetime(start).date().tomorrow().ok()?;
        zone.to_timestamp(next.at(0, 0, 0, 0)).ok()
    }

    /// The moment, and whether it stands for a whole day.
    fn read_start(&self, micros: i64) -> Option<(Timestamp, bool)> {
        let (as_utc, is_instant, is_day) = match self.form {
            Form::Text => (
                Timestamp::from_millisecond(micros.div_euclid(4)),
                micros & 1 == 1,
                micros & 2 == 2,
            ),
            form => (
                Timestamp::from_microsecond(micros),
                !matches!(form, Form::Civil | Form::Date),
                form == Form::Date,
            ),
        };
        let as_utc = as_utc.ok()?;
        if is_instant {
            return Some((as_utc, is_day));
        }
        let civil = TimeZone::UTC.to_datetime(as_utc);
        Some((self.starting_point.time_zone.to_timestamp(civil).ok()?, is_day))
    }

    /// Appends what must hold before a starting point can be compared at all, ending in `AND`.
    ///
    /// SQLite's columns hold any type, and its date functions read `now`, bare times and numbers as
    /// dates too, and roll 31 February over into March: all of that is refused here.
    fn usable(&self, s: &mut Statement) {
        let column = &self.column.name;
        match (self.form, self.dialect) {
            (Form::Text, _) => {
                s.push("typeof(").name(column).push(") = 'text' AND ").name(column);
                s.push(" GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*' AND date(substr(");
                s.name(column)
                    .push(", 1, 10)) = substr(")
                    .name(column)
                    .push(", 1, 10) AND unixepoch(");
                s.name(column).push(") IS NOT NULL AND ");
            }
            (Form::Seconds | Form::Milliseconds, Dialect::Sqlite) => {
                s.push("typeof(").name(column).push(") IN ('integer', 'real') AND ");
            }
            _ => {}
        }
    }

    /// Appends the starting point as the store compares it. Texts are compared in whole
    /// milliseconds, the most that SQLite reads, because its fractions of seconds are rounded.
    fn moment<'s>(&self, s: &'s mut Statement) -> &'s mut Statement {
        if self.form == Form::Text {
            s.push("CAST(round(unixepoch(").name(&self.column.name);
            s.push(", 'subsec') * 1000) AS INTEGER)")
        } else {
            s.name(&self.column.name)
        }
    }

    /// Appends that a text that can be read names its zone: what follows the day has no other use
    /// for these characters.
    fn names_zone(&self, s: &mut Statement) {
        s.push("substr(").name(&self.column.name).push(", 11) GLOB '*[-+Zz]*'");
    }

    /// Appends that a text that can be read gives no time of day.
    fn is_only_a_day(&self, s: &mut Statement) {
        s.push("substr(").name(&self.column.name).push(", 11) NOT GLOB '*[0-9]*'");
    }

    /// Appends `at` in the column's own terms.
    fn limit(&self, s: &mut Statement, at: Timestamp) {
        let zone = &self.starting_point.time_zone;
        if self.form == Form::Text {
            // Rounded down, as the moment was rounded to the nearest: none counts too early.
            let milliseconds = |at: Timestamp| Value::Int(at.as_microsecond().div_euclid(1_000));
            let as_utc = |civil| TimeZone::UTC.to_timestamp(civil).unwrap_or(at);
            let day = zone.to_datetime(at).date().at(0, 0, 0, 0);
            s.push("CASE WHEN ");
            self.names_zone(s);
            s.push(" THEN ").bind(milliseconds(at));
            // A day counts from its end, as in a column of days.
            s.push(" WHEN ");
            self.is_only_a_day(s);
            s.push(" THEN ");
            s.bind(milliseconds(as_utc(day))).push(" ELSE ");
            s.bind(milliseconds(as_utc(wall_clock_before(at, zone)))).push(" END");
            return;
        }
        s.bind(value_of(self.form, at, zone));
    }

    /// Appends the earliest believable moment.
    fn earliest(&self, s: &mut Statement) {
        let zone = &self.starting_point.time_zone;
        let midnight = self.starting_point.earliest.at(0, 0, 0, 0);
        let at = zone.to_timestamp(midnight).unwrap_or(Timestamp::UNIX_EPOCH);
        self.limit(s, at);
    }
}

/// A moment as a bound value in a column's terms.
pub(super) fn value_of(form: Form, at: Timestamp, zone: &TimeZone) -> Value {
    match form {
        Form::Instant => Value::instant(at),
        Form::Civil => Value::civil(wall_clock_before(at, zone)),
        // A day counts from its end: the day of the cutoff itself is not over yet.
        Form::Date => Value::date(zone.to_datetime(at).date()),
        // Down, also before 1970.
        Form::Seconds => Value::Int(at.as_microsecond().div_euclid(1_000_000)),
        Form::Milliseconds => Value::Int(at.as_microsecond().div_euclid(1_000)),
        Form::Text => Value::Text(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    }
}

pub(super) fn form_of(
    dialect: Dialect,
    column: &Column,
    encoding: Encoding,
) -> Result<Form, Mismatch> {
    let wrong = |help| Mismatch::StartType {
        column: column.name.clone(),
        type_name: column.type_name.clone(),
        help,
    };
    let is_number = matches!(column.kind, ColumnKind::Integer | ColumnKind::Number);
    // In SQLite any column holds numbers, one declared `DATETIME` too.
    let may_count = is_number || dialect == Dialect::Sqlite;
    match (encoding, column.kind) {
        (Encoding::Seconds, _) if may_count => Ok(Form::Seconds),
        (Encoding::Milliseconds, _) if may_count => Ok(Form::Milliseconds),
        (Encoding::Seconds | Encoding::Milliseconds, _) => {
            Err(wrong("`starting_point_unit` is only for columns of numbers; leave it out"))
        }
        (Encoding::Native, _) if is_number => Err(wrong(
            "say what its numbers count, with `starting_point_unit = \"seconds\"` or `\"milliseconds\"` since 1970",
        )),
        (Encoding::Native, kind) if dialect == Dialect::Sqlite && kind != ColumnKind::Bytes => {
            Ok(Form::Text)
        }
        (Encoding::Native, ColumnKind::Instant) => Ok(Form::Instant),
        (Encoding::Native, ColumnKind::Civil) => Ok(Form::Civil),
        (Encoding::Native, ColumnKind::Date) => Ok(Form::Date),
        (Encoding::Native, _) => Err(wrong("name a timestamp, date-time or date column")),
    }
}
