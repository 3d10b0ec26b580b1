//! Reads one table with types: what is wrong becomes a problem with its place, and what was not
//! asked for is reported at the end.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;

use super::diagnostic::{Problem, Problems};
use super::text::{Entry, Kind, Place, Table, Texts};
use super::{mask, suggest};
use crate::breaker::Share;

/// What every part of the reading needs.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// What was written.
    pub(super) texts: &'a Texts,
    /// Where problems go.
    pub(super) problems: &'a Problems,
    /// The absolute folder that relative paths are taken from.
    pub(super) folder: &'a Path,
}

impl Context<'_> {
    /// Keeps the value of an entry out of every report. A table under a header has none of its own.
    pub(super) fn hide_value(&self, entry: &Entry) {
        if entry.place != entry.key {
            self.hide(entry.place);
        }
    }

    /// Keeps a value out of every report.
    pub(super) fn hide(&self, place: Place) {
        let written = self.texts.slice(place);
        let is_header = written.starts_with('[');
        let quotes = written.len() - written.trim_start_matches(['"', '\'']).len();
        let quotes = if quotes * 2 < written.len() { quotes } else { 0 };
        if !is_header {
            let (start, end) = (place.start + quotes, place.end.saturating_sub(quotes));
            self.problems.hide(Place { text: place.text, start, end });
        }
    }
}

/// A value, and where it and its key stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
    pub(super) key: Place,
}

impl<T> Located<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Located<U> {
        Located { value: change(self.value), place: self.place, key: self.key }
    }
}

/// Reads one table.
pub(super) struct Reader<'a> {
    pub(super) context: Context<'a>,
    /// What the table is, for messages: "rule `x`".
    pub(super) what: String,
    table: &'a Table,
    asked: Vec<&'static str>,
    /// Keys that must be there, each with an example.
    expected: Vec<(&'static str, &'static str)>,
    /// What is unknown here may be a secret in the wrong place.
    guarded: bool,
    /// Keys that were reported already.
    refused: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// Starts on a table that `what` describes.
    pub(super) fn new(context: Context<'a>, what: impl Into<String>, table: &'a Table) -> Self {
        Reader {
            context,
            what: what.into(),
            table,
            asked: Vec::new(),
            expected: Vec::new(),
            guarded: false,
            refused: Vec::new(),
        }
    }

    /// Hides the values of unknown keys in reports.
    pub(super) fn guarded(self) -> Self {
        Reader { guarded: true, ..self }
    }

    /// The place of the table.
    pub(super) fn place(&self) -> Place {
        self.table.place
    }

    /// Takes a problem.
    pub(super) fn report(&self, problem: Problem) {
        self.context.problems.add(problem);
    }

    /// The key and its value, whatever the type.
    pub(super) fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.table.entries.get(key)
    }

    /// Whether the key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.entries.contains_key(key)
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Option<Located<&'a str>> {
        let entry = self.entry(key)?;
        match &entry.kind {
            Kind::Text(text) => Some(located(entry, text.as_str())),
            _ => self.wrong_type(entry, key, "a text", example),
        }
    }

    /// A text that is not blank and has no control characters: a name of something.
    pub(super) fn word(&mut self, key: &'static str, example: &str) -> Option<Located<&'a str>> {
        self.text(key, example).filter(|text| {
            let good = is_word(text.value);
            if !good {
                self.blank(text, key, example);
            }
            good
        })
    }

    fn blank<T>(&self, at: &Located<T>, key: &str, example: &str) {
        let message = format!("{}: `{key}` is empty or has control characters", self.what);
        self.report(Problem::new(at.place, message).help(self.write(at, key, example)));
    }

    /// A text or a list of texts, each a word. From the environment it is one: several are for a file,
    /// as any sign between them could be part of one.
    pub(super) fn words(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<Vec<Located<&'a str>>> {
        let entry = self.entry(key)?;
        let Kind::List(elements) = &entry.kind else {
            return match &entry.kind {
                Kind::Text(_) => self.word(key, example).map(|word| vec![word]),
                _ => self.wrong_type(entry, key, "a text or a list of texts", example),
            };
        };
        if elements.is_empty() {
            let message = format!("{}: `{key}` is an empty list", self.what);
            let help = self.write(&located(entry, ()), key, example);
            self.report(Problem::new(entry.place, message).help(help));
            return None;
        }
        let mut words = Vec::new();
        for element in elements {
            match &element.kind {
                Kind::Text(text) if is_word(text) => words.push(located(element, text.as_str())),
                Kind::Text(_) => self.blank(&located(element, ()), key, example),
                _ => {
                    self.wrong_type::<()>(element, key, "a text or a list of texts", example);
                }
            }
        }
        (words.len() == elements.len()).then_some(words)
    }

    /// Several tables: `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str, example: &str) -> Option<Vec<&'a Table>> {
        let entry = self.entry(key)?;
        let Kind::List(elements) = &entry.kind else {
            return self.wrong_type(entry, key, "a list of tables", example);
        };
        let mut tables = Vec::new();
        for element in elements {
            match &element.kind {
                Kind::Table(table) => tables.push(table),
                _ => {
                    self.wrong_type::<()>(element, key, "a list of tables", example);
                }
            }
        }
        (tables.len() == elements.len()).then_some(tables)
    }

    /// A text that parses into something; the error is shown and `help` after it.
    pub(super) fn parsed<T, E: Into<Wrong>>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Located<T>> {
        let text = self.text(key, example)?;
        match parse(text.value) {
            Ok(value) => Some(text.map(|_| value)),
            Err(error) => {
                let Wrong { message, help } = error.into();
                let help = help.unwrap_or_else(|| self.write(&text, key, example));
                let message = format!("{}: {message}", self.what);
                self.report(Problem::new(text.place, message).help(help));
                None
            }
        }
    }

    /// A whole number within bounds. From the environment, its digits.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u64>,
        example: &str,
    ) -> Option<Located<u64>> {
        let entry = self.entry(key)?;
        let number = match &entry.kind {
            Kind::Integer(number) => *number,
            Kind::Text(text) if self.is_variable(entry) && text.trim().parse::<i128>().is_ok() => {
                text.trim().parse().unwrap_or_default()
            }
            _ => return self.wrong_type(entry, key, "a whole number", example),
        };
        match u64::try_from(number) {
            Ok(number) if bounds.contains(&number) => Some(located(entry, number)),
            _ => {
                let (least, most) = bounds.into_inner();
                let message = format!("{}: `{key}` is out of bounds", self.what);
                let help = if most == u64::MAX {
                    format!("write a number from {least} up")
                } else {
                    format!("write a number from {least} to {most}")
                };
                self.report(Problem::new(entry.place, message).help(help));
                None
            }
        }
    }

    /// A part of a whole: `"10 %"`, or the fraction `0.1`.
    pub(super) fn share(&mut self, key: &'static str) -> Option<Located<Share>> {
        let entry = self.entry(key)?;
        let share = match &entry.kind {
            Kind::Text(text) => text.parse().ok(),
            Kind::Float(fraction) => Share::new(*fraction),
            // Of whole numbers only 1 cannot be meant as a percentage.
            Kind::Integer(1) => Some(Share::ALL),
            _ => None,
        };
        if share.is_none() {
            let message = format!("{}: `{key}` is no share", self.what);
            let help = self.write(&located(entry, ()), key, "\"10 %\"");
            let problem = Problem::new(entry.place, message);
            self.report(problem.help(format!("{help}, above 0 and up to 100 %")));
        }
        share.map(|share| located(entry, share))
    }

    /// A length of time within bounds, which `in_words` tells.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        example: &str,
        bounds: &RangeInclusive<Duration>,
        in_words: &str,
    ) -> Option<Duration> {
        let duration = self.parsed(key, example, |text| {
            let wrong = || Wrong::new(format!("{} is not a length of time", quoted(text)));
            let duration = text.parse::<SignedDuration>().map_err(|_| wrong())?;
            let duration = Duration::try_from(duration).ok();
            duration.filter(|duration| bounds.contains(duration)).ok_or_else(|| {
                let message = format!("`{key}` is out of bounds");
                Wrong::new(message).help(format!("write a time from {in_words}"))
            })
        });
        duration.map(|duration| duration.value)
    }

    /// A length of time within bounds, which may be told in days and weeks of 24 hours each.
    pub(super) fn days(
        &mut self,
        key: &'static str,
        example: &str,
        bounds: &RangeInclusive<Duration>,
        in_words: &str,
    ) -> Option<Duration> {
        let parse = |text: &str| length(text, (key, example), bounds, in_words);
        self.parsed(key, example, parse).map(|length| length.value)
    }

    /// `true` or `false`. From the environment, these words.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<Located<bool>> {
        let entry = self.entry(key)?;
        match &entry.kind {
            Kind::Boolean(value) => Some(located(entry, *value)),
            Kind::Text(text) if self.is_variable(entry) && (text == "true" || text == "false") => {
                Some(located(entry, text == "true"))
            }
            _ => self.wrong_type(entry, key, "true or false", "true"),
        }
    }

    /// One of a few words. `meant` holds words that people write for one of them.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
        meant: &[(&str, &'static str)],
    ) -> Option<Located<T>> {
        let text = self.text(key, &format!("\"{}\"", words.first()?.0))?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(text.map(|_| *value));
        }
        let lower = text.value.to_lowercase();
        let near = meant
            .iter()
            .find(|(other, _)| *other == lower)
            .map(|(_, word)| *word)
            .or_else(|| suggest::nearest(text.value, words.iter().map(|(word, _)| *word)));
        let choices = suggest::list(words.iter().map(|(word, _)| *word));
        let help = match near {
            Some(near) => format!("did you mean `{near}`? it takes {choices}"),
            None => format!("it takes {choices}"),
        };
        let message = format!("{}: `{key}` cannot be {}", self.what, quoted(text.value));
        self.report(Problem::new(text.place, message).help(help));
        None
    }

    /// A table within this one.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<(&'a Entry, &'a Table)> {
        let entry = self.entry(key)?;
        match &entry.kind {
            Kind::Table(table) => Some((entry, table)),
            _ => self.wrong_type(entry, key, "a table", example),
        }
    }

    /// Every entry, for a table whose keys are names.
    pub(super) fn all(self) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        self.table.entries.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    /// Notes keys that must be there; [`Reader::finish`] reports those that are not.
    pub(super) fn expect(&mut self, keys: &[(&'static str, &'static str)]) {
        self.expected.extend_from_slice(keys);
    }

    /// Reports at once, and in one, those of the keys that are not there.
    pub(super) fn require(&self, keys: &[(&'static str, &'static str)]) {
        let missing: Vec<_> = keys.iter().filter(|(key, _)| !self.has(key)).collect();
        if missing.is_empty() {
            return;
        }
        let names = suggest::list(missing.iter().map(|(key, _)| *key));
        let mut problem = Problem::new(self.place(), format!("{} lacks {names}", self.what));
        for (key, example) in missing {
            problem = problem.help(format!("add `{key} = {example}`"));
        }
        self.report(problem.absence());
    }

    /// Reports a key that this table cannot have, if it is there.
    pub(super) fn refuse(&mut self, key: &'static str, reason: &str, help: &str) {
        self.refused.push(key);
        if let Some(entry) = self.table.entries.get(key) {
            if self.guarded {
                self.context.hide_value(entry);
            }
            let message = format!("{}: {reason}", self.what);
            self.report(Problem::new(entry.key, message).help(help));
        }
    }

    /// Reports what was not asked for, and what was expected and is not there.
    pub(super) fn finish(self) {
        let mut meant = Vec::new();
        for (key, entry) in &self.table.entries {
            let key = key.as_str();
            if !self.asked.contains(&key) && !self.refused.contains(&key) {
                meant.extend(self.unknown(key, entry));
            }
        }
        // A key that is only misspelt is not missing too.
        let mut expected = self.expected.clone();
        expected.retain(|(key, _)| !meant.contains(key));
        self.require(&expected);
    }

    /// Reports an unknown key, and tells which one was probably meant.
    fn unknown(&self, key: &str, entry: &Entry) -> Option<&'static str> {
        let variable = self.context.texts.variable(entry.key);
        if self.guarded || mask::is_telling(key) || variable.is_some() {
            self.context.hide_value(entry);
        }
        let free = self.asked.iter().copied().filter(|known| !self.has(known));
        let near = suggest::nearest(key, free);
        let message = match variable {
            Some(variable) => {
                format!("`{variable}` reaches nothing: {} has no {}", self.what, quoted(key))
            }
            None => format!("{} has no key {}", self.what, quoted(key)),
        };
        let near_or_set = near.or_else(|| suggest::nearest(key, self.asked.iter().copied()));
        let help = match (near_or_set, variable.and_then(|name| name.rsplit_once("__"))) {
            (Some(near), Some((front, _))) => {
                format!("did you mean `{front}__{}`?", near.to_uppercase())
            }
            (Some(near), None) => format!("did you mean `{near}`?"),
            (None, _) => format!("it takes {}", suggest::list(self.asked.iter().copied())),
        };
        self.report(Problem::new(entry.key, message).help(help));
        near
    }

    /// Reports a value of another type than the key takes.
    pub(super) fn wrong_type<T>(
        &self,
        entry: &Entry,
        key: &str,
        expected: &str,
        example: &str,
    ) -> Option<T> {
        if self.guarded {
            self.context.hide_value(entry);
        }
        let message = format!("{}: `{key}` takes {expected}", self.what);
        let help = self.write(&located(entry, ()), key, example);
        let problem = Problem::new(entry.place, message).help(help);
        // Everything in the environment is a text; that it is one says nothing.
        self.report(if self.is_variable(entry) {
            problem
        } else {
            problem.label(format!("this is {}", entry.kind.describe()))
        });
        None
    }

    /// `write …`, in the way of a file or of a variable.
    fn write<T>(&self, at: &Located<T>, key: &str, example: &str) -> String {
        match self.context.texts.variable(at.key) {
            Some(variable) => format!("write `{variable}={}`", example.trim_matches('"')),
            None => format!("write `{key} = {example}`"),
        }
    }

    fn is_variable(&self, entry: &Entry) -> bool {
        self.context.texts.variable(entry.place).is_some()
    }
}

/// A length of time within bounds, which `in_words` tells; a day is taken for 24 hours, and months and years are of no
/// fixed length.
pub(super) fn length(
    text: &str,
    (key, example): (&str, &str),
    bounds: &RangeInclusive<Duration>,
    in_words: &str,
) -> Result<Duration, Wrong> {
    let wrong = || {
        Wrong::new(format!("{} is not a length of time", quoted(text)))
            .help(format!("write such as `{key} = {example}`"))
    };
    let span = text.parse::<jiff::Span>().map_err(|_| wrong())?;
    let length =
        span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let length = Duration::try_from(length).ok();
    length.filter(|length| bounds.contains(length)).ok_or_else(|| {
        let message = format!("`{key}` is out of bounds");
        Wrong::new(message).help(format!("write a time from {in_words}"))
    })
}

/// Not blank, and without control characters.
fn is_word(text: &str) -> bool {
    !text.trim().is_empty() && !text.contains(char::is_control)
}

pub(super) fn located<T>(entry: &Entry, value: T) -> Located<T> {
    Located { value, place: entry.place, key: entry.key }
}

/// Why a text could not be parsed, and what to write instead.
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Wrong {
    /// With the general advice of its key.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Wrong { message: message.into(), help: None }
    }

    /// With advice of its own.
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Wrong { help: Some(help.into()), ..self }
    }
}

/// A piece of the configuration in a message: short, on one line.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{}`", short.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\""))
}
