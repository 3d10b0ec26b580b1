//! Layering: `expunged.toml`, then `conf.d/*.toml`, then the environment, merged key by key.
//!
//! Each file is parsed with positions, and merged by the `config` crate. What that crate carries
//! through a merge is one text per value, its origin; the origins written here hold the place of the
//! key and of the value, so that every value that comes out still knows where it was written. The
//! crate's own conversions between types are not used.

use std::collections::BTreeMap;
use std::path::PathBuf;

use config::{Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::diagnostic::{Problem, Problems};
use super::environment;
use super::text::{Entry, Kind, Origin, Place, Table, Texts};

/// The one key under which each layer hands its tables to the `config` crate, which would take keys
/// at the top for path expressions (`a.b`, `a[999999999]`).
const ROOT: &str = "configuration";

/// A file of the configuration and what it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputFile {
    /// Its path, as errors show it.
    pub path: PathBuf,
    /// Its content, not yet checked in any way.
    pub bytes: Vec<u8>,
}

/// The merged configuration and the texts it came from.
pub(super) struct Merged {
    pub(super) texts: Texts,
    pub(super) root: Table,
}

/// Merges the files in their order, and the environment over them.
pub(super) fn merge(
    files: Vec<InputFile>,
    environment: impl Iterator<Item = (String, String)>,
    problems: &Problems,
) -> Merged {
    let mut texts = Texts::default();
    let mut stack = Stack::default();
    for file in files {
        if let Some(layer) = parse(file, &mut texts, &mut stack.tables, problems) {
            stack.layers.push(layer);
        }
    }
    let root = stack.merged();
    let variables = environment::layer(environment, &root, &mut texts, problems);
    if variables.is_empty() {
        return Merged { texts, root };
    }
    for variable in variables {
        stack.put(&variable);
    }
    let root = stack.merged();
    Merged { texts, root }
}

/// The layers so far, and where each table was first written.
#[derive(Default)]
struct Stack {
    layers: Vec<Layer>,
    tables: BTreeMap<Vec<String>, Header>,
}

/// Where a table stands: its key, and its header if it has one.
#[derive(Clone, Copy)]
struct Header {
    key: Place,
    place: Place,
}

/// One file's tables, or one environment variable.
#[derive(Clone, Debug)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let table = Value::new(None, ValueKind::Table(self.0.clone()));
        Ok(Map::from_iter([(ROOT.to_owned(), table)]))
    }
}

impl Stack {
    /// Puts one environment variable on top.
    fn put(&mut self, variable: &environment::Variable) {
        let origin = write_origin(variable.name, variable.value, false);
        let text = ValueKind::String(variable.text.clone());
        let mut value = Value::new(Some(&origin), text);
        for depth in (0..variable.path.len()).rev() {
            if depth > 0 {
                let header = Header { key: variable.name, place: variable.name };
                self.tables.entry(variable.path[..depth].to_vec()).or_insert(header);
            }
            let map = Map::from_iter([(variable.path[depth].clone(), value)]);
            value = Value::new(None, ValueKind::Table(map));
        }
        if let ValueKind::Table(map) = value.kind {
            self.layers.push(Layer(map));
        }
    }

    /// All layers as one table.
    fn merged(&self) -> Table {
        let mut builder = config::Config::builder();
        for layer in &self.layers {
            builder = builder.add_source(layer.clone());
        }
        let nowhere = Place { text: 0, start: 0, end: 0 };
        let mut root = Table { place: nowhere, entries: BTreeMap::new() };
        // Building fails only when a source does, and a layer never does.
        let Ok(built) = builder.build() else { return root };
        if let ValueKind::Table(mut top) = built.cache.kind
            && let Some(Value { kind: ValueKind::Table(map), .. }) = top.remove(ROOT)
        {
            root.entries = self.entries(&mut Vec::new(), map);
        }
        root
    }

    fn entries(&self, path: &mut Vec<String>, map: Map<String, Value>) -> BTreeMap<String, Entry> {
        let mut entries = BTreeMap::new();
        for (key, value) in map {
            path.push(key);
            let entry = self.entry(path, value);
            let key = path.pop().unwrap_or_default();
            entries.extend(entry.map(|entry| (key, entry)));
        }
        entries
    }

    fn entry(&self, path: &mut Vec<String>, value: Value) -> Option<Entry> {
        let ValueKind::Table(map) = value.kind else { return whole(value) };
        let header = *self.tables.get(path.as_slice())?;
        let entries = self.entries(path, map);
        let kind = Kind::Table(Table { place: header.place, entries });
        Some(Entry { key: header.key, place: header.place, kind })
    }
}

/// A value that came through the merge as it was written. Lists are replaced whole, with the tables in
/// them.
fn whole(value: Value) -> Option<Entry> {
    let (key, place, is_date) = value.origin().and_then(read_origin)?;
    let kind = match value.kind {
        ValueKind::String(text) if is_date => Kind::Date(text),
        ValueKind::String(text) => Kind::Text(text),
        ValueKind::Boolean(value) => Kind::Boolean(value),
        ValueKind::I128(value) => Kind::Integer(value),
        ValueKind::Float(value) => Kind::Float(value),
        ValueKind::Array(values) => Kind::List(values.into_iter().filter_map(whole).collect()),
        ValueKind::Table(map) => {
            let entries = map.into_iter().filter_map(|(key, value)| Some((key, whole(value)?)));
            Kind::Table(Table { place, entries: entries.collect() })
        }
        // Nothing writes another kind.
        _ => return None,
    };
    Some(Entry { key, place, kind })
}

/// What is carried through the merge: the places of key and value, and whether it was a date.
fn write_origin(key: Place, value: Place, is_date: bool) -> String {
    let numbers = [key.text, key.start, key.end, value.start, value.end, usize::from(is_date)];
    numbers.map(|number| number.to_string()).join(":")
}

fn read_origin(origin: &str) -> Option<(Place, Place, bool)> {
    let numbers: Result<Vec<usize>, _> = origin.split(':').map(str::parse).collect();
    match numbers.ok()?.as_slice() {
        &[text, start, end, value_start, value_end, is_date] => {
            let key = Place { text, start, end };
            Some((key, Place { text, start: value_start, end: value_end }, is_date == 1))
        }
        _ => None,
    }
}

/// Reads one file; what has syntax errors is read as far as it goes.
fn parse(
    file: InputFile,
    texts: &mut Texts,
    tables: &mut BTreeMap<Vec<String>, Header>,
    problems: &Problems,
) -> Option<Layer> {
    let (content, valid) = match String::from_utf8(file.bytes) {
        Ok(content) => (content, None),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(valid))
        }
    };
    let text = texts.add(Origin::File(file.path), content.clone());
    if let Some(start) = valid {
        texts.set_broken(text);
        let problem = Problem::new(Place { text, start, end: start + 3 }, "this is not UTF-8 text");
        problems.add(problem.syntax().help("save the file as UTF-8"));
        return None;
    }
    let (table, errors) = DeTable::parse_recoverable(&content);
    let mut lines = Vec::new();
    for error in errors {
        texts.set_broken(text);
        let span = error.span().unwrap_or(0..0);
        // What follows on the same line follows from the first error on it.
        let line = content.get(..span.start).map_or(0, |before| before.matches('\n').count());
        if !lines.contains(&line) {
            lines.push(line);
            let place = Place { text, start: span.start, end: span.end };
            let problem = Problem::new(place, format!("this is not TOML: {}", error.message()));
            problems.add(problem.syntax());
        }
    }
    let mut walk = Walk { text, content: &content, tables, path: Vec::new(), is_listed: false };
    Some(Layer(walk.table(table.get_ref())))
}

/// Turns parsed TOML into values that know their place.
struct Walk<'a> {
    text: usize,
    content: &'a str,
    tables: &'a mut BTreeMap<Vec<String>, Header>,
    path: Vec<String>,
    /// Within a list.
    is_listed: bool,
}

impl Walk<'_> {
    fn place<T>(&self, spanned: &Spanned<T>) -> Place {
        let span = spanned.span();
        Place { text: self.text, start: span.start, end: span.end }
    }

    fn table(&mut self, table: &DeTable<'_>) -> Map<String, Value> {
        let mut map = Map::new();
        for (key, value) in table {
            self.path.push(key.get_ref().to_string());
            let key_place = self.place(key);
            let value = self.value(key_place, value);
            map.insert(self.path.pop().unwrap_or_default(), value);
        }
        map
    }

    fn value(&mut self, key: Place, value: &Spanned<DeValue<'_>>) -> Value {
        let mut place = self.place(value);
        let is_date = matches!(value.get_ref(), DeValue::Datetime(_));
        let kind = match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.to_string()),
            DeValue::Integer(number) => ValueKind::I128(integer(number)),
            DeValue::Float(number) => {
                let digits = number.as_str().replace('_', "");
                ValueKind::Float(digits.parse().unwrap_or(f64::NAN))
            }
            DeValue::Boolean(value) => ValueKind::Boolean(*value),
            DeValue::Datetime(date) => ValueKind::String(date.to_string()),
            DeValue::Array(values) => {
                let outside = std::mem::replace(&mut self.is_listed, true);
                let values = values.iter().map(|value| self.value(key, value)).collect();
                self.is_listed = outside;
                ValueKind::Array(values)
            }
            DeValue::Table(table) => {
                place = self.header(key, place);
                // One in a list has no path of its own.
                if !self.is_listed {
                    self.tables.entry(self.path.clone()).or_insert(Header { key, place });
                }
                ValueKind::Table(self.table(table))
            }
        };
        Value::new(Some(&write_origin(key, place, is_date)), kind)
    }

    /// What to point at for a table: `[its.header]` or `{ … }` on one line, else its key.
    fn header(&self, key: Place, place: Place) -> Place {
        let written = self.content.get(place.start..place.end).unwrap_or("");
        let whole = written.starts_with(['[', '{']) && !written.contains('\n');
        if whole { place } else { key }
    }
}

/// No limit in the configuration is near the ends of 128 bits: beyond them, the end will do.
fn integer(number: &DeInteger<'_>) -> i128 {
    let digits = number.as_str();
    let beyond = if digits.starts_with('-') { i128::MIN } else { i128::MAX };
    i128::from_str_radix(digits, number.radix()).unwrap_or(beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(files: &[&str]) -> (Merged, Problems) {
        let problems = Problems::default();
        let files = files.iter().enumerate().map(|(number, text)| InputFile {
            path: format!("{number}.toml").into(),
            bytes: text.as_bytes().to_vec(),
        });
        let merged = merge(files.collect(), std::iter::empty(), &problems);
        (merged, problems)
    }

    fn find<'a>(table: &'a Table, path: &str) -> &'a Entry {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let entry = &table.entries[first];
        match &entry.kind {
            Kind::Table(table) if !rest.is_empty() => find(table, rest),
            _ => entry,
        }
    }

    #[test]
    fn every_value_knows_where_it_was_written_after_the_merge() {
        let (merged, problems) = merged(&[
            "[rule.a]\nstore = 'one'\nmode = \"observe\"\n",
            "[rule.a]\nmode = 'enforce'\nearliest = 2020-01-01\n",
        ]);
        assert!(problems.into_error(&merged.texts).is_none());
        let mode = find(&merged.root, "rule.a.mode");
        assert_eq!(merged.texts.slice(mode.key), "mode");
        assert_eq!(merged.texts.slice(mode.place), "'enforce'");
        assert_eq!(mode.place.text, 1);
        assert_eq!(find(&merged.root, "rule.a.store").place.text, 0);
        assert!(
            matches!(&find(&merged.root, "rule.a.earliest").kind, Kind::Date(d) if d == "2020-01-01")
        );
        let rule = find(&merged.root, "rule.a");
        assert_eq!(merged.texts.slice(rule.place), "[rule.a]");
    }

    #[test]
    fn keys_that_look_like_paths_are_plain_keys() {
        let (merged, _) = merged(&["'a.b' = 1\n'c[99999999999]' = 2\n[rule.'x.y']\nz = 3\n"]);
        assert_eq!(
            merged.root.entries.keys().collect::<Vec<_>>(),
            ["a.b", "c[99999999999]", "rule"]
        );
        assert!(
            matches!(&find(&merged.root, "rule").kind, Kind::Table(t) if t.entries.contains_key("x.y"))
        );
    }

    #[test]
    fn lists_are_replaced_whole_and_their_elements_know_their_places() {
        let (merged, problems) = merged(&[
            "a = ['x', 'y']\n[[b]]\nc = 1\n[[b]]\nc = 2\nd = { e = 'f' }\n",
            "a = ['z']\n",
        ]);
        assert!(problems.into_error(&merged.texts).is_none());
        let elements = |entry: &Entry| match &entry.kind {
            Kind::List(elements) => elements.clone(),
            _ => panic!("a list"),
        };
        let a = elements(find(&merged.root, "a"));
        assert_eq!((a.len(), merged.texts.slice(a[0].place)), (1, "'z'"));
        let b = elements(find(&merged.root, "b"));
        let Kind::Table(second) = &b[1].kind else { panic!("a table") };
        assert_eq!(merged.texts.slice(second.place), "[[b]]");
        assert!(second.place.start > b[0].place.start);
        assert_eq!(merged.texts.slice(second.entries["c"].place), "2");
        assert_eq!(merged.texts.slice(find(second, "d.e").place), "'f'");
    }

    #[test]
    fn types_stay_as_they_were_written() {
        let (merged, _) = merged(&["a = true\nb = 1.5\nc = '1'\nd = 0x1f\ne = [1]\nf = 9e99\n"]);
        let kind = |key: &str| merged.root.entries[key].kind.describe();
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(kind),
            ["true or false", "a fraction", "a text", "a whole number", "a list"]
        );
        assert!(matches!(merged.root.entries["d"].kind, Kind::Integer(31)));
    }
}
