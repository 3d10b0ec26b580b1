//! `protocol = "webhook"`: Standard Webhooks (github.com/standard-webhooks/standard-webhooks).

use super::super::Secret;
use super::super::diagnostic::Problem;
use super::super::reader::{Reader, Wrong};
use super::server::{server, url};
use super::{Ack, Server, secret};

pub(super) const KEYS: [&str; 8] = [
    "url",
    "internal",
    "ca",
    "timeout",
    "secret",
    "previous_secret",
    "receipt_secret",
    "receipt_key",
];

/// A recipient of Standard Webhooks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookRecipient {
    /// Where messages go.
    pub url: String,
    /// How it is reached.
    pub server: Server,
    /// What messages are signed with: `whsec_…` (HMAC-SHA256) or `whsk_…` (ed25519).
    pub secret: Secret,
    /// What they are signed with besides, while a secret is being changed.
    pub previous_secret: Option<Secret>,
    /// What verifies its receipts.
    pub receipt: Option<ReceiptKey>,
}

/// What verifies receipts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReceiptKey {
    /// A shared secret, `whsec_…`.
    Secret(Secret),
    /// A public key, `whpk_…`.
    Public(String),
}

/// Reads the recipient.
pub(super) fn read(reader: &mut Reader<'_>, ack: Ack) -> Option<WebhookRecipient> {
    reader.expect(&[
        ("url", "\"https://analytics.example/webhooks/deletions\""),
        ("secret", "{ credential = \"analytics-webhook\" }"),
    ]);
    let server = server(reader);
    let url = url(reader, "url", "\"https://analytics.example/webhooks\"", server.internal);
    let signing = secret(reader, "secret");
    let previous_secret = secret(reader, "previous_secret");
    let receipt = receipt(reader);
    if ack == Ack::Callback && !reader.has("receipt_secret") && !reader.has("receipt_key") {
        let place = reader.entry("ack").map_or(reader.place(), |entry| entry.place);
        let message = format!("{}: nothing would verify its receipts", reader.what);
        let help = "add `receipt_secret = { credential = … }`, or `receipt_key = \"whpk_…\"`";
        reader.report(Problem::new(place, message).help(help).absence());
    }
    Some(WebhookRecipient {
        url: url?.value.to_owned(),
        server,
        secret: signing?,
        previous_secret,
        receipt,
    })
}

fn receipt(reader: &mut Reader<'_>) -> Option<ReceiptKey> {
    let shared = secret(reader, "receipt_secret");
    if let Some(entry) = reader.entry("receipt_key") {
        // Only a public key may be shown.
        if !matches!(&entry.kind, super::super::Kind::Text(text) if text.starts_with("whpk_")) {
            reader.context.hide_value(entry);
        }
    }
    let public = reader.parsed("receipt_key", "\"whpk_…\"", |text| {
        let key = text.strip_prefix("whpk_").and_then(decode);
        key.filter(|key| key.len() == 32).map(|_| text.to_owned()).ok_or_else(|| {
            Wrong::new("this is not the public key of a recipient").help(
                "write `whpk_` and 32 bytes in Base64; a shared secret goes into `receipt_secret`",
            )
        })
    });
    if let (true, Some(entry)) = (reader.has("receipt_secret"), reader.entry("receipt_key")) {
        let message = format!("{}: two keys would verify its receipts", reader.what);
        reader.report(Problem::new(entry.key, message).help("keep one of them"));
    }
    shared.map(ReceiptKey::Secret).or(public.map(|key| ReceiptKey::Public(key.value)))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}
