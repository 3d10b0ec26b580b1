//! The plan: what a rule would do now, decided before anything is touched, with a reason for each
//! record that is kept.
//!
//! Pure. A store counts ([`Survey`]), and [`Plan::new`] puts the counts, the rule and the moment
//! together. `plan`, `run` and rules in observe mode all use the same plan.

pub mod saved;
mod verification;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::breaker::ratio;
use crate::notice::{Per, Telling};
use crate::rule::{AccessPath, Mode, Rule};
use crate::types::{Key, Name};

pub use verification::{Replica, Residue, Verification};

/// What a table holds in the light of a rule.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Survey {
    /// Records that are due.
    pub due: u64,
    /// The earliest starting point among them.
    pub oldest: Option<Timestamp>,
    /// The latest starting point among them.
    pub newest: Option<Timestamp>,
    /// Distinct subjects among them, where the rule names a subject.
    pub subjects: Option<u64>,
    /// All records of the table.
    pub total: u64,
    /// Whether `total` is the store's estimate.
    pub total_is_estimate: bool,
    /// Kept: no starting point.
    pub no_start: u64,
    /// Kept: the starting point cannot be read.
    pub unreadable_start: u64,
    /// Kept: the starting point is a placeholder.
    pub placeholder_start: u64,
    /// Kept: the starting point lies in the future.
    pub future_start: u64,
    /// Kept: old enough, but the rule's condition does not hold.
    pub excluded: u64,
    /// Kept: old enough, but anonymized already.
    pub anonymized: u64,
    /// Kept: old enough, but the key holds NULL or a fraction and names no one record (SQLite).
    pub no_key: u64,
    /// Kept: due but for a legal hold.
    pub held: u64,
    /// Folders that could not be read: what is in them is not counted.
    pub unread: u64,
    /// Rows of other tables that point at due records, by foreign key.
    pub dependents: Vec<Dependents>,
    /// How a run would reach the due rows of a table.
    pub access: Option<Access>,
}

/// How a run would reach the due rows of a table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Access {
    /// The path.
    pub path: AccessPath,
    /// Why that one.
    pub why: String,
    /// Partitions that may go whole by their bounds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<Partition>,
    /// Why no partition of the table goes whole, where it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keeps_partitions: Option<&'static str>,
}

/// A partition that may go whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Its rows; 0 where they were not counted.
    pub rows: u64,
    /// Why it is not dropped whole, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spared: Option<String>,
}

/// What happens to a referencing row when the row it points at is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// It is deleted too.
    Cascade,
    /// Its reference is emptied.
    SetNull,
    /// Its reference is set to the default.
    SetDefault,
    /// The deletion fails.
    Refuse,
}

impl OnDelete {
    /// What happens to the rows, in words.
    pub fn effect(self) -> &'static str {
        match self {
            OnDelete::Cascade => "deleted too",
            OnDelete::SetNull => "reference set to NULL",
            OnDelete::SetDefault => "reference set to its default",
            OnDelete::Refuse => "the deletion fails",
        }
    }
}

/// Rows of another table that point at due records.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Dependents {
    /// Their table.
    pub table: String,
    /// What a deletion does to them.
    pub on_delete: OnDelete,
    /// How many there are.
    pub rows: u64,
}

/// Rows of one table that went, or changed, because records did that they pointed at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DependentRows {
    /// Their table.
    pub table: String,
    /// So many went.
    pub records: u64,
    /// So many stay, with an empty reference.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changed: u64,
}

impl DependentRows {
    /// Adds what another batch took along.
    pub fn add(sum: &mut Vec<DependentRows>, more: &[DependentRows]) {
        for rows in more {
            match sum.iter_mut().find(|known| known.table == rows.table) {
                Some(known) => {
                    known.records += rows.records;
                    known.changed += rows.changed;
                }
                None => sum.push(rows.clone()),
            }
        }
        sum.sort_by(|one, other| one.table.cmp(&other.table));
    }

    /// What became of how many rows of which table, in words.
    pub fn in_words(&self) -> String {
        let DependentRows { table, records, changed } = self;
        match (records, changed) {
            (_, 0) => format!("{records} rows of {table} with them"),
            (0, _) => format!("{changed} rows of {table} point at them no more"),
            _ => {
                format!("{records} rows of {table} with them, and {changed} point at them no more")
            }
        }
    }
}

/// Why records are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptReason {
    /// The starting point is NULL.
    NoStartingPoint,
    /// The starting point cannot be read as a moment.
    UnreadableStartingPoint,
    /// The starting point is a zero or another placeholder before the rule's earliest day.
    PlaceholderStartingPoint,
    /// The starting point lies in the future.
    FutureStartingPoint,
    /// Old enough, but the rule's `where` does not hold.
    Excluded,
    /// Old enough, but anonymized already.
    AlreadyAnonymized,
    /// Old enough, but its key holds NULL or a fraction and names no one record.
    NoKey,
    /// Due, but a legal hold covers it, or a row that its deletion would take along.
    Held,
}

impl KeptReason {
    /// The reason in words.
    pub fn in_words(self) -> &'static str {
        match self {
            KeptReason::NoStartingPoint => "no starting point",
            KeptReason::UnreadableStartingPoint => "starting point cannot be read",
            KeptReason::PlaceholderStartingPoint => "starting point is a placeholder",
            KeptReason::FutureStartingPoint => "starting point in the future",
            KeptReason::Excluded => "excluded by `where`",
            KeptReason::AlreadyAnonymized => "anonymized already",
            KeptReason::NoKey => "key is NULL or a fraction",
            KeptReason::Held => "held by a legal hold",
        }
    }
}

/// A number of records and why they are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Kept {
    /// Why.
    pub reason: KeptReason,
    /// How many.
    pub records: u64,
}

/// One due record, as an example.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Sample {
    /// Its key, shown because a person asked for it.
    pub key: Key,
    /// From when its retention counts.
    pub starting_point: Option<Timestamp>,
}

/// A recipient, and what it is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Told {
    /// Its name.
    pub recipient: Name,
    /// By its names of them, the columns or placeholders that identify a record to it.
    pub identify: BTreeMap<String, String>,
    /// Whether it is told of each person or of each record.
    pub per: Per,
}

impl From<&Telling> for Told {
    fn from(telling: &Telling) -> Told {
        let Telling { recipient, identify, per, .. } = telling;
        Told { recipient: recipient.clone(), identify: identify.clone(), per: *per }
    }
}

impl Told {
    /// What it is told of what, in words: `user_id (id) of each subject`.
    pub fn in_words(&self) -> String {
        let one = |(name, column): (&String, &String)| {
            if name == column { name.clone() } else { format!("{name} ({column})") }
        };
        let values: Vec<_> = self.identify.iter().map(one).collect();
        let of = match self.per {
            Per::Subject => "each subject",
            Per::Record => "each record",
        };
        format!("{} of {of}", values.join(", "))
    }
}

/// What a rule would do now.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The rule.
    pub rule: Name,
    /// Which version of the rule ([`Rule::digest`]).
    pub rule_digest: String,
    /// Its store.
    pub store: Name,
    /// Its table.
    pub table: String,
    /// `delete` or `anonymize`.
    pub action: &'static str,
    /// Whether a run would act.
    pub mode: Mode,
    /// The moment of the decision.
    pub at: Timestamp,
    /// The retention period as written.
    pub retention: String,
    /// Records whose starting point lies before it are due.
    pub cutoff: Timestamp,
    /// How many are due.
    pub due: u64,
    /// The earliest starting point among them.
    pub oldest: Option<Timestamp>,
    /// The latest starting point among them.
    pub newest: Option<Timestamp>,
    /// How many people they are about.
    pub subjects: Option<u64>,
    /// How many records the table has.
    pub total: u64,
    /// Whether that is the store's estimate.
    pub total_is_estimate: bool,
    /// The part of the table that is due, from 0 to 1.
    pub share: f64,
    /// Records that are kept though a glance might call them due, by reason. Only what occurs.
    pub kept: Vec<Kept>,
    /// Folders that could not be read: what is in them is not counted.
    #[serde(skip_serializing_if = "is_zero")]
    pub unread: u64,
    /// Rows of other tables that a deletion takes along, empties or fails on.
    pub dependents: Vec<Dependents>,
    /// How a run would reach the due rows of a table, and why that way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Columns that are only pseudonymized: whoever holds the key can still single a person out.
    pub pseudonymized: Vec<String>,
    /// Who is told of the records once they are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<Told>,
    /// How long a run would take, in seconds.
    pub forecast_seconds: f64,
    /// Whether the forecast rests on earlier runs of the rule, or is a guess.
    pub forecast_from_history: bool,
    /// Some of the due records, the oldest first.
    pub sample: Vec<Sample>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Records in a second that a database bears without haste; the guess before there is a history.
const GUESSED_PACE: f64 = 10_000.0;

impl Plan {
    /// Decides what a rule would do at `now`. `pace` is records per second in earlier runs.
    pub fn new(rule: &Rule, now: Timestamp, survey: Survey, pace: Option<f64>) -> Plan {
        let kept = [
            (KeptReason::NoStartingPoint, survey.no_start),
            (KeptReason::UnreadableStartingPoint, survey.unreadable_start),
            (KeptReason::PlaceholderStartingPoint, survey.placeholder_start),
            (KeptReason::FutureStartingPoint, survey.future_start),
            (KeptReason::Excluded, survey.excluded),
            (KeptReason::AlreadyAnonymized, survey.anonymized),
            (KeptReason::NoKey, survey.no_key),
            (KeptReason::Held, survey.held),
        ];
        let kept = kept.into_iter().filter(|(_, records)| *records > 0);
        Plan {
            rule: rule.name.clone(),
            rule_digest: rule.digest(),
            store: rule.store.clone(),
            table: rule.table.to_string(),
            action: rule.action.as_str(),
            mode: rule.mode,
            at: now,
            retention: rule.retention.to_string(),
            cutoff: rule.cutoff(now),
            due: survey.due,
            oldest: survey.oldest,
            newest: survey.newest,
            subjects: survey.subjects,
            total: survey.total,
            total_is_estimate: survey.total_is_estimate,
            share: ratio(survey.due, survey.total),
            kept: kept.map(|(reason, records)| Kept { reason, records }).collect(),
            unread: survey.unread,
            dependents: survey.dependents.into_iter().filter(|rows| rows.rows > 0).collect(),
            access: survey.access,
            pseudonymized: rule.action.pseudonymized_columns(),
            recipients: rule.tellings.iter().map(Told::from).collect(),
            forecast_seconds: ratio(survey.due, 1) / pace.unwrap_or(GUESSED_PACE).max(1.0),
            forecast_from_history: pace.is_some(),
            sample: Vec::new(),
        }
    }

    /// Records that no decision can be made on: their starting point is missing, unreadable, a
    /// placeholder or in the future.
    pub fn undecided(&self) -> u64 {
        use KeptReason::{AlreadyAnonymized, Excluded, Held};
        let decided = |kept: &&Kept| !matches!(kept.reason, Excluded | AlreadyAnonymized | Held);
        self.kept.iter().filter(decided).map(|kept| kept.records).sum()
    }
}
