//! Rules: which records are due, from when retention counts, and what happens to them.
//!
//! A [`Rule`] is valid by construction; the configuration is parsed into it once. The one decision
//! taken here is [`Retention::cutoff`]: a record is due when its starting point lies strictly before
//! the cutoff.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::anonymize::Anonymization;
use crate::breaker::{Limits, Whole};
use crate::notice::{Per, Telling};
use crate::pace::Pacing;
use crate::path::Template;
use crate::schedule::{Schedule, Windows};
use crate::types::{EventName, Name, TableName};

mod access;
mod condition;
mod retention;

pub use access::{AccessPath, Facts, Why};
pub use condition::{Condition, InvalidCondition};
pub use retention::{InvalidRetention, Retention, wall_clock_before};

/// What kind of system a store is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKind {
    /// A database of tables.
    Sql(Dialect),
    /// A tree of files.
    Files,
    /// A bucket of objects.
    Objects,
}

impl StoreKind {
    /// All kinds.
    pub const ALL: [StoreKind; 5] = [
        StoreKind::Sql(Dialect::Postgres),
        StoreKind::Sql(Dialect::Mysql),
        StoreKind::Sql(Dialect::Sqlite),
        StoreKind::Files,
        StoreKind::Objects,
    ];

    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreKind::Sql(dialect) => dialect.as_str(),
            StoreKind::Files => "files",
            StoreKind::Objects => "objects",
        }
    }
}

impl Serialize for StoreKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for StoreKind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = std::borrow::Cow::<str>::deserialize(deserializer)?;
        StoreKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| serde::de::Error::custom(format!("`{word}` is no kind of store")))
    }
}

/// What a database speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::Postgres => "postgres",
            Dialect::Mysql => "mysql",
            Dialect::Sqlite => "sqlite",
        }
    }
}

/// A deletion rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name in the configuration.
    pub name: Name,
    /// What it does, for people.
    pub description: Option<String>,
    /// Why: the policy, law or contract it carries out.
    pub basis: Option<String>,
    /// The store it works on.
    pub store: Name,
    /// The table it works on; in a store without tables [`TableName::files`] or [`TableName::objects`],
    /// under which its records are known to the ledger and to legal holds.
    pub table: TableName,
    /// Which records it means there.
    pub select: Selection,
    /// How long a record is kept. Where events say what goes, it is the longest that what no event ever
    /// named is kept.
    pub retention: Retention,
    /// What happens to a due record.
    pub action: Action,
    /// The column, or the placeholder of its paths, that names the person a record is about.
    pub subject: Option<String>,
    /// When it runs.
    pub schedule: Schedule,
    /// The zone of its schedule and its calendar.
    pub time_zone: TimeZone,
    /// Whether it acts or only watches.
    pub mode: Mode,
    /// What a run may take without being asked about.
    pub limits: Limits,
    /// How its runs are paced.
    pub pacing: Pacing,
    /// The hours in which it may run by itself. What events name goes at any time: see [`Rule::is_open`].
    pub windows: Windows,
    /// Whether legal holds stop it.
    pub holds: HoldPolicy,
    /// The events upon which records go, each naming which. What no event ever names goes by its age.
    pub events: Vec<EventName>,
    /// The values that each of these events must have, by name: they say which records are meant.
    pub event_values: BTreeSet<String>,
    /// Whether what it takes may ever have been given to anybody.
    pub sharing: Sharing,
    /// Who is told of what it takes, each once, by name.
    pub tellings: Vec<Telling>,
}

/// Which records a rule means.
#[derive(Clone, Debug)]
pub enum Selection {
    /// Rows of a table.
    Rows(Rows),
    /// Files or objects.
    Paths(Paths),
}

/// Rows of a table.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The condition that a record must meet besides its age.
    pub condition: Option<Condition>,
    /// From when retention counts.
    pub starting_point: StartingPoint,
    /// What belongs to a row and goes with it.
    pub attachments: Vec<Attachment>,
    /// Tables whose rows go with the rows that they point at.
    pub dependents: Vec<Dependent>,
    /// The columns by which an event names rows, each with the name of the event's value.
    pub matching: BTreeMap<String, String>,
    /// How a run is to reach them; `None` where it chooses by what it finds.
    pub access: Option<AccessPath>,
}

/// Files or objects.
#[derive(Clone, Debug)]
pub struct Paths {
    /// What they are called.
    pub templates: Vec<Template>,
    /// From when retention counts.
    pub start: PathStart,
    /// Starting points before this day are placeholders.
    pub earliest: Date,
}

/// From when the retention of a file or object counts.
#[derive(Clone, Debug)]
pub enum PathStart {
    /// When it was last modified.
    Modified,
    /// The end of the day that its path names, in this zone.
    Day(TimeZone),
}

/// A file or object that belongs to a row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Attachment {
    /// Its store.
    pub store: Name,
    /// What it is called; the placeholders are columns of the row.
    pub path: Template,
}

/// A table whose rows go with the rows that they point at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Dependent {
    /// The table.
    pub table: TableName,
    /// How its rows point at the rule's, where no foreign key says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
}

/// A reference that the database does not know of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Link {
    /// The column that points.
    pub column: String,
    /// The column of the rule's table that it points at.
    pub references: String,
}

/// Whether what a rule takes may ever have been given to others.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// It may.
    #[default]
    Possible,
    /// It never is: no rule may name a recipient for it.
    Never,
}

impl Sharing {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    fn is_possible(&self) -> bool {
        *self == Sharing::Possible
    }
}

/// Whether legal holds keep what a rule would take.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldPolicy {
    /// They do.
    #[default]
    Apply,
    /// They do not, because the law says so: a face photo must go although somebody asks for it.
    NotApplicable {
        /// Why.
        reason: String,
    },
}

impl HoldPolicy {
    /// Whether holds keep records from the rule.
    pub fn applies(&self) -> bool {
        *self == HoldPolicy::Apply
    }
}

/// Whether a rule acts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Record what would be done, and do nothing.
    Observe,
    /// Delete or anonymize.
    Enforce,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Observe => "observe",
            Mode::Enforce => "enforce",
        })
    }
}

/// What happens to a due record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The record is deleted.
    Delete,
    /// Columns of the record are changed.
    Anonymize(Anonymization),
}

impl Action {
    /// The word for it in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Action::Delete => "delete",
            Action::Anonymize(_) => "anonymize",
        }
    }

    /// The columns that it only pseudonymizes.
    pub fn pseudonymized_columns(&self) -> Vec<String> {
        match self {
            Action::Delete => Vec::new(),
            Action::Anonymize(change) => {
                change.pseudonymized_columns().into_iter().map(str::to_owned).collect()
            }
        }
    }
}

/// The moment from which retention counts.
#[derive(Clone, Debug)]
pub struct StartingPoint {
    /// The column that holds it.
    pub column: String,
    /// How the column writes a moment down.
    pub encoding: Encoding,
    /// The zone of values that name none.
    pub time_zone: TimeZone,
    /// Values before this day are placeholders (zero dates, epoch 0, `-infinity`): their records
    /// are kept and counted.
    pub earliest: Date,
}

/// How a starting point column writes a moment down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// By the column's own type: timestamp, date-time, date; in SQLite, ISO 8601 text.
    Native,
    /// A number of seconds since 1970-01-01 UTC.
    Seconds,
    /// A number of milliseconds since 1970-01-01 UTC.
    Milliseconds,
}

impl Rule {
    /// The rows it means, where it means rows.
    pub fn rows(&self) -> Option<&Rows> {
        match &self.select {
            Selection::Rows(rows) => Some(rows),
            Selection::Paths(_) => None,
        }
    }

    /// The files or objects it means, where it means those.
    pub fn paths(&self) -> Option<&Paths> {
        match &self.select {
            Selection::Rows(_) => None,
            Selection::Paths(paths) => Some(paths),
        }
    }

    /// What its records are a part of.
    pub fn whole(&self) -> Whole {
        match self.select {
            Selection::Rows(_) => Whole::Table,
            Selection::Paths(_) if self.table == TableName::objects() => Whole::Objects,
            Selection::Paths(_) => Whole::Files,
        }
    }

    /// From when its retention counts, in words: a column, or what its paths go by.
    pub fn starts_from(&self) -> &str {
        match &self.select {
            Selection::Rows(rows) => &rows.starting_point.column,
            Selection::Paths(Paths { start: PathStart::Modified, .. })
                if !self.events.is_empty() && self.table == TableName::files() =>
            {
                "upload"
            }
            Selection::Paths(Paths { start: PathStart::Modified, .. }) => "last modification",
            Selection::Paths(Paths { start: PathStart::Day(_), .. }) => "the day in the path",
        }
    }

    /// What goes with its records, in other stores.
    pub fn attachments(&self) -> &[Attachment] {
        self.rows().map_or(&[], |rows| &rows.attachments)
    }

    /// Whether it may run by itself now. A rule that waits for events always may: what they name goes at once, and its age
    /// is a deadline.
    pub fn is_open(&self, now: Timestamp) -> bool {
        !self.events.is_empty() || self.windows.is_open(&self.time_zone, now)
    }

    /// The first moment at or after `at` at which it may run by itself.
    pub fn opens_at(&self, at: Timestamp) -> Timestamp {
        if self.events.is_empty() { self.windows.opens_at(&self.time_zone, at) } else { at }
    }

    /// The cutoff of this rule at `now`.
    pub fn cutoff(&self, now: Timestamp) -> Timestamp {
        self.retention.cutoff(now, &self.time_zone)
    }

    /// SHA-256 over everything that decides which records go and how: an audit entry names it, so
    /// that a later reader knows which version of a rule it speaks of.
    ///
    /// The description, the schedule and the mode are not part of it.
    pub fn digest(&self) -> String {
        self.digest_if_told(&self.tellings)
    }

    /// What the digest would be if these recipients were told.
    pub fn digest_if_told(&self, tellings: &[Telling]) -> String {
        #[derive(Serialize)]
        struct Decisive<'a> {
            store: &'a Name,
            table: &'a TableName,
            #[serde(flatten)]
            select: Chosen<'a>,
            retention: &'a str,
            time_zone: Option<&'a str>,
            action: &'a Action,
            subject: &'a Option<String>,
            #[serde(skip_serializing_if = "HoldPolicy::applies")]
            holds: &'a HoldPolicy,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            events: &'a [EventName],
            #[serde(skip_serializing_if = "Sharing::is_possible")]
            sharing: Sharing,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            tellings: &'a [Told<'a>],
        }
        /// How many a recipient takes at once, and by when, is the recipient's own.
        #[derive(Serialize)]
        struct Told<'a> {
            recipient: &'a Name,
            identify: &'a BTreeMap<String, String>,
            per: Per,
        }
        /// In the order of before there were others than rows: a digest is not to change by itself.
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Chosen<'a> {
            Rows {
                condition: &'a Option<Condition>,
                starting_point: &'a str,
                encoding: Encoding,
                starting_point_zone: Option<&'a str>,
                earliest: Date,
                #[serde(skip_serializing_if = "<[_]>::is_empty")]
                attachments: &'a [Attachment],
                #[serde(skip_serializing_if = "<[_]>::is_empty")]
                dependents: &'a [Dependent],
                #[serde(skip_serializing_if = "BTreeMap::is_empty")]
                matching: &'a BTreeMap<String, String>,
            },
            Paths {
                paths: Vec<&'a str>,
                day: bool,
                day_zone: Option<&'a str>,
                earliest: Date,
            },
        }
        let select = match &self.select {
            Selection::Rows(rows) => Chosen::Rows {
                condition: &rows.condition,
                starting_point: &rows.starting_point.column,
                encoding: rows.starting_point.encoding,
                starting_point_zone: rows.starting_point.time_zone.iana_name(),
                earliest: rows.starting_point.earliest,
                attachments: &rows.attachments,
                dependents: &rows.dependents,
                matching: &rows.matching,
            },
            Selection::Paths(paths) => {
                let zone = match &paths.start {
                    PathStart::Modified => None,
                    PathStart::Day(zone) => Some(zone),
                };
                Chosen::Paths {
                    paths: paths.templates.iter().map(Template::as_str).collect(),
                    day: zone.is_some(),
                    day_zone: zone.and_then(TimeZone::iana_name),
                    earliest: paths.earliest,
                }
            }
        };
        let told = tellings.iter().map(|telling| Told {
            recipient: &telling.recipient,
            identify: &telling.identify,
            per: telling.per,
        });
        let decisive = Decisive {
            store: &self.store,
            table: &self.table,
            select,
            retention: self.retention.as_str(),
            time_zone: self.time_zone.iana_name(),
            action: &self.action,
            subject: &self.subject,
            holds: &self.holds,
            events: &self.events,
            sharing: self.sharing,
            tellings: &told.collect::<Vec<_>>(),
        };
        // Plain data with string keys: serializing it cannot fail.
        let json = serde_json::to_vec(&decisive).unwrap_or_default();
        hex::encode(Sha256::digest(json))
    }
}
