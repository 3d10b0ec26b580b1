//! OpenDSR 2.0, and OpenGDPR as it was called (github.com/opengdpr/OpenDSR, specification.md).
//!
//! The standard wants the id of a request to be a UUID of version 4 (2.1), and notices have ids of version 7. The two
//! differ in one digit, the version's own: the variant and all the random bits stay. As every notice's id is of
//! version 7, the digit need not be kept to find the notice again, so a callback says by itself which notice it means,
//! and neither a table nor a longer callback URL is needed.

use std::io::Read;
use std::path::Path;

use ::http::header::{ACCEPT, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderValue, Method};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fill::{Filling, formed, moment};
use super::line::{Line, Showing};
use super::{Ailment, Obstacle, ReceiptError, judge, received, words};
use crate::config::{Ack, Form, IdentityFormat, IdentityShape, OpenDsrRecipient};
use crate::notice::{Answer, Identities, Message, Receipt, Step};
use crate::outbound::Reply;

/// The version of the standard that is spoken.
const VERSION: &str = "2.0";
/// A certificate's file is no longer, in bytes.
const LONGEST: u64 = 64 * 1024;

/// A recipient that speaks OpenDSR.
#[derive(Debug)]
pub(super) struct OpenDsr {
    ack: Ack,
    line: Line,
    showing: Showing,
    config: OpenDsrRecipient,
}

/// The id of the request about a notice.
fn request_id(notice: Uuid) -> Uuid {
    with_version(notice, 4)
}

/// The notice that a request is about.
fn notice_of(request: Uuid) -> Option<Uuid> {
    (request.get_version_num() == 4).then(|| with_version(request, 7))
}

fn with_version(id: Uuid, version: u8) -> Uuid {
    let mut bytes = id.into_bytes();
    bytes[6] = (bytes[6] & 0x0f) | (version << 4);
    Uuid::from_bytes(bytes)
}

impl OpenDsr {
    pub(super) fn new(config: &OpenDsrRecipient, ack: Ack) -> OpenDsr {
        let none = std::collections::BTreeMap::new();
        OpenDsr {
            ack,
            line: Line::new(&config.server),
            showing: Showing::new(config.authorization.as_ref(), &config.headers, &none),
            config: config.clone(),
        }
    }

    pub(super) async fn tell(&self, message: &Message, now: Timestamp) -> Answer {
        let Some(body) = request(&self.config, message) else {
            return Answer::Failed("a request of OpenDSR is about one subject".to_owned());
        };
        let url = format!("{}{}", self.config.url, self.config.path_requests);
        match self.send(Method::POST, &url, Some(body), message, now).await {
            // It knows the request: it has received it before, and we have not heard of that.
            Ok(reply) if reply.status.as_u16() == 409 => received(self.ack, None),
            Ok(reply) => judge::refusal(&reply, now)
                .or_else(|| self.objection(&reply, message))
                .unwrap_or_else(|| received(self.ack, None)),
            Err(obstacle) => obstacle.into(),
        }
    }

    pub(super) async fn ask(&self, message: &Message, now: Timestamp) -> Answer {
        let OpenDsrRecipient { url, path_requests, .. } = &self.config;
        let url = format!("{url}{path_requests}/{}", request_id(message.id));
        let reply = match self.send(Method::GET, &url, None, message, now).await {
            Ok(reply) => reply,
            Err(obstacle) => return obstacle.into(),
        };
        let later = |why: &str| {
            let why = format!("{} {why}", reply.host);
            Answer::Later { after: None, why, is_down: false }
        };
        match judge::refusal(&reply, now) {
            None => {}
            Some(answer @ Answer::Later { .. }) => return answer,
            // It was told, so it is asked again: whether anything came of it is not known.
            Some(_) => return later(&format!("answered {}", reply.status.as_u16())),
        }
        if let Some(answer) = self.objection(&reply, message) {
            return answer;
        }
        let status: Option<Status> =
            reply.body.as_ref().and_then(|body| serde_json::from_slice(body).ok());
        match status.as_ref().and_then(Status::step) {
            Some((None, _)) => Answer::Sent { job: None },
            Some((Some(Step::Accept), _)) => Answer::Accepted,
            Some((Some(Step::Complete), _)) => Answer::Completed,
            Some((Some(_), reason)) => {
                Answer::Denied(words::reason(&reason.unwrap_or_default(), Some(message)))
            }
            None => later("does not say how far it is"),
        }
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<Value>,
        message: &Message,
        now: Timestamp,
    ) -> Result<Reply, Obstacle> {
        let mut headers = self.showing.headers(&Filling::new(message, None), now)?;
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        let body = body.map(|body| {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            body.to_string().into_bytes()
        });
        Ok(self.line.send(method, url, headers, body).await?)
    }

    /// What is not right with a good answer: a signature that is there and wrong, or another request's id.
    fn objection(&self, reply: &Reply, message: &Message) -> Option<Answer> {
        let later = |why: &str| {
            let why = format!("{} {why}", reply.host);
            Some(Answer::Later { after: None, why, is_down: false })
        };
        let body = reply.body.as_deref().unwrap_or_default();
        // TLS has told already who answers; not every dialect signs its answers.
        if let (Some(path), true) =
            (&self.config.certificate, reply.headers.contains_key(self.header("Signature")))
        {
            match self.verify(path, &reply.headers, body) {
                Ok(()) => {}
                Err(ReceiptError::Unverifiable(why)) => return later(&why),
                Err(_) => return later("has signed its answer with another key"),
            }
        }
        let about: Option<About> = serde_json::from_slice(body).ok();
        let id = about.and_then(|about| about.subject_request_id);
        match id {
            Some(id) if id != request_id(message.id) => later("answered about another request"),
            _ => None,
        }
    }

    fn header(&self, name: &str) -> String {
        format!("x-{}-{name}", self.config.header_prefix).to_ascii_lowercase()
    }

    /// Verifies a signature over a body: RSA with SHA-256, by the processor's certificate (4.1, 8.8).
    fn verify(&self, path: &Path, headers: &HeaderMap, body: &[u8]) -> Result<(), ReceiptError> {
        let text = |name| headers.get(self.header(name)).and_then(|value| value.to_str().ok());
        let domain = text("Processor-Domain").ok_or(ReceiptError::Forged)?;
        let signature = text("Signature").ok_or(ReceiptError::Forged)?;
        let signature = STANDARD.decode(signature.trim()).map_err(|_| ReceiptError::Forged)?;
        if self.config.processor_domain.as_ref().is_some_and(|known| known != domain) {
            return Err(ReceiptError::Forged);
        }
        let unusable = |why: &str| {
            ReceiptError::Unverifiable(format!("the certificate in {} {why}", path.display()))
        };
        let pem = read(path).map_err(|error| unusable(&format!("cannot be read: {error}")))?;
        let der = CertificateDer::from_pem_slice(&pem).map_err(|_| unusable("is not PEM"))?;
        let certificate = webpki::EndEntityCert::try_from(&der);
        let certificate = certificate.map_err(|_| unusable("is not one of X.509"))?;
        let name = ServerName::try_from(domain).map_err(|_| ReceiptError::Forged)?;
        certificate.verify_is_valid_for_subject_name(&name).map_err(|_| ReceiptError::Forged)?;
        let algorithm = webpki::ring::RSA_PKCS1_2048_8192_SHA256;
        certificate.verify_signature(algorithm, body, &signature).map_err(|_| ReceiptError::Forged)
    }

    pub(super) fn receipt(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Receipt, ReceiptError> {
        let path = self.config.certificate.as_ref().ok_or(ReceiptError::NotExpected)?;
        self.verify(path, headers, body)?;
        self.read(body).ok_or(ReceiptError::Malformed)
    }

    /// Reads what a callback says, once it is verified.
    fn read(&self, body: &[u8]) -> Option<Receipt> {
        let said: Callback = serde_json::from_slice(body).ok()?;
        let Callback { subject_request_id, status_callback_url, controller_id, status } = said;
        // A callback that is meant for somebody else is no business of ours (8.8).
        let is_ours = |known: &Option<String>, said: &Option<String>| {
            known.is_none() || said.is_none() || known == said
        };
        if !is_ours(&self.config.callback_url, &status_callback_url)
            || !is_ours(&self.config.controller_id, &controller_id)
        {
            return None;
        }
        let notice = notice_of(subject_request_id)?;
        let (step, reason) = status.step()?;
        Some(Receipt {
            // Callbacks have no id of their own: what says the same twice is the same.
            id: format!("{notice}:{}", status.request_status),
            notice,
            step: step.unwrap_or(Step::Accept),
            reason: reason.map(|reason| words::reason(&reason, None)),
        })
    }

    /// Asks what it can do (6), which changes nothing.
    pub(super) async fn test(&self, now: Timestamp) -> Result<String, Ailment> {
        if let Some(path) = &self.config.certificate {
            let wrong = |why: &str| Ailment::Key(format!("{} {why}", path.display()));
            let pem = read(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
            let der = CertificateDer::from_pem_slice(&pem).map_err(|_| wrong("is not PEM"))?;
            webpki::EndEntityCert::try_from(&der).map_err(|_| wrong("is no certificate"))?;
        }
        let nobody = Message {
            id: crate::clock::new_id(),
            rule: "test".parse().map_err(|_| Ailment::Configuration("no name".to_owned()))?,
            created_at: now,
            about: Vec::new(),
        };
        let url = format!("{}/discovery", self.config.url);
        let reply = self.send(Method::GET, &url, None, &nobody, now).await?;
        if let Some(ailment) = judge::ailment(&reply) {
            return Err(ailment);
        }
        let body = reply.body.as_deref().unwrap_or_default();
        let Discovery { api_version, supported_subject_request_types: types } =
            serde_json::from_slice(body).unwrap_or_default();
        if types.is_some_and(|types| !types.iter().any(|kind| kind == "erasure")) {
            let why = "the recipient says that it takes no requests of erasure";
            return Err(Ailment::Configuration(why.to_owned()));
        }
        let version = words::reason(&api_version.unwrap_or_default(), None);
        Ok(format!("{} answered {}; its version: {version}", reply.host, reply.status.as_u16()))
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_end(&mut pem)?;
    Ok(pem)
}

/// A request of erasure (7.1); none where the message is not about one subject.
fn request(config: &OpenDsrRecipient, message: &Message) -> Option<Value> {
    let [about] = message.about.as_slice() else { return None };
    let mut request = json!({
        "regulation": config.regulation,
        "subject_request_id": request_id(message.id),
        "subject_request_type": "erasure",
        "submitted_time": moment(message.created_at),
        "subject_identities": identities(config, about),
        "api_version": VERSION,
    });
    if let Some(url) = &config.callback_url {
        request["status_callback_urls"] = json!([url]);
    }
    Some(request)
}

fn identities(config: &OpenDsrRecipient, about: &Identities) -> Value {
    let known = about.0.iter().map(|(name, value)| {
        let format = config.identity_format.get(name).copied().unwrap_or_default();
        let value = match format {
            IdentityFormat::Raw => value.clone(),
            IdentityFormat::Sha1 => formed(value, Form::Sha1),
            IdentityFormat::Md5 => formed(value, Form::Md5),
            IdentityFormat::Sha256 => formed(value, Form::Sha256),
        };
        (name.clone(), value, format.as_str())
    });
    match config.identities {
        IdentityShape::Array => known
            .map(|(name, value, format)| {
                json!({ "identity_type": name, "identity_value": value, "identity_format": format })
            })
            .collect(),
        IdentityShape::Map => {
            let entry = |(name, value, format)| (name, json!({ "value": value, "encoding": format }));
            Value::Object(known.map(entry).collect())
        }
    }
}

#[derive(Deserialize, Default)]
struct Discovery {
    api_version: Option<String>,
    supported_subject_request_types: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct About {
    subject_request_id: Option<Uuid>,
}

#[derive(Deserialize)]
struct Callback {
    subject_request_id: Uuid,
    status_callback_url: Option<String>,
    controller_id: Option<String>,
    #[serde(flatten)]
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    request_status: String,
    reason: Option<String>,
}

impl Status {
    /// What a status means (8), with those that other systems have added: `None` in it for "received". The outer
    /// `None` is a status that nobody knows.
    fn step(&self) -> Option<(Option<Step>, Option<String>)> {
        let reason = || self.reason.clone();
        Some(match self.request_status.as_str() {
            "pending" => (None, None),
            "in_progress" => (Some(Step::Accept), None),
            "completed" => (Some(Step::Complete), None),
            "cancelled" => (Some(Step::Deny), Some("cancelled".to_owned())),
            // It has been done before. Whatever else is given as a reason, a person has to look at.
            "denied" if self.reason.as_deref() == Some("executed") => (Some(Step::Complete), None),
            "denied" => (Some(Step::Deny), reason()),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_id_of_its_notice_but_for_one_digit() {
        for _ in 0..100 {
            let notice = crate::clock::new_id();
            let request = request_id(notice);
            assert_eq!(
                (request.get_version_num(), request.get_variant()),
                (4, notice.get_variant())
            );
            assert_eq!(notice_of(request), Some(notice));
            assert_eq!(request.to_string(), request.to_string().to_lowercase());
            let differ = |(a, b): &(char, char)| a != b;
            let (a, b) = (notice.to_string(), request.to_string());
            assert_eq!(a.chars().zip(b.chars()).filter(differ).count(), 1);
        }
        assert_eq!(notice_of(crate::clock::new_id()), None);
    }

    #[test]
    fn each_status_has_one_meaning() {
        let step = |status: &str, reason: Option<&str>| {
            let reason = reason.map(str::to_owned);
            Status { request_status: status.to_owned(), reason }.step()
        };
        assert_eq!(step("pending", None), Some((None, None)));
        assert_eq!(step("in_progress", None), Some((Some(Step::Accept), None)));
        assert_eq!(step("completed", None), Some((Some(Step::Complete), None)));
        assert_eq!(step("denied", Some("executed")), Some((Some(Step::Complete), None)));
        for reason in ["no_match", "suspected_fraud", "outside_jurisdiction"] {
            let denied = step("denied", Some(reason));
            assert_eq!(denied, Some((Some(Step::Deny), Some(reason.to_owned()))));
        }
        assert_eq!(step("done", None), None);
    }
}
