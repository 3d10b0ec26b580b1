//! `[rule.NAME.columns]`: a strategy for each column.

use std::collections::BTreeMap;

use super::diagnostic::Problem;
use super::reader::{Context, Reader, quoted};
use super::suggest;
use super::text::{Entry, Kind, Table};
use crate::anonymize::{DateUnit, FakeKind, Strategy};

const NAMES: [&str; 8] =
    ["null", "constant", "truncate_date", "generalize", "partial", "hmac", "random", "fake"];

/// How names of unkeyed hash functions begin.
const HASHES: [&str; 14] = [
    "sha", "md5", "md4", "md2", "hash", "digest", "blake", "ripemd", "crc", "xxh", "murmur", "fnv",
    "keccak", "checksum",
];

/// Reads the strategies. `None` when one of them is wrong: a rule must not go on with the rest.
pub(super) fn read(
    context: Context<'_>,
    rule: &str,
    table: &Table,
) -> Option<BTreeMap<String, Strategy>> {
    let reader = Reader::new(context, rule, table);
    let mut columns = BTreeMap::new();
    let mut complete = true;
    for (name, entry) in reader.all() {
        let what = format!("column {} of {rule}", quoted(name));
        if name.trim().is_empty() || name.contains(char::is_control) {
            let problem = Problem::new(entry.key, format!("{rule}: this is no name of a column"));
            context.problems.add(problem.help("write the name as the database shows it"));
            complete = false;
        }
        match strategy(context, &what, entry) {
            Some(strategy) => drop(columns.insert(name.to_owned(), strategy)),
            None => complete = false,
        }
    }
    complete.then_some(columns)
}

fn strategy(context: Context<'_>, what: &str, entry: &Entry) -> Option<Strategy> {
    match &entry.kind {
        Kind::Text(name) => match name.as_str() {
            "null" => Some(Strategy::Null),
            "hmac" => Some(Strategy::Hmac),
            "random" => Some(Strategy::Random),
            _ => {
                unknown(context, what, entry, name);
                None
            }
        },
        Kind::Table(table) => with_parameters(context, what, table),
        _ => {
            let message = format!("{what} takes the name of a strategy, or a table with one");
            let problem = Problem::new(entry.place, message);
            let label = format!("this is {}", entry.kind.describe());
            let help = "write `\"null\"`, or such as `{ strategy = \"constant\", value = \"0\" }`";
            context.problems.add(problem.label(label).help(help));
            None
        }
    }
}

fn with_parameters(context: Context<'_>, what: &str, table: &Table) -> Option<Strategy> {
    let mut reader = Reader::new(context, what, table);
    reader.require(&[("strategy", "\"null\"")]);
    let name_entry = reader.entry("strategy")?;
    let name = reader.text("strategy", "\"null\"")?;
    let strategy = match name.value {
        "null" => Some(Strategy::Null),
        "hmac" => Some(Strategy::Hmac),
        "random" => Some(Strategy::Random),
        "constant" => constant(&mut reader),
        "truncate_date" => truncate_date(&mut reader),
        "generalize" => generalize(&mut reader),
        "partial" => partial(&mut reader),
        "fake" => fake(&mut reader),
        other => {
            // Which keys belong to it is not known, so none is called unknown.
            unknown(context, what, name_entry, other);
            return None;
        }
    };
    reader.finish();
    strategy
}

fn constant(reader: &mut Reader<'_>) -> Option<Strategy> {
    reader.expect(&[("value", "\"removed\"")]);
    let value = reader.text("value", "\"0\"")?;
    Some(Strategy::Constant { value: value.value.to_owned() })
}

fn truncate_date(reader: &mut Reader<'_>) -> Option<Strategy> {
    reader.expect(&[("to", "\"year\"")]);
    let units = [("year", DateUnit::Year), ("month", DateUnit::Month), ("day", DateUnit::Day)];
    let to = reader.choice("to", &units, &[])?;
    Some(Strategy::TruncateDate { to: to.value })
}

fn generalize(reader: &mut Reader<'_>) -> Option<Strategy> {
    let step = reader.number("step", 2..=u64::MAX, "10");
    let ipv4 = reader.number("ipv4_prefix", 0..=32, "24");
    let ipv6 = reader.number("ipv6_prefix", 0..=128, "48");
    let is_ip = reader.has("ipv4_prefix") || reader.has("ipv6_prefix");
    match (reader.has("step"), is_ip) {
        (true, false) => Some(Strategy::GeneralizeNumber { step: step?.value }),
        (false, true) => {
            let bits = |key, found: Option<super::reader::Located<u64>>, default| match found {
                Some(bits) => u8::try_from(bits.value).ok(),
                None if reader.has(key) => None,
                None => Some(default),
            };
            let ipv4_prefix = bits("ipv4_prefix", ipv4, 24)?;
            let ipv6_prefix = bits("ipv6_prefix", ipv6, 48)?;
            Some(Strategy::GeneralizeIp { ipv4_prefix, ipv6_prefix })
        }
        (both, _) => {
            let message = if both {
                format!("{}: `step` is for numbers, the prefixes are for IP addresses", reader.what)
            } else {
                format!("{}: `generalize` lacks its measure", reader.what)
            };
            let problem = Problem::new(reader.place(), message);
            let help = "write `step = 10` for numbers, or `ipv4_prefix = 24, ipv6_prefix = 48`";
            let problem = problem.help(help);
            reader.report(if both { problem } else { problem.absence() });
            None
        }
    }
}

fn partial(reader: &mut Reader<'_>) -> Option<Strategy> {
    let most = u64::from(u32::MAX);
    let first = reader.number("keep_first", 0..=most, "2");
    let last = reader.number("keep_last", 0..=most, "0");
    let mask = reader.parsed("mask", "\"*\"", |text| {
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(mask), None) if !mask.is_control() => Ok(mask),
            _ => Err(super::reader::Wrong::new("`mask` takes one character")),
        }
    });
    let failed = |key: &str, found: bool| reader.has(key) && !found;
    if failed("keep_first", first.is_some())
        || failed("keep_last", last.is_some())
        || failed("mask", mask.is_some())
    {
        return None;
    }
    let count = |found: Option<super::reader::Located<u64>>| {
        found.map_or(Some(0), |count| u32::try_from(count.value).ok())
    };
    Some(Strategy::Partial {
        keep_first: count(first)?,
        keep_last: count(last)?,
        mask: mask.map_or('*', |mask| mask.value),
    })
}

fn fake(reader: &mut Reader<'_>) -> Option<Strategy> {
    reader.expect(&[("kind", "\"email\"")]);
    let kinds = [
        ("name", FakeKind::Name),
        ("first_name", FakeKind::FirstName),
        ("last_name", FakeKind::LastName),
        ("email", FakeKind::Email),
        ("phone", FakeKind::Phone),
        ("city", FakeKind::City),
    ];
    let meant = [("mail", "email"), ("e-mail", "email"), ("telephone", "phone"), ("town", "city")];
    let kind = reader.choice("kind", &kinds, &meant);
    let deterministic = reader.boolean("deterministic");
    if reader.has("deterministic") && deterministic.is_none() {
        return None;
    }
    let deterministic = deterministic.is_some_and(|deterministic| deterministic.value);
    Some(Strategy::Fake { kind: kind?.value, deterministic })
}

/// Reports a strategy that does not exist, or not in this form.
fn unknown(context: Context<'_>, what: &str, entry: &Entry, name: &str) {
    let lower = name.to_lowercase();
    let problem = if HASHES.iter().any(|hash| lower.starts_with(hash)) {
        let message = format!("{what}: {} hides nothing", quoted(name));
        Problem::new(entry.place, message)
            .label("a plain hash of an e-mail address or phone number is reversed by trying all")
            .help("write `\"hmac\"`, keyed with a secret of expunged's own (this pseudonymizes),")
            .help("or `\"random\"` or `\"null\"`, which leave nothing of the value")
    } else if NAMES.contains(&name) {
        let example = match name {
            "constant" => "{ strategy = \"constant\", value = \"removed\" }",
            "truncate_date" => "{ strategy = \"truncate_date\", to = \"year\" }",
            "generalize" => "{ strategy = \"generalize\", step = 10 }",
            "partial" => "{ strategy = \"partial\", keep_first = 2 }",
            _ => "{ strategy = \"fake\", kind = \"email\" }",
        };
        Problem::new(entry.place, format!("{what}: {} needs parameters", quoted(name)))
            .help(format!("write `{example}`"))
    } else {
        let meant = [
            ("nullify", "null"),
            ("none", "null"),
            ("delete", "null"),
            ("remove", "null"),
            ("erase", "null"),
            ("clear", "null"),
            ("set_null", "null"),
            ("pseudonymize", "hmac"),
            ("mask", "partial"),
            ("redact", "partial"),
            ("truncate", "truncate_date"),
            ("round", "generalize"),
            ("fixed", "constant"),
        ];
        let near = meant
            .iter()
            .find(|(word, _)| *word == lower)
            .map(|(_, name)| *name)
            .or_else(|| suggest::nearest(name, NAMES));
        let problem = Problem::new(entry.place, format!("{what}: no strategy {}", quoted(name)));
        let list = suggest::list(NAMES);
        problem.help(match near {
            Some(near) => format!("did you mean `{near}`? the strategies are {list}"),
            None => format!("the strategies are {list}"),
        })
    };
    context.problems.add(problem);
}
