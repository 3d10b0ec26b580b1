//! `action`, `columns` and `marker` of a rule on rows: what happens to them, and whether it can.

use super::columns;
use super::diagnostic::Problem;
use super::reader::{Located, Reader, quoted};
use super::rules::owned;
use super::text::{Entry, Kind};
use crate::anonymize::{Anonymization, InvalidAnonymization};
use crate::rule::Action;

/// The columns that a rule names, for finding clashes.
pub(super) struct Columns<'a> {
    pub(super) starting_point: Option<Located<&'a str>>,
    pub(super) subject: Option<Located<&'a str>>,
    pub(super) marker: Option<Located<&'a str>>,
}

#[derive(Clone, Copy)]
enum Verb {
    Delete,
    Anonymize,
}

/// Reads what happens to due rows, and whether the columns go together.
pub(super) fn action(reader: &mut Reader<'_>, named: &Columns<'_>) -> Option<Action> {
    clashes(reader, named);
    let verbs = [("delete", Verb::Delete), ("anonymize", Verb::Anonymize)];
    let meant = [
        ("remove", "delete"),
        ("erase", "delete"),
        ("purge", "delete"),
        ("anonymise", "anonymize"),
        ("pseudonymize", "anonymize"),
        ("mask", "anonymize"),
        ("update", "anonymize"),
    ];
    let verb = reader.choice("action", &verbs, &meant);
    let found = reader.table("columns", "{ email = \"null\" }");
    let what = reader.what.clone();
    let strategies =
        found.map(|(entry, table)| (entry, columns::read(reader.context, &what, table)));
    let verb = verb?;
    match verb.value {
        Verb::Delete => {
            let marker = named.marker.map(|marker| (marker.key, "marker"));
            let changed = strategies.map(|(entry, _)| (entry.place, "columns"));
            for (place, key) in [changed, marker].into_iter().flatten() {
                let message = format!("{what}: `{key}` is only for anonymizing");
                let problem = Problem::new(place, message).related(verb.place, "the action");
                let help = format!("write `action = \"anonymize\"`, or leave `{key}` out");
                reader.report(problem.help(help));
            }
            Some(Action::Delete)
        }
        Verb::Anonymize => {
            if !reader.has("columns") {
                let message = format!("{what}: anonymizing needs to know which columns");
                let help =
                    format!("add `[{}.columns]` with such as `email = \"null\"`", path(&what));
                reader.report(Problem::new(verb.place, message).help(help).absence());
            }
            let (entry, strategies) = strategies?;
            let marker = owned(named.marker);
            match Anonymization::new(strategies?, marker) {
                Ok(anonymization) => {
                    changed_columns(reader, entry, named);
                    Some(Action::Anonymize(anonymization))
                }
                Err(error) => {
                    reader.report(impossible(&what, entry, named, &error));
                    None
                }
            }
        }
    }
}

/// ``rule `x` `` as its table is written: `rule.x`.
fn path(what: &str) -> String {
    what.replace(" `", ".").replace('`', "")
}

fn impossible(
    what: &str,
    entry: &Entry,
    columns: &Columns<'_>,
    error: &InvalidAnonymization,
) -> Problem {
    let at = |column: &str| column_entry(entry, column).map_or(entry.place, |entry| entry.place);
    match error {
        InvalidAnonymization::NoColumns => {
            Problem::new(entry.place, format!("{what}: it changes no column"))
                .help("name at least one, such as `email = \"null\"`")
        }
        InvalidAnonymization::NeedsMarker { column, strategy } => {
            let message = format!(
                "{what}: after `{strategy}` nothing in {} tells that it was anonymized",
                quoted(column)
            );
            Problem::new(at(column), message)
                .help("add `marker = \"anonymized_at\"`, a date-time column that can be NULL")
        }
        InvalidAnonymization::MarkerIsChanged(column) => {
            let message = format!("{what}: the marker {} is anonymized itself", quoted(column));
            let place = columns.marker.map_or(entry.place, |marker| marker.place);
            Problem::new(at(column), message)
                .related(place, "the marker")
                .help("take another column for one of them")
        }
    }
}

/// The entry of a column, as SQL compares names.
fn column_entry<'a>(columns: &'a Entry, name: &str) -> Option<&'a Entry> {
    let Kind::Table(table) = &columns.kind else { return None };
    table.entries.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, entry)| entry)
}

/// Columns that the rule goes by must not be changed by it.
fn changed_columns(reader: &Reader<'_>, entry: &Entry, columns: &Columns<'_>) {
    if let Some(start) = columns.starting_point
        && let Some(changed) = column_entry(entry, start.value)
    {
        let message = format!(
            "{}: {} decides what is due, so it cannot be anonymized",
            reader.what,
            quoted(start.value)
        );
        let problem = Problem::new(changed.key, message).related(start.place, "the starting point");
        reader.report(problem.help("leave it out of `columns`"));
    }
    // The exact name is found by `Anonymization`; databases do not care about case.
    if let Some(marker) = columns.marker
        && let Some(changed) = column_entry(entry, marker.value)
    {
        let message =
            format!("{}: the marker {} is anonymized itself", reader.what, quoted(marker.value));
        let problem = Problem::new(changed.key, message).related(marker.place, "the marker");
        reader.report(problem.help("take another column for one of them"));
    }
}

/// One column cannot be two things.
fn clashes(reader: &Reader<'_>, columns: &Columns<'_>) {
    let pairs = [
        (
            columns.marker,
            columns.starting_point,
            "the marker would overwrite the starting point",
            "the starting point",
        ),
        (columns.marker, columns.subject, "the marker would overwrite the subject", "the subject"),
        (
            columns.subject,
            columns.starting_point,
            "the subject names a person, the starting point a moment",
            "the starting point",
        ),
    ];
    for (first, second, message, other) in pairs {
        let (Some(first), Some(second)) = (first, second) else { continue };
        if first.value.eq_ignore_ascii_case(second.value) {
            let message = format!("{}: {message}", reader.what);
            let problem = Problem::new(first.place, message).related(second.place, other);
            reader.report(problem.help("name two different columns"));
        }
    }
}
