//! Files and objects in the light of a rule: what is looked for, what legal holds keep of it, and how a
//! path is a key.

use std::sync::Arc;

use jiff::Timestamp;

use super::search::{Age, Covered, Kept, Limits, Search, Verdict};
use super::sql::{Bounds, Explained};
use crate::hold::{Claimed, Holds, Place};
use crate::notice;
use crate::path::{Template, Unfit};
use crate::rule::{PathStart, Paths, Rule};
use crate::types::{Key, KeyValue, Name, TableName};

/// The files or objects that a rule means.
#[derive(Clone, Debug)]
pub struct PathTarget {
    paths: Paths,
    kept: Vec<Kept>,
    /// Whether events say what goes, and age only what no event ever named.
    by_event: bool,
    /// The placeholders whose values are told to recipients.
    told: Vec<String>,
}

impl PathTarget {
    pub(super) fn new(rule: &Rule, paths: &Paths) -> PathTarget {
        let told = notice::told(&rule.tellings).into_iter().map(str::to_owned).collect();
        let by_event = !rule.events.is_empty();
        PathTarget { paths: paths.clone(), kept: Vec::new(), by_event, told }
    }

    /// The templates.
    pub(super) fn templates(&self) -> &[Template] {
        &self.paths.templates
    }

    /// What legal holds keep.
    pub(super) fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// What recipients are told of these files or objects: what stands in their paths in place of each
    /// placeholder that is told, by the first template that means the path and has it. Nothing where
    /// nobody is told.
    pub(super) fn told(&self, keys: &[Key]) -> Vec<Vec<Option<String>>> {
        if self.told.is_empty() {
            return Vec::new();
        }
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .unwrap_or_else(|error| format!("0x{}", hex::encode(error.as_bytes())))
        };
        let of_key = |key: &Key| {
            let path = path_of(key).unwrap_or_default();
            let value = |name: &String| {
                let templates = self.paths.templates.iter();
                let found =
                    templates.filter_map(|template| template.read(&path, Some(name))?.value);
                found.map(text).next()
            };
            self.told.iter().map(value).collect()
        };
        keys.iter().map(of_key).collect()
    }

    /// Keeps what legal holds claim.
    pub(super) fn hold_back(&mut self, rule: &Rule, holds: &Holds) {
        self.kept = if rule.holds.applies() {
            kept_by(&rule.store, &rule.table, Some(&rule.name), holds)
        } else {
            Vec::new()
        };
    }

    /// What is due.
    pub(super) fn due(&self, bounds: Bounds) -> Arc<Search> {
        let limits = Limits { bounds, earliest: self.paths.earliest };
        let age = match &self.paths.start {
            PathStart::Modified if self.by_event => Age::Uploaded(limits),
            PathStart::Modified => Age::Modified(limits),
            PathStart::Day(zone) => Age::Day(limits, zone.clone()),
        };
        self.search(self.paths.templates.clone(), age)
    }

    /// What the values of events name, whatever its age. Values that would lead elsewhere name nothing.
    pub(super) fn named<'a>(
        &self,
        values: impl Iterator<Item = &'a std::collections::BTreeMap<String, String>>,
    ) -> Arc<Search> {
        let mut templates = Vec::new();
        for values in values {
            // Without a placeholder it would mean everything, whatever the event.
            let named = |template: &&Template| template.placeholders().next().is_some();
            for template in self.paths.templates.iter().filter(named) {
                let filled: Result<Template, Unfit> =
                    template.fill(|name| values.get(name).map(String::as_bytes));
                templates.extend(filled.ok());
            }
        }
        self.search(templates, Age::Any)
    }

    /// What is meant, whatever its age.
    pub(super) fn all(&self) -> Arc<Search> {
        self.search(self.paths.templates.clone(), Age::Any)
    }

    fn search(&self, templates: Vec<Template>, age: Age) -> Arc<Search> {
        Arc::new(Search { templates, age, kept: self.kept.clone() })
    }
}

/// What legal holds keep of a store of files or objects. `rule` is the one that would take from it.
pub fn kept_by(store: &Name, table: &TableName, rule: Option<&Name>, holds: &Holds) -> Vec<Kept> {
    let names = [(None, table.table.clone())];
    let claims = holds.claims(Place { store, names: &names }, rule);
    let kept = claims.into_iter().map(|claim| Kept {
        what: match claim.what {
            // A condition says nothing of paths: in doubt they stay.
            Claimed::Everything | Claimed::Predicate(_) => Covered::Everything,
            Claimed::Paths(templates) => Covered::Paths(templates.to_vec()),
            Claimed::Subjects { column, paths, values } => Covered::Persons {
                templates: paths.to_vec(),
                placeholder: column.to_owned(),
                values: values.into_iter().map(|value| value.as_bytes().to_vec()).collect(),
            },
        },
        range: claim.range,
    });
    kept.collect()
}

/// The key of a file or object. A path that is text is one as people write it.
pub(super) fn key_of(path: &[u8], version: Option<&str>) -> Key {
    let path = match std::str::from_utf8(path) {
        Ok(text) => KeyValue::Text(text.to_owned()),
        Err(_) => KeyValue::Bytes(path.to_vec()),
    };
    let version = version.map(|version| KeyValue::Text(version.to_owned()));
    Key(std::iter::once(path).chain(version).collect())
}

/// The path, and version, of a key.
pub(super) fn version_of(key: &Key) -> Option<(Vec<u8>, Option<String>)> {
    let (first, rest) = key.0.split_first()?;
    let path = match first {
        KeyValue::Text(text) => text.as_bytes().to_vec(),
        KeyValue::Bytes(bytes) => bytes.clone(),
        _ => return None,
    };
    match rest {
        [] => Some((path, None)),
        [KeyValue::Text(version)] => Some((path, Some(version.clone()))),
        _ => None,
    }
}

/// The path of a key, whatever its version.
pub fn path_of(key: &Key) -> Option<Vec<u8>> {
    version_of(key).map(|(path, _)| path)
}

/// The keys that a text may stand for: a path, a path and a version as a key of both is shown, or bytes as
/// `0x…`.
pub(super) fn keys_from_text(text: &str) -> Vec<Key> {
    let bytes = text.strip_prefix("0x").and_then(|rest| hex::decode(rest).ok());
    let bytes = bytes.filter(|bytes| std::str::from_utf8(bytes).is_err());
    // A path may have a comma of its own, so the whole text is asked for first.
    let version = text.rsplit_once(", ").filter(|(path, version)| {
        !path.is_empty() && !version.is_empty() && !version.contains('/')
    });
    std::iter::once(key_of(text.as_bytes(), None))
        .chain(version.map(|(path, version)| key_of(path.as_bytes(), Some(version))))
        .chain(bytes.map(|path| key_of(&path, None)))
        .collect()
}

/// What a search makes of one path.
pub(super) fn explained(
    search: &Search,
    path: &[u8],
    version: Option<&str>,
    start: Option<Timestamp>,
) -> Option<Explained> {
    let (start, is_due, kept) = match search.judge(path, start) {
        Verdict::Other => return None,
        Verdict::Young(start) => (Some(start), false, None),
        Verdict::Due(start) => (start, true, None),
        Verdict::Kept(reason) => (start, false, Some(reason)),
    };
    Some(Explained {
        key: key_of(path, version),
        starting_point: start,
        is_due,
        meets_condition: true,
        kept,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A rule that was rewritten for age may still be handed an event: it must not mean everything.
    #[test]
    fn an_event_names_nothing_where_no_placeholder_takes_its_value() {
        let templates = ["faces/*", "thumbs/{key}/*"].map(|text| text.parse().unwrap()).to_vec();
        let earliest = jiff::civil::date(1970, 1, 2);
        let paths = Paths { templates, start: PathStart::Modified, earliest };
        let target = PathTarget { paths, kept: Vec::new(), by_event: false, told: Vec::new() };
        let named = |key: &str| {
            target.named([&BTreeMap::from([("key".to_owned(), key.to_owned())])].into_iter())
        };
        let search = named("k1");
        assert!(search.means(b"thumbs/k1/64.jpg"));
        assert!(!search.means(b"faces/k1") && !search.means(b"thumbs/k2/64.jpg"));
        for elsewhere in ["..", "k1/..", "", "."] {
            assert!(named(elsewhere).templates.is_empty(), "{elsewhere}");
        }
        assert!(!named("*").means(b"thumbs/k1/64.jpg"), "a value is no wildcard");
    }
}
