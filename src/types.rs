//! Names, keys and identifiers that cannot be built wrong.
//!
//! Everything here is a plain value. A [`Name`] is always a valid name and a [`TableName`] always has
//! one or two parts, so no code further down checks them again.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of a store, a rule or another configured thing: `[a-z0-9]` first, then up to 62 of
/// `[a-z0-9_-]`. Small enough for a file name, a metric label and an environment variable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a name: use lower-case letters, digits, `-` and `_`, first a letter or digit, at most 63"
)]
pub struct InvalidName(pub String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let rest = |c: char| first(c) || c == '-' || c == '_';
        if text.len() <= 63 && text.starts_with(first) && text.chars().all(rest) {
            Ok(Name(text.to_owned()))
        } else {
            Err(InvalidName(text.to_owned()))
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The name of an event, such as `synthesis.finished`: names of lower-case letters, digits, `-` and
/// `_`, with dots between them, at most 100 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EventName(String);

/// Why a text is not an [`EventName`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not the name of an event: write such as `synthesis.finished`, of lower-case letters, digits, `-`, `_` and dots"
)]
pub struct InvalidEventName(pub String);

impl EventName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventName {
    type Err = InvalidEventName;

    fn from_str(text: &str) -> Result<Self, InvalidEventName> {
        let good = text.len() <= 100 && text.split('.').all(|part| part.parse::<Name>().is_ok());
        if good { Ok(EventName(text.to_owned())) } else { Err(InvalidEventName(text.to_owned())) }
    }
}

impl<'de> Deserialize<'de> for EventName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A table as a rule names it: `table`, or `schema.table` (in MySQL the schema is the database).
///
/// It is only a request to the catalogue: SQL is built from what the catalogue answers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableName {
    /// The schema or database, where the rule names one.
    pub schema: Option<String>,
    /// The table itself.
    pub table: String,
}

/// Why a text is not a [`TableName`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a table name: write `table` or `schema.table`, without quotes")]
pub struct InvalidTableName(pub String);

impl FromStr for TableName {
    type Err = InvalidTableName;

    fn from_str(text: &str) -> Result<Self, InvalidTableName> {
        let invalid = || InvalidTableName(text.to_owned());
        let part = |part: &str| {
            let good = !part.trim().is_empty()
                && part.len() <= 128
                && !part.contains(|c: char| c.is_control() || "\"`;".contains(c));
            if good { Ok(part.to_owned()) } else { Err(invalid()) }
        };
        match text.split('.').collect::<Vec<_>>().as_slice() {
            [table] => Ok(TableName { schema: None, table: part(table)? }),
            [schema, table] => Ok(TableName { schema: Some(part(schema)?), table: part(table)? }),
            _ => Err(invalid()),
        }
    }
}

impl TableName {
    /// What stands for the table of files.
    pub fn files() -> TableName {
        TableName { schema: None, table: "files".to_owned() }
    }

    /// What stands for the table of objects.
    pub fn objects() -> TableName {
        TableName { schema: None, table: "objects".to_owned() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.table),
            None => f.write_str(&self.table),
        }
    }
}

impl<'de> Deserialize<'de> for TableName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for TableName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One column's value in a [`Key`].
///
/// It may be personal data (an e-mail address as a primary key), so `Debug` hides it; `Display`
/// shows it and is used only where a person asked to see keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyValue {
    /// Any integer type, signed or unsigned.
    Int(i128),
    /// Text, or the text form of a type that has no variant of its own.
    Text(String),
    /// A native UUID.
    Uuid(Uuid),
    /// Raw bytes.
    Bytes(Vec<u8>),
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyValue::Int(value) => write!(f, "{value}"),
            KeyValue::Text(value) => f.write_str(value),
            KeyValue::Uuid(value) => write!(f, "{value}"),
            KeyValue::Bytes(value) => write!(f, "0x{}", hex::encode(value)),
        }
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key value>")
    }
}

/// The primary key of a record: one value per key column, in the key's column order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub Vec<KeyValue>);

impl Key {
    /// Appends an unambiguous encoding: a count, then a tag, a length and the bytes of each value.
    ///
    /// Two keys have the same encoding only if they are equal, so a commitment to the encoding is a
    /// commitment to the key.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        put_length(out, self.0.len());
        for value in &self.0 {
            match value {
                KeyValue::Int(value) => put_value(out, 1, &value.to_be_bytes()),
                KeyValue::Text(value) => put_value(out, 2, value.as_bytes()),
                KeyValue::Uuid(value) => put_value(out, 3, value.as_bytes()),
                KeyValue::Bytes(value) => put_value(out, 4, value),
            }
        }
    }

    /// Appends what [`Key::encode_to`] appends for a key of these texts.
    pub fn encode_texts_to<'a>(texts: impl IntoIterator<Item = &'a str>, out: &mut Vec<u8>) {
        let start = out.len();
        put_length(out, 0);
        let mut count = 0;
        for text in texts {
            put_value(out, 2, text.as_bytes());
            count += 1;
        }
        out[start..start + LENGTH].copy_from_slice(&length(count));
    }

    /// The encoding of [`Key::encode_to`] on its own.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_to(&mut out);
        out
    }

    /// Reads one key from the front of `bytes` and moves it on; `None` if it is not an encoding.
    pub fn decode_from(bytes: &mut &[u8]) -> Option<Key> {
        fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
            let (head, tail) = bytes.split_at_checked(count)?;
            *bytes = tail;
            Some(head)
        }
        fn number(bytes: &mut &[u8]) -> Option<usize> {
            let head = take(bytes, 4)?;
            Some(u32::from_be_bytes(head.try_into().ok()?) as usize)
        }
        let count = number(bytes)?;
        // Each value takes five bytes at least.
        let mut values = Vec::with_capacity(count.min(bytes.len() / 5));
        for _ in 0..count {
            let tag = take(bytes, 1)?[0];
            let length = number(bytes)?;
            let value = take(bytes, length)?;
            values.push(match tag {
                1 => KeyValue::Int(i128::from_be_bytes(value.try_into().ok()?)),
                2 => KeyValue::Text(String::from_utf8(value.to_vec()).ok()?),
                3 => KeyValue::Uuid(Uuid::from_slice(value).ok()?),
                4 => KeyValue::Bytes(value.to_vec()),
                _ => return None,
            });
        }
        Some(Key(values))
    }
}

/// So many bytes tell a length.
const LENGTH: usize = 4;

fn length(count: usize) -> [u8; LENGTH] {
    u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes()
}

fn put_length(out: &mut Vec<u8>, count: usize) {
    out.extend(length(count));
}

fn put_value(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, value) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{value}")?;
        }
        Ok(())
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(KeyValue::to_string))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_refuse_what_would_not_fit_a_file_or_a_label() {
        for good in ["app", "a", "9-lives", "inactive_accounts"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "App", "a b", "a/b", "ü", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn table_names_have_one_or_two_parts_and_no_quotes() {
        assert_eq!("public.users".parse::<TableName>().unwrap().to_string(), "public.users");
        assert_eq!("Order Items".parse::<TableName>().unwrap().schema, None);
        for bad in ["", ".", "a.", "a.b.c", "a\"b", "a;b", "a`b", "a\nb"] {
            assert!(bad.parse::<TableName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_never_shows_a_key() {
        let key = Key(vec![KeyValue::Text("ann@example.com".into())]);
        assert!(!format!("{key:?}").contains("ann"));
        assert_eq!(key.to_string(), "ann@example.com");
    }

    fn any_value() -> impl Strategy<Value = KeyValue> {
        prop_oneof![
            any::<i128>().prop_map(KeyValue::Int),
            any::<String>().prop_map(KeyValue::Text),
            any::<u128>().prop_map(|bits| KeyValue::Uuid(Uuid::from_u128(bits))),
            any::<Vec<u8>>().prop_map(KeyValue::Bytes),
        ]
    }

    proptest! {
        #[test]
        fn texts_are_encoded_as_the_key_of_them(texts in prop::collection::vec(".{0,9}", 0..5)) {
            let key = Key(texts.iter().cloned().map(KeyValue::Text).collect());
            let mut encoded = vec![7];
            Key::encode_texts_to(texts.iter().map(String::as_str), &mut encoded);
            prop_assert_eq!(&encoded[1..], key.encode());
        }

        #[test]
        fn an_encoded_key_reads_back_and_tells_keys_apart(
            a in prop::collection::vec(any_value(), 0..4),
            b in prop::collection::vec(any_value(), 0..4),
        ) {
            let (a, b) = (Key(a), Key(b));
            let bytes = a.encode();
            let mut rest = bytes.as_slice();
            prop_assert_eq!(Key::decode_from(&mut rest), Some(a.clone()));
            prop_assert!(rest.is_empty());
            prop_assert_eq!(a.encode() == b.encode(), a == b);
        }

        #[test]
        fn broken_encodings_are_refused_not_misread(bytes in any::<Vec<u8>>()) {
            let mut rest = bytes.as_slice();
            if let Some(key) = Key::decode_from(&mut rest) {
                prop_assert_eq!(&key.encode(), &bytes[..bytes.len() - rest.len()]);
            }
        }
    }
}
