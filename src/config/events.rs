//! `on_event`, `match` and `max_age` of a rule: records that go when an application says so.

use std::collections::BTreeMap;

use super::diagnostic::Problem;
use super::reader::{Reader, quoted};
use super::rules;
use super::text::{Kind, Place};
use crate::rule::Retention;
use crate::schedule::Schedule;
use crate::types::EventName;

/// The events that a rule waits for, and where it says so.
pub(super) fn names(reader: &mut Reader<'_>) -> (Option<Place>, Vec<EventName>) {
    let example = "\"synthesis.finished\"";
    let Some(entry) = reader.entry("on_event") else { return (None, Vec::new()) };
    let listens = Some(entry.key);
    let Some(words) = reader.words("on_event", example) else { return (listens, Vec::new()) };
    let mut names: Vec<EventName> = Vec::new();
    for word in words {
        let Some(name) = event_name(reader, word.value, word.place) else { continue };
        if names.contains(&name) {
            let message = format!("{}: `{name}` stands there twice", reader.what);
            reader.report(Problem::new(word.place, message).help("name each event once"));
        }
        names.push(name);
    }
    (listens, names)
}

/// The name of an event, or what is wrong with it.
pub(super) fn event_name(reader: &Reader<'_>, text: &str, place: Place) -> Option<EventName> {
    if let Ok(name) = text.parse() {
        return Some(name);
    }
    let message = format!("{}: {} is not the name of an event", reader.what, quoted(text));
    let help =
        "write such as `synthesis.finished`, of lower-case letters, digits, `-`, `_` and dots";
    reader.report(Problem::new(place, message).help(help));
    None
}

/// The columns by which an event names rows, each with the value that it must be equal to.
pub(super) fn matching(
    reader: &mut Reader<'_>,
    listens: Option<Place>,
) -> BTreeMap<String, String> {
    let example = "{ upload_key = \"upload_key\" }";
    let Some(listens) = listens else {
        let reason = "`match` is for the values of events, and the rule waits for none";
        reader.refuse("match", reason, "add `on_event`, or leave `match` out");
        return BTreeMap::new();
    };
    if !reader.has("match") {
        let message = format!("{}: nothing says which rows an event means", reader.what);
        let help =
            format!("add `match = {example}`: a column, and the event's value that it equals");
        reader.report(Problem::new(listens, message).help(help).absence());
    }
    let Some((entry, table)) = reader.table("match", example) else { return BTreeMap::new() };
    if table.entries.is_empty() {
        let message = format!("{}: every event would mean every row", reader.what);
        reader
            .report(Problem::new(entry.place, message).help(format!("write `match = {example}`")));
    }
    let inner = Reader::new(reader.context, format!("`match` of {}", reader.what), table);
    let mut matching = BTreeMap::new();
    for (column, entry) in &table.entries {
        let blank = |text: &str| text.trim().is_empty() || text.contains(char::is_control);
        match &entry.kind {
            Kind::Text(value) if !blank(value) && !blank(column) => {
                matching.insert(column.clone(), value.clone());
            }
            Kind::Text(_) => {
                let message = format!("{}: a column and a value have names", inner.what);
                let help = format!("write `match = {example}`");
                inner.report(Problem::new(entry.key, message).help(help));
            }
            _ => {
                let expected = "the name of an event's value";
                inner.wrong_type::<()>(entry, column, expected, "\"upload_key\"");
            }
        }
    }
    matching
}

/// When a rule acts that waits for events: at once, and on what none of them ever named when that
/// becomes too old.
pub(super) fn timing(
    reader: &mut Reader<'_>,
    listens: Option<Place>,
) -> (Option<Retention>, Option<Schedule>) {
    let why = "what no event ever names must still go: write `max_age = \"1 hour\"`";
    reader.refuse("retention", "records go upon their event, so there is no `retention`", why);
    let reason = "`max_age` may be of any length, so there is nothing to allow";
    reader.refuse("allow_sub_day", reason, "leave `allow_sub_day` out");
    let reason = "the rule acts upon events, and at any time on what is too old";
    reader.refuse("schedule", reason, "leave `schedule` out");
    if let (Some(listens), false, false) = (listens, reader.has("max_age"), reader.has("retention"))
    {
        let message = format!("{}: what no event ever names would stay for good", reader.what);
        let help = "add `max_age = \"1 hour\"`: a record as old as that goes without an event";
        reader.report(Problem::new(listens, message).help(help).absence());
    }
    let max_age = rules::period(reader, "max_age", "\"1 hour\"");
    (max_age.map(|max_age| max_age.value), "continuous".parse().ok())
}
