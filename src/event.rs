//! Events: an application says that something is over, such as `synthesis.finished`, and with which
//! values. Rules listen to names, and each says which values it must be given.
//!
//! Pure. [`json::read`] makes what was sent into [`Told`], [`Told::heard_by`] holds that against the
//! rules. What no rule asks for is dropped there and kept nowhere. Names may be shown to anybody, values
//! and ids to nobody but the one who sent them: they may say who somebody is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::config::suggest;
use crate::path::Unfit;
use crate::rule::{Rule, Selection};
use crate::types::{EventName, Name};

pub mod json;

/// The longest value, in bytes.
pub const LONGEST_VALUE: usize = 1_024;
/// The longest id, in characters.
pub const LONGEST_ID: usize = 200;

/// An event that rules listen to, with the values that they ask for.
#[derive(Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// What makes it this one: the same id again is the same event.
    pub id: String,
    /// What happened.
    pub name: EventName,
    /// With what: the values that say which records are meant.
    pub values: BTreeMap<String, String>,
}

/// Values and id may say who somebody is, so they are not shown.
impl fmt::Debug for Occurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Occurrence").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An event as somebody told it.
#[derive(Clone, PartialEq, Eq)]
pub struct Told {
    /// Its id, where the sender gave one.
    pub id: Option<EventId>,
    /// What happened.
    pub name: EventName,
    /// Everything that came with it.
    pub values: BTreeMap<String, Value>,
}

/// The id that a sender gave an event.
#[derive(Clone, PartialEq, Eq)]
pub struct EventId(String);

impl FromStr for EventId {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        check(text, EventError::Id).map(|()| EventId(text.to_owned()))
    }
}

impl EventId {
    /// The id of an event among those of its source: two sources may use the same ids.
    ///
    /// # Errors
    /// When either of them cannot be kept.
    pub fn of_source(source: &str, id: &str) -> Result<EventId, EventError> {
        check(source, EventError::Source)?;
        check(id, EventError::Id)?;
        // Neither holds a line break, so no two pairs look the same, nor like an id alone.
        Ok(EventId(format!("{source}\n{id}")))
    }
}

fn check(text: &str, wrong: fn(&'static str) -> EventError) -> Result<(), EventError> {
    if text.is_empty() {
        Err(wrong("is empty"))
    } else if text.chars().count() > LONGEST_ID {
        Err(wrong("is longer than 200 characters"))
    } else if text.contains(char::is_control) {
        Err(wrong("has control characters"))
    } else {
        Ok(())
    }
}

/// A value as it was told.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// A text; a number or `true` as it was written.
    Text(String),
    /// Something else, in words: `null`, `a list`, `an object`.
    Other(&'static str),
}

/// Why an event is not taken. The names that it quotes are for the one who sent it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EventError {
    /// No rule listens to it.
    #[error("no rule listens to the event `{name}`{}", hint(near.as_deref(), known))]
    Unheard {
        /// The event.
        name: EventName,
        /// The one that was probably meant.
        near: Option<String>,
        /// Those that rules listen to, in words.
        known: String,
    },
    /// A value that a rule needs is not there.
    #[error(
        "the event `{event}` lacks the value `{value}`, which rule `{rule}` asks for{}",
        meant(near.as_deref())
    )]
    Missing {
        /// The event.
        event: EventName,
        /// The value.
        value: String,
        /// Who asks for it.
        rule: Name,
        /// The one that was probably meant.
        near: Option<String>,
    },
    /// A value says nothing, or too much, or is none.
    #[error("the value `{value}` of the event {what}")]
    Value {
        /// The value's name.
        value: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The id cannot be one.
    #[error("the event's id {0}")]
    Id(&'static str),
    /// Neither can its source.
    #[error("the event's source {0}")]
    Source(&'static str),
}

fn hint(near: Option<&str>, known: &str) -> String {
    match near {
        Some(_) => meant(near),
        None if known.is_empty() => ": no rule listens to any, see `on_event`".to_owned(),
        None => format!(": rules listen to {known}"),
    }
}

fn meant(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!(": did you mean `{near}`?"))
}

impl Told {
    /// Which of the rules listen, and what they are told; a rule that only observes listens, too. An
    /// event without an id gets the one that `new_id` makes.
    ///
    /// # Errors
    /// When nobody listens, or a value that is asked for cannot be used.
    pub fn heard_by<'a>(
        self,
        rules: impl IntoIterator<Item = &'a Rule, IntoIter: Clone>,
        new_id: impl FnOnce() -> String,
    ) -> Result<(Occurrence, Vec<Name>), EventError> {
        let rules = rules.into_iter();
        let mut listeners = Vec::new();
        let mut values = BTreeMap::new();
        for rule in rules.clone().filter(|rule| rule.events.contains(&self.name)) {
            for name in &rule.event_values {
                values.insert(name.clone(), self.value(name, rule)?);
            }
            fits_paths(rule, &values)?;
            listeners.push(rule.name.clone());
        }
        if listeners.is_empty() {
            return Err(unheard(self.name, rules));
        }
        let id = self.id.map_or_else(new_id, |EventId(id)| id);
        Ok((Occurrence { id, name: self.name, values }, listeners))
    }

    /// A value that a rule asks for.
    fn value(&self, name: &str, rule: &Rule) -> Result<String, EventError> {
        let wrong = |what| Err(EventError::Value { value: name.to_owned(), what });
        match self.values.get(name) {
            None => {
                let near = suggest::nearest(name, self.values.keys().map(String::as_str));
                Err(EventError::Missing {
                    event: self.name.clone(),
                    value: name.to_owned(),
                    rule: rule.name.clone(),
                    near: near.map(|near| format!("{name}` for `{near}")),
                })
            }
            Some(Value::Other("null")) => wrong("is null: it must be a text"),
            Some(Value::Other(_)) => wrong("must be a text, a number, true or false"),
            Some(Value::Text(text)) if text.is_empty() => wrong("is empty"),
            Some(Value::Text(text)) if text.len() > LONGEST_VALUE => {
                wrong("is longer than 1,024 bytes")
            }
            // Not every database can hold them, and no key that anybody means has any.
            Some(Value::Text(text)) if text.contains(char::is_control) => {
                wrong("has control characters")
            }
            Some(Value::Text(text)) => Ok(text.clone()),
        }
    }
}

/// Whether the values do for the paths of a rule: what would lead out of its folder names nothing, and
/// must not be acknowledged.
fn fits_paths(rule: &Rule, values: &BTreeMap<String, String>) -> Result<(), EventError> {
    let Selection::Paths(paths) = &rule.select else { return Ok(()) };
    for template in &paths.templates {
        let filled = template.fill(|name| values.get(name).map(String::as_bytes));
        if let Err(Unfit::Empty(value) | Unfit::Escapes(value)) = filled {
            let what = "can be no name of a file: it has a slash, or is `.` or `..`";
            return Err(EventError::Value { value, what });
        }
    }
    Ok(())
}

fn unheard<'a>(name: EventName, rules: impl Iterator<Item = &'a Rule>) -> EventError {
    let mut known: Vec<&str> = rules.flat_map(|rule| &rule.events).map(EventName::as_str).collect();
    known.sort_unstable();
    known.dedup();
    let near = suggest::nearest(name.as_str(), known.iter().copied()).map(str::to_owned);
    EventError::Unheard { name, near, known: suggest::list(known) }
}
