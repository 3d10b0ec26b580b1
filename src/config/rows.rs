//! A rule on rows of a table: which, from when their retention counts, and what becomes of them.

use jiff::civil::Date;

use super::anonymizing::{self, Columns};
use super::diagnostic::Problem;
use super::reader::{Located, Reader, Wrong};
use super::rules::{self, Chosen, Stores, owned};
use super::text::Place;
use super::{attachments, dependents, events};
use crate::rule::{
    AccessPath, Action, Condition, Dialect, Encoding, InvalidCondition, Rows, Selection,
    StartingPoint,
};
use crate::types::TableName;

/// Reads what a rule says of rows. `listens` is where it names events, if it does.
pub(super) fn read(
    reader: &mut Reader<'_>,
    dialect: Option<Dialect>,
    stores: &Stores,
    listens: Option<Place>,
) -> Option<Chosen> {
    reader.expect(&[("table", "\"users\""), ("starting_point", "\"created_at\"")]);
    let help =
        "name the table with `table`, and the files of its rows with `[[rule.NAME.attachments]]`";
    reader.refuse("path", "`path` is for files and objects, and the store is a database", help);
    let table = reader.parsed("table", "\"users\"", |text| {
        text.parse::<TableName>().map_err(|error| Wrong::new(error.to_string()))
    });
    let condition = condition(reader, dialect);
    let columns = Columns {
        starting_point: reader.word("starting_point", "\"created_at\""),
        subject: reader.word("subject", "\"user_id\""),
        marker: reader.word("marker", "\"anonymized_at\""),
    };
    let earliest = rules::earliest(reader);
    let starting_point = starting_point(
        reader,
        &Moment {
            column: columns.starting_point,
            unit: "starting_point_unit",
            time_zone: "starting_point_time_zone",
            earliest,
        },
    );
    let attachments = attachments::read(reader, stores);
    let dependents = dependents::read(reader);
    let matching = events::matching(reader, listens);
    let access = access(reader);
    let action = anonymizing::action(reader, &columns);
    if let Some(Action::Anonymize(_)) = action {
        reader.refuse(
            "with",
            "`with` is for rows that are deleted with others, and the rule anonymizes",
            "leave `with` out, and write a rule of its own for the other table",
        );
    }
    let event_values = matching.values().cloned().collect();
    Some(Chosen {
        table: table?.value,
        select: Selection::Rows(Rows {
            condition,
            starting_point: starting_point?,
            attachments,
            dependents,
            matching,
            access,
        }),
        subject: owned(columns.subject),
        action: action?,
        event_values,
    })
}

/// How a run is to reach due rows, where it is not to choose.
fn access(reader: &mut Reader<'_>) -> Option<AccessPath> {
    let words = [
        ("auto", None),
        ("partitions", Some(AccessPath::Partitions)),
        ("ranges", Some(AccessPath::Ranges)),
        ("index", Some(AccessPath::Index)),
    ];
    let meant = [
        ("partition", "partitions"),
        ("drop", "partitions"),
        ("range", "ranges"),
        ("scan", "ranges"),
        ("ctid", "ranges"),
        ("indexes", "index"),
        ("default", "auto"),
    ];
    reader.choice("access", &words, &meant).and_then(|access| access.value)
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

/// Where a moment stands: its column, and the keys that say how it is written down.
pub(super) struct Moment<'a> {
    pub(super) column: Option<Located<&'a str>>,
    pub(super) unit: &'static str,
    pub(super) time_zone: &'static str,
    pub(super) earliest: Option<Date>,
}

/// Reads how the column of a moment is written down.
pub(super) fn starting_point(
    reader: &mut Reader<'_>,
    moment: &Moment<'_>,
) -> Option<StartingPoint> {
    let units = [("seconds", Encoding::Seconds), ("milliseconds", Encoding::Milliseconds)];
    let meant =
        [("s", "seconds"), ("unix", "seconds"), ("epoch", "seconds"), ("ms", "milliseconds")];
    let unit = reader.choice(moment.unit, &units, &meant);
    let time_zone = rules::zone(reader, moment.time_zone);
    let zone_entry = reader.entry(moment.time_zone);
    if let (Some(unit), Some(entry)) = (&unit, zone_entry) {
        let message =
            format!("{}: a number counts from 1970-01-01 UTC, whatever the time zone", reader.what);
        let problem = Problem::new(entry.key, message).related(unit.place, "says it is a number");
        reader.report(problem.help(format!("leave `{}` out", moment.time_zone)));
    }
    Some(StartingPoint {
        column: moment.column?.value.to_owned(),
        encoding: unit.map_or(Encoding::Native, |unit| unit.value),
        time_zone,
        earliest: moment.earliest?,
    })
}
