//! What legal holds keep of a table, as a clause of every statement that looks for due records.
//!
//! A held record is kept, and so is one that a held row of another table points at: its deletion would
//! take that row along, empty its reference or fail. Where a deletion cascades, this is followed from
//! table to table.
//!
//! In doubt a record is held: a predicate whose result is unknown, a subject column whose type cannot be
//! compared surely, a date that cannot be compared, a cascade that goes on further than is followed.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::hold::{Claim, Claimed, Holds, Place, Range};
use crate::plan::OnDelete;
use crate::rule::{Condition, Dialect, Rule};
use crate::types::{Name, TableName};

use super::Transaction;
use super::catalogue::{Column, ColumnKind, Reference, Table};
use super::dependents::{Dependent, Dependents};
use super::statement::{Statement, Value};
use super::target::Target;

/// The names of referencing tables within the clause, one for each step of a cascade: a table may
/// reference itself.
const ALIASES: [&str; 4] =
    ["expunged_held_1", "expunged_held_2", "expunged_held_3", "expunged_held_4"];

/// Referencing tables that are looked at for one target. A schema has not so many by far.
const MOST_TABLES: usize = 500;

/// What is kept of a table.
#[derive(Clone, Default, Debug)]
pub(crate) struct Keep {
    parts: Vec<Part>,
    referrers: Vec<Referrer>,
}

/// Records that a hold claims.
#[derive(Clone, Debug)]
struct Part {
    what: What,
    range: Range,
}

#[derive(Clone, Debug)]
enum What {
    Everything,
    /// Those that name anybody at all: the column's type has no sure comparison.
    Anybody(Column),
    Persons(Column, Persons, Json),
    Predicate(Condition),
}

/// The persons as PostgreSQL takes them: one text, made once, where an array would be encoded for each
/// statement.
type Json = String;

/// Persons as a column of its type can name them. Never empty.
#[derive(Clone)]
enum Persons {
    Numbers(Vec<i64>, Vec<u64>),
    Decimals(Vec<String>),
    Uuids(Vec<String>),
    Texts(Vec<String>),
    Bytes(Vec<Vec<u8>>),
    /// SQLite's columns hold any type: numbers and texts, and bytes in hexadecimal, each as JSON.
    Any {
        scalars: String,
        bytes: String,
    },
}

/// Shows no person.
impl std::fmt::Debug for Persons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<persons>")
    }
}

/// Rows that point at a record and keep it.
#[derive(Clone, Debug)]
struct Referrer {
    reference: Reference,
    /// What of them is held; `None` where each of them counts.
    keep: Option<Keep>,
}

/// A table with the name of its store.
#[derive(Clone, Copy)]
struct Looking<'a> {
    store: &'a Name,
    holds: &'a Holds,
    /// Every table from which a row could go along.
    tables: &'a [Table],
}

/// Why it is not known what holds keep.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A table that points at the rule's cannot be looked at.
    #[error("the table {0} cannot be looked at")]
    Unseen(TableName),
    /// It is understood only where its table goes by its own name.
    #[error("the predicate names its table")]
    NamesItsTable(sqlx::Error),
}

/// Reads from the catalogue what a deletion reaches, and decides what holds keep of a rule's table, and of those whose
/// rows go along.
pub(crate) async fn hold_back(
    tx: &mut Transaction,
    rule: &Rule,
    target: &mut Target,
    holds: &Holds,
) -> Result<(), KeepError> {
    if holds.is_empty() {
        return Ok(());
    }
    let deletes = target.change_is_deletion();
    let tables = if deletes {
        reached(tx, &target.table, Some(&target.dependents)).await?
    } else {
        Vec::new()
    };
    let looking = Looking { store: &rule.store, holds, tables: &tables };
    let claims = if rule.holds.applies() {
        claims(looking, &target.table, Some(&rule.name))
    } else {
        Vec::new()
    };
    let parts = parts(&target.table, claims);
    let referrers = if deletes { looking.referrers(&target.table, 0) } else { Vec::new() };
    let keep = Keep { parts, referrers };
    try_predicates(tx, &keep).await?;
    looking.hold_back_below(&mut target.dependents.below);
    target.set_keep(keep);
    Ok(())
}

/// The same of a table that no rule works on. What a range of dates means there is not known, so it counts as a whole.
pub(super) async fn keep_of_table(
    tx: &mut Transaction,
    store: &Name,
    table: &Table,
    holds: &Holds,
) -> Result<Keep, KeepError> {
    if holds.is_empty() {
        return Ok(Keep::default());
    }
    let tables = reached(tx, table, None).await?;
    let looking = Looking { store, holds, tables: &tables };
    let parts = parts(table, claims(looking, table, None));
    let keep = Keep { parts, referrers: looking.referrers(table, 0) };
    try_predicates(tx, &keep).await?;
    Ok(keep)
}

/// The table's referrers, theirs where a deletion cascades, and so on.
/// Which rows go along, a rule may say as well.
async fn reached(
    tx: &mut Transaction,
    table: &Table,
    dependents: Option<&Dependents>,
) -> Result<Vec<Table>, KeepError> {
    let mut found: Vec<Table> = Vec::new();
    let mut open = table.referenced_by.clone();
    while let Some(reference) = open.pop() {
        if found.iter().any(|table| is_referrer(table, &reference)) {
            continue;
        }
        let name = TableName { schema: reference.schema.clone(), table: reference.table.clone() };
        let known = dependents.and_then(|dependents| dependents.table(&reference)).cloned();
        let referrer = match known {
            None => tx.table(&name).await?,
            known => known,
        };
        let referrer = match referrer {
            Some(referrer) if found.len() < MOST_TABLES => referrer,
            _ => return Err(KeepError::Unseen(name)),
        };
        if reference.on_delete == OnDelete::Cascade {
            open.extend(referrer.referenced_by.iter().cloned());
        }
        found.push(referrer);
    }
    Ok(found)
}

fn is_referrer(table: &Table, reference: &Reference) -> bool {
    table.name == reference.table
        && (reference.schema.is_none() || table.schema == reference.schema)
}

fn claims<'a>(looking: Looking<'a>, table: &Table, rule: Option<&Name>) -> Vec<Claim<'a>> {
    let mut names = table.family.clone();
    names.push((table.schema.clone(), table.name.clone()));
    looking.holds.claims(Place { store: looking.store, names: &names }, rule)
}

impl Looking<'_> {
    /// Says what of dependents is held. There the starting point is not known, so the whole of it counts.
    fn hold_back_below(self, below: &mut [Dependent]) {
        for dependent in below {
            let table = &dependent.table;
            let parts = whole(parts(table, claims(self, table, None)));
            dependent.keep = Keep { parts, referrers: self.referrers(table, 0) };
            self.hold_back_below(&mut dependent.below);
        }
    }

    /// What keeps a table's records because of rows that point at them.
    fn referrers(self, table: &Table, depth: usize) -> Vec<Referrer> {
        let mut referrers = Vec::new();
        for reference in &table.referenced_by {
            if !self.may_be_held(reference, &mut BTreeSet::new()) {
                continue;
            }
            let keep = self.find(reference).and_then(|referrer| {
                // There the starting point is not known, so the whole of it counts.
                let parts = whole(parts(referrer, claims(self, referrer, None)));
                let cascades = reference.on_delete == OnDelete::Cascade;
                if depth + 1 == ALIASES.len() {
                    let goes_on = cascades && !referrer.referenced_by.is_empty();
                    return (!goes_on).then_some(Keep { parts, referrers: Vec::new() });
                }
                let referrers =
                    if cascades { self.referrers(referrer, depth + 1) } else { Vec::new() };
                Some(Keep { parts, referrers })
            });
            referrers.push(Referrer { reference: reference.clone(), keep });
        }
        referrers
    }

    /// Whether a hold claims anything of what a reference leads to.
    fn may_be_held(self, reference: &Reference, seen: &mut BTreeSet<String>) -> bool {
        let Some(referrer) = self.find(reference) else { return true };
        if !claims(self, referrer, None).is_empty() {
            return true;
        }
        reference.on_delete == OnDelete::Cascade
            && seen.insert(referrer.display_name())
            && referrer.referenced_by.iter().any(|next| self.may_be_held(next, seen))
    }

    fn find(&self, reference: &Reference) -> Option<&Table> {
        self.tables.iter().find(|table| is_referrer(table, reference))
    }
}

/// Whatever their dates.
fn whole(parts: Vec<Part>) -> Vec<Part> {
    parts.into_iter().map(|part| Part { range: Range::default(), ..part }).collect()
}

fn parts(table: &Table, claims: Vec<Claim<'_>>) -> Vec<Part> {
    let part = |claim: Claim<'_>| {
        let what = match claim.what {
            // Nothing of a table is named by a path: in doubt it stays.
            Claimed::Everything | Claimed::Paths(_) => What::Everything,
            Claimed::Predicate(condition) => What::Predicate(condition.clone()),
            Claimed::Subjects { column, values, .. } => match table.column(column) {
                Some(column) => persons(table.dialect, column, &values)?,
                // The rule that names it fits the table no more.
                None => What::Everything,
            },
        };
        Some(Part { what, range: claim.range })
    };
    claims.into_iter().filter_map(part).collect()
}

/// Persons as a column can name them; `None` when it can name none of them.
fn persons(dialect: Dialect, column: &Column, values: &BTreeSet<&str>) -> Option<What> {
    let uuids = || values.iter().filter_map(|value| Uuid::parse_str(value).ok());
    let persons = match column.kind {
        _ if dialect == Dialect::Sqlite => any_of(values),
        ColumnKind::Integer => {
            let signed: Vec<i64> = values.iter().filter_map(|value| value.parse().ok()).collect();
            let beyond = |value: &u64| i64::try_from(*value).is_err();
            let parsed = values.iter().filter_map(|value| value.parse().ok());
            let unsigned: Vec<u64> = match dialect {
                Dialect::Mysql => parsed.filter(beyond).collect(),
                _ => Vec::new(),
            };
            if signed.is_empty() && unsigned.is_empty() {
                return None;
            }
            Persons::Numbers(signed, unsigned)
        }
        ColumnKind::Number => {
            let is_number = |value: &&&str| value.parse::<f64>().is_ok_and(f64::is_finite);
            Persons::Decimals(
                values.iter().filter(is_number).map(|text| (*text).to_owned()).collect(),
            )
        }
        ColumnKind::Uuid => Persons::Uuids(uuids().map(|uuid| uuid.to_string()).collect()),
        ColumnKind::Text => {
            let texts = values.iter().map(|value| (*value).to_owned());
            let all: BTreeSet<_> = texts.chain(uuids().map(|uuid| uuid.to_string())).collect();
            Persons::Texts(all.into_iter().collect())
        }
        ColumnKind::Bytes => Persons::Bytes(as_bytes(values)),
        _ => return Some(What::Anybody(column.clone())),
    };
    let none = match &persons {
        Persons::Decimals(all) | Persons::Uuids(all) | Persons::Texts(all) => all.is_empty(),
        Persons::Bytes(all) => all.is_empty(),
        Persons::Numbers(..) | Persons::Any { .. } => false,
    };
    if none {
        return None;
    }
    let json = if dialect == Dialect::Postgres { persons.to_json() } else { Json::new() };
    Some(What::Persons(column.clone(), persons, json))
}

/// The bytes that a value may stand for: its own, those that it spells, and a UUID's.
fn as_bytes(values: &BTreeSet<&str>) -> Vec<Vec<u8>> {
    let mut all = BTreeSet::new();
    for value in values {
        all.insert(value.as_bytes().to_vec());
        let digits = value.trim_start_matches("0x").trim_start_matches("\\x");
        all.extend(hex::decode(digits).ok());
        all.extend(Uuid::parse_str(value).ok().map(|uuid| uuid.as_bytes().to_vec()));
    }
    all.into_iter().collect()
}

fn any_of(values: &BTreeSet<&str>) -> Persons {
    let mut scalars = Vec::new();
    for value in values {
        scalars.push(serde_json::Value::from(*value));
        if let Ok(number) = value.parse::<i64>() {
            scalars.push(number.into());
        } else if let Ok(number) = value.parse::<f64>() {
            scalars.push(number.into());
        }
        let uuid = Uuid::parse_str(value).ok().map(|uuid| uuid.to_string());
        scalars.extend(uuid.filter(|uuid| uuid != value).map(serde_json::Value::from));
    }
    let bytes: Vec<_> = as_bytes(values).iter().map(hex::encode_upper).collect();
    Persons::Any {
        scalars: serde_json::Value::from(scalars).to_string(),
        bytes: serde_json::Value::from(bytes).to_string(),
    }
}

impl Keep {
    /// Whether there is nothing to keep.
    pub(super) fn is_nothing(&self) -> bool {
        self.parts.is_empty() && self.referrers.is_empty()
    }

    /// Whether records are kept because of rows that point at them.
    pub(super) fn has_referrers(&self) -> bool {
        !self.referrers.is_empty()
    }

    /// Appends, in parentheses, that a record of the target is held. It is true or false, never unknown.
    pub(super) fn is_held(&self, s: &mut Statement, target: &Target) {
        self.append(s, &target.table, Some(target), None);
    }

    /// The same of a table that no rule works on.
    pub(super) fn is_held_in(&self, s: &mut Statement, table: &Table) {
        self.append(s, table, None, None);
    }

    /// `depth` is the referencing table's, or `None` for the statement's own.
    fn append(
        &self,
        s: &mut Statement,
        table: &Table,
        target: Option<&Target>,
        depth: Option<usize>,
    ) {
        s.push("(");
        s.separated(" OR ", &self.parts, |s, part| {
            s.push("(");
            part.what.append(s, depth);
            if let (Some(target), false) = (target, part.range.is_open()) {
                s.push(" AND ");
                target.start.is_outside(s, part.range);
                s.push(" IS NOT TRUE");
            }
            s.push(")");
        });
        if !self.parts.is_empty() && !self.referrers.is_empty() {
            s.push(" OR ");
        }
        s.separated(" OR ", &self.referrers, |s, referrer| {
            referrer.append(s, table, depth);
        });
        if self.is_nothing() {
            s.push("1 = 0");
        }
        s.push(")");
    }
}

impl Referrer {
    /// Appends that a row points at the record which is kept itself. `depth` is the record's.
    ///
    /// Where a table references itself, this reads the table that the statement deletes from. MySQL
    /// (MariaDB does not) refuses that with error 1093, so there the run fails and nothing goes. A
    /// derived table would get around it at the price of a copy of the whole table for each batch.
    fn append(&self, s: &mut Statement, table: &Table, depth: Option<usize>) {
        let own = depth.map_or(0, |depth| depth + 1);
        let Reference { schema, table: name, columns, target_columns, .. } = &self.reference;
        s.push("EXISTS (SELECT 1 FROM ").qualified(schema.as_deref(), name);
        s.push(" AS ").push(ALIASES[own]).push(" WHERE ");
        s.separated(" AND ", columns.iter().zip(target_columns), |s, (from, to)| {
            s.push(ALIASES[own]).push(".").name(from).push(" = ");
            match depth {
                None => s.column(table, to),
                Some(depth) => s.push(ALIASES[depth]).push(".").name(to),
            };
        });
        if let Some(keep) = &self.keep {
            s.push(" AND ");
            keep.append(s, table, None, Some(own));
        }
        s.push(")");
    }
}

impl What {
    /// Appends that a record is one of these; never unknown.
    fn append(&self, s: &mut Statement, depth: Option<usize>) {
        let column = |s: &mut Statement, column: &Column| {
            if let Some(depth) = depth {
                s.push(ALIASES[depth]).push(".");
            }
            s.name(&column.name);
        };
        match self {
            What::Everything => {
                s.push("1 = 1");
            }
            What::Anybody(subject) => {
                column(s, subject);
                s.push(" IS NOT NULL");
            }
            What::Predicate(condition) => {
                s.condition(condition).push(" IS NOT FALSE");
            }
            What::Persons(subject, persons, json) => {
                column(s, subject);
                s.push(" IS NOT NULL AND ");
                persons.append(s, subject, json, &|s| column(s, subject));
            }
        }
    }
}

impl Persons {
    /// Appends that a column which is not NULL names one of them, by the store's own comparison.
    fn append(
        &self,
        s: &mut Statement,
        column: &Column,
        json: &Json,
        name: &dyn Fn(&mut Statement),
    ) {
        match (self, s.dialect()) {
            (Persons::Any { scalars, bytes }, _) => {
                s.push("(");
                name(s);
                s.push(" IN (SELECT value FROM json_each(").bind(Value::Text(scalars.clone()));
                s.push(")) OR typeof(");
                name(s);
                s.push(") = 'blob' AND hex(");
                name(s);
                s.push(") IN (SELECT value FROM json_each(").bind(Value::Text(bytes.clone()));
                s.push(")))");
            }
            (_, Dialect::Postgres) => {
                name(s);
                s.push(" IN (SELECT ");
                match self {
                    Persons::Numbers(..) => s.push("a::bigint"),
                    Persons::Decimals(_) => s.push("a::numeric"),
                    Persons::Bytes(_) => s.push("decode(a, 'hex')"),
                    Persons::Uuids(_) => s.push("a::uuid"),
                    // As the column's own type: a text without regard to case, or padded, is compared so.
                    Persons::Texts(_) | Persons::Any { .. } => s.push("a::").type_of(column),
                };
                s.push(" FROM json_array_elements_text(").literal(&Value::Text(json.clone()));
                s.push("::text::json) AS held (a))");
            }
            _ => {
                name(s);
                s.push(" IN (").separated(", ", &self.values(), |s, value| {
                    s.literal(value);
                });
                s.push(")");
            }
        }
    }

    fn to_json(&self) -> Json {
        let texts: Vec<String> = match self {
            Persons::Numbers(all, _) => all.iter().map(ToString::to_string).collect(),
            Persons::Bytes(all) => all.iter().map(hex::encode).collect(),
            Persons::Decimals(all) | Persons::Uuids(all) | Persons::Texts(all) => all.clone(),
            Persons::Any { .. } => Vec::new(),
        };
        serde_json::Value::from(texts).to_string()
    }

    fn values(&self) -> Vec<Value> {
        match self {
            Persons::Numbers(signed, unsigned) => {
                let signed = signed.iter().copied().map(Value::Int);
                signed.chain(unsigned.iter().copied().map(Value::UInt)).collect()
            }
            Persons::Decimals(all) | Persons::Uuids(all) | Persons::Texts(all) => {
                all.iter().cloned().map(Value::Text).collect()
            }
            Persons::Bytes(all) => all.iter().cloned().map(Value::Bytes).collect(),
            Persons::Any { .. } => Vec::new(),
        }
    }
}

/// Lets the store understand each predicate by itself. Within another statement a column that the
/// referencing table lacks would be looked for in the table it references, and be another one.
async fn try_predicates(tx: &mut Transaction, keep: &Keep) -> Result<(), sqlx::Error> {
    let mut open: Vec<(&Referrer, usize)> = keep.referrers.iter().map(|next| (next, 0)).collect();
    while let Some((referrer, depth)) = open.pop() {
        let Some(keep) = &referrer.keep else { continue };
        for part in &keep.parts {
            let What::Predicate(condition) = &part.what else { continue };
            let Reference { schema, table, .. } = &referrer.reference;
            try_predicate(tx, schema.as_deref(), table, condition, Some(ALIASES[depth])).await?;
        }
        open.extend(keep.referrers.iter().map(|next| (next, depth + 1)));
    }
    Ok(())
}

/// Whether the store understands the predicate of a hold wherever it may stand: by itself, and where
/// the table goes by another name because rows of it point at a record.
pub(crate) async fn try_held_predicate(
    tx: &mut Transaction,
    table: &Table,
    condition: &Condition,
) -> Result<(), KeepError> {
    let (schema, name) = (table.schema.as_deref(), &table.name);
    // By itself first: in PostgreSQL nothing can be asked in a transaction that has failed.
    try_predicate(tx, schema, name, condition, None).await?;
    let aliased = try_predicate(tx, schema, name, condition, Some(ALIASES[0])).await;
    aliased.map_err(KeepError::NamesItsTable)
}

async fn try_predicate(
    tx: &mut Transaction,
    schema: Option<&str>,
    table: &str,
    condition: &Condition,
    alias: Option<&'static str>,
) -> Result<(), sqlx::Error> {
    let mut s = Statement::new(tx.dialect(), "SELECT 1 FROM ");
    s.qualified(schema, table);
    if let Some(alias) = alias {
        s.push(" AS ").push(alias);
    }
    s.push(" WHERE ").condition(condition).push(" IS NOT FALSE LIMIT 0");
    tx.fetch(&s).await.map(drop)
}

/// How many records of a rule's table are held, and how many it has.
pub(crate) async fn count_held_of_target(
    tx: &mut Transaction,
    target: &Target,
) -> Result<(u64, u64), sqlx::Error> {
    count(tx, &target.table, |s| target.is_held(s)).await
}

/// How many records of any table are held, whatever their dates, and how many it has.
pub(crate) async fn count_held_of_table(
    tx: &mut Transaction,
    store: &Name,
    table: &Table,
    holds: &Holds,
) -> Result<(u64, u64), sqlx::Error> {
    let looking = Looking { store, holds, tables: &[] };
    let parts = parts(table, claims(looking, table, None));
    let keep = Keep { parts, referrers: Vec::new() };
    count(tx, table, |s| keep.append(s, table, None, None)).await
}

async fn count(
    tx: &mut Transaction,
    table: &Table,
    is_held: impl FnOnce(&mut Statement),
) -> Result<(u64, u64), sqlx::Error> {
    let mut s = Statement::new(table.dialect, "SELECT (SELECT count(*) FROM ");
    s.table(table).push(" WHERE ");
    is_held(&mut s);
    s.push("), (SELECT count(*) FROM ").table(table).push(")");
    let row = tx.fetch_row(&s).await?;
    let count = |place| row.int(place).and_then(|count| u64::try_from(count).ok());
    Ok((count(0).unwrap_or_default(), count(1).unwrap_or_default()))
}
