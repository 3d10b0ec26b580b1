//! Templates filled with what a message says. Pure.
//!
//! A value that is empty names nobody, and many an interface takes an empty filter for everybody: so it counts as
//! missing. In a URL, `.` and `..` would lead elsewhere. A message of which a subject is not named at all is not sent.

use jiff::Timestamp;
use md5::Md5;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Obstacle;
use crate::config::{Body, Form, Piece, Template};
use crate::notice::{Identities, Message};

/// All but the characters that mean nothing anywhere in a URL (RFC 3986, 2.3).
const REST: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a part of a URL.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, REST).to_string()
}

/// The notice's id as recipients know it.
pub(super) fn notice_id(message: &Message) -> String {
    format!("msg_{}", message.id)
}

/// A moment as recipients are told it.
pub(super) fn moment(at: Timestamp) -> String {
    // Whole seconds: what an interface reads as a date need not have fractions.
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// The tables of all subjects.
pub(super) fn subjects(message: &Message) -> Value {
    let table = |identities: &Identities| {
        let entries =
            identities.0.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
        Value::Object(entries.collect())
    };
    message.about.iter().map(table).collect()
}

/// What placeholders are filled with.
#[derive(Clone, Copy)]
pub(super) struct Filling<'a> {
    message: &'a Message,
    /// The subject that is meant where one is.
    about: Option<&'a Identities>,
    job: Option<&'a str>,
}

impl<'a> Filling<'a> {
    pub(super) fn new(message: &'a Message, job: Option<&'a str>) -> Filling<'a> {
        let about = match message.about.as_slice() {
            [one] => Some(one),
            _ => None,
        };
        Filling { message, about, job }
    }

    /// A text.
    pub(super) fn text(&self, template: &Template) -> Result<String, Obstacle> {
        template.0.iter().map(|piece| self.piece(piece)).collect()
    }

    /// A URL: what is put into it is encoded.
    pub(super) fn url(&self, template: &Template) -> Result<String, Obstacle> {
        let mut url = String::new();
        for piece in &template.0 {
            let text = self.piece(piece)?;
            match piece {
                Piece::Text(_) => url.push_str(&text),
                _ if text.is_empty() || text == "." || text == ".." => {
                    let message =
                        "a value is empty or leads elsewhere, so it cannot stand in a URL";
                    return Err(Obstacle::Message(message.to_owned()));
                }
                _ => url.push_str(&encode(&text)),
            }
        }
        Ok(url)
    }

    /// A body.
    pub(super) fn body(&self, body: &Body) -> Result<Value, Obstacle> {
        Ok(match body {
            Body::Fixed(value) => value.clone(),
            Body::Text(template) => self.text(template)?.into(),
            Body::Subjects => subjects(self.message),
            Body::Each(inner) => {
                let mut values = Vec::new();
                for about in &self.message.about {
                    let one = Filling { about: Some(about), ..*self };
                    // Who has no such identity is named by another list, or not at all: see `names`.
                    if inner.identities().iter().all(|name| value(about, name).is_some()) {
                        values.push(one.body(inner)?);
                    }
                }
                values.into()
            }
            Body::List(elements) => {
                elements.iter().map(|element| self.body(element)).collect::<Result<_, _>>()?
            }
            Body::Table(entries) => {
                let entries = entries.iter().map(|(key, body)| Ok((key.clone(), self.body(body)?)));
                Value::Object(entries.collect::<Result<_, Obstacle>>()?)
            }
        })
    }

    fn piece(&self, piece: &Piece) -> Result<String, Obstacle> {
        let lacking = |what: String| Obstacle::Message(what);
        match piece {
            Piece::Text(text) => Ok(text.clone()),
            Piece::Notice => Ok(notice_id(self.message)),
            Piece::Rule => Ok(self.message.rule.to_string()),
            Piece::CreatedAt => Ok(moment(self.message.created_at)),
            Piece::Job => {
                let job = self.job.map(str::to_owned);
                job.ok_or_else(|| lacking("it has given the job no name".to_owned()))
            }
            Piece::Id { .. } if self.about.is_none() => {
                Err(lacking("the call is about one subject, and the message is not".to_owned()))
            }
            Piece::Id { name, forms } => {
                let found = self.about.and_then(|about| value(about, name));
                let found = found.ok_or_else(|| {
                    lacking(format!("the subject has no `{name}`, and the call needs one"))
                })?;
                Ok(forms.iter().fold(found.to_owned(), |text, form| formed(&text, *form)))
            }
        }
    }
}

/// Whether each subject is named by a call, wherever that is.
pub(super) fn names_all(message: &Message, url: &Template, body: Option<&Body>) -> bool {
    let of_url: Vec<&str> = url.identities().collect();
    message.about.iter().all(|about| {
        let is_known = |name: &&str| value(about, name).is_some();
        of_url.iter().any(is_known) || body.is_some_and(|body| names(body, about))
    })
}

fn names(body: &Body, about: &Identities) -> bool {
    match body {
        Body::Fixed(_) => false,
        Body::Text(template) => template.identities().any(|name| value(about, name).is_some()),
        Body::Subjects => about.0.values().any(|value| !value.trim().is_empty()),
        // An element is there only if all of it is.
        Body::Each(inner) => {
            let needed = inner.identities();
            !needed.is_empty() && needed.iter().all(|name| value(about, name).is_some())
        }
        Body::List(elements) => elements.iter().any(|element| names(element, about)),
        Body::Table(entries) => entries.iter().any(|(_, body)| names(body, about)),
    }
}

fn value<'a>(about: &'a Identities, name: &str) -> Option<&'a str> {
    about.0.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
}

/// What is made of a value.
pub(super) fn formed(text: &str, form: Form) -> String {
    match form {
        Form::Lower => text.to_lowercase(),
        Form::Trim => text.trim().to_owned(),
        Form::Md5 => hex::encode(Md5::digest(text)),
        Form::Sha1 => {
            let algorithm = &ring::digest::SHA1_FOR_LEGACY_USE_ONLY;
            hex::encode(ring::digest::digest(algorithm, text.as_bytes()))
        }
        Form::Sha256 => hex::encode(Sha256::digest(text)),
    }
}
