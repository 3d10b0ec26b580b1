//! `[rule.NAME]`: decoded into rules that are valid, or into what is wrong with them.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::diagnostic::Problem;
use super::reader::{Context, Located, Reader, Wrong, quoted};
use super::suggest;
use super::text::{Entry, Kind, Table};
use crate::anonymize::{Anonymization, InvalidAnonymization};
use crate::breaker::Limits;
use crate::rule::{
    Action, Condition, Dialect, Encoding, HoldPolicy, InvalidCondition, InvalidRetention, Mode,
    Retention, Rows, Rule, Selection, Sharing, StartingPoint,
};
use crate::schedule::Schedule;
use crate::types::{Name, TableName};

/// The stores that a rule can name, with their kind where it is known.
pub(super) type Stores = BTreeMap<Name, Option<Dialect>>;

/// The columns that a rule names, for finding clashes.
struct Columns<'a> {
    starting_point: Option<Located<&'a str>>,
    subject: Option<Located<&'a str>>,
    marker: Option<Located<&'a str>>,
}

/// Reads one rule.
pub(super) fn read(
    context: Context<'_>,
    name: &Name,
    table: &Table,
    stores: &Stores,
    limits: Limits,
) -> Option<Rule> {
    let mut reader = Reader::new(context, format!("rule `{name}`"), table);
    reader.expect(&[
        ("store", "\"app\""),
        ("table", "\"users\""),
        ("starting_point", "\"created_at\""),
        ("retention", "\"2 years\""),
        ("action", "\"delete\""),
    ]);
    let before = context.problems.count();
    let description = owned(reader.text("description", "\"what the rule does\""));
    let basis = owned(reader.text("basis", "\"the policy or law behind it\""));
    let (store, kind) = store(&mut reader, stores);
    let table_name = reader.parsed("table", "\"users\"", |text| {
        text.parse::<TableName>().map_err(|error| Wrong::new(error.to_string()))
    });
    let condition = condition(&mut reader, kind);
    let columns = Columns {
        starting_point: reader.word("starting_point", "\"created_at\""),
        subject: reader.word("subject", "\"user_id\""),
        marker: reader.word("marker", "\"anonymized_at\""),
    };
    let starting_point = starting_point(&mut reader, columns.starting_point);
    let retention = retention(&mut reader);
    let action = action(&mut reader, &columns);
    clashes(&reader, &columns);
    let schedule = schedule(&mut reader);
    let time_zone = zone(&mut reader, "time_zone");
    let modes = [("observe", Mode::Observe), ("enforce", Mode::Enforce)];
    let meant = [
        ("dry-run", "observe"),
        ("dry_run", "observe"),
        ("dryrun", "observe"),
        ("off", "observe"),
        ("on", "enforce"),
        ("active", "enforce"),
        ("armed", "enforce"),
    ];
    let mode = reader.choice("mode", &modes, &meant);
    let limits = self::limits(&mut reader, limits);
    let holds = holds(&mut reader);
    reader.finish();
    // A default must never stand in for a value that was written and is wrong.
    if context.problems.count() != before {
        return None;
    }
    Some(Rule {
        name: name.clone(),
        description,
        basis,
        store: store?,
        table: table_name?.value,
        select: Selection::Rows(Rows {
            condition,
            starting_point: starting_point?,
            attachments: Vec::new(),
            matching: BTreeMap::new(),
        }),
        retention: retention?,
        action: action?,
        subject: owned(columns.subject),
        schedule: schedule?,
        time_zone,
        mode: mode.map_or(Mode::Observe, |mode| mode.value),
        limits,
        holds,
        events: Vec::new(),
        event_values: std::collections::BTreeSet::new(),
        sharing: Sharing::Possible,
    })
}

/// What a run may take without being asked about: what is written, else what holds in general.
pub(super) fn limits(reader: &mut Reader<'_>, general: Limits) -> Limits {
    Limits {
        max_share: reader.share("max_share").map_or(general.max_share, |share| share.value),
        max_rows: reader
            .number("max_rows", 1..=u64::MAX, "1000000")
            .map_or(general.max_rows, |rows| rows.value),
    }
}

/// Whether legal holds stop the rule. That they do not needs a reason, and a reason needs that.
fn holds(reader: &mut Reader<'_>) -> HoldPolicy {
    let words = [("apply", true), ("not applicable", false)];
    let meant = [("not_applicable", "not applicable"), ("ignore", "not applicable")];
    let applies = reader.choice("holds", &words, &meant);
    let reason = reader.word("holds_reason", "\"the law that says so\"");
    match (applies, reason) {
        (Some(Located { value: false, .. }), Some(reason)) => {
            return HoldPolicy::NotApplicable { reason: reason.value.to_owned() };
        }
        (Some(applies), None) if !applies.value && !reader.has("holds_reason") => {
            let message = format!("{}: that no legal hold stops it needs a reason", reader.what);
            let help = "add `holds_reason = \"…\"`: the law, and why it outweighs a hold";
            reader.report(Problem::new(applies.place, message).help(help).absence());
        }
        (applies, Some(reason)) if applies.is_none_or(|applies| applies.value) => {
            let message =
                format!("{}: legal holds apply, so there is no reason why not", reader.what);
            let help = "add `holds = \"not applicable\"`, or leave `holds_reason` out";
            reader.report(Problem::new(reason.key, message).help(help));
        }
        _ => {}
    }
    HoldPolicy::Apply
}

fn owned(text: Option<Located<&str>>) -> Option<String> {
    text.map(|text| text.value.to_owned())
}

/// The store that the rule names, if there is one of that name.
fn store(reader: &mut Reader<'_>, stores: &Stores) -> (Option<Name>, Option<Dialect>) {
    let Some(text) = reader.text("store", "\"app\"") else { return (None, None) };
    let known = text.value.parse::<Name>().ok().and_then(|name| stores.get_key_value(&name));
    if let Some((name, kind)) = known {
        return (Some(name.clone()), *kind);
    }
    let message = format!("{}: there is no store {}", reader.what, quoted(text.value));
    let near = suggest::nearest(text.value, stores.keys().map(Name::as_str));
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None if stores.is_empty() => "add a table `[store.NAME]` with `kind` and `url`".to_owned(),
        None => format!("the stores are {}", suggest::list(stores.keys().map(Name::as_str))),
    };
    reader.report(Problem::new(text.place, message).help(help).absence());
    (None, None)
}

fn condition(reader: &mut Reader<'_>, kind: Option<Dialect>) -> Option<Condition> {
    // Without a store its dialect is not known, and the store is what is wrong.
    let Some(kind) = kind else {
        reader.text("where", "\"status = 'closed'\"");
        return None;
    };
    let condition = reader.parsed("where", "\"status = 'closed'\"", |text| {
        Condition::parse(kind, text).map_err(|error| {
            let help = match &error {
                InvalidCondition::Parameter(_) => "write the value itself; in a text it is fine",
                InvalidCondition::NoTable => "leave `where` out",
                InvalidCondition::Comment => "take the comment out; `description` is for people",
                InvalidCondition::Trailing(_) => {
                    "write one expression, such as `status = 'closed' AND plan = 'free'`"
                }
                InvalidCondition::Syntax(_) => {
                    "write it as after WHERE in the store's own SQL, such as `status = 'closed'`"
                }
            };
            Wrong::new(format!("`where`: {error}")).help(help)
        })
    });
    condition.map(|condition| condition.value)
}

fn starting_point(reader: &mut Reader<'_>, column: Option<Located<&str>>) -> Option<StartingPoint> {
    let units = [("seconds", Encoding::Seconds), ("milliseconds", Encoding::Milliseconds)];
    let meant =
        [("s", "seconds"), ("unix", "seconds"), ("epoch", "seconds"), ("ms", "milliseconds")];
    let unit = reader.choice("starting_point_unit", &units, &meant);
    let time_zone = zone(reader, "starting_point_time_zone");
    let zone_entry = reader.entry("starting_point_time_zone");
    if let (Some(unit), Some(entry)) = (&unit, zone_entry) {
        let message =
            format!("{}: a number counts from 1970-01-01 UTC, whatever the time zone", reader.what);
        let problem = Problem::new(entry.key, message).related(unit.place, "says it is a number");
        reader.report(problem.help("leave `starting_point_time_zone` out"));
    }
    let earliest = earliest(reader);
    Some(StartingPoint {
        column: column?.value.to_owned(),
        encoding: unit.map_or(Encoding::Native, |unit| unit.value),
        time_zone,
        earliest: earliest?,
    })
}

/// The first day that is not a placeholder; written as a date, or as a text that is one.
fn earliest(reader: &mut Reader<'_>) -> Option<Date> {
    let Some(entry) = reader.entry("earliest") else { return Some(jiff::civil::date(1970, 1, 2)) };
    let (Kind::Text(text) | Kind::Date(text)) = &entry.kind else {
        return reader.wrong_type(entry, "earliest", "a date", "1970-01-02");
    };
    // Ten characters: jiff would also read the date out of a date with a time.
    let date = text.parse::<Date>().ok().filter(|_| text.len() == 10);
    if date.is_none() {
        let message = format!("{}: {} is not a date", reader.what, quoted(text));
        reader.report(Problem::new(entry.place, message).help("write `earliest = 1970-01-02`"));
    }
    date
}

fn retention(reader: &mut Reader<'_>) -> Option<Retention> {
    let retention = reader.parsed("retention", "\"2 years\"", |text| {
        text.parse::<Retention>().map_err(|error| explain(&error))
    });
    let opt_in = reader.boolean("allow_sub_day");
    let retention = retention?;
    let is_sub_day = retention.value.is_sub_day();
    match opt_in {
        Some(Located { value: true, key, .. }) if !is_sub_day => {
            let message =
                format!("{}: `allow_sub_day` is set, and the retention is no shorter", reader.what);
            let problem = Problem::new(key, message).related(retention.place, "a day or more");
            reader.report(problem.help("leave `allow_sub_day` out, so that it cannot hide a slip"));
        }
        Some(Located { value: true, .. }) => {}
        _ if is_sub_day => {
            let message = format!("{}: records would be kept for less than a day", reader.what);
            let problem = Problem::new(retention.place, message)
                .label("shorter than a day")
                .help("if that is meant, add `allow_sub_day = true`")
                .help("if not, spell the unit out, such as `6 months`");
            reader.report(problem);
        }
        _ => {}
    }
    Some(retention.value)
}

/// What is wrong with a retention period, and what to write, apart.
fn explain(error: &InvalidRetention) -> Wrong {
    let examples = "write such as `2 years`, `18 months`, `90 days` or `1 year 6 months`";
    match error {
        InvalidRetention::Syntax(text) => {
            Wrong::new(format!("{} is not a retention period", quoted(text))).help(examples)
        }
        InvalidRetention::Ambiguous(text) => {
            let number: String = text.chars().filter(char::is_ascii_digit).take(6).collect();
            let number = if number.is_empty() { "6" } else { &number };
            let help = if text.contains(['m', 'M']) {
                format!("spell the unit out: `{number} months` or `{number} minutes`")
            } else {
                format!("spell the unit out, such as `{number} days`")
            };
            Wrong::new(format!("{} is ambiguous", quoted(text))).help(help)
        }
        InvalidRetention::NotPositive(text) => {
            Wrong::new(format!("with {}, everything would be due at once", quoted(text)))
                .help(examples)
        }
        InvalidRetention::TooLong(text) => {
            Wrong::new(format!("{} is longer than 1000 years", quoted(text)))
                .help("to keep records for good, leave the rule out")
        }
    }
}

fn schedule(reader: &mut Reader<'_>) -> Option<Schedule> {
    if !reader.has("schedule") {
        reader.entry("schedule");
        return "0 3 * * *".parse().ok();
    }
    let schedule = reader.parsed("schedule", "\"0 3 * * *\"", |text| {
        text.parse::<Schedule>().map_err(|error| {
            let help = "write `minute hour day month weekday`, such as `0 3 * * *` for every day at three, or `continuous`";
            Wrong::new(error.to_string()).help(help)
        })
    });
    schedule.map(|schedule| schedule.value)
}

/// A time zone of the IANA database; UTC when none is given.
fn zone(reader: &mut Reader<'_>, key: &'static str) -> TimeZone {
    let zone = reader.parsed(key, "\"Europe/Berlin\"", |text| {
        TimeZone::get(text).map_err(|_| {
            let names: Vec<String> =
                jiff::tz::db().available().map(|name| name.to_string()).collect();
            let wrong = Wrong::new(format!("there is no time zone {}", quoted(text)));
            match suggest::nearest(text, names.iter().map(String::as_str)) {
                Some(near) => wrong.help(format!("did you mean `{near}`?")),
                None => wrong.help("write a name such as `Europe/Berlin` or `UTC`"),
            }
        })
    });
    zone.map_or(TimeZone::UTC, |zone| zone.value)
}

#[derive(Clone, Copy)]
enum Verb {
    Delete,
    Anonymize,
}

fn action(reader: &mut Reader<'_>, columns: &Columns<'_>) -> Option<Action> {
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
        found.map(|(entry, table)| (entry, super::columns::read(reader.context, &what, table)));
    let verb = verb?;
    match verb.value {
        Verb::Delete => {
            let marker = columns.marker.map(|marker| (marker.key, "marker"));
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
            let marker = owned(columns.marker);
            match Anonymization::new(strategies?, marker) {
                Ok(anonymization) => {
                    changed_columns(reader, entry, columns);
                    Some(Action::Anonymize(anonymization))
                }
                Err(error) => {
                    reader.report(impossible(&what, entry, columns, &error));
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
