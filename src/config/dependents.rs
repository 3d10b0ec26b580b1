//! `with` of a rule: tables whose rows go with the rows that they point at.

use super::diagnostic::Problem;
use super::reader::{Reader, Wrong, quoted};
use super::text::{Entry, Kind, Table};
use crate::rule::{Dependent, Link};
use crate::types::TableName;

const EXAMPLE: &str = "[\"orders\"]";
const LINKED: &str = "{ table = \"sessions\", column = \"user_id\", references = \"id\" }";

/// Reads which rows of other tables go with the rule's.
pub(super) fn read(reader: &mut Reader<'_>) -> Vec<Dependent> {
    let Some(entry) = reader.entry("with") else { return Vec::new() };
    let elements = match &entry.kind {
        Kind::Text(_) => std::slice::from_ref(entry),
        Kind::List(elements) => elements.as_slice(),
        _ => {
            reader.wrong_type::<()>(entry, "with", "the names of tables", EXAMPLE);
            return Vec::new();
        }
    };
    if elements.is_empty() {
        let message = format!("{}: `with` is an empty list", reader.what);
        let help = format!("write `with = {EXAMPLE}`, or leave it out");
        reader.report(Problem::new(entry.place, message).help(help));
    }
    let mut dependents: Vec<Dependent> = Vec::new();
    for element in elements {
        let Some(dependent) = dependent(reader, element) else { continue };
        // A table may point by a foreign key and by a column that has none.
        if dependents.contains(&dependent) {
            let message = format!("{}: `{}` stands there twice", reader.what, dependent.table);
            reader.report(Problem::new(element.place, message).help("name each table once"));
            continue;
        }
        dependents.push(dependent);
    }
    dependents
}

fn dependent(reader: &Reader<'_>, element: &Entry) -> Option<Dependent> {
    match &element.kind {
        Kind::Text(text) => match text.parse::<TableName>() {
            Ok(table) => Some(Dependent { table, link: None }),
            Err(error) => {
                let message = format!("{}: {error}", reader.what);
                let help = format!("write such as `with = {EXAMPLE}`");
                reader.report(Problem::new(element.place, message).help(help));
                None
            }
        },
        Kind::Table(table) => linked(reader, table),
        _ => {
            let expected = format!("names of tables, and such as {LINKED}");
            reader.wrong_type(element, "with", &expected, EXAMPLE)
        }
    }
}

/// A table that no foreign key has point at the rule's.
fn linked(outer: &Reader<'_>, table: &Table) -> Option<Dependent> {
    let what = format!("a table of `with` of {}", outer.what);
    let mut reader = Reader::new(outer.context, what, table);
    reader.expect(&[
        ("table", "\"sessions\""),
        ("column", "\"user_id\""),
        ("references", "\"id\""),
    ]);
    let table = reader.parsed("table", "\"sessions\"", |text| {
        text.parse::<TableName>().map_err(|error| Wrong::new(error.to_string()))
    });
    let column = reader.word("column", "\"user_id\"");
    let references = reader.word("references", "\"id\"");
    if let Some(dotted) = references.filter(|references| references.value.contains('.')) {
        let message =
            format!("{}: {} is no column of the rule's table", reader.what, quoted(dotted.value));
        let help = "`references` names a column of the rule's own table, without the table";
        reader.report(Problem::new(dotted.place, message).help(help));
        return None;
    }
    reader.finish();
    let link = Link { column: column?.value.to_owned(), references: references?.value.to_owned() };
    Some(Dependent { table: table?.value, link: Some(link) })
}
