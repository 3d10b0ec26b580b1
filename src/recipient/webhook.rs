//! Standard Webhooks (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md).
//!
//! What is signed is `{id}.{timestamp}.{body}`; the signature is a list, one for each key, so that keys can be
//! exchanged while messages are under way. A receipt is such a message, too, signed by the recipient.

use std::fmt;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue, Method};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::fill::{moment, notice_id, subjects};
use super::keep::Kept;
use super::line::Line;
use super::{Ailment, Obstacle, ReceiptError, judge, received, words};
use crate::config::{Ack, ReceiptKey, WebhookRecipient};
use crate::notice::{Answer, Message, Receipt, Step};

/// A receipt may be so old, or so far ahead, in seconds: "Verifying the timestamp".
const TOLERANCE: i64 = 5 * 60;
/// More signatures in a list are not looked at.
const MOST_SIGNATURES: usize = 16;

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

/// What signs messages. Shows nothing of itself.
pub enum SigningKey {
    /// `whsec_…`: HMAC-SHA256.
    Shared(Zeroizing<Vec<u8>>),
    /// `whsk_…`: ed25519.
    Private(Box<ed25519_dalek::SigningKey>),
}

/// What verifies messages. Shows nothing of itself.
pub enum VerifyingKey {
    /// `whsec_…`: HMAC-SHA256.
    Shared(Zeroizing<Vec<u8>>),
    /// `whpk_…`: ed25519.
    Public(Box<ed25519_dalek::VerifyingKey>),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key>")
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key>")
    }
}

impl SigningKey {
    /// Reads a key.
    ///
    /// # Errors
    /// When it is none: with what is wrong, and nothing of the key.
    pub fn parse(text: &str) -> Result<SigningKey, String> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("whsec_") {
            return shared(rest).map(SigningKey::Shared);
        }
        let Some(rest) = text.strip_prefix("whsk_") else {
            return Err("holds no key for webhooks: it begins with `whsec_` or `whsk_`".to_owned());
        };
        let bytes = Zeroizing::new(STANDARD.decode(rest).map_err(|_| not_base64("whsk_"))?);
        // Alone, or with its public half behind it.
        let key = match <&[u8; 64]>::try_from(bytes.as_slice()) {
            Ok(pair) => ed25519_dalek::SigningKey::from_keypair_bytes(pair).ok(),
            Err(_) => bytes.as_slice().try_into().ok().map(ed25519_dalek::SigningKey::from_bytes),
        };
        let key = key.ok_or_else(|| "holds no ed25519 key of 32 bytes after `whsk_`".to_owned())?;
        Ok(SigningKey::Private(Box::new(key)))
    }

    fn sign(&self, content: &[u8]) -> String {
        match self {
            SigningKey::Shared(key) => format!("v1,{}", STANDARD.encode(mac(key, content))),
            SigningKey::Private(key) => {
                format!("v1a,{}", STANDARD.encode(key.sign(content).to_bytes()))
            }
        }
    }
}

impl VerifyingKey {
    /// Reads a key.
    ///
    /// # Errors
    /// As for [`SigningKey::parse`].
    pub fn parse(text: &str) -> Result<VerifyingKey, String> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("whsec_") {
            return shared(rest).map(VerifyingKey::Shared);
        }
        let Some(rest) = text.strip_prefix("whpk_") else {
            return Err("holds nothing that verifies webhooks: it begins with `whsec_` or `whpk_`"
                .to_owned());
        };
        let bytes = STANDARD.decode(rest).map_err(|_| not_base64("whpk_"))?;
        let key = bytes.as_slice().try_into().ok();
        let key = key.and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(bytes).ok());
        let key = key.ok_or_else(|| "holds no ed25519 key after `whpk_`".to_owned())?;
        Ok(VerifyingKey::Public(Box::new(key)))
    }

    /// Whether one signature of the list is right. Each is tried, so that nothing is learnt from how long it takes.
    fn verifies(&self, content: &[u8], signatures: &str) -> bool {
        let mut found = false;
        for signature in signatures.split(' ').take(MOST_SIGNATURES) {
            let Some((version, encoded)) = signature.split_once(',') else { continue };
            let Ok(bytes) = STANDARD.decode(encoded) else { continue };
            found |= match (self, version) {
                (VerifyingKey::Shared(key), "v1") => {
                    bool::from(subtle::ConstantTimeEq::ct_eq(&mac(key, content)[..], &bytes[..]))
                }
                (VerifyingKey::Public(key), "v1a") => Signature::from_slice(&bytes)
                    .is_ok_and(|signature| key.verify_strict(content, &signature).is_ok()),
                _ => false,
            };
        }
        found
    }
}

fn shared(encoded: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| not_base64("whsec_"))?);
    if (24..=64).contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(format!("holds {} bytes after `whsec_`, and a key has 24 to 64", bytes.len()))
    }
}

fn not_base64(prefix: &str) -> String {
    format!("holds something that is not Base64 after `{prefix}`")
}

fn mac(key: &[u8], content: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.update(content);
    mac.finalize().into_bytes().into()
}

fn content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), timestamp.as_bytes(), body].join(&b'.')
}

/// The value of the header `webhook-signature`: a signature by each of the keys.
pub fn sign<'a>(
    keys: impl IntoIterator<Item = &'a SigningKey>,
    id: &str,
    seconds: i64,
    body: &[u8],
) -> String {
    let content = content(id, &seconds.to_string(), body);
    keys.into_iter().map(|key| key.sign(&content)).collect::<Vec<_>>().join(" ")
}

/// The id of a message that is signed by whoever has the key, and young enough.
///
/// # Errors
/// When it is not.
pub fn verify<'a>(
    key: &VerifyingKey,
    headers: &'a HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<&'a str, ReceiptError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(id), Some(timestamp), Some(signatures)) =
        (text(ID), text(TIMESTAMP), text(SIGNATURE))
    else {
        return Err(ReceiptError::Forged);
    };
    // A dot in an id would let its end be taken for a timestamp.
    if id.is_empty() || id.len() > 200 || id.contains('.') {
        return Err(ReceiptError::Forged);
    }
    if !key.verifies(&content(id, timestamp, body), signatures) {
        return Err(ReceiptError::Forged);
    }
    let seconds: i64 = timestamp.parse().map_err(|_| ReceiptError::Stale)?;
    let is_young = seconds
        .checked_sub(now.as_second())
        .is_some_and(|age| (-TOLERANCE..=TOLERANCE).contains(&age));
    if is_young { Ok(id) } else { Err(ReceiptError::Stale) }
}

/// A recipient of Standard Webhooks.
#[derive(Debug)]
pub(super) struct Webhook {
    url: String,
    ack: Ack,
    line: Line,
    keys: Vec<Kept<SigningKey>>,
    receipt: Option<Verifier>,
}

#[derive(Debug)]
enum Verifier {
    Secret(Kept<VerifyingKey>),
    Public(String),
}

impl Webhook {
    pub(super) fn new(config: &WebhookRecipient, ack: Ack) -> Webhook {
        let secrets = std::iter::once(&config.secret).chain(&config.previous_secret);
        Webhook {
            url: config.url.clone(),
            ack,
            line: Line::new(&config.server),
            keys: secrets.map(|secret| Kept::new(secret.clone())).collect(),
            receipt: config.receipt.as_ref().map(|key| match key {
                ReceiptKey::Secret(secret) => Verifier::Secret(Kept::new(secret.clone())),
                ReceiptKey::Public(key) => Verifier::Public(key.clone()),
            }),
        }
    }

    pub(super) async fn tell(&self, message: &Message, now: Timestamp) -> Answer {
        match self.post(&notice_id(message), &deleted(message), now).await {
            Ok(reply) => judge::refusal(&reply, now).unwrap_or_else(|| received(self.ack, None)),
            Err(obstacle) => obstacle.into(),
        }
    }

    pub(super) async fn test(&self, now: Timestamp) -> Result<String, Ailment> {
        // A key that verifies receipts is of no use when it is needed, unless it can be read.
        if let Some(Verifier::Secret(kept)) = &self.receipt {
            kept.get(now, |text| VerifyingKey::parse(text.expose_secret()))?;
        }
        let ping = json!({ "type": "ping", "timestamp": moment(now), "data": {} });
        let reply = self.post(&format!("msg_{}", crate::clock::new_id()), &ping, now).await?;
        match judge::ailment(&reply) {
            Some(ailment) => Err(ailment),
            None => {
                Ok(format!("{} answered {} to a signed ping", reply.host, reply.status.as_u16()))
            }
        }
    }

    async fn post(
        &self,
        id: &str,
        body: &Value,
        now: Timestamp,
    ) -> Result<crate::outbound::Reply, Obstacle> {
        let read =
            |kept: &Kept<SigningKey>| kept.get(now, |text| SigningKey::parse(text.expose_secret()));
        let keys = self.keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let body = body.to_string().into_bytes();
        let signature = sign(keys.iter().map(|key| &**key), id, now.as_second(), &body);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(TIMESTAMP, now.as_second().into());
        for (name, value) in [(ID, id), (SIGNATURE, &signature)] {
            let value = HeaderValue::from_str(value);
            let value = value.map_err(|_| Obstacle::Message("its id is no header".to_owned()))?;
            headers.insert(name, value);
        }
        Ok(self.line.send(Method::POST, &self.url, headers, Some(body)).await?)
    }

    pub(super) fn receipt(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Receipt, ReceiptError> {
        let id = match self.receipt.as_ref().ok_or(ReceiptError::NotExpected)? {
            Verifier::Public(key) => {
                let key = VerifyingKey::parse(key).map_err(ReceiptError::Unverifiable)?;
                verify(&key, headers, body, now)?
            }
            Verifier::Secret(kept) => {
                let key = kept.get(now, |text| VerifyingKey::parse(text.expose_secret()));
                let key = key.map_err(|error| ReceiptError::Unverifiable(error.to_string()))?;
                verify(&key, headers, body, now)?
            }
        };
        receipt(id, body).ok_or(ReceiptError::Malformed)
    }
}

/// The body that tells of a deletion.
pub(super) fn deleted(message: &Message) -> Value {
    json!({
        "type": "data.deleted",
        "timestamp": moment(message.created_at),
        "data": {
            "notice": notice_id(message),
            "rule": message.rule.as_str(),
            "subjects": subjects(message),
        },
    })
}

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    data: SaidOf,
}

#[derive(Deserialize)]
struct SaidOf {
    notice: String,
    reason: Option<String>,
}

/// Reads what a receipt says, once it is verified.
fn receipt(id: &str, body: &[u8]) -> Option<Receipt> {
    let said: Said = serde_json::from_slice(body).ok()?;
    let step = match said.kind.as_str() {
        "deletion.accepted" => Step::Accept,
        "deletion.completed" => Step::Complete,
        "deletion.denied" => Step::Deny,
        "deletion.exempt" => Step::Exempt,
        _ => return None,
    };
    let notice = said.data.notice.strip_prefix("msg_").unwrap_or(&said.data.notice);
    Some(Receipt {
        id: id.to_owned(),
        notice: Uuid::parse_str(notice).ok()?,
        step,
        reason: said.data.reason.map(|reason| words::reason(&reason, None)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID_OF_VECTOR: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

    fn headers(id: &str, seconds: i64, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ID, id.parse().unwrap());
        headers.insert(TIMESTAMP, seconds.into());
        headers.insert(SIGNATURE, signature.parse().unwrap());
        headers
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn the_published_vector_comes_out() {
        let key = SigningKey::parse(SECRET).unwrap();
        let signature = sign([&key], ID_OF_VECTOR, 1_649_367_553, BODY);
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn while_keys_are_exchanged_both_verify() {
        let private = format!("whsk_{}", STANDARD.encode([7; 32]));
        let pair = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let public = format!("whpk_{}", STANDARD.encode(pair.verifying_key().to_bytes()));
        let whole = format!("whsk_{}", STANDARD.encode(pair.to_keypair_bytes()));
        let keys = [SECRET, &private, &whole].map(|text| SigningKey::parse(text).unwrap());
        let signature = sign(&keys, "msg_1", 1_000, BODY);
        assert_eq!(signature.split(' ').count(), 3);
        for key in [SECRET, &public] {
            let key = VerifyingKey::parse(key).unwrap();
            for order in
                [signature.clone(), signature.split(' ').rev().collect::<Vec<_>>().join(" ")]
            {
                let headers = headers("msg_1", 1_000, &order);
                assert_eq!(verify(&key, &headers, BODY, at(1_000)), Ok("msg_1"));
            }
        }
    }

    #[test]
    fn what_was_changed_is_forged_and_what_is_old_is_stale() {
        let key = SigningKey::parse(SECRET).unwrap();
        let verifying = VerifyingKey::parse(SECRET).unwrap();
        let signature = sign([&key], "msg_1", 1_000, BODY);
        let good = headers("msg_1", 1_000, &signature);
        let check =
            |headers: &HeaderMap, body, now| verify(&verifying, headers, body, at(now)).map(drop);
        assert_eq!(check(&good, BODY, 1_300), Ok(()));
        assert_eq!(check(&good, BODY, 700), Ok(()));
        assert_eq!(check(&good, BODY, 1_301), Err(ReceiptError::Stale));
        assert_eq!(check(&good, BODY, 699), Err(ReceiptError::Stale));
        assert_eq!(check(&good, b"{}", 1_000), Err(ReceiptError::Forged));
        for other in [
            headers("msg_2", 1_000, &signature),
            headers("msg_1", 1_001, &signature),
            headers("msg_1", 1_000, &signature.replace("v1,", "v1a,")),
            headers("msg_1", 1_000, &signature.replace("v1,", "")),
            headers("msg_1", 1_000, "v1, v1,!! , ,"),
            headers("msg_1.1000", 1_000, &signature),
            HeaderMap::new(),
        ] {
            assert_eq!(check(&other, BODY, 1_000), Err(ReceiptError::Forged));
        }
        let no_time = sign([&key], "msg_1", i64::MIN, BODY);
        assert_eq!(check(&headers("msg_1", i64::MIN, &no_time), BODY, 0), Err(ReceiptError::Stale));
    }

    #[test]
    fn what_is_no_key_is_said_without_showing_it() {
        for text in [
            "hunter2",
            "whsec_hunter2",
            "whsec_aHVudGVyMg==",
            "whsk_aHVudGVyMg==",
            "whpk_hunter2",
            "",
        ] {
            let error = SigningKey::parse(text).unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains("aHVudGVyMg"), "{error}");
            assert!(VerifyingKey::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_receipt_says_what_became_of_which_notice() {
        let notice = crate::clock::new_id();
        let body = |kind: &str, notice: &str| {
            let data = json!({ "notice": notice, "reason": "anna@example.org consented" });
            json!({ "type": kind, "data": data }).to_string().into_bytes()
        };
        let read = receipt("r1", &body("deletion.denied", &format!("msg_{notice}"))).unwrap();
        assert_eq!((read.notice, read.step, read.id.as_str()), (notice, Step::Deny, "r1"));
        assert_eq!(read.reason.as_deref(), Some("… consented"));
        for (kind, step) in [
            ("deletion.accepted", Step::Accept),
            ("deletion.completed", Step::Complete),
            ("deletion.exempt", Step::Exempt),
        ] {
            assert_eq!(receipt("r", &body(kind, &notice.to_string())).unwrap().step, step);
        }
        assert_eq!(receipt("r", &body("ping", &notice.to_string())), None);
        assert_eq!(receipt("r", &body("deletion.denied", "msg_7")), None);
        assert_eq!(receipt("r", b"[]"), None);
    }
}
