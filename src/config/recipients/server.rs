//! How a server is reached over HTTP, and what it is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::diagnostic::Problem;
use super::super::reader::{Located, Reader, quoted};
use super::super::text::Kind;
use super::super::{PlainUrl, Secret, mask, urls};
use super::template::{Context, Template};
use super::{file, secret, timeout};

/// How a server is reached over HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Whether it may have an address of one's own network, and do without TLS.
    pub internal: bool,
    /// A file of the authority that its certificate is signed by, where that is not one of the machine's.
    pub ca: Option<PathBuf>,
    /// How long one answer may take; 20 seconds by default.
    pub timeout: Duration,
}

/// What tells a server who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Authorization {
    /// `Authorization: Bearer …`.
    Bearer(Secret),
    /// `Authorization: Basic …`.
    Basic {
        /// The name; in many an API it is a key, or anything.
        user: Secret,
        /// The password, if there is one.
        password: Option<Secret>,
    },
}

/// The value of a header, or of a parameter in the query of a URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderValue {
    /// As it is written, with placeholders.
    Text(Template),
    /// Read from where it is kept.
    Secret(Secret),
}

/// Reads how the server is reached.
pub(super) fn server(reader: &mut Reader<'_>) -> Server {
    Server {
        internal: reader.boolean("internal").is_some_and(|internal| internal.value),
        ca: file(reader, "ca", "\"/etc/expunged/ca.crt\""),
        timeout: timeout(reader),
    }
}

/// Reads the URL of a server: by `https:`, unless the server is one's own.
pub(super) fn url<'a>(
    reader: &mut Reader<'a>,
    key: &'static str,
    example: &str,
    internal: bool,
) -> Option<Located<&'a str>> {
    let url = reader.word(key, example)?;
    let (scheme, rest) = url.value.split_once("://").unwrap_or(("", ""));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let (message, help) = if authority.contains('@') || PlainUrl::new(url.value).is_err() {
        reader.context.hide(url.place);
        (
            "a password or token does not belong into this file",
            "name it with `bearer`, `basic`, `headers` or `query`, each of which takes `{ credential = … }`",
        )
    } else if !matches!(scheme, "https" | "http") || authority.is_empty() {
        ("this is not a URL for HTTP", "write `https://host/path`")
    } else if scheme == "http" && !internal {
        (
            "anyone on the way could read and change what is sent by `http:`",
            "write `https://…`, or `internal = true` for an address of your own network",
        )
    } else if authority.contains("{{") || reqwest::Url::parse(url.value).is_err() {
        (
            "this is not a URL for HTTP",
            "write `https://host/path`, with placeholders in the path alone",
        )
    } else if url.value.contains('#') {
        ("what follows `#` is never sent", "leave it out")
    } else {
        return Some(url);
    };
    let message = format!("{}: {message}", reader.what);
    reader.report(Problem::new(url.place, message).help(help));
    None
}

/// Reads what tells the server who asks.
pub(super) fn authorization(reader: &mut Reader<'_>) -> Option<Authorization> {
    let bearer = secret(reader, "bearer");
    let basic = basic(reader);
    if let (true, Some(entry)) = (reader.has("bearer"), reader.entry("basic")) {
        let message = format!("{}: it can show one authorization only", reader.what);
        reader.report(Problem::new(entry.key, message).help("keep `bearer` or `basic`"));
    }
    bearer.map(Authorization::Bearer).or(basic)
}

fn basic(reader: &mut Reader<'_>) -> Option<Authorization> {
    const EXAMPLE: &str = "{ user = \"key\", password = { credential = \"vendor-key\" } }";
    if let Some(entry) = reader.entry("basic")
        && !matches!(entry.kind, Kind::Table(_))
    {
        reader.context.hide_value(entry);
    }
    let what = format!("`basic` of {}", reader.what);
    let (_, table) = reader.table("basic", EXAMPLE)?;
    let mut inner = Reader::new(reader.context, what, table).guarded();
    inner.expect(&[("user", "{ credential = \"vendor-user\" }")]);
    let user = urls::identifier(&mut inner, "user");
    let password = secret(&mut inner, "password");
    inner.finish();
    Some(Authorization::Basic { user: user?, password })
}

/// Reads headers, or the parameters of a query: texts with placeholders, or secrets by where they are kept.
pub(super) fn values(
    reader: &mut Reader<'_>,
    key: &'static str,
    context: Context,
) -> BTreeMap<String, HeaderValue> {
    const EXAMPLE: &str = "{ X-Api-Key = { credential = \"vendor-key\" } }";
    let what = format!("`{key}` of {}", reader.what);
    let Some((_, table)) = reader.table(key, EXAMPLE) else { return BTreeMap::new() };
    let mut values = BTreeMap::new();
    for (name, entry) in &table.entries {
        let problem = |message: String| Problem::new(entry.place, format!("{what}: {message}"));
        if key == "headers" && !is_header(name) {
            let message = format!("{} cannot be set here", quoted(name));
            let help = "write the name of a header that the call does not have by itself";
            reader.report(Problem::new(entry.key, format!("{what}: {message}")).help(help));
            continue;
        }
        match &entry.kind {
            Kind::Table(inner) => {
                let of = format!("{} of {what}", quoted(name));
                values.extend(
                    urls::reference(reader.context, of, inner)
                        .map(|secret| (name.clone(), HeaderValue::Secret(secret))),
                );
            }
            Kind::Text(text) => match text.parse::<Template>() {
                Ok(template) if is_telling(name) && !template.is_one_placeholder() => {
                    reader.context.hide_value(entry);
                    let message =
                        format!("the value of {} does not belong into this file", quoted(name));
                    let help = format!("write `{name} = {{ credential = \"vendor-key\" }}`");
                    reader.report(problem(message).help(help));
                }
                Ok(template) => match template.objection(context) {
                    None if text.contains(char::is_control) => {
                        let message = format!("{} has control characters", quoted(name));
                        reader.report(problem(message).help("write it on one line"));
                    }
                    None => {
                        values.insert(name.clone(), HeaderValue::Text(template));
                    }
                    Some(objection) => reader.report(problem(objection).help(context.help())),
                },
                Err(error) => reader.report(problem(error.to_string()).help(context.help())),
            },
            _ => {
                reader.wrong_type::<()>(
                    entry,
                    name,
                    "a text, or a table that names a secret",
                    EXAMPLE,
                );
            }
        }
    }
    values
}

/// Whether its value is a secret, as a rule.
fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words = ["auth", "cookie", "key", "signature", "session"];
    mask::is_telling(&name) || words.iter().any(|word| name.contains(word))
}

/// Whether a header may be set by the configuration: those that the transport needs may not.
fn is_header(name: &str) -> bool {
    let own = [
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    ];
    http::HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| !own.contains(&name.as_str()))
}
