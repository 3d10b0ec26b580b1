//! `protocol = "http"`: a call over HTTP that is described in the configuration.

use std::collections::BTreeMap;

use http::Method;

use super::super::diagnostic::Problem;
use super::super::reader::{Reader, Wrong, quoted};
use super::super::text::{Kind, Table};
use super::server::{Authorization, HeaderValue, authorization, server, url, values};
use super::template::{Body, Context, Template};
use super::{Ack, Server};

pub(super) const KEYS: [&str; 13] = [
    "url", "internal", "ca", "timeout", "bearer", "basic", "headers", "query", "method", "body",
    "success", "job", "poll",
];

/// A recipient with an interface of its own over HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpRecipient {
    /// How it is reached.
    pub server: Server,
    /// What tells it who asks.
    pub authorization: Option<Authorization>,
    /// Headers of each call.
    pub headers: BTreeMap<String, HeaderValue>,
    /// Parameters of each URL's query.
    pub query: BTreeMap<String, HeaderValue>,
    /// The call that tells it.
    pub call: Call,
    /// Which answers mean that it has received it.
    pub success: Success,
    /// Where its own name of the job is found in the answer: a JSON pointer (RFC 6901).
    pub job: Option<String>,
    /// How it is asked how far it is.
    pub poll: Option<Poll>,
}

/// A call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The URL; what is put into it is percent-encoded.
    pub url: Template,
    /// The body, sent as JSON.
    pub body: Option<Body>,
}

impl Call {
    /// The names of identities in it; `None` where it has all there are.
    pub fn identities(&self) -> Option<Vec<&str>> {
        if self.body.as_ref().is_some_and(Body::has_all) {
            return None;
        }
        let of_body = self.body.iter().flat_map(Body::templates);
        let templates = std::iter::once(&self.url).chain(of_body);
        let mut names: Vec<&str> = templates.flat_map(Template::identities).collect();
        names.sort_unstable();
        names.dedup();
        Some(names)
    }
}

/// Which answers are good.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Success {
    /// These statuses; any from 200 to 299 where none are named.
    pub status: Vec<u16>,
    /// And this in the body.
    pub body: Option<Match>,
}

/// Something in a body that is one of a few words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// A JSON pointer (RFC 6901).
    pub at: String,
    /// The words.
    pub is: Vec<String>,
}

/// How a recipient is asked how far it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Poll {
    /// The call.
    pub call: Call,
    /// Where the answer tells it, as a JSON pointer; the status of the answer where there is none.
    pub at: Option<String>,
    /// The words for done.
    pub done: Vec<String>,
    /// The words for refused.
    pub denied: Vec<String>,
    /// The words for that it need not.
    pub exempt: Vec<String>,
    /// The words for failed.
    pub failed: Vec<String>,
}

/// Reads the recipient.
pub(super) fn read(reader: &mut Reader<'_>, ack: Ack, at_once: usize) -> Option<HttpRecipient> {
    reader.expect(&[("url", "\"https://api.vendor.example/deletions\"")]);
    let server = server(reader);
    let (tell, ask) = match at_once {
        1 => (Context::One, Context::AskOne),
        _ => (Context::Many, Context::AskMany),
    };
    let call = call(reader, Method::POST, server.internal, tell);
    let authorization = authorization(reader);
    let headers = values(reader, "headers", Context::Fixed);
    let query = values(reader, "query", Context::Fixed);
    let success = success(reader);
    let job = pointer(reader, "job", "\"/data/id\"");
    let poll = poll(reader, server.internal, ask);
    if let Some(call) = &call
        && call.identities().is_some_and(|names| names.is_empty())
    {
        let message = format!("{}: the call names no subject", reader.what);
        let help =
            "write `{{id:NAME}}` into its `url` or `body`, or `\"{{subjects}}\"` into its body";
        reader.report(Problem::new(reader.place(), message).help(help));
    }
    if ack == Ack::Poll && !reader.has("poll") {
        let place = reader.entry("ack").map_or(reader.place(), |entry| entry.place);
        let message = format!("{}: it is not said how it is asked", reader.what);
        let help =
            "add `poll = { url = \"https://…/{{job}}\", at = \"/status\", done = [\"done\"] }`";
        reader.report(Problem::new(place, message).help(help).absence());
    } else if let (true, Some(entry)) = (ack != Ack::Poll, reader.entry("poll")) {
        let message = format!("{}: it is never asked how far it is", reader.what);
        let help = "add `ack = \"poll\"`, or leave `poll` out";
        reader.report(Problem::new(entry.key, message).help(help));
    }
    if let Some(poll) = &poll
        && poll.call.url.needs_job()
        && !reader.has("job")
    {
        let place = reader.entry("poll").map_or(reader.place(), |entry| entry.key);
        let message = format!("{}: it is not said where `{{{{job}}}}` comes from", reader.what);
        let help = "add `job = \"/data/id\"`: where the answer to the call has it";
        reader.report(Problem::new(place, message).help(help).absence());
    }
    Some(HttpRecipient { server, authorization, headers, query, call: call?, success, job, poll })
}

/// `method`, `url` and `body`.
fn call(
    reader: &mut Reader<'_>,
    default: Method,
    internal: bool,
    context: Context,
) -> Option<Call> {
    let methods = [Method::POST, Method::DELETE, Method::PUT, Method::PATCH, Method::GET];
    let method = reader.parsed("method", "\"POST\"", |text| {
        let found = methods.iter().find(|method| method.as_str() == text);
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> = methods.iter().map(Method::as_str).collect();
            Wrong::new(format!("{} is not a method that can be used", quoted(text)))
                .help(format!("it takes {}", super::super::suggest::list(known.into_iter())))
        })
    });
    let url = url(reader, "url", "\"https://api.vendor.example/deletions\"", internal);
    let url = url.and_then(|url| {
        let template = url.value.parse::<Template>();
        let objection = match &template {
            Ok(template) => template.objection(context),
            Err(error) => Some(error.to_string()),
        };
        match objection {
            None => template.ok(),
            Some(objection) => {
                let message = format!("{}: {objection}", reader.what);
                reader.report(Problem::new(url.place, message).help(context.help()));
                None
            }
        }
    });
    let body = reader.parsed("body", "'{\"ids\": [\"{{id:user_id}}\"]}'", |text| {
        let wrong = |error: String| Wrong::new(error).help(context.help());
        let body: Body = text.parse::<Body>().map_err(|error| wrong(error.to_string()))?;
        let job = body.templates().into_iter().any(Template::needs_job);
        if job && !matches!(context, Context::AskOne | Context::AskMany) {
            return Err(wrong("`{{job}}` is known only when it is asked how far it is".to_owned()));
        }
        if body.names_one() && matches!(context, Context::Many | Context::AskMany) {
            let message = "a value outside of a list, and a message may be about several subjects";
            let help = "write a list with `\"{{id:NAME}}\"` as its one element: it is repeated for each subject; or `at_once = 1`";
            return Err(Wrong::new(message.to_owned()).help(help));
        }
        Ok(body)
    });
    Some(Call {
        method: method.map_or(default, |method| method.value),
        url: url?,
        body: body.map(|body| body.value),
    })
}

/// A JSON pointer (RFC 6901).
fn pointer(reader: &mut Reader<'_>, key: &'static str, example: &str) -> Option<String> {
    let pointer = reader.parsed(key, example, |text| {
        if text.starts_with('/') {
            Ok(text.to_owned())
        } else {
            Err(Wrong::new(format!("{} is not a JSON pointer", quoted(text)))
                .help("write such as `/data/id`: the keys that lead to it, each after a slash"))
        }
    });
    pointer.map(|pointer| pointer.value)
}

fn success(reader: &mut Reader<'_>) -> Success {
    const EXAMPLE: &str = "{ status = [200, 202], at = \"/status\", is = \"ok\" }";
    let what = format!("`success` of {}", reader.what);
    let Some((_, table)) = reader.table("success", EXAMPLE) else { return Success::default() };
    let mut inner = Reader::new(reader.context, what, table).guarded();
    let status = statuses(&mut inner);
    let at = pointer(&mut inner, "at", "\"/status\"");
    let is = inner.words("is", "\"ok\"");
    for (there, missing, example) in [("at", "is", "\"ok\""), ("is", "at", "\"/status\"")] {
        if inner.has(there) {
            inner.expect(&[(missing, example)]);
        }
    }
    inner.finish();
    let words = |is: Vec<super::Located<&str>>| is.iter().map(|is| is.value.to_owned()).collect();
    Success { status, body: at.zip(is).map(|(at, is)| Match { at, is: words(is) }) }
}

fn statuses(reader: &mut Reader<'_>) -> Vec<u16> {
    let Some(entry) = reader.entry("status") else { return Vec::new() };
    let elements = match &entry.kind {
        Kind::List(elements) => elements.as_slice(),
        _ => std::slice::from_ref(entry),
    };
    let mut statuses = Vec::new();
    for element in elements {
        // Others say that it has not been done, whatever the configuration calls them.
        let status = match &element.kind {
            Kind::Integer(number) => u16::try_from(*number).ok(),
            _ => None,
        };
        let is_good = |status: &u16| (200..=299).contains(status) || [404, 409].contains(status);
        if let Some(status) = status.filter(is_good) {
            statuses.push(status);
        } else {
            let message = format!("{}: this status is no success", reader.what);
            let help = "write statuses from 200 to 299; 404 where what is not there counts as deleted, 409 where it is told of twice";
            reader.report(Problem::new(element.place, message).help(help));
        }
    }
    statuses
}

fn poll(reader: &mut Reader<'_>, internal: bool, context: Context) -> Option<Poll> {
    const EXAMPLE: &str = "{ url = \"https://api.vendor.example/deletions/{{job}}\", at = \"/status\", done = [\"done\"] }";
    let what = format!("`poll` of {}", reader.what);
    let (_, table): (_, &Table) = reader.table("poll", EXAMPLE)?;
    let mut inner = Reader::new(reader.context, what, table).guarded();
    inner.expect(&[
        ("url", "\"https://api.vendor.example/deletions/{{job}}\""),
        ("done", "[\"done\"]"),
    ]);
    let call = call(&mut inner, Method::GET, internal, context);
    let at = pointer(&mut inner, "at", "\"/status\"");
    let mut words = |key: &'static str| {
        let words = inner.words(key, "[\"done\"]").unwrap_or_default();
        words.iter().map(|word| word.value.to_owned()).collect::<Vec<_>>()
    };
    let (done, denied) = (words("done"), words("denied"));
    let (exempt, failed) = (words("exempt"), words("failed"));
    inner.finish();
    Some(Poll { call: call?, at, done, denied, exempt, failed })
}
