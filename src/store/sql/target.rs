//! A rule held against the live table: [`Target`] is the pair once they fit, with the clauses that
//! decide which records are due.
//!
//! The clauses are written once and used by the dry run and by the deleting statement alike, so both
//! speak of the same records.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::anonymize::Strategy;
use crate::hold::Range;
use crate::rule::{Action, Condition, Dialect, Encoding, Rule, StartingPoint, wall_clock_before};

use super::catalogue::{Column, ColumnKind, Shape, Table};
use super::keep::Keep;
use super::statement::{Statement, Value};
use super::window::Window;
use crate::types::{Key, KeyValue};

/// The moments that decide: both are fixed once per run.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Records whose starting point lies strictly before it are due.
    pub cutoff: Timestamp,
    /// The moment of the decision; starting points after it lie in the future.
    pub now: Timestamp,
}

/// A rule and the table it fits.
#[derive(Clone, Debug)]
pub struct Target {
    /// The table.
    pub table: Table,
    /// The starting point's column.
    pub start: Column,
    form: Form,
    starting_point: StartingPoint,
    condition: Option<Condition>,
    /// The subject's column.
    pub subject: Option<Column>,
    pub(super) change: Option<Change>,
    /// Columns that are read along with each record, for what belongs to it.
    pub(super) carried: Vec<Column>,
    /// The columns by which an event names records, each with the name of the event's value.
    matching: Vec<(Column, String)>,
    /// Whether an event says what is due, whatever its age.
    by_event: bool,
    keep: Keep,
}

/// What is set in an anonymized record.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) columns: Vec<(Column, Strategy)>,
    pub(super) marker: Option<(Column, Form)>,
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

/// Why a rule does not fit a table.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Mismatch {
    /// The column is not there.
    #[error("there is no column `{column}` (the rule's {role}); the table has {columns}")]
    NoColumn {
        /// The name in the rule.
        column: String,
        /// What the rule uses it for.
        role: &'static str,
        /// What there is.
        columns: String,
    },
    /// It is a view or another thing that holds no rows of its own.
    #[error(
        "this is not a table that rows can be deleted from: name the table that holds the rows"
    )]
    NotATable,
    /// There is nothing that names a record.
    #[error(
        "the table has no primary key and no unique index over columns that cannot be NULL, so a record cannot be named, proved or resolved after a crash: add a primary key"
    )]
    NoKey,
    /// A key column's type cannot be carried without loss.
    #[error("the key column `{column}` is of type {type_name}, which cannot be used as a key")]
    KeyType {
        /// The column.
        column: String,
        /// Its type.
        type_name: String,
    },
    /// A column by which events name records is of a type that text does not name exactly.
    #[error(
        "the column `{column}` is of type {type_name}, and events name records by text, integers and UUIDs alone"
    )]
    MatchType {
        /// The column.
        column: String,
        /// Its type.
        type_name: String,
    },
    /// The starting point is no moment in time.
    #[error("the starting point `{column}` is of type {type_name}: {help}")]
    StartType {
        /// The column.
        column: String,
        /// Its type.
        type_name: String,
        /// What to write.
        help: &'static str,
    },
    /// A strategy cannot be applied to a column of this type.
    #[error("`{strategy}` cannot be applied to the column `{column}` of type {type_name}{why}")]
    Strategy {
        /// The column.
        column: String,
        /// The strategy.
        strategy: &'static str,
        /// The column's type.
        type_name: String,
        /// More of a reason.
        why: &'static str,
    },
    /// The marker cannot hold the moment of anonymization, or cannot be empty.
    #[error(
        "the marker `{column}` is of type {type_name}{why}: it must be a date-time column that may be NULL"
    )]
    Marker {
        /// The column.
        column: String,
        /// Its type.
        type_name: String,
        /// More of a reason.
        why: &'static str,
    },
    /// A column of the key would change, and with it the name of the record.
    #[error("the column `{0}` is part of the table's key and cannot be anonymized")]
    KeyChanges(String),
}

impl Target {
    /// Holds a rule against its table.
    ///
    /// # Errors
    /// Every way in which they do not fit.
    pub fn new(rule: &Rule, table: Table) -> Result<Target, Vec<Mismatch>> {
        if table.shape == Shape::Unsupported {
            return Err(vec![Mismatch::NotATable]);
        }
        let Some(rows) = rule.rows() else { return Err(vec![Mismatch::NotATable]) };
        let mut mismatches = Vec::new();
        check_key(&table, &mut mismatches);
        let start = find(&table, &rows.starting_point.column, "starting point", &mut mismatches);
        let form = start.as_ref().and_then(|column| {
            form_of(table.dialect, column, rows.starting_point.encoding)
                .map_err(|mismatch| mismatches.push(mismatch))
                .ok()
        });
        let subject = rule
            .subject
            .as_ref()
            .and_then(|subject| find(&table, subject, "subject", &mut mismatches));
        let change = match &rule.action {
            Action::Delete => None,
            Action::Anonymize(_) => Some(change_of(rule, &table, &mut mismatches)),
        };
        let names: BTreeSet<&str> =
            rows.attachments.iter().flat_map(|attachment| attachment.path.placeholders()).collect();
        let carried = names
            .into_iter()
            .filter_map(|name| find(&table, name, "attachments", &mut mismatches))
            .collect();
        let mut matching = Vec::new();
        for (name, value) in &rows.matching {
            if let Some(column) = find(&table, name, "match", &mut mismatches) {
                match column.kind {
                    ColumnKind::Integer | ColumnKind::Text | ColumnKind::Uuid => {
                        matching.push((column, value.clone()));
                    }
                    _ => mismatches.push(Mismatch::MatchType {
                        column: column.name,
                        type_name: column.type_name,
                    }),
                }
            }
        }
        match (start, form) {
            (Some(start), Some(form)) if mismatches.is_empty() => Ok(Target {
                table,
                start,
                form,
                starting_point: rows.starting_point.clone(),
                condition: rows.condition.clone(),
                subject,
                change,
                carried,
                matching,
                by_event: false,
                keep: Keep::default(),
            }),
            _ => Err(mismatches),
        }
    }

    /// The dialect of its store.
    pub fn dialect(&self) -> Dialect {
        self.table.dialect
    }

    /// Whether due records are deleted, not anonymized.
    pub fn change_is_deletion(&self) -> bool {
        self.change.is_none()
    }

    /// Whether an anonymized record is known by a marker column, by the columns' own state, or
    /// (a deletion) not at all.
    pub fn anonymized_is_known_by(&self) -> Option<String> {
        let change = self.change.as_ref()?;
        Some(match &change.marker {
            Some((marker, _)) => format!("the marker column `{}`", marker.name),
            None => "the columns' own state".to_owned(),
        })
    }

    /// The names of the columns that [`Locked`](super::Locked) carries, in its order.
    pub fn carry(&self) -> impl Iterator<Item = &str> {
        self.carried.iter().map(|column| &*column.name)
    }

    /// The same records as events name them, whatever their age.
    #[must_use]
    pub fn by_event(mut self) -> Target {
        self.by_event = true;
        self
    }

    /// What the values of events name: the columns to compare, and their values. An event whose values
    /// can be none of these columns names nothing.
    pub fn window_of<'a>(
        &self,
        events: impl Iterator<Item = &'a BTreeMap<String, String>>,
    ) -> Window {
        let columns = self.matching.iter().map(|(column, _)| column.clone()).collect();
        let keys = events.filter_map(|values| {
            let read = |(column, name): &(Column, String)| {
                let text = values.get(name)?;
                match column.kind {
                    // A number beyond the column's would fail the statement for all others.
                    ColumnKind::Integer => {
                        let number: i64 = text.parse().ok()?;
                        let most = match column.type_name.as_str() {
                            name if name.starts_with("tiny") => i64::from(i8::MAX),
                            name if name.starts_with("small") => i64::from(i16::MAX),
                            name if name.starts_with("int") => i64::from(i32::MAX),
                            _ => i64::MAX,
                        };
                        let fits = (-most - 1..=most).contains(&number)
                            || self.dialect() != Dialect::Postgres;
                        fits.then_some(KeyValue::Int(number.into()))
                    }
                    ColumnKind::Uuid => text.parse().ok().map(KeyValue::Uuid),
                    _ => Some(KeyValue::Text(text.clone())),
                }
            };
            self.matching.iter().map(read).collect::<Option<Vec<_>>>().map(Key)
        });
        Window::Matching { columns, keys: keys.collect() }
    }

    /// Keeps what legal holds claim of the table: it is not due any more.
    pub(crate) fn set_keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    /// Whether legal holds keep records of it because of rows of other tables that point at them.
    pub(crate) fn keeps_referenced(&self) -> bool {
        self.keep.has_referrers()
    }

    /// Appends everything that makes a record due: its starting point, the rule's condition, that it is
    /// not anonymized already, and that no legal hold keeps it.
    pub(super) fn due(&self, s: &mut Statement, bounds: Bounds) {
        self.due_or_held(s, bounds);
        if !self.keep.is_nothing() {
            s.push(" AND NOT ");
            self.keep.is_held(s, self);
        }
    }

    /// Appends that a record would be due, and is not because a legal hold keeps it.
    pub(super) fn due_but_held(&self, s: &mut Statement, bounds: Bounds) {
        self.due_or_held(s, bounds);
        s.push(" AND ");
        self.keep.is_held(s, self);
    }

    /// Appends, in parentheses, that a legal hold keeps the record, due or not.
    pub(super) fn is_held(&self, s: &mut Statement) {
        self.keep.is_held(s, self);
    }

    /// Appends everything that makes a record due but for legal holds.
    pub(super) fn due_or_held(&self, s: &mut Statement, bounds: Bounds) {
        if self.by_event {
            s.push("1 = 1");
        } else {
            self.started_before_cutoff(s, bounds);
        }
        self.meets_condition(s);
        self.is_fresh(s);
        if self.dialect() == Dialect::Sqlite {
            s.push(" AND ");
            self.has_name(s);
        }
    }

    /// Appends that the key names the record: SQLite lets NULL into a primary key, more than once,
    /// and numbers with a fraction into any column.
    fn has_name(&self, s: &mut Statement) {
        s.separated(" AND ", &self.table.key, |s, column| {
            s.push("typeof(").name(&column.name).push(") IN ('integer', 'text', 'blob')");
        });
    }

    /// Appends ` AND` the record's key does not name it.
    pub(super) fn has_no_name(&self, s: &mut Statement) {
        if self.dialect() == Dialect::Sqlite {
            s.push(" AND NOT (");
            self.has_name(s);
            s.push(")");
        } else {
            s.push(" AND 1 = 0");
        }
    }

    /// Appends that the starting point is valid and lies before the cutoff.
    pub(super) fn started_before_cutoff(&self, s: &mut Statement, bounds: Bounds) {
        s.push("(");
        if self.form == Form::Text {
            // The plain comparison of texts lets an index narrow the search, and spares young records
            // the reading of their dates; two days cover any zone.
            let zone = TimeZone::UTC;
            let day = zone.to_datetime(bounds.cutoff).date();
            let day = day.saturating_add(jiff::Span::new().days(2));
            s.name(&self.start.name).push(" < ").bind(Value::Text(day.to_string())).push(" AND ");
        }
        self.usable(s);
        self.moment(s).push(" < ");
        self.limit(s, bounds.cutoff);
        s.push(" AND ");
        self.moment(s).push(" >= ");
        self.earliest(s);
        s.push(")");
    }

    /// Appends ` AND` the operator's condition.
    pub(super) fn meets_condition(&self, s: &mut Statement) {
        if let Some(condition) = &self.condition {
            s.push(" AND ").condition(condition);
        }
    }

    /// Appends ` AND` the operator's condition is false or unknown.
    pub(super) fn fails_condition(&self, s: &mut Statement) {
        match &self.condition {
            Some(condition) => s.push(" AND ").condition(condition).push(" IS NOT TRUE"),
            None => s.push(" AND 1 = 0"),
        };
    }

    /// Appends ` AND` the record is not anonymized yet.
    pub(super) fn is_fresh(&self, s: &mut Statement) {
        if let Some(change) = &self.change {
            s.push(" AND ");
            change.is_fresh(s);
        }
    }

    /// Appends ` AND` the record is anonymized already.
    pub(super) fn is_anonymized(&self, s: &mut Statement) {
        match &self.change {
            Some(change) => {
                s.push(" AND NOT ");
                change.is_fresh(s);
            }
            None => {
                s.push(" AND 1 = 0");
            }
        }
    }

    /// Appends that there is no starting point.
    pub(super) fn has_no_start(&self, s: &mut Statement) {
        if self.dialect() == Dialect::Mysql && !self.start.nullable {
            // There MySQL would find zero dates: `IS NULL` means them, too, in a NOT NULL column.
            s.push("1 = 0");
        } else {
            s.name(&self.start.name).push(" IS NULL");
        }
    }

    /// Appends that the starting point cannot be read as a moment.
    pub(super) fn has_unreadable_start(&self, s: &mut Statement) {
        if self.dialect() == Dialect::Sqlite {
            s.name(&self.start.name).push(" IS NOT NULL AND NOT (");
            self.usable(s);
            s.push("1)");
        } else {
            s.push("1 = 0");
        }
    }

    /// Appends that the starting point is a placeholder: before the earliest believable day.
    pub(super) fn has_placeholder_start(&self, s: &mut Statement) {
        self.usable(s);
        self.moment(s).push(" < ");
        self.earliest(s);
    }

    /// Appends that the starting point lies after `now`.
    pub(super) fn starts_in_future(&self, s: &mut Statement, now: Timestamp) {
        self.usable(s);
        self.moment(s).push(" > ");
        self.limit(s, now);
    }

    /// Appends, in parentheses, that the starting point certainly lies outside of days that a hold is
    /// about; not true where it cannot be told.
    pub(super) fn starts_outside(&self, s: &mut Statement, range: Range) {
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
    pub(super) fn starts_at_or_after_cutoff(&self, s: &mut Statement, bounds: Bounds) {
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
    pub(super) fn start_micros(&self, s: &mut Statement, aggregate: &'static str) {
        let column = &self.start.name;
        match (self.form, self.dialect()) {
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

    /// The moment that [`Target::start_micros`] read.
    pub(super) fn start_from_micros(&self, micros: i64) -> Option<Timestamp> {
        self.read_start(micros).map(|(start, _)| start)
    }

    /// The moment from which retention counts, of what [`Target::start_micros`] read: a day counts
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
        let column = &self.start.name;
        match (self.form, self.dialect()) {
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
            s.push("CAST(round(unixepoch(").name(&self.start.name);
            s.push(", 'subsec') * 1000) AS INTEGER)")
        } else {
            s.name(&self.start.name)
        }
    }

    /// Appends that a text that can be read names its zone: what follows the day has no other use
    /// for these characters.
    fn names_zone(&self, s: &mut Statement) {
        s.push("substr(").name(&self.start.name).push(", 11) GLOB '*[-+Zz]*'");
    }

    /// Appends that a text that can be read gives no time of day.
    fn is_only_a_day(&self, s: &mut Statement) {
        s.push("substr(").name(&self.start.name).push(", 11) NOT GLOB '*[0-9]*'");
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

fn find(
    table: &Table,
    name: &str,
    role: &'static str,
    mismatches: &mut Vec<Mismatch>,
) -> Option<Column> {
    let found = table.column(name).cloned();
    if found.is_none() {
        let columns: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
        mismatches.push(Mismatch::NoColumn {
            column: name.to_owned(),
            role,
            columns: columns.join(", "),
        });
    }
    found
}

fn check_key(table: &Table, mismatches: &mut Vec<Mismatch>) {
    if table.key.is_empty() || table.key.len() > 8 {
        mismatches.push(Mismatch::NoKey);
    }
    for column in &table.key {
        let carried = match table.dialect {
            // Every type has a text form that its own input function reads back without loss.
            Dialect::Postgres => true,
            Dialect::Mysql => matches!(
                column.kind,
                ColumnKind::Integer
                    | ColumnKind::Text
                    | ColumnKind::Uuid
                    | ColumnKind::Bytes
                    | ColumnKind::Date
                    | ColumnKind::Civil
            ),
            Dialect::Sqlite => column.kind != ColumnKind::Number,
        };
        if !carried {
            mismatches.push(Mismatch::KeyType {
                column: column.name.clone(),
                type_name: column.type_name.clone(),
            });
        }
    }
}

fn form_of(dialect: Dialect, column: &Column, encoding: Encoding) -> Result<Form, Mismatch> {
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

fn change_of(rule: &Rule, table: &Table, mismatches: &mut Vec<Mismatch>) -> Change {
    let Action::Anonymize(anonymization) = &rule.action else {
        return Change { columns: Vec::new(), marker: None };
    };
    let mut columns = Vec::new();
    for (name, strategy) in &anonymization.columns {
        let Some(column) = find(table, name, "column to anonymize", mismatches) else { continue };
        if table.key.iter().any(|key| key.name == column.name) {
            mismatches.push(Mismatch::KeyChanges(name.clone()));
        }
        if let Some(why) = Change::refuses(table.dialect, &column, strategy) {
            mismatches.push(Mismatch::Strategy {
                column: name.clone(),
                strategy: strategy.name(),
                type_name: column.type_name.clone(),
                why,
            });
        }
        columns.push((column, strategy.clone()));
    }
    let marker = anonymization.marker.as_ref().and_then(|name| {
        let column = find(table, name, "marker", mismatches)?;
        let mut wrong = |why| {
            let (column, type_name) = (column.name.clone(), column.type_name.clone());
            mismatches.push(Mismatch::Marker { column, type_name, why });
            None
        };
        if !column.nullable {
            return wrong(" and NOT NULL");
        }
        match form_of(table.dialect, &column, Encoding::Native) {
            Ok(form) => Some((column, form)),
            Err(_) => wrong(""),
        }
    });
    Change { columns, marker }
}
