//! Templates of paths: which files and objects a rule means, and which belong to a row.
//!
//! ```text
//! faces/{upload_key}              a name in place of `{upload_key}`
//! thumbs/{upload_key}/*           any name below it
//! exports/{user_id}/**            whatever lies below, however deep
//! logs/{date:%Y/%m/%d}/**         a date, from which retention may count
//! ```
//!
//! `*` and `?` stand for any characters of one name, `**` for any number of names. A placeholder
//! `{name}` stands for characters of one name, at least one. It is read where a rule looks for what is
//! due, and filled in where a row or an event says what goes.
//!
//! Pure: a path is a sequence of bytes between slashes, as file systems and object stores have it, and
//! never a string to be opened.

mod matching;

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

/// A template of paths.
#[derive(Clone)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    /// How much of what it begins with is folders that are the same whatever is filled in.
    fixed: usize,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    /// These bytes.
    Literal(Vec<u8>),
    /// `?`
    One,
    /// `*`
    Any,
    /// `**`
    Deep,
    /// `{name}`
    Placeholder(String),
    /// `{date:…}`
    Date(String),
}

/// Why a text is not a [`Template`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidTemplate {
    /// It is empty, absolute, or leaves its folder.
    #[error(
        "`{0}` is not a path below the store's root: write `faces/*`, without `/` in front or `..`"
    )]
    NotBelow(String),
    /// `**` is not a name of its own.
    #[error("`**` stands for whole names: write `logs/**` or `**/*.tmp`")]
    Deep,
    /// A brace has no partner, or what it holds is no name.
    #[error("`{{{0}` is no placeholder: write `{{upload_key}}`, of letters, digits and `_`")]
    Placeholder(String),
    /// The same placeholder twice.
    #[error("the placeholder `{{{0}}}` stands there twice")]
    Twice(String),
    /// A path could be read for it in more than one way.
    #[error(
        "`{{{0}}}` could stand for more than one thing: let no `**` be before it, and no `*` or other placeholder in the same name"
    )]
    Vague(String),
    /// A date's format is of something else than year, month and day.
    #[error(
        "`{0}` does not say a day: write `%Y`, `%m` and `%d`, each once, such as `{{date:%Y-%m-%d}}`"
    )]
    Date(String),
}

/// Why a template cannot be filled in. It says nothing of the value, which may be personal data.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unfit {
    /// There is no value.
    #[error("there is no value for `{{{0}}}`")]
    Missing(String),
    /// The value is empty.
    #[error("the value for `{{{0}}}` is empty")]
    Empty(String),
    /// The value would lead elsewhere: it has a slash or a NUL in it, or it makes `.` or `..`.
    #[error("the value for `{{{0}}}` would lead out of its folder")]
    Escapes(String),
}

/// What the placeholders of a template stand for in one path.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Captures {
    /// The day, where the template has a date: none where it is no day of the calendar.
    pub day: Option<Date>,
    /// The value that was asked for.
    pub value: Option<Vec<u8>>,
}

/// Does not show the value, which may say who somebody is.
impl fmt::Debug for Captures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captures").field("day", &self.day).finish_non_exhaustive()
    }
}

impl FromStr for Template {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Template, InvalidTemplate> {
        let outside = text.is_empty()
            || text.contains('\0')
            || text.split('/').any(|name| matches!(name, "" | "." | ".."));
        if outside {
            return Err(InvalidTemplate::NotBelow(text.to_owned()));
        }
        Ok(Template::of(text.to_owned(), parse(text)?))
    }
}

fn parse(text: &str) -> Result<Vec<Part>, InvalidTemplate> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (part, length) = match first {
            '?' => (Part::One, 1),
            '*' if rest.starts_with("**") => {
                let begins_a_name =
                    parts.is_empty() || text[..text.len() - rest.len()].ends_with('/');
                if !begins_a_name || rest.len() > 2 && !rest.starts_with("**/") {
                    return Err(InvalidTemplate::Deep);
                }
                (Part::Deep, if rest.len() > 2 { 3 } else { 2 })
            }
            '*' => (Part::Any, 1),
            '{' => {
                let invalid = || InvalidTemplate::Placeholder(rest[1..].to_owned());
                let (inside, _) = rest[1..].split_once('}').ok_or_else(invalid)?;
                (placeholder(inside).ok_or_else(invalid)??, inside.len() + 2)
            }
            '}' => return Err(InvalidTemplate::Placeholder(rest.to_owned())),
            _ => {
                let end = rest.find(['?', '*', '{', '}']).unwrap_or(rest.len());
                (Part::Literal(rest.as_bytes()[..end].to_vec()), end)
            }
        };
        parts.push(part);
        rest = &rest[length..];
    }
    let names: Vec<&str> = parts.iter().filter_map(Part::name).collect();
    for (position, name) in names.iter().enumerate() {
        if names[..position].contains(name) {
            return Err(InvalidTemplate::Twice((*name).to_owned()));
        }
    }
    for pair in parts.windows(2) {
        // `{key}?` with `k1` would mean what is another's, `k12`.
        if let (Part::Placeholder(name), Part::One) = (&pair[0], &pair[1]) {
            return Err(InvalidTemplate::Vague(name.clone()));
        }
    }
    if let Some(name) = vague(&parts) {
        return Err(InvalidTemplate::Vague(name.to_owned()));
    }
    Ok(parts)
}

/// A placeholder or date that a path could be read for in more than one way: then a person could be taken
/// for another, or a young file for an old one. It has no `**` before it; besides a placeholder stand only
/// literals and `?` in its name, and so they do before a date.
fn vague(parts: &[Part]) -> Option<&str> {
    let mut is_deep = false;
    // Of the name that is being read: a wildcard in it, and the placeholder.
    let (mut wild, mut open) = (false, None);
    for part in parts {
        match part {
            Part::Literal(bytes) if bytes.contains(&b'/') => {
                (wild, open) = (false, None);
            }
            Part::Literal(_) | Part::One => {}
            Part::Deep => {
                is_deep = true;
                (wild, open) = (false, None);
            }
            Part::Any => {
                if open.is_some() {
                    return open;
                }
                wild = true;
            }
            Part::Placeholder(name) => {
                if is_deep || wild || open.is_some() {
                    return Some(name);
                }
                open = Some(name.as_str());
            }
            Part::Date(_) => {
                if is_deep || wild || open.is_some() {
                    return Some("date");
                }
            }
        }
    }
    None
}

fn placeholder(inside: &str) -> Option<Result<Part, InvalidTemplate>> {
    if let Some(format) = inside.strip_prefix("date:") {
        let once = |unit: &str| format.matches(unit).count() == 1;
        // Something stays in place of each: what is left is not to make another.
        let rest = format.replace("%Y", "-").replace("%m", "-").replace("%d", "-");
        let plain = rest.chars().all(|c| "-_./".contains(c));
        let good = once("%Y") && once("%m") && once("%d") && plain && !format.contains("//");
        return Some(if good {
            Ok(Part::Date(format.to_owned()))
        } else {
            Err(InvalidTemplate::Date(inside.to_owned()))
        });
    }
    let first = inside.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let name = first && inside.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    name.then(|| Ok(Part::Placeholder(inside.to_owned())))
}

impl Part {
    fn name(&self) -> Option<&str> {
        match self {
            Part::Placeholder(name) => Some(name),
            Part::Date(_) => Some("date"),
            _ => None,
        }
    }
}

impl Template {
    fn of(text: String, parts: Vec<Part>) -> Template {
        let fixed = match parts.first() {
            Some(Part::Literal(bytes)) => bytes.iter().rposition(|byte| *byte == b'/'),
            _ => None,
        };
        Template { text, parts, fixed: fixed.unwrap_or_default() }
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of its placeholders, a date not included.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Placeholder(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether it has a date.
    pub fn has_date(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Date(_)))
    }

    /// Whether it means a path.
    pub fn means(&self, path: &[u8]) -> bool {
        match self.one_path() {
            Some(one) => one == path,
            None => path.starts_with(self.prefix()) && matching::means(&self.parts, path),
        }
    }

    /// What a path says in place of the date, and of `name`; `None` if the template does not mean it.
    pub fn read(&self, path: &[u8], name: Option<&str>) -> Option<Captures> {
        matching::read(&self.parts, path, name)
    }

    /// Whether anything below a folder can be meant. A folder is given without a slash at its end, and
    /// the root as nothing.
    pub fn enters(&self, folder: &[u8]) -> bool {
        folder.is_empty() || matching::enters(&self.parts, folder)
    }

    /// What every path that it means begins with.
    pub fn prefix(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Literal(bytes)) => bytes,
            _ => &[],
        }
    }

    /// The folder that all it means lies in, whatever is filled in.
    pub fn fixed_folder(&self) -> &[u8] {
        self.prefix().get(..self.fixed).unwrap_or_default()
    }

    /// The one path that it means, where it means one.
    pub fn one_path(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [Part::Literal(bytes)] => Some(bytes),
            _ => None,
        }
    }

    /// Puts values in place of the placeholders. Each is taken as it is: what it holds is no wildcard.
    ///
    /// # Errors
    /// When a value is missing, empty, or would lead out of the folder that the template names.
    pub fn fill<'a>(&self, value: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Template, Unfit> {
        let mut parts: Vec<Part> = Vec::new();
        let mut text = String::new();
        for part in &self.parts {
            let Part::Placeholder(name) = part else {
                push(&mut parts, part.clone());
                continue;
            };
            let found = value(name).ok_or_else(|| Unfit::Missing(name.clone()))?;
            if found.is_empty() {
                return Err(Unfit::Empty(name.clone()));
            }
            if found.iter().any(|byte| matches!(byte, b'/' | 0)) {
                return Err(Unfit::Escapes(name.clone()));
            }
            push(&mut parts, Part::Literal(found.to_vec()));
            let made: &[u8] = match parts.last() {
                Some(Part::Literal(bytes)) => bytes,
                _ => &[],
            };
            // `.{a}` with `.` makes `..`, which no single value shows.
            let name_so_far = made.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if matches!(name_so_far, b"." | b"..") {
                return Err(Unfit::Escapes(name.clone()));
            }
        }
        text.push_str(&self.text);
        Ok(Template { fixed: self.fixed, ..Template::of(text, parts) })
    }
}

/// Adds a part; literals next to each other become one.
fn push(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (Some(Part::Literal(before)), Part::Literal(more)) => before.extend(more),
        (_, part) => parts.push(part),
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Template) -> bool {
        self.parts == other.parts
    }
}

impl Eq for Template {}

impl PartialOrd for Template {
    fn partial_cmp(&self, other: &Template) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Template {
    fn cmp(&self, other: &Template) -> std::cmp::Ordering {
        self.parts.cmp(&other.parts)
    }
}

impl Serialize for Template {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Shows the template as it was written: filled in, it shows no value.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests;
