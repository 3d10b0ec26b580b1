//! Legal holds: what one covers, when it ends, and what holds say of a table.
//!
//! Pure. A [`Hold`] is an order to keep records whatever a rule says. [`Holds`] are those that a
//! decision has to heed; what they [claim](Holds::claims) of a table becomes a clause of the deleting
//! statement. Wherever it is not clear whether a record is covered, it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::path::Template;
use crate::rule::{Condition, InvalidCondition, Rule, Selection, StoreKind};
use crate::types::{Name, TableName};

/// How long a hold lasts unless told otherwise, and how long each extension.
pub const DAYS: i64 = 90;

/// A hold may cover this share of a table before it counts as too broad.
pub const BROAD_SHARE: f64 = 0.1;

/// An order to keep records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Its id.
    pub id: Uuid,
    /// What it says.
    pub terms: Terms,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it ends by itself.
    pub until: Timestamp,
    /// When it ended, if it has: released, or its time was over.
    pub ended_at: Option<Timestamp>,
}

impl Hold {
    /// Whether it keeps records at `now`.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.ended_at.is_none() && self.until > now
    }

    /// Whether a person whom it is about is not to be told at `now`.
    pub fn is_confidential(&self, now: Timestamp) -> bool {
        // To the end of that day, wherever that is last.
        let ends = self.terms.order.confidential_until.and_then(|day| midnight(day, 2));
        ends.is_some_and(|ends| now < ends)
    }
}

/// What a hold says. It may name persons, so the ledger keeps it sealed and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What it covers.
    pub scope: Scope,
    /// Of that, only records whose starting point lies in these days.
    #[serde(default)]
    pub range: Range,
    /// The order behind it.
    pub order: Order,
    /// Why it may be as broad as it is, where it is broad.
    #[serde(default)]
    pub broad: Option<String>,
    /// Where stores name persons, as the rules had it when it was placed or extended. Whoever heeds it
    /// may have loaded others.
    #[serde(default)]
    pub columns: BTreeSet<SubjectColumn>,
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Terms({})", self.scope.kind())
    }
}

impl Terms {
    /// Notes where these rules say that persons are named, if it is about persons.
    pub fn note_columns(&mut self, rules: &BTreeMap<Name, Rule>) {
        let Scope::Subjects { store, .. } = &self.scope else { return };
        let here = |column: &SubjectColumn| store.as_ref().is_none_or(|s| *s == column.store);
        self.columns.extend(subject_columns(rules).filter(here));
    }

    /// Why it is too broad to be placed without a word why; what it covers need not be counted.
    pub fn is_broad(&self) -> Option<&'static str> {
        match &self.scope {
            Scope::Store(_) => Some("it covers a whole store"),
            Scope::Table(Records { predicate: None, .. }) if self.range.is_open() => {
                Some("it covers a whole table")
            }
            Scope::Rule { .. } if self.range.is_open() => {
                Some("it covers a rule without a range of dates")
            }
            _ => None,
        }
    }
}

/// What a hold covers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Whatever is about certain persons, in tables whose subject column a rule names.
    Subjects {
        /// As the stores write them.
        values: BTreeSet<String>,
        /// Only there.
        store: Option<Name>,
        /// Only there.
        table: Option<TableName>,
    },
    /// Whatever a rule would take, and the records it was about when the hold was placed.
    Rule {
        /// The rule.
        name: Name,
        /// Its records then: a rule that is changed later does not let them go.
        records: Records,
    },
    /// Records of a table.
    Table(Records),
    /// Everything in a store.
    Store(Name),
}

impl Scope {
    /// The word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Scope::Subjects { .. } => "subjects",
            Scope::Rule { .. } => "rule",
            Scope::Table(_) => "table",
            Scope::Store(_) => "store",
        }
    }

    /// The one store that it is about.
    pub fn store(&self) -> Option<&Name> {
        match self {
            Scope::Subjects { store, .. } => store.as_ref(),
            Scope::Rule { records, .. } | Scope::Table(records) => Some(&records.store),
            Scope::Store(store) => Some(store),
        }
    }

    /// The one table that it is about.
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Scope::Subjects { table, .. } => table.as_ref(),
            Scope::Rule { records, .. } | Scope::Table(records) => Some(&records.table),
            Scope::Store(_) => None,
        }
    }

    /// The one rule that it is about.
    pub fn rule(&self) -> Option<&Name> {
        match self {
            Scope::Rule { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// Records of a table: all of them, or those that meet a predicate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRecords", into = "RawRecords")]
pub struct Records {
    /// The store.
    pub store: Name,
    /// What it speaks.
    pub kind: StoreKind,
    /// The table.
    pub table: TableName,
    /// What they meet; a record for which that is not known is covered.
    pub predicate: Option<Condition>,
    /// Of files and objects, the paths; all of them where there is none.
    pub paths: Vec<Template>,
}

#[derive(Clone, Serialize, Deserialize)]
struct RawRecords {
    store: Name,
    kind: StoreKind,
    table: TableName,
    predicate: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    paths: Vec<Template>,
}

impl From<Records> for RawRecords {
    fn from(records: Records) -> RawRecords {
        let Records { store, kind, table, predicate, paths } = records;
        let predicate = predicate.map(|text| text.as_str().to_owned());
        RawRecords { store, kind, table, predicate, paths }
    }
}

impl TryFrom<RawRecords> for Records {
    type Error = crate::rule::InvalidCondition;

    fn try_from(raw: RawRecords) -> Result<Records, Self::Error> {
        let RawRecords { store, kind, table, predicate, paths } = raw;
        let parse = |text: String| match kind {
            StoreKind::Sql(dialect) => Condition::parse(dialect, &text),
            StoreKind::Files | StoreKind::Objects => Err(InvalidCondition::NoTable),
        };
        let predicate = predicate.map(parse).transpose()?;
        Ok(Records { store, kind, table, predicate, paths })
    }
}

/// Days, the first and the last included; open where there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub struct Range {
    /// The first day.
    pub from: Option<Date>,
    /// The last day.
    pub to: Option<Date>,
}

impl Range {
    /// Whether it leaves nothing out.
    pub fn is_open(&self) -> bool {
        *self == Range::default()
    }

    /// Starting points before this moment lie before the range, whatever the zone: a day begins up to
    /// 14 hours earlier somewhere.
    pub fn begins(&self) -> Option<Timestamp> {
        midnight(self.from?, -1)
    }

    /// Starting points from this moment on lie after the range, whatever the zone.
    pub fn ends(&self) -> Option<Timestamp> {
        midnight(self.to?, 2)
    }
}

/// The beginning of a day in UTC, so many days on.
fn midnight(day: Date, on: i64) -> Option<Timestamp> {
    let day = day.checked_add(on.days()).ok()?;
    day.to_zoned(TimeZone::UTC).ok().map(|midnight| midnight.timestamp())
}

/// The order behind a hold, as a preservation request states it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Order {
    /// Who asks: a court, an authority, one's own counsel.
    pub authority: String,
    /// Under which reference.
    pub reference: String,
    /// The person who asks, with their badge where they have one.
    #[serde(default)]
    pub agent: Option<String>,
    /// Their official address.
    #[serde(default)]
    pub contact: Option<String>,
    /// The date of the order.
    #[serde(default)]
    pub dated: Option<Date>,
    /// When the data is due to whoever asks.
    #[serde(default)]
    pub due: Option<Date>,
    /// Which legal kind of data it is about; each needs an instrument of its own.
    #[serde(default)]
    pub data: Option<DataKind>,
    /// Until the end of this day, the person whom it is about is not told.
    #[serde(default)]
    pub confidential_until: Option<Date>,
    /// Anything else.
    #[serde(default)]
    pub note: Option<String>,
}

/// The legal kind of data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// What somebody wrote or sent.
    Content,
    /// Who, when and from where: a subscriber's data and connections.
    NonContent,
}

impl DataKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            DataKind::Content => "content",
            DataKind::NonContent => "non-content",
        }
    }
}

/// The holds that a decision has to heed, and where the configuration says that subjects are named.
#[derive(Clone, Default, Debug)]
pub struct Holds {
    holds: Vec<Hold>,
    subjects: Vec<SubjectColumn>,
}

/// A column that names the person a record is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SubjectColumn {
    /// The store.
    pub store: Name,
    /// The table.
    pub table: TableName,
    /// The column; of files and objects, the placeholder.
    pub column: String,
    /// The paths that have the placeholder, as they are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<Template>,
}

fn subject_columns(rules: &BTreeMap<Name, Rule>) -> impl Iterator<Item = SubjectColumn> {
    rules.values().filter_map(|rule| {
        let column = rule.subject.clone()?;
        let paths = match &rule.select {
            Selection::Rows(_) => Vec::new(),
            Selection::Paths(paths) => paths.templates.clone(),
        };
        Some(SubjectColumn { store: rule.store.clone(), table: rule.table.clone(), column, paths })
    })
}

/// What holds say of a table: these records stay.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Which.
    pub what: Claimed<'a>,
    /// Of them, those whose starting point may lie in the range.
    pub range: Range,
}

/// Records that stay.
#[derive(Clone, PartialEq, Eq)]
pub enum Claimed<'a> {
    /// All of the table.
    Everything,
    /// Those about certain persons.
    Subjects {
        /// The column that names them; of files and objects, the placeholder.
        column: &'a str,
        /// The paths that have the placeholder.
        paths: &'a [Template],
        /// As holds name them.
        values: BTreeSet<&'a str>,
    },
    /// Those for which a predicate is not false.
    Predicate(&'a Condition),
    /// Those of these paths.
    Paths(&'a [Template]),
}

/// A table as the live catalogue names it; a partition also goes by the names of those it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its store.
    pub store: &'a Name,
    /// Its names, each with its schema where the store has schemas.
    pub names: &'a [(Option<String>, String)],
}

impl Place<'_> {
    /// Whether a name may mean this table: one without a schema may mean any. Case is nothing to go by.
    pub fn may_be(&self, name: &TableName) -> bool {
        self.names.iter().any(|(schema, table)| {
            let same_schema = match (&name.schema, schema) {
                (Some(named), Some(schema)) => named.eq_ignore_ascii_case(schema),
                _ => true,
            };
            same_schema && name.table.eq_ignore_ascii_case(table)
        })
    }
}

impl Holds {
    /// The holds, in the light of the configured rules.
    pub fn new(rules: &BTreeMap<Name, Rule>, holds: Vec<Hold>) -> Holds {
        Holds { subjects: subject_columns(rules).collect(), holds }
    }

    /// Takes more of them in. None goes: what has ended since is heeded until all are read again.
    pub fn extend(&mut self, more: Vec<Hold>) {
        for hold in more {
            self.holds.retain(|known| known.id != hold.id);
            self.holds.push(hold);
        }
    }

    /// With more columns that name persons: of tables that no rule works on.
    #[must_use]
    pub fn with_columns(mut self, columns: impl IntoIterator<Item = SubjectColumn>) -> Holds {
        self.subjects.extend(columns);
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// What they claim of a table. `rule` is the one that would take from it, if one of its own does
    /// and not a deletion elsewhere that reaches this table.
    pub fn claims(&self, place: Place<'_>, rule: Option<&Name>) -> Vec<Claim<'_>> {
        let mut claims = Vec::new();
        let mut persons: BTreeMap<(&str, &[Template], Range), BTreeSet<&str>> = BTreeMap::new();
        let here =
            |records: &Records| records.store == *place.store && place.may_be(&records.table);
        let mut claim = |hold: &Hold, what| claims.push(Claim { what, range: hold.terms.range });
        for hold in &self.holds {
            match &hold.terms.scope {
                Scope::Store(store) if store == place.store => claim(hold, Claimed::Everything),
                Scope::Rule { name, .. } if rule == Some(name) => claim(hold, Claimed::Everything),
                Scope::Table(records) | Scope::Rule { records, .. } if here(records) => {
                    let what = match &records.predicate {
                        Some(predicate) => Claimed::Predicate(predicate),
                        None if records.paths.is_empty() => Claimed::Everything,
                        None => Claimed::Paths(&records.paths),
                    };
                    claim(hold, what);
                }
                Scope::Subjects { values, store, table } => {
                    let elsewhere = store.as_ref().is_some_and(|store| store != place.store)
                        || table.as_ref().is_some_and(|table| !place.may_be(table));
                    if elsewhere {
                        continue;
                    }
                    let columns = self.subjects.iter().chain(&hold.terms.columns);
                    for subject in columns.filter(|subject| subject.is_of(place)) {
                        let named = (subject.column.as_str(), subject.paths.as_slice());
                        let all = persons.entry((named.0, named.1, hold.terms.range)).or_default();
                        all.extend(values.iter().map(String::as_str));
                    }
                }
                _ => {}
            }
        }
        let persons = persons.into_iter().map(|((column, paths, range), values)| Claim {
            what: Claimed::Subjects { column, paths, values },
            range,
        });
        claims.extend(persons);
        claims
    }
}

impl SubjectColumn {
    /// Whether it is one of this table.
    fn is_of(&self, place: Place<'_>) -> bool {
        self.store == *place.store && place.may_be(&self.table)
    }
}

#[cfg(test)]
mod tests;
