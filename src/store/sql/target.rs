//! A rule held against the live table: [`Target`] is the pair once they fit, with the clauses that
//! decide which records are due.
//!
//! The clauses are written once and used by the dry run and by the deleting statement alike, so both
//! speak of the same records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::anonymize::Strategy;
use crate::notice;
use crate::pace::Tempo;
use crate::plan::OnDelete;
use crate::rule::{AccessPath, Action, Condition, Dialect, Encoding, Rule};

use super::catalogue::{Column, ColumnKind, Reference, Shape, Table};
use super::dependents::Dependents;
use super::keep::Keep;
use super::partitions;
use super::start::{Form, StartColumn, form_of};
use super::statement::Statement;
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
    /// The starting point.
    pub start: StartColumn,
    condition: Option<Condition>,
    /// The subject's column.
    pub subject: Option<Column>,
    pub(super) change: Option<Change>,
    /// Columns that are read along with each record, for what belongs to it.
    pub(super) carried: Vec<Column>,
    /// Columns whose values are told to recipients.
    pub(super) told: Vec<Column>,
    /// The columns by which an event names records, each with the name of the event's value.
    matching: Vec<(Column, String)>,
    /// Whether an event says what is due, whatever its age.
    by_event: bool,
    /// How long a batch waits for a lock, while it holds others.
    lock_wait: Duration,
    /// Whether as little as possible is to be felt of it.
    is_calm: bool,
    keep: Keep,
    /// The access path that the rule pins.
    pub(super) pinned: Option<AccessPath>,
    /// Why no partition is dropped whole, if so.
    pub(super) obstacle: Option<&'static str>,
    /// What goes or changes in other tables with its records.
    pub dependents: Dependents,
}

/// What is set in an anonymized record.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) columns: Vec<(Column, Strategy)>,
    pub(super) marker: Option<(Column, Form)>,
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
    /// A column that identifies records to a recipient is of a type that has no text of its own.
    #[error(
        "the column `{column}` is of type {type_name}, and a recipient is told texts, numbers and moments alone"
    )]
    ToldType {
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
    /// A table that the rule names in `with` is not one whose rows can go along.
    #[error("`with` names the table `{table}`: {why}")]
    Dependent {
        /// The table.
        table: String,
        /// What is wrong.
        why: String,
    },
    /// A column of the key would change, and with it the name of the record.
    #[error("the column `{0}` is part of the table's key and cannot be anonymized")]
    KeyChanges(String),
}

/// The value of a column that a text stands for, if it can be one: a number beyond the column's would fail the
/// statement for all others.
pub(super) fn column_value(dialect: Dialect, column: &Column, text: &str) -> Option<KeyValue> {
    match column.kind {
        ColumnKind::Integer => {
            let number: i64 = text.parse().ok()?;
            let most = match column.type_name.as_str() {
                name if name.starts_with("tiny") => i64::from(i8::MAX),
                name if name.starts_with("small") => i64::from(i16::MAX),
                name if name.starts_with("int") => i64::from(i32::MAX),
                _ => i64::MAX,
            };
            let fits = (-most - 1..=most).contains(&number) || dialect != Dialect::Postgres;
            fits.then_some(KeyValue::Int(number.into()))
        }
        ColumnKind::Uuid => text.parse().ok().map(KeyValue::Uuid),
        _ => Some(KeyValue::Text(text.to_owned())),
    }
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
        let start =
            StartColumn::new(&table, &rows.starting_point, "starting point", &mut mismatches);
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
        let told = told_of(rule, &table, &mut mismatches);
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
        match start {
            Some(start) if mismatches.is_empty() => Ok(Target {
                obstacle: partitions::obstacle(rule, &table),
                table,
                start,
                condition: rows.condition.clone(),
                subject,
                change,
                carried,
                told,
                matching,
                by_event: false,
                lock_wait: rule.pacing.tempo.targets().lock_wait,
                is_calm: rule.pacing.tempo == Tempo::Gentle,
                keep: Keep::default(),
                pinned: rows.access,
                dependents: Dependents::default(),
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

    /// Whether deleting a record deletes others of the table, which point at it. What a statement deletes in
    /// that way, SQLite and MariaDB do not return and MySQL does not count, though it would have deleted it itself.
    pub(super) fn takes_its_own_along(&self) -> bool {
        self.does_to_its_own(|on_delete| on_delete == OnDelete::Cascade)
    }

    /// Whether deleting a record deletes or changes others of the table, which point at it. What a statement
    /// deletes after that, SQLite and MariaDB return as it was changed.
    pub(super) fn changes_its_own(&self) -> bool {
        self.does_to_its_own(|on_delete| on_delete != OnDelete::Refuse)
    }

    /// Whether acting on a record changes what recipients are told of it, as far as its statement would give it back.
    pub(super) fn changes_what_is_told(&self) -> bool {
        let Some(change) = &self.change else { return false };
        let Table { returns_unchanged, triggers, shape, .. } = &self.table;
        // Partitions and tables that inherit may have columns and triggers of their own making.
        let may_change_others = !returns_unchanged
            || *shape != Shape::Heap
            || triggers.iter().any(|trigger| trigger.on_update);
        !self.told.is_empty()
            && (may_change_others || self.told.iter().any(|column| change.changes(column)))
    }

    fn does_to_its_own(&self, does: impl Fn(OnDelete) -> bool) -> bool {
        let Table { schema, name, referenced_by, .. } = &self.table;
        let is_own = |reference: &Reference| {
            reference.schema == *schema && reference.table.eq_ignore_ascii_case(name)
        };
        let mut own = referenced_by.iter().filter(|reference| is_own(reference));
        self.change.is_none() && own.any(|reference| does(reference.on_delete))
    }

    /// Whether the rule has a condition besides the age of a record.
    pub(super) fn has_condition(&self) -> bool {
        self.condition.is_some()
    }

    /// Whether records may be locked before they go. PostgreSQL wants a right to UPDATE for that, which a rule that
    /// deletes may lack: then each is looked at once more as it goes.
    pub(super) fn may_lock(&self) -> bool {
        self.dialect() != Dialect::Postgres
            || !self.carried.is_empty()
            || self.table.privileges.update != Some(false)
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

    /// How long a batch waits for a lock, while it holds others.
    pub fn lock_wait(&self) -> Duration {
        self.lock_wait
    }

    /// Whether as little as possible is to be felt of what is read there.
    pub fn is_calm(&self) -> bool {
        self.is_calm
    }

    /// Has it mean its records as events name them, whatever their age, or as their age does.
    pub fn set_by_event(&mut self, by_event: bool) {
        self.by_event = by_event;
    }

    /// What the values of events name: the columns to compare, and their values. An event whose values
    /// can be none of these columns names nothing.
    pub fn window_of<'a>(
        &self,
        events: impl Iterator<Item = &'a BTreeMap<String, String>>,
    ) -> Window {
        let columns = self.matching.iter().map(|(column, _)| column.clone()).collect();
        // Without a column to compare, an event names nothing.
        let events = events.filter(|_| !self.matching.is_empty());
        let keys = events.filter_map(|values| {
            let read = |(column, name): &(Column, String)| {
                column_value(self.dialect(), column, values.get(name)?)
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
            s.push(" AND ");
            self.is_free(s);
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

    /// Appends that no legal hold keeps the record.
    pub(super) fn is_free(&self, s: &mut Statement) {
        s.push("NOT ");
        self.keep.is_held(s, self);
    }

    /// Appends everything that makes a record due but for legal holds.
    pub(super) fn due_or_held(&self, s: &mut Statement, bounds: Bounds) {
        if self.by_event {
            s.push("1 = 1");
        } else {
            self.start.is_before_cutoff(s, bounds);
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
}

pub(super) fn find(
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

/// The columns whose values are told, in the order of [`notice::told`].
fn told_of(rule: &Rule, table: &Table, mismatches: &mut Vec<Mismatch>) -> Vec<Column> {
    let mut columns = Vec::new();
    for name in notice::told(&rule.tellings) {
        let Some(column) = find(table, name, "recipients", mismatches) else { continue };
        let has_text = match (table.dialect, column.kind) {
            (_, ColumnKind::Bytes) => false,
            // Bits and shapes are bytes there, too.
            (Dialect::Mysql, ColumnKind::Other) => {
                let words = ["enum", "set", "json", "time", "year"];
                let name = column.type_name.split(['(', ' ']).next().unwrap_or_default();
                words.iter().any(|word| name.eq_ignore_ascii_case(word))
            }
            _ => true,
        };
        if has_text {
            columns.push(column);
        } else {
            let Column { name: column, type_name, .. } = column;
            mismatches.push(Mismatch::ToldType { column, type_name });
        }
    }
    columns
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
