//! Environment variables as the last layer: `EXPUNGED__RULE__INACTIVE_ACCOUNTS__MODE=enforce`.
//!
//! A variable overrides a value; it makes no new store, rule or column, because a slip in a name
//! would then make a thing instead of an error. Where a list may stand it sets one text. Names are matched without regard to case and with
//! `-` written as `_`.

use std::collections::BTreeMap;

use super::diagnostic::{Problem, Problems};
use super::suggest;
use super::text::{Kind, Origin, Place, Table, Texts};

const PREFIX: &str = "EXPUNGED__";
const SEPARATOR: &str = "__";

/// Tables whose keys are names: in which section, under which key, and of what.
const FREE: [(&str, &str, &str); 8] = [
    ("recipient", "columns", "identity"),
    ("recipient", "headers", "header"),
    ("recipient", "identity_format", "identity"),
    ("recipient", "query", "parameter"),
    ("rule", "columns", "column"),
    ("rule", "match", "column"),
    ("rule", "recipients", "recipient"),
    ("source", "events", "status"),
];

/// A variable that reaches into the configuration.
#[derive(Debug)]
pub(super) struct Variable {
    /// The keys that lead to its value.
    pub(super) path: Vec<String>,
    /// Its value.
    pub(super) text: String,
    /// Where its name stands in `NAME=value`.
    pub(super) name: Place,
    /// Where its value stands.
    pub(super) value: Place,
}

/// The environment of this process. A variable that is not Unicode comes with replacement
/// characters, so that one of ours is refused and not overlooked.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    })
}

/// The variables that override something in `root`, in the order of their names.
pub(super) fn layer(
    environment: impl Iterator<Item = (String, String)>,
    root: &Table,
    texts: &mut Texts,
    problems: &Problems,
) -> Vec<Variable> {
    let ours: BTreeMap<String, String> =
        environment.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let mut layer: Vec<Variable> = Vec::new();
    for (name, value) in ours {
        let content = format!("{name}={value}");
        let (name_end, end) = (name.len(), content.len());
        let text = texts.add(Origin::Variable(name.clone()), content);
        let place = |start, end| Place { text, start, end };
        let (name_place, value_place) = (place(0, name_end), place(name_end + 1, end));
        let path = match resolve(&name, root) {
            Ok(path) => path,
            Err(Unreached { message, help }) => {
                problems.hide(value_place);
                let message = format!("`{name}` reaches nothing: {message}");
                // What it was meant for may stand where a file could not be parsed.
                problems.add(Problem::new(name_place, message).help(help).absence());
                continue;
            }
        };
        if let Some(other) = layer.iter().find(|other| overlap(&other.path, &path)) {
            let message = format!("`{name}` and another variable set the same thing");
            let problem = Problem::new(name_place, message).related(other.name, "the other one");
            problems.add(problem.help("unset one of the two"));
            problems.hide(value_place);
            continue;
        }
        layer.push(Variable { path, text: value, name: name_place, value: value_place });
    }
    layer
}

fn overlap(a: &[String], b: &[String]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

/// Why a variable reaches nothing.
struct Unreached {
    message: String,
    help: String,
}

/// The keys that a variable's name stands for. Whether the last of them is known is for the reader
/// of that table to say.
fn resolve(name: &str, root: &Table) -> Result<Vec<String>, Unreached> {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name).to_lowercase();
    let (section, rest) = rest.split_once(SEPARATOR).unwrap_or((&rest, ""));
    let mut path = vec![section.to_owned()];
    match section {
        "ledger" | "keys" | "daemon" => {
            path.extend(keys(rest, section)?);
            Ok(path)
        }
        "store" | "recipient" | "rule" | "source" => {
            let (named, rest) = find(section, root.entries.get(section).map(|e| &e.kind), rest)?;
            path.push(named.to_owned());
            let table = root.entries.get(section).and_then(|section| inner(&section.kind, named));
            // Below these, keys are names of the application's own.
            let below = |key: &str| rest.strip_prefix(key)?.strip_prefix(SEPARATOR);
            let free = FREE.iter().find_map(|(of, key, what)| {
                (*of == section).then(|| Some((*key, *what, below(key)?))).flatten()
            });
            if let Some((key, what, rest)) = free {
                let known = table.and_then(|table| inner(table, key));
                let (name, rest) = find(what, known, rest)?;
                path.extend([key.to_owned(), name.to_owned()]);
                if !rest.is_empty() {
                    path.extend(keys(rest, what)?);
                }
            } else {
                path.extend(keys(rest, section)?);
            }
            Ok(path)
        }
        _ => {
            let sections = ["ledger", "keys", "daemon", "store", "recipient", "rule", "source"];
            let help = match suggest::nearest(section, sections) {
                Some(near) => format!("did you mean `{PREFIX}{}__…`?", near.to_uppercase()),
                None => format!("the sections are {}", suggest::list(sections)),
            };
            Err(Unreached { message: format!("there is no section `{section}`"), help })
        }
    }
}

/// The keys below a table that has a fixed set of them.
fn keys(rest: &str, of: &str) -> Result<Vec<String>, Unreached> {
    let keys: Vec<String> = rest.split(SEPARATOR).map(str::to_owned).collect();
    if keys.iter().any(String::is_empty) {
        let message = format!("it names no key of the {of}");
        let help = "write the key after two underscores, such as `…__MODE`".to_owned();
        return Err(Unreached { message, help });
    }
    Ok(keys)
}

/// The thing in `kind` whose name `rest` starts with, and what follows the name; the longest name,
/// as names may hold the separator themselves.
fn find<'a, 'r>(
    what: &str,
    kind: Option<&'a Kind>,
    rest: &'r str,
) -> Result<(&'a str, &'r str), Unreached> {
    let known: Vec<&str> = match kind {
        Some(Kind::Table(table)) => table.entries.keys().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    let following = |name: &str| {
        let rest = rest.strip_prefix(&as_in_variable(name))?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(SEPARATOR) }
    };
    let mut matching: Vec<(&str, &str)> =
        known.iter().filter_map(|name| Some((*name, following(name)?))).collect();
    matching.sort_by_key(|(_, rest)| rest.len());
    match matching.as_slice() {
        [(one, rest), (other, other_rest), ..] if rest.len() == other_rest.len() => {
            Err(Unreached {
                message: format!("it could mean the {what} `{one}` or `{other}`"),
                help: "rename one of them, or set the value in a file".to_owned(),
            })
        }
        [found, ..] => Ok(*found),
        [] => {
            let asked = rest.split(SEPARATOR).next().unwrap_or("");
            let help = if known.is_empty() {
                format!("a variable overrides a {what} of a file and makes no new one")
            } else {
                let near = suggest::nearest(asked, known.iter().copied());
                let known = suggest::list(known.iter().copied());
                near.map_or_else(
                    || format!("the files have {known}"),
                    |near| {
                        let near = as_in_variable(near).to_uppercase();
                        format!("did you mean `{near}`? the files have {known}")
                    },
                )
            };
            Err(Unreached { message: format!("there is no {what} `{asked}`"), help })
        }
    }
}

fn inner<'a>(kind: &'a Kind, key: &str) -> Option<&'a Kind> {
    match kind {
        Kind::Table(table) => table.entries.get(key).map(|entry| &entry.kind),
        _ => None,
    }
}

fn as_in_variable(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}
