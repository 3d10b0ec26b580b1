//! `[rule.NAME]`: decoded into rules that are valid, or into what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::diagnostic::Problem;
use super::reader::{Context, Located, Reader, Wrong, quoted};
use super::tellings::{self, Recipients};
use super::text::{Kind, Table};
use super::{events, pacing, paths, rows, suggest};
use crate::breaker::Limits;
use crate::pace::Pacing;
use crate::rule::{
    Action, HoldPolicy, InvalidRetention, Mode, Retention, Rule, Selection, StoreKind,
};
use crate::schedule::{Schedule, Windows};
use crate::types::{Name, TableName};

/// The stores that a rule can name, with their kind where it is known.
pub(super) type Stores = BTreeMap<Name, Option<StoreKind>>;

/// What a rule selects and what becomes of it.
pub(super) struct Chosen {
    pub(super) table: TableName,
    pub(super) select: Selection,
    pub(super) subject: Option<String>,
    pub(super) action: Action,
    /// The values by which an event names records.
    pub(super) event_values: BTreeSet<String>,
}

/// What holds for rules that say nothing of their own.
pub(super) struct General {
    pub(super) limits: Limits,
    pub(super) windows: Windows,
    /// By store.
    pub(super) pacing: BTreeMap<Name, Pacing>,
}

/// Reads one rule.
pub(super) fn read(
    context: Context<'_>,
    name: &Name,
    table: &Table,
    stores: &Stores,
    recipients: &Recipients,
    general: &General,
) -> Option<Rule> {
    let mut reader = Reader::new(context, format!("rule `{name}`"), table);
    reader.expect(&[("store", "\"app\"")]);
    let before = context.problems.count();
    let description = owned(reader.text("description", "\"what the rule does\""));
    let basis = owned(reader.text("basis", "\"the policy or law behind it\""));
    let (store, kind) = store(&mut reader, stores);
    let (listens, events) = events::names(&mut reader);
    let chosen = match kind.map(|kind| kind.value) {
        Some(StoreKind::Sql(dialect)) => rows::read(&mut reader, Some(dialect), stores, listens),
        Some(kind) => paths::read(&mut reader, kind, listens),
        // The store is what is wrong: what it most likely holds is told by the rule.
        None if reader.has("path") => paths::read(&mut reader, StoreKind::Files, listens),
        None => rows::read(&mut reader, None, stores, listens),
    };
    let (retention, schedule) = if listens.is_some() {
        events::timing(&mut reader, listens)
    } else {
        reader.refuse(
            "max_age",
            "`max_age` is only for rules that wait for events",
            "write `retention`, or add `on_event`",
        );
        if !reader.has("max_age") {
            reader.expect(&[("retention", "\"2 years\"")]);
        }
        (retention(&mut reader), schedule(&mut reader))
    };
    reader.expect(&[("action", "\"delete\"")]);
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
    let limits = self::limits(&mut reader, general.limits);
    let of_store = store.as_ref().and_then(|store| general.pacing.get(store)).copied();
    let pacing = pacing::of_rule(&mut reader, of_store.unwrap_or_default());
    // What goes upon events waits for no hour that somebody named for the others.
    let at_any_time = Windows::default();
    let general = if listens.is_some() { &at_any_time } else { &general.windows };
    let windows = pacing::windows(&mut reader, general);
    let holds = holds(&mut reader);
    let (sharing, tellings) = tellings::read(&mut reader, chosen.as_ref(), recipients);
    reader.finish();
    // A default must never stand in for a value that was written and is wrong.
    if context.problems.count() != before {
        return None;
    }
    let Chosen { table, select, subject, action, event_values } = chosen?;
    Some(Rule {
        name: name.clone(),
        description,
        basis,
        store: store?,
        table,
        select,
        retention: retention?,
        action,
        subject,
        schedule: schedule?,
        time_zone,
        mode: mode.map_or(Mode::Observe, |mode| mode.value),
        limits,
        pacing,
        windows,
        holds,
        event_values: if events.is_empty() { BTreeSet::new() } else { event_values },
        events,
        sharing,
        tellings,
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

pub(super) fn owned(text: Option<Located<&str>>) -> Option<String> {
    text.map(|text| text.value.to_owned())
}

/// The store that the table names, if there is one of that name, and its kind where that is known.
pub(super) fn store(
    reader: &mut Reader<'_>,
    stores: &Stores,
) -> (Option<Name>, Option<Located<StoreKind>>) {
    let Some(text) = reader.text("store", "\"app\"") else { return (None, None) };
    let known = text.value.parse::<Name>().ok().and_then(|name| stores.get_key_value(&name));
    if let Some((name, kind)) = known {
        return (Some(name.clone()), kind.map(|kind| text.map(|_| kind)));
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

/// The first day that is not a placeholder; written as a date, or as a text that is one.
pub(super) fn earliest(reader: &mut Reader<'_>) -> Option<Date> {
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

/// How long records are kept.
fn retention(reader: &mut Reader<'_>) -> Option<Retention> {
    let retention = period(reader, "retention", "\"2 years\"");
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

/// A period of the calendar or the clock.
pub(super) fn period(
    reader: &mut Reader<'_>,
    key: &'static str,
    example: &str,
) -> Option<Located<Retention>> {
    reader.parsed(key, example, |text| text.parse::<Retention>().map_err(|error| explain(&error)))
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

/// When it runs.
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
pub(super) fn zone(reader: &mut Reader<'_>, key: &'static str) -> TimeZone {
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
