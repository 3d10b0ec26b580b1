//! Rows of other tables that go, or change, because the records go that they point at: found in the catalogue,
//! by foreign keys and by the rule's `with`, from table to table.
//!
//! Where a rule names a table, its rows go by each foreign key that cascades or restricts, and by one that would
//! empty itself where it has no other. A row of a table that is not named goes where its foreign key cascades: the
//! database would take it along, one by one, and say nothing.

mod measure;
mod sweep;

use std::collections::BTreeSet;

use crate::plan::OnDelete;
use crate::rule::{Dependent as Named, Rule};
use crate::types::TableName;

use super::Transaction;
use super::catalogue::{Column, ColumnKind, Reference, Shape, Table};
use super::keep::Keep;
use super::statement::Statement;
use super::target::Mismatch;

pub(super) use measure::{count, fitting};
pub(super) use sweep::{at_once, sweep};

/// Tables that are looked at for one target; those beyond are left to the database.
const MOST_TABLES: usize = 100;
/// Tables from the rule's to the furthest that is followed, one after the other.
const DEEPEST: usize = 8;

/// What depends on the records of a rule that deletes.
#[derive(Clone, Default, Debug)]
pub struct Dependents {
    /// The columns of the rule's table that tell a record apart, and those that are pointed at.
    pub(super) columns: Vec<Column>,
    /// Rows that point at its records.
    pub(super) below: Vec<Dependent>,
    /// Every table that was looked at, with what becomes of its rows by the rule.
    pub(super) tables: Vec<Table>,
}

/// Rows of a table that point at rows of another.
#[derive(Clone, Debug)]
pub struct Dependent {
    /// Their table.
    pub table: Table,
    /// How they point there, and what becomes of them.
    pub reference: Reference,
    /// Whether the rule names the table.
    pub is_named: bool,
    /// Whether this process deletes them; otherwise the database does, if anybody.
    pub acts: bool,
    link: Link,
    /// Its columns that tell a row apart, and those that others point at.
    columns: Vec<Column>,
    /// How rows of it point at others of it that go with those.
    own: Vec<Link>,
    /// Rows that point at them.
    pub(super) below: Vec<Dependent>,
    /// What legal holds keep of them.
    pub(super) keep: Keep,
}

/// How rows point at others.
#[derive(Clone, Debug)]
struct Link {
    /// The columns that point, with the types of those that they point at.
    columns: Vec<Column>,
    /// The places of those among the columns of what they point at.
    places: Vec<usize>,
    /// Whether texts have to be the same letter by letter, because no constraint says what is.
    is_exact: bool,
}

impl Dependents {
    /// Finds what depends on the records of a rule's table, whose own references say from now on what becomes of the
    /// rows by this rule.
    pub(crate) async fn find(
        tx: &mut Transaction,
        rule: &Rule,
        table: &mut Table,
    ) -> Result<(Dependents, Vec<Mismatch>), sqlx::Error> {
        let named = rule.rows().map_or(&[][..], |rows| rows.dependents.as_slice());
        let (mut with, mut mismatches) = (Vec::new(), Vec::new());
        for named in named {
            match tx.table(&named.table).await? {
                Some(child) if child.shape != Shape::Unsupported => with.push((named, child)),
                Some(_) => mismatches.push(misfit(&named.table, "no rows can be deleted from it")),
                None => {
                    mismatches.push(misfit(&named.table, "there is none that its user can see"));
                }
            }
        }
        for (named, child) in &with {
            mismatches.extend(link(table, named, child).err());
        }
        decide(table, &with);
        let mut tables: Vec<Table> = Vec::new();
        let mut open = table.referenced_by.clone();
        while let Some(reference) = open.pop() {
            let is_known = |table: &Table| is_of(&reference, table);
            if is_known(table) || tables.iter().any(is_known) || tables.len() >= MOST_TABLES {
                continue;
            }
            let name =
                TableName { schema: reference.schema.clone(), table: reference.table.clone() };
            let Some(mut found) = tx.table(&name).await? else { continue };
            decide(&mut found, &with);
            if reference.on_delete == OnDelete::Cascade {
                open.extend(found.referenced_by.iter().cloned());
            }
            tables.push(found);
        }
        let growth = Growth { root: table, tables: &tables, with: &with };
        let below = growth.below(table, &mut Vec::new());
        let columns = pointed_at(table, below.iter().map(|dependent| &dependent.reference));
        let mut dependents = Dependents { columns, below, tables: Vec::new() };
        place(&dependents.columns.clone(), &mut dependents.below);
        for (named, child) in with.iter().filter(|(named, _)| named.link.is_none()) {
            let goes = |path: &Vec<&Dependent>| {
                path.last().is_some_and(|last| last.goes() && is_same(&last.table, child))
            };
            if !dependents.paths().iter().any(goes) {
                mismatches.push(misfit(
                    &named.table,
                    "no foreign key of it points at the rule's table or at another that goes with it, or several do that \
                     would only empty themselves",
                ));
            }
        }
        dependents.tables = tables;
        Ok((dependents, mismatches))
    }

    /// Whether nothing points at the records.
    pub fn is_empty(&self) -> bool {
        self.below.is_empty()
    }

    /// Whether anything goes or changes with the records.
    pub(crate) fn has_any(&self) -> bool {
        self.below.iter().any(|dependent| dependent.reference.on_delete != OnDelete::Refuse)
    }

    /// The tables whose rows keep a record from being deleted.
    pub(crate) fn refusing(&self, records: &Table) -> Vec<String> {
        let ways = self.paths();
        let refuses = |way: &Vec<&Dependent>| {
            let last = way.last()?;
            let shown = || last.name_beside(records);
            (last.reference.on_delete == OnDelete::Refuse).then(shown)
        };
        let tables: BTreeSet<String> = ways.iter().filter_map(refuses).collect();
        tables.into_iter().collect()
    }

    /// Each table that is reached, by all that stand between it and the records, the nearest first.
    pub fn paths(&self) -> Vec<Vec<&Dependent>> {
        let mut paths: Vec<Vec<&Dependent>> = Vec::new();
        let mut open: Vec<Vec<&Dependent>> = self.below.iter().rev().map(|one| vec![one]).collect();
        while let Some(path) = open.pop() {
            if let Some(last) = path.last() {
                let longer = |next| [path.as_slice(), &[next]].concat();
                open.extend(last.below.iter().rev().map(longer));
            }
            paths.push(path);
        }
        paths
    }

    /// A table that was looked at.
    pub(super) fn table(&self, reference: &Reference) -> Option<&Table> {
        self.tables.iter().find(|table| is_of(reference, table))
    }
}

impl Dependent {
    /// Whether the rows go.
    pub fn goes(&self) -> bool {
        self.reference.on_delete == OnDelete::Cascade
    }

    /// Whether the rows stay, and point nowhere from then on.
    fn changes(&self) -> bool {
        matches!(self.reference.on_delete, OnDelete::SetNull | OnDelete::SetDefault)
    }

    /// Whether how many there are tells how much a deletion does.
    fn counts(&self) -> bool {
        self.reference.on_delete != OnDelete::Refuse && self.table.privileges.select != Some(false)
    }

    /// Appends ` AND` no legal hold keeps the row. One that became held since its record was locked makes the batch fall
    /// short, and it is taken anew.
    fn is_free(&self, s: &mut Statement) {
        if !self.keep.is_nothing() {
            s.push(" AND NOT ");
            self.keep.is_held_in(s, &self.table);
        }
    }

    /// Its table as people call it, next to another: without a schema that is the same.
    pub fn name_beside(&self, other: &Table) -> String {
        if self.table.schema == other.schema {
            self.table.name.clone()
        } else {
            self.table.display_name()
        }
    }
}

fn misfit(table: &TableName, why: &'static str) -> Mismatch {
    Mismatch::Dependent { table: table.to_string(), why: why.to_owned() }
}

fn is_same(one: &Table, other: &Table) -> bool {
    one.name == other.name && one.schema == other.schema
}

fn is_of(reference: &Reference, table: &Table) -> bool {
    table.name == reference.table
        && (reference.schema.is_none() || table.schema == reference.schema)
}

/// Has a table point at the rule's by a column that has no foreign key, where the rule says so.
fn link(table: &mut Table, named: &Named, child: &Table) -> Result<(), Mismatch> {
    let Some(link) = &named.link else { return Ok(()) };
    let is_it = |reference: &&mut Reference| {
        is_of(reference, child)
            && reference.columns == [link.column.as_str()]
            && reference.target_columns == [link.references.as_str()]
    };
    if let Some(declared) = table.referenced_by.iter_mut().find(is_it) {
        declared.on_delete = OnDelete::Cascade;
        return Ok(());
    }
    let wrong = |why: String| Mismatch::Dependent { table: named.table.to_string(), why };
    let find = |table: &Table, name: &str| {
        let columns = || table.columns.iter().map(|column| column.name.as_str());
        let none = || {
            let all = columns().collect::<Vec<_>>().join(", ");
            wrong(format!("there is no column `{name}` in {}, which has {all}", table.name))
        };
        table.column(name).cloned().ok_or_else(none)
    };
    let (from, to) = (find(child, &link.column)?, find(table, &link.references)?);
    let is_sure = matches!(
        from.kind,
        ColumnKind::Integer | ColumnKind::Text | ColumnKind::Uuid | ColumnKind::Bytes
    );
    if from.kind != to.kind || !is_sure {
        return Err(wrong(format!(
            "its column `{}` is of type {} and `{}` of type {}: only texts, integers, UUIDs and bytes can be compared surely, each \
             with their like",
            from.name, from.type_name, to.name, to.type_name
        )));
    }
    table.referenced_by.push(Reference {
        name: format!("with ({})", from.name),
        schema: child.schema.clone(),
        table: child.name.clone(),
        indexed: child.index_on(&from.name).is_some(),
        columns: vec![from.name],
        target_columns: vec![to.name],
        on_delete: OnDelete::Cascade,
        declared: false,
    });
    Ok(())
}

/// What becomes of rows of the tables that the rule names, where they point at one that goes.
fn decide(table: &mut Table, with: &[(&Named, Table)]) {
    let (schema, name) = (table.schema.clone(), table.name.clone());
    let all = table.referenced_by.clone();
    for reference in &mut table.referenced_by {
        let names =
            |(named, child): &(&Named, Table)| named.link.is_none() && is_of(reference, child);
        if !with.iter().any(names) {
            continue;
        }
        let is_own = reference.table == name && reference.schema == schema;
        let is_only = !is_own
            && all
                .iter()
                .filter(|other| other.table == reference.table && other.schema == reference.schema)
                .count()
                == 1;
        if reference.on_delete == OnDelete::Refuse || is_only {
            reference.on_delete = OnDelete::Cascade;
        }
    }
}

/// The key of a table, and the columns that references point at.
fn pointed_at<'a>(table: &Table, references: impl Iterator<Item = &'a Reference>) -> Vec<Column> {
    let mut columns = table.key.clone();
    for name in references.flat_map(|reference| &reference.target_columns) {
        if !columns.iter().any(|column| column.name == *name) {
            columns.extend(table.column(name).cloned());
        }
    }
    columns
}

/// Says where, among the columns above, each of these points.
fn place(above: &[Column], below: &mut [Dependent]) {
    for dependent in below {
        if let Some(link) = Link::new(&dependent.reference, above) {
            dependent.link = link;
        }
    }
}

impl Link {
    /// `None` where it points at columns that are not there.
    fn new(reference: &Reference, above: &[Column]) -> Option<Link> {
        let place = |name: &String| above.iter().position(|column| column.name == *name);
        let places: Option<Vec<usize>> = reference.target_columns.iter().map(place).collect();
        let places = places?;
        let column = |(name, place): (&String, &usize)| Column {
            name: name.clone(),
            ..above[*place].clone()
        };
        let columns = reference.columns.iter().zip(&places).map(column).collect();
        Some(Link { columns, places, is_exact: !reference.declared })
    }
}

/// How the tables are put in order.
struct Growth<'a> {
    root: &'a Table,
    tables: &'a [Table],
    with: &'a [(&'a Named, Table)],
}

impl<'a> Growth<'a> {
    fn table(&self, reference: &Reference) -> Option<&'a Table> {
        let all = std::iter::once(self.root).chain(self.tables);
        all.into_iter().find(|table| is_of(reference, table))
    }

    /// What points at a table, which stands at the end of `way`: the tables from the rule's on, without that. A table
    /// that points back at one before it is left to the database.
    fn below(&self, above: &'a Table, way: &mut Vec<&'a Table>) -> Vec<Dependent> {
        let is_root = way.is_empty();
        way.push(above);
        let mut below = Vec::new();
        for reference in &above.referenced_by {
            let Some(table) = self.table(reference) else { continue };
            let is_own = is_same(table, above);
            if is_own && !is_root || !is_own && way.iter().any(|known| is_same(known, table)) {
                continue;
            }
            below.extend(self.dependent(reference, table, above, way));
        }
        way.pop();
        below
    }

    fn dependent(
        &self,
        reference: &Reference,
        table: &'a Table,
        above: &Table,
        way: &mut Vec<&'a Table>,
    ) -> Option<Dependent> {
        let goes = reference.on_delete == OnDelete::Cascade;
        let is_named = self.with.iter().any(|(_, child)| is_same(child, table));
        let may = table.privileges.delete != Some(false) && table.privileges.select != Some(false);
        let acts = goes && (is_named || may);
        let has_key = (1..=8).contains(&table.key.len());
        let (mut own, mut below, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        if acts && has_key && way.len() < DEEPEST {
            let is_own = |reference: &&Reference| {
                is_of(reference, table) && reference.on_delete == OnDelete::Cascade
            };
            let own_ones = || table.referenced_by.iter().filter(is_own);
            below = self.below(table, way);
            let others = below.iter().map(|dependent: &Dependent| &dependent.reference);
            columns = pointed_at(table, others.chain(own_ones()));
            own = own_ones().filter_map(|reference| Link::new(reference, &columns)).collect();
            place(&columns, &mut below);
        }
        let link = Link::new(reference, &pointed_at(above, std::iter::once(reference)))?;
        let (table, reference, keep) = (table.clone(), reference.clone(), Keep::default());
        Some(Dependent { table, reference, is_named, acts, link, columns, own, below, keep })
    }
}
