//! OpenDSR, against a fake that follows the specification: it was written here, and its signatures are openssl's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use expunged::notice::{Answer, Step};
use expunged::recipient::ReceiptError;
use http::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::house::{
    Act, Certificate, Request, Server, anna, authority, later, now, openssl, path, recipient,
    secret, shown, signed, status,
};

/// The requests of a processor, by their ids, each with its status and reason.
type Requests = Arc<Mutex<BTreeMap<String, (String, Option<String>)>>>;

/// A processor as the specification has it: it signs what it says.
struct Fake {
    folder: TempDir,
    certificate: Certificate,
    requests: Requests,
    server: Server,
}

/// RSA with SHA-256 over a body, by openssl.
fn sign(folder: &Path, key: &Path, body: &str) -> String {
    let (content, signature) = (folder.join("content"), folder.join("signature"));
    std::fs::write(&content, body).unwrap();
    openssl(&["dgst", "-sha256", "-sign", path(key), "-out", path(&signature), path(&content)]);
    STANDARD.encode(std::fs::read(signature).unwrap())
}

impl Fake {
    async fn new(prefix: &'static str, route: &'static str) -> Fake {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority(folder.path());
        let certificate = signed(folder.path(), "processor", &ca, "DNS:processor.example", "2");
        let requests = Requests::default();
        let (known, at, key) =
            (requests.clone(), folder.path().to_owned(), certificate.key.clone());
        let server = Server::new(move |request| {
            let (code, body) = answer(&known, route, request);
            let body = body.to_string();
            let headers = vec![
                (format!("X-{prefix}-Processor-Domain"), "processor.example".to_owned()),
                (format!("X-{prefix}-Signature"), sign(&at, &key, &body)),
            ];
            Act::Answer(code, headers, body)
        })
        .await;
        Fake { folder, certificate, requests, server }
    }

    fn config(&self, more: &str) -> String {
        let bearer = secret(self.folder.path(), "bearer", "hunter2");
        format!(
            "[recipient.dsr]\nprotocol = \"opendsr\"\nurl = \"{}\"\ninternal = true\nbearer = {bearer}\n\
             certificate = \"{}\"\n{more}",
            self.server.url(""),
            path(&self.certificate.certificate),
        )
    }

    fn set(&self, status: &str, reason: Option<&str>) {
        for request in self.requests.lock().unwrap().values_mut() {
            *request = (status.to_owned(), reason.map(str::to_owned));
        }
    }
}

fn answer(known: &Requests, route: &str, request: &Request) -> (u16, Value) {
    let mut known = known.lock().unwrap();
    if request.header("authorization") != Some("Bearer hunter2") {
        return (401, json!({ "error": { "code": 401 } }));
    }
    match (request.method.as_str(), request.path.strip_prefix(route)) {
        ("GET", None) if request.path == "/discovery" => (
            200,
            json!({ "api_version": "2.0", "supported_subject_request_types": ["erasure"],
                    "supported_identities": [], "processor_certificate": "https://processor.example/cert.pem" }),
        ),
        ("POST", Some("")) => {
            let id = request.json()["subject_request_id"].as_str().unwrap().to_owned();
            if known.contains_key(&id) {
                return (409, json!({ "error": { "code": 409 } }));
            }
            known.insert(id.clone(), ("pending".to_owned(), None));
            (
                201,
                json!({ "controller_id": "us", "subject_request_id": id, "encoded_request": "…" }),
            )
        }
        ("GET", Some(id)) => match known.get(id.trim_start_matches('/')) {
            Some((status, reason)) => (
                200,
                json!({ "controller_id": "us", "subject_request_id": id.trim_start_matches('/'),
                        "request_status": status, "reason": reason }),
            ),
            None => (404, json!({})),
        },
        _ => (404, json!({})),
    }
}

#[tokio::test]
async fn a_request_is_made_and_asked_about_until_it_is_done() {
    let fake = Fake::new("OpenDSR", "/requests").await;
    let more = "identity_format = { email = \"sha256\" }\n";
    let dsr = recipient(fake.folder.path(), &fake.config(more));
    let message = anna();
    assert_eq!(dsr.tell(&message, now()).await, Answer::Sent { job: None });
    let sent = fake.server.last().json();
    let id = sent["subject_request_id"].as_str().unwrap().to_owned();
    assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 4);
    assert_eq!(sent["subject_identities"][0]["identity_format"], "sha256");
    let hash = sent["subject_identities"][0]["identity_value"].as_str().unwrap();
    let printed =
        String::from_utf8(crate::house::run("sha256sum", &["-"], b"anna@example.org")).unwrap();
    assert!(printed.starts_with(hash) && hash.len() == 64);
    assert_eq!(
        (
            &sent["regulation"],
            &sent["subject_request_type"],
            &sent["submitted_time"],
            &sent["api_version"]
        ),
        (&json!("gdpr"), &json!("erasure"), &json!("2026-11-28T12:00:00Z"), &json!("2.0"))
    );
    assert_eq!(
        sent["subject_identities"][1],
        json!({ "identity_type": "user_id", "identity_value": "u-1001", "identity_format": "raw" })
    );
    // Told once more, because the answer was lost: it knows the request.
    assert_eq!(dsr.tell(&message, now()).await, Answer::Sent { job: None });
    for (status, reason, meant) in [
        ("pending", None, Answer::Sent { job: None }),
        ("in_progress", None, Answer::Accepted),
        ("completed", None, Answer::Completed),
        ("cancelled", None, Answer::Denied("cancelled".to_owned())),
        ("denied", Some("no_match"), Answer::Denied("no_match".to_owned())),
        ("denied", Some("executed"), Answer::Completed),
        ("denied", Some("no u-1001 here"), Answer::Denied("no … here".to_owned())),
    ] {
        fake.set(status, reason);
        assert_eq!(dsr.ask(&message, None, now()).await, meant, "{status}");
    }
    fake.set("lost", None);
    assert_eq!(later(&dsr.ask(&message, None, now()).await), (None, false));
    // What it has never heard of is asked about again, and not given up.
    assert_eq!(later(&dsr.ask(&anna(), None, now()).await), (None, false));
    let pong = dsr.test(now()).await.unwrap();
    assert!(pong.says.contains("its version: 2.0"), "{pong:?}");
}

#[tokio::test]
async fn dialects_differ_in_path_headers_and_identities() {
    let fake = Fake::new("OpenGDPR", "/api/gdpr/v1/opendsr_requests").await;
    let more = "path_requests = \"/api/gdpr/v1/opendsr_requests\"\nheader_prefix = \"OpenGDPR\"\n\
                identities = \"map\"\nregulation = \"ccpa\"\n";
    let dsr = recipient(fake.folder.path(), &fake.config(more));
    let message = anna();
    assert_eq!(dsr.tell(&message, now()).await, Answer::Sent { job: None });
    let sent = fake.server.last().json();
    assert_eq!(sent["regulation"], "ccpa");
    let email = json!({ "value": "anna@example.org", "encoding": "raw" });
    assert_eq!(sent["subject_identities"]["email"], email);
    fake.set("completed", None);
    assert_eq!(dsr.ask(&message, None, now()).await, Answer::Completed);
}

#[tokio::test]
async fn an_answer_that_somebody_else_signed_is_not_believed() {
    let fake = Fake::new("OpenDSR", "/requests").await;
    let other = Fake::new("OpenDSR", "/requests").await;
    let config = fake
        .config("")
        .replace(path(&fake.certificate.certificate), path(&other.certificate.certificate));
    let dsr = recipient(fake.folder.path(), &config);
    let answer = dsr.tell(&anna(), now()).await;
    assert_eq!(later(&answer), (None, false));
    assert!(shown(&answer).contains("signed its answer with another key"), "{answer:?}");
}

#[tokio::test]
async fn callbacks_are_verified_before_they_are_read() {
    let fake = Fake::new("OpenDSR", "/requests").await;
    let url = "https://us.example/v1/receipts/dsr";
    let more = format!(
        "ack = \"callback\"\ncallback_url = \"{url}\"\ncontroller_id = \"us\"\nprocessor_domain = \"processor.example\"\n"
    );
    let dsr = recipient(fake.folder.path(), &fake.config(&more));
    let message = anna();
    assert_eq!(dsr.tell(&message, now()).await, Answer::Sent { job: None });
    let sent = fake.server.last().json();
    assert_eq!(sent["status_callback_urls"], json!([url]));
    let id = sent["subject_request_id"].as_str().unwrap();
    let callback = |status: &str| {
        json!({ "controller_id": "us", "expected_completion_time": "2026-12-28T12:00:00Z",
                "status_callback_url": url, "subject_request_id": id, "request_status": status })
        .to_string()
    };
    let headers = |domain: &str, signature: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("X-OpenDSR-Processor-Domain", domain.parse().unwrap());
        headers.insert("X-OpenDSR-Signature", signature.parse().unwrap());
        headers
    };
    let folder = fake.folder.path();
    let by_it = |body: &str| sign(folder, &fake.certificate.key, body);
    for (status, step) in [
        ("pending", Step::Accept),
        ("in_progress", Step::Accept),
        ("completed", Step::Complete),
        ("cancelled", Step::Deny),
    ] {
        let body = callback(status);
        let headers = headers("processor.example", &by_it(&body));
        let read = dsr.receipt(&headers, body.as_bytes(), now()).unwrap();
        assert_eq!((read.notice, read.step), (message.id, step));
        assert_eq!(read.id, format!("{}:{status}", message.id));
    }
    let body = callback("completed");
    let good = by_it(&body);
    // Changed, signed by another, named for another, not signed at all.
    let stranger = signed(folder, "stranger", &authority(folder), "DNS:processor.example", "2");
    let pending = callback("pending");
    for (headers, body) in [
        (headers("processor.example", &good), pending.as_str()),
        (headers("processor.example", &sign(folder, &stranger.key, &body)), body.as_str()),
        (headers("other.example", &good), &body),
        (headers("processor.example", "!!"), &body),
        (HeaderMap::new(), &body),
    ] {
        assert_eq!(dsr.receipt(&headers, body.as_bytes(), now()), Err(ReceiptError::Forged));
    }
    // Its own, and not for us, or not understood.
    for body in [
        callback("lost"),
        callback("completed").replace("us.example", "them.example"),
        callback("completed").replace("\"us\"", "\"them\""),
        callback("completed").replace(id, &message.id.to_string()),
        "[]".to_owned(),
    ] {
        let headers = headers("processor.example", &by_it(&body));
        let read = dsr.receipt(&headers, body.as_bytes(), now());
        assert_eq!(read, Err(ReceiptError::Malformed), "{body}");
    }
}

#[tokio::test]
async fn without_a_certificate_no_callback_is_expected() {
    let server = Server::new(|_| status(200)).await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[recipient.dsr]\nprotocol = \"opendsr\"\nurl = \"{}\"\ninternal = true\n",
        server.url("")
    );
    let dsr = recipient(folder.path(), &text);
    assert_eq!(dsr.receipt(&HeaderMap::new(), b"{}", now()), Err(ReceiptError::NotExpected));
}
