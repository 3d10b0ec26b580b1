//! What a live catalogue says about a table: plain facts, the same for every dialect.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::plan::OnDelete;
use crate::rule::Dialect;

/// A table as it stands in the store.
#[derive(Clone, Debug)]
pub struct Table {
    /// The store's dialect.
    pub dialect: Dialect,
    /// Its schema (PostgreSQL) or database (MySQL); SQLite has none.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
    /// What it is.
    pub shape: Shape,
    /// Whether it has partitions that can be detached and dropped (PostgreSQL).
    pub partitioned: bool,
    /// Tables that it shares rows with: partitions, and what it is a partition of (PostgreSQL).
    pub family: Vec<(Option<String>, String)>,
    /// Its columns in order.
    pub columns: Vec<Column>,
    /// The columns that name a record: the primary key, or else a unique index over columns that
    /// cannot be NULL. Empty when there is neither.
    pub key: Vec<Column>,
    /// Its indexes.
    pub indexes: Vec<Index>,
    /// The foreign keys of other tables (or its own) that point at it.
    pub referenced_by: Vec<Reference>,
    /// Its triggers on DELETE and UPDATE.
    pub triggers: Vec<Trigger>,
    /// Whether a DELETE or UPDATE of its rows may do anything besides.
    pub side_effects: SideEffects,
    /// What the connected user may do with it.
    pub privileges: Privileges,
    /// Its size as the store's own statistics tell it.
    pub statistics: Statistics,
    /// How well the order of a column's values is that in which its rows lie, from -1 to 1, where the
    /// store's statistics tell.
    pub correlations: BTreeMap<String, f64>,
    /// Whether its server gives back the rows that a DELETE took: all but MySQL do.
    pub returns_deleted: bool,
    /// Whether it gives back as it was what an UPDATE does not name: in PostgreSQL, where no column is generated and no rule
    /// rewrites statements. Triggers are told on their own.
    pub returns_unchanged: bool,
}

/// What acting on the rows of a table may do besides, foreign keys aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SideEffects {
    /// Nothing.
    None,
    /// Whatever triggers do, in PostgreSQL those of its partitions too, and rules: others that are due may be left.
    Possible,
}

impl SideEffects {
    pub(super) fn possible_if(they_are: bool) -> SideEffects {
        if they_are { SideEffects::Possible } else { SideEffects::None }
    }
}

/// How a table's rows can be reached in the order in which they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A PostgreSQL heap: by page number (`ctid`).
    Heap,
    /// A SQLite table with a rowid.
    Rowid,
    /// By its key: InnoDB, `WITHOUT ROWID`, and partitioned tables in PostgreSQL.
    Keyed,
    /// A view, a foreign table or something else that expunged does not delete from.
    Unsupported,
}

/// A column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as the store spells it.
    pub type_name: String,
    /// What kind of values it holds.
    pub kind: ColumnKind,
    /// Whether it may be NULL.
    pub nullable: bool,
}

/// What kind of values a column holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColumnKind {
    /// Integers of any width.
    Integer,
    /// Decimal and floating-point numbers.
    Number,
    /// Text.
    Text,
    /// Native UUIDs.
    Uuid,
    /// Bytes.
    Bytes,
    /// Instants: `timestamp with time zone`; `TIMESTAMP` in MySQL.
    Instant,
    /// Wall-clock times: `timestamp without time zone`; `DATETIME`.
    Civil,
    /// Days.
    Date,
    /// Network addresses (`inet`).
    Inet,
    /// Anything else.
    Other,
}

/// An index.
#[derive(Clone, Debug)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Its columns in order; an expression counts as a column without a name.
    pub columns: Vec<String>,
    /// Whether it is unique.
    pub unique: bool,
    /// Whether it covers only part of the table, is invalid, or has no order.
    pub partial: bool,
}

/// A foreign key that points at the table.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The constraint's name, or a made-up one where it has none.
    pub name: String,
    /// The schema of the referencing table.
    pub schema: Option<String>,
    /// The referencing table.
    pub table: String,
    /// Its referencing columns.
    pub columns: Vec<String>,
    /// The columns of this table that they point at.
    pub target_columns: Vec<String>,
    /// What a deletion does.
    pub on_delete: OnDelete,
    /// Whether an index of the referencing table starts with the columns; without one each deletion
    /// scans that table.
    pub indexed: bool,
    /// Whether the database knows of it, and not only a rule's `with`.
    pub declared: bool,
}

/// A trigger.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// It fires on DELETE.
    pub on_delete: bool,
    /// It fires on UPDATE.
    pub on_update: bool,
}

/// What the connected user may do with the table. `None` where the store does not tell.
#[derive(Clone, Copy, Default, Debug)]
pub struct Privileges {
    /// It may read.
    pub select: Option<bool>,
    /// It may delete.
    pub delete: Option<bool>,
    /// It may update.
    pub update: Option<bool>,
}

/// A table's size by the store's own statistics.
#[derive(Clone, Copy, Default, Debug)]
pub struct Statistics {
    /// Rows, an estimate; `None` where there is none.
    pub rows: Option<u64>,
    /// Pages of the store's own size that the rows lie in.
    pub pages: Option<u64>,
}

impl Table {
    /// SHA-256 over what a rule's effect depends on: columns, key, references and triggers. Indexes
    /// and sizes are not part of it.
    pub fn digest(&self) -> String {
        let mut facts = vec![self.display_name()];
        let columns = self.columns.iter();
        facts.extend(columns.map(|c| format!("{}\0{}\0{}", c.name, c.type_name, c.nullable)));
        facts.extend(self.key.iter().map(|column| format!("key\0{}", column.name)));
        facts.extend(self.referenced_by.iter().map(|reference| {
            let Reference { table, columns, target_columns, on_delete, .. } = reference;
            format!("reference\0{table}\0{columns:?}\0{target_columns:?}\0{on_delete:?}")
        }));
        facts.extend(self.triggers.iter().map(|trigger| {
            format!("trigger\0{}\0{}\0{}", trigger.name, trigger.on_delete, trigger.on_update)
        }));
        hex::encode(Sha256::digest(facts.join("\n")))
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// An index whose first column is `column` and which covers the whole table.
    pub fn index_on(&self, column: &str) -> Option<&Index> {
        self.indexes.iter().find(|index| {
            !index.partial && index.columns.first().is_some_and(|first| first == column)
        })
    }

    /// The name with its schema, for people.
    pub fn display_name(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.name),
            None => self.name.clone(),
        }
    }

    /// Picks the key: the primary key's columns, or else the shortest unique, complete index over
    /// columns that cannot be NULL.
    pub(crate) fn choose_key(&mut self, primary: &[String]) {
        let resolve = |names: &[String]| -> Option<Vec<Column>> {
            names.iter().map(|name| self.column(name).cloned()).collect()
        };
        let unique = self
            .indexes
            .iter()
            .filter(|index| index.unique && !index.partial)
            .filter_map(|index| resolve(&index.columns))
            .filter(|columns| columns.iter().all(|column| !column.nullable))
            .min_by_key(Vec::len);
        let primary = resolve(primary).filter(|columns| !columns.is_empty());
        self.key = primary.or(unique).unwrap_or_default();
    }
}
