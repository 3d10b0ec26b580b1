//! A rule on files or objects: what they are called, and from when their retention counts.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;

use super::diagnostic::Problem;
use super::reader::{Located, Reader, quoted};
use super::rules::{self, Chosen};
use super::suggest;
use super::text::Place;
use crate::path::{InvalidTemplate, Template};
use crate::rule::{Action, PathStart, Paths, Selection, StoreKind};
use crate::types::TableName;

/// Reads what a rule says of files or objects. `listens` is where it names events, if it does.
pub(super) fn read(
    reader: &mut Reader<'_>,
    kind: StoreKind,
    listens: Option<Place>,
) -> Option<Chosen> {
    reader.expect(&[("path", "\"faces/*\"")]);
    let (one, many, table) = match kind {
        StoreKind::Objects => ("an object", "objects", TableName::objects()),
        _ => ("a file", "files", TableName::files()),
    };
    refuse(reader, one, many);
    let templates = templates(reader);
    let subject = subject(reader, templates.as_deref());
    if listens.is_some() {
        for (template, place) in templates.iter().flatten() {
            if template.placeholders().next().is_none() {
                let message = format!("{}: an event would mean all of this path", reader.what);
                let help = "put a value of the event into it, such as `faces/{upload_key}`";
                reader.report(Problem::new(*place, message).help(help));
            }
        }
    }
    let start = start(reader, templates.as_deref());
    let earliest = rules::earliest(reader);
    let action = action(reader, one);
    let templates: Vec<Template> = templates?.into_iter().map(|(template, _)| template).collect();
    let event_values: BTreeSet<String> =
        templates.iter().flat_map(Template::placeholders).map(str::to_owned).collect();
    Some(Chosen {
        table,
        select: Selection::Paths(Paths { templates, start: start?, earliest: earliest? }),
        subject,
        action: action?,
        event_values,
    })
}

/// Reports what only rules on rows have.
fn refuse(reader: &mut Reader<'_>, one: &str, many: &str) {
    let path = "say with `path` which are meant";
    for (key, reason, help) in [
        ("table", format!("`table` is for databases, and the store has {many}"), path),
        ("where", format!("`where` is a condition on columns, and {many} have none"), path),
        (
            "columns",
            format!("{one} has no columns to anonymize"),
            "leave `columns` out: it is deleted whole",
        ),
        ("marker", format!("{one} has no columns to mark"), "leave `marker` out"),
        (
            "starting_point_unit",
            format!("the age of {one} is no number of a column"),
            "leave `starting_point_unit` out",
        ),
        (
            "match",
            format!("`match` compares columns, and {many} have none"),
            "put the event's value into `path`, such as `faces/{upload_key}`",
        ),
        (
            "access",
            format!("`access` says how rows are reached, and {many} have one way"),
            "leave `access` out",
        ),
        (
            "attachments",
            "`attachments` belong to rows".to_owned(),
            "name more paths in `path`, or write a rule of their own for them",
        ),
        (
            "with",
            format!("`with` is for rows of other tables, and no row points at {one}"),
            "leave `with` out",
        ),
    ] {
        reader.refuse(key, &reason, help);
    }
}

fn templates(reader: &mut Reader<'_>) -> Option<Vec<(Template, Place)>> {
    let words = reader.words("path", "\"faces/*\"")?;
    let read = |word: &Located<&str>| Some((template(reader, word)?, word.place));
    let templates: Vec<_> = words.iter().filter_map(read).collect();
    (templates.len() == words.len()).then_some(templates)
}

/// One template, or what is wrong with it.
pub(super) fn template(reader: &Reader<'_>, written: &Located<&str>) -> Option<Template> {
    let error = match written.value.parse::<Template>() {
        Ok(template) => return Some(template),
        Err(error) => error,
    };
    let whole = error.to_string();
    let (message, help) = match whole.split_once(": write ") {
        Some((message, help)) => (message, format!("write {help}")),
        None if matches!(error, InvalidTemplate::Twice(_)) => (
            whole.as_str(),
            "write a placeholder once, and `*` for what may be anything".to_owned(),
        ),
        None => (whole.as_str(), "give each a name of its own between slashes".to_owned()),
    };
    let problem = Problem::new(written.place, format!("{}: {message}", reader.what));
    reader.report(problem.help(help));
    None
}

/// From when retention counts. A date in a path may have been meant, so it has to be said.
fn start(reader: &mut Reader<'_>, templates: Option<&[(Template, Place)]>) -> Option<PathStart> {
    let words = [("modified", false), ("path date", true)];
    let meant = [
        ("mtime", "modified"),
        ("last_modified", "modified"),
        ("last modified", "modified"),
        ("path_date", "path date"),
        ("path", "path date"),
        ("date", "path date"),
    ];
    let written = reader.choice("starting_point", &words, &meant);
    let by_date = written.map_or(reader.has("starting_point"), |start| start.value);
    let zone = if by_date {
        rules::zone(reader, "starting_point_time_zone")
    } else {
        let reason = "the last modification is a moment, whatever the time zone";
        reader.refuse("starting_point_time_zone", reason, "leave `starting_point_time_zone` out");
        TimeZone::UTC
    };
    let dated = |wanted: bool| {
        let all = templates.unwrap_or_default().iter();
        all.filter(move |(template, _)| template.has_date() == wanted).map(|(_, place)| *place)
    };
    match written {
        Some(Located { value: true, place, .. }) => {
            for undated in dated(false) {
                let message = format!(
                    "{}: retention counts from a date, and this path has none",
                    reader.what
                );
                let help = "write where it stands, such as `logs/{date:%Y-%m-%d}/**`";
                reader.report(
                    Problem::new(undated, message).related(place, "the starting point").help(help),
                );
            }
            Some(PathStart::Day(zone))
        }
        Some(_) => Some(PathStart::Modified),
        None if reader.has("starting_point") => None,
        None => {
            if let Some(place) = dated(true).next() {
                let message =
                    format!("{}: does retention count from the date in the path?", reader.what);
                let problem = Problem::new(place, message);
                let help = "add `starting_point = \"path date\"`, or `\"modified\"` for the last modification";
                reader.report(problem.help(help).absence());
            }
            Some(PathStart::Modified)
        }
    }
}

/// The placeholder that names a person.
fn subject(reader: &mut Reader<'_>, templates: Option<&[(Template, Place)]>) -> Option<String> {
    let subject = reader.word("subject", "\"user_id\"")?;
    let known: BTreeSet<&str> =
        templates?.iter().flat_map(|(template, _)| template.placeholders()).collect();
    if !known.contains(subject.value) {
        let message =
            format!("{}: no path has a placeholder {}", reader.what, quoted(subject.value));
        let help = match suggest::nearest(subject.value, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "write `{{{}}}` in `path` where the person is named, or leave `subject` out",
                subject.value
            ),
        };
        reader.report(Problem::new(subject.place, message).help(help));
    }
    Some(subject.value.to_owned())
}

fn action(reader: &mut Reader<'_>, one: &str) -> Option<Action> {
    let verbs = [("delete", true), ("anonymize", false)];
    let meant =
        [("remove", "delete"), ("erase", "delete"), ("purge", "delete"), ("unlink", "delete")];
    let verb = reader.choice("action", &verbs, &meant)?;
    if !verb.value {
        let message = format!("{}: {one} is deleted whole or not at all", reader.what);
        reader.report(Problem::new(verb.place, message).help("write `action = \"delete\"`"));
        return None;
    }
    Some(Action::Delete)
}
