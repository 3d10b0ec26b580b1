//! What templates meant while they were matched by regular expressions: the matcher is held against it.

use regex::bytes::{Regex, RegexBuilder};

use super::super::{Captures, Part, Template};

/// A template as regular expressions.
pub(super) struct Expressions {
    whole: Regex,
    /// For each folder on the way to what it means: whether anything below a folder so deep can be.
    folders: Vec<Regex>,
    is_deep: bool,
}

impl Expressions {
    pub(super) fn of(template: &Template) -> Expressions {
        let parts = &template.parts;
        let mut expression: String = parts.iter().map(of_part).collect();
        if parts.last() == Some(&Part::Deep) {
            expression.push_str("[^/]+");
        }
        // Up to the first `**` the folders on the way are known one by one.
        let known = expression.split("(?:[^/]+/)*").next().unwrap();
        let folders = known.match_indices("\\x2f").map(|(end, _)| compile(&known[..end])).collect();
        let is_deep = parts.contains(&Part::Deep);
        Expressions { whole: compile(&expression), folders, is_deep }
    }

    pub(super) fn means(&self, path: &[u8]) -> bool {
        self.whole.is_match(path)
    }

    pub(super) fn read(&self, path: &[u8], name: Option<&str>) -> Option<Captures> {
        let found = self.whole.captures(path)?;
        let number =
            |unit| std::str::from_utf8(found.name(unit)?.as_bytes()).unwrap().parse::<i16>().ok();
        let day = number("date.y").and_then(|year| {
            let (month, day) = (number("date.m").unwrap(), number("date.d").unwrap());
            jiff::civil::Date::new(year, month.try_into().unwrap(), day.try_into().unwrap()).ok()
        });
        let value = name.and_then(|name| found.name(name)).map(|value| value.as_bytes().to_vec());
        Some(Captures { day, value })
    }

    pub(super) fn enters(&self, folder: &[u8]) -> bool {
        if folder.is_empty() {
            return true;
        }
        let names: Vec<&[u8]> = folder.split(|byte| *byte == b'/').collect();
        if let Some(known) = self.folders.get(names.len() - 1) {
            return known.is_match(folder);
        }
        let begins = |last: &Regex| last.is_match(&names[..self.folders.len()].join(&b'/'));
        self.is_deep && self.folders.last().is_none_or(begins)
    }
}

fn of_part(part: &Part) -> String {
    match part {
        Part::Literal(bytes) => {
            bytes.iter().flat_map(|byte| ["\\x".to_owned(), hex::encode([*byte])]).collect()
        }
        Part::One => "[^/]".to_owned(),
        Part::Any => "[^/]*".to_owned(),
        // Any number of whole names; at the end, one at least.
        Part::Deep => "(?:[^/]+/)*".to_owned(),
        Part::Placeholder(name) => format!("(?P<{name}>[^/]+)"),
        // No placeholder has a dot in its name.
        Part::Date(format) => regex::escape(format)
            .replace('/', "\\x2f")
            .replace("%Y", "(?P<date.y>[0-9]{4})")
            .replace("%m", "(?P<date.m>[0-9]{2})")
            .replace("%d", "(?P<date.d>[0-9]{2})"),
    }
}

fn compile(expression: &str) -> Regex {
    let mut builder = RegexBuilder::new(&format!("^{expression}$"));
    builder.unicode(false).dot_matches_new_line(true).build().unwrap()
}
