//! One record in the light of a rule: which of the clauses that decide hold for it.

use jiff::Timestamp;

use crate::plan::KeptReason;
use crate::rule::Dialect;
use crate::types::{Key, KeyValue};

use super::Transaction;
use super::catalogue::ColumnKind;
use super::statement::Statement;
use super::target::{Bounds, Target};
use super::window::{read_key, select_key};

/// What a rule makes of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// The record's key as the store has it.
    pub key: Key,
    /// From when its retention counts, where that can be read.
    pub starting_point: Option<Timestamp>,
    /// Whether a run would take it.
    pub is_due: bool,
    /// Whether the rule's condition holds for it.
    pub meets_condition: bool,
    /// Why it is kept although it may be old enough, where a clause says so.
    pub kept: Option<KeptReason>,
}

impl Target {
    /// The keys that a text may stand for; the values of a key of several columns are separated by
    /// commas.
    pub fn keys_from_text(&self, text: &str) -> Vec<Key> {
        let columns = &self.table.key;
        let parts: Vec<&str> = match columns.len() {
            1 => vec![text.trim()],
            _ => text.split(',').map(str::trim).collect(),
        };
        if parts.len() != columns.len() {
            return Vec::new();
        }
        let mut keys = vec![Vec::new()];
        for (column, part) in columns.iter().zip(parts) {
            let number = part.parse().ok().map(KeyValue::Int);
            let written = || Some(KeyValue::Text(part.to_owned()));
            let bytes = || part.strip_prefix("0x").and_then(|part| hex::decode(part).ok());
            let readings = match (self.dialect(), column.kind) {
                // Its columns hold any type.
                (Dialect::Sqlite, _) => [number, written(), bytes().map(KeyValue::Bytes)],
                (_, ColumnKind::Integer) => [number, None, None],
                (_, ColumnKind::Uuid) => [part.parse().ok().map(KeyValue::Uuid), None, None],
                (_, ColumnKind::Bytes) => [bytes().map(KeyValue::Bytes), None, None],
                _ => [written(), None, None],
            };
            let readings: Vec<_> = readings.into_iter().flatten().collect();
            keys = keys
                .iter()
                .flat_map(|key| {
                    readings
                        .iter()
                        .map(|value| [key.as_slice(), std::slice::from_ref(value)].concat())
                })
                .collect();
        }
        keys.into_iter().map(Key).collect()
    }
}

/// Appends one of the clauses that decide.
type Clause<'a> = &'a dyn Fn(&mut Statement);

/// Holds one record against the clauses that decide; `None` where there is none of these keys.
pub(crate) async fn explain(
    tx: &mut Transaction,
    target: &Target,
    bounds: Bounds,
    keys: &[Key],
) -> Result<Option<Explained>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(None);
    }
    let columns = &target.table.key;
    let mut s = Statement::new(target.dialect(), "SELECT ");
    select_key(&mut s, columns);
    s.push(", ");
    target.start.micros(&mut s, "");
    let clauses: [(Option<KeptReason>, Clause<'_>); 8] = [
        (None, &|s| target.due(s, bounds)),
        (Some(KeptReason::NoStartingPoint), &|s| target.start.is_missing(s)),
        (Some(KeptReason::UnreadableStartingPoint), &|s| target.start.is_unreadable(s)),
        (Some(KeptReason::PlaceholderStartingPoint), &|s| target.start.is_placeholder(s)),
        (Some(KeptReason::FutureStartingPoint), &|s| target.start.is_in_future(s, bounds.now)),
        (Some(KeptReason::Held), &|s| target.is_held(s)),
        (Some(KeptReason::AlreadyAnonymized), &|s| {
            s.push("1 = 1");
            target.is_anonymized(s);
        }),
        (Some(KeptReason::Excluded), &|s| {
            s.push("1 = 1");
            target.fails_condition(s);
        }),
    ];
    for (_, clause) in &clauses {
        s.push(", CASE WHEN ");
        clause(&mut s);
        s.push(" THEN 1 ELSE 0 END");
    }
    s.push(" FROM ").table(&target.table).push(" WHERE ").key_in(columns, keys);
    let Some(row) = tx.fetch(&s).await?.into_iter().next() else { return Ok(None) };
    let first = columns.len() + 1;
    let holds = |place: usize| row.int(first + place) == Some(1);
    let kept =
        clauses.iter().enumerate().find_map(|(place, (reason, _))| reason.filter(|_| holds(place)));
    Ok(Some(Explained {
        key: read_key(target.dialect(), &row, columns)?,
        starting_point: row
            .int(columns.len())
            .and_then(|micros| target.start.counts_from_micros(micros)),
        is_due: holds(0),
        meets_condition: !holds(clauses.len() - 1),
        kept,
    }))
}
