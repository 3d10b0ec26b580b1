//! Events as JSON: in a form of our own, or as CloudEvents 1.0; one, or an array of them.
//!
//! ```json
//! {"event": "synthesis.finished", "id": "job-17", "values": {"upload_key": "k1"}}
//! {"specversion": "1.0", "type": "synthesis.finished", "source": "/synth", "id": "17", "data": {"upload_key": "k1"}}
//! ```
//!
//! Numbers are taken as they were written, digit by digit: rounding one could name another record.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{EventError, EventId, Told, Value};
use crate::config::suggest;
use crate::types::InvalidEventName;

/// The most events in one array.
pub const MOST: usize = 1_000;

/// Why a text does not tell events.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// Not JSON.
    #[error("this is not JSON: {0}")]
    Syntax(String),
    /// JSON, but no event.
    #[error(
        "an event is an object, such as {{\"event\": \"synthesis.finished\", \"values\": {{\"upload_key\": \"k1\"}}}}; several go into an array"
    )]
    NoEvent,
    /// An array of none.
    #[error("the array is empty: there is no event in it")]
    None,
    /// An array of too many.
    #[error("an array has at most 1,000 events, and this one has {0}")]
    TooMany(usize),
    /// A key stands twice: which one counts would be a guess.
    #[error("the key `{0}` stands there twice")]
    Twice(String),
    /// A key that an event does not have.
    #[error(
        "an event has no key `{key}`{}",
        near.as_ref().map_or_else(|| ": it takes `event`, `id` and `values`".to_owned(), |near| format!(": did you mean `{near}`?"))
    )]
    UnknownKey {
        /// The key.
        key: String,
        /// The one that was probably meant.
        near: Option<String>,
    },
    /// A key that must be there.
    #[error("the event lacks `{0}`")]
    Lacks(&'static str),
    /// A value of the wrong kind.
    #[error("`{key}` {must}")]
    Kind {
        /// Whose value it is.
        key: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// No name of an event.
    #[error(transparent)]
    Name(#[from] InvalidEventName),
    /// An id that cannot be kept.
    #[error(transparent)]
    Id(#[from] EventError),
    /// One of several is wrong.
    #[error("event {position} of {of}: {error}")]
    At {
        /// Which, from 1.
        position: usize,
        /// Of how many.
        of: usize,
        /// What is wrong with it.
        error: Box<Malformed>,
    },
}

/// Reads one event, or an array of them: all, or none.
///
/// # Errors
/// When the text is not JSON, or anything in it is not an event.
pub fn read(text: &[u8]) -> Result<Vec<Told>, Malformed> {
    let whole: &RawValue = serde_json::from_slice(text).map_err(|error| syntax(&error))?;
    if !whole.get().starts_with('[') {
        return Ok(vec![event(whole)?]);
    }
    let all: Vec<&RawValue> = part(whole)?;
    match all.len() {
        0 => return Err(Malformed::None),
        of if of > MOST => return Err(Malformed::TooMany(of)),
        _ => {}
    }
    let of = all.len();
    let numbered = all.into_iter().zip(1..).map(|(one, position)| {
        event(one).map_err(|error| Malformed::At { position, of, error: Box::new(error) })
    });
    numbered.collect()
}

fn syntax(error: &serde_json::Error) -> Malformed {
    Malformed::Syntax(error.to_string())
}

/// Part of a text that is JSON as a whole: what can still be wrong are the escapes in its texts.
fn part<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, Malformed> {
    let read = serde_json::from_str(raw.get());
    // Its place would be counted from the beginning of the part.
    read.map_err(|_| Malformed::Syntax("a text has an escape that stands for nothing".to_owned()))
}

fn event(raw: &RawValue) -> Result<Told, Malformed> {
    let object = object(raw)?.ok_or(Malformed::NoEvent)?;
    if object.contains_key("specversion") { cloud_event(&object) } else { own(&object) }
}

fn own(object: &Object<'_>) -> Result<Told, Malformed> {
    const KEYS: [&str; 3] = ["event", "id", "values"];
    if let Some(key) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let near = suggest::nearest(key, KEYS).map(str::to_owned);
        return Err(Malformed::UnknownKey { key: key.clone(), near });
    }
    let id = object.get("id").map(|id| text(id, "id")).transpose()?;
    let id = id.map(|id| id.parse()).transpose()?;
    let name = text(object.get("event").ok_or(Malformed::Lacks("event"))?, "event")?;
    Ok(Told { id, name: name.parse()?, values: values(object, "values")? })
}

/// CloudEvents 1.0 in structured form. Attributes of extensions may be there, and say nothing to us.
fn cloud_event(object: &Object<'_>) -> Result<Told, Malformed> {
    let needed = |key: &'static str| text(object.get(key).ok_or(Malformed::Lacks(key))?, key);
    if needed("specversion")? != "1.0" {
        return Err(Malformed::Kind { key: "specversion", must: "must be \"1.0\"" });
    }
    if object.contains_key("data_base64") {
        return Err(Malformed::Kind { key: "data_base64", must: "cannot be read: send `data`" });
    }
    let kind = object.get("datacontenttype").map(|kind| text(kind, "datacontenttype"));
    if let Some(kind) = kind.transpose()?
        && !is_json(&kind)
    {
        return Err(Malformed::Kind { key: "datacontenttype", must: "must be application/json" });
    }
    let name = needed("type")?.parse()?;
    let id = EventId::of_source(&needed("source")?, &needed("id")?)?;
    Ok(Told { id: Some(id), name, values: values(object, "data")? })
}

fn is_json(media_type: &str) -> bool {
    let kind = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

fn text(raw: &RawValue, key: &'static str) -> Result<String, Malformed> {
    if raw.get().starts_with('"') {
        part(raw)
    } else {
        Err(Malformed::Kind { key, must: "must be a text" })
    }
}

fn values(of: &Object<'_>, key: &'static str) -> Result<BTreeMap<String, Value>, Malformed> {
    let Some(raw) = of.get(key) else { return Ok(BTreeMap::new()) };
    let must = "must be an object, such as {\"upload_key\": \"k1\"}";
    let object = object(raw)?.ok_or(Malformed::Kind { key, must })?;
    object.into_iter().map(|(name, raw)| Ok((name, value(raw)?))).collect()
}

fn value(raw: &RawValue) -> Result<Value, Malformed> {
    Ok(match raw.get().as_bytes().first() {
        Some(b'"') => Value::Text(part(raw)?),
        Some(b'n') => Value::Other("null"),
        Some(b'[') => Value::Other("a list"),
        Some(b'{') => Value::Other("an object"),
        _ => Value::Text(raw.get().to_owned()),
    })
}

type Object<'a> = BTreeMap<String, &'a RawValue>;

/// The entries of an object; `None` for anything else.
fn object(raw: &RawValue) -> Result<Option<Object<'_>>, Malformed> {
    if !raw.get().starts_with('{') {
        return Ok(None);
    }
    let mut object = BTreeMap::new();
    for (key, value) in part::<Entries<'_>>(raw)?.0 {
        if object.insert(key.clone(), value).is_some() {
            return Err(Malformed::Twice(key));
        }
    }
    Ok(Some(object))
}

/// The entries of an object in their order, those with the same key too.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
