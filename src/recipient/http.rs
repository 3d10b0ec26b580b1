//! A call over HTTP as the configuration describes it.

use ::http::header::{ACCEPT, CONTENT_TYPE};
use ::http::{HeaderValue, Method};
use jiff::Timestamp;
use serde_json::Value;

use super::fill::{Filling, names_all};
use super::line::{Line, Showing};
use super::{Ailment, Obstacle, judge, received, words};
use crate::config::{Ack, Call, HttpRecipient, Match, Poll, Success};
use crate::notice::{Answer, Message};
use crate::outbound::Reply;

/// A job's name is no longer, in bytes.
const LONGEST_JOB: usize = 200;

/// A recipient with an interface of its own.
#[derive(Debug)]
pub(super) struct Http {
    ack: Ack,
    line: Line,
    showing: Showing,
    config: HttpRecipient,
}

impl Http {
    pub(super) fn new(config: &HttpRecipient, ack: Ack) -> Http {
        Http {
            ack,
            line: Line::new(&config.server),
            showing: Showing::new(config.authorization.as_ref(), &config.headers, &config.query),
            config: config.clone(),
        }
    }

    pub(super) async fn tell(&self, message: &Message, now: Timestamp) -> Answer {
        let call = &self.config.call;
        if !names_all(message, &call.url, call.body.as_ref()) {
            let why = "a subject has none of the identities that the call needs";
            return Answer::Failed(why.to_owned());
        }
        match self.send(call, message, None, now).await {
            Ok(reply) => told(&self.config, self.ack, &reply, now),
            Err(obstacle) => obstacle.into(),
        }
    }

    pub(super) async fn ask(&self, message: &Message, job: Option<&str>, now: Timestamp) -> Answer {
        let Some(poll) = &self.config.poll else {
            return Answer::Failed("it cannot be asked how far it is".to_owned());
        };
        match self.send(&poll.call, message, job, now).await {
            Ok(reply) => asked(poll, &reply, message, now),
            Err(obstacle) => obstacle.into(),
        }
    }

    async fn send(
        &self,
        call: &Call,
        message: &Message,
        job: Option<&str>,
        now: Timestamp,
    ) -> Result<Reply, Obstacle> {
        let filling = Filling::new(message, job);
        let url = self.showing.url(&filling.url(&call.url)?, &filling, now)?;
        let mut headers = self.showing.headers(&filling, now)?;
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        let body = match &call.body {
            Some(body) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Some(filling.body(body)?.to_string().into_bytes())
            }
            None => None,
        };
        Ok(self.line.send(call.method.clone(), &url, headers, body).await?)
    }

    /// There is no call that is surely harmless, so it is only seen whether something answers there, and whether
    /// the secrets can be read.
    pub(super) async fn test(&self, now: Timestamp) -> Result<String, Ailment> {
        let nobody = Message {
            id: crate::clock::new_id(),
            rule: "test".parse().map_err(|_| Ailment::Configuration("no name".to_owned()))?,
            created_at: now,
            about: Vec::new(),
        };
        let filling = Filling::new(&nobody, None);
        self.showing.headers(&filling, now)?;
        self.showing.url("", &filling, now)?;
        let url = root(&self.config.call.url.to_string());
        let reply = self.line.send(Method::OPTIONS, &url, ::http::HeaderMap::new(), None).await?;
        if reply.status.is_server_error()
            && let Some(ailment) = judge::ailment(&reply)
        {
            return Err(ailment);
        }
        let (host, status) = (&reply.host, reply.status.as_u16());
        Ok(format!(
            "{host} is there (it answered {status} to OPTIONS); whether it takes the call shows with the first notice"
        ))
    }
}

/// Where a URL begins: its scheme, host and port.
fn root(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    format!("{scheme}://{}/", rest.split(['/', '?']).next().unwrap_or_default())
}

/// What the answer to a call means.
fn told(config: &HttpRecipient, ack: Ack, reply: &Reply, now: Timestamp) -> Answer {
    let HttpRecipient { success: Success { status, body }, job, .. } = config;
    let is_named = status.contains(&reply.status.as_u16());
    if !is_named && let Some(answer) = judge::refusal(reply, now) {
        return answer;
    }
    let host = &reply.host;
    let later = |why: String| Answer::Later { after: None, why, is_down: false };
    if !is_named && !status.is_empty() {
        let status = reply.status.as_u16();
        return later(format!("{host} answered {status}, which `success` does not name"));
    }
    let json = json(reply);
    if let Some(Match { at, is }) = body {
        let word = json.as_ref().and_then(|json| word(json, at));
        if !word.is_some_and(|word| is.contains(&word)) {
            return later(format!("{host} answered, but not with what `success` asks for"));
        }
    }
    let job = job.as_ref().and_then(|at| word(json.as_ref()?, at));
    let job = job.filter(|job| !job.is_empty() && job.len() <= LONGEST_JOB);
    let needs_job = config.poll.as_ref().is_some_and(needs_job);
    if ack == Ack::Poll && needs_job && job.is_none() {
        return later(format!(
            "{host} answered without the name of a job where `job` looks for it"
        ));
    }
    received(ack, job)
}

fn needs_job(poll: &Poll) -> bool {
    poll.call.url.needs_job()
        || poll.call.body.as_ref().is_some_and(|body| {
            body.templates().into_iter().any(crate::config::Template::needs_job)
        })
}

/// What the answer to a question means.
fn asked(poll: &Poll, reply: &Reply, message: &Message, now: Timestamp) -> Answer {
    let word = match &poll.at {
        None => Some(reply.status.as_u16().to_string()),
        Some(at) => json(reply).as_ref().and_then(|json| word(json, at)),
    };
    let is_in = |words: &[String]| word.as_ref().is_some_and(|word| words.contains(word));
    // A status may be one of the words, whatever it means elsewhere.
    let is_meant = poll.at.is_none() || reply.status.is_success();
    if is_meant {
        let why = || words::reason(word.as_deref().unwrap_or_default(), Some(message));
        if is_in(&poll.done) {
            return Answer::Completed;
        } else if is_in(&poll.denied) {
            return Answer::Denied(why());
        } else if is_in(&poll.exempt) {
            return Answer::Exempt(why());
        } else if is_in(&poll.failed) {
            return Answer::Failed(format!("{} says `{}`", reply.host, why()));
        }
    }
    match judge::refusal(reply, now) {
        None if word.is_some() => Answer::Accepted,
        None => Answer::Later {
            after: None,
            why: format!("{} does not say how far it is where `at` looks for it", reply.host),
            is_down: false,
        },
        Some(later @ Answer::Later { .. }) => later,
        // It was told, so it is asked again: whether anything came of it is not known.
        Some(_) => Answer::Later {
            after: None,
            why: format!("{} answered {}", reply.host, reply.status.as_u16()),
            is_down: false,
        },
    }
}

fn json(reply: &Reply) -> Option<Value> {
    serde_json::from_slice(reply.body.as_ref()?).ok()
}

/// The word at a place.
fn word(json: &Value, at: &str) -> Option<String> {
    match json.pointer(at)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
