//! `protocol = "opendsr"`: OpenDSR (github.com/opengdpr/OpenDSR, specification.md) and its dialects.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::diagnostic::Problem;
use super::super::reader::{Reader, Wrong, quoted};
use super::super::suggest;
use super::super::text::Kind;
use super::server::{Authorization, HeaderValue, authorization, server, url, values};
use super::template::Context;
use super::{Ack, Server, file};

pub(super) const KEYS: [&str; 16] = [
    "url",
    "internal",
    "ca",
    "timeout",
    "bearer",
    "basic",
    "headers",
    "path_requests",
    "header_prefix",
    "identities",
    "identity_format",
    "regulation",
    "controller_id",
    "callback_url",
    "certificate",
    "processor_domain",
];

/// A recipient that speaks OpenDSR.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenDsrRecipient {
    /// Where its interface begins, without a slash at the end.
    pub url: String,
    /// Below it, where requests go; `/requests` by default.
    pub path_requests: String,
    /// How it is reached.
    pub server: Server,
    /// What tells it who asks.
    pub authorization: Option<Authorization>,
    /// Headers besides.
    pub headers: BTreeMap<String, HeaderValue>,
    /// What its headers are called after `X-`: `OpenDSR` by default.
    pub header_prefix: String,
    /// How identities are written.
    pub identities: IdentityShape,
    /// In which format which identity is told; raw by default.
    pub identity_format: BTreeMap<String, IdentityFormat>,
    /// The regulation; `gdpr` by default.
    pub regulation: String,
    /// What it calls us; a callback for somebody else is refused.
    pub controller_id: Option<String>,
    /// Where it sends callbacks: the URL up to `/v1/receipts/NAME`.
    pub callback_url: Option<String>,
    /// The certificate that verifies its callbacks.
    pub certificate: Option<PathBuf>,
    /// The domain that its callbacks must name.
    pub processor_domain: Option<String>,
}

/// How identities are written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum IdentityShape {
    /// As the specification has it: `[{"identity_type": …, "identity_value": …, "identity_format": …}]`.
    #[default]
    Array,
    /// As mParticle has it: `{"email": {"value": …, "encoding": …}}`.
    Map,
}

/// In which format an identity is told.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum IdentityFormat {
    /// As it is.
    #[default]
    Raw,
    /// Its SHA-1 sum in hexadecimal digits.
    Sha1,
    /// Its MD5 sum.
    Md5,
    /// Its SHA-256 sum.
    Sha256,
}

impl IdentityFormat {
    /// All of them.
    const ALL: [IdentityFormat; 4] =
        [IdentityFormat::Raw, IdentityFormat::Sha1, IdentityFormat::Md5, IdentityFormat::Sha256];

    /// The word for it, here and in requests.
    pub fn as_str(self) -> &'static str {
        match self {
            IdentityFormat::Raw => "raw",
            IdentityFormat::Sha1 => "sha1",
            IdentityFormat::Md5 => "md5",
            IdentityFormat::Sha256 => "sha256",
        }
    }
}

/// Reads the recipient.
pub(super) fn read(reader: &mut Reader<'_>, ack: Ack) -> Option<OpenDsrRecipient> {
    reader.expect(&[("url", "\"https://privacy.vendor.example\"")]);
    let server = server(reader);
    let url_of = url(reader, "url", "\"https://privacy.vendor.example\"", server.internal);
    let path_requests = reader.parsed("path_requests", "\"/requests\"", |text| {
        let good = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
        if text.starts_with('/') && text.len() > 1 && !text.ends_with('/') && text.chars().all(good)
        {
            Ok(text.to_owned())
        } else {
            Err(Wrong::new(format!("{} is not the path of requests", quoted(text))))
        }
    });
    let header_prefix = reader.parsed("header_prefix", "\"OpenDSR\"", |text| {
        if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            Ok(text.to_owned())
        } else {
            Err(Wrong::new(format!("{} is not the beginning of a header's name", quoted(text))))
        }
    });
    let shapes = [("array", IdentityShape::Array), ("map", IdentityShape::Map)];
    let meant = [("list", "array"), ("object", "map"), ("table", "map")];
    let identities = reader.choice("identities", &shapes, &meant);
    let regulations = [("gdpr", "gdpr"), ("ccpa", "ccpa")];
    let regulation = reader.choice("regulation", &regulations, &[]);
    let controller_id = reader.word("controller_id", "\"example_controller\"");
    let callback_url = callback_url(reader);
    let certificate = file(reader, "certificate", "\"/etc/expunged/vendor.pem\"");
    let processor_domain = reader.word("processor_domain", "\"vendor.example\"");
    let authorization = authorization(reader);
    let headers = values(reader, "headers", Context::Fixed);
    let identity_format = formats(reader);
    if ack == Ack::Callback {
        callbacks(reader);
    }
    let owned = |text: &str| text.trim_end_matches('/').to_owned();
    Some(OpenDsrRecipient {
        url: owned(url_of?.value),
        path_requests: path_requests.map_or("/requests".to_owned(), |path| path.value),
        server,
        authorization,
        headers,
        header_prefix: header_prefix.map_or("OpenDSR".to_owned(), |prefix| prefix.value),
        identities: identities.map(|shape| shape.value).unwrap_or_default(),
        identity_format,
        regulation: regulation.map_or("gdpr", |regulation| regulation.value).to_owned(),
        controller_id: controller_id.map(|id| id.value.to_owned()),
        callback_url,
        certificate,
        processor_domain: processor_domain.map(|domain| domain.value.to_owned()),
    })
}

/// Where callbacks arrive: seen from the recipient, so whatever proxy stands before it.
fn callback_url(reader: &mut Reader<'_>) -> Option<String> {
    let url = url(reader, "callback_url", "\"https://expunged.example/v1/receipts/vendor\"", true)?;
    Some(url.value.to_owned())
}

/// Reports what is missing for callbacks to be of use.
fn callbacks(reader: &mut Reader<'_>) {
    let place = reader.entry("ack").map_or(reader.place(), |entry| entry.place);
    for (key, message, help) in [
        (
            "certificate",
            "nothing would verify its callbacks",
            "add `certificate = \"/etc/expunged/vendor.pem\"`, the processor's certificate",
        ),
        (
            "callback_url",
            "it is not told where its callbacks go",
            "add `callback_url = \"https://expunged.example/v1/receipts/NAME\"`",
        ),
    ] {
        if !reader.has(key) {
            let message = format!("{}: {message}", reader.what);
            reader.report(Problem::new(place, message).help(help).absence());
        }
    }
}

fn formats(reader: &mut Reader<'_>) -> BTreeMap<String, IdentityFormat> {
    const EXAMPLE: &str = "{ email = \"sha256\" }";
    let what = format!("`identity_format` of {}", reader.what);
    let Some((_, table)) = reader.table("identity_format", EXAMPLE) else {
        return BTreeMap::new();
    };
    let mut formats = BTreeMap::new();
    for (name, entry) in &table.entries {
        let Kind::Text(text) = &entry.kind else {
            reader.wrong_type::<()>(entry, name, "a format", "\"sha256\"");
            continue;
        };
        if let Some(format) = IdentityFormat::ALL.into_iter().find(|format| format.as_str() == text)
        {
            formats.insert(name.clone(), format);
        } else {
            let message = format!("{what}: {} is not a format", quoted(text));
            let words = IdentityFormat::ALL.iter().map(|format| format.as_str());
            let help = format!("it takes {}", suggest::list(words));
            reader.report(Problem::new(entry.place, message).help(help));
        }
    }
    formats
}
