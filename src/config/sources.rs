//! `[source.NAME]`: a table of the application in which events are found.

use std::collections::BTreeMap;
use std::time::Duration;

use super::SourceConfig;
use super::diagnostic::Problem;
use super::events::event_name;
use super::reader::{Context, Located, Reader, Wrong, located};
use super::rows::{Moment, starting_point};
use super::rules::{self, Stores};
use super::suggest;
use super::text::{Kind, Place, Table};
use crate::rule::{Dialect, Rule, StoreKind};
use crate::types::{EventName, Name, TableName};

/// The longest name of a channel in PostgreSQL, in bytes.
const LONGEST_CHANNEL: usize = 63;

/// Reads one source. `rules` are all of them, where each could be read.
pub(super) fn read(
    context: Context<'_>,
    name: &Name,
    table: &Table,
    stores: &Stores,
    rules: Option<&BTreeMap<Name, Rule>>,
) -> Option<SourceConfig> {
    let mut reader = Reader::new(context, format!("source `{name}`"), table);
    reader.expect(&[
        ("store", "\"app\""),
        ("table", "\"synthesis_jobs\""),
        ("status", "\"status\""),
        ("events", "{ finished = \"synthesis.finished\" }"),
        ("changed_at", "\"finished_at\""),
        ("values", "[\"upload_key\"]"),
    ]);
    let before = context.problems.count();
    let (store, kind) = rules::store(&mut reader, stores);
    if let Some(kind) = kind
        && !matches!(kind.value, StoreKind::Sql(_))
    {
        let message = format!("{}: its store is no database", reader.what);
        reader.report(Problem::new(kind.place, message).help("name the store of its table"));
    }
    let table = reader.parsed("table", "\"synthesis_jobs\"", |text| {
        text.parse::<TableName>().map_err(|error| Wrong::new(error.to_string()))
    });
    let status = reader.word("status", "\"status\"");
    let events = events(&mut reader);
    let column = reader.word("changed_at", "\"finished_at\"");
    let (unit, time_zone) = ("changed_at_unit", "changed_at_time_zone");
    let earliest = Some(jiff::civil::date(1970, 1, 2));
    let changed_at = starting_point(&mut reader, &Moment { column, unit, time_zone, earliest });
    let values = reader.words("values", "[\"upload_key\"]");
    let notify = notify(&mut reader, kind.map(|kind| kind.value));
    let bounds = Duration::from_secs(1)..=Duration::from_hours(1);
    let poll = reader.duration("poll", "\"10 seconds\"", &bounds, "1 second to 1 hour");
    let bounds = Duration::from_mins(1)..=Duration::from_hours(24);
    let overlap = reader.duration("overlap", "\"15 minutes\"", &bounds, "1 minute to 24 hours");
    if let (Some(rules), Some(values)) = (rules, &values) {
        listeners(&mut reader, &events, values, rules);
    }
    reader.finish();
    // A default must never stand in for a value that was written and is wrong.
    if context.problems.count() != before {
        return None;
    }
    Some(SourceConfig {
        name: name.clone(),
        store: store?,
        table: table?.value,
        status: status?.value.to_owned(),
        events: events.into_iter().map(|(word, event)| (word.to_owned(), event.value)).collect(),
        changed_at: changed_at?,
        values: values?.into_iter().map(|value| value.value.to_owned()).collect(),
        notify,
        poll: poll.unwrap_or(Duration::from_secs(10)),
        overlap: overlap.unwrap_or(Duration::from_mins(15)),
    })
}

/// Which words of the status are which events.
fn events<'a>(reader: &mut Reader<'a>) -> BTreeMap<&'a str, Located<EventName>> {
    let example = "{ finished = \"synthesis.finished\" }";
    let Some((entry, table)) = reader.table("events", example) else { return BTreeMap::new() };
    if table.entries.is_empty() {
        let message = format!("{}: it has no events", reader.what);
        let help = format!("write `events = {example}`: a word of the status, and its event");
        reader.report(Problem::new(entry.place, message).help(help));
    }
    let mut events = BTreeMap::new();
    for (word, entry) in &table.entries {
        let Kind::Text(text) = &entry.kind else {
            reader.wrong_type::<()>(entry, word, "the name of an event", "\"synthesis.finished\"");
            continue;
        };
        if let Some(value) = event_name(reader, text, entry.place) {
            events.insert(word.as_str(), located(entry, value));
        }
    }
    events
}

/// The channel that tells of changes, on PostgreSQL.
fn notify(reader: &mut Reader<'_>, kind: Option<StoreKind>) -> Option<String> {
    if let Some(kind) = kind
        && kind != StoreKind::Sql(Dialect::Postgres)
    {
        let help = "leave it out: the table is looked at every `poll`";
        reader.refuse("notify", "only PostgreSQL tells of changes", help);
        return None;
    }
    let channel = reader.word("notify", "\"synthesis_jobs\"")?;
    if channel.value.len() > LONGEST_CHANNEL {
        let message = format!("{}: PostgreSQL cuts the name of a channel at 63 bytes", reader.what);
        reader.report(Problem::new(channel.place, message).help("take a shorter name"));
    }
    Some(channel.value.to_owned())
}

/// Reports events that nobody waits for, and values that somebody who waits would miss.
fn listeners(
    reader: &mut Reader<'_>,
    events: &BTreeMap<&str, Located<EventName>>,
    values: &[Located<&str>],
    rules: &BTreeMap<Name, Rule>,
) {
    let mut missed: BTreeMap<(&Name, &str), &EventName> = BTreeMap::new();
    for event in events.values() {
        let mut waits = rules.values().filter(|rule| rule.events.contains(&event.value)).peekable();
        if waits.peek().is_none() {
            let message = format!("{}: no rule waits for `{}`", reader.what, event.value);
            let known = rules.values().flat_map(|rule| &rule.events).map(EventName::as_str);
            let help = match suggest::nearest(event.value.as_str(), known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add `on_event = \"{}\"` to the rule that should", event.value),
            };
            reader.report(Problem::new(event.place, message).help(help).absence());
        }
        for rule in waits {
            for value in &rule.event_values {
                if !values.iter().any(|known| known.value == value) {
                    missed.entry((&rule.name, value)).or_insert(&event.value);
                }
            }
        }
    }
    let place: Place = reader.entry("values").map_or(reader.place(), |entry| entry.place);
    for ((rule, value), event) in missed {
        let message = format!(
            "{}: rule `{rule}` needs `{value}` of the event `{event}`, and it is not among `values`",
            reader.what
        );
        let help = match suggest::nearest(value, values.iter().map(|known| known.value)) {
            Some(near) => {
                format!("did you mean `{value}` by `{near}`? a value has the name of its column")
            }
            None => format!("add `\"{value}\"`, a column of the source's table"),
        };
        reader.report(Problem::new(place, message).help(help));
    }
}
