//! `recipients` of a rule: who is told of what it takes, and by what each of them knows a record.

use std::collections::BTreeMap;

use super::RecipientConfig;
use super::diagnostic::Problem;
use super::reader::{Reader, quoted};
use super::rules::Chosen;
use super::suggest;
use super::text::{Entry, Kind, Place, Table};
use crate::notice::{Per, Telling};
use crate::path::Template;
use crate::rule::{Action, Selection, Sharing};
use crate::types::Name;

/// The recipients that a rule can name; nothing is known of one whose own table is wrong.
pub(super) type Recipients = BTreeMap<Name, Option<RecipientConfig>>;

const EXAMPLE: &str = "[\"analytics\"]";
const IDENTIFY: &str = "{ user_id = \"id\" }";
/// The longest name of an identity.
const LONGEST: usize = 63;

/// Reads whether what the rule takes may have been given to others, and whom it tells.
pub(super) fn read(
    reader: &mut Reader<'_>,
    chosen: Option<&Chosen>,
    recipients: &Recipients,
) -> (Sharing, Vec<Telling>) {
    let Some(entry) = reader.entry("recipients") else { return (Sharing::Possible, Vec::new()) };
    let mut tellings = match &entry.kind {
        Kind::Text(text) if text == "none" => return (Sharing::Never, Vec::new()),
        Kind::Text(_) | Kind::List(_) => by_subject(reader, chosen, recipients),
        Kind::Table(table) => by_table(reader, entry, table, chosen, recipients),
        _ => {
            let expected = "the names of recipients, or a table of them";
            reader.wrong_type::<()>(entry, "recipients", expected, EXAMPLE);
            Vec::new()
        }
    };
    tellings.sort_by(|one, other| one.recipient.cmp(&other.recipient));
    (Sharing::Possible, tellings)
}

/// Names alone: each is told the subject.
fn by_subject(
    reader: &mut Reader<'_>,
    chosen: Option<&Chosen>,
    recipients: &Recipients,
) -> Vec<Telling> {
    let mut tellings: Vec<Telling> = Vec::new();
    for word in reader.words("recipients", EXAMPLE).into_iter().flatten() {
        let Some(recipient) = recipient(reader, word.value, word.place, recipients) else {
            continue;
        };
        if tellings.iter().any(|telling| telling.recipient == *recipient.0) {
            let message = format!("{}: `{}` stands there twice", reader.what, word.value);
            reader.report(Problem::new(word.place, message).help("name each recipient once"));
            continue;
        }
        let what = reader.what.clone();
        let identify = subject_alone(reader, (&what, word.place), recipient.0, chosen);
        if let Some(identify) = &identify {
            in_each_path(reader, word.place, recipient.0, identify, chosen);
            in_messages((reader, &what), word.place, recipient, identify);
        }
        tellings.extend(telling(recipient, identify, Per::Subject));
    }
    tellings
}

/// A table for each.
fn by_table(
    reader: &Reader<'_>,
    entry: &Entry,
    table: &Table,
    chosen: Option<&Chosen>,
    recipients: &Recipients,
) -> Vec<Telling> {
    if table.entries.is_empty() {
        let message = format!("{}: `recipients` names nobody", reader.what);
        let help = format!("write `recipients = {EXAMPLE}`, or leave it out");
        reader.report(Problem::new(entry.place, message).help(help));
    }
    let mut tellings = Vec::new();
    for (name, entry) in &table.entries {
        let recipient = recipient(reader, name, entry.key, recipients);
        let Kind::Table(table) = &entry.kind else {
            let example = format!("{{ identify = {IDENTIFY} }}");
            reader.wrong_type::<()>(entry, name, "a table", &example);
            continue;
        };
        let Some(recipient) = recipient else { continue };
        let what = format!("recipient `{}` of {}", recipient.0, reader.what);
        let mut inner = Reader::new(reader.context, what.clone(), table);
        let words = [("subject", Per::Subject), ("record", Per::Record)];
        let meant = [("person", "subject"), ("user", "subject"), ("row", "record")];
        let per = inner.choice("per", &words, &meant).map_or(Per::Subject, |per| per.value);
        let identify = if inner.has("identify") {
            identify(&mut inner, chosen)
        } else {
            inner.entry("identify");
            subject_alone(reader, (&inner.what, entry.key), recipient.0, chosen)
        };
        inner.finish();
        if let Some(identify) = &identify {
            in_each_path(reader, entry.key, recipient.0, identify, chosen);
            in_messages((reader, &what), entry.key, recipient, identify);
        }
        tellings.extend(telling(recipient, identify, per));
    }
    tellings
}

/// A recipient, and how it is told where that is known.
type Known<'a> = (&'a Name, Option<&'a RecipientConfig>);

fn telling(
    (recipient, config): Known<'_>,
    identify: Option<BTreeMap<String, String>>,
    per: Per,
) -> Option<Telling> {
    Some(Telling {
        recipient: recipient.clone(),
        identify: identify?,
        per,
        at_once: config.map_or(1, |config| config.at_once),
        due_seconds: config.map_or(0, |config| config.due.as_secs()),
    })
}

/// The recipient of that name, or what is wrong with it.
fn recipient<'a>(
    reader: &Reader<'_>,
    name: &str,
    place: Place,
    recipients: &'a Recipients,
) -> Option<Known<'a>> {
    let known = name.parse::<Name>().ok().and_then(|name| recipients.get_key_value(&name));
    if let Some((name, config)) = known {
        return Some((name, config.as_ref()));
    }
    let message = format!("{}: there is no recipient {}", reader.what, quoted(name));
    let names = || recipients.keys().map(Name::as_str);
    let help = match suggest::nearest(name, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if name == "none" => {
            "write `recipients = \"none\"`, without brackets, where nobody ever is told".to_owned()
        }
        None if recipients.is_empty() => {
            "add a table `[recipient.NAME]`; or write `recipients = \"none\"` where what it takes is never given to anybody".to_owned()
        }
        None => format!("the recipients are {}", suggest::list(names())),
    };
    reader.report(Problem::new(place, message).help(help).absence());
    None
}

/// The subject, by that name.
fn subject_alone(
    reader: &Reader<'_>,
    (what, place): (&str, Place),
    recipient: &Name,
    chosen: Option<&Chosen>,
) -> Option<BTreeMap<String, String>> {
    if let Some(subject) = chosen.and_then(|chosen| chosen.subject.clone()) {
        return Some([("subject".to_owned(), subject)].into());
    }
    // Without the rest of the rule it is not known whether it has one.
    if chosen.is_some() && !reader.has("subject") {
        let message = format!("{what}: nothing says what identifies a record to `{recipient}`");
        let table = reader.what.replace(" `", ".").replace('`', "");
        let problem = Problem::new(place, message)
            .help("add `subject = \"user_id\"`, which it is told then,")
            .help(format!(
                "or write `[{table}.recipients.{recipient}]` with `identify = {IDENTIFY}`"
            ));
        reader.report(problem.absence());
    }
    None
}

/// By the recipient's names of them, the columns or placeholders that identify a record.
fn identify(reader: &mut Reader<'_>, chosen: Option<&Chosen>) -> Option<BTreeMap<String, String>> {
    let (entry, table) = reader.table("identify", IDENTIFY)?;
    if table.entries.is_empty() {
        let message = format!("{}: nothing identifies a record to it", reader.what);
        reader.report(
            Problem::new(entry.place, message).help(format!("write `identify = {IDENTIFY}`")),
        );
        return None;
    }
    let mut identify = BTreeMap::new();
    for (name, entry) in &table.entries {
        if !is_identity(name) {
            let message =
                format!("{}: {} cannot be the name of an identity", reader.what, quoted(name));
            let help =
                "write such as `user_id`, of letters, digits and `_`, first a letter, at most 63";
            reader.report(Problem::new(entry.key, message).help(help));
            continue;
        }
        match &entry.kind {
            Kind::Text(column)
                if !column.trim().is_empty() && !column.contains(char::is_control) =>
            {
                if let Some(chosen) = chosen {
                    source(reader, entry, column, chosen);
                }
                identify.insert(name.clone(), column.clone());
            }
            Kind::Text(_) => {
                let message = format!("{}: `{name}` names no column", reader.what);
                let help =
                    format!("write `identify = {IDENTIFY}`: the recipient's name, and the column");
                reader.report(Problem::new(entry.place, message).help(help));
            }
            _ => {
                reader.wrong_type::<()>(entry, name, "the name of a column", "\"id\"");
            }
        }
    }
    (identify.len() == table.entries.len()).then_some(identify)
}

/// Reports paths that name nobody to a recipient: of what they mean it would never be told.
fn in_each_path(
    reader: &Reader<'_>,
    place: Place,
    recipient: &Name,
    identify: &BTreeMap<String, String>,
    chosen: Option<&Chosen>,
) {
    let Some(Selection::Paths(paths)) = chosen.map(|chosen| &chosen.select) else { return };
    let is_named = |name: &str| identify.values().any(|value| value == name);
    let names_some = |path: &&Template| path.placeholders().any(is_named);
    // Where none does, that is said of the name.
    if !paths.templates.iter().any(|path| names_some(&path)) {
        return;
    }
    for path in paths.templates.iter().filter(|path| !names_some(path)) {
        let what = &reader.what;
        let message =
            format!("{what}: nothing in the path `{path}` identifies it to `{recipient}`");
        let help = "let each path name whom it is about, or write a rule of its own for this one";
        reader.report(Problem::new(place, message).help(help));
    }
}

/// Reports what the recipient's messages are made of and the rule does not name, and what it names in vain.
fn in_messages(
    (reader, what): (&Reader<'_>, &str),
    place: Place,
    (recipient, config): Known<'_>,
    identify: &BTreeMap<String, String>,
) {
    let Some(names) = config.and_then(RecipientConfig::identities) else { return };
    let table = reader.what.replace(" `", ".").replace('`', "");
    let missing: Vec<&str> =
        names.iter().copied().filter(|name| !identify.contains_key(*name)).collect();
    if !missing.is_empty() {
        let missing = suggest::list(missing);
        let message =
            format!("{what}: `{recipient}` is told {missing}, and nothing says what that is");
        let example: Vec<_> = names.iter().map(|name| format!("{name} = \"…\"")).collect();
        let help = format!(
            "write `identify = {{ {} }}` below `[{table}.recipients.{recipient}]`",
            example.join(", ")
        );
        reader.report(Problem::new(place, message).help(help));
        return;
    }
    let vain = identify.keys().map(String::as_str).filter(|name| !names.contains(name));
    let vain = suggest::list(vain);
    if !vain.is_empty() {
        let message = format!("{what}: the messages to `{recipient}` have no place for {vain}");
        let help = format!("leave it out; they are made of {}", suggest::list(names));
        reader.report(Problem::new(place, message).help(help));
    }
}

fn is_identity(name: &str) -> bool {
    name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reports a column or placeholder that never has a value to tell. Whether a column is there, the
/// database knows.
fn source(reader: &Reader<'_>, entry: &Entry, column: &str, chosen: &Chosen) {
    match &chosen.select {
        Selection::Paths(paths) => {
            let mut known: Vec<&str> =
                paths.templates.iter().flat_map(Template::placeholders).collect();
            known.sort_unstable();
            known.dedup();
            if known.contains(&column) {
                return;
            }
            let message = format!("{}: no path has a placeholder {}", reader.what, quoted(column));
            let help = match suggest::nearest(column, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known.is_empty() => {
                    format!("write `{{{column}}}` in `path` where it stands")
                }
                None => format!("the placeholders are {}", suggest::list(known)),
            };
            reader.report(Problem::new(entry.place, message).help(help));
        }
        Selection::Rows(_) => {
            let marker = match &chosen.action {
                Action::Anonymize(change) => change.marker.as_deref(),
                Action::Delete => None,
            };
            if marker == Some(column) {
                let message = format!(
                    "{}: the marker {} is empty in each record that is due",
                    reader.what,
                    quoted(column)
                );
                reader.report(
                    Problem::new(entry.place, message)
                        .help("name a column that identifies a record"),
                );
            }
        }
    }
}
