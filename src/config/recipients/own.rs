//! `protocol = "command"` and `protocol = "sql"`: what is of the operator's own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::diagnostic::Problem;
use super::super::reader::Reader;
use super::super::rules::{self, Stores};
use super::super::text::Kind;
use super::{table_name, timeout};
use crate::rule::StoreKind;
use crate::types::{Name, TableName};

pub(super) const KEYS_OF_COMMAND: [&str; 3] = ["program", "args", "timeout"];
pub(super) const KEYS_OF_SQL: [&str; 4] = ["store", "table", "columns", "timeout"];

/// A program that is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandRecipient {
    /// The program, by its absolute path.
    pub program: PathBuf,
    /// What it is started with.
    pub args: Vec<String>,
    /// How long it may take; 20 seconds by default.
    pub timeout: Duration,
}

/// A table whose rows are removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SqlRecipient {
    /// The store of the table.
    pub store: Name,
    /// The table.
    pub table: TableName,
    /// By the names of identities, the columns that hold them.
    pub columns: BTreeMap<String, String>,
    /// How long removing may take; 20 seconds by default.
    pub timeout: Duration,
}

/// Reads a program.
pub(super) fn command(reader: &mut Reader<'_>) -> Option<CommandRecipient> {
    reader.expect(&[("program", "\"/usr/local/bin/forget\"")]);
    let program = reader.word("program", "\"/usr/local/bin/forget\"");
    let program = program.and_then(|program| {
        let path = PathBuf::from(program.value);
        if path.is_absolute() {
            return Some(path);
        }
        let message = format!("{}: `program` is not an absolute path", reader.what);
        let help = "write the whole path, such as `/usr/local/bin/forget`: it is not looked for, and no shell starts it";
        reader.report(Problem::new(program.place, message).help(help));
        None
    });
    let written = reader.has("args");
    let args = reader.words("args", "[\"--quiet\"]").or((!written).then(Vec::new));
    let timeout = timeout(reader);
    let args = args?.iter().map(|word| word.value.to_owned()).collect();
    Some(CommandRecipient { program: program?, args, timeout })
}

/// Reads a table.
pub(super) fn sql(reader: &mut Reader<'_>, stores: &Stores) -> Option<SqlRecipient> {
    reader.expect(&[
        ("store", "\"warehouse\""),
        ("table", "\"events\""),
        ("columns", "{ user_id = \"user_id\" }"),
    ]);
    let (store, kind) = rules::store(reader, stores);
    if let Some(kind) = kind
        && !matches!(kind.value, StoreKind::Sql(_))
    {
        let message = format!("{}: its store is no database", reader.what);
        reader.report(Problem::new(kind.place, message).help("name the store of its table"));
    }
    let table = table_name(reader);
    let columns = columns(reader);
    let timeout = timeout(reader);
    Some(SqlRecipient { store: store?, table: table?.value, columns, timeout })
}

fn columns(reader: &mut Reader<'_>) -> BTreeMap<String, String> {
    const EXAMPLE: &str = "{ user_id = \"user_id\" }";
    let Some((entry, table)) = reader.table("columns", EXAMPLE) else { return BTreeMap::new() };
    if table.entries.is_empty() {
        let message = format!("{}: it has no columns", reader.what);
        let help = format!("write `columns = {EXAMPLE}`: the name of an identity, and its column");
        reader.report(Problem::new(entry.place, message).help(help));
    }
    let mut columns = BTreeMap::new();
    for (name, entry) in &table.entries {
        match &entry.kind {
            Kind::Text(column) if !column.trim().is_empty() => {
                columns.insert(name.clone(), column.clone());
            }
            _ => {
                reader.wrong_type::<()>(entry, name, "the name of a column", "\"user_id\"");
            }
        }
    }
    columns
}
