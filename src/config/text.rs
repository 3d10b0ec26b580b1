//! The texts that a configuration is made of, and places in them.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A stretch of one text, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    /// Which text, by its position in [`Texts`].
    pub(super) text: usize,
    /// The first byte.
    pub(super) start: usize,
    /// The byte after the last.
    pub(super) end: usize,
}

/// Where a text came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// A file.
    File(PathBuf),
    /// An environment variable; its text is `NAME=value`.
    Variable(String),
}

/// A file of the configuration, or one environment variable.
pub(super) struct Text {
    pub(super) origin: Origin,
    pub(super) content: String,
    /// It has syntax errors, so what was read from it is only a guess.
    pub(super) broken: bool,
}

/// All texts, in the order in which they override each other.
#[derive(Default)]
pub(super) struct Texts(Vec<Text>);

impl Texts {
    /// Adds a text that overrides the ones before it, and tells its number.
    pub(super) fn add(&mut self, origin: Origin, content: String) -> usize {
        self.0.push(Text { origin, content, broken: false });
        self.0.len() - 1
    }

    /// Notes that a text has syntax errors.
    pub(super) fn set_broken(&mut self, text: usize) {
        if let Some(text) = self.0.get_mut(text) {
            text.broken = true;
        }
    }

    /// Any text has syntax errors: what is missing elsewhere may stand there.
    pub(super) fn any_broken(&self) -> bool {
        self.0.iter().any(|text| text.broken)
    }

    /// The text that a place lies in.
    pub(super) fn get(&self, place: Place) -> Option<&Text> {
        self.0.get(place.text)
    }

    /// What stands at a place, as written.
    pub(super) fn slice(&self, place: Place) -> &str {
        self.get(place).and_then(|text| text.content.get(place.start..place.end)).unwrap_or("")
    }

    /// The environment variable that a place lies in, if it does.
    pub(super) fn variable(&self, place: Place) -> Option<&str> {
        match &self.get(place)?.origin {
            Origin::Variable(name) => Some(name),
            Origin::File(_) => None,
        }
    }
}

/// A table of the merged configuration.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Its header, or its key where it has none.
    pub(super) place: Place,
    /// What it holds.
    pub(super) entries: BTreeMap<String, Entry>,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where the key stands.
    pub(super) key: Place,
    /// Where the value stands; for a table, its header.
    pub(super) place: Place,
    /// The value.
    pub(super) kind: Kind,
}

/// A value with the type that it was written with.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Text(String),
    /// An integer; one beyond 128 bits is the largest or smallest of them.
    Integer(i128),
    Float(f64),
    Boolean(bool),
    /// A date or time, as written.
    Date(String),
    /// Its elements; their keys are the key of the list.
    List(Vec<Entry>),
    Table(Table),
}

impl Kind {
    /// The type in words, with its article.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Kind::Text(_) => "a text",
            Kind::Integer(_) => "a whole number",
            Kind::Float(_) => "a fraction",
            Kind::Boolean(_) => "true or false",
            Kind::Date(_) => "a date or time",
            Kind::List(_) => "a list",
            Kind::Table(_) => "a table",
        }
    }
}
